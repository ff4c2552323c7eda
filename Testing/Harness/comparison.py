"""What the tests of the compare layout look at and do in its three views."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk

from Harness.pictures import slice_view_pixels

AXES = {"Sagittal": 0, "Coronal": 1, "Axial": 2}
"""The coordinate (R, A, S) along the normal of each orientation."""


def three_volumes_of(original: np.ndarray, change: np.ndarray) -> list:
    """Nodes of original, corrected and difference: voxels of 2 mm, window from 0 to 1000, colors of a difference."""
    from BrainDiffSlicerLib.DifferenceColors import DifferenceColors

    arrays = {"T1": original, "T1 corrected": original + change, "T1 difference": change}
    volumes = [slicer.util.addVolumeFromArray(array, name=name) for name, array in arrays.items()]
    for volume in volumes:
        volume.SetSpacing(2.0, 2.0, 2.0)
        volume.CreateDefaultDisplayNodes()
    for volume in volumes[:2]:
        volume.GetDisplayNode().SetAutoWindowLevel(False)
        volume.GetDisplayNode().SetWindowLevel(1000.0, 500.0)
    DifferenceColors.show(volumes[2], original)
    return volumes


def slice_logics(compare) -> list:
    """Those of the three views, from left to right."""
    return [slicer.app.layoutManager().sliceWidget(name).sliceLogic() for name in compare.VIEW_NAMES]


def slice_nodes(compare) -> list:
    """Those of the three views, from left to right."""
    return [logic.GetSliceNode() for logic in slice_logics(compare)]


def captions(compare) -> list[str]:
    return [view.GetLayoutLabel() for view in slice_nodes(compare)]


def backgrounds(compare) -> list[str]:
    """The names of the volumes in the three views."""
    composites = [logic.GetSliceCompositeNode() for logic in slice_logics(compare)]
    return [slicer.mrmlScene.GetNodeByID(composite.GetBackgroundVolumeID()).GetName() for composite in composites]


def pixel_at(logic, ras: tuple[float, float, float]) -> np.ndarray:
    """Red, green and blue of the pixel that shows this place of the world."""
    ras_to_xy = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Invert(logic.GetSliceNode().GetXYToRAS(), ras_to_xy)
    x, y = ras_to_xy.MultiplyPoint((*ras, 1.0))[:2]
    return slice_view_pixels(logic.GetSliceNode().GetLayoutName())[::-1][round(y), round(x)].astype(int)


def scroll_by_hand(logic, offset: float) -> None:
    """As with the slider of one view, which Slicer passes on to the linked ones."""
    logic.StartSliceNodeInteraction(slicer.vtkMRMLSliceNode.SliceToRASFlag)
    logic.SetSliceOffset(offset)
    logic.EndSliceNodeInteraction()


def go_to_worst_slice(compare) -> float:
    """The coordinate (R, A or S, by the orientation) of the slice that all three views show then."""
    offset = compare.goToWorstSlice()
    assert [view.GetSliceOffset() for view in slice_nodes(compare)] == pytest.approx([offset] * 3)
    view = slice_nodes(compare)[0]
    return view.GetSliceToRAS().GetElement(AXES[view.GetOrientation()], 3)


def scroll_to(compare, coordinate: float) -> None:
    """Scroll to a coordinate by hand; Slicer's sagittal views look to the left: their offset is minus R."""
    view = slice_nodes(compare)[0]
    direction = view.GetSliceToRAS().GetElement(AXES[view.GetOrientation()], 2)
    scroll_by_hand(slice_logics(compare)[0], coordinate * direction)
