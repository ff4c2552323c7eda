"""Lines one by one: nods, seen by the prior or by a network, and even poses read out of what a network takes off."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from moved_head import a_head, a_moved_scan, search_once
from scipy import ndimage

from BrainDiffLogic.errors import Cancelled
from BrainDiffLogic.motion import Simulation, Trajectory, simulate_motion
from BrainDiffLogic.motion.estimate import (
    SPACING,
    Limits,
    _most_agreeing,
    _of_all_lines,
    artifact,
    estimate_motion,
)
from BrainDiffLogic.motion.fitted import UNITS, LineFit
from BrainDiffLogic.motion.joint import Problem, symmetric
from BrainDiffLogic.motion.magnitude import MagnitudeScan
from BrainDiffLogic.motion.nods import Line, about_the_neck, filled_in, find_nods

NODDED = {17: 12.0, 18: 20.0, 32: -9.0}
"""Lines of ``a_nodding_scan``, and degrees."""


@cache
def a_nodding_scan() -> Simulation:
    """The head, still but for two nods, which are not exactly about the neck; noise of 1 %."""
    poses = np.zeros((47, 6))
    for line, pitch in NODDED.items():
        poses[line] = about_the_neck(pitch) + np.array([0.5, -1.0, 1.5, 0.0, 0.7, -0.5])
    return simulate_motion(a_head(), Trajectory.of_rows(poses), "AP", noise=0.01, seed=1)


def test_nodded_lines_are_found_with_their_poses():
    scan = a_nodding_scan()
    found = find_nods(MagnitudeScan(scan.moved).problem(1)[0])

    rows = np.flatnonzero(found.any(axis=1))
    assert {abs(row - 23) for row in rows} == {abs(line - 23) for line in NODDED}
    for row in rows:
        line = next(line for line in NODDED if abs(line - 23) == abs(row - 23))
        np.testing.assert_allclose(found[row, 3:], scan.trajectory.rotations[line], atol=1.5)
        np.testing.assert_allclose(found[row, :3], scan.trajectory.translations[line], atol=2.5)


def test_nods_that_what_was_seen_agrees_with_are_taken_off():
    scan = a_nodding_scan()
    found = estimate_motion(scan.moved, "AP", seen=0.3 * (scan.moved.array - scan.reference.array))
    corrected = scan.moved.array - artifact(scan.moved, found)

    assert found.facts["shape"] == "nod" and found.facts["agreement"] > 0.5
    assert np.count_nonzero(found.trajectory.rows.any(axis=1)) == len(NODDED), "in all other lines the head lay still"
    head = a_head().array > 0.2
    before, after = (np.abs(image - scan.reference.array)[head].mean() for image in (scan.moved.array, corrected))
    assert after < 0.6 * before


@pytest.mark.parametrize("scan", [a_nodding_scan, a_moved_scan])
def test_no_nods_are_found_in_a_still_head(scan):
    assert not find_nods(MagnitudeScan(scan().reference).problem(1)[0]).any()


def test_lines_left_out_are_filled_in_by_the_prior_and_all_others_kept():
    problem = MagnitudeScan(a_head()).problem(1)[0]
    wave = np.cos(2 * np.pi * 5 * np.arange(47) / 47)[None, :, None].astype(np.float32)
    spoilt = replace(problem, scan=problem.scan + np.float32(0.2) * wave * problem.scan.mean(axis=1, keepdims=True))
    images = problem.scan, spoilt.scan, filled_in(spoilt, [5], spoilt.scan)
    still, was, filled = (np.fft.fft(image, axis=1) for image in images)
    before, after = (np.linalg.norm(lines - still, axis=(0, 2)) for lines in (was, filled))
    assert after[5] < 0.5 * before[5] and after[-5] < 0.5 * before[-5]
    others = np.delete(after / np.linalg.norm(still, axis=(0, 2)), [5, 47 - 5])
    assert others.max() < 0.1


def seen_of(scan: Simulation, share: float) -> tuple[Problem, np.ndarray]:
    """The problem of a moved head, and a share of the artifact on its voxels."""
    coarse = MagnitudeScan(scan.moved)
    seen = share * (scan.moved.array - scan.reference.array)
    return coarse.problem(1)[0], seen[coarse.cut(1)] / coarse.scale


def test_a_nod_beside_the_middle_is_found_by_what_a_network_sees(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("BrainDiffLogic.motion.nods.SURE", 1.0)  # so that the prior alone finds none
    poses = np.zeros((47, 6))
    poses[22] = about_the_neck(24.0) + np.array([0.5, -1.0, 1.5, 0.0, 0.7, -0.5])
    problem, seen = seen_of(simulate_motion(a_head(), Trajectory.of_rows(poses), "AP", noise=0.01, seed=1), 0.4)
    found = find_nods(problem, seen)

    rows = np.flatnonzero(found.any(axis=1))
    assert len(rows) == 1 and rows[0] in (22, 24)
    np.testing.assert_allclose(found[rows[0], 3:], poses[22, 3:], atol=1.5)
    assert not find_nods(problem).any()


def test_what_a_network_takes_off_everywhere_is_no_nod():
    assert not find_nods(*seen_of(a_moved_scan(), 0.4)).any()


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_poses_are_fitted_to_what_was_seen_of_their_artifact(share: float):
    problem, seen = seen_of(a_moved_scan(), share)
    fit = LineFit(problem, seen)
    poses, true = fit.poses(), symmetric(problem.centred(a_moved_scan().trajectory.rows))

    units = np.sqrt(problem.energy)[:, None] * UNITS
    found, true = units * problem.centred(poses), units * true
    assert np.vdot(found, true) / np.linalg.norm(found) / np.linalg.norm(true) > 0.8
    assert 0.2 * share < np.vdot(found, true) / np.vdot(true, true) < share
    np.testing.assert_allclose(poses, symmetric(poses), atol=1e-9)
    np.testing.assert_allclose(fit.poses(0.25) + fit.poses(0.75), poses, atol=1e-6)
    assert fit.halves_agree() > 0.5


def test_halves_do_not_agree_on_what_no_motion_made():
    problem, seen = seen_of(a_moved_scan(), 0.4)
    other = np.roll(seen, seen.shape[0] // 2, axis=0) - np.roll(seen, seen.shape[2] // 2, axis=2)
    grain = np.random.default_rng(0).standard_normal(seen.shape).astype(np.float32)
    for wrong in (0.02 * ndimage.gaussian_filter(grain, 1), other):
        assert LineFit(problem, wrong).halves_agree() < Limits().halves


@cache
def a_drifting_scan() -> Simulation:
    """The head, drifting by 5 mm and 3 degrees while it is restless; noise of 1 %."""
    drift = np.outer(np.arange(47) - 23, [0.036, 0.12, 0.072, 0.06, 0.024, 0.024])
    poses = drift + a_moved_scan().trajectory.rows
    return simulate_motion(a_head(), Trajectory.of_rows(poses), "AP", noise=0.01, seed=1)


def test_a_drift_and_what_the_head_does_beside_it_are_found_together(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("BrainDiffLogic.motion.estimate.search_poses", search_once)
    scan = a_drifting_scan()
    seen = 0.3 * (scan.moved.array - scan.reference.array)
    both = estimate_motion(scan.moved, "AP", seen=seen)
    too_little = estimate_motion(scan.moved, "AP", seen=seen, limits=Limits(least=50.0))

    assert both.facts["shape"] == "drift and fitted"
    assert too_little.facts["shape"] in ("even", "drift")
    head = a_head().array > 0.2
    errors = [
        float(np.abs(scan.moved.array - artifact(scan.moved, found) - scan.reference.array)[head].mean())
        for found in (both, too_little)
    ]
    assert errors[0] < 0.95 * errors[1]


@pytest.mark.parametrize(("least", "tried"), [(0.19, True), (0.21, False)])
def test_fitted_poses_are_tried_where_they_are_large_and_both_halves_agree(monkeypatch, least: float, tried: bool):
    shapes: list[str] = []

    def of_all_lines(found: dict[str, np.ndarray], *_: object) -> None:
        shapes.extend(found)
        raise Cancelled

    even = SimpleNamespace(shape="even", poses=0.0)
    search = SimpleNamespace(tried=(None, even), ramp=None)
    monkeypatch.setattr("BrainDiffLogic.motion.estimate.search_poses", lambda *_: search)
    monkeypatch.setattr("BrainDiffLogic.motion.estimate._of_all_lines", of_all_lines)
    monkeypatch.setattr(LineFit, "halves_agree", lambda _: 0.4)
    monkeypatch.setattr(LineFit, "size", lambda *_: 0.5)
    scan = a_moved_scan()
    with pytest.raises(Cancelled):
        estimate_motion(scan.moved, "AP", seen=scan.moved.array - scan.reference.array, limits=Limits(least=least))
    assert shapes == ["even", "even and fitted"] if tried else shapes == ["even"]


def test_fitted_poses_lie_beside_the_drift_of_all_lines():
    rng = np.random.default_rng(0)
    fitted, slope = rng.standard_normal((20, 6)) * ([1] * 3 + [0] * 3), np.array([0.1, 0.2, 0.3, 0, 0, 0])
    poses = _of_all_lines({"even and fitted": fitted}, (np.arange(20) - 10)[:, None] * slope, slice(30, 50), 80)
    np.testing.assert_allclose(poses["drift and fitted"], poses["drift"] + poses["even and fitted"], atol=1e-9)
    assert "drift and fitted" not in _of_all_lines({"even": fitted}, fitted, slice(30, 50), 80)


@pytest.mark.parametrize(
    ("even", "ramp", "drift", "fitted", "drift_and_fitted", "taken"),
    [
        (0.20, 0.0, 0.10, 0.24, 0.10, "even"),
        (0.20, 0.0, 0.10, 0.26, 0.25, "even and fitted"),
        (0.10, 0.0, 0.20, 0.12, 0.19, "drift and fitted"),
        (0.10, 0.0, 0.20, 0.12, 0.17, "drift"),
        (0.20, 0.0, 0.01, 0.20, 0.24, "even"),
        (0.10, 0.2, 0.20, 0.10, 0.21, "ramp"),
    ],
)
def test_poses_that_were_fitted_must_agree_by_more_than_others(even, ramp, drift, fitted, drift_and_fitted, taken):
    agreements = {
        "even": even, "ramp": ramp, "drift": drift, "even and fitted": fitted, "drift and fitted": drift_and_fitted,
    }  # fmt: skip
    assert _most_agreeing(agreements) == taken


def test_what_was_seen_is_fitted_as_the_search_shows_the_scan(monkeypatch: pytest.MonkeyPatch):
    fitted_to = []

    def fit(_: Problem, seen: np.ndarray) -> None:
        fitted_to.append(seen)
        raise Cancelled

    monkeypatch.setattr("BrainDiffLogic.motion.estimate.search_poses", lambda *_: SimpleNamespace(tried=()))
    monkeypatch.setattr("BrainDiffLogic.motion.estimate.LineFit", fit)
    moved = a_moved_scan().moved
    with pytest.raises(Cancelled):
        estimate_motion(moved, "AP", seen=moved.array - moved.array.min())
    np.testing.assert_allclose(fitted_to[0], MagnitudeScan(moved).problem(1, SPACING)[0].scan, atol=1e-5)


def test_what_looks_like_the_line_filled_in_says_nothing_of_a_nod():
    rng = np.random.default_rng(0)
    still, turned = rng.standard_normal((2, 20, 20)) + 1j * rng.standard_normal((2, 20, 20))
    weights = np.ones((20, 20), np.float32)
    assert Line(1.3 * still, still, weights).likeness(still + turned) < 0.1
    assert Line(1.3 * still + 0.5 * turned, still, weights).likeness(turned) > 0.9


def test_cancelling_stops_the_search_for_nods():
    asked = iter(range(1000))

    def tick() -> None:
        if next(asked) > 8:
            raise Cancelled

    problem = MagnitudeScan(a_nodding_scan().moved, tick).problem(1)[0]
    with pytest.raises(Cancelled):
        find_nods(problem)
    assert next(asked) < 12
