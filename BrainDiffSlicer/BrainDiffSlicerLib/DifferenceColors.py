"""Colors and window for a signed difference: blue is less, white is unchanged, red is more."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import slicer

from BrainDiffSlicerLib.OutputVolume import OutputVolume

SINGLETON_TAG = "BrainDiffSignedDifference"
OVERLAY_TAG = "BrainDiffSignedDifferenceOverlay"
COLORS = 255
"""Odd, so that one entry is the middle."""
WHITE = 1
"""Entries on each side of the middle that are white too: a view rounds zero to one of them."""
WINDOW_SHARE = 0.2
"""The window reaches from minus to plus this share of the robust maximum of the original."""
PERCENTILE = 99.0


class DifferenceColors:
    """The color table of signed differences, one in a scene, and the window that goes with an original."""

    @staticmethod
    def table(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLColorTableNode:
        """The scene's table, made where it is missing. It is saved with the scene."""

        def white(share: float, more: bool) -> tuple[float, ...]:
            fade = 1.0 - share
            return (1.0, fade, fade, 1.0) if more else (fade, fade, 1.0, 1.0)

        return DifferenceColors._table(scene, SINGLETON_TAG, "BrainDiff signed difference", white)

    @staticmethod
    def darkTable(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLColorTableNode:
        """The same to be added to an image: black, so nothing, where nothing was changed. It is not saved."""

        def dark(share: float, more: bool) -> tuple[float, ...]:
            return (share, 0.2 * share, 0.0, 1.0) if more else (0.0, 0.35 * share, share, 1.0)

        table = DifferenceColors._table(scene, OVERLAY_TAG, "BrainDiff difference overlay", dark)
        table.SetSaveWithScene(False)
        table.SetHideFromEditors(True)
        return table

    @staticmethod
    def _table(
        scene: slicer.vtkMRMLScene, tag: str, name: str, rgba: Callable[[float, bool], tuple[float, ...]]
    ) -> slicer.vtkMRMLColorTableNode:
        table = scene.GetSingletonNode(tag, "vtkMRMLColorTableNode")
        if table is not None and table.GetNumberOfColors() == COLORS:
            return table
        table = slicer.vtkMRMLColorTableNode()
        table.SetSingletonTag(tag)
        table.SetName(name)
        table.SetTypeToUser()
        table.SetNumberOfColors(COLORS)
        middle = COLORS // 2
        for index in range(COLORS):
            share = max(0, abs(index - middle) - WHITE) / (middle - WHITE)
            table.SetColor(index, f"{(index - middle) / middle:+.3f}", *rgba(share, index > middle))
        return scene.AddNode(table)

    @staticmethod
    def halfWindow(original: np.ndarray) -> float:
        """Half the width of the window, in units of ``original`` (an array of any shape).

        It depends on the original only, so that the colors of every strength and model can be compared.
        """
        return WINDOW_SHARE * DifferenceColors.robustMaximum(original)

    @staticmethod
    def robustMaximum(original: np.ndarray) -> float:
        """The 99th percentile of what lies above the mean: of the head, not of the air; 1 for an empty image."""
        values = original[np.isfinite(original)]
        above = values[values > values.mean(dtype=np.float64)] if values.size else values
        if not above.size:
            return float(np.abs(values).max()) if values.any() else 1.0
        place = int((above.size - 1) * PERCENTILE / 100)
        highest = float(np.partition(above, place)[place])
        return highest if highest > 0 else float(np.abs(values).max())

    @staticmethod
    def show(volume: slicer.vtkMRMLScalarVolumeNode, original: np.ndarray) -> None:
        """Display a difference node with these colors, symmetric around zero, in the window of ``original``."""
        table = DifferenceColors.table(volume.GetScene())
        OutputVolume(volume).displayWith(table.GetID(), window=2 * DifferenceColors.halfWindow(original), level=0.0)
