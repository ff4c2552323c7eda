"""The measures of an evaluation: VIF and HFEN equal the published ones, and all of them share one convention."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from BrainDiffLogic.metrics.measures import (
    AGAINST_REFERENCE,
    EVALUATION_CONVENTION,
    HIGHEST_PSNR,
    MEASURES,
    WITHOUT_REFERENCE,
    StillReference,
    high_frequency_error,
    visual_information_fidelity,
)
from BrainDiffLogic.metrics.quality import assess, compare, tissue_masks
from BrainDiffLogic.scan import Scan, head_mask
from BrainDiffLogic.volume import Volume

SEWAR = {
    "blurred and rippled": 0.4928403211657932,
    "ten percent brighter": 1.0327517299610058,
    "blurred": 0.987513556589126,
}
"""vifp(255 * reference, 255 * image) of sewar 0.4.10, whose numbers are those of the authors' vifp_mscale.m."""


@pytest.fixture
def a_picture() -> np.ndarray:
    """(96, 80) smooth pattern by a formula, so that any implementation can be given the same one."""
    row, column = np.mgrid[0:96, 0:80].astype(float)
    return 0.5 + 0.25 * np.sin(row / 5) * np.cos(column / 7) + 0.2 * np.sin(row * column / 400)


def _changed(picture: np.ndarray, how: str) -> np.ndarray:
    row, column = np.mgrid[0:96, 0:80].astype(float)
    blurred = ndimage.gaussian_filter(picture, 1.0)
    rippled = blurred + 0.05 * np.cos(2.1 * row + 1.3 * column)
    return {"blurred and rippled": rippled, "ten percent brighter": 1.1 * picture, "blurred": blurred}[how]


def _vif(image: np.ndarray, reference: np.ndarray) -> float:
    return visual_information_fidelity(image[None], reference[None], np.ones((1, *image.shape), dtype=bool))


@pytest.mark.parametrize("how", SEWAR)
def test_vif_of_a_slice_is_that_of_the_published_implementation(a_picture: np.ndarray, how: str) -> None:
    assert _vif(_changed(a_picture, how), a_picture) == pytest.approx(SEWAR[how], rel=1e-9)


def test_vif_is_1_for_the_reference_and_falls_with_noise_and_with_blur(a_picture: np.ndarray) -> None:
    noise = np.random.default_rng(1).normal(size=a_picture.shape)
    textured = a_picture + 0.02 * noise
    assert _vif(textured, textured) == pytest.approx(1)
    for worse in (
        [textured + sigma * np.roll(noise, 9) for sigma in (0.01, 0.05, 0.2)],
        [ndimage.gaussian_filter(textured, sigma) for sigma in (0.4, 0.8, 1.6)],
    ):
        found = [1.0, *(_vif(image, textured) for image in worse)]
        assert found == sorted(found, reverse=True) and found[-1] < 0.7


def test_vif_counts_windows_in_the_mask_alone_and_sums_over_slices(a_picture: np.ndarray) -> None:
    spoilt = a_picture.copy()
    spoilt[:30] += 0.2 * np.random.default_rng(2).normal(size=(30, 80))
    stack, reference = np.stack([spoilt, a_picture]), np.stack([a_picture, a_picture])
    clean_half = np.zeros(stack.shape, dtype=bool)
    clean_half[0, 70:], clean_half[1] = True, True
    assert visual_information_fidelity(stack, reference, clean_half) == pytest.approx(1)
    whole = np.ones(stack.shape, dtype=bool)
    assert _vif(spoilt, a_picture) < visual_information_fidelity(stack, reference, whole) < 1


def test_vif_of_slices_that_are_too_small_or_flat_is_not_a_number() -> None:
    for shape in ((3, 40, 80), (3, 64, 64)):
        assert np.isnan(visual_information_fidelity(np.ones(shape), np.ones(shape), np.ones(shape, dtype=bool)))


def test_hfen_of_waves_is_the_closed_form() -> None:
    """A Laplacian of Gaussian multiplies a wave of k radians a voxel by k^2 exp(-(1.5 k)^2 / 2)."""
    place = np.arange(240.0)
    wave, error = np.cos(0.3 * place), 0.1 * np.cos(0.9 * place)
    reference = np.broadcast_to(wave, (24, 24, 240))
    image = reference + error
    inside = np.zeros(image.shape, dtype=bool)
    inside[:, :, 10:-10] = True
    gain = [k**2 * np.exp(-((1.5 * k) ** 2) / 2) for k in (0.3, 0.9)]
    norms = [np.linalg.norm(values[10:-10]) for values in (wave, error)]
    expected = gain[1] * norms[1] / (gain[0] * norms[0])
    assert high_frequency_error(image, reference, inside) == pytest.approx(expected, rel=5e-3)


