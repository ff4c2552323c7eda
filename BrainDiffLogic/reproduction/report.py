"""The table as Markdown, CSV and JSON, the paper's own numbers beside it."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from io import StringIO
from pathlib import Path
from typing import Any

from BrainDiffLogic import __version__
from BrainDiffLogic.images.outputs import staged_output
from BrainDiffLogic.reproduction.measures import CONVENTION, Row
from BrainDiffLogic.reproduction.work import FORMAT, write_json

TABLE, FORMATS = "table", ("md", "csv", "json")
PAPER = (
    ("VAE (Reconstruction)", 30.60, 0.8707, 0.0443),
    ("LDM (Artifact Injection)", 21.46, 0.6360, 0.1337),
    ("Corrector (Restoration)", 22.12, 0.5724, 0.1072),
)
"""BrainDiff, Table I: stage, PSNR in dB, SSIM, MRE."""
PAPER_NOTE = (
    "MR-ART; the paper states no convention, no do-nothing row and no number of slices, so that its numbers compare"
    " with each other alone. Its corrector's SSIM lies below that of its injected input."
)
FELL = "SSIM fell"


def write_report(
    out: Path, rows: Sequence[Row], cohort: Sequence[str], notes: Sequence[str], log: Sequence[dict[str, Any]]
) -> None:
    """Write table.md, table.csv and table.json to the folder ``out``.

    cohort, notes  lines printed with the table; log: of the stages, for their times
    """
    times = {note["stage"]: note["seconds"] for note in log if note["stage"] != TABLE}
    with staged_output(out / f"{TABLE}.md") as staged:
        staged.write_text(_markdown(rows, cohort, notes, times), encoding="utf-8")
    with staged_output(out / f"{TABLE}.csv") as staged:
        staged.write_text(_csv(rows), encoding="utf-8")
    paper = [dict(zip(("stage", "psnr", "ssim", "mre"), line, strict=True)) for line in PAPER]
    write_json(out / f"{TABLE}.json", {
        "format": FORMAT, "version": __version__, "convention": CONVENTION, "cohort": list(cohort),
        "notes": list(notes), "rows": [_plain(row) for row in rows], "paper": paper, "paper_note": PAPER_NOTE,
        "seconds": times,
    })  # fmt: skip


def _plain(row: Row) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(row).items()}


def _csv(rows: Sequence[Row]) -> str:
    text = StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_plain(row) for row in rows)
    return text.getvalue()


def _markdown(rows: Sequence[Row], cohort: Iterable[str], notes: Iterable[str], times: dict[str, float]) -> str:
    header = ["", "PSNR", "SSIM", "MRE", "sharpness", "worse: slices", "subjects", "n slices (subjects)", ""]
    lines = ["# Table I on your data: subjects of the test split", "", f"Convention: {CONVENTION}.", ""]
    for section in dict.fromkeys(row.section for row in rows):
        lines += [f"## {section[0].upper()}{section[1:]}", "", *_table(header, _cells(rows, section)), ""]
    fallen = [f"- **{FELL}** below its input's: {row.section}, {row.method}" for row in rows if row.ssim_fell]
    lines += [*(fallen or ["No method's SSIM fell below its input's."]), ""]
    paper = [[stage, f"{psnr:.2f}", f"{ssim:.4f}", f"{mre:.4f}"] for stage, psnr, ssim, mre in PAPER]
    lines += ["## The paper's own Table I, on its own data", "", *_table(["", "PSNR", "SSIM", "MRE"], paper), ""]
    lines += [PAPER_NOTE, "", "## Notes", "", *(f"- {note}" for note in (*notes, *cohort)), "", "## Times", ""]
    return "\n".join([*lines, *_table(["stage", "seconds"], [[k, f"{v:.0f}"] for k, v in times.items()]), ""])


def _cells(rows: Iterable[Row], section: str) -> list[list[str]]:
    return [
        [
            row.method, f"{row.psnr:.2f}", f"{row.ssim:.4f}", f"{row.mre:.4f}", f"{row.sharpness:.2f}",
            _percent(row.worse_slices), _percent(row.worse_subjects), f"{row.slices} ({row.subjects})",
            FELL if row.ssim_fell else "",
        ]
        for row in rows if row.section == section
    ]  # fmt: skip


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    cells = [list(header), ["---", *["---:"] * (len(header) - 1)], *lines]
    return [f"| {' | '.join(line)} |" for line in cells]
