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
from BrainDiffLogic.motion import Trajectory, preset, simulate_motion, with_severity
from BrainDiffLogic.motion.sampling import EVERY_LINE, Sampling
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
    sampling = Sampling(
        reduction=reduction, calibration_lines=0, fill_error=np.full(SHAPE, error, dtype=np.complex64)
    )
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
