"""Whose head a file shows, by its name: all scans of a person lie on one side of a split."""

from __future__ import annotations

import re
from collections.abc import Iterable

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import READABLE, file_suffix

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
        found = re.search(pattern, name)
        text = found[min(1, found.re.groups)] if found else None
        if not text:
            raise InputError(f"{name}: the subject pattern {pattern!r} finds nothing in it; change one of the two")
        return text
    entity = ENTITY.match(name)
    return entity[0] if entity else REST.split(name)[0]


def bids_label(name: str) -> str:
    """A BIDS label from a file's or a folder's name: its ``sub`` entity, else its letters and digits without _T1w.

    Raises InputError where there is none.
    """
    suffix = file_suffix(name)
    stem = name.removesuffix(name[-len(suffix) :]) if suffix in READABLE else name
    entity = ENTITY.match(f"{stem}.")
    label = entity[0].removeprefix("sub-") if entity else re.sub(r"[^A-Za-z0-9]", "", re.sub(r"_T1w$", "", stem))
    if not label:
        raise InputError(f"{name}: its name has no letter or digit to name the subject by; rename it")
    return label


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
    found = (form.fullmatch(name) for form in (VISIT, NUMBERED))
    return {name, *(match["person"] for match in found if match)}
