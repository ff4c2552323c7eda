"""The pairs of an evaluation: read from a table or a BIDS folder, every wrong row named before any work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from BrainDiffLogic import write_volume
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.evaluation.pairs import find_pairs, read_pairs
from BrainDiffLogic.volume import Volume

HEADER = "moved,reference,subject,severity_mm,scanner"


@pytest.fixture
def a_folder(tmp_path: Path) -> Path:
    """a.nii.gz and b.nii.gz on one grid, also as day1/a.nii.gz; other.nii.gz on another."""
    rng = np.random.default_rng(1)
    (tmp_path / "day1").mkdir()
    for name in ("a.nii.gz", "b.nii.gz", "day1/a.nii.gz"):
        write_volume(Volume(rng.normal(size=(6, 7, 8)).astype(np.float32), np.eye(4)), tmp_path / name)
    write_volume(Volume(rng.normal(size=(6, 7, 9)).astype(np.float32), np.eye(4)), tmp_path / "other.nii.gz")
    return tmp_path


def a_table(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "pairs.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_files_are_relative_to_the_table_and_empty_facts_are_unknown(a_folder: Path) -> None:
    pair, other = read_pairs(a_table(a_folder, "a.nii.gz, b.nii.gz,s1, 1.5,", "b.nii.gz,b.nii.gz,s2,,Prisma"))
    assert (pair.name, pair.subject, pair.severity, dict(pair.facts)) == ("a", "s1", 1.5, {"severity_mm": "1.5"})
    assert pair.moved == a_folder / "a.nii.gz" and pair.reference == a_folder / "b.nii.gz"
    assert other.severity is None and other.facts == {"scanner": "Prisma"}


def test_files_of_one_name_are_told_apart_by_their_folders(a_folder: Path) -> None:
    pairs = read_pairs(a_table(a_folder, "a.nii.gz,b.nii.gz,s1,,", "day1/a.nii.gz,b.nii.gz,s1,,"))
    assert [pair.name for pair in pairs] == ["a", "day1_a"]
    pairs = read_pairs(a_table(a_folder, "a.nii.gz,b.nii.gz,s1,,", "a.nii.gz,a.nii.gz,s1,,"))
    assert [pair.name for pair in pairs] == ["a_b", "a_a"]


def test_every_wrong_row_is_named_with_its_line(a_folder: Path) -> None:
    (a_folder / "broken.nii.gz").write_bytes(b"no gzip")
    table = a_table(
        a_folder, "a.nii.gz,b.nii.gz,s1,1,", "gone.nii.gz,b.nii.gz,s1,1,", "a.nii.gz,other.nii.gz,s1,1,",
        "b.nii.gz,a.nii.gz,,1,", "b.nii.gz,b.nii.gz,s1,much,", "a.nii.gz,b.nii.gz,s2,1,", "pairs.csv,b.nii.gz,s1,1,",
        "broken.nii.gz,b.nii.gz,s1,,", "b.nii.gz,day1/a.nii.gz,s1,-1,",
    )  # fmt: skip
    with pytest.raises(InputError, match="8 rows are wrong") as caught:
        read_pairs(table)
    text = str(caught.value)
    words = {
        3: "moved gone.nii.gz: there is no such file", 4: "different grids", 5: "subject is empty",
        6: "severity_mm 'much'", 7: "the pair of line 2 again", 8: "not one of .nii", 9: "no readable NIfTI",
        10: "severity_mm '-1'",
    }  # fmt: skip
    assert "line 2:" not in text and "\n" not in text
    for line, word in words.items():
        assert f"line {line}: " in text and word in text, word


def test_pairs_that_are_to_be_registered_may_have_different_grids(a_folder: Path) -> None:
    assert len(read_pairs(a_table(a_folder, "a.nii.gz,other.nii.gz,s1,1,"), aligned=False)) == 1


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        ([], HEADER, "no pair is listed"),
        (["a.nii.gz,s1"], "moved,subject", "the column reference is missing"),
        (["a.nii.gz,b.nii.gz,s1,3"], "moved,reference,subject,severity", "the column 'severity' is unknown"),
    ],
)
def test_a_table_without_the_columns_is_refused(a_folder: Path, rows: list[str], header: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_pairs(a_table(a_folder, *rows, header=header))


def test_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_pairs(tmp_path / "pairs.csv")


def a_scan_in(folder: Path, subject: str, level: str, **sidecar: object) -> None:
    place = folder / f"sub-{subject}" / "anat"
    place.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(2).normal(size=(4, 4, 4)).astype(np.float32)
    write_volume(Volume(array, np.eye(4)), place / f"sub-{subject}_acq-{level}_T1w.nii.gz")
    (place / f"sub-{subject}_acq-{level}_T1w.json").write_text(json.dumps(sidecar))


def test_a_bids_folder_gives_its_pairs_with_the_facts_of_the_sidecars(tmp_path: Path) -> None:
    a_scan_in(tmp_path, "01", "standard")
    a_scan_in(
        tmp_path, "01", "headmotion1", Manufacturer="Siemens", ManufacturersModelName="Prisma", MotionSimulated=True,
        MotionSeverityMillimetres=1.25, PhaseEncodingAxis="AP",
    )  # fmt: skip
    a_scan_in(tmp_path, "02", "standard")
    ((pair,), notes) = find_pairs(tmp_path)
    assert (pair.name, pair.subject, pair.severity, notes) == ("sub-01_acq-headmotion1_T1w", "01", 1.25, [])
    assert pair.reference.name == "sub-01_acq-standard_T1w.nii.gz"
    assert pair.facts["scanner"] == "Siemens Prisma" and pair.facts["group"] == "headmotion1"
    assert pair.facts["simulator"] == "BrainDiff"
    assert (pair.facts["pe_axis"], pair.facts["plane"]) == ("AP", "in-plane")


@pytest.mark.parametrize(
    ("direction", "axis", "plane"),
    [("i", "SI", "in-plane"), ("j-", "LR", "through-plane"), ("k", "AP", "in-plane"), ("x", None, None)],
)
@pytest.mark.parametrize("entry", ["PhaseEncodingDirection", "PhaseEncodingAxis"])  # the second where no sign is known
def test_the_phase_encode_axis_of_bids_is_brought_to_the_patient(
    tmp_path: Path, entry: str, direction: str, axis: str | None, plane: str | None
) -> None:
    a_scan_in(tmp_path, "01", "standard")
    a_scan_in(tmp_path, "01", "headmotion1", **{entry: direction})
    affine = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [-1, 0, 0, 0], [0, 0, 0, 1.0]])  # array axes along I, R and A
    for level in ("standard", "headmotion1"):
        path = tmp_path / "sub-01" / "anat" / f"sub-01_acq-{level}_T1w.nii.gz"
        write_volume(Volume(np.arange(64, dtype=np.float32).reshape(4, 4, 4), affine), path)
    ((pair,), _) = find_pairs(tmp_path)
    assert (pair.facts.get("pe_axis"), pair.facts.get("plane")) == (axis, plane)


def test_a_still_scan_that_was_rated_bad_is_no_reference(tmp_path: Path) -> None:
    for subject in ("01", "02"):
        a_scan_in(tmp_path, subject, "standard")
        a_scan_in(tmp_path, subject, "headmotion1")
    (tmp_path / "scores.tsv").write_text("bids_name\tscore\nsub-02_acq-standard_T1w\t3\n")
    pairs, notes = find_pairs(tmp_path)
    assert [pair.subject for pair in pairs] == ["01"]
    assert notes == ["1 pairs are left out: their still scan was rated worse than good."]
    (tmp_path / "scores.tsv").write_text("bids_name\tscore\nsub-01_acq-standard_T1w\t2\nsub-02_acq-standard_T1w\t3\n")
    with pytest.raises(InputError, match="no scan acq-headmotionN has a good acq-standard"):
        find_pairs(tmp_path)
