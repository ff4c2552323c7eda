"""The estimate of severity, its calibration, its weights, and the gate in ``correct`` and ``braindiff correct``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from BrainDiffLogic import correct, read_volume
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models import checkpoints
from BrainDiffLogic.models.severity import load_severity, shipped_weights
from BrainDiffLogic.severity import aggregate, estimate_severity, look
from BrainDiffLogic.training import severity
from BrainDiffLogic.training.severity import Judged
from BrainDiffLogic.volume import Volume, to_sagittal
from Harness.command_line import braindiff
from Harness.correctors import CARD, save_tiny, tiny_corrector
from Harness.severities import save_severity, severity_network

MODEL = (tiny_corrector(), CARD)
STILL, MOVED = 0.1, 1.0
"""What the network says of a scan that is to be returned unchanged (0.2 mm), and of one to correct (2 mm)."""

Install = Callable[[float], Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes severity weights that say this of every slice the shipped ones."""
    monkeypatch.setattr(checkpoints, "shipped_folder", lambda: tmp_path / "shipped" / "Checkpoints")
    return lambda raw: save_severity(tmp_path / "shipped" / "Severity" / "severity.safetensors", raw)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    wide = {"raw": [-500.0, 500.0], "mm": [0.0, 1000.0], "error_mm": [1.0, 1.0]}
    return save_severity(tmp_path_factory.mktemp("severity") / "own.safetensors", calibration=wide)


# The estimate


def test_the_estimate_is_what_the_calibration_makes_of_the_slices(a_head: Volume, tmp_path: Path) -> None:
    found = estimate_severity(a_head, save_severity(tmp_path / "a.safetensors", raw=1.5))
    assert found.volume_mm == pytest.approx(3.5) and found.expected_error_mm == pytest.approx(0.45)
    known = np.isfinite(found.slices_mm)
    np.testing.assert_allclose(found.slices_mm[known], 3.5)
    head = to_sagittal(a_head).max(axis=(1, 2)) > 0
    assert found.slices_mm.shape == head.shape and head[known].all() and known.sum() > 0.7 * head.sum()


def test_slices_are_looked_at_as_after_training() -> None:
    network, stack = severity_network(), np.random.default_rng(1).random((6, 64, 64), dtype=np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(stack[:, None])).T.numpy()
    places, *found = look(network.train(), stack)
    np.testing.assert_allclose(found, expected[:, places], rtol=1e-4, atol=1e-5)


def test_the_slice_with_most_motion_is_named(a_head: Volume, weights: Path) -> None:
    found = estimate_severity(a_head, weights)
    assert found.slices_mm[found.worst_slice] == np.nanmax(found.slices_mm) > np.nanmin(found.slices_mm)


@given(gain=st.floats(0.01, 100), offset=st.floats(-50, 50))
@settings(max_examples=4)
def test_units_do_not_change_the_estimate(gain: float, offset: float, weights: Path) -> None:
    rng = np.random.default_rng(1)
    grid = np.linalg.norm(np.stack(np.meshgrid(*[np.linspace(-1, 1, 24)] * 3, indexing="ij")), axis=0)
    array = np.where(grid < 0.8, 1 + 0.2 * rng.random(grid.shape), 0.02 * rng.random(grid.shape))
    one, other = (Volume(a, np.diag([3.0, 3, 3, 1])) for a in (array, gain * array + offset))
    expected, found = estimate_severity(one, weights), estimate_severity(other, weights)
    assert found.volume_mm == pytest.approx(expected.volume_mm, abs=2e-3)


def test_the_order_of_storage_does_not_change_the_estimate(a_head: Volume, weights: Path) -> None:
    turned = Volume(a_head.array.transpose(2, 0, 1)[:, ::-1], a_head.affine[:, [2, 0, 1, 3]] @ np.diag([1, -1, 1, 1]))
    turned.affine[:3, 3] = a_head.affine[:3, 3] - 47 * turned.affine[:3, 1]
    expected, found = (estimate_severity(volume, weights) for volume in (a_head, turned))
    assert found.volume_mm == pytest.approx(expected.volume_mm, rel=1e-4)
    np.testing.assert_allclose(found.slices_mm, expected.slices_mm, rtol=1e-4)


