"""What a check finds."""

from __future__ import annotations

import math
from dataclasses import dataclass

ALL_SCANS = "all scans"
"""The case of a check that a method did not get through, because it refused one of its scans."""


@dataclass(frozen=True)
class Outcome:
    """One number of one check.

    check, case  what was looked at, and on which scan
    number       what was found, in ``unit``; NaN where it cannot be had, and then the check is not passed
    limit        what it is held against: the most it may be, or, where ``least``, the least
    note         what a reader of the number should know
    """

    check: str
    case: str
    number: float
    limit: float
    passed: bool
    unit: str
    note: str = ""
    least: bool = False


def at_most(check: str, case: str, number: float, limit: float, unit: str = "", note: str = "") -> Outcome:
    """Passed where the number does not exceed the limit."""
    return Outcome(check, case, float(number), limit, bool(number <= limit), unit, note)


def at_least(check: str, case: str, number: float, limit: float, unit: str = "", note: str = "") -> Outcome:
    """Passed where the number reaches the limit."""
    return Outcome(check, case, float(number), limit, bool(number >= limit), unit, note, least=True)


def ratio(part: float, whole: float) -> float:
    """``part / whole``; nothing of nothing is 0."""
    if whole != 0:
        return part / whole
    return 0.0 if part == 0 else math.copysign(math.inf, part)
