"""The suite as a job: its report, what it keeps, and what it runs again."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from folded_head import a_brain_scene, folded_head

from BrainDiffLogic.errors import InputError, Refused
from BrainDiffLogic.evaluation import safety_suite as suite
from BrainDiffLogic.evaluation.methods import denoised, nothing
from BrainDiffLogic.evaluation.safety_checks import CheckResult, at_least, at_most, ratio
from BrainDiffLogic.evaluation.safety_scene import Scene
from BrainDiffLogic.evaluation.safety_suite import HeadOutcome, run_safety, safety_text, worst
from BrainDiffLogic.volume import Volume


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The suite with two quick checks and a scene that is made already; the list grows by each check that runs."""
    calls: list[str] = []

    def size(method, scene: Scene) -> list[CheckResult]:
        calls.append("size")
        change = float(np.abs(scene.scaled(method(scene.still) - scene.still.array)).mean())
        return [at_most("size", "still", change, 0.001, "", "of the scale")]

    def infinite(method, scene: Scene) -> list[CheckResult]:
        calls.append("infinite")
        return [at_least("infinite", "still", math.nan, 1.0), at_most("infinite", "moved", math.inf, 1.0)]

    monkeypatch.setattr(suite, "CHECKS", {"size": size, "infinite": infinite})
    monkeypatch.setattr(suite, "build_scene", lambda head, seed: a_brain_scene())
    return calls


def test_the_report_has_a_row_for_each_head_method_and_case(tmp_path: Path, counted: list[str]) -> None:
    heads = [folded_head(whole=False), folded_head(whole=False, noise=5)]
    report = run_safety({"do nothing": nothing, "Gaussian": denoised}, heads, tmp_path)
    rows = list(csv.DictReader((tmp_path / "safety.csv").open()))
    assert report == tmp_path / "safety.md" and len(rows) == 2 * 2 * 3 == 12
    assert {row["head"] for row in rows} == {"folded-1", "folded-2"}
    assert {(row["method"], row["passed"]) for row in rows if row["check"] == "size"} == {
        ("do nothing", "True"), ("Gaussian", "False"),
    }  # fmt: skip
    data = json.loads((tmp_path / "safety.json").read_text())
    assert len(data["rows"]) == 12 and data["convention"] and data["rows"][1]["number"] is None
    text = report.read_text()
    assert "| Gaussian | 0 of 3 | size (1), infinite (2) |" in text and "of the scale" in text


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.nii", "b.nii"], ["a", "b"]),
        (["a-2.nii", "x/a.nii", "y/a.nii"], ["a-2", "a-2-", "a-3"]),
        (["x/a.nii", "a-1.nii", "y/a.nii"], ["a-1-", "a-1", "a-3"]),
        (["", "head.nii"], ["head-1", "head-2"]),
    ],
)
def test_no_two_heads_have_one_name(files: list[str], names: list[str]) -> None:
    heads = [replace(folded_head(whole=False), source=file) for file in files]
    assert suite._names(heads) == names


def test_a_method_that_refuses_a_scan_of_a_check_has_not_passed_it_and_stops_nothing(
    tmp_path: Path, counted: list[str]
) -> None:
    def refuse(volume: Volume) -> np.ndarray:
        raise Refused("voxels too large")

    run_safety({"picky": refuse, "do nothing": nothing}, [folded_head(whole=False)], tmp_path)
    rows = list(csv.DictReader((tmp_path / "safety.csv").open()))
    found = {(row["method"], row["check"]): (row["passed"], row["note"]) for row in rows}
    assert found["picky", "size"] == ("False", "refused: voxels too large")
    assert found["do nothing", "size"][0] == "True"
    report = (tmp_path / "safety.md").read_text()
    assert "| picky | 0 of 3 | infinite (2), size (1) |" in report  # of "size" the case that others have
    assert "| do nothing | 1 of 3 | infinite (2) |" in report
    assert "refused FAIL" in report
    counted_alike = json.loads((tmp_path / "safety.json").read_text())["methods"]
    assert counted_alike == {"picky": {"passed": 0, "of": 3}, "do nothing": {"passed": 1, "of": 3}}


