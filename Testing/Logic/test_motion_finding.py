"""Motion found in the magnitude alone: derivatives, symmetry, evidence; what is found, left alone, refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from BrainDiffLogic import correct, write_volume
from BrainDiffLogic.commands.main import main
from BrainDiffLogic.correction import Change, Correction, Job
from BrainDiffLogic.errors import Cancelled, InputError
from BrainDiffLogic.metrics.sharpness import noise_of
from BrainDiffLogic.models.checkpoints import load_checkpoint
from BrainDiffLogic.motion import Simulation, Trajectory, simulate_motion
from BrainDiffLogic.motion.estimate import (
    Hypothesis,
    Limits,
    Search,
    _likeliest_axis,
    _of_all_lines,
    artifact,
    decision,
    estimate_motion,
)
from BrainDiffLogic.motion.fitted import UNITS, LineFit
from BrainDiffLogic.motion.joint import (
    Problem,
    gradients,
    gradients_adjoint,
    log_determinant,
    mirror,
    moved_by,
    symmetric,
)
from BrainDiffLogic.motion.kspace import PE_AXES, phase_encode_axis
from BrainDiffLogic.motion.magnitude import MagnitudeScan
from BrainDiffLogic.motion.nods import Line, about_the_neck, filled_in, find_nods
from BrainDiffLogic.motion.sensitivity import Sensitivity
from BrainDiffLogic.motion.simulation import displacement, rigid_basis
from BrainDiffLogic.scan import head_mask
from BrainDiffLogic.severity import Decision
from BrainDiffLogic.volume import Volume

OBLIQUE = np.array([[-2.9, 0.2, 0.1, 60.0], [0.1, 3.1, -0.3, -70.0], [0.2, 0.3, 2.4, -50.0], [0, 0, 0, 1]])
"""Anisotropic voxels, the first axis against R."""


@cache
def a_head(shape: tuple[int, int, int] = (42, 47, 44)) -> Volume:
    """A still ellipsoid of 3.5 mm voxels with folds of two grey values and a skull, LAS."""
    rng = np.random.default_rng(7)
    affine = np.diag([-3.5, 3.5, 3.5, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    radius = np.linalg.norm(2.6 * (np.moveaxis(np.indices(shape), 0, -1) / (np.array(shape) - 1) - 0.5), axis=-1)
    folds = ndimage.gaussian_filter(rng.standard_normal(shape), 1.1)
    head = np.where(radius < 0.85, np.where(folds > 0, 0.75, 0.45), np.where(radius < 1, 0.95, 0.0))
    return Volume(ndimage.gaussian_filter(head, 0.45).astype(np.float32), affine)


@cache
def a_moved_scan() -> Simulation:
    """The head, restless by about 1.5 mm and degrees along its lines, each line for the same time; noise of 1 %."""
    rng = np.random.default_rng(3)
    poses = ndimage.gaussian_filter1d(rng.standard_normal((47, 6)), 2.0, axis=0)
    poses *= np.array([1.0, 1.6, 1.6, 1.5, 0.8, 0.8]) / poses.std(axis=0)
    return simulate_motion(a_head(), Trajectory(poses[:, :3], poses[:, 3:]), "AP", noise=0.01, seed=1)


@cache
def its_estimate():  # noqa: ANN201 - cached
    return estimate_motion(a_moved_scan().moved, "AP")


@pytest.mark.parametrize(("shape", "axis"), [((12, 15, 14), 0), ((13, 16, 11), 1), ((12, 13, 16), 2)])
def test_the_derivative_is_that_of_finite_differences_and_its_adjoint_is_one(shape, axis):
    rng = np.random.default_rng(axis)
    image = ndimage.gaussian_filter(rng.random(shape), 1.0).astype(np.float32) + np.float32(0.2)
    centre = OBLIQUE[:3, :3] @ (np.array(shape) / 2) + OBLIQUE[:3, 3]
    problem = Problem(image, OBLIQUE, axis, centre)
    poses, change = (scale * rng.standard_normal((shape[axis], 6)) for scale in (2.0, 1.0))
    around = Sensitivity(problem.model(poses), image)

    step = 0.02
    ends = [np.abs(np.fft.ifftn(problem.model(moved_by(poses, s * change)).kspace(image))) for s in (step, -step)]
    measured = (ends[0] - ends[1]) / (2 * step)
    found = around.forward(change)
    assert np.linalg.norm(found - measured) < 0.02 * np.linalg.norm(measured)

    other = rng.standard_normal(shape).astype(np.float32)
    assert np.vdot(found, other) == pytest.approx(np.vdot(change, around.adjoint(other)), rel=1e-3)


def test_exchanging_the_poses_of_opposite_lines_leaves_the_magnitude_as_it_was():
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.random((11, 15, 13)), 1.0).astype(np.float32)
    problem = Problem(image, OBLIQUE, 1, np.zeros(3))
    poses = rng.standard_normal((15, 6))

    one, other = (np.abs(np.fft.ifftn(problem.model(p).kspace(image))) for p in (poses, poses[mirror(15)]))

    assert np.abs(one - other).max() < 2e-3 * one.max()
    assert np.abs(one - image).max() > 0.05 * one.max()
    assert np.array_equal(symmetric(poses), symmetric(poses)[mirror(15)])


def test_the_adjoint_of_the_gradients_is_one():
    rng = np.random.default_rng(0)
    image, parts = rng.random((5, 6, 7)), list(rng.random((3, 5, 6, 7)))
    there = sum(float(np.vdot(a, b)) for a, b in zip(gradients(image), parts, strict=True))
    assert there == pytest.approx(float(np.vdot(image, gradients_adjoint(parts))))


def test_the_log_determinant_is_that_of_a_known_operator():
    shape = (16, 16, 16)
    values = np.exp(np.random.default_rng(0).uniform(-3, 0, shape)).astype(np.float32)
    assert log_determinant(lambda x: values * x, shape) == pytest.approx(np.log(values).sum(), rel=0.01)


def test_the_noise_is_measured():
    noisy = a_head().array + 0.03 * np.random.default_rng(0).standard_normal(a_head().shape)
    assert noise_of(noisy.astype(np.float32)) == pytest.approx(0.03, rel=0.25)


def test_even_motion_is_found_and_its_artifact_comes_off():
    scan, found = a_moved_scan(), its_estimate()
    true, seen = (
        np.concatenate([one.translations, one.rotations], axis=1) for one in (scan.trajectory, found.trajectory)
    )
    energy = MagnitudeScan(scan.moved).problem(1)[0].energy[:, None]
    true, seen = (symmetric(poses) - (energy * symmetric(poses)).sum(axis=0) for poses in (true, seen))
    likeness = (energy * true * seen).sum() / np.sqrt((energy * true**2).sum() * (energy * seen**2).sum())

    corrected = scan.moved.array - artifact(scan.moved, found)

    assert found.moved and likeness > 0.7
    head = a_head().array > 0.2
    before, after = (np.abs(image - scan.reference.array)[head].mean() for image in (scan.moved.array, corrected))
    assert after < 0.9 * before


def test_the_motion_found_is_the_same_on_one_core_and_on_more(monkeypatch: pytest.MonkeyPatch):
    found = its_estimate()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    serial = estimate_motion(a_moved_scan().moved, "AP")
    assert np.array_equal(serial.trajectory.rows, found.trajectory.rows)
    assert serial.facts == found.facts


def test_a_drift_is_trusted_less_than_even_motion():
    limits = Limits()
    assert limits.trust_in("even") == limits.trust_in("even and fitted") == limits.trust > limits.trust_drift
    assert limits.trust_in("nod") == np.inf
    assert {limits.trust_in(shape) for shape in ("ramp", "curve", "drift")} == {limits.trust_drift}


@pytest.mark.parametrize("tells", ["misfit", "what was seen"])
def test_the_axis_is_that_along_which_motion_explains_most(tells: str):
    moved, still = a_moved_scan().moved, a_moved_scan().reference.array
    axes = [phase_encode_axis(moved.affine, name) for name in PE_AXES]
    seen, limits = None, Limits()
    if tells == "what was seen":  # the misfit, whichever way it falls, counts next to nothing beside the limit
        seen, limits = moved.array - still, Limits(cost_fall=1e3)
    assert _likeliest_axis(MagnitudeScan(moved), axes, seen, limits) == phase_encode_axis(moved.affine, "AP")


def test_the_corrected_head_lies_where_the_scan_shows_it():
    scan, found = a_moved_scan().moved, its_estimate()
    problem = MagnitudeScan(scan).problem(1)[0]
    poses = np.concatenate([found.trajectory.translations, found.trajectory.rotations], axis=1)
    still = problem.solve(poses, None, 2, 5)
    offset = displacement(still, problem.scan, rigid_basis(still, problem.affine, problem.centre))
    assert np.abs(offset).max() < 0.1


def test_a_still_head_comes_back_bit_for_bit_with_the_reason():
    rng = np.random.default_rng(1)
    real, imaginary = 0.01 * rng.standard_normal((2, *a_head().shape))
    noisy = np.abs(a_head().array + real + 1j * imaginary)
    still = a_head().with_array((1000 * noisy).astype(np.int16))

    found = correct(still, "motion", pe_axis="AP", force=False)

    assert np.array_equal(found.corrected.array, still.array)
    assert found.report["gate"] == "returned unchanged" and "returned unchanged" in found.report["notes"][-1]


def joined(monkeypatch: pytest.MonkeyPatch, seen: np.ndarray, scan: Volume | None = None, **options: Any) -> Correction:
    """The scan corrected by physics and a network that takes ``seen`` off the scan, and nothing off what is left."""
    answers = iter((-seen.astype(np.float32), np.zeros(seen.shape, np.float32)))
    decision = Decision("corrected", {"gate": "corrected"}, [])
    shown = []

    def network(job: Job, *_: object) -> Change:
        assert job.may_refrain == (not shown and not options.get("force", True)), "what is left is always little"
        shown.append(job.scan.volume.array)
        return Change(next(answers), decision, "cpu", {})

    monkeypatch.setattr("BrainDiffLogic.correction.by_network", network)
    scan = scan or a_moved_scan().moved
    found = correct(scan, "motion", pe_axis="AP", **{"force": True, **options})
    assert np.array_equal(shown[0], scan.array)
    assert len(shown) == 1 or np.allclose(shown[1], found.corrected.array, rtol=1e-6, atol=1e-6)
    return found


def test_what_the_network_sees_too_is_taken_off(monkeypatch: pytest.MonkeyPatch):
    moved, still = a_moved_scan().moved, a_moved_scan().reference.array
    head = head_mask(moved.array)
    seen = 0.2 * (moved.array - still) + 0.05 * np.random.default_rng(0).standard_normal(moved.shape)
    found = joined(monkeypatch, seen)
    half = found.with_strength(0.5)

    motion = found.report["motion"]
    assert motion["pe_axis"] == "AP" and len(motion["trajectory"]) == 47
    assert motion["agreement"] > 0.05 and 0 < motion["share_taken_off"] <= 1
    before, after = (np.abs(image - still)[head].mean() for image in (moved.array, found.corrected.array))
    assert after < 0.93 * before
    assert np.array_equal(found.difference.array, found.corrected.array - moved.array)
    assert np.abs(half.difference.array).sum() == pytest.approx(0.5 * np.abs(found.difference.array).sum(), rel=1e-3)
    json.dumps(found.report)


def test_what_is_left_after_physics_is_corrected_however_little_it_is(monkeypatch: pytest.MonkeyPatch):
    moved = a_moved_scan().moved
    monkeypatch.setattr("BrainDiffLogic.correction.decide", lambda *_, **__: Decision("corrected", {}, []))
    monkeypatch.setattr("BrainDiffLogic.correction.judge", lambda *_: SimpleNamespace(refused="", notes=[]))
    found = joined(monkeypatch, 0.2 * (moved.array - a_moved_scan().reference.array), force=False)
    assert found.report["motion"]["share_taken_off"] > 0, "the network was asked twice"


def test_integers_over_their_whole_range_are_corrected_as_floats_are(monkeypatch: pytest.MonkeyPatch):
    moved = a_moved_scan().moved
    seen = 0.2 * (moved.array - a_moved_scan().reference.array)
    gain, offset = 60000 / float(moved.array.max()), -30000
    whole = moved.with_array(np.round(gain * moved.array + offset).astype(np.int16))
    one = joined(monkeypatch, seen).difference.array
    other = joined(monkeypatch, gain * seen, whole).difference.array
    np.testing.assert_allclose(other / gain, one, atol=0.02)


def test_poses_with_which_the_network_does_not_agree_are_not_acted_on(monkeypatch: pytest.MonkeyPatch):
    moved = a_moved_scan().moved
    seen = 0.05 * np.random.default_rng(0).standard_normal(moved.shape) * (moved.array > 0.4)
    found = joined(monkeypatch, seen)
    assert found.report["motion"]["share_taken_off"] == 0
    assert "alone: no motion was found" in found.report["notes"][-1]
    np.testing.assert_allclose(found.difference.array, -seen, atol=1e-5)


def test_nothing_is_searched_where_the_network_finds_nothing(monkeypatch: pytest.MonkeyPatch):
    def no_search(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("BrainDiffLogic.motion.estimate.estimate_motion", no_search)
    found = joined(monkeypatch, np.zeros(a_moved_scan().moved.shape))
    assert np.array_equal(found.corrected.array, a_moved_scan().moved.array) and found.report["motion"] is None


def test_hot_voxels_and_the_zero_of_the_units_do_not_change_what_is_seen():
    scan = a_moved_scan().moved
    hot = scan.array.copy()
    hot[0, 0, :3] = 90
    plain, other, spiked = (
        MagnitudeScan(scan.with_array(array)).array for array in (scan.array, 700 * scan.array + 50, hot)
    )
    np.testing.assert_allclose(other, plain, atol=1e-4)
    np.testing.assert_allclose(spiked[1:], plain[1:], atol=0.01)
    assert spiked.max() < 2


def test_the_share_done_rises_to_one(monkeypatch: pytest.MonkeyPatch):
    seen = 0.3 * (a_moved_scan().moved.array - a_moved_scan().reference.array)
    shares: list[float] = []
    joined(monkeypatch, seen, progress=lambda share, stage: shares.append(share))
    assert shares == sorted(shares) and shares[0] < 0.2 and shares[-1] == 1


def test_of_the_hypotheses_that_one_is_chosen_that_agrees_most():
    scan = a_moved_scan()
    agreeing = estimate_motion(scan.moved, "AP", seen=scan.moved.array - scan.reference.array)
    opposite = estimate_motion(scan.moved, "AP", seen=scan.reference.array - scan.moved.array)
    assert agreeing.facts["agreement"] > 0.3 > opposite.facts["agreement"]
    assert agreeing.facts["shape"] == "even" != opposite.facts["shape"]


def test_a_drift_goes_on_beyond_the_coarse_lines_where_other_poses_stay():
    rng = np.random.default_rng(0)
    slope, even = rng.standard_normal(6), rng.standard_normal((20, 6))
    ramp = (np.arange(20) - 10)[:, None] * slope
    poses = _of_all_lines({"even": even}, ramp, slice(30, 50), 80)
    np.testing.assert_allclose(np.diff(poses["drift"], axis=0), np.broadcast_to(slope, (79, 6)), atol=1e-9)
    assert np.array_equal(poses["even"][30 + 2 : 50 - 2], even[2:-2])
    assert np.array_equal(poses["even"][:32], np.broadcast_to(even[2], (32, 6)))


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
        assert abs(LineFit(problem, wrong).halves_agree()) < Limits().halves


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


def test_what_lies_outside_of_a_mask_stays_as_it_was():
    scan = a_moved_scan().moved
    mask = ndimage.binary_dilation(a_head().array > 0.3)
    stripped = scan.with_array(scan.array * mask)
    change = artifact(stripped, its_estimate())
    outside = ~ndimage.binary_dilation(mask, iterations=4)

    assert not change[outside].any() and np.abs(change[mask]).max() > 0.02


def test_cancelling_stops_the_search():
    asked = iter(range(1000))
    with pytest.raises(Cancelled):
        estimate_motion(a_moved_scan().moved, "AP", cancelled=lambda: next(asked) > 3)


def test_a_stack_too_thin_is_refused_by_the_search_and_left_to_the_network():
    thin = Volume(a_head().array[:, :, 20:24], a_head().affine)
    with pytest.raises(InputError, match="4 voxels along an axis"):
        estimate_motion(thin)
    found = correct(thin, "motion", force=True)
    assert "mc-net alone" in found.report["notes"][-1] and "needs 16 or more" in found.report["notes"][-1]
    assert np.array_equal(found.corrected.array, correct(thin, "mc-net", force=True).corrected.array)


@pytest.mark.parametrize(
    ("fall", "rings", "moved", "reason"),
    [
        (0.008, 0.5, True, "falls by 0.80%"),
        (0.004, 0.5, False, "no motion explains this scan: the misfit falls by 0.40%"),
        (0.004, 9.0, False, "the head moved"),
    ],
)
def test_only_what_still_heads_never_show_is_called_motion(fall, rings, moved, reason):
    none = Hypothesis(np.zeros((2, 6)), np.zeros((1, 1, 1)), 1.0, "even", 100.0)
    found = decision(Search(none, none, fall, rings, "ramp", np.zeros((2, 6)), ()), Limits(0.005))
    assert found[0] == moved and reason in found[1]


def test_an_unknown_axis_is_a_mistake_and_no_scan_to_leave_alone():
    with pytest.raises(InputError, match="'XX' is unknown"):
        correct(a_moved_scan().moved, "motion", pe_axis="XX")


def test_the_shipped_limits_are_those_of_the_library():
    assert vars(load_checkpoint("motion")[0]) == pytest.approx(vars(Limits()))


def test_the_motion_has_no_disagreement_map():
    with pytest.raises(InputError, match="no disagreement map"):
        correct(a_moved_scan().moved, "motion", disagreement=True)


def test_the_command_prints_and_writes_what_it_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, csv = tmp_path / "scan.nii.gz", tmp_path / "motion.csv"
    write_volume(a_moved_scan().moved, path)
    path.with_name("scan.json").write_text('{"PhaseEncodingDirection": "j-"}')

    assert main(["find-motion", str(path), "--save-trajectory", str(csv)]) == 0
    assert "phase encoding AP" in capsys.readouterr().out
    assert len(csv.read_text().splitlines()) == 48
    assert main(["find-motion", str(path), "--save-trajectory", str(csv)]) == 2
