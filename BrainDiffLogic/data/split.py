"""Which subjects train the motion prior, which the correction, and which are kept for the test.

A subject is in one split with all its sessions, scans and slices. BrainDiff's counts (148 subjects, 90 % of them for
the prior, 740 pairs) only work out when the prior, the correction and the test share subjects; here that is an error.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.files import digest
from BrainDiffLogic.images import READABLE, file_suffix
from BrainDiffLogic.images.outputs import write_json

ENTITY = re.compile(r"sub-[A-Za-z0-9]+(?=[_.])")
REST = re.compile(r"_T1w|\.nii|\.nrrd|\.mha")
VISIT = re.compile(
    r"(?P<person>.+?)[_-](?:(?:MR|ses|session|run|scan|visit|rep|tp|time|wave|m|v)-?\d+|baseline|follow-?up\d*|test|retest)",
    re.IGNORECASE,
)
NUMBERED = re.compile(r"(?P<person>[^_-]+[_-][^_-]*\d)[_-](?:\d+|[a-zA-Z])")
"""Names that may be a person's with a visit behind it: OAS1_0001_MR2, 0001-ses2, OAS1_0001_2; not ds000011-11."""


def subject_of(name: str, pattern: str | None = None) -> str:
    """The subject of a file name: what ``pattern`` (a regular expression) finds in it, its first group if it has one.

    Without a pattern the BIDS entity ``sub-X`` that the name begins with, whatever session or run; else the name up to
    _T1w or the extension. Raises InputError where the pattern finds nothing.
    """
    if pattern is not None:
        match = re.search(pattern, name)
        text = match[min(1, match.re.groups)] if match else None
        if not text:
            raise InputError(f"{name}: the subject pattern {pattern!r} finds nothing in it; change one of the two")
        return text
    entity = ENTITY.match(name)
    return entity[0] if entity else REST.split(name)[0]


def bids_label(name: str) -> str:
    """A BIDS label from a file's or a folder's name: its ``sub`` entity, else its letters and digits without _T1w.

    Letters lose their marks, which some disks write behind them and others do not.
    Raises InputError where there is none.
    """
    suffix = file_suffix(name)
    stem = name.removesuffix(name[-len(suffix) :]) if suffix in READABLE else name
    entity = ENTITY.match(f"{stem}.")
    label = entity[0].removeprefix("sub-") if entity else _letters(re.sub(r"_T1w$", "", stem))
    if not label:
        raise InputError(f"{name}: its name has no letter or digit to name the subject by; rename it")
    return label