def test_what_is_done_is_not_done_again(tmp_path: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    heads = [folded_head(whole=False)]
    first = run_safety({"do nothing": nothing}, heads, tmp_path).read_text()
    assert counted == ["size", "infinite"]
    assert run_safety({"do nothing": nothing}, heads, tmp_path).read_text() == first
    assert counted == ["size", "infinite"]
    run_safety({"do nothing": nothing}, [folded_head(whole=False, noise=5)], tmp_path)
    assert counted == ["size", "infinite"] * 2
    monkeypatch.setattr(suite, "__version__", "0.0.0")
    run_safety({"do nothing": nothing}, [folded_head(whole=False, noise=5)], tmp_path)
    assert counted == ["size", "infinite"] * 3


def test_a_stopped_suite_goes_on_with_the_next_check(
    tmp_path: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(method, scene: Scene) -> list[CheckResult]:
        raise KeyboardInterrupt

    checks = dict(suite.CHECKS)
    monkeypatch.setitem(suite.CHECKS, "infinite", stop)
    with pytest.raises(KeyboardInterrupt):
        run_safety({"do nothing": nothing}, [folded_head(whole=False)], tmp_path)
    assert not (tmp_path / "safety.md").exists()
    monkeypatch.setattr(suite, "CHECKS", checks)
    run_safety({"do nothing": nothing}, [folded_head(whole=False)], tmp_path)
    assert counted == ["size", "infinite"]


def test_progress_rises_to_the_end(tmp_path: Path, counted: list[str]) -> None:
    shares: list[float] = []
    run_safety(
        {"a": nothing, "b": nothing}, [folded_head(whole=False)], tmp_path, lambda share, stage: shares.append(share)
    )
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(shares) == 5


def test_a_damaged_file_and_no_head_are_refused(tmp_path: Path, counted: list[str]) -> None:
    with pytest.raises(InputError, match="heads"):
        run_safety({"do nothing": nothing}, [], tmp_path)
    run_safety({"do nothing": nothing}, [folded_head(whole=False)], tmp_path)
    (file,) = (tmp_path / "safety").glob("*.json")
    file.write_text("{")
    with pytest.raises(InputError, match="damaged"):
        run_safety({"do nothing": nothing}, [folded_head(whole=False)], tmp_path)


def test_the_whole_suite_runs_on_a_brain_and_a_blur_fails_where_it_should(tmp_path: Path) -> None:
    head: Volume = folded_head(whole=False)
    run_safety({"do nothing": nothing, "Gaussian": denoised}, [head], tmp_path)
    rows = list(csv.DictReader((tmp_path / "safety.csv").open()))
    failed = {name: {row["check"] for row in rows if row["method"] == name and row["passed"] == "False"}
              for name in ("do nothing", "Gaussian")}  # fmt: skip
    assert failed["do nothing"] == set()
    assert {"clean in", "idempotence", "implanted lesions", "out of domain"} <= failed["Gaussian"]
    assert "equivariance" not in failed["Gaussian"]


def test_the_worst_head_is_shown_and_one_that_fails_fails_the_row() -> None:
    rows = [HeadOutcome("a", "m", at_least("c", "x", 0.99, 0.9)), HeadOutcome("b", "m", at_least("c", "x", 0.5, 0.9))]
    assert worst(row.outcome for row in rows).number == 0.5
    assert "| x | >= 0.9 | 0.5 FAIL |" in safety_text(rows)
    unknown = at_most("c", "x", math.nan, 1.0)
    assert not unknown.passed and worst([unknown, at_most("c", "x", 9.0, 1.0)]) is unknown


def test_a_share_of_nothing_is_nothing() -> None:
    assert ratio(0.0, 0.0) == 0.0 and ratio(1.0, 0.0) == math.inf and ratio(1.0, 2.0) == 0.5
