"""The three-way split of a cohort by subject, and its manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from BrainDiffLogic.data.split import (
    DEFAULT_SHARES,
    SPLITS,
    assert_disjoint,
    cohort_manifest,
    extended,
    hold_out,
    read_manifest,
    split_subjects,
    write_manifest,
)
from BrainDiffLogic.errors import InputError

TWELVE = [f"{number:02d}" for number in range(1, 13)]
SUBJECTS = st.sets(st.text("abc0123456789", min_size=1, max_size=5), min_size=1, max_size=40)


@given(SUBJECTS, st.sets(st.text("xyz", min_size=1, max_size=3)), st.integers(0, 3))
def test_everybody_is_in_exactly_one_split_and_stays_there(cohort: set[str], later: set[str], salt: int) -> None:
    manifest = split_subjects(cohort, salt=str(salt))
    everyone = [subject for split in SPLITS for subject in manifest.splits[split]]
    assert sorted(everyone) == sorted(cohort)
    assert len(cohort) < 3 or all(manifest.splits.values())
    grown = extended(manifest, later)
    assert all(grown.split_of(subject) == manifest.split_of(subject) for subject in cohort)
    assert {subject for members in grown.splits.values() for subject in members} == cohort | later


@given(st.integers(3, 200))
def test_the_shares_are_exact_to_a_subject(count: int) -> None:
    splits = split_subjects(map(str, range(count))).splits
    assert all(abs(len(splits[split]) - count * DEFAULT_SHARES[split]) <= 1 for split in SPLITS)


def test_twelve_subjects_are_six_four_and_two() -> None:
    assert [len(split_subjects(TWELVE).splits[split]) for split in SPLITS] == [6, 4, 2]


def test_a_small_share_still_gets_a_subject_and_no_share_gets_none() -> None:
    splits = split_subjects(TWELVE[:3], {"prior": 0.9, "correction": 0.05, "test": 0.05}).splits
    assert [len(splits[split]) for split in SPLITS] == [1, 1, 1]
    assert split_subjects(TWELVE, {"prior": 0.9, "correction": 0.1, "test": 0.0}).splits["test"] == ()


def test_the_split_depends_on_names_and_salt_and_not_on_their_order() -> None:
    assert split_subjects(reversed(TWELVE + TWELVE)) == split_subjects(TWELVE)
    assert split_subjects(TWELVE).splits == {
        "prior": ("02", "04", "05", "06", "09", "10"),
        "correction": ("01", "03", "07", "11"),
        "test": ("08", "12"),
    }
    assert split_subjects(TWELVE, salt="other").splits != split_subjects(TWELVE).splits


def test_a_subject_in_two_splits_is_named() -> None:
    splits = {split: list(members) for split, members in split_subjects(TWELVE).splits.items()}
    assert_disjoint(splits)
    leak = splits["prior"][0]
    splits["test"].append(leak)
    with pytest.raises(AssertionError, match=f"subject {leak} is both in prior and in test"):
        assert_disjoint(splits)


def test_a_manifest_is_read_as_it_was_written_and_tells_its_rule(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    manifest = extended(split_subjects(TWELVE), ["a", "b", "c"])
    write_manifest(manifest, path)
    assert read_manifest(path) == manifest
    assert "sha256" in json.loads(path.read_text())["rule"]
    assert [file.name for file in tmp_path.iterdir()] == ["manifest.json"]


def test_a_grown_cohort_keeps_everybody_and_places_the_new_by_their_hash(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    first = cohort_manifest(path, TWELVE)
    grown = cohort_manifest(path, [*TWELVE[3:], *(f"new{n}" for n in range(200))])
    assert all(grown.split_of(subject) == first.split_of(subject) for subject in TWELVE)
    share = sum(subject.startswith("new") for subject in grown.splits["prior"]) / 200
    assert share == pytest.approx(DEFAULT_SHARES["prior"], abs=0.1)
    assert cohort_manifest(path, TWELVE) == grown == read_manifest(path)
    with pytest.raises(InputError, match="nobody is in no split"):
        grown.split_of("nobody")


def test_other_shares_or_salt_need_another_file(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    for made in ({"salt": "other"}, {"shares": {"prior": 0.8, "correction": 0.1, "test": 0.1}}):
        write_manifest(split_subjects(TWELVE, **made), path)
        before = path.read_bytes()
        with pytest.raises(InputError, match="other shares or another salt"):
            cohort_manifest(path, TWELVE)
        assert path.read_bytes() == before


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2), st.floats(0, 0.9))
def test_items_are_held_out_by_subject_whatever_their_order(subjects: list[str], share: float) -> None:
    people = len(set(subjects))
    assume(max(1, round(share * people)) < people)
    training, validation = hold_out(subjects, share)
    assert sorted([*training, *validation]) == list(range(len(subjects)))
    sides = [{subjects[n] for n in side} for side in (training, validation)]
    assert not sides[0] & sides[1]
    assert len(sides[1]) == (max(1, round(share * people)) if share else 0)
    backwards = {subjects[::-1][n] for n in hold_out(subjects[::-1], share)[1]}
    assert backwards == sides[1]


def test_a_leak_in_the_manifest_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    content = json.loads(write(path))
    content["splits"]["test"].append(content["splits"]["correction"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(AssertionError, match=content["splits"]["correction"][0]):
        read_manifest(path)


def test_a_manifest_changed_by_hand_or_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    text = write(path)
    content = json.loads(text)
    content["splits"]["test"].append(content["splits"]["correction"].pop())
    for changed, words in ((json.dumps(content), "changed by hand"), (text[:90], "damaged"), ("[]", "damaged")):
        path.write_text(changed)
        with pytest.raises(InputError, match=words):
            read_manifest(path)
    path.unlink()
    with pytest.raises(InputError, match="no manifest"):
        read_manifest(path)


def write(path: Path) -> str:
    write_manifest(split_subjects(TWELVE), path)
    return path.read_text()


@pytest.mark.parametrize(
    "shares",
    [
        {"prior": 0.5, "correction": 0.5},
        {"prior": 0.5, "correction": 0.3, "test": 0.3},
        {"prior": 1.5, "correction": -0.5, "test": 0.0},
    ],
)
def test_shares_that_are_no_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(InputError, match="shares"):
        split_subjects(TWELVE, shares)


def test_no_subjects_are_refused() -> None:
    with pytest.raises(InputError, match="no subjects"):
        split_subjects([])
