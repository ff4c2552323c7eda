"""The order of the lines: permutations, and poses in time laid on the lines that are acquired then."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion import Trajectory, preset, simulate_motion, smooth_coils, with_severity
from BrainDiffLogic.motion.sampling import ORDERS, Sampling, acquisition_order, in_kspace_order
from BrainDiffLogic.volume import Volume

LINES = st.integers(2, 300)


def in_time(lines: int) -> Trajectory:
    """A head that slides 1 mm towards A with each line acquired."""
    slide = np.zeros((lines, 3))
    slide[:, 1] = np.arange(lines)
    return Trajectory(slide, np.zeros((lines, 3)), np.array([1.0, 2.0, 3.0]))


@given(LINES, st.sampled_from(ORDERS))
def test_every_order_acquires_each_line_once(lines: int, order: str) -> None:
    assert sorted(acquisition_order(lines, order)) == list(range(lines))


@given(LINES)
def test_the_centric_order_goes_from_the_centre_outwards_to_both_sides_in_turn(lines: int) -> None:
    distance = acquisition_order(lines, "centric") - lines // 2
    assert distance[0] == 0
    assert (np.diff(np.abs(distance)) >= 0).all()
    assert distance[: min(5, lines)].tolist() == [0, 1, -1, 2, -2][: min(5, lines)] or lines < 5


def test_interleaved_lines_come_in_passes() -> None:
    assert acquisition_order(7, "interleaved").tolist() == [0, 2, 4, 6, 1, 3, 5]


@given(LINES, st.sampled_from(ORDERS))
def test_each_line_has_the_pose_at_which_it_is_acquired(lines: int, order: str) -> None:
    poses = in_kspace_order(in_time(lines), lines, order)
    acquired_at = poses.translations[:, 1]
    np.testing.assert_allclose(acquired_at[acquisition_order(lines, order)], np.arange(lines), atol=1e-9)
    np.testing.assert_array_equal(poses.centre, [1, 2, 3])


def test_the_linear_order_is_the_trajectory_itself() -> None:
    trajectory = in_time(9)
    assert in_kspace_order(trajectory, 20) is trajectory
    assert in_kspace_order(trajectory, 20, skipped=np.zeros(20, bool)) is trajectory


@given(st.integers(30, 200), st.sampled_from(ORDERS), st.sampled_from([2, 3, 4]))
def test_lines_that_are_skipped_take_no_time_and_lie_between_their_neighbours(lines, order, reduction) -> None:
    skipped = Sampling(reduction=reduction, calibration_lines=12).skipped(lines)
    count = int((~skipped).sum())
    poses = in_kspace_order(in_time(count), lines, order, skipped).translations[:, 1]
    assert len(poses) == lines
    np.testing.assert_allclose(np.sort(poses[~skipped]), np.arange(count), atol=1e-9)
    rows = np.flatnonzero(~skipped)
    for row in np.flatnonzero(skipped):
        near = poses[rows[np.searchsorted(rows, row) - 1 : np.searchsorted(rows, row) + 1]]
        inside = rows[0] < row < rows[-1]
        assert not inside or near.min() - 1e-9 <= poses[row] <= near.max() + 1e-9


def test_an_unknown_order_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="use one of linear, interleaved, centric"):
        acquisition_order(9, "spiral")


# In the simulation


@pytest.mark.parametrize("order", ORDERS)
def test_a_scan_is_anchored_at_the_pose_in_which_its_centre_is_acquired(a_head: Volume, order: str) -> None:
    got = simulate_motion(a_head, in_time(56), "AP", order=order, align=False).trajectory
    assert len(got) == 56
    np.testing.assert_allclose(got.translations[28], 0, atol=1e-9)
    first = acquisition_order(56, order)[0]
    assert got.translations[:, 1].min() == pytest.approx(got.translations[first, 1])


@pytest.mark.parametrize("order", ["interleaved", "centric"])
def test_the_saved_trajectory_is_in_the_order_of_kspace(a_head: Volume, order: str) -> None:
    """So that simulating it again in linear order gives the same scan."""
    poses = with_severity(preset("drift", 56, 2), 2.0)
    first = simulate_motion(a_head, poses, "AP", order=order, align=False)
    again = simulate_motion(a_head, first.trajectory, "AP", align=False)
    np.testing.assert_allclose(again.moved.array, first.moved.array, atol=1e-3 * a_head.array.max())
    linear = simulate_motion(a_head, poses, "AP", align=False)
    assert np.abs(linear.moved.array - first.moved.array).max() > 0.05 * a_head.array.max()


def test_a_slow_slide_ghosts_when_it_is_interleaved_and_blurs_when_it_is_not(a_head: Volume) -> None:
    """Two passes put two displaced images on every other line: a ghost half a field of view away."""
    slide = Trajectory(in_time(56).translations * 0.06, np.zeros((56, 3)))
    outside = a_head.array == 0
    ghosts = {
        order: float(simulate_motion(a_head, slide, "AP", order=order).moved.array[outside].mean())
        for order in ("linear", "interleaved")
    }
    assert ghosts["interleaved"] > 1.3 * ghosts["linear"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.75), Sampling(reduction=2, calibration_lines=12)], ids=str)
def test_severity_is_scaled_over_the_lines_in_the_order_in_which_they_are_acquired(
    a_head: Volume, order: str, sampling: Sampling
) -> None:
    coils = smooth_coils(a_head.shape, a_head.affine, 4)
    poses = preset("tremor", 200, 3)
    got = simulate_motion(a_head, poses, "AP", severity=2.0, order=order, coils=coils, sampling=sampling)
    assert got.severity == pytest.approx(2.0, rel=0.3 if sampling.partial_fourier < 1 else 0.05)
    if sampling.partial_fourier == 1 and sampling.reduction == 1:
        assert got.severity == pytest.approx(2.0, abs=1e-3)
