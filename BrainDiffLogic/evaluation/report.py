"""The files of an evaluation: every volume, every table, and a page that needs nothing beside it."""

from __future__ import annotations

import base64
import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from BrainDiffLogic import __version__
from BrainDiffLogic.evaluation.measures import AGAINST_REFERENCE, CONVENTION, METRICS, WITHOUT_REFERENCE
from BrainDiffLogic.evaluation.methods import NOTHING
from BrainDiffLogic.evaluation.pairs import FACTS
from BrainDiffLogic.evaluation.run import MEASURED, PICTURES, REFUSED, Row
from BrainDiffLogic.evaluation.statistics import STATISTICS, Summary, summarise
from BrainDiffLogic.evaluation.strips import CAPTION
from BrainDiffLogic.evaluation.tables import Section, Table, sections
from BrainDiffLogic.images.outputs import staged_outputs
from BrainDiffLogic.resources import resources

VOLUMES, TABLES, MARKDOWN, PAGE = "volumes.csv", "tables.csv", "tables.md", "report.html"
TITLE = "What the corrections are worth"
COLUMNS = (
    "name", "subject", *FACTS, "method", "status", "note", *AGAINST_REFERENCE, "worst_slice", "slice_ssim_mean",
    *WITHOUT_REFERENCE, "seconds",
)  # fmt: skip


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
    found = sections(summaries)
    lines = [*notes, *_refusals(rows)]
    content = {
        VOLUMES: _csv(COLUMNS, rows),
        TABLES: _csv(_table_columns(), map(_table_row, summaries)),
        MARKDOWN: _markdown(found, lines),
        PAGE: _page(found, lines, showcases(rows), out),
    }
    with staged_outputs(out / name for name in content) as staged:
        for path, text in zip(staged, content.values(), strict=True):
            path.write_text(text, encoding="utf-8")
    return out / PAGE


def showcases(rows: Sequence[Row]) -> list[Showcase]:
    """For each method the volume of its median change of the MRE, and that of its worst."""
    before = {row["name"]: row["mre"] for row in rows if row["method"] == NOTHING}
    found = []
    for method in dict.fromkeys(row["method"] for row in rows if row["method"] != NOTHING):
        mine = [row for row in rows if row["method"] == method and row["status"] == MEASURED]
        mine = [row for row in mine if row["mre"] is not None and before[row["name"]] is not None]
        ranked = sorted(mine, key=lambda row: row["mre"] - before[row["name"]])
        chosen = {"median": ranked[len(ranked) // 2], "worst": ranked[-1]} if ranked else {}
        for kind, row in chosen.items():
            picture = f"{PICTURES}/{row['name']}/{method}.png"
            found.append(Showcase(method, kind, row["name"], before[row["name"]], row["mre"], picture))
    return found


def _refusals(rows: Sequence[Row]) -> list[str]:
    return [f"{row['method']} refused {row['name']}: {row['note']}" for row in rows if row["status"] == REFUSED]


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _table_columns() -> list[str]:
    parts = ("", "_low", "_high", "_change", "_change_low", "_change_high", "_p")
    harm = ("worse_volumes", "worse_subjects", "flags")
    return ["by", "stratum", "method", "subjects", "volumes", "refused", *harm] + [
        m + p for m in METRICS for p in parts
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


def _markdown(found: Sequence[Section], notes: Sequence[str]) -> str:
    lines = [f"# {TITLE}", "", f"BrainDiff {__version__}. {STATISTICS[0].upper()}{STATISTICS[1:]}.", ""]
    lines += [*(f"- {note}" for note in notes), ""] if notes else []
    for section in found:
        lines += [f"## {section.title}", ""]
        for table in section.tables:
            lines += [f"### {table.title}", "", *_markdown_table(table), ""]
            lines += [*table.notes, *([""] if table.notes else []), f"Convention: {CONVENTION}.", ""]
    return "\n".join(lines)


def _markdown_table(table: Table) -> list[str]:
    head = [column.title for column in table.columns]
    cells = [head, ["---", *["---:"] * (len(head) - 1)], *([cell.text for cell in line] for line in table.lines)]
    return [f"| {' | '.join(text.replace('|', '/') for text in line)} |" for line in cells]


def _page(found: Sequence[Section], notes: Sequence[str], shown: Sequence[Showcase], out: Path) -> str:
    """The page as one file: style, script and pictures within it."""
    environment = Environment(loader=FileSystemLoader(resources() / "Evaluation"), autoescape=True)
    pictures = [(case, base64.b64encode((out / case.picture).read_bytes()).decode("ascii")) for case in shown]
    return environment.get_template("report.html.jinja").render(
        title=TITLE, version=__version__, statistics=STATISTICS, convention=CONVENTION, sections=found, notes=notes,
        pictures=pictures, caption=CAPTION,
    )  # fmt: skip
