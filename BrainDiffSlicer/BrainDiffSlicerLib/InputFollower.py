"""The input volume that the panel works on, followed through all changes."""

from __future__ import annotations

from collections.abc import Callable

import slicer
import vtk
from slicer.util import VTKObservationMixin

from BrainDiffSlicerLib.CorrectionOutputs import CorrectionOutputs


class InputFollower(VTKObservationMixin):
    """Observes the input volume of a parameter node.

    onModified  called when the volume changes: its image may come later than the volume
    """

    def __init__(self, onModified: Callable[..., None]) -> None:
        super().__init__()
        self._onModified = onModified
        self._volume: slicer.vtkMRMLScalarVolumeNode | None = None

    def follow(self, parameters) -> None:
        """Observe the input of ``parameters``, or none if None; another input gets outputs of its own.

        The outputs selected in the parameter node are let go where they came from another volume.
        """
        volume = parameters.inputVolume if parameters else None
        if volume is self._volume:
            return
        self.removeObservers()
        self._volume = volume
        if volume is None:
            return
        self.addObserver(volume, vtk.vtkCommand.ModifiedEvent, self._onModified)
        outputs = CorrectionOutputs.find(parameters.correctedVolume)
        if outputs and outputs.input is not volume:
            with slicer.util.NodeModify(parameters):
                parameters.correctedVolume = None
                parameters.differenceVolume = None
                parameters.qualityTable = None
