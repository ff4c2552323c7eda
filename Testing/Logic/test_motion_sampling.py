"""Partial Fourier and parallel imaging in the simulation, checked against what Fourier's theorems say."""

from __future__ import annotations

import numpy as np
import pytest
from folded_head import folded_head
from hypothesis import given
from hypothesis import strategies as st
from numpy import fft
from skimage.registration import phase_cross_correlation

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion import Trajectory, preset, simulate_motion, smooth_coils, with_severity
from BrainDiffLogic.motion.sampling import EVERY_LINE, Sampling, fill_lines
from BrainDiffLogic.volume import Volume

SHAPE = (12, 24, 18)
IMAGE = np.random.default_rng(3).random(SHAPE).astype(np.float32)
KSPACE = fft.fftn(IMAGE)
axes = st.integers(0, 2)


@given(axes)
def test_every_line_is_the_plain_image(axis: int) -> None:
    np.testing.assert_allclose(EVERY_LINE.reconstructed(EVERY_LINE.acquired(KSPACE, axis), axis), IMAGE, atol=1e-5)


@given(axes, st.floats(0.55, 1.0), st.booleans())
def test_partial_fourier_keeps_the_share_it_says_and_the_centre(axis: int, share: float, late: bool) -> None:
    sampling = Sampling(partial_fourier=share, late=late)
    lines = np.moveaxis(sampling.acquired(KSPACE, axis), axis, 0)
    kept = np.abs(lines).reshape(len(lines), -1).any(axis=1)
    assert abs(kept.mean() - share) <= 1 / len(lines) + 1e-9
    assert kept[0]  # the zero frequency
    np.testing.assert_array_equal(lines[kept], np.moveaxis(KSPACE, axis, 0)[kept])
    twice = sampling.acquired(sampling.acquired(KSPACE, axis), axis)
    np.testing.assert_array_equal(twice, sampling.acquired(KSPACE, axis))


