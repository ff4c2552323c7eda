"""The do-no-harm suite: every check, for every method, on every head; a job that goes on where it was stopped."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from BrainDiffLogic import __version__
from BrainDiffLogic.errors import InputError, Refused
from BrainDiffLogic.evaluation import safety_checks as checks
from BrainDiffLogic.evaluation.methods import Method, made_by
from BrainDiffLogic.evaluation.safety_checks import ALL_SCANS, CachedMethod, CheckResult
from BrainDiffLogic.evaluation.safety_scene import Scene, build_scene
from BrainDiffLogic.files import digest
from BrainDiffLogic.images.outputs import as_csv, as_json, as_markdown, make_folder, write_json, write_texts
from BrainDiffLogic.progress import Progress, part_of, silent
from BrainDiffLogic.volume import Volume

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
    outcome: CheckResult


def write_safety_report(out: Path, rows: Sequence[HeadOutcome]) -> Path:
    """Write the three files; returns the Markdown one."""
    verdicts = {name: {"passed": of - len(failed), "of": of} for name, (of, failed) in verdict(rows).items()}
    entries = [_entry(row) for row in rows]
    content = {"version": __version__, "convention": SCALE, "methods": verdicts, "rows": entries}
    texts = {REPORT: safety_text(rows), "safety.csv": as_csv(COLUMNS, entries), "safety.json": as_json(content)}
    write_texts({out / name: text for name, text in texts.items()})
    return out / REPORT


def safety_text(rows: Sequence[HeadOutcome]) -> str:
    """A summary, a table for each check, and what the numbers that failed say of themselves."""
    methods, heads = (list(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("method", "head"))
    lines = ["# Does it do harm?", "", f"Heads: {', '.join(heads)}. {SCALE}", "", *_summary(rows), ""]
    for check in dict.fromkeys(row.outcome.check for row in rows):
        chosen = [row for row in rows if row.outcome.check == check]
        lines += [f"## {check[0].upper()}{check[1:]}", "", *_check_table(chosen, methods), ""]
    failed = [row for row in rows if not row.outcome.passed and row.outcome.note]
    lines += ["## What failed says", "", *(map(_remark, failed) if failed else ["Nothing failed."]), ""]
    return "\n".join(lines)


def worst(outcomes: Iterable[CheckResult]) -> CheckResult:
    """The outcome furthest beyond its limit; what cannot be had is worse than any number."""

    def badness(outcome: CheckResult) -> tuple[bool, float]:
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
    failed = {}
    for method in dict.fromkeys(row.method for row in rows):
        mine = [row.outcome for row in rows if row.method == method]
        bad = {(outcome.check, outcome.case) for outcome in mine if not outcome.passed}
        failed[method] = len(cases), [check for check, case in cases if {(check, case), (check, ALL_SCANS)} & bad]
    return failed


def _summary(rows: Sequence[HeadOutcome]) -> list[str]:
    lines = []
    for method, (of, failed) in verdict(rows).items():
        counts = [f"{check} ({failed.count(check)})" for check in dict.fromkeys(failed)]
        lines.append([method, f"{of - len(failed)} of {of}", ", ".join(counts) or "-"])
    return as_markdown(["method", "passed", "failed checks"], lines)


def _check_table(rows: Sequence[HeadOutcome], methods: Sequence[str]) -> list[str]:
    lines = []
    for case in dict.fromkeys(row.outcome.case for row in rows):
        chosen = [row for row in rows if row.outcome.case == case]
        first = chosen[0].outcome
        unit = f" {first.unit}" if first.unit else ""
        cells = [_cell([row.outcome for row in chosen if row.method == method]) for method in methods]
        lines.append([case, f"{_relation(first)} {first.limit:g}{unit}", *cells])
    return as_markdown(["case", "limit", *methods], lines)


def _cell(outcomes: Sequence[CheckResult]) -> str:
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


def _relation(outcome: CheckResult) -> str:
    return ">=" if outcome.least else "<="


def _entry(row: HeadOutcome) -> dict[str, Any]:
    values = {"head": row.head, "method": row.method, "relation": _relation(row.outcome), **asdict(row.outcome)}
    values["number"] = row.outcome.number if math.isfinite(row.outcome.number) else None
    return {name: values[name] for name in COLUMNS}


Check = Callable[[Method, Scene], list[CheckResult]]
CHECKS: dict[str, Check] = {
    checks.CLEAN: checks.check_clean_scan,
    checks.IDEMPOTENCE: checks.check_idempotence,
    checks.IMPLANTED: checks.check_implanted_lesions,
    checks.ABSENT: checks.check_absent_lesions,
    checks.TISSUE_VOLUMES: checks.check_tissue_volumes,
    checks.EQUIVARIANCE: checks.check_equivariance,
    checks.OUT_OF_DOMAIN: checks.check_out_of_domain,
}
"""In the order of the report. Each takes a method and a head's scene and gives numbers with their limits."""
FORMAT = 3
"""Of a check's answer: another number where a check, its limit or the scene has changed, so that it is run again."""
FOLDER = "safety"
SEED = 5