def test_an_unsure_slice_does_not_move_the_volumes_value() -> None:
    sure = np.array([0.4, 0.5, 0.6])
    assert aggregate(np.append(sure, 9.0), np.array([-2.0, -2.0, -2.0, 1.0])) == 0.6


@given(st.lists(st.tuples(st.floats(-1, 3), st.floats(-3, 1)), min_size=1, max_size=30))
def test_the_volumes_value_is_that_of_one_of_its_slices(rows: list[tuple[float, float]]) -> None:
    values, spreads = np.array(rows).T
    assert aggregate(values, spreads) in values


# Calibration


@given(st.lists(st.tuples(st.floats(-1, 2), st.floats(0, 8)), min_size=2, max_size=80))
def test_a_calibration_never_falls(rows: list[tuple[float, float]]) -> None:
    table = severity.calibrate([Judged(raw, severity, {}) for raw, severity in rows])
    assert all(np.all(np.diff(column) >= 0) for column in table.values())
    assert max(table["mm"]) <= max(severity for _, severity in rows) + 1e-4


def test_a_network_that_knows_the_severity_is_calibrated_to_it() -> None:
    severities = np.linspace(0, 6, 200)
    rows = [Judged(float(np.log1p(severity)), severity, {}) for severity in severities]
    table = severity.calibrate(rows)
    np.testing.assert_allclose(severity.in_mm(rows, table), severities, atol=0.2)
    assert max(table["error_mm"]) < 0.2


def test_a_decision_is_wrong_below_03_and_above_1_mm_alone() -> None:
    estimates = np.array([0.9, 0.1, 0.9, 0.1, 0.1, 0.9])
    severities = np.array([0.0, 0.2, 0.5, 0.5, 2.0, 2.0])
    found = severity.wrong(estimates, severities, 0.5)
    np.testing.assert_array_equal(found, [True, False, False, False, True, False])


def test_the_threshold_parts_still_scans_from_those_that_show_motion() -> None:
    severities = np.array([0, 0, 0.1, 0.2, 1.5, 2, 3, 4])
    estimates = np.array([0, 0.1, 0.3, 0.35, 0.8, 2, 3, 0.1])  # the last moved where nobody sees it
    traces = np.array([False] * 4 + [True] * 3 + [False])
    threshold = severity.best_threshold(estimates, severities, traces)
    assert 0.35 < threshold <= 0.8
    found = severity.gate_errors(estimates, severities, traces, threshold)
    assert (found["wrong"], found["volumes"], found["wrong_where_seen"]) == (0.125, 8, 0.0)


# Weights


def test_the_shipped_weights_load_and_are_not_listed_as_a_corrector() -> None:
    path = shipped_weights()
    assert path is not None and path.stem not in checkpoints.available()
    model = load_severity(path)
    assert 0.1 <= model.threshold_mm <= 1.0
    assert sum(parameter.numel() for parameter in model.network.parameters()) < 500_000


def test_weights_that_do_not_serve_are_refused(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(InputError, match="no such severity network"):
        load_severity(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="no severity network"):
        load_severity(save_tiny(tmp_path / "corrector.safetensors"))
    with pytest.raises(InputError, match="no calibration"):
        load_severity(save_severity(tmp_path / "a.safetensors", calibration={"raw": [0.0], "mm": []}))
    with pytest.raises(InputError, match="do not fit"):
        load_severity(save_severity(tmp_path / "b.safetensors", arguments={"channels": [4, 6], "heads": 2}))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    tampered = save_severity(tmp_path / "c.safetensors")
    tampered.write_bytes(data)
    with pytest.raises(InputError, match="sha256"):
        load_severity(tampered)


def test_a_severity_network_is_no_corrector(weights: Path) -> None:
    with pytest.raises(InputError, match="family 'severity'"):
        checkpoints.load_checkpoint(weights)


def test_without_weights_the_estimate_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, a_head: Volume) -> None:
    monkeypatch.setattr(checkpoints, "shipped_folder", lambda: tmp_path / "Checkpoints")
    with pytest.raises(InputError, match="are missing"):
        estimate_severity(a_head)


