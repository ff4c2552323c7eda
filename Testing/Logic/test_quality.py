"""Quality metrics: one convention, equal to the reference implementations, and hard to fool by a blur."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.feature import canny
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.metrics.quality import (
    Tissues,
    assess,
    compare,
    contrast_to_noise,
    entropy_focus_criterion,
    joint_variation,
    signal_to_noise,
    ssim_map,
    tissue_masks,
)
from BrainDiffLogic.metrics.sharpness import average_edge_strength, gradient_energy, gradient_entropy
from BrainDiffLogic.scan import Scan, head_mask, inner_head_mask
from BrainDiffLogic.volume import Volume


@pytest.fixture
def a_pair(a_head):
    """A noisy head, and one with more noise and ghosts a quarter of the field of view away along A."""
    return _with_noise(a_head, 5), _with_ghost(_with_noise(a_head, 15))


def _with_noise(volume: Volume, sigma: float) -> Volume:
    noise = np.random.default_rng(int(sigma)).normal(0, sigma, (2, *volume.shape))
    return volume.with_array(np.hypot(volume.array + noise[0], noise[1]).astype(np.float32))


def _with_ghost(volume: Volume, share: float = 0.15) -> Volume:
    quarter = volume.shape[1] // 4
    ghosts = np.roll(volume.array, quarter, axis=1) - np.roll(volume.array, -quarter, axis=1)
    return volume.with_array(np.abs(volume.array + share * ghosts))


def _blurred(volume: Volume, sigma: float = 0.8) -> Volume:
    return volume.with_array(ndimage.gaussian_filter(volume.array, sigma))


def _normalised(clean: Volume, *volumes: Volume) -> list[np.ndarray]:
    low, high = np.percentile(clean.array, [1, 99.9])
    return [((volume.array - low) / (high - low)).astype(np.float32) for volume in volumes]


def _scikit_map(x, y):
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    return structural_similarity(x, y, full=True, **options)


def test_ssim_in_the_head_mask_is_scikit_images_full_map_averaged_there(a_pair):
    clean, moved = a_pair
    full = _scikit_map(*_normalised(clean, moved, clean))[1]
    assert compare(moved, clean).ssim == pytest.approx(full[head_mask(clean.array)].mean(), abs=1e-5)


def test_ssim_without_borders_is_monais(a_pair):
    torch = pytest.importorskip("torch")
    from monai.metrics import SSIMMetric

    x, y = _normalised(a_pair[0], a_pair[1], a_pair[0])
    metric = SSIMMetric(spatial_dims=3, data_range=1.0, win_size=11, kernel_sigma=1.5)
    monai = float(metric(torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None]))
    inner = np.zeros(x.shape, dtype=bool)
    inner[5:-5, 5:-5, 5:-5] = True
    assert compare(*a_pair[::-1], mask=inner).ssim == pytest.approx(monai, abs=1e-5)


def test_psnr_and_mre_are_those_of_the_masked_voxels_on_the_references_scale(a_pair):
    clean, moved = a_pair
    x, y = _normalised(clean, moved, clean)
    inside = head_mask(clean.array)
    found = compare(moved, clean)
    psnr = peak_signal_noise_ratio(y[inside], x[inside], data_range=1.0)
    assert found.psnr == pytest.approx(psnr, abs=1e-4)
    assert found.mre == pytest.approx(np.abs(x - y)[inside].sum() / np.abs(y)[inside].sum(), rel=1e-5)


def test_cropping_to_the_mask_changes_no_value(a_pair):
    clean, moved = a_pair
    inside = np.zeros(clean.shape, dtype=bool)
    inside[0:20, 22:40, 9:30] = True  # touches one border, lies inside along the others
    x, y = _normalised(clean, moved, clean)
    assert compare(moved, clean, inside).ssim == pytest.approx(float(ssim_map(x, y)[inside].mean()), abs=1e-6)
    slope = np.sqrt(sum((ndimage.sobel(y, axis) / 32) ** 2 for axis in range(3)))
    other = np.sqrt(sum((ndimage.sobel(x, axis) / 32) ** 2 for axis in range(3)))
    ratio = (other[inside] ** 2).mean() / (slope[inside] ** 2).mean()
    assert compare(moved, clean, inside).tenengrad_ratio == pytest.approx(ratio, rel=1e-5)


def test_an_image_compared_with_itself_is_perfect(a_head):
    found = compare(a_head, a_head)
    assert found.psnr == float("inf")
    assert (found.ssim, found.mre, found.tenengrad_ratio) == (pytest.approx(1.0), 0.0, 1.0)
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["psnr"] is None


@settings(max_examples=8)
@given(gain=st.floats(0.01, 100), offset=st.floats(-1000, 1000))
def test_a_common_gain_and_offset_change_no_comparison(gain, offset):
    rng = np.random.default_rng(1)
    clean = ndimage.gaussian_filter(rng.normal(size=(20, 24, 22)), 1.5) * 100
    moved = clean + rng.normal(size=clean.shape)
    inside = np.ones(clean.shape, dtype=bool)
    before = compare(moved, clean, inside)
    after = compare(gain * moved + offset * gain, gain * clean + offset * gain, inside)
    for name in ("psnr", "ssim", "mre", "tenengrad_ratio"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-3)


def test_a_head_lying_in_other_axes_gives_the_same_numbers(a_pair):
    clean, moved = a_pair
    turned = [Volume(v.array.transpose(2, 0, 1)[:, ::-1], _turned_affine(v.affine, v.shape[0])) for v in (moved, clean)]
    one, other = compare(moved, clean), compare(*turned)
    assert other.worst_slice == one.worst_slice
    np.testing.assert_allclose(other.slice_ssim, one.slice_ssim, atol=1e-5)
    assert (other.psnr, other.ssim, other.mre) == pytest.approx((one.psnr, one.ssim, one.mre), abs=1e-4)


def _turned_affine(affine: np.ndarray, size: int) -> np.ndarray:
    """Of an array whose axes (I, J, K) became (K, -I, J)."""
    turned = np.eye(4)
    turned[:3, 0], turned[:3, 1], turned[:3, 2] = affine[:3, 2], -affine[:3, 0], affine[:3, 1]
    turned[:3, 3] = affine[:3, 3] + affine[:3, 0] * (size - 1)
    return turned


def test_the_worst_slice_is_the_sagittal_slice_that_was_spoilt(a_head):
    spoilt = a_head.array.copy()
    spoilt[17] += np.random.default_rng(0).normal(0, 200, spoilt[17].shape)
    found = compare(a_head.with_array(spoilt), a_head)
    assert abs(found.worst_slice - 17) <= 1
    assert found.worst_slice_ssim < found.slice_ssim_mean < 1
    assert found.slice_ssim[30] == pytest.approx(1, abs=1e-4)


def test_a_blur_that_raises_ssim_is_called_smoothing(a_pair):
    clean, moved = a_pair
    moved = _with_noise(moved, 100)
    before, after = compare(moved, clean), compare(_blurred(moved, 0.6), clean)
    assert after.ssim > before.ssim
    assert after.psnr > before.psnr
    assert after.tenengrad_ratio < 0.9 * before.tenengrad_ratio


def test_a_stronger_ghost_raises_the_entropy_focus_criterion(a_head):
    scan = _with_noise(a_head, 3)
    found = [assess(_with_ghost(scan, share)).efc for share in (0, 0.05, 0.1, 0.2)]
    assert found == sorted(found)
    assert found[-1] > found[0] + 0.01


def test_the_entropy_focus_criterion_is_one_for_a_flat_image_and_low_for_a_point():
    assert entropy_focus_criterion(np.full((4, 5, 6), 7.0)) == pytest.approx(1)
    point = np.zeros((4, 5, 6))
    point[1, 2, 3] = 9
    assert entropy_focus_criterion(point) == pytest.approx(0)


@pytest.mark.filterwarnings("error")
def test_entropies_hold_where_some_values_are_nothing_beside_others():
    values = 10.0 ** np.random.default_rng(0).uniform(-40, 0, (12, 12, 12))
    share = values / np.sqrt((values**2).sum())
    expected = -(share * np.log(share)).sum() / (np.sqrt(values.size) * np.log(np.sqrt(values.size)))
    assert entropy_focus_criterion(values.astype(np.float32)) == pytest.approx(expected, rel=1e-4)
    part = np.sqrt(values) / np.sqrt(values).sum()
    assert gradient_entropy(values.astype(np.float32)) == pytest.approx(-(part * np.log2(part)).sum(), rel=1e-4)


def test_joint_variation_of_two_gaussian_tissues_is_the_closed_form(a_head):
    rng = np.random.default_rng(2)
    shape = (60, 60, 60)
    labels = np.repeat(np.repeat([[0, 1, 2]], 60, axis=0), 20, axis=1)[:, :, None] * np.ones(shape, dtype=int)
    mean, sd = np.array([100.0, 500.0, 900.0]), np.array([20.0, 30.0, 40.0])
    scan = Volume((mean[labels] + sd[labels] * rng.normal(size=shape)).astype(np.float32), np.eye(4))
    fixed = Tissues(*(labels == label for label in range(3)))
    found = assess(scan, mask=np.ones(shape, dtype=bool), tissues=fixed)
    assert found.cjv == pytest.approx((30 + 40) / 400, rel=0.02)
    assert found.cnr == pytest.approx(400 / 50, rel=0.02)
    assert found.snr_total == pytest.approx((100 / 20 + 500 / 30 + 900 / 40) / 3, rel=0.02)


def _as_large_as_a_real_head(volume: Volume) -> Volume:
    return Volume(volume.array, volume.affine * np.array([2, 2, 2, 1.0]))


def test_tissues_of_the_analytic_head_are_found_in_their_order(a_head):
    scan = _with_noise(_as_large_as_a_real_head(a_head), 15)
    found = tissue_masks(scan.array, Scan(scan).inner)
    medians = [np.median(a_head.array[mask]) for mask in (found.csf, found.gm, found.wm)]
    assert medians == pytest.approx([200, 500, 800], abs=60)
    assert not (found.csf & found.gm).any()
    assert not (found.gm & found.wm).any()


def test_the_inner_head_leaves_out_scalp_and_skull(a_head):
    inner = Scan(_as_large_as_a_real_head(a_head)).inner
    middle = tuple(size // 2 for size in a_head.shape)
    assert inner[middle]
    assert np.mean(a_head.array[inner] < 150) < 0.1  # skull and air, to the mask's 8 mm here
    assert inner.sum() > 5000


def test_the_inner_head_is_one_piece():
    """A fold of skin or a coil's pad that touches the head is thick enough to have an inner part of its own."""
    grid = np.moveaxis(np.indices((140, 120, 120)) * 2.0, 0, -1)
    head = np.linalg.norm(grid - [100, 120, 120], axis=-1) < 88
    beside = np.linalg.norm(grid - [231, 120, 120], axis=-1) < 45
    volume = Volume((head | beside).astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    inner = inner_head_mask(volume, head | beside)
    assert inner.sum() > 5000 and not (inner & beside).any()


def test_of_a_stripped_brain_the_inner_head_is_all_but_the_edge(a_head):
    brain = ndimage.binary_erosion(head_mask(a_head.array), iterations=3)
    stripped = a_head.with_array(np.where(brain, a_head.array, 0))
    inner = Scan(stripped).inner
    assert np.mean(~brain[inner]) < 0.05
    assert inner.sum() > 0.75 * brain.sum()


def test_motion_with_fixed_tissues_raises_cjv_and_a_blur_does_not_hide_it(a_pair):
    clean, moved = a_pair
    tissues = tissue_masks(clean.array, Scan(clean).inner)
    still, ghosted, blurred = (assess(v, tissues=tissues).cjv for v in (clean, moved, _blurred(moved)))
    assert ghosted > 2 * still
    assert blurred > 2 * still


def test_blur_lowers_every_sharpness_measure(a_pair):
    sharp, dull = assess(a_pair[0]), assess(_blurred(a_pair[0], 1.2))
    assert dull.tenengrad < 0.8 * sharp.tenengrad
    assert dull.aes < 0.9 * sharp.aes


def test_without_air_the_air_metrics_are_missing_with_a_reason(a_head):
    stripped = a_head.with_array(np.where(head_mask(a_head.array), _with_noise(a_head, 5).array, 0))
    found = assess(stripped)
    assert np.isnan(found.efc)
    assert np.isnan(found.fber)
    assert "no air background" in found.reasons["efc"]
    report = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert report["efc"] is None
    assert report["cjv"] > 0


def test_too_few_tissue_voxels_are_a_reason_not_a_number(a_head):
    none = np.zeros(a_head.shape, dtype=bool)
    inner = Scan(a_head).inner
    found = assess(a_head, tissues=Tissues(none, inner, inner))
    assert np.isnan(found.snr_csf)
    assert np.isnan(found.snr_total)
    assert "csf" in found.reasons["snr_total"]


def test_different_grids_are_refused_with_the_names_of_both(a_head):
    small = Volume(a_head.array[:-1], a_head.affine, source="small.nii.gz")
    with pytest.raises(InputError, match="small.nii.gz.*different grids: resample"):
        compare(small, a_head)
    shifted = a_head.affine.copy()
    shifted[0, 3] += 0.5
    with pytest.raises(InputError, match="affines differ"):
        compare(Volume(a_head.array, shifted), a_head)


def test_a_mask_that_is_empty_or_of_another_grid_is_refused(a_head):
    with pytest.raises(InputError, match="empty"):
        compare(a_head, a_head, np.zeros(a_head.shape))
    with pytest.raises(InputError, match="does not fit"):
        compare(a_head, a_head, np.ones((3, 3, 3)))


def test_a_volume_of_one_slice_is_compared():
    rng = np.random.default_rng(3)
    clean = ndimage.gaussian_filter(rng.normal(size=(1, 40, 40)), (0, 2, 2))
    moved = clean + 0.05 * rng.normal(size=clean.shape)
    low, high = np.percentile(clean, [1, 99.9])
    flat = [((a[0] - low) / (high - low)).astype(np.float32) for a in (moved, clean)]
    found = compare(moved, clean, np.ones(clean.shape))
    assert found.ssim == pytest.approx(_scikit_map(*flat)[1].mean(), abs=1e-5)


def test_the_tissue_formulas_have_the_limits_of_their_definitions():
    rng = np.random.default_rng(4)
    gm, wm = rng.normal(500, 30, 200_000), rng.normal(900, 40, 200_000)
    assert joint_variation(gm, wm) == pytest.approx(70 / 400, rel=0.02)
    assert signal_to_noise(wm) == pytest.approx(900 / 40, rel=0.02)
    assert contrast_to_noise(gm, wm, air_sd=120) == pytest.approx(400 / 130, rel=0.02)
    assert np.isnan(joint_variation(wm, wm))


@pytest.mark.shared
def test_mriqcs_own_table_obeys_the_formulas_used_here(shared_data):
    """CJV from medians and scaled MADs, SNR and CNR from medians and SDs: recomputed from its summaries."""
    with open(shared_data / "mr_art" / "mriqc_group_T1w.tsv") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == 436
    for row in rows:
        at = {key: float(value) for key, value in row.items() if key != "bids_name" and value}
        gap = abs(at["summary_wm_median"] - at["summary_gm_median"])
        spread = at["summary_wm_mad"] + at["summary_gm_mad"]
        noise = np.sqrt(sum(at[f"summary_{t}_stdv"] ** 2 for t in ("bg", "gm", "wm")))
        assert at["cjv"] == pytest.approx(spread / gap, rel=1e-4)
        assert at["cnr"] == pytest.approx(gap / noise, rel=1e-4)
        assert at["snr_wm"] * at["summary_wm_stdv"] == pytest.approx(at["summary_wm_median"], rel=1e-3)
        assert at["snr_total"] == pytest.approx((at["snr_csf"] + at["snr_gm"] + at["snr_wm"]) / 3, rel=1e-6)


@pytest.mark.parametrize("shape", [(13, 9, 17), (1, 6, 7), (20, 11, 3)])
def test_the_gradient_in_slabs_is_scipys_sobel(shape):
    array = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    whole = sum((ndimage.sobel(array, axis, output=np.float64) / 32) ** 2 for axis in range(3))
    np.testing.assert_allclose(gradient_energy(array), whole, rtol=1e-4, atol=1e-7)
    for found, image in zip(gradient_energy(array, axes=(1, 2)), array, strict=True):
        plane = sum((ndimage.sobel(image, axis, output=np.float64) / 8) ** 2 for axis in range(2))
        np.testing.assert_allclose(found, plane, rtol=1e-4, atol=1e-7)


def test_edges_found_in_the_box_of_each_slices_head_are_those_of_the_whole_slices(a_pair):
    clean, moved = a_pair
    inside = head_mask(clean.array)
    assert not inside.all(axis=0).any() and inside.any(axis=(1, 2)).sum() > 30
    (scaled,) = _normalised(moved, moved)
    edges = np.stack([canny(image, sigma=1.0) for image in scaled]) & inside
    whole = np.sqrt(gradient_energy(scaled, axes=(1, 2))[edges]).mean()
    assert average_edge_strength(scaled, inside) == pytest.approx(whole, rel=1e-4)


def test_another_image_of_a_scan_is_measured_in_the_same_head(a_pair):
    clean, moved = (_as_large_as_a_real_head(volume) for volume in a_pair)
    scan = Scan(clean)
    tissues = tissue_masks(moved.array, scan.inner)
    assert assess(scan.same_head(moved.array)) == assess(moved, scan.head, tissues)
    assert assess(scan) == assess(clean)
