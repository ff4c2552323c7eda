import sys
import unittest
from collections.abc import Callable
from functools import partial

import qt
import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLTableNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from BrainDiffSlicerLib.BatchPanel import BatchPanel
from BrainDiffSlicerLib.BrainDiffSlicerParameterNode import BrainDiffSlicerParameterNode
from BrainDiffSlicerLib.ComparePanel import ComparePanel
from BrainDiffSlicerLib.CorrectionInput import CorrectionInput
from BrainDiffSlicerLib.CorrectionJob import CorrectionJob
from BrainDiffSlicerLib.CorrectionOutputs import CorrectionOutputs
from BrainDiffSlicerLib.CorrectionRun import CorrectionRun
from BrainDiffSlicerLib.Dependencies import Dependencies
from BrainDiffSlicerLib.DeviceSelector import DeviceSelector
from BrainDiffSlicerLib.ExtensionFiles import makeLibraryImportable, resourcePath
from BrainDiffSlicerLib.InputFollower import InputFollower
from BrainDiffSlicerLib.ModelSelector import ModelSelector
from BrainDiffSlicerLib.MotionPanel import MotionPanel
from BrainDiffSlicerLib.ReaderStudyPanel import ReaderStudyPanel
from BrainDiffSlicerLib.RunPanel import RunPanel
from BrainDiffSlicerLib.SampleDataSets import SampleDataSets
from BrainDiffSlicerLib.SelfTest import SelfTest

#
# BrainDiffSlicer
#


class BrainDiffSlicer(ScriptedLoadableModule):
    """Uses ScriptedLoadableModule base class, available at:
    https://github.com/Slicer/Slicer/blob/main/Base/Python/slicer/ScriptedLoadableModule.py
    """

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("BrainDiff")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Filtering")]
        self.parent.dependencies = []
        self.parent.contributors = ["BrainDiff contributors"]
        self.parent.helpText = _("""
Corrects head motion in a T1-weighted volume by physics and a neural network, and shows what it changed: original,
corrected volume and difference side by side. For research use, not for diagnosis. The original stays untouched.
See the <a href="{url}">tutorial</a> for each control, the limits of the models, and timing.
""").format(url="https://github.com/BrainDiff/SlicerBrainDiff#readme")
        self.parent.acknowledgementText = _("""
The models follow three publications; please cite the one whose model you use.
attention-unet: R. Zapata, R. Flores, "BrainDiff: Latent Diffusion for Unsupervised Correction of Motion Artifacts in
Brain MRI Images". mc-net: "Motion Correction for Brain MRI Using Deep Learning and a Novel Hybrid Loss Function",
Algorithms 2024;17(5):215, <a href="https://doi.org/10.3390/a17050215">doi:10.3390/a17050215</a>.
rmman: "Remove MRI Motion Artifact Network".
""")
        self.parent.icon = qt.QIcon(self.resourcePath("Icons/BrainDiffSlicer.png"))

        # Additional initialization step after application startup is complete
        slicer.app.connect("startupCompleted()", registerSampleData)

    resourcePath = staticmethod(resourcePath)  # in a checkout, Resources lies one folder up


#
# Register sample data sets in Sample Data module
#


def registerSampleData():
    """Add data sets to Sample Data module."""
    SampleDataSets.register()


#
# BrainDiffSlicerWidget
#


class BrainDiffSlicerWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Uses ScriptedLoadableModuleWidget base class, available at:
    https://github.com/Slicer/Slicer/blob/main/Base/Python/slicer/ScriptedLoadableModule.py
    """

    def __init__(self, parent=None) -> None:
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)  # needed for parameter node observation
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._inputFollower = InputFollower(self._checkCanApply)

    resourcePath = staticmethod(resourcePath)  # in a checkout, Resources lies one folder up

    def setup(self) -> None:
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.setup(self)

        # Load widget from .ui file (created by Qt Designer).
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/BrainDiffSlicer.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)

        self.logic = BrainDiffSlicerLogic()
        self.modelSelector = ModelSelector(
            self.ui.modelComboBox, self.ui.modelFileEdit, self.ui.modelCardLabel, self.ui.modelCardBrowser,
            self.onModelChanged,
        )  # fmt: skip
        self.ui.modelMoreButton.toggled.connect(self.ui.modelCardBrowser.setVisible)
        self.deviceSelector = DeviceSelector(self.ui.deviceComboBox)
        self.runPanel = RunPanel(self.ui, self.startCorrection, self.onCorrectionFinished)
        self.comparePanel = ComparePanel(self.ui, self.runPanel.say)
        self.motionPanel = MotionPanel(self.ui, self._canEstimate, lambda: self.logic.dependencies().ensure())
        self.batchPanel = BatchPanel(
            self.ui, self.prepareQueue, lambda: self.logic.dependencies().ensure(), self.runPanel.say
        )

        self.studyPanel = ReaderStudyPanel(self.ui)

        # Connections
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)

        # Make sure parameter node is initialized (needed for module reload)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when the application closes and the module widget is destroyed."""
        self.runPanel.abandon()
        self.batchPanel.queue.abandon()
        self.setParameterNode(None)
        self.comparePanel.remove()
        self.studyPanel.remove()
        self.removeObservers()

    def enter(self) -> None:
        """Called each time the user opens this module."""
        # Make sure parameter node exists and observed
        self.modelSelector.refresh()
        self.comparePanel.refresh()
        self.initializeParameterNode()

    def exit(self) -> None:
        """Called each time the user opens a different module. A correction that is running goes on."""
        # Do not react to parameter node changes (GUI will be updated when the user enters into the module)
        self._disconnectParameterNode()

    def onReload(self) -> None:
        """Reload the module with its library, which the base class would leave as it was."""
        self.comparePanel.close()
        for name in [name for name in sys.modules if name.split(".")[0] in ("BrainDiffSlicerLib", "BrainDiffLogic")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller, event) -> None:
        """Called just before the scene is closed."""
        # Parameter node will be reset, do not use it anymore
        self.runPanel.abandon()
        self.batchPanel.queue.clear()
        self.studyPanel.pause()
        self.setParameterNode(None)
        # Volumes loaded later must not be seen under the captions of the comparison
        self.comparePanel.close()
        self.comparePanel.clear()
        self.runPanel.say("")

    def onSceneEndClose(self, caller, event) -> None:
        """Called just after the scene is closed."""
        # If this module is shown while the scene is closed then recreate a new parameter node immediately
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneEndImport(self, caller, event) -> None:
        """Called after a scene was loaded, when the outputs saved with it can be found."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        """Ensure parameter node exists and observed."""
        # Parameter node stores all user choices in parameter values, node selections, etc.
        # so that when the scene is saved and reloaded, these settings are restored.
        self.setParameterNode(self.logic.getParameterNode())

        # Select default input nodes if nothing is selected yet to save a few clicks for the user
        if not self._parameterNode.inputVolume:
            firstVolumeNode = CorrectionInput.first()
            if firstVolumeNode:
                self._parameterNode.inputVolume = firstVolumeNode

    def setParameterNode(self, inputParameterNode: BrainDiffSlicerParameterNode | None) -> None:
        """
        Set and observe parameter node.
        Observation is needed because when the parameter node is changed then the GUI must be updated immediately.
        """
        self._disconnectParameterNode()
        self._parameterNode = inputParameterNode
        if self._parameterNode:
            # Note: in the .ui file, a Qt dynamic property called "SlicerParameterName" is set on each
            # ui element that needs connection.
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParameterNodeModified)
            self._onParameterNodeModified()
        else:
            self._inputFollower.follow(None)
            self.motionPanel.follow(None)
            self.runPanel.setProblem(_("The scene is being closed."))

    def _disconnectParameterNode(self) -> None:
        if self._parameterNodeGuiTag is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self._parameterNodeGuiTag = None
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParameterNodeModified)

    def _onParameterNodeModified(self, caller=None, event=None) -> None:
        if slicer.mrmlScene.IsBatchProcessing():
            return  # while a scene is loaded, nodes are not linked yet; onSceneEndImport comes back
        self.modelSelector.setModel(self._parameterNode.model)
        self._inputFollower.follow(self._parameterNode)
        self.motionPanel.follow(self._parameterNode.inputVolume)
        self.comparePanel.follow(self._parameterNode.correctedVolume, self._parameterNode.strength)
        self._checkCanApply()

    def _checkCanApply(self, caller=None, event=None) -> None:
        parameters = self._parameterNode
        if parameters:
            outputs = (parameters.correctedVolume, parameters.differenceVolume)
            chosen = CorrectionInput(parameters.inputVolume)
            self.runPanel.setProblem(chosen.problem(outputs) or self.modelSelector.problem)
            self.ui.noticeLabel.text = chosen.notice()
            self.ui.noticeLabel.visible = bool(self.ui.noticeLabel.text)

    def _canEstimate(self) -> bool:
        return self.parent.isEntered and not self.runPanel.running and not self.logic.dependencies().missing()

    def onModelChanged(self) -> None:
        """Called when the user chooses a model or a model file."""
        if self._parameterNode:
            self._parameterNode.model = self.modelSelector.model
            self._checkCanApply()

    def startCorrection(self, onStage, **callbacks) -> CorrectionJob:
        """Run processing when user clicks "Correct motion" button, once everything that it needs is installed."""
        self.logic.dependencies().ensure(onStage)
        parameters = self._parameterNode
        if parameters is None:  # events were handled meanwhile
            raise RuntimeError(_("The scene was closed meanwhile: nothing was corrected."))
        self.motionPanel.stop()
        before = CorrectionOutputs.find(parameters.correctedVolume)
        return self.logic.process(
            parameters.inputVolume, parameters.correctedVolume, parameters.differenceVolume, parameters.qualityTable,
            model=self.modelSelector.modelToRun, strength=parameters.strength, device=self.deviceSelector.device,
            force=parameters.force, disagreement=parameters.disagreement,
            disagreementVolume=before.disagreement if before else None, waitForCompletion=False, **callbacks,
        )  # fmt: skip

    def prepareQueue(self) -> Callable[..., CorrectionJob]:
        """What corrects a volume of the queue into new nodes, with the settings that the panel has now."""
        return partial(
            self.logic.process, model=self.modelSelector.modelToRun, strength=self.ui.strengthSlider.value,
            device=self.deviceSelector.device, force=self.ui.forceCheckBox.checked, waitForCompletion=False,
        )  # fmt: skip

    def onCorrectionFinished(self, outputs: CorrectionOutputs) -> None:
        """Select the outputs and compare them with the input."""
        parameters = self._parameterNode
        if parameters.inputVolume is not outputs.input:
            return  # something else was selected from Python meanwhile
        self.comparePanel.setOutputs(outputs)
        with slicer.util.NodeModify(parameters):
            parameters.correctedVolume = outputs.corrected
            parameters.differenceVolume = outputs.difference
            parameters.qualityTable = outputs.table
        self.comparePanel.follow(outputs.corrected, parameters.strength)  # the slider may have moved meanwhile
        if self.parent.isEntered:
            self.comparePanel.show()


#
# BrainDiffSlicerLogic
#


class BrainDiffSlicerLogic(ScriptedLoadableModuleLogic):
    """The correction as other Python code can use it, without the panel.
    Uses ScriptedLoadableModuleLogic base class, available at:
    https://github.com/Slicer/Slicer/blob/main/Base/Python/slicer/ScriptedLoadableModule.py

    Usage::

      outputs = BrainDiffSlicerLogic().process(slicer.util.getNode("T1"))
      outputs.setStrength(0.5)
    """

    def __init__(self) -> None:
        """Called when the logic class is instantiated. Can be used for initializing member variables."""
        ScriptedLoadableModuleLogic.__init__(self)
        makeLibraryImportable()

    def getParameterNode(self):
        """Return the parameters of the module, kept in the scene."""
        return BrainDiffSlicerParameterNode(super().getParameterNode())

    def dependencies(self) -> Dependencies:
        """Return the Python packages that a correction needs."""
        return Dependencies(resourcePath("requirements.txt"))

    def process(
        self,
        inputVolume: vtkMRMLScalarVolumeNode,
        correctedVolume: vtkMRMLScalarVolumeNode | None = None,
        differenceVolume: vtkMRMLScalarVolumeNode | None = None,
        qualityTable: vtkMRMLTableNode | None = None,
        model: str = "motion",
        strength: float = 1.0,
        device: str = "auto",
        force: bool = False,
        waitForCompletion: bool = True,
        onProgress=None,
        onFinished=None,
        onFailed=None,
        onCancelled=None,
        *,
        disagreementVolume: vtkMRMLScalarVolumeNode | None = None,
        disagreement: bool = False,
    ) -> CorrectionOutputs | CorrectionJob:
        """
        Correct head motion in a volume.
        Can be used without GUI widget. The correction runs in a process of its own; outputs appear when it is done.
        :param inputVolume: T1-weighted volume of a head; it is not changed
        :param correctedVolume: gets the corrected image on the grid of the input; made if None
        :param differenceVolume: gets corrected minus input, signed; made if None
        :param qualityTable: gets the image quality before and after; made if None
        :param model: name of a model, or path of a .safetensors file with its .json card beside it
        :param strength: share of the change that is applied, 0 to 1
        :param device: auto, cpu, cuda or mps
        :param force: correct also a volume without visible motion, or far outside what the model was trained on
        :param waitForCompletion: if False then return while the correction runs
        :param onProgress: called with (share done 0 to 1, stage)
        :param onFinished: called with (CorrectionOutputs, report of the run as dict)
        :param onFailed: called with a message of one line
        :param onCancelled: called without arguments
        :param disagreementVolume: gets the disagreement map, if there is to be one; made if None
        :param disagreement: also show how far predictions lie apart, at strength 1; a network then takes three times
            as long
        :return: the CorrectionOutputs, or the CorrectionJob (running, cancel()) if waitForCompletion is False
        :raises ValueError: if the input cannot be corrected into these outputs
        :raises DependencyError: if Python packages are missing; nothing is installed here
        :raises RuntimeError: if waitForCompletion is True and the correction fails or is cancelled
        """
        given = (correctedVolume, differenceVolume, qualityTable, disagreementVolume if disagreement else None)
        CorrectionInput(inputVolume).check(given)
        self.dependencies().check()
        run = CorrectionRun(
            inputVolume, given, strength, onFinished, onFailed, model=model, device=device, force=force,
            disagreement=disagreement, onProgress=onProgress, onCancelled=onCancelled,
        )  # fmt: skip
        run.job.start()
        return run.outputs() if waitForCompletion else run.job


#
# BrainDiffSlicerTest
#


class BrainDiffSlicerTest(SelfTest, ScriptedLoadableModuleTest):
    """
    Corrects a small head that is made in code: nothing is downloaded.
    Uses ScriptedLoadableModuleTest base class, available at:
    https://github.com/Slicer/Slicer/blob/main/Base/Python/slicer/ScriptedLoadableModule.py
    """

    def setUp(self):
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()
        self.logic = BrainDiffSlicerLogic()

    def runTest(self):
        """Run all tests."""
        for test in (self.test_outputs, self.test_correction):
            self.setUp()
            try:
                test()
            except unittest.SkipTest as reason:  # the button of the developer section would show it as an error
                self.delayDisplay(_("Left out: {reason}").format(reason=reason))
