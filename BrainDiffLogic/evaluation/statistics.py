"""What the numbers of an evaluation say: of groups of pairs the means over subjects, how sure they are, what harms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from BrainDiffLogic.evaluation.methods import NOTHING
from BrainDiffLogic.evaluation.pairs import FACTS
from BrainDiffLogic.evaluation.run import MEASURED, REFERENCE, REFUSED
from BrainDiffLogic.metrics.measures import AGAINST_REFERENCE, WITHOUT_REFERENCE
from BrainDiffLogic.motion.trajectory import SEVERITY_DIGITS, STRATUM_NAMES, stratum

SEVERITY = "severity_mm"
STILL = "still"
AIM_MM, HARM_MM = (1.0, 4.0), 1.0
"""Where most is asked of a correction, and from which on ("above 1") it must make no volume worse."""
SUMMARIES = ("below 1", "1-4", "above 1")
SEVERITY_GROUPS = (STILL, *STRATUM_NAMES, *SUMMARIES)
ALL = "all"
CONFIDENCE = 0.95
RESAMPLES, SEED = 2000, 20060101
FEWEST = 6
"""Subjects below which no test is made: of five, even if all agree, the exact two-sided p is 1/16 = 0.0625."""
EXACT = 50
"""Subjects up to which the exact distribution of the signed ranks is used, as scipy does by itself."""
ROUNDING = 1e-9
"""An error that is larger by less than this is not worse."""
STATISTICS = (
    f"means over subjects of the means over a subject's volumes; in brackets {100 * CONFIDENCE:.0f} % intervals by "
    f"bootstrap over subjects ({RESAMPLES} samples; BCa, below {FEWEST} subjects percentile, and then too narrow); "
    "changes are against doing nothing on the same volumes, p of the paired Wilcoxon signed-rank test over subjects, "
    f"two-sided, exact up to {EXACT}, not corrected for the number of tests, none below {FEWEST} subjects; worse: the "
    "MRE of a volume, or its mean over a subject's volumes, exceeds that of doing nothing (volumes of severity 0 not "
    "counted); PSNR: volumes of severity 0 count in their own stratum alone; the test leaves out changes of exactly 0; "
    "SSIM fell, smoothing: the mean SSIM fell, or rose while sharpness was lost"
)

Interval = tuple[float, float]
NONE: Interval = (float("nan"), float("nan"))


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
    severity = round(severity, SEVERITY_DIGITS)
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


@dataclass(frozen=True)
class Estimate:
    """A mean over subjects, its interval, and for a change the p of the Wilcoxon test; NaN: not to be had."""

    mean: float
    interval: Interval = NONE
    p: float = float("nan")


@dataclass(frozen=True)
class Summary:
    """One method in one stratum.

    subjects, volumes  that it gave an image for; refused: volumes that it did not
    values   by metric; changes: by metric, against doing nothing on the same volumes
    worse_volumes, worse_subjects  shares with an MRE above that of doing nothing, None where there is nothing to count
    flags    "SSIM fell", "smoothing"
    """

    stratum: Stratum
    method: str
    subjects: int
    volumes: int
    refused: int
    values: Mapping[str, Estimate]
    changes: Mapping[str, Estimate] = field(default_factory=dict)
    worse_volumes: float | None = None
    worse_subjects: float | None = None
    flags: tuple[str, ...] = ()


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[Summary]:
    """A summary for each stratum and method of the rows of ``run.evaluate``, in their order."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    summaries = []
    for group in strata(rows):
        inside = [row for row in rows if row["name"] in group.names]
        before = {row["name"]: row for row in inside if row["method"] == NOTHING}
        for method in methods:
            summaries.append(_summary(group, method, [row for row in inside if row["method"] == method], before))
    return summaries


def _summary(
    stratum: Stratum, method: str, rows: list[Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]]
) -> Summary:
    done = [_counted(row, stratum) for row in rows if row["status"] in (MEASURED, REFERENCE)]
    refused = sum(row["status"] == REFUSED for row in rows)
    names = WITHOUT_REFERENCE if method == REFERENCE else (*AGAINST_REFERENCE, *WITHOUT_REFERENCE)
    values = {name: _estimate(_over_subjects(done, name)) for name in names}
    subjects = len({row["subject"] for row in done})
    if method in (NOTHING, REFERENCE):
        return Summary(stratum, method, subjects, len(done), refused, values)
    differences = {name: _over_subjects(done, name, before) for name in names}
    changes = {name: _estimate(list(by_subject), test=True) for name, by_subject in differences.items()}
    moving = [row for row in done if severity_of(row) != 0 and None not in (row["mre"], before[row["name"]]["mre"])]
    volumes = [is_worse(row["mre"], before[row["name"]]["mre"]) for row in moving]
    people = [change > ROUNDING for change in _over_subjects(moving, "mre", before)]
    return Summary(
        stratum, method, subjects, len(done), refused, values, changes, _share(volumes), _share(people),
        _flags(values, changes),
    )  # fmt: skip


def _counted(row: Mapping[str, Any], stratum: Stratum) -> Mapping[str, Any]:
    """The row without its PSNR where the scan is still and others are not: its PSNR has no limit but that set."""
    still = severity_of(row) == 0 and stratum.value != STILL
    return {**row, "psnr": None} if still else row


def is_worse(after: float, before: float) -> bool:
    """Whether an error exceeds the one before."""
    return after > before + ROUNDING


def _share(hits: list[bool]) -> float | None:
    return float(np.mean(hits)) if hits else None


def _flags(values: Mapping[str, Estimate], changes: Mapping[str, Estimate]) -> tuple[str, ...]:
    if changes["ssim"].mean < 0:
        return ("SSIM fell",)
    sharpness, change = values["tenengrad_ratio"].mean, changes["tenengrad_ratio"].mean
    return ("smoothing",) if changes["ssim"].mean > 0 and sharpness < min(1.0, sharpness - change) else ()


def _over_subjects(
    rows: Iterable[Mapping[str, Any]], metric: str, before: Mapping[str, Mapping[str, Any]] | None = None
) -> list[float]:
    """The mean of each subject's volumes that have the number, or of its change against ``before``."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        value, start = row.get(metric), before[row["name"]].get(metric) if before is not None else 0.0
        if value is not None and start is not None:
            groups.setdefault(row["subject"], []).append(value - start)
    return [float(np.mean(group)) for group in groups.values()]


def _estimate(values: list[float], test: bool = False) -> Estimate:
    if not values:
        return Estimate(float("nan"))
    return Estimate(float(np.mean(values)), bootstrap_interval(values), wilcoxon(values) if test else float("nan"))


def bootstrap_interval(values: Sequence[float]) -> Interval:
    """The interval of the mean over subjects; of one subject there is none (NaN).

    Bias-corrected and accelerated (Efron 1987), the plain percentiles below six subjects; the same values give the
    same interval.
    """
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2:
        return NONE
    if np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    method = "BCa" if len(sample) >= FEWEST else "percentile"
    result = stats.bootstrap(
        (sample,), np.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, method=method,
        random_state=np.random.default_rng(SEED),
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def wilcoxon(changes: Sequence[float]) -> float:
    """Two-sided p of the signed-rank test that changes (one a subject) lie about 0; NaN below six that are not 0."""
    moved = np.asarray([change for change in changes if change != 0], dtype=np.float64)
    if len(moved) < FEWEST:
        return float("nan")
    return float(stats.wilcoxon(moved, method="exact" if len(moved) <= EXACT else "auto").pvalue)
