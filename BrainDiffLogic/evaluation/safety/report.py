"""The suite's report: safety.csv and safety.json with every number, safety.md with the worst head of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from BrainDiffLogic import __version__
from BrainDiffLogic.evaluation.safety.checks import ALL_SCANS, Outcome
from BrainDiffLogic.images.outputs import as_csv, as_json, staged_outputs

REPORT = "safety.md"
COLUMNS = ("head", "method", "check", "case", "number", "relation", "limit", "unit", "passed", "note")
PASSED, FAILED = "ok", "FAIL"
SCALE = (
    "Numbers are on the still scan's robust scale (floor 0, 99th percentile inside the head 1) and taken in its head, "
    "lesions and tissues in its inner head. Each cell is the worst of the heads; a row is passed where all heads pass."
)


@dataclass(frozen=True)
class HeadOutcome:
    """One outcome, of which head and method."""

    head: str
    method: str
    outcome: Outcome


def write_report(out: Path, rows: Sequence[HeadOutcome]) -> Path:
    """Write the three files; returns the Markdown one."""
    files = [out / REPORT, out / "safety.csv", out / "safety.json"]
    with staged_outputs(files) as (markdown, table, data):
        markdown.write_text(as_markdown(rows), encoding="utf-8")
        table.write_text(as_csv(COLUMNS, map(_entry, rows)), encoding="utf-8")
        verdicts = {name: {"passed": of - len(failed), "of": of} for name, (of, failed) in verdict(rows).items()}
        entries = [_entry(row) for row in rows]
        content = {"version": __version__, "convention": SCALE, "methods": verdicts, "rows": entries}
        data.write_text(as_json(content), encoding="utf-8")
    return files[0]


def as_markdown(rows: Sequence[HeadOutcome]) -> str:
    """A summary, a table for each check, and what the numbers that failed say of themselves."""
    methods, heads = (list(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("method", "head"))
    lines = ["# Does it do harm?", "", f"Heads: {', '.join(heads)}. {SCALE}", "", *_summary(rows), ""]
    for check in dict.fromkeys(row.outcome.check for row in rows):
        chosen = [row for row in rows if row.outcome.check == check]
        lines += [f"## {check[0].upper()}{check[1:]}", "", *_check_table(chosen, methods), ""]
    failed = [row for row in rows if not row.outcome.passed and row.outcome.note]
    lines += [
        "## What failed says",
        "",
        *(_remark(row) for row in failed),
        *([] if failed else ["Nothing failed."]),
        "",
    ]
    return "\n".join(lines)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome furthest beyond its limit; what cannot be had is worse than any number."""

    def badness(outcome: Outcome) -> tuple[bool, float]:
        if math.isnan(outcome.number):
            return True, math.inf
        return not outcome.passed, -outcome.number if outcome.least else outcome.number

    return max(outcomes, key=badness)


def verdict(rows: Sequence[HeadOutcome]) -> dict[str, tuple[int, list[str]]]:
    """By method: how many cases there are, and the check of each that it did not pass on every head.

    Of a check that it refused on one head, it passed no case.
    """
    known = dict.fromkeys((row.outcome.check, row.outcome.case) for row in rows)
    done = {check for check, case in known if case != ALL_SCANS}
    cases = [(check, case) for check, case in known if case != ALL_SCANS or check not in done]
    found = {}
    for method in dict.fromkeys(row.method for row in rows):
        mine = [row.outcome for row in rows if row.method == method]
        bad = {(outcome.check, outcome.case) for outcome in mine if not outcome.passed}
        found[method] = len(cases), [check for check, case in cases if {(check, case), (check, ALL_SCANS)} & bad]
    return found


def _summary(rows: Sequence[HeadOutcome]) -> list[str]:
    lines = ["| method | passed | failed checks |", "| --- | ---: | --- |"]
    for method, (of, failed) in verdict(rows).items():
        counts = [f"{check} ({failed.count(check)})" for check in dict.fromkeys(failed)]
        lines.append(f"| {method} | {of - len(failed)} of {of} | {', '.join(counts) or '-'} |")
    return lines


def _check_table(rows: Sequence[HeadOutcome], methods: Sequence[str]) -> list[str]:
    lines = [f"| case | limit | {' | '.join(methods)} |", f"| --- | ---: |{' ---: |' * len(methods)}"]
    for case in dict.fromkeys(row.outcome.case for row in rows):
        chosen = [row for row in rows if row.outcome.case == case]
        first = chosen[0].outcome
        unit = f" {first.unit}" if first.unit else ""
        cells = [_cell([row.outcome for row in chosen if row.method == method]) for method in methods]
        lines.append(f"| {case} | {_relation(first)} {first.limit:g}{unit} | {' | '.join(cells)} |")
    return lines


def _cell(outcomes: Sequence[Outcome]) -> str:
    if not outcomes:
        return "-"
    shown = worst(outcomes)
    word = PASSED if all(outcome.passed for outcome in outcomes) else FAILED
    how = shown.note.partition(":")[0] if shown.note.startswith(("refused", "flagged")) else ""
    if how:
        return how if word == PASSED else f"{how} {word}"
    return f"{shown.number:.4g} {word}"


def _remark(row: HeadOutcome) -> str:
    return f"- {row.method}, {row.head}, {row.outcome.check}, {row.outcome.case}: {row.outcome.note}"


def _relation(outcome: Outcome) -> str:
    return ">=" if outcome.least else "<="


def _entry(row: HeadOutcome) -> dict[str, Any]:
    values = {"head": row.head, "method": row.method, "relation": _relation(row.outcome), **asdict(row.outcome)}
    values["number"] = row.outcome.number if math.isfinite(row.outcome.number) else None
    return {name: values[name] for name in COLUMNS}
