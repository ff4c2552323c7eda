"""Volumes, their sagittal slices in every orientation, and padding: each with its exact inverse."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.orientations import aff2axcodes, inv_ornt_aff

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.volume import (
    Storage,
    Volume,
    from_sagittal,
    pad_to_multiple,
    ras_axes,
    sagittal_affine,
    to_sagittal,
    voxels,
)

SHAPE = (4, 5, 6)
ORIENTATIONS = [
    np.column_stack([axes, flips])
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]
STRAIGHT = nib.affines.from_matvec(np.diag([0.8, 1.0, 1.2]), [-60.5, 10.0, 3.25])


def turned(degrees: tuple[float, float, float]) -> np.ndarray:
    """A RAS+ affine rotated about its axes."""
    return nib.affines.from_matvec(nib.eulerangles.euler2mat(*np.deg2rad(degrees))) @ STRAIGHT


def a_volume(orientation: np.ndarray, affine: np.ndarray = STRAIGHT) -> Volume:
    """Voxels numbered in memory, on the grid that ``orientation`` makes of ``affine``."""
    array = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    return Volume(array, affine @ inv_ornt_aff(orientation, SHAPE))


@pytest.mark.parametrize("degrees", [(0, 0, 0), (25, -15, 20)])
@pytest.mark.parametrize("number", range(48))
def test_sagittal_slices_and_back_is_exact_in_every_orientation(
    number: int, degrees: tuple[float, float, float]
) -> None:
    volume = a_volume(ORIENTATIONS[number], turned(degrees))
    stack = to_sagittal(volume)
    assert np.shares_memory(stack, volume.array)
    back = from_sagittal(stack, volume)
    assert back.shape == volume.shape
    np.testing.assert_array_equal(back, volume.array)


@pytest.mark.parametrize("degrees", [(0, 0, 0), (25, -15, 20)])
@pytest.mark.parametrize("number", range(48))
def test_slices_run_to_the_right_rows_to_anterior_and_columns_to_superior(
    number: int, degrees: tuple[float, float, float]
) -> None:
    volume = a_volume(ORIENTATIONS[number], turned(degrees))
    affine = sagittal_affine(volume)
    assert aff2axcodes(affine) == ("R", "A", "S")
    assert (np.diag(affine[:3, :3]) > 0).all()
    assert np.argmax(np.abs(affine[0, :3] / np.linalg.norm(affine[:3, :3], axis=0))) == 0
    stack = to_sagittal(volume)
    for index in itertools.product((0, 1), repeat=3):
        corner = np.array(index) * (np.array(stack.shape) - 1)
        ijk = np.linalg.solve(volume.affine, affine @ [*corner, 1])[:3]
        np.testing.assert_allclose(ijk, np.rint(ijk), atol=1e-9)
        assert stack[tuple(corner)] == volume.array[tuple(np.rint(ijk).astype(int))]


def test_the_slice_axis_follows_a_known_left_right_gradient() -> None:
    for orientation in ORIENTATIONS:
        affine = STRAIGHT @ inv_ornt_aff(orientation, SHAPE)
        ras = np.moveaxis(np.indices(SHAPE), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
        stack = to_sagittal(Volume(ras[..., 0], affine))
        assert (np.diff(stack, axis=0) > 0.1).all()
        np.testing.assert_allclose(np.ptp(stack, axis=(1, 2)), 0, atol=1e-9)


angle = st.floats(-180, 180)


@given(st.tuples(angle, angle, angle), st.integers(0, 47))
def test_any_rotation_gives_each_axis_once_and_an_exact_inverse(
    degrees: tuple[float, float, float], number: int
) -> None:
    volume = a_volume(ORIENTATIONS[number], turned(degrees))
    axes, signs = ras_axes(volume.affine)
    assert sorted(axes) == [0, 1, 2] and set(np.abs(signs)) == {1}
    np.testing.assert_array_equal(from_sagittal(to_sagittal(volume), volume), volume.array)


@pytest.mark.parametrize("shape", [(1, 7, 9), (7, 1, 9), (7, 9, 1), (512, 3, 4), (3, 4, 512), (1, 1, 2)])
def test_thin_and_long_volumes_go_to_slices_and_back(shape: tuple[int, int, int]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    for orientation in ORIENTATIONS[::5]:
        volume = Volume(array, STRAIGHT @ inv_ornt_aff(orientation, shape))
        stack = to_sagittal(volume)
        assert stack.shape[0] == shape[ras_axes(volume.affine)[0][0]]
        np.testing.assert_array_equal(from_sagittal(stack, volume), array)


side = st.integers(1, 40)


@given(st.integers(1, 4), side, side, st.integers(1, 48))
def test_padding_is_undone_exactly_and_reaches_the_next_multiple(
    slices: int, rows: int, columns: int, multiple: int
) -> None:
    stack = np.arange(1, 1 + slices * rows * columns, dtype=np.float32).reshape(slices, rows, columns)
    padded, cut = pad_to_multiple(stack, multiple)
    np.testing.assert_array_equal(padded[cut], stack)
    assert padded.shape[0] == slices and padded.sum(dtype=float) == stack.sum(dtype=float)
    for size, given_size in zip(padded.shape[1:], stack.shape[1:], strict=True):
        assert size % multiple == 0 and given_size <= size < given_size + multiple


def test_spacing_and_shape_are_those_of_the_grid() -> None:
    volume = a_volume(ORIENTATIONS[10], turned((10, 20, 30)))
    assert volume.shape == SHAPE
    np.testing.assert_allclose(sorted(volume.spacing), [0.8, 1.0, 1.2])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("mask_order", ["C", "F"])
def test_voxels_are_those_of_the_mask_in_the_order_of_memory(order: str, mask_order: str) -> None:
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE).copy(order=order)
    mask = (array % 3 == 1).copy(order=mask_order)
    assert np.array_equal(voxels(array), array.ravel(order))
    assert np.array_equal(voxels(array, mask), array.ravel(order)[mask.ravel(order)])


def test_with_array_keeps_the_grid_and_refuses_another_shape() -> None:
    volume = Volume(np.arange(24.0).reshape(2, 3, 4), STRAIGHT, storage=Storage(np.dtype("int16")), source="a.nii")
    changed = volume.with_array(volume.array * 0, kind="difference")
    assert changed.kind == "difference" and changed.storage == volume.storage and changed.source == "a.nii"
    np.testing.assert_array_equal(changed.affine, volume.affine)
    with pytest.raises(InputError, match="a.nii"):
        volume.with_array(np.ones((2, 3, 5)))


GOOD = np.arange(24.0).reshape(2, 3, 4)
NOT_FINITE = np.where(GOOD > 20, np.nan, np.where(GOOD < 2, np.inf, GOOD))
FLAT = np.diag([1.0, 1.0, 0.0, 1.0])
PARALLEL = np.array([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("array", "affine", "kind", "words"),
    [
        (GOOD[0], STRAIGHT, "magnitude", "3D"),
        (GOOD[None], STRAIGHT, "magnitude", "3D"),
        (GOOD[:, :0], STRAIGHT, "magnitude", "empty"),
        (GOOD * 1j, STRAIGHT, "magnitude", "real numbers"),
        (GOOD.astype(str), STRAIGHT, "magnitude", "real numbers"),
        (GOOD * 0 + 3, STRAIGHT, "magnitude", "value 3"),
        (NOT_FINITE, STRAIGHT, "magnitude", "5 voxels"),
        (NOT_FINITE, STRAIGHT, "difference", "5 voxels"),
        (GOOD, FLAT, "magnitude", "inverted"),
        (GOOD, PARALLEL, "magnitude", "inverted"),
        (GOOD, STRAIGHT * np.nan, "magnitude", "finite"),
        (GOOD, STRAIGHT[:3], "magnitude", "4x4"),
        (GOOD, STRAIGHT, "phase", "phase"),
    ],
)
def test_what_is_no_volume_is_refused_in_one_line(array: np.ndarray, affine: np.ndarray, kind: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        Volume(array, affine, kind=kind, source="scan.nii")
    assert "\n" not in str(error.value)
    assert kind == "phase" or "scan.nii" in str(error.value)


@pytest.mark.parametrize("kind", ["difference", "mask"])
def test_a_difference_and_a_mask_may_be_constant(kind: str) -> None:
    assert Volume(GOOD * 0, STRAIGHT, kind=kind).kind == kind


def test_a_small_field_of_view_and_thick_slices_are_no_reason_to_refuse() -> None:
    for spacing in ((0.05, 0.05, 0.05), (0.4, 0.4, 12.0)):
        Volume(GOOD, np.diag([*spacing, 1.0]))
