"""Colors and window for a signed difference: blue is less, white is unchanged, red is more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import slicer

from BrainDiffSlicerLib.OutputVolume import OutputVolume

SINGLETON_TAG = "BrainDiffSignedDifference"
OVERLAY_TAG = "BrainDiffSignedDifferenceOverlay"


class DifferenceColors:
    """The color table of signed differences, one in a scene, and the window that goes with an original."""

    @staticmethod
    def table(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLColorTableNode:
        """The scene's table, made where it is missing. It is saved with the scene."""
        from BrainDiffLogic.display import difference_colors

        colors = [(*color, 1.0) for color in difference_colors()]
        return DifferenceColors._table(scene, SINGLETON_TAG, "BrainDiff signed difference", colors)

    @staticmethod
    def darkTable(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLColorTableNode:
        """The same to be added to an image: black, so nothing, where nothing was changed. It is not saved."""
        from BrainDiffLogic.display import difference_steps

        colors = [
            (share, 0.2 * share, 0.0, 1.0) if share > 0 else (0.0, -0.35 * share, -share, 1.0)
            for share in difference_steps().tolist()
        ]
        table = DifferenceColors._table(scene, OVERLAY_TAG, "BrainDiff difference overlay", colors)
        table.SetSaveWithScene(False)
        table.SetHideFromEditors(True)
        return table

    @staticmethod
    def _table(
        scene: slicer.vtkMRMLScene, tag: str, name: str, colors: Sequence[tuple[float, ...]]
    ) -> slicer.vtkMRMLColorTableNode:
        table = scene.GetSingletonNode(tag, "vtkMRMLColorTableNode")
        if table is not None and table.GetNumberOfColors() == len(colors):
            return table
        table = slicer.vtkMRMLColorTableNode()
        table.SetSingletonTag(tag)
        table.SetName(name)
        table.SetTypeToUser()
        table.SetNumberOfColors(len(colors))
        middle = len(colors) // 2
        for index, rgba in enumerate(colors):
            table.SetColor(index, f"{(index - middle) / middle:+.3f}", *rgba)
        return scene.AddNode(table)

    @staticmethod
    def show(volume: slicer.vtkMRMLScalarVolumeNode, original: np.ndarray) -> None:
        """Display a difference node with these colors, symmetric around zero, in the window of ``original``."""
        from BrainDiffLogic.display import half_window

        table = DifferenceColors.table(volume.GetScene())
        OutputVolume(volume).displayWith(table.GetID(), window=2 * half_window(original), level=0.0)
