"""The validation cases are what they say, and the cards get the numbers of the evaluations."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cards import check_weights, markdown, rows_of, safety_of
from validation import cases, files_of, resampled, write_pairs

from BrainDiffLogic import write_volume
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.evaluation import safety_suite
from BrainDiffLogic.evaluation.methods import ModelMethod, made_by
from BrainDiffLogic.evaluation.pairs import read_pairs
from BrainDiffLogic.evaluation.report import write_report
from BrainDiffLogic.evaluation.run import MEASURED, PICTURES
from BrainDiffLogic.evaluation.statistics import in_severity_group
from BrainDiffLogic.metrics.measures import MEASURES
from BrainDiffLogic.volume import Volume
from Harness.correctors import save_tiny


def a_row(name: str, method: str, severity: float, mre: float) -> dict[str, object]:
    known = {"name": name, "subject": name, "method": method, "status": MEASURED, "note": "", "severity_mm": severity}
    return {**dict.fromkeys(MEASURES, 0.5), **known, "mre": mre}


def test_every_case_lies_in_one_stratum_and_on_one_side_of_1_mm() -> None:
    for case in cases():
        for groups in (("still", "<0.5", "0.5-1", "1-2", "2-4", ">4"), ("still", "below 1", "above 1")):
            assert sum(in_severity_group(case.severity, group) for group in groups) == 1
    assert len({case.name for case in cases()}) == len(list(cases()))


def test_the_cases_that_are_there_are_listed_for_evaluate(tmp_path: Path) -> None:
    volume = Volume(np.arange(27, dtype=np.float32).reshape(3, 3, 3), np.eye(4))
    chosen = [case for case in cases() if case.subject == "pycortex-S1" and case.pe_axis == "LR"]
    for file in files_of(chosen[0], tmp_path):
        file.parent.mkdir(exist_ok=True)
        write_volume(volume, file)
    [pair] = read_pairs(write_pairs(tmp_path))
    assert (pair.subject, pair.severity, pair.facts["scanner"]) == ("pycortex-S1", chosen[0].severity, "pycortex")
    assert (pair.facts["pe_axis"], pair.facts["plane"]) == ("LR", "through-plane")
    assert pair.facts["group"] == "voxels as they are"


@pytest.mark.parametrize("voxel", [0.75, 1.5])
def test_a_scan_on_other_voxels_lies_where_it_lay(voxel: float) -> None:
    affine = np.array([[0, 0, 1.2, -70], [-1.0, 0, 0, 60], [0, 1.1, 0, -50], [0, 0, 0, 1]])
    i, j, k = np.mgrid[:60, :52, :44]
    array = np.exp(-((i - 30) ** 2 + (j - 20) ** 2 + (k - 25) ** 2) / 60).astype(np.float32)
    other = resampled(Volume(array, affine), voxel)
    np.testing.assert_allclose(other.spacing, voxel, rtol=0.03)
    peak = np.unravel_index(other.array.argmax(), other.shape)
    far = np.linalg.norm(other.affine[:3] @ [*peak, 1] - affine[:3] @ [30, 20, 25, 1])
    assert far <= voxel * np.sqrt(3) / 2 and other.array.max() == pytest.approx(1, abs=0.05)


def test_the_rows_of_a_card_are_those_of_the_evaluation(tmp_path: Path) -> None:
    rows = []
    for name, severity, after in (("a", 2.5, 0.1), ("b", 3.5, 0.4), ("c", 0.5, 0.2)):
        rows += [a_row(name, "do nothing", severity, 0.3), a_row(name, "corrector", severity, after)]
        picture = tmp_path / PICTURES / name / "corrector.png"
        picture.parent.mkdir(parents=True)
        picture.write_bytes(b"")
    write_report(tmp_path, rows)
    found = {(row["severity"], row["method"]): row for row in rows_of(tmp_path, ["severity_mm"])}
    mean = found["all above 1 mm", "corrector"]
    assert (mean["volumes"], mean["mre"], mean["worse_than_input"]) == (2, 0.25, 0.5)
    assert found["all below 1 mm", "corrector"]["mre"] == 0.2
    assert found["all of 1 to 4 mm", "do nothing"]["worse_than_input"] is None
    table = list(csv.reader(markdown([mean]).splitlines(), delimiter="|"))
    assert [cell.strip() for cell in table[2][1:5]] == ["all above 1 mm", "corrector", "2", "0.50"]
    assert table[2][-2].strip() == "50 %"


@pytest.mark.parametrize(("second", "failed"), [(0.8, ["lesions, 3 mm (>= 0.9): 0.7 on a, 0.8 on b"]), (None, None)])
def test_the_safety_of_a_card_is_that_of_the_report_and_says_all(second: float | None, failed: list | None) -> None:
    asked = {"method": "m", "check": "lesions", "relation": ">=", "limit": 0.9}
    entries = [
        {**asked, "head": "a", "case": "3 mm", "number": 0.7, "passed": False},
        {**asked, "head": "b_still", "case": "3 mm", "number": second, "passed": False},
        {**asked, "head": "a", "case": "1 mm", "number": 0.95, "passed": True},
        {**asked, "head": "a", "case": "1 mm", "number": 0.1, "passed": False, "method": "another"},
    ]
    found = safety_of({"methods": {"m": {"passed": 1, "of": 2}}, "rows": entries}, "m")
    assert (found["heads"], found["passed"], found["of"]) == (["a", "b_still"], 1, 2)
    assert found["failed"] == (failed or ["lesions, 3 mm (>= 0.9): 0.7 on a, none on b"])


def test_numbers_of_other_weights_do_not_get_onto_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_tiny(tmp_path / "m.safetensors", views=[{"mirrored": True}])
    now = made_by({"m": ModelMethod(model)})["m"]
    folders = [tmp_path / "evaluation", tmp_path / "suite"]
    monkeypatch.setattr(safety_suite, "build_scene", lambda *_: SimpleNamespace(cases=()))
    monkeypatch.setattr(safety_suite, "CHECKS", {"clean in": lambda *_: []})
    still = Volume(np.arange(27, dtype=np.float32).reshape(3, 3, 3), np.eye(4), source="a.nii")
    safety_suite.run_safety({"m": ModelMethod(model)}, [still], folders[1])
    case, (head,) = folders[0] / "cases" / "a.json", (folders[1] / "safety").glob("*.json")
    case.parent.mkdir(parents=True)
    key = json.loads(head.read_text())["key"]
    assert key["made_by"] == now

    def measured(of_case: list, of_head: list) -> None:
        case.write_text(json.dumps({"methods": {"m": {"made_by": of_case}, "do nothing": {"made_by": []}}}))
        head.write_text(json.dumps({"key": {**key, "made_by": of_head}}))

    measured(now, now)
    check_weights(folders, [ModelMethod(model)])
    for other in ((now[:1], now), (now, ["0" * 64, *now[1:]])):
        measured(*other)
        with pytest.raises(InputError, match="m was not measured with the weights"):
            check_weights(folders, [ModelMethod(model)])
    with pytest.raises(InputError, match="n was not measured"):
        check_weights(folders, [ModelMethod(save_tiny(tmp_path / "n.safetensors"))])
