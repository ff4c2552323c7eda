"""The parts of the BrainDiff module that are not its panel.

Layers, each of which may use only those below it:

BrainDiffSlicer.py                 panel, parameter node, logic: which nodes, when, what the user is told
BrainDiffSlicerLib                 one class a file; knows nodes, views and the CLI module, nothing of the panel
BrainDiffLogic                     arrays and files; knows nothing of Slicer, and is imported inside functions only

Nothing here imports torch, at any time: the network runs in the process of the CLI module. This file imports
nothing, so that loading the module costs nothing.
"""