@settings(max_examples=5)
@given(gain=st.floats(0.5, 2), offset=st.floats(-1, 1))
def test_hfen_of_another_gain_is_the_change_of_gain_and_an_offset_does_not_count(gain: float, offset: float) -> None:
    reference = np.random.default_rng(3).normal(size=(20, 20, 20))
    inside = np.ones(reference.shape, dtype=bool)
    found = high_frequency_error(gain * reference + offset, reference, inside)
    assert found == pytest.approx(abs(gain - 1), abs=2e-3)


@pytest.fixture
def a_noisy_pair(a_head: Volume) -> tuple[Volume, Volume]:
    """(moved, still): a head as large as a real one with noise, and with more of it."""
    large = Volume(a_head.array, a_head.affine * np.array([2, 2, 2, 1.0]))
    noise = np.random.default_rng(4).normal(size=large.shape).astype(np.float32)
    return large.with_array(np.abs(large.array + 60 * noise)), large.with_array(np.abs(large.array + 10 * noise))


def test_the_numbers_are_those_of_quality_on_the_masks_of_the_reference(a_noisy_pair: tuple[Volume, Volume]) -> None:
    moved, still = a_noisy_pair
    found = StillReference(still).numbers(moved)
    assert set(AGAINST_REFERENCE + WITHOUT_REFERENCE) == set(MEASURES)
    head, tissues = head_mask(still.array), tissue_masks(still.array, Scan(still).inner)
    compared, assessed = compare(moved, still), assess(moved, head, tissues)
    for name in ("psnr", "ssim", "mre", "tenengrad_ratio", "worst_slice_ssim", "worst_slice"):
        assert found[name] == getattr(compared, name)
    for name in WITHOUT_REFERENCE:
        assert found[name] == pytest.approx(getattr(assessed, name), nan_ok=True)
    assert 0 < found["vif"] < 1 and found["hfen"] > 0


def test_the_reference_itself_is_perfect_and_its_psnr_counts_as_100_db(a_noisy_pair: tuple[Volume, Volume]) -> None:
    still = a_noisy_pair[1]
    found = StillReference(still).numbers(still)
    assert found["psnr"] == HIGHEST_PSNR and found["mre"] == found["hfen"] == 0
    assert found["ssim"] == pytest.approx(1) and found["vif"] == pytest.approx(1)


def test_nothing_is_measured_where_the_reference_has_no_field_of_view(a_noisy_pair: tuple[Volume, Volume]) -> None:
    moved, still = a_noisy_pair
    inside = np.zeros(still.shape, dtype=bool)
    inside[:24] = True
    spoilt = still.array.copy()
    spoilt[36:] = moved.array[36:]
    assert StillReference(still, inside).numbers(still.with_array(spoilt))["mre"] == 0
    assert StillReference(still).numbers(still.with_array(spoilt))["mre"] > 0


def test_what_motion_leaves_in_masked_air_is_not_measured_as_air(a_noisy_pair: tuple[Volume, Volume]) -> None:
    moved, still = a_noisy_pair
    masked = still.with_array(np.where(head_mask(still.array), still.array, 0))
    assert not np.isnan(assess(moved).efc)
    found = StillReference(masked).numbers(moved)
    assert np.isnan(found["efc"]) and np.isnan(found["fber"]) and not np.isnan(found["aes"])


def test_without_tissues_on_the_reference_cjv_is_missing_and_the_rest_is_there(a_head: Volume) -> None:
    one_grey = a_head.with_array(np.where(head_mask(a_head.array), np.float32(500), np.float32(0)))
    found = StillReference(one_grey).numbers(one_grey)
    assert np.isnan(found["cjv"]) and found["aes"] > 0


@pytest.mark.parametrize(
    "word", ["PSNR", "SSIM", "MRE", "VIF", "HFEN", "Tenengrad", "worst slice", *["CJV", "EFC", "FBER", "SNR", "AES"]]
)
def test_the_convention_speaks_of_every_metric(word: str) -> None:
    assert word in EVALUATION_CONVENTION
