"""The table of a reproduction as Markdown, CSV and JSON, the paper's own numbers beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from BrainDiffLogic import __version__
from BrainDiffLogic.images.outputs import as_csv, staged_output, write_json
from BrainDiffLogic.metrics.quality import finite_or_none
from BrainDiffLogic.papers.run import FORMAT, TABLE
from BrainDiffLogic.papers.slices import SLICE_CONVENTION, TableRow

FELL = "SSIM fell"

Cell = Callable[[Any], str]
"""The text of a row in a column."""


@dataclass(frozen=True)
class PaperTable:
    """What a paper printed: its lines under their headings, the first of which names the line.

    formats  of the numbers by heading; headings in lower case are keys of the JSON file
    """

    title: str
    formats: Mapping[str, str]
    lines: Sequence[Sequence[Any]]
    note: str

    def as_dicts(self) -> list[dict[str, Any]]:
        """The lines for JSON, each with the title."""
        keys = [heading.lower().replace(" ", "_") for heading in self.formats]
        return [{"table": self.title, **dict(zip(keys, line, strict=True))} for line in self.lines]

    def markdown(self) -> list[str]:
        """Its title, table and note."""
        header = ["", *list(self.formats)[1:]]
        cells = [["" if v is None else f"{v:{f}}" for v, f in zip(line, self.formats.values(), strict=True)]
                 for line in self.lines]  # fmt: skip
        return [f"## {self.title}", "", *_table(header, cells), "", self.note, ""]


@dataclass(frozen=True)
class Layout:
    """How a recipe's table looks.

    columns     heading: the text of a row in it; the name of the method stands before them
    papers      what the paper printed
    convention  of the measures
    """

    title: str
    columns: Mapping[str, Cell]
    papers: Sequence[PaperTable]
    convention: str = SLICE_CONVENTION


def percent(share: float | None) -> str:
    """A share of 1 in percent; nothing for None."""
    return "" if share is None else f"{100 * share:.0f} %"


PSNR: dict[str, Cell] = {"PSNR": lambda row: f"{row.psnr:.2f}"}
SSIM: dict[str, Cell] = {"SSIM": lambda row: f"{row.ssim:.4f}"}
REST: dict[str, Cell] = {
    "MRE": lambda row: f"{row.mre:.4f}",
    "sharpness": lambda row: f"{row.sharpness:.2f}",
    "worse: slices": lambda row: percent(row.worse_slices),
    "subjects": lambda row: percent(row.worse_subjects),
    "n slices (subjects)": lambda row: f"{row.slices} ({row.subjects})",
    " ": lambda row: FELL if row.ssim_fell else "",
}
"""Columns that every table has."""


def write_report(
    out: Path, layout: Layout, rows: Sequence[TableRow], cohort: Sequence[str], notes: Sequence[str],
    log: Sequence[dict[str, Any]],
) -> None:  # fmt: skip
    """Write table.md, table.csv and table.json to the folder ``out``.

    rows           of one class: their fields are the columns of the CSV file
    cohort, notes  lines printed with the table; log: of the stages, for their times
    """
    lines = [finite_or_none(asdict(row)) for row in rows]
    times = {note["stage"]: note["seconds"] for note in log if note["stage"] != TABLE}
    with staged_output(out / f"{TABLE}.md") as staged:
        staged.write_text(_markdown(layout, rows, cohort, notes, times), encoding="utf-8")
    with staged_output(out / f"{TABLE}.csv") as staged:
        staged.write_text(as_csv([field.name for field in fields(rows[0])], lines), encoding="utf-8")
    write_json(out / f"{TABLE}.json", {
        "format": FORMAT, "version": __version__, "convention": layout.convention, "cohort": list(cohort),
        "notes": list(notes), "rows": lines,
        "paper": [line for paper in layout.papers for line in paper.as_dicts()],
        "paper_note": " ".join(dict.fromkeys(paper.note for paper in layout.papers)), "seconds": times,
    })  # fmt: skip


def _markdown(
    layout: Layout, rows: Sequence[TableRow], cohort: Iterable[str], notes: Iterable[str], times: dict[str, float]
) -> str:
    lines = [f"# {layout.title}", "", f"Convention: {layout.convention}.", ""]
    for section in dict.fromkeys(row.section for row in rows):
        cells = [[row.method, *(cell(row) for cell in layout.columns.values())] for row in rows
                 if row.section == section]  # fmt: skip
        lines += [f"## {section[0].upper()}{section[1:]}", "", *_table(["", *layout.columns], cells), ""]
    fallen = [f"- **{FELL}** below its input's: {row.section}, {row.method}" for row in rows if row.ssim_fell]
    lines += [*(fallen or ["No method's SSIM fell below its input's."]), ""]
    for paper in layout.papers:
        lines += paper.markdown()
    lines += ["## Notes", "", *(f"- {note}" for note in (*notes, *cohort)), "", "## Times", ""]
    return "\n".join([*lines, *_table(["stage", "seconds"], [[k, f"{v:.0f}"] for k, v in times.items()]), ""])


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    cells = [list(header), ["---", *["---:"] * (len(header) - 1)], *lines]
    return [f"| {' | '.join(line)} |" for line in cells]
