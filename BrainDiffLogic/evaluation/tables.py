"""Summaries as tables of text, the same for Markdown and for the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from BrainDiffLogic.evaluation.measures import AGAINST_REFERENCE, METRICS, WITHOUT_REFERENCE
from BrainDiffLogic.evaluation.methods import NOTHING
from BrainDiffLogic.evaluation.run import REFERENCE
from BrainDiffLogic.evaluation.statistics import FEWEST, Estimate, Summary
from BrainDiffLogic.evaluation.strata import Stratum

ARROWS = {"higher": "higher is better", "lower": "lower is better", "near 1": "1 is as sharp as the reference"}
MISSING = "-"
REFUSALS = "Rows with refused volumes are means over the others: compare them by their changes, on the same volumes."


@dataclass(frozen=True)
class Cell:
    """What is written, and the number that it is sorted by (None: by the text)."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Column:
    """A heading and what it means."""

    title: str
    hint: str = ""


@dataclass(frozen=True)
class Table:
    """One table: of which stratum, what it shows, and what must be said of it beside the convention."""

    title: str
    columns: Sequence[Column]
    lines: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """The tables of one stratum."""

    title: str
    tables: Sequence[Table]


def sections(summaries: Sequence[Summary]) -> list[Section]:
    """Three tables for each stratum: against the reference, changes against doing nothing, without reference."""
    groups: dict[Stratum, list[Summary]] = {}
    for summary in summaries:
        groups.setdefault(summary.stratum, []).append(summary)
    return [
        Section(stratum.title, (_quality(group), _changes(group), _without_reference(group)))
        for stratum, group in groups.items()
    ]


def _quality(group: Sequence[Summary]) -> Table:
    counts = [Column("subjects"), Column("volumes"), Column("refused", "volumes that the method refused")]
    harm = [Column("worse: volumes", "share with a larger MRE than the input"), Column("worse: subjects"), Column("")]
    lines = [
        [
            Cell(item.method), *(Cell(str(n), n) for n in (item.subjects, item.volumes, item.refused)),
            *(_estimate(name, item.values[name]) for name in AGAINST_REFERENCE),
            _share(item.worse_volumes), _share(item.worse_subjects), Cell(", ".join(item.flags)),
        ]
        for item in group if item.method != REFERENCE
    ]  # fmt: skip
    columns = [Column("method"), *counts, *_columns(AGAINST_REFERENCE), *harm]
    notes = [*_few(group), *([REFUSALS] if any(item.refused for item in group) else [])]
    return Table("Against the reference", columns, lines, notes)


def _changes(group: Sequence[Summary]) -> Table:
    lines = [
        [Cell(item.method), *(cell for name in AGAINST_REFERENCE for cell in _change(name, item.changes[name]))]
        for item in group
        if item.changes
    ]
    columns = [column for metric in _columns(AGAINST_REFERENCE) for column in (metric, Column("p"))]
    return Table("Change against doing nothing, same volumes", [Column("method"), *columns], lines, _few(group, True))


def _without_reference(group: Sequence[Summary]) -> Table:
    named = {NOTHING: "do nothing (before)", REFERENCE: "the still scans themselves"}
    lines = [
        [Cell(named.get(item.method, item.method)), Cell(str(item.volumes), item.volumes)]
        + [_estimate(name, item.values[name]) for name in WITHOUT_REFERENCE]
        for item in group
    ]
    return Table("Without reference", [Column("method"), Column("volumes"), *_columns(WITHOUT_REFERENCE)], lines)


def _columns(names: Iterable[str]) -> list[Column]:
    return [Column(METRICS[name].title, ARROWS[METRICS[name].better]) for name in names]


def _few(group: Sequence[Summary], test: bool = False) -> list[str]:
    most = max(item.subjects for item in group)
    if most >= FEWEST:
        return []
    people = f"{most} subject{'s' if most != 1 else ''}"
    what = "n too small for a test" if test else "n is small: the intervals are too narrow"
    return [f"{people}: {what} ({FEWEST} are needed)."]


def _estimate(metric: str, estimate: Estimate, sign: str = "") -> Cell:
    if math.isnan(estimate.mean):
        return Cell(MISSING)
    digits = METRICS[metric].digits
    low, high = estimate.interval
    interval = "" if math.isnan(low) else f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
    return Cell(f"{estimate.mean:{sign}.{digits}f}{interval}", estimate.mean)


def _change(metric: str, estimate: Estimate) -> tuple[Cell, Cell]:
    p = Cell(MISSING) if math.isnan(estimate.p) else Cell(f"{estimate.p:.2g}", estimate.p)
    return _estimate(metric, estimate, "+"), p


def _share(share: float | None) -> Cell:
    return Cell(MISSING) if share is None else Cell(f"{100 * share:.0f} %", share)
