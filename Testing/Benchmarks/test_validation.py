"""The results table counts what it says it counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from validation import cases, in_stratum, markdown, table, write_pairs

from BrainDiffLogic import write_volume
from BrainDiffLogic.evaluation.pairs import read_pairs
from BrainDiffLogic.volume import Volume


def a_row(case: str, method: str, severity: float, mre: float) -> dict[str, str]:
    return {"case": case, "method": method, "severity": str(severity), "mre": str(mre), "psnr": "20", "ssim": "0.8",
            "tenengrad_ratio": "1"}  # fmt: skip


def test_a_volume_is_worse_above_1_mm_by_any_amount_and_below_by_more_than_1_percent() -> None:
    rows = []
    for case, severity, after in (("a", 2, 0.1001), ("b", 3, 0.09), ("c", 0.6, 0.1009), ("d", 0.7, 0.102)):
        rows += [a_row(case, "do nothing", severity, 0.1), a_row(case, "corrector", severity, after)]
    worse = {(r["severity"], r["method"]): r["worse_than_input"] for r in table(rows)}
    assert worse["all above 1 mm", "corrector"] == 0.5
    assert worse["all below 1 mm", "corrector"] == 0.5
    assert worse["all above 1 mm", "do nothing"] == 0
    assert worse["0.5-1", "corrector"] == 0.5


def test_means_are_over_the_volumes_of_a_stratum() -> None:
    rows = [a_row(case, "do nothing", severity, mre) for case, severity, mre in (("a", 2.5, 0.1), ("b", 3.5, 0.3))]
    [mean] = [row for row in table(rows) if row["severity"] == "2-4"]
    assert mean["mre"] == pytest.approx(0.2) and mean["volumes"] == 2
    assert "| 2-4 | do nothing | 2 | 20.00 | 0.800 | 0.200 | 1.000 | 0 % |" in markdown([mean])


def test_every_case_lies_in_one_stratum() -> None:
    for case in cases():
        assert sum(in_stratum(case.severity, name) for name in ("still", "<0.5", "0.5-1", "1-2", "2-4", ">4")) == 1


def test_the_cases_that_are_there_are_listed_for_evaluate(tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    volume = Volume(np.arange(27, dtype=np.float32).reshape(3, 3, 3), np.eye(4))
    for part in ("moved", "still"):
        write_volume(volume, tmp_path / "cases" / f"pycortex-S1_nod-1.2mm-AP_{part}.nii.gz")
    write_pairs(tmp_path)
    [pair] = read_pairs(tmp_path / "pairs.csv")
    assert (pair.subject, pair.severity, pair.facts["scanner"]) == ("pycortex-S1", 1.2, "pycortex")
