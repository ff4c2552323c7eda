"""The files of an evaluation: every volume, every table, and a page that needs nothing beside it."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from BrainDiffLogic import __version__
from BrainDiffLogic.evaluation.methods import NOTHING
from BrainDiffLogic.evaluation.pairs import FACTS
from BrainDiffLogic.evaluation.run import MEASURED, PICTURES, REFERENCE, REFUSED, Row
from BrainDiffLogic.evaluation.statistics import FEWEST, STATISTICS, Estimate, Stratum, Summary, summarise
from BrainDiffLogic.images.outputs import as_csv, as_markdown, write_texts
from BrainDiffLogic.metrics.measures import AGAINST_REFERENCE, EVALUATION_CONVENTION, MEASURES, WITHOUT_REFERENCE
from BrainDiffLogic.pages import render
from BrainDiffLogic.pictures import CAPTION

VOLUMES, TABLES, MARKDOWN, PAGE = "volumes.csv", "tables.csv", "tables.md", "report.html"
TITLE = "What the corrections are worth"
COLUMNS = (
    "name", "subject", *FACTS, "method", "status", "note", *AGAINST_REFERENCE, "worst_slice", "slice_ssim_mean",
    *WITHOUT_REFERENCE, "seconds",
)  # fmt: skip
ARROWS = {"higher": "higher is better", "lower": "lower is better", "near 1": "1 is as sharp as the reference"}
MISSING = "-"
REFUSALS = "Rows with refused volumes are means over the others: compare them by their changes, on the same volumes."


@dataclass(frozen=True)
class Showcase:
    """A volume that is shown: of which method, why, and its MRE before and after."""

    method: str
    kind: str
    name: str
    before: float
    after: float
    picture: str


def write_report(out: Path, rows: Sequence[Row], notes: Iterable[str] = ()) -> Path:
    """Write volumes.csv, tables.csv, tables.md and report.html to the folder ``out``; returns the page.

    rows   of ``run.evaluate``, whose pictures lie in ``out``
    notes  what a reader must know of the pairs
    """
    summaries = summarise(rows)
    tables = sections(summaries)
    refused = [row for row in rows if row["status"] == REFUSED]
    lines = [*notes, *(f"{row['method']} refused {row['name']}: {row['note']}" for row in refused)]
    content = {
        VOLUMES: as_csv(COLUMNS, rows),
        TABLES: as_csv(_table_columns(), map(_table_row, summaries)),
        MARKDOWN: _markdown(tables, lines),
        PAGE: _page(tables, lines, showcases(rows), out),
    }
    write_texts({out / name: text for name, text in content.items()})
    return out / PAGE


def showcases(rows: Sequence[Row]) -> list[Showcase]:
    """For each method the volume of its median change of the MRE, and that of its worst."""
    before = {row["name"]: row["mre"] for row in rows if row["method"] == NOTHING}
    cases = []
    for method in dict.fromkeys(row["method"] for row in rows if row["method"] != NOTHING):
        mine = [row for row in rows if row["method"] == method and row["status"] == MEASURED]
        mine = [row for row in mine if row["mre"] is not None and before[row["name"]] is not None]
        ranked = sorted(mine, key=lambda row: row["mre"] - before[row["name"]])
        chosen = {"median": ranked[len(ranked) // 2], "worst": ranked[-1]} if ranked else {}
        for kind, row in chosen.items():
            picture = f"{PICTURES}/{row['name']}/{method}.png"
            cases.append(Showcase(method, kind, row["name"], before[row["name"]], row["mre"], picture))
    return cases


def _table_columns() -> list[str]:
    parts = ("", "_low", "_high", "_change", "_change_low", "_change_high", "_p")
    harm = ("worse_volumes", "worse_subjects", "flags")
    return ["by", "stratum", "method", "subjects", "volumes", "refused", *harm] + [
        m + p for m in MEASURES for p in parts
    ]


def _table_row(summary: Summary) -> dict[str, Any]:
    row: dict[str, Any] = {
        "by": summary.stratum.by, "stratum": summary.stratum.value, "method": summary.method,
        "subjects": summary.subjects, "volumes": summary.volumes, "refused": summary.refused,
        "worse_volumes": summary.worse_volumes, "worse_subjects": summary.worse_subjects,
        "flags": ", ".join(summary.flags),
    }  # fmt: skip
    for part, estimates in (("", summary.values), ("_change", summary.changes)):
        for metric, estimate in estimates.items():
            numbers = {part: estimate.mean, f"{part}_low": estimate.interval[0], f"{part}_high": estimate.interval[1]}
            numbers |= {"_p": estimate.p} if part else {}
            row |= {metric + name: None if math.isnan(value) else value for name, value in numbers.items()}
    return row


def _markdown(tables: Sequence[StratumTables], notes: Sequence[str]) -> str:
    lines = [f"# {TITLE}", "", f"BrainDiff {__version__}. {STATISTICS[0].upper()}{STATISTICS[1:]}.", ""]
    lines += [*(f"- {note}" for note in notes), ""] if notes else []
    for section in tables:
        lines += [f"## {section.title}", ""]
        for table in section.tables:
            cells = [[cell.text for cell in line] for line in table.lines]
            lines += [f"### {table.title}", "", *as_markdown([column.title for column in table.columns], cells), ""]
            lines += [*table.notes, *([""] if table.notes else [])]
            lines += [f"Convention: {EVALUATION_CONVENTION}.", ""]
    return "\n".join(lines)


def _page(tables: Sequence[StratumTables], notes: Sequence[str], shown: Sequence[Showcase], out: Path) -> str:
    """The page as one file: style, script and pictures within it."""
    pictures = [(case, base64.b64encode((out / case.picture).read_bytes()).decode("ascii")) for case in shown]
    return render(
        "evaluation", title=TITLE, statistics=STATISTICS, convention=EVALUATION_CONVENTION, sections=tables,
        notes=notes, pictures=pictures, caption=CAPTION,
    )  # fmt: skip


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
class StratumTables:
    """The tables of one stratum."""

    title: str
    tables: Sequence[Table]


def sections(summaries: Sequence[Summary]) -> list[StratumTables]:
    """Three tables for each stratum: against the reference, changes against doing nothing, without reference."""
    groups: dict[Stratum, list[Summary]] = {}
    for summary in summaries:
        groups.setdefault(summary.stratum, []).append(summary)
    return [
        StratumTables(stratum.title, (_quality(group), _changes(group), _without_reference(group)))
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
    return [Column(MEASURES[name].title, ARROWS[MEASURES[name].better]) for name in names]


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
    digits = MEASURES[metric].digits
    low, high = estimate.interval
    interval = "" if math.isnan(low) else f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
    return Cell(f"{estimate.mean:{sign}.{digits}f}{interval}", estimate.mean)


def _change(metric: str, estimate: Estimate) -> tuple[Cell, Cell]:
    p = Cell(MISSING) if math.isnan(estimate.p) else Cell(f"{estimate.p:.2g}", estimate.p)
    return _estimate(metric, estimate, "+"), p


def _share(share: float | None) -> Cell:
    return Cell(MISSING) if share is None else Cell(f"{100 * share:.0f} %", share)
