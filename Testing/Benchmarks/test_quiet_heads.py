"""The benchmark on quiet heads, on a head of some thousand voxels."""

from pathlib import Path

import numpy as np
import pytest
import quiet_heads
from quiet_heads import NOTHING, Case, append_rows, cases, measured, read_rows, slabs, table

from BrainDiffLogic.images import write_volume
from BrainDiffLogic.volume import Volume


@pytest.fixture
def a_data_folder(tmp_path: Path) -> Path:
    ijk = np.indices((36, 40, 40)).astype(np.float32) - 19.5
    radius = np.sqrt((ijk**2).sum(axis=0))
    head = np.where(radius < 15, 600 + 200 * np.sin(0.5 * ijk[0]) * np.cos(0.5 * ijk[2]), 0).astype(np.float32)
    for kind, name in (("head", "pycortex-S1"), ("brain", "ds002748-21")):
        (tmp_path / f"t1_{kind}").mkdir()
        write_volume(Volume(head, np.diag([4.0, 4, 4, 1])), tmp_path / f"t1_{kind}" / f"{name}_T1w.nii.gz")
    return tmp_path


def test_no_two_cases_have_one_name() -> None:
    names = [case.name for case in cases()]
    assert len(names) == len(set(names)) == 48


def test_a_still_case_shows_no_error_but_the_noise(a_data_folder: Path, tmp_path: Path) -> None:
    (row,) = measured(Case("pycortex-S1", "still", "AP", 0.0, 0.04), NOTHING, a_data_folder, tmp_path / "out")
    assert row["mre"] == pytest.approx(0, abs=1e-4)
    assert 0.01 < row["mre_quiet"] < 0.06


def test_a_brain_is_masked_after_it_moved(a_data_folder: Path, tmp_path: Path) -> None:
    moved, still, _ = slabs(Case("ds002748-21", "steps", "AP", 3.0, 0.03), a_data_folder, tmp_path / "out")
    assert 0.1 < (moved.array == 0).mean() < 0.9
    np.testing.assert_array_equal(moved.array == 0, still.array == 0)
    assert np.abs(moved.array - still.array).max() > 0.05


def test_rows_come_back_as_they_were_and_the_table_counts_what_is_worse_than_the_input(tmp_path: Path) -> None:
    same = {"head": "h", "kind": "steps", "severity": 1.5, "noise": 0.03, "mre_quiet": 0.1, "ssim": 0.9}
    rows = [
        {"case": case, **same, "model": model, "strength": 1.0, "mre": mre, "tenengrad_ratio": 1.0}
        for case, model, mre in (("a", NOTHING, 0.1), ("b", NOTHING, 0.1), ("a", "new", 0.102), ("b", "new", 0.05))
    ]
    append_rows(tmp_path / "rows.csv", rows[:1])
    append_rows(tmp_path / "rows.csv", rows[1:])
    assert read_rows(tmp_path / "rows.csv") == rows
    assert table(rows).splitlines()[-1].endswith("| 0.0760 | 0.1000 | 0.9000 | 1.0000 | 50% |")


def test_a_case_is_simulated_once(a_data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("pycortex-S1", "tremor", "SI", 1.5, 0.03)
    slabs(case, a_data_folder, tmp_path / "out")
    monkeypatch.setattr(quiet_heads, "simulate_motion", lambda *_: pytest.fail("simulated again"))
    slabs(case, a_data_folder, tmp_path / "out")