@given(axes, st.floats(0.55, 0.95))
def test_the_two_sides_of_a_real_image_are_conjugate(axis: int, share: float) -> None:
    """A real image has conjugate halves, so leaving out either side gives the same magnitude."""
    # the one line at the highest frequency of an even number has no partner: leave it out
    nyquist = np.moveaxis(KSPACE.copy(), axis, 0)
    nyquist[SHAPE[axis] // 2] = 0
    whole = np.moveaxis(nyquist, 0, axis)
    images = [
        sampling.reconstructed(sampling.acquired(whole, axis), axis)
        for sampling in (Sampling(share, late=True), Sampling(share, late=False))
    ]
    np.testing.assert_allclose(np.abs(images[0]), np.abs(images[1]), atol=1e-5)


@given(axes, st.sampled_from([2, 3]), st.floats(0.01, 0.5))
def test_a_constant_error_of_what_is_filled_in_is_a_faint_copy(axis: int, reduction: int, error: float) -> None:
    """Without calibration lines: the comb of acquired lines is the mean of ``reduction`` displaced images."""
    sampling = Sampling(reduction=reduction, calibration_lines=0, fill_error=np.full(SHAPE, error, dtype=np.complex64))
    size = SHAPE[axis]
    copies = sum(np.roll(IMAGE, n * size // reduction, axis) for n in range(reduction)) / reduction
    expected = IMAGE + error * (IMAGE - copies)
    np.testing.assert_allclose(sampling.reconstructed(KSPACE, axis), expected, atol=1e-5)


def test_calibration_lines_are_never_wrong() -> None:
    smooth = np.ones(SHAPE) * np.cos(2 * np.pi * np.arange(SHAPE[1]) / SHAPE[1])[:, None] + 2  # three lines only
    sampling = Sampling(reduction=2, calibration_lines=6, fill_error=np.ones(SHAPE, np.complex64))
    np.testing.assert_allclose(sampling.reconstructed(fft.fftn(smooth), 1), smooth, atol=1e-6)


def test_without_motion_the_scan_is_its_reference_however_it_is_sampled() -> None:
    volume = Volume(IMAGE, np.eye(4))
    still = Trajectory(np.zeros((24, 3)), np.zeros((24, 3)))
    got = simulate_motion(volume, still, "AP", noise=0.02, sampling=Sampling(0.7))
    np.testing.assert_allclose(got.moved.array, got.reference.array, atol=1e-4)
    assert np.abs(got.reference.array - simulate_motion(volume, still, "AP").reference.array).max() > 0.05


@pytest.mark.parametrize("coils", [False, True])
def test_lines_that_were_never_acquired_carry_no_noise(coils: bool) -> None:
    """SD of the noise where the image is bright: that of all lines, 10, times the root of the share acquired."""
    array = np.zeros((40, 60, 40), np.float32)
    array[5:-5, 8:-8, 5:-5] = 1000
    volume, still = Volume(array, np.eye(4)), Trajectory(*np.zeros((2, 60, 3)))
    maps = np.ones((1, *volume.shape), np.complex64) if coils else None
    for sampling in (Sampling(), Sampling(0.6)):
        noisy, quiet = (
            simulate_motion(volume, still, "AP", noise=noise, sampling=sampling, coils=maps) for noise in (10.0, 0.0)
        )
        expected = 10 * np.sqrt(sampling.keeps(60).mean())
        for image in ("moved", "reference"):
            clean = getattr(quiet, image).array
            assert (getattr(noisy, image).array - clean)[clean > 800].std() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("late", [True, False])
def test_motion_while_nothing_is_acquired_is_none(late: bool) -> None:
    """It counts for no severity, displaces nothing, and is no reason to move the scan onto the still head."""
    volume = folded_head(whole=True)
    lines = volume.shape[1]
    translations = np.zeros((lines, 3))
    translations[round(0.65 * lines) :] = [3.0, 5.0, 1.0]
    poses = Trajectory(translations if late else translations[::-1].copy(), np.zeros((lines, 3)))
    got = simulate_motion(volume, poses, "AP", sampling=Sampling(0.6, late=late))
    assert got.severity == 0
    np.testing.assert_allclose(got.moved.array, got.reference.array, atol=1e-3 * volume.array.max())
    assert simulate_motion(volume, poses, "AP", sampling=Sampling(0.6, late=not late)).severity > 1


@pytest.mark.parametrize("late", [True, False])
def test_a_scan_with_partial_fourier_lies_on_its_reference(late: bool) -> None:
    volume = folded_head(whole=True)
    poses = with_severity(preset("steps", volume.shape[1], 5), 3.0)
    apart = []
    for align in (False, True):
        got = simulate_motion(volume, poses, "AP", sampling=Sampling(0.65, late=late), align=align)
        pair = got.reference.array, got.moved.array
        shift = phase_cross_correlation(*pair, upsample_factor=50, normalization=None)[0]
        apart.append(float(np.linalg.norm(shift * volume.spacing)))
    assert apart[0] > 1 and apart[1] < 0.2


@given(st.integers(2, 60), st.sampled_from([1, 2, 3, 4]), st.integers(0, 12), st.floats(0.55, 1))
def test_each_line_is_acquired_skipped_or_left_out(lines: int, reduction: int, calibration: int, share: float) -> None:
    sampling = Sampling(share, reduction=reduction, calibration_lines=calibration)
    skipped, calibrates = sampling.skipped(lines), sampling.calibrates(lines)
    assert not (skipped & calibrates).any() and not skipped[lines // 2]
    assert calibrates.sum() == min(lines, calibration)
    assert not calibration or calibrates[lines // 2]
    assert reduction > 1 or not skipped.any()


@pytest.mark.parametrize("kind", ["nod", "steps"])
def test_what_partial_fourier_leaves_out_does_not_depend_on_how_the_array_runs(kind: str) -> None:
    head = folded_head(whole=True)
    flipped = Volume(np.ascontiguousarray(head.array[:, ::-1]), head.affine @ np.diag([1.0, -1, 1, 1]))
    poses = preset(kind, head.shape[1], 1)
    one, other = (
        simulate_motion(volume, poses, "AP", severity=1.5, sampling=Sampling(0.7)) for volume in (head, flipped)
    )
    assert one.severity == pytest.approx(1.5, abs=1e-4) and other.severity == pytest.approx(1.5, abs=1e-4)
    apart = np.abs(one.moved.array - other.moved.array[:, ::-1]).mean()
    assert apart < 0.1 * np.abs(one.moved.array - one.reference.array).mean()


@pytest.mark.parametrize(("share", "reduction"), [(0.6, 1), (0.8, 1), (1.0, 2), (0.7, 2)])
def test_the_severity_asked_for_is_that_of_the_lines_that_are_acquired(share: float, reduction: int) -> None:
    head, sampling = folded_head(whole=True), Sampling(share, reduction=reduction)
    coils = smooth_coils(head.shape, head.affine, 4, 1) if reduction > 1 else None
    got = simulate_motion(head, preset("steps", 40, 0), "AP", severity=2.0, sampling=sampling, coils=coils)
    assert got.severity == pytest.approx(2.0, abs=1e-4)


# Parallel imaging with several coils


NOBODY = Trajectory(np.zeros((56, 3)), np.zeros((56, 3)))


def share_of(values: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(values - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize(
    ("coils", "reduction", "allowed"), [(8, 2, 0.006), (8, 3, 0.006), (16, 4, 0.04), (4, 2, 0.006)]
)
def test_lines_of_a_still_head_are_filled_in_nearly_perfectly(
    a_head: Volume, coils: int, reduction: int, allowed: float
) -> None:
    """Measured: 0.3 % of the norm at R = 2 and 3, 2 % at R = 4, of a head with sharp edges."""
    maps = smooth_coils(a_head.shape, a_head.affine, coils, seed=1)
    whole = simulate_motion(a_head, NOBODY, "AP", coils=maps).reference.array
    got = simulate_motion(a_head, NOBODY, "AP", coils=maps, sampling=Sampling(reduction=reduction)).reference.array
    assert 0 < share_of(got, whole) < allowed


@pytest.mark.parametrize("pe_axis", ["LR", "AP", "SI"])
def test_lines_are_filled_in_along_the_phase_encoding(a_head: Volume, pe_axis: str) -> None:
    """Measured: 0.3 % along AP and LR; 1.2 % along SI, where the coils lie in two rings only."""
    maps = smooth_coils(a_head.shape, a_head.affine, 8, seed=1)
    whole, got = (
        simulate_motion(a_head, NOBODY, pe_axis, coils=maps, sampling=sampling).reference.array
        for sampling in (Sampling(), Sampling(reduction=2, calibration_lines=16))
    )
    assert share_of(got, whole) < (0.02 if pe_axis == "SI" else 0.006)


def test_without_filling_in_the_head_would_be_folded(a_head: Volume) -> None:
    """So it is the kernels that unfold it: lines that are skipped are not looked at."""
    maps = smooth_coils(a_head.shape, a_head.affine, 8, seed=1)
    kspaces = np.stack([fft.fftn(coil * a_head.array) for coil in maps]).astype(np.complex64)
    sampling, truth = Sampling(reduction=2, calibration_lines=12), kspaces.copy()
    skipped = np.fft.ifftshift(sampling.skipped(56))
    kspaces[:, :, skipped] = 0
    assert share_of(kspaces, truth) > 0.1
    other = kspaces.copy()
    other[:, :, skipped] = 1e6
    for filled in (kspaces, other):
        fill_lines(filled, 1, sampling)
        assert share_of(filled, truth) < 0.03
        np.testing.assert_allclose(filled[:, :, ~skipped], truth[:, :, ~skipped], atol=1e-3 * np.abs(truth).max())
    np.testing.assert_array_equal(kspaces, other)


def test_motion_makes_the_lines_and_their_calibration_disagree(a_head: Volume) -> None:
    """A head that lies elsewhere while the outer lines are acquired: with kernels it also folds."""
    maps = smooth_coils(a_head.shape, a_head.affine, 8, seed=1)
    poses = with_severity(preset("tremor", 56, 3), 1.5)
    error = {}
    for reduction in (1, 2):
        got = simulate_motion(
            a_head, poses, "AP", coils=maps, sampling=Sampling(reduction=reduction, calibration_lines=12), severity=1.5
        )
        error[reduction] = share_of(got.moved.array, got.reference.array)
    assert error[2] > 1.1 * error[1]


def test_filling_in_amplifies_noise(a_head: Volume) -> None:
    """Half of the lines hold half of the noise's power; the kernels bring some back and the g-factor more."""
    maps = smooth_coils(a_head.shape, a_head.affine, 8, seed=1)
    level = {}
    for reduction in (1, 3):
        sampling = Sampling(reduction=reduction, calibration_lines=16)
        quiet, loud = (
            simulate_motion(
                a_head, NOBODY, coils=maps, combine="adaptive", sampling=sampling, noise=noise
            ).reference.array
            for noise in (0.0, 10.0)
        )
        level[reduction] = float((loud - quiet)[a_head.array > 100].std())
    assert level[1] == pytest.approx(10, rel=0.1)
    assert level[3] > 1.3 * level[1]


def test_partial_fourier_leaves_lines_out_in_every_coil(a_head: Volume) -> None:
    maps = smooth_coils(a_head.shape, a_head.affine, 6, seed=1)
    sampling = Sampling(0.65, reduction=2, calibration_lines=12)
    whole, part, both = (
        simulate_motion(a_head, NOBODY, "AP", coils=maps, sampling=s).reference.array
        for s in (Sampling(), Sampling(0.65), sampling)
    )
    assert share_of(part, whole) > 0.02
    assert share_of(both, part) < 0.03


@pytest.mark.parametrize("late", [True, False])
def test_what_partial_fourier_leaves_out_is_not_filled_in(a_head: Volume, late: bool) -> None:
    maps = smooth_coils(a_head.shape, a_head.affine, 4, seed=1)
    sampling = Sampling(0.7, late=late, reduction=2, calibration_lines=12)
    kspaces = np.stack([sampling.acquired(fft.fftn(coil * a_head.array), 1) for coil in maps]).astype(np.complex64)
    fill_lines(kspaces, 1, sampling)
    filled = np.abs(kspaces).max(axis=(0, 1, 3)) > 1e-3 * np.abs(kspaces).max() * 1e-2
    np.testing.assert_array_equal(filled, np.fft.ifftshift(sampling.keeps(56)))


def test_too_few_calibration_lines_are_refused(a_head: Volume) -> None:
    maps = smooth_coils(a_head.shape, a_head.affine, 4)
    for calibration, reduction in ((4, 2), (8, 3)):
        sampling = Sampling(reduction=reduction, calibration_lines=calibration)
        with pytest.raises(InputError, match=f"for a reduction of {reduction}: give {3 * reduction + 1} or more"):
            simulate_motion(a_head, NOBODY, coils=maps, sampling=sampling)
    enough = Sampling(reduction=3, calibration_lines=10)
    assert np.isfinite(simulate_motion(a_head, NOBODY, coils=maps, sampling=enough).moved.array).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"partial_fourier": 0.5}, {"partial_fourier": 1.1}, {"reduction": 0}, {"calibration_lines": -1},
        {"fill_error": np.zeros(SHAPE)},
    ],
    ids=str,
)  # fmt: skip
def test_what_no_scanner_does_is_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match="give"):
        Sampling(**wrong)


def test_an_error_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match="one value a voxel"):
        Sampling(reduction=2, fill_error=np.zeros((2, 2, 2))).reconstructed(KSPACE, 0)
