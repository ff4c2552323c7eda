"""The groups of pairs that a table is made of: all, then by how severe the motion is, by scanner, axis and so on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from BrainDiffLogic.evaluation.pairs import FACTS
from BrainDiffLogic.motion.trajectory import STRATUM_NAMES, stratum

SEVERITY = "severity_mm"
STILL = "still"
AIM_MM, HARM_MM = (1.0, 4.0), 1.0
"""Where most is asked of a correction, and from which on ("above 1") it must make no volume worse."""
SUMMARIES = ("below 1", "1-4", "above 1")
SEVERITY_GROUPS = (STILL, *STRATUM_NAMES, *SUMMARIES)
ALL = "all"


@dataclass(frozen=True)
class Stratum:
    """Pairs that have something in common: ``by`` says what, ``value`` which; ``names`` are theirs."""

    by: str
    value: str
    names: frozenset[str]

    @property
    def title(self) -> str:
        """As a heading."""
        if self.by == ALL:
            return "All pairs"
        return (
            f"{self.by.removesuffix('_mm')} {self.value}{' mm' if self.by == SEVERITY and self.value != STILL else ''}"
        )


def strata(rows: Sequence[Mapping[str, Any]]) -> list[Stratum]:
    """The strata of the pairs of ``rows``: of a fact those where pairs differ in it, of the severity all.

    Severity: without motion, the five strata of ``motion.trajectory``, and three that sum up; they overlap.
    """
    pairs = {row["name"]: row for row in rows}
    return [Stratum(ALL, ALL, frozenset(pairs)), *_by_severity(pairs), *_by_fact(pairs)]


def in_severity_group(severity: float, group: str) -> bool:
    """Whether a mean displacement in mm lies in one of ``SEVERITY_GROUPS``; 0 lies in "still" alone."""
    if severity == 0 or group == STILL:
        return severity == 0 and group == STILL
    if group == "1-4":
        return AIM_MM[0] <= severity < AIM_MM[1]
    if group in ("below 1", "above 1"):
        return (severity < HARM_MM) == (group == "below 1")
    return stratum(severity) == group


def severity_of(row: Mapping[str, Any]) -> float | None:
    """Mean displacement in mm of a row's pair, None where it is not known."""
    return float(row[SEVERITY]) if row.get(SEVERITY) not in (None, "") else None


def _by_severity(pairs: Mapping[str, Mapping[str, Any]]) -> Iterator[Stratum]:
    known = {name: severity for name, row in pairs.items() if (severity := severity_of(row)) is not None}
    for group in SEVERITY_GROUPS:
        names = frozenset(name for name, severity in known.items() if in_severity_group(severity, group))
        if names:
            yield Stratum(SEVERITY, group, names)


def _by_fact(pairs: Mapping[str, Mapping[str, Any]]) -> Iterator[Stratum]:
    for fact in FACTS:
        groups: dict[str, set[str]] = {}
        for name, row in pairs.items():
            if fact != SEVERITY and row.get(fact):
                groups.setdefault(row[fact], set()).add(name)
        if len(groups) > 1 or (groups and len(next(iter(groups.values()))) < len(pairs)):
            yield from (Stratum(fact, value, frozenset(names)) for value, names in sorted(groups.items()))