def run_safety(methods: dict[str, Method], heads: Sequence[Volume], out: Path, progress: Progress = silent) -> Path:
    """Run what is not yet done, and write the report; returns it, ``out/safety.md``, beside safety.csv and safety.json.

    methods  by name; heads: still T1-weighted scans of whole heads or brains, not used for training
    out      folder; its folder ``safety`` holds one file for each head and method, with the checks that are done
    A check is run again where head, weights, device, version or ``FORMAT`` have changed. Raises InputError where there
    is no head, or one shows no tissues.
    """
    if not heads:
        raise InputError("heads: there is none to check the methods on; give still T1-weighted scans")
    folder = out / FOLDER
    make_folder(folder)
    rows: list[HeadOutcome] = []
    share = 1 / len(heads)
    for number, (name, head) in enumerate(zip(_names(heads), heads, strict=True)):
        rows += _check_head(name, head, methods, folder, part_of(progress, number * share, share, name))
    progress(1.0, "Checked")
    return write_safety_report(out, rows)


def _check_head(
    name: str, head: Volume, methods: dict[str, Method], folder: Path, progress: Progress
) -> list[HeadOutcome]:
    """All outcomes of one head; what is missing in its files is checked and written there."""
    known, made, scene = _digest(head), made_by(methods), None
    rows: list[HeadOutcome] = []
    for number, (method_name, method) in enumerate(methods.items()):
        file = folder / f"{quote(name, safe='')}_{quote(method_name, safe='')}.json"
        key = {"format": FORMAT, "version": __version__, "head": known, "method": method_name}
        key["made_by"] = made[method_name]
        results = _read(file, key)
        missing = [check for check in CHECKS if check not in results]
        if missing:
            scene = scene or build_scene(head, SEED)
            method = CachedMethod(method, [volume for case in scene.cases for volume in (case.plain, case.lesioned)])
            for done, check in enumerate(missing):
                progress((number + done / len(missing)) / len(methods), f"{method_name}: {check}")
                results[check] = _outcomes(check, method, scene)
                _write(file, key, results)
        rows += [HeadOutcome(name, method_name, outcome) for check in CHECKS for outcome in results[check]]
    return rows


def _outcomes(check: str, method: Method, scene: Scene) -> list[CheckResult]:
    """What a check finds; a method that refuses one of its scans does not pass it."""
    try:
        return CHECKS[check](method, scene)
    except Refused as error:
        return [CheckResult(check, ALL_SCANS, math.nan, 0.0, False, "", f"refused: {error}")]


def _names(heads: Sequence[Volume]) -> list[str]:
    """One for each head, after its file; numbered where that is none or another's."""
    stems = [Path(head.source).name.split(".")[0] or "head" for head in heads]
    names: list[str] = []
    for number, stem in enumerate(stems, 1):
        name = stem if stems.count(stem) == 1 and stem != "head" else f"{stem}-{number}"
        while name in names or (name != stem and name in stems):
            name += "-"
        names.append(name)
    return names


def _digest(head: Volume) -> str:
    array = np.ascontiguousarray(head.array)
    return digest([digest(array.tobytes()), str(array.dtype), array.shape, np.round(head.affine, 6).tolist()])


def _read(file: Path, key: dict[str, Any]) -> dict[str, list[CheckResult]]:
    """The outcomes by check that a file holds; none where it is missing or made for another ``key``."""
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["key"] != key:
            return {}
        return {check: [_outcome(entry) for entry in entries] for check, entries in content["checks"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{file}: damaged; delete it, what it held is checked again") from None


def _outcome(entry: dict[str, Any]) -> CheckResult:
    return CheckResult(**{**entry, "number": float(entry["number"])})


def _write(file: Path, key: dict[str, Any], results: dict[str, list[CheckResult]]) -> None:
    checked = {check: [_plain(outcome) for outcome in outcomes] for check, outcomes in results.items()}
    write_json(file, {"key": key, "checks": checked})


def _plain(outcome: CheckResult) -> dict[str, Any]:
    """For JSON, where what is not finite is its name."""
    entry = asdict(outcome)
    return {**entry, "number": entry["number"] if math.isfinite(entry["number"]) else str(entry["number"])}
