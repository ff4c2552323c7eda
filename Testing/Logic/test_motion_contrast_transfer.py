"""Odd motion found in the power spectrum of a painted head: gradients, symmetry, what is found and what is not."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from BrainDiffLogic import read_volume
from BrainDiffLogic.errors import Cancelled
from BrainDiffLogic.motion import Trajectory, simulate_motion
from BrainDiffLogic.motion.contrast_transfer import ContrastTransfer
from BrainDiffLogic.motion.kspace import phase_encode_axis
from BrainDiffLogic.motion.odd_motion import best_poses, odd_shapes, propose
from BrainDiffLogic.motion.simulation import head_centre
from BrainDiffLogic.scan import robust_scale
from BrainDiffLogic.volume import Volume

CENTRE = np.array([3.0, -4.0, 5.0])
POSE = np.array([0.8, 2.5, -1.5, 1.5, -1.0, 2.0])
"""Of the outermost line: mm and degrees."""


@cache
def textured_head(shape: tuple[int, int, int] = (54, 65, 60)) -> Volume:
    """An ellipsoid of 3 mm voxels with folds of two grey values in it; LPS, so that two axes run backwards."""
    rng = np.random.default_rng(7)
    affine = np.diag([-3.0, -3.0, 3.0, 1.0])
    affine[:3, 3] = CENTRE - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    at = (np.moveaxis(np.indices(shape), 0, -1) * 3 - 1.5 * (np.array(shape) - 1)) / (1.35 * np.array(shape))
    folds = ndimage.gaussian_filter(rng.standard_normal(shape), 0.9)
    head = (np.linalg.norm(at, axis=-1) < 1) * (0.6 + 0.3 * np.tanh(8 * folds))
    return Volume(ndimage.gaussian_filter(head, 0.4).astype(np.float32), affine)


def moved(head: Volume, pose: np.ndarray, pe_axis: str, noise: float = 0.0) -> np.ndarray:
    """The head drifting from -pose to pose while the lines are acquired."""
    lines = head.shape[phase_encode_axis(head.affine, pe_axis)]
    rows = odd_shapes(lines)["ramp"] @ pose[None]
    scan = simulate_motion(head, Trajectory(rows[:, :3], rows[:, 3:], CENTRE), pe_axis, noise=noise, align=False)
    return scan.moved.array


def test_the_gradient_is_that_of_finite_differences() -> None:
    head = textured_head()
    model = ContrastTransfer(moved(head, POSE, "AP"), head.affine, 1, CENTRE)
    shapes = odd_shapes(model.lines)
    courses = model.courses(np.hstack([shapes["ramp"], shapes["step 0.25"]]))
    poses = np.random.default_rng(1).normal(0, 1, (2, 6))
    gradient = model.gain(courses, poses, fits=12)[1]
    for at in np.ndindex(2, 6):
        step = np.zeros((2, 6))
        step[at] = 0.02
        ends = [model.gain(courses, poses + sign * step, fits=12)[0] for sign in (1, -1)]
        assert gradient[at] == pytest.approx((ends[0] - ends[1]) / 0.04, rel=0.02, abs=1.5)


@pytest.mark.parametrize("shape", [(48, 57, 50), (51, 56, 53)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_sign_of_the_motion_makes_no_difference(shape: tuple[int, int, int], axis: int) -> None:
    head = textured_head(shape)
    model = ContrastTransfer(head.array, head.affine, axis, CENTRE)
    for basis in odd_shapes(model.lines).values():
        gain = model.gain(model.courses(basis), POSE[None])[0]
        assert model.gain(model.courses(basis), -POSE[None])[0] == pytest.approx(gain, abs=0.5)


def test_no_motion_gains_nothing() -> None:
    head = textured_head()
    model = ContrastTransfer(head.array, head.affine, 1, CENTRE)
    assert model.gain(model.courses(odd_shapes(model.lines)["ramp"]), np.zeros((1, 6)))[0] == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(("pe_axis", "noise"), [("AP", 0.0), ("SI", 0.0), ("AP", 0.03)])
def test_a_drift_is_found(pe_axis: str, noise: float) -> None:
    head = textured_head()
    scan = moved(head, POSE, pe_axis, noise)
    proposals = propose(scan, head.affine, phase_encode_axis(head.affine, pe_axis), CENTRE)
    best = next(one for one in proposals if one.shape == "ramp")
    found = best.trajectory[-1] / odd_shapes(len(best.trajectory))["ramp"][-1]
    assert best.score > 1
    assert min(np.abs(found - POSE).max(), np.abs(found + POSE).max()) < 0.35


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_a_still_head_shows_no_motion(noise: float) -> None:
    head = textured_head()
    scan = moved(head, 0 * POSE, "AP", noise)
    assert all(one.score < 1 for one in propose(scan, head.affine, 1, CENTRE))


def test_a_search_can_be_cancelled() -> None:
    head = textured_head()
    model = ContrastTransfer(head.array, head.affine, 1, CENTRE)
    with pytest.raises(Cancelled):
        best_poses(model, odd_shapes(model.lines)["ramp"], lambda: True)


def test_segments_follow_a_step() -> None:
    """A step halfway through the upper lines: next to nothing odd before it, half of it beyond."""
    head = textured_head()
    rows = np.zeros((65, 6))
    rows[32 + 10 :] = 2 * POSE
    scan = simulate_motion(head, Trajectory(rows[:, :3], rows[:, 3:], CENTRE), "AP", align=False).moved
    proposals = propose(scan.array, head.affine, 1, CENTRE)
    found = next(one for one in proposals if one.shape.startswith("segments"))
    outer = found.trajectory[32 + 20]
    assert found.score > 1
    assert min(np.abs(outer - POSE).max(), np.abs(outer + POSE).max()) < 0.6
    assert np.abs(found.trajectory[32 - 5 : 32 + 6]).max() < 0.6


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.timeout(1200)
def test_still_heads_stay_below_the_limits(shared_data: Path) -> None:
    """The calibration of LIMITS: at most one still scan in twenty passes."""
    scores = {}
    for n, file in enumerate(sorted((shared_data / "t1_head").glob("*.nii.gz"))):
        head = scaled_to_three_mm(read_volume(file))
        grain = 0.01 * (n % 4) * np.random.default_rng(n).standard_normal((2, *head.shape))
        scan = np.hypot(head.array + grain[0], grain[1]).astype(np.float32)
        for pe_axis in ("AP", "SI"):
            axis, centre = phase_encode_axis(head.affine, pe_axis), head_centre(scan, head.affine)
            scores[file.name, pe_axis] = propose(scan, head.affine, axis, centre)[0].score
    passed = [scan for scan, score in scores.items() if score > 1]
    assert len(passed) <= len(scores) / 20, f"{passed} of {scores}"


def scaled_to_three_mm(volume: Volume) -> Volume:
    """The head on voxels of about 3 mm, its 99th percentile at 1."""
    factors = 3 / np.linalg.norm(volume.affine[:3, :3], axis=0)
    smooth = ndimage.gaussian_filter(volume.array.astype(np.float32), 0.4 * factors)
    array = ndimage.zoom(smooth, 1 / factors, order=1, grid_mode=True, mode="nearest")
    steps, affine = np.array(volume.shape) / array.shape, volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ ((steps - 1) / 2)
    affine[:3, :3] *= steps
    return Volume(np.maximum(robust_scale(array).forward(array), 0), affine)
