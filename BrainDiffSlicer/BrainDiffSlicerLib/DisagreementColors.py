"""Colors and window for a disagreement map: the brighter, the further predictions lie apart."""

from __future__ import annotations

import numpy as np
import slicer

from BrainDiffSlicerLib.OutputVolume import OutputVolume

SEQUENTIAL = "vtkMRMLColorTableNodeFileInferno.txt"
"""Slicer reads it from a file when it starts."""
FALLBACK = "vtkMRMLColorTableNodeGrey"
"""Where Slicer's files of colors are not read; MRML makes it itself."""


class DisagreementColors:
    """The window reaches from zero to where that of the difference ends, so that both can be compared."""

    @staticmethod
    def show(volume: slicer.vtkMRMLScalarVolumeNode, original: np.ndarray) -> None:
        """Display a node with a disagreement map, in the window of ``original``."""
        from BrainDiffLogic.display import half_window

        colors = SEQUENTIAL if volume.GetScene().GetNodeByID(SEQUENTIAL) else FALLBACK
        highest = half_window(original)
        OutputVolume(volume).displayWith(colors, window=highest, level=highest / 2)
