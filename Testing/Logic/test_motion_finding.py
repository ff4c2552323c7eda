"""Motion found in the magnitude alone: derivatives, symmetry, evidence; what is found, left alone, refused."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from moved_head import a_head, a_moved_scan, search_once
from scipy import ndimage

from BrainDiffLogic import correct, write_volume
from BrainDiffLogic.commands.main import main
from BrainDiffLogic.correction import Change, Correction, Job
from BrainDiffLogic.errors import Cancelled, InputError
from BrainDiffLogic.metrics.sharpness import noise_of
from BrainDiffLogic.models.checkpoints import load_checkpoint
from BrainDiffLogic.motion.estimate import (
    Hypothesis,
    Limits,
    MotionEstimate,
    Search,
    _likeliest_axis,
    _of_all_lines,
    artifact,
    decision,
    estimate_motion,
)
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
from BrainDiffLogic.motion.sensitivity import Sensitivity
from BrainDiffLogic.motion.simulation import displacement, rigid_basis
from BrainDiffLogic.scan import head_mask
from BrainDiffLogic.severity import Decision
from BrainDiffLogic.volume import Volume

OBLIQUE = np.array([[-2.9, 0.2, 0.1, 60.0], [0.1, 3.1, -0.3, -70.0], [0.2, 0.3, 2.4, -50.0], [0, 0, 0, 1]])
"""Anisotropic voxels, the first axis against R."""


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


def test_poses_are_believed_as_far_as_the_network_agrees():
    limits = Limits()
    assert limits.trust(-0.3) == limits.trust(limits.agreement) == 0
    assert limits.trust((limits.agreement + limits.sure) / 2) == pytest.approx(0.5)
    assert limits.trust(limits.sure) == limits.trust(0.9) == 1


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


def joined(
    monkeypatch: pytest.MonkeyPatch, seen: np.ndarray, scan: Volume | None = None, rate: float = 1.0, **options: Any
) -> Correction:
    """The scan corrected by physics and a network.

    The network takes ``seen`` off the scan, and 1 - ``rate`` times s of it once the share s of the artifact is gone;
    its disagreement map, where that is asked for, says how often the network was asked.
    """
    scan = scan or a_moved_scan().moved
    shown, made, changes = [], [], []

    def network(job: Job, *_: object) -> Change:
        if not job.motion.correct:
            return Change(np.zeros(scan.shape, np.float32), job.motion, "cpu", {})
        assert job.may_refrain == (not shown and not options.get("force", True)), "what is left is always little"
        shown.append(job.scan.volume.array)
        gone = rate * np.linalg.norm(scan.array - shown[-1]) / np.linalg.norm(made[0]) if made else 0.0
        changes.append(((gone - 1) * seen).astype(np.float32))
        apart = np.full(scan.shape, len(shown), np.float32) if job.disagreement else None
        facts = {"disagreement": {"answers": 6, "calibrated": True, "share": 0.8}} if job.disagreement else {}
        return Change(changes[-1], job.motion, "cpu", facts, disagreement=apart)

    def physics(*arguments: Any, **named: Any) -> np.ndarray:
        made.append(artifact(*arguments, **named))
        return made[0]

    monkeypatch.setattr("BrainDiffLogic.correction.by_network", network)
    monkeypatch.setattr("BrainDiffLogic.motion.estimate.search_poses", search_once)
    monkeypatch.setattr("BrainDiffLogic.motion.estimate.artifact", physics)
    found = correct(scan, "motion", pe_axis="AP", **{"force": True, **options})
    assert np.array_equal(shown[0], scan.array)
    if found.report["motion"] and found.report["motion"]["share_taken_off"]:
        last = np.maximum(shown[-1].astype(np.float64) + changes[-1], scan.array.min())
        np.testing.assert_allclose(found.corrected.array, last, rtol=1e-5, atol=1e-5 * np.abs(scan.array).max())
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


@pytest.mark.parametrize(
    ("part", "noise", "overrules", "searched", "gate"),
    [
        (0.2, 0.0, 0.25, True, "corrected"), (0.001, 0.0, 0.25, False, "returned unchanged"),
        (0.0, 0.1, 0.25, True, "returned unchanged"), (0.2, 0.0, 1.0, True, "returned unchanged"),
    ],
)  # fmt: skip
def test_where_the_gate_sees_no_motion_network_and_poses_must_find_it(
    monkeypatch: pytest.MonkeyPatch, part, noise, overrules, searched, gate
):
    monkeypatch.setattr("BrainDiffLogic.correction.OVERRULES", overrules)
    returned = Decision("returned unchanged", {"gate": "returned unchanged"}, ["shows 0.0 mm"])
    monkeypatch.setattr("BrainDiffLogic.correction.decide", lambda *_, **__: returned)
    moved, still = a_moved_scan().moved.array, a_moved_scan().reference.array
    seen = part * (moved - still) + noise * np.random.default_rng(0).standard_normal(moved.shape) * (moved > 0.4)
    found = joined(monkeypatch, seen)
    assert (found.report["motion"] is not None) == searched and found.report["gate"] == gate
    assert found.difference.array.any() == (gate == "corrected")
    assert ("the motion gate saw none" in found.report["notes"][-1]) == (gate == "corrected")
    assert ("shows 0.0 mm" in found.report["notes"]) == (gate != "corrected")


@pytest.mark.parametrize(
    ("rate", "noise", "share"),
    [(0.5, 0.0, 1.0), (1.0, 0.0, 1.0), (4.0, 0.0, 0.25), (0.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (1.0, 0.15, 1.0)],
)
def test_as_much_is_taken_off_as_the_network_finds_less_of_it(monkeypatch: pytest.MonkeyPatch, rate, noise, share):
    scan, limits = a_moved_scan(), Limits()
    estimate = MotionEstimate(scan.trajectory, "AP", True, "", {"shape": "drift"})
    monkeypatch.setattr("BrainDiffLogic.motion.estimate.estimate_motion", lambda *_, **__: estimate)
    seen = 0.2 * (scan.moved.array - scan.reference.array)
    seen = seen + noise * np.random.default_rng(0).standard_normal(seen.shape)

    motion = joined(monkeypatch, seen, rate=rate).report["motion"]
    trust = limits.trust(motion["agreement"])
    assert trust == 1 if noise == 0 else 0.1 < trust < 0.9
    assert motion["share_taken_off"] == pytest.approx(trust * share, abs=0.02)  # no voxel falls below the lowest


@pytest.mark.parametrize(("noise", "share"), [(0.0, 0.0), (0.5, 1.0)])
def test_a_nod_is_taken_off_whole_unless_the_network_sees_it_itself(monkeypatch: pytest.MonkeyPatch, noise, share):
    scan = a_moved_scan()
    estimate = MotionEstimate(scan.trajectory, "AP", True, "", {"shape": "nod"})
    monkeypatch.setattr("BrainDiffLogic.motion.estimate.estimate_motion", lambda *_, **__: estimate)
    seen = scan.moved.array - scan.reference.array
    seen = seen + noise * np.random.default_rng(0).standard_normal(seen.shape)

    found = joined(monkeypatch, seen)
    assert (found.report["motion"]["agreement"] > Limits().nod_seen) == (noise == 0)
    assert found.report["motion"]["share_taken_off"] == share
    assert any("it sees the nod that was found itself" in note for note in found.report["notes"]) == (noise == 0)


def test_what_is_left_after_physics_is_corrected_however_little_it_is(monkeypatch: pytest.MonkeyPatch):
    moved = a_moved_scan().moved
    monkeypatch.setattr("BrainDiffLogic.correction.decide", lambda *_, **__: Decision("corrected", {}, []))
    monkeypatch.setattr("BrainDiffLogic.correction.judge", lambda *_: SimpleNamespace(refused="", notes=[]))
    found = joined(monkeypatch, 0.2 * (moved.array - a_moved_scan().reference.array), force=False)
    assert found.report["motion"]["share_taken_off"] > 0, "the network was asked again"


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


def test_of_the_hypotheses_that_one_is_chosen_that_agrees_most(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("BrainDiffLogic.motion.estimate.search_poses", search_once)
    scan, unfitted = a_moved_scan(), Limits(halves=1.0)  # poses that are fitted agree with anything that poses can make
    agreeing = estimate_motion(scan.moved, "AP", seen=scan.moved.array - scan.reference.array, limits=unfitted)
    opposite = estimate_motion(scan.moved, "AP", seen=scan.reference.array - scan.moved.array, limits=unfitted)
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
    ("said", "error", "told"),
    [
        ("FINUFFT general malloc failure", MemoryError, "does not fit into the memory; the model mc-net takes half"),
        ("FINUFFT eps too small", RuntimeError, "FINUFFT eps too small"),
    ],
)
def test_too_little_memory_is_told_as_what_it_is(monkeypatch: pytest.MonkeyPatch, said, error, told):
    class Full:
        def __init__(self, *_: object, **__: object) -> None:
            raise RuntimeError(said)

    monkeypatch.setattr("finufft.Plan", Full)
    with pytest.raises(error, match=told):
        joined(monkeypatch, 0.1 * a_moved_scan().moved.array)


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


@pytest.mark.parametrize(("share", "asked"), [(0.3, 3), (0.0, 1)])
def test_the_disagreement_map_is_of_the_networks_last_answer(monkeypatch: pytest.MonkeyPatch, share, asked):
    moved, still = a_moved_scan().moved.array, a_moved_scan().reference.array
    noise = 0.05 * np.random.default_rng(0).standard_normal(moved.shape) * (moved > 0.4)
    found = joined(monkeypatch, share * (moved - still) + noise * (share == 0), disagreement=True)
    again = found.report["motion"]["share_taken_off"] == 0
    assert again == (share == 0)
    assert np.unique(found.disagreement.array).tolist() == [asked + again], "none was made for the answers before"
    assert any("not of the motion that was found" in note for note in found.report["notes"]) == (share > 0)
    assert found.report["disagreement"]["calibrated"] == (share == 0), "of the network alone it is"
    poses = "trajectory_not_believed" if again else "trajectory"
    assert {name for name in found.report["motion"] if name.startswith("trajectory")} == {poses}


def test_the_command_prints_and_writes_what_it_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, csv = tmp_path / "scan.nii.gz", tmp_path / "motion.csv"
    write_volume(a_moved_scan().moved, path)
    path.with_name("scan.json").write_text('{"PhaseEncodingDirection": "j-"}')

    assert main(["find-motion", str(path), "--save-trajectory", str(csv)]) == 0
    assert "phase encoding AP" in capsys.readouterr().out
    assert len(csv.read_text().splitlines()) == 48
    assert main(["find-motion", str(path), "--save-trajectory", str(csv)]) == 2
