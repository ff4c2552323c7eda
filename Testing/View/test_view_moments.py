"""The motion over the scan: which moments are named, and what of a change goes back to one."""

from __future__ import annotations

import numpy as np
import pytest

from BrainDiffLogic.volume import Volume
from BrainDiffViewer.moments import MOST, MotionCurve, most_moved, part_of_moment

LINES = 100


def test_the_most_moved_moments_are_far_apart_and_the_largest_first() -> None:
    displacement = np.full(LINES, 0.1)
    displacement[[30, 31, 70]] = 2.0, 1.9, 3.0
    displacement[[0, 99]] = 0.0, 0.05
    moments = most_moved(displacement)
    assert [(one.line, one.mm) for one in moments[:2]] == [(70, 3.0), (30, 2.0)]
    assert len(moments) == MOST
    assert 31 not in [one.line for one in moments]


def test_ends_where_the_motion_only_goes_on_are_not_named() -> None:
    displacement = np.concatenate([np.full(20, 5.0), np.linspace(1, 2, 60), np.full(20, 4.0)])
    assert most_moved(displacement)[0].line == 79


def test_a_head_that_rests_has_no_moments() -> None:
    assert most_moved(np.zeros(LINES)) == []


def test_a_report_without_poses_has_no_curve() -> None:
    assert MotionCurve.of(None) is None
    rows = np.zeros((LINES, 6))
    rows[40, 0] = 1.5  # mm to the right
    curve = MotionCurve.of({"trajectory": rows.tolist(), "pe_axis": "AP"})
    assert curve is not None
    assert curve.displacement[40] == pytest.approx(1.5)
    assert curve.moments[0].time == pytest.approx(40 / 99)


def test_of_a_change_only_the_waves_of_the_moment_are_left() -> None:
    volume = Volume(np.random.default_rng(0).random((8, LINES, 8)).astype(np.float32), np.eye(4))
    place = np.arange(LINES) / LINES
    slow, fast = (np.cos(2 * np.pi * waves * place)[None, :, None] * np.ones((8, 1, 8)) for waves in (5, 30))
    for line in (LINES // 2 + 30, LINES // 2 - 30):
        np.testing.assert_allclose(part_of_moment(slow + fast, volume, "AP", line), fast, atol=1e-5)
