"""Where "Go to worst slice" goes, in the views of a real MRML scene."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk

from Harness.comparison import (
    AXES,
    go_to_worst_slice,
    pixel_at,
    scroll_by_hand,
    scroll_to,
    slice_logics,
    slice_nodes,
    three_volumes_of,
)

SHAPE = (24, 28, 26)  # K, J, I


@pytest.fixture
def a_compare_layout(a_slicer):
    from BrainDiffSlicerLib.CompareLayout import CompareLayout

    compare = CompareLayout()
    yield compare
    compare.restore()


def _head_with_one_bad_row(orientation: str) -> np.ndarray:
    change = np.zeros(SHAPE, dtype=np.float32)
    place = {
        "Sagittal": np.s_[:, 10:20, 6],
        "Coronal": np.s_[:, 20, 5:15],
        "Axial": np.s_[11, 10:20, :],
    }[orientation]
    change[2, 2, 2] = 90.0  # the largest value is not in the worst slice
    change[place] = -30.0
    return change


@pytest.mark.parametrize(("orientation", "index"), [("Sagittal", 6), ("Coronal", 20), ("Axial", 11)])
def test_worst_slice_is_found_in_each_orientation(a_compare_layout, a_slicer, orientation, index):
    volumes = three_volumes_of(np.full(SHAPE, 500.0, dtype=np.float32), _head_with_one_bad_row(orientation))
    for volume in volumes:
        volume.SetOrigin(-20.0, 7.0, 3.0)
    a_compare_layout.show(*volumes, orientation=orientation)
    origin = {"Sagittal": -20.0, "Coronal": 7.0, "Axial": 3.0}[orientation]
    assert go_to_worst_slice(a_compare_layout) == pytest.approx(origin + 2.0 * index)


@pytest.mark.parametrize("orientation", ["Sagittal", "Coronal", "Axial"])
@pytest.mark.parametrize("axes", ["LPS", "PSR", "SAL", "AIR"])
def test_worst_slice_is_found_whatever_the_voxel_axes_are(a_compare_layout, a_slicer, orientation, axes):
    directions = {"R": (1, 0, 0), "A": (0, 1, 0), "S": (0, 0, 1), "L": (-1, 0, 0), "P": (0, -1, 0), "I": (0, 0, -1)}
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = np.array([directions[axis] for axis in axes]).T * [1.0, 1.5, 3.0]
    ijk_to_ras[:3, 3] = 40.0, -30.0, 20.0
    change = np.zeros(SHAPE, dtype=np.float32)
    change[7, 9, 11] = 5.0  # K, J, I
    volumes = three_volumes_of(np.full(SHAPE, 500.0, dtype=np.float32), change)
    for volume in volumes:
        volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijk_to_ras))
    a_compare_layout.show(*volumes, orientation=orientation)
    ras = (ijk_to_ras @ (11, 9, 7, 1))[:3]
    expected = ras[AXES[orientation]]
    assert go_to_worst_slice(a_compare_layout) == pytest.approx(expected)
    assert pixel_at(slice_logics(a_compare_layout)[2], tuple(ras))[2] < 255  # the changed voxel is in the view


def _turned(degrees: float, axis: tuple[float, float, float], origin: tuple[float, float, float]) -> vtk.vtkMatrix4x4:
    transform = vtk.vtkTransform()
    transform.Translate(origin)
    transform.RotateWXYZ(degrees, *axis)
    return transform.GetMatrix()


@pytest.mark.parametrize("orientation", ["Sagittal", "Coronal", "Axial"])
def test_worst_slice_of_an_oblique_volume_goes_through_the_change(a_compare_layout, a_slicer, orientation):
    change = np.zeros(SHAPE, dtype=np.float32)
    change[10, 15, 5] = 50.0
    volumes = three_volumes_of(np.full(SHAPE, 500.0, dtype=np.float32), change)
    ijk_to_ras = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Multiply4x4(
        _turned(17.0, (1.0, -2.0, 0.5), (12.0, -8.0, 30.0)),
        slicer.util.vtkMatrixFromArray(np.diag([1.2, 1.2, 2.0, 1.0])),
        ijk_to_ras,
    )
    for volume in volumes:
        volume.SetIJKToRASMatrix(ijk_to_ras)
    a_compare_layout.show(*volumes, orientation=orientation)
    ras = ijk_to_ras.MultiplyPoint((5, 15, 10, 1))[:3]
    spacing = {"Sagittal": 1.2, "Coronal": 1.2, "Axial": 2.0}[orientation]
    expected = ras[AXES[orientation]]
    assert go_to_worst_slice(a_compare_layout) == pytest.approx(expected, abs=spacing / 2)


def test_worst_slice_of_a_volume_under_a_transform_is_in_the_world(a_compare_layout, a_slicer):
    volumes = three_volumes_of(np.full(SHAPE, 500.0, dtype=np.float32), _head_with_one_bad_row("Sagittal"))
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(_turned(90.0, (0.0, 0.0, 1.0), (100.0, 0.0, 0.0)))  # R becomes A
    for volume in volumes:
        volume.SetAndObserveTransformNodeID(transform.GetID())
    a_compare_layout.show(*volumes, orientation="Coronal")
    assert go_to_worst_slice(a_compare_layout) == pytest.approx(12.0)  # A = R before, and that is 2 mm x I 6


def test_worst_slice_follows_a_transform_that_is_not_linear(a_compare_layout, a_slicer):
    volumes = three_volumes_of(np.full(SHAPE, 500.0, dtype=np.float32), _head_with_one_bad_row("Sagittal"))
    points = np.array([(r, a, s) for r in (-50, 100) for a in (-50, 100) for s in (-50, 100)], dtype=float)
    spline, source, target = vtk.vtkThinPlateSplineTransform(), vtk.vtkPoints(), vtk.vtkPoints()
    for point in points:
        source.InsertNextPoint(point)
        target.InsertNextPoint(point + (30.0, 0.0, 0.0))
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    spline.SetBasisToR()
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    transform.SetAndObserveTransformToParent(spline)
    for volume in volumes:
        volume.SetAndObserveTransformNodeID(transform.GetID())
    a_compare_layout.show(*volumes)
    assert go_to_worst_slice(a_compare_layout) == pytest.approx(30.0 + 12.0, abs=0.1)


def test_without_any_change_the_views_stay_where_they_are(a_compare_layout, a_slicer):
    volumes = three_volumes_of(np.full(SHAPE, 500.0, dtype=np.float32), np.zeros(SHAPE, dtype=np.float32))
    a_compare_layout.show(*volumes)
    scroll_by_hand(slice_logics(a_compare_layout)[0], 14.0)
    assert a_compare_layout.goToWorstSlice() is None
    assert [view.GetSliceOffset() for view in slice_nodes(a_compare_layout)] == pytest.approx([14.0] * 3)


@pytest.mark.parametrize(("start", "index"), [(4.0, 4), (46.0, 20)])
def test_of_equally_bad_slices_the_nearest_is_shown(a_compare_layout, a_slicer, start, index):
    change = np.zeros(SHAPE, dtype=np.float32)
    change[:, :, (4, 20)] = 10.0
    a_compare_layout.show(*three_volumes_of(np.full(SHAPE, 500.0, dtype=np.float32), change))
    scroll_to(a_compare_layout, start)
    assert go_to_worst_slice(a_compare_layout) == pytest.approx(2.0 * index)
    assert go_to_worst_slice(a_compare_layout) == pytest.approx(2.0 * index)