def _letters(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", unicodedata.normalize("NFKD", name))


def names_subject(name: str) -> bool:
    """Whether a file name says whose it is by the BIDS entity ``sub``."""
    return ENTITY.match(name) is not None


def assert_apart(one: Iterable[str], other: Iterable[str]) -> None:
    """Raise InputError where a name on one side of a split may be another visit of a person on the other side."""
    people = {person: name for name in one for person in _people(name)}
    for name in sorted(other):
        for person in sorted(_people(name)):
            if people.get(person, name) != name:
                raise InputError(
                    f"{people[person]} and {name} lie on two sides of a split and may be one person, {person};"
                    " give their source a subject pattern, such as subject: '[^_]+_[^_]+'"
                )


def one_person(names: Iterable[str]) -> tuple[str, str, str] | None:
    """(person, name, name) of the first two names that may be visits of one person; None where there are none."""
    people: dict[str, str] = {}
    for name in sorted(names):
        for person in sorted(_people(name)):
            if people.setdefault(person, name) != name:
                return person, people[person], name
    return None


def _people(name: str) -> set[str]:
    """The persons that a name may be of: its own, and what is left without a visit."""
    matches = (form.fullmatch(name) for form in (VISIT, NUMBERED))
    return {name, *(match["person"] for match in matches if match)}


FORMAT = 1
SPLITS = ("prior", "correction", "test")
DEFAULT_SHARES = {"prior": 0.5, "correction": 0.3, "test": 0.2}
"""BrainDiff gives the prior 90 % and says nothing of the rest; that would leave one test subject of twelve."""
DEFAULT_SALT = "braindiff"
RULE = (
    "The subjects of the first cohort are sorted by sha256(salt + ':' + subject) and cut at the shares (rounded by "
    "largest remainder, no split empty while there are subjects for each). A subject that came later is where its "
    "hash, as a fraction of 2^256, falls between the cumulated shares. Nobody ever moves to another split."
)


@dataclass(frozen=True)
class Manifest:
    """The split of a cohort: subject -> split, and all that it was made from.

    cohort  the subjects that the shares were cut on; those in ``splits`` but not in it came later
    """

    salt: str
    shares: Mapping[str, float]
    cohort: tuple[str, ...]
    splits: Mapping[str, tuple[str, ...]]

    def split_of(self, subject: str) -> str:
        """The split of a subject; InputError for one that the manifest does not know."""
        for split, subjects in self.splits.items():
            if subject in subjects:
                return split
        raise InputError(f"subject {subject} is in no split; add it to the manifest with the whole cohort")


def split_subjects(
    subjects: Iterable[str], shares: Mapping[str, float] | None = None, salt: str = DEFAULT_SALT
) -> Manifest:
    """Split a cohort by ``RULE``; the order of ``subjects`` and repetitions do not matter.

    shares  of prior, correction and test, together 1; default ``DEFAULT_SHARES``
    Raises InputError for no subjects or shares that are not those.
    """
    shares = dict(DEFAULT_SHARES if shares is None else shares)
    _check_shares(shares)
    cohort = tuple(sorted(set(subjects)))
    if not cohort:
        raise InputError("there are no subjects to split; give a cohort with at least one scan")
    ranked = _ranked(cohort, salt)
    splits, start = {}, 0
    for split, count in zip(SPLITS, _counts(len(ranked), [shares[split] for split in SPLITS]), strict=True):
        splits[split] = tuple(sorted(ranked[start : start + count]))
        start += count
    assert_disjoint(splits)
    return Manifest(salt, shares, cohort, splits)


def hold_out(subjects: Sequence[str], share: float) -> tuple[np.ndarray, np.ndarray]:
    """(training, validation): positions in ``subjects``, those of the items that are split.

    A share of the people, at least one, is held out, chosen by the hash of their names; share 0 holds out nobody.
    Raises InputError where nobody would be left to train on.
    """
    people = _ranked(set(subjects), "validation")
    count = max(1, round(share * len(people))) if share else 0
    if count >= len(people):
        raise InputError(
            f"{len(people)} subject(s) to train and validate on; two or more are needed; give more,"
            " or set validation_share: 0 (and patience: 0)"
        )
    held = np.isin(subjects, people[:count])
    return np.flatnonzero(~held), np.flatnonzero(held)


def extended(manifest: Manifest, subjects: Iterable[str]) -> Manifest:
    """The manifest with further subjects, each where its own hash says; those that it has stay where they are."""
    known = {subject for members in manifest.splits.values() for subject in members}
    splits = {split: list(manifest.splits[split]) for split in SPLITS}
    for subject in sorted(set(subjects) - known):
        splits[_split_by_hash(subject, manifest)].append(subject)
    assert_disjoint(splits)
    grown = {split: tuple(sorted(members)) for split, members in splits.items()}
    return Manifest(manifest.salt, manifest.shares, manifest.cohort, grown)


def cohort_manifest(path: str | Path, subjects: Iterable[str], shares: Mapping[str, float] | None = None) -> Manifest:
    """The manifest in ``path`` (manifest.json) for these subjects: made, or read and extended where there is one.

    What was written is read again. Raises InputError where the file is of other shares or another salt: its splits
    have been trained on, so another split needs another file.
    """
    path, subjects = Path(path), list(subjects)
    if path.exists():
        before = read_manifest(path)
        wanted = dict(DEFAULT_SHARES if shares is None else shares)
        if before.salt != DEFAULT_SALT or dict(before.shares) != wanted:
            raise InputError(f"{path}: made with other shares or another salt; use those, or another run folder")
        manifest = extended(before, subjects)
        if manifest == before:
            return before
    else:
        manifest = split_subjects(subjects, shares)
    write_manifest(manifest, path)
    return read_manifest(path)


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write manifest.json, whole or not at all; the rule is told in it."""
    write_json(path, _content(manifest))


def read_manifest(path: str | Path) -> Manifest:
    """Read manifest.json and check that its splits are those that its own rule gives.

    Raises AssertionError (``assert_disjoint``) where a subject is in two splits, InputError for a file that is no
    manifest or was changed by hand.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        splits = {split: tuple(content["splits"][split]) for split in SPLITS}
        manifest = Manifest(content["salt"], dict(content["shares"]), tuple(content["cohort"]), splits)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no manifest of the split; make it first") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a manifest of a split, or a damaged one; delete it to split again") from error
    assert_disjoint(splits)
    everyone = [subject for members in splits.values() for subject in members]
    if extended(split_subjects(manifest.cohort, manifest.shares, manifest.salt), everyone) != manifest:
        raise InputError(f"{path}: the splits are not those of its rule, it was changed by hand; restore or delete it")
    return manifest


def assert_disjoint(splits: Mapping[str, Iterable[str]]) -> None:
    """Raise AssertionError, naming the subject, where one is in two splits (split -> subjects)."""
    place: dict[str, str] = {}
    for split, subjects in splits.items():
        for subject in sorted(set(subjects)):
            if subject in place:
                raise AssertionError(f"subject {subject} is both in {place[subject]} and in {split}")
            place[subject] = split


def _check_shares(shares: Mapping[str, float]) -> None:
    numbers = all(isinstance(share, (int, float)) and 0 <= share <= 1 for share in shares.values())
    if set(shares) != set(SPLITS) or not numbers or abs(sum(shares.values()) - 1) > 1e-6:
        raise InputError(f"shares {dict(shares)}: give {', '.join(SPLITS)} a number from 0 to 1 each, together 1")


def _counts(total: int, shares: list[float]) -> list[int]:
    """How many of ``total`` each share gets: largest remainder; then those without take from the fullest."""
    counts = [int(total * share + 1e-9) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda n: counts[n] - total * shares[n])
    for n in by_remainder[: total - sum(counts)]:
        counts[n] += 1
    for n, share in enumerate(shares):
        if share > 0 and counts[n] == 0 and max(counts) > 1:
            counts[counts.index(max(counts))] -= 1
            counts[n] = 1
    return counts


def _split_by_hash(subject: str, manifest: Manifest) -> str:
    fraction = int(_hash(subject, manifest.salt), 16) / 2**256
    limit = 0.0
    for split in SPLITS:
        limit += manifest.shares[split]
        if fraction < limit:
            return split
    return max(SPLITS, key=lambda split: manifest.shares[split])  # fraction rounded to 1


def _ranked(subjects: Iterable[str], salt: str) -> list[str]:
    return sorted(subjects, key=lambda subject: (_hash(subject, salt), subject))


def _hash(subject: str, salt: str) -> str:
    return digest(f"{salt}:{subject}")


def _content(manifest: Manifest) -> dict[str, Any]:
    """As JSON holds it."""
    shares, splits = ({split: part[split] for split in SPLITS} for part in (manifest.shares, manifest.splits))
    known = {"salt": manifest.salt, "shares": shares, "cohort": manifest.cohort, "splits": splits}
    return {"format": FORMAT, "rule": RULE, **known}
