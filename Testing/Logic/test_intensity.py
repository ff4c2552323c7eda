"""The robust intensity scale of a volume and the head it is measured in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from BrainDiffLogic.scan import Scan, head_mask, mask_box, robust_scale
from BrainDiffLogic.volume import Volume

AIR_NOISE = 12.0


def ellipsoid(shape: tuple[int, int, int], share: float = 0.8) -> np.ndarray:
    """(I, J, K) bool: the ellipsoid that fills ``share`` of every side."""
    axes = [np.linspace(-1, 1, size) / share for size in shape]
    return sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")) < 1


@pytest.fixture
def a_noisy_head(a_head: Volume) -> np.ndarray:
    """The analytic head with Rician noise in it and in the air."""
    rng = np.random.default_rng(0)
    real, imaginary = rng.normal(0, AIR_NOISE, (2, *a_head.shape))
    return np.hypot(a_head.array + real, imaginary).astype(np.float32)


def overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    """Dice coefficient."""
    return 2 * np.count_nonzero(mask & truth) / (np.count_nonzero(mask) + np.count_nonzero(truth))


def assert_covers(mask: np.ndarray, truth: np.ndarray) -> None:
    """The mask misses nothing and ends within two voxels of the halved grid; half its rim is one voxel thin.

    In voxels, since the share of a rim in the volume (Dice) depends on the size of the head.
    """
    assert np.count_nonzero(truth & ~mask) <= 0.001 * np.count_nonzero(truth)
    beyond = ndimage.distance_transform_edt(~truth)[mask & ~truth]
    assert beyond.size == 0 or (np.median(beyond) <= 1.5 and beyond.max() < 4)


# The scale


def test_air_lies_near_zero_and_bright_tissue_near_one(a_noisy_head: np.ndarray) -> None:
    scaled = robust_scale(a_noisy_head).forward(a_noisy_head)
    assert scaled.dtype == np.float32
    assert abs(np.percentile(scaled, 0.5)) < 1e-3
    white = scaled[a_noisy_head > 790]
    assert 0.85 < np.median(white) < 1.05


def test_a_few_vessel_voxels_do_not_set_the_scale(a_noisy_head: np.ndarray) -> None:
    clean = robust_scale(a_noisy_head)
    vessels = a_noisy_head.copy()
    vessels.flat[np.random.default_rng(1).choice(vessels.size, 60, replace=False)] = 50_000
    bright = robust_scale(vessels)
    assert bright.scale == pytest.approx(clean.scale, rel=0.03)
    assert bright.offset == pytest.approx(clean.offset, abs=0.01 * clean.scale)


def test_nothing_is_clipped(a_noisy_head: np.ndarray) -> None:
    array = a_noisy_head.copy()
    array[24, 28, 26], array[0, 0, 0] = 50_000, -5_000
    scaled = robust_scale(array).forward(array)
    assert scaled.max() > 40 and scaled.min() < -4
    assert len(np.unique(scaled)) > 0.99 * len(np.unique(array))


@settings(max_examples=12)
@given(st.floats(1e-3, 1e3), st.floats(-2, 2))
def test_a_change_of_units_gives_the_same_scaled_image(gain: float, shift: float) -> None:
    array = np.random.default_rng(2).rayleigh(20, (24, 28, 26)) + 700 * ellipsoid((24, 28, 26))
    expected = robust_scale(array).forward(array)
    changed = gain * (array + 500 * shift)
    np.testing.assert_allclose(robust_scale(changed).forward(changed), expected, atol=2e-3)


def test_the_scale_is_the_same_for_the_same_head_in_another_integer_type(a_noisy_head: np.ndarray) -> None:
    whole = np.rint(a_noisy_head)
    for dtype in ("int16", "uint16", "int32", "float64"):
        assert robust_scale(whole.astype(dtype)) == robust_scale(whole)


def test_a_residual_in_scaled_units_moves_the_scaled_image_by_itself(a_noisy_head: np.ndarray) -> None:
    scan = Scan(Volume(a_noisy_head, np.eye(4)))
    residual = np.random.default_rng(3).normal(0, 0.1, scan.slices.shape).astype(np.float32)
    corrected = scan.volume.array - scan.in_its_units(residual)
    expected = scan.scale.forward(scan.volume.array) - scan.uncut(residual)
    np.testing.assert_allclose(scan.scale.forward(corrected), expected, atol=1e-5)


def test_a_given_mask_decides_which_voxels_set_the_scale(a_noisy_head: np.ndarray) -> None:
    mask = np.zeros(a_noisy_head.shape, bool)
    mask[20:28, 24:32, 22:30] = True
    scale = robust_scale(a_noisy_head, mask)
    assert scale.offset + scale.scale == pytest.approx(np.percentile(a_noisy_head[mask], 99))


def test_an_image_with_negative_values_is_scaled_as_any_other(a_noisy_head: np.ndarray) -> None:
    shifted = a_noisy_head - 1000
    assert robust_scale(shifted).scale == pytest.approx(robust_scale(a_noisy_head).scale, rel=1e-3)
    assert robust_scale(shifted).scale > 0
    assert overlap(head_mask(shifted), head_mask(a_noisy_head)) > 0.999


@settings(max_examples=20)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.integers(0, 1000))
def test_tiny_volumes_have_a_finite_positive_scale_and_a_mask(shape: tuple[int, int, int], seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 500, shape).astype(np.int16)
    array.flat[0], array.flat[-1] = 0, 500
    mask, scale = head_mask(array), robust_scale(array)
    assert mask.shape == shape and mask.dtype == bool and mask.any()
    assert np.isfinite(scale.offset) and scale.scale > 0
    assert np.isfinite(scale.forward(array)).all()


def test_one_bright_voxel_in_an_empty_volume_is_scaled_without_failure() -> None:
    array = np.zeros((40, 40, 40), np.float32)
    array[20, 20, 20] = 5
    scale = robust_scale(array)
    assert scale.scale > 0 and head_mask(array).any()


# The head


def test_the_mask_is_the_head_without_holes(a_head: Volume, a_noisy_head: np.ndarray) -> None:
    truth = a_head.array > 0
    for axis in range(3):  # skull and ventricles are dark, and inside
        truth = np.maximum.accumulate(truth, axis) & np.flip(np.maximum.accumulate(np.flip(truth, axis), axis), axis)
    mask = head_mask(a_noisy_head)
    assert mask.dtype == bool and mask.shape == a_head.shape
    assert_covers(mask, truth)
    assert mask[24, 28, 26] and mask[24 + 18, 28, 26]


def test_ghosts_in_the_air_are_not_part_of_the_head() -> None:
    shape = (64, 96, 64)
    head = ellipsoid(shape, 0.55)
    rng = np.random.default_rng(4)
    image = 700.0 * head
    ghosts = 80 * (np.roll(head, 40, axis=1) | np.roll(head, -40, axis=1))
    array = np.hypot(image + ghosts + rng.normal(0, 12, shape), rng.normal(0, 12, shape))
    mask = head_mask(array)
    assert_covers(mask, head)
    assert not mask[:, :8].any() and not mask[:, -8:].any()


def test_a_bright_object_beside_the_head_is_not_part_of_it() -> None:
    shape = (48, 64, 48)
    head = ellipsoid(shape, 0.6)
    array = 600.0 * head + np.random.default_rng(5).rayleigh(10, shape)
    array[2:6, 2:6, 2:6] = 900
    mask = head_mask(array)
    assert not mask[2:6, 2:6, 2:6].any()
    assert_covers(mask, head)


def test_the_mask_of_a_stripped_brain_is_the_brain() -> None:
    shape = (48, 56, 50)
    brain = ellipsoid(shape, 0.85)
    array = np.where(brain, np.random.default_rng(6).normal(600, 80, shape), 0)
    array[20:26, 24:32, 22:28] = 150  # ventricles
    mask = head_mask(array)
    assert_covers(mask, brain)
    assert mask[20:26, 24:32, 22:28].all()
    assert robust_scale(array).offset == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(33, 41, 37), (32, 64, 35), (1, 64, 64), (64, 64, 3)])
def test_the_mask_has_the_shape_of_the_image_for_odd_and_thin_sizes(shape: tuple[int, int, int]) -> None:
    thick = tuple(max(size, 9) for size in shape)
    cut = tuple(slice((big - size) // 2, (big - size) // 2 + size) for big, size in zip(thick, shape, strict=True))
    head = ellipsoid(thick, 0.75)[cut]
    array = 500.0 * head + np.random.default_rng(7).rayleigh(8, shape)
    mask = head_mask(array)
    assert mask.shape == shape
    assert_covers(mask, head)


def test_a_box_is_wider_by_its_margin_as_far_as_there_are_voxels() -> None:
    mask = np.zeros((10, 10), dtype=bool)
    mask[3:5, 8] = True
    assert mask_box(mask) == (slice(3, 5), slice(8, 9))
    assert mask_box(mask, 2) == (slice(1, 7), slice(6, 10))
    assert mask_box(mask, (4, 0)) == (slice(0, 9), slice(8, 9))
    assert mask_box(mask, step=2) == (slice(2, 5), slice(8, 9))
    assert mask_box(np.zeros((3, 4), dtype=bool)) == (slice(0, 3), slice(0, 4))