# The gate


def test_a_still_scan_comes_back_unchanged_and_the_report_says_so(install: Install, a_head: Volume) -> None:
    install(STILL)
    result = correct(a_head, MODEL, device="cpu")
    assert result.corrected.array.tobytes() == a_head.array.tobytes() and not result.difference.array.any()
    report = result.report
    assert (report["gate"], report["severity_mm"], report["severity_error_mm"]) == ("returned unchanged", 0.2, 0.11)
    assert report["gate_threshold_mm"] == 0.5 and report["severity_worst_slice_mm"] == 0.2
    [note] = report["notes"]
    assert note.startswith("returned unchanged: shows 0.2 mm") and "--force" in note
    assert json.dumps(report, allow_nan=False)
    assert not result.with_strength(0.5).difference.array.any()


def test_a_still_scan_is_corrected_by_force(install: Install, a_head: Volume) -> None:
    install(STILL)
    result = correct(a_head, MODEL, device="cpu", force=True)
    assert (result.report["gate"], result.report["forced"]) == ("forced", False)
    assert result.difference.array.any() and result.report["notes"] == []


@pytest.mark.parametrize("force", [False, True])
def test_a_moved_scan_is_corrected(force: bool, install: Install, a_head: Volume) -> None:
    install(MOVED)
    result = correct(a_head, MODEL, device="cpu", force=force)
    assert (result.report["gate"], result.report["severity_mm"]) == ("corrected", 2.0)
    assert result.difference.array.any() and result.report["notes"] == []


def test_who_measures_a_model_leaves_the_gate_out(install: Install, a_head: Volume) -> None:
    install(STILL)
    result = correct(a_head, MODEL, device="cpu", gate=False)
    assert (result.report["gate"], result.report["severity_mm"]) == ("off", None)
    assert result.difference.array.any() and result.report["notes"] == []


def test_without_weights_a_scan_is_corrected_and_the_report_notes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, a_head: Volume
) -> None:
    monkeypatch.setattr(checkpoints, "shipped_folder", lambda: tmp_path / "Checkpoints")
    result = correct(a_head, MODEL, device="cpu")
    assert result.difference.array.any() and result.report["gate"] == "off"
    assert len(result.report["notes"]) == 1 and "no motion gate" in result.report["notes"][0]


def test_strength_0_is_the_input_on_either_side_of_the_gate(install: Install, a_head: Volume) -> None:
    for raw in (STILL, MOVED):
        install(raw)
        assert correct(a_head, MODEL, device="cpu", strength=0).corrected.array.tobytes() == a_head.array.tobytes()


def test_the_command_returns_a_still_scan_and_corrects_it_by_force(
    install: Install, a_scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(STILL)
    model, report = save_tiny(tmp_path / "tiny.safetensors"), tmp_path / "report.json"
    arguments = ("correct", a_scan, tmp_path / "out.nii.gz", "--model", model, "--report", report)
    assert braindiff(*arguments) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1].startswith(f"braindiff correct: {a_scan}: returned unchanged: shows 0.2 mm")
    assert printed.out.startswith("0.0 % of the head's intensity changed")
    np.testing.assert_array_equal(read_volume(tmp_path / "out.nii.gz").array, read_volume(a_scan).array)
    assert json.loads(report.read_text())["gate"] == "returned unchanged"
    assert braindiff(*arguments, "--force", "--overwrite") == 0
    assert json.loads(report.read_text())["gate"] == "forced"
    assert (read_volume(tmp_path / "out.nii.gz").array != read_volume(a_scan).array).any()


def test_a_slice_of_any_size_gives_two_finite_numbers() -> None:
    from Harness.severities import severity_network

    network = severity_network()
    for shape in ((8, 8), (16, 24)):
        found = network(torch.rand(2, 1, *shape))
        assert found.shape == (2, 2) and found.isfinite().all()
