"""The parts of the BrainDiff module, one class a file.

Layers, each of which may use only those below it:

BrainDiffSlicer.py                 module, parameter node, logic, and the panel put together: which nodes, and when
RunPanel, ComparePanel, BatchPanel, groups of the panel: what the user sees, chooses and is told. They get the widgets
MotionPanel, ReaderStudyPanel,     by name and know neither the parameter node nor the logic
ModelSelector, DeviceSelector
the other files here               nodes, views, packages and the CLI module; nothing of the panel. InputFollower reads
                                   the parameter node; SelfTest is used by the module's test alone
BrainDiffLogic                     arrays and files; knows nothing of Slicer, and is imported inside functions only

Nothing here imports torch, at any time: the network runs in the process of the CLI module. This file imports
nothing, so that loading the module costs nothing.
"""
