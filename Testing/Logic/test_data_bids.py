"""Scans of a BIDS folder: found, named, scored and paired by their entities."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from BrainDiffLogic.data.bids import find_scans, pairs, parse_name, without_bad_stills
from BrainDiffLogic.errors import InputError

LEVELS = ("standard", "headmotion1", "headmotion2")


def add(folder: Path, name: str, suffix: str = "_T1w.nii.gz") -> Path:
    """A file with some content where BIDS wants it."""
    parts = dict(part.split("-") for part in name.split("_"))
    place = folder / f"sub-{parts['sub']}" / (f"ses-{parts['ses']}" if "ses" in parts else "") / "anat"
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{name}{suffix}").write_bytes(b"scan")
    return place / f"{name}{suffix}"


@pytest.fixture
def a_cohort(tmp_path: Path) -> Path:
    """Three subjects; the second has no headmotion1, as sub-105822 of MR-ART; the third was never still."""
    for name in ("000103", "105822", "256335"):
        for level in LEVELS:
            if (name, level) not in {("105822", "headmotion1"), ("256335", "standard")}:
                add(tmp_path, f"sub-{name}_acq-{level}")
    (tmp_path / "derivatives").mkdir()
    rows = ["bids_name\tscore", "sub-000103_acq-standard_T1w\t1", "sub-000103_acq-headmotion1_T1w\t2"]
    rows += ["sub-105822_acq-standard_T1w\t3", "sub-999999_acq-standard_T1w\t1", "sub-256335_acq-headmotion1_T1w\tn/a"]
    (tmp_path / "derivatives" / "scores.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_scans_have_the_subject_level_and_score_of_mr_art(a_cohort: Path) -> None:
    scans = {scan.name: scan for scan in find_scans(a_cohort)}
    assert len(scans) == 7
    still = scans["sub-000103_acq-standard_T1w"]
    assert (still.subject, still.session, still.level) == ("000103", "", "standard")
    assert (still.group, still.score) == ("clean", 1)
    moved = scans["sub-000103_acq-headmotion1_T1w"]
    assert (moved.level, moved.group, moved.score) == ("headmotion1", "motion", 2)
    assert scans["sub-256335_acq-headmotion1_T1w"].score is None
    assert scans["sub-000103_acq-headmotion2_T1w"].score is None


def test_a_missing_scan_shifts_no_pair(a_cohort: Path) -> None:
    scans = find_scans(a_cohort)
    random.Random(1).shuffle(scans)
    found = {(still.name, moved.name) for still, moved in pairs(scans)}
    assert found == {
        ("sub-000103_acq-standard_T1w", "sub-000103_acq-headmotion1_T1w"),
        ("sub-000103_acq-standard_T1w", "sub-000103_acq-headmotion2_T1w"),
        ("sub-105822_acq-standard_T1w", "sub-105822_acq-headmotion2_T1w"),
    }


def test_a_scan_without_partner_is_there_but_in_no_pair(a_cohort: Path) -> None:
    scans = find_scans(a_cohort)
    assert sum(scan.subject == "256335" and scan.group == "motion" for scan in scans) == 2
    assert all("256335" not in (still.subject, moved.subject) for still, moved in pairs(scans))


def test_pairs_agree_in_session_and_run_and_reconstruction(tmp_path: Path) -> None:
    for name in ("ses-1_acq-standard_run-1", "ses-1_acq-headmotion1_run-1", "ses-1_acq-headmotion1_run-2"):
        add(tmp_path, f"sub-01_{name}")
    for name in ("ses-2_acq-standard", "ses-2_acq-headmotion1_rec-norm"):
        add(tmp_path, f"sub-01_{name}")
    ((still, moved),) = pairs(find_scans(tmp_path))
    assert still.name == "sub-01_ses-1_acq-standard_run-1_T1w"
    assert moved.name == "sub-01_ses-1_acq-headmotion1_run-1_T1w"
    assert (moved.session, moved.entities["run"]) == ("1", "1")


def test_still_scans_that_were_rated_bad_can_be_left_out(a_cohort: Path) -> None:
    names = {scan.name for scan in without_bad_stills(find_scans(a_cohort))}
    assert "sub-105822_acq-standard_T1w" not in names
    assert {"sub-000103_acq-standard_T1w", "sub-105822_acq-headmotion2_T1w"} <= names
    assert len(without_bad_stills(find_scans(a_cohort), worst=3)) == 7


def test_without_levels_the_score_tells_clean_from_motion(tmp_path: Path) -> None:
    for name in ("01", "02", "03"):
        add(tmp_path, f"sub-{name}", "_T1w.nii")
    (tmp_path / "scores.tsv").write_text("bids_name\tscore\nsub-01_T1w\t1\nsub-02_T1w\t3\n")
    scans = find_scans(tmp_path)
    assert [scan.group for scan in scans] == ["clean", "motion", None]
    assert pairs(scans) == []


def test_only_t1w_scans_in_anat_count_and_derivatives_do_not(tmp_path: Path) -> None:
    add(tmp_path, "sub-01_acq-standard")
    add(tmp_path, "sub-01", "_T2w.nii.gz")
    add(tmp_path, "sub-01_acq-standard", "_T1w.json")
    add(tmp_path / "derivatives" / "other", "sub-02_acq-standard")
    assert [scan.name for scan in find_scans(tmp_path)] == ["sub-01_acq-standard_T1w"]


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(InputError) as error:
        find_scans(folder)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), error.value


def test_a_folder_that_is_not_bids_is_refused_with_the_name_that_is_wanted(tmp_path: Path) -> None:
    refused(tmp_path / "none", "none", "no such folder")
    refused(tmp_path, "no NIfTI file", "sub-ID_acq-standard_T1w.nii.gz")
    (tmp_path / "subject1.nii.gz").write_bytes(b"scan")
    refused(tmp_path, "subject1.nii.gz", "sub-ID/anat/", "simulate-cohort")


def test_files_without_content_are_named_or_left_out(a_cohort: Path) -> None:
    broken = a_cohort / "sub-000103" / "anat" / "sub-000103_acq-standard_T1w.nii.gz"
    broken.unlink()
    broken.symlink_to(a_cohort / ".git" / "annex" / "gone.nii.gz")
    refused(a_cohort, "sub-000103_acq-standard_T1w.nii.gz", "broken link", "datalad get")
    add(a_cohort, "sub-105822_acq-standard").write_bytes(b"")
    refused(a_cohort, "(2 such files)")
    assert len(find_scans(a_cohort, allow_missing=True)) == 5


@pytest.mark.parametrize("name", ["sub-01_acq-left_right_T1w.nii.gz", "sub-01_t1w.nii.gz", "sub-01_T1w_old.nii.gz"])
def test_a_t1w_file_that_is_not_named_as_bids_asks_is_not_passed_over(tmp_path: Path, name: str) -> None:
    add(tmp_path, "sub-01_acq-standard")
    add(tmp_path, "sub-01", "_space-T1w_mask.nii.gz")
    assert len(find_scans(tmp_path)) == 1
    (tmp_path / "sub-01" / "anat" / name).write_bytes(b"scan")
    refused(tmp_path, name, "not named as BIDS asks", "rename it")


def test_two_files_of_one_scan_are_refused(tmp_path: Path) -> None:
    add(tmp_path, "sub-01_acq-standard")
    add(tmp_path, "sub-01_acq-standard", "_T1w.nii")
    refused(tmp_path, "sub-01_acq-standard_T1w.nii", "same scan")


def test_a_scan_in_the_folder_of_another_subject_is_refused(tmp_path: Path) -> None:
    path = add(tmp_path, "sub-01_acq-standard")
    path.rename(path.with_name("sub-02_acq-standard_T1w.nii.gz"))
    refused(tmp_path, "sub-02_acq-standard_T1w.nii.gz", "lies in sub-01")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("name,score\nsub-01_T1w,1\n", ("line 2", "bids_name")),
        ("bids_name\tscore\nsub-01_T1w\t4\n", ("line 2", "'4'")),
        ("bids_name\tscore\nsub-01_T1w\t1\nsub-01_T1w\t2\n", ("line 3", "two scores")),
    ],
)
def test_a_damaged_table_of_scores_is_refused_with_its_line(tmp_path: Path, table: str, words: tuple[str, ...]) -> None:
    add(tmp_path, "sub-01")
    (tmp_path / "scores.tsv").write_text(table)
    refused(tmp_path, "scores.tsv", *words)


LABELS = st.text("abcXYZ0123456789", min_size=1, max_size=6)


@given(LABELS, st.dictionaries(st.sampled_from(["ses", "acq", "run", "rec"]), LABELS), st.sampled_from(["", ".nii"]))
def test_a_name_tells_its_entities(subject: str, others: dict[str, str], suffix: str) -> None:
    entities = {"sub": subject, **others}
    name = "_".join(f"{key}-{value}" for key, value in entities.items())
    assert parse_name(f"{name}_T1w{suffix}") == entities
    assert parse_name(f"{name}_run-1_run-2_T1w") is None
    assert parse_name(f"{name}_T2w{suffix}") is None


@pytest.mark.shared
def test_every_score_of_mr_art_is_read(shared_data: Path, tmp_path: Path) -> None:
    table = (shared_data / "mr_art" / "scores.tsv").read_text()
    names = [line.split("\t")[0] for line in table.splitlines()[1:]]
    for name in names:
        add(tmp_path, name.removesuffix("_T1w"))
    (tmp_path / "scores.tsv").write_text(table)
    scans = find_scans(tmp_path)
    assert len(scans) == 436 and all(scan.score in (1, 2, 3) and scan.level for scan in scans)
    assert len(pairs(scans)) == 288
    assert len(without_bad_stills(scans)) == 436 - 29
