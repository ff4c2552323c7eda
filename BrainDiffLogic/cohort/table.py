"""One table and one page over all scans of a folder of derivatives, made from their sidecars and from what failed."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from BrainDiffLogic.cohort.items import COHORT_PAGE, CORRECTED, LOGS, PAGES, TABLE
from BrainDiffLogic.cohort.work import DONE, FAILED, REFUSED
from BrainDiffLogic.images.outputs import as_csv, as_json, write_texts
from BrainDiffLogic.metrics.quality import Assessment
from BrainDiffLogic.pages import render
from BrainDiffLogic.severity import CORRECTED as PASSED
from BrainDiffLogic.severity import FORCED, OFF, UNCHANGED

QUALITY = tuple(field.name for field in fields(Assessment) if field.name != "reasons")
BEFORE, AFTER = "_before", "_after"
FIRST = {
    "participant_id": "Who was scanned",
    "session_id": "Session, n/a without one",
    "scan": "BIDS name of the scan",
    "status": "What became of the scan",
    "reason": "Why the scan was not corrected",
    "gate": "What the motion gate had done with the scan",
    "severity_mm": "Motion that the scan shows, mean displacement in mm, as the gate's network sees it",
    "changed_share": "Share of the head's intensity that was changed",
    "outside_domain": "What of the scan lies outside of what the model was trained on",
}
LAST = {
    "seconds": "Time of the correction",
    "strength": "Share of the change that was applied",
    "model": "Name of the model",
    "model_sha256": "sha256 of its weights",
    "version": "Version of BrainDiff",
    "input": "The scan, from the root of its dataset",
    "input_sha256": "sha256 of the scan",
}
PER_SCAN = {
    **FIRST,
    **{
        f"{metric}{when}": f"No-reference quality {when.strip('_')} correction: {metric}"
        for metric in QUALITY for when in (BEFORE, AFTER)
    },
    **LAST,
}  # fmt: skip
"""Columns and what they hold."""
MORE: dict[str, dict[str, Any]] = {
    "status": {
        "Levels": {
            DONE: "Went through; corrected, or returned unchanged (gate)",
            REFUSED: "Not corrected: outside of the model's domain",
            FAILED: "Not corrected: cannot be read, or an error (reason)",
        }
    },
    "gate": {
        "Levels": {
            UNCHANGED: "Shows too little motion, or the model would change next to nothing",
            PASSED: "Shows motion, to the gate or (a note in the sidecar says so) to the default model alone",
            FORCED: "Shows too little motion, corrected all the same (--force)",
            OFF: "The gate was not asked",
        }
    },
    "severity_mm": {"Units": "mm"},
    "seconds": {"Units": "s"},
}
"""Units and levels of some, as BIDS has them."""
ScanRow = dict[str, Any]


def read_rows(out: Path) -> list[ScanRow]:
    """A row for each scan that was done, refused or failed, sorted by participant and scan; None where nothing is."""
    ending = f"_desc-{CORRECTED}_T1w.json"
    sidecars = sorted(file for folder in out.glob("sub-*") for file in folder.rglob(f"*{ending}"))
    rows = [_row(file.name.removesuffix(ending), _done(said)) for file, said in _objects(sidecars)]
    for _, said in _objects(sorted((out / LOGS).glob("*.json"))):
        told = {"status": said.get("Status"), "reason": said.get("Reason"), "input": said.get("Scan")}
        rows.append(_row(str(said.get("Name")).removesuffix("_T1w"), told))
    return sorted(rows, key=lambda row: (row["participant_id"], row["scan"]))


def write_table(out: Path, rows: Iterable[ScanRow]) -> Path:
    """Write the table and what its columns mean; returns the table."""
    lines = ({key: "n/a" if value is None else value for key, value in row.items()} for row in rows)
    meaning = as_json({name: {"Description": says, **MORE.get(name, {})} for name, says in PER_SCAN.items()})
    write_texts({out / TABLE: as_csv(list(PER_SCAN), lines, "\t"), (out / TABLE).with_suffix(".json"): meaning})
    return out / TABLE


def _objects(files: Iterable[Path]) -> Iterable[tuple[Path, dict[str, Any]]]:
    """Those that can be read; a damaged sidecar is that of a scan that the next batch does again."""
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            yield file, content


def _row(stem: str, told: ScanRow) -> ScanRow:
    entities = dict(part.partition("-")[::2] for part in stem.split("_"))
    session = f"ses-{entities['ses']}" if "ses" in entities else None
    own = {"participant_id": f"sub-{entities.get('sub', '')}", "session_id": session, "scan": f"{stem}_T1w"}
    return {**dict.fromkeys(PER_SCAN), **own, **told}


def _done(said: Mapping[str, Any]) -> ScanRow:
    report, quality = _object(said, "Report"), _object(said, "Quality")
    named = ("gate", "severity_mm", "changed_share", "seconds", "strength", "model", "input")
    numbers = {
        f"{metric}{when}": _object(quality, when.strip("_").title()).get(metric)
        for metric in QUALITY for when in (BEFORE, AFTER)
    }  # fmt: skip
    outside = "; ".join(map(str, report.get("outside_domain") or [])) or None
    sums = {"model_sha256": "ModelSHA256", "version": "Version", "input_sha256": "InputSHA256"}
    return {"status": DONE, **{name: report.get(name) for name in named}, "outside_domain": outside, **numbers,
            **{name: said.get(key) for name, key in sums.items()}}  # fmt: skip


def _object(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key)
    return value if isinstance(value, dict) else {}


OUTLYING = 3.5
"""Distance from the median in robust standard deviations from which a scan is an outlier (Iglewicz and Hoaglin)."""
NEEDED = 8
"""Scans from which there is something to lie outside of."""
BINS = 20
MISSING = ("", "n/a", "na", "nan")
"""How a table says that a value is missing: BIDS, and what programs write."""
TESTED = ("severity_mm", "changed_share", *(metric + AFTER for metric in QUALITY))
SHOWN = ("cjv", "efc", "snr_total", "cnr", "tenengrad", "gradient_entropy")


def write_page(out: Path, rows: Sequence[ScanRow], source: Path) -> Path:
    """Write the page: a sortable table, outliers, quality before and after, motion against age and group.

    source  the dataset; what its participants.tsv says of age and groups is shown
    """
    odd = outliers(rows)
    lines = [{**row, **_in_words(row), "odd": odd.get(row["scan"], [])} for row in rows]
    text = render(
        "cohort", title="Motion correction of a cohort", rows=lines, histograms=list(_histograms(rows)),
        plots=_plots(rows, read_participants(source)), outlying=OUTLYING,
    )  # fmt: skip
    write_texts({out / COHORT_PAGE: text})
    return out / COHORT_PAGE


def _in_words(row: ScanRow) -> dict[str, Any]:
    """What the page says of a scan beside its numbers; ``changed`` None where it was not done."""
    outside = "outside of the model's domain" if row.get("outside_domain") else ""
    return {
        "page": f"{PAGES}/{row['scan']}.html",
        "changed": bool(row["changed_share"]) if row["status"] == DONE else None,
        "remark": (row["reason"] or outside).removeprefix(f"{row['input']}: "),
    }


def outliers(rows: Iterable[ScanRow]) -> dict[str, list[str]]:
    """The measures by which a scan lies outside, by its name: modified z-scores of the scans that were done."""
    done = [row for row in rows if row["status"] == DONE]
    deviating: dict[str, list[str]] = {}
    for measure in TESTED:
        values = {row["scan"]: float(row[measure]) for row in done if row.get(measure) is not None}
        numbers = np.array(list(values.values()))
        if len(numbers) < NEEDED:
            continue
        middle = np.median(numbers)
        spread = 1.4826 * float(np.median(np.abs(numbers - middle)))
        for scan, value in values.items():
            if spread > 0 and abs(value - middle) > OUTLYING * spread:
                deviating.setdefault(scan, []).append(measure)
    return deviating


def read_participants(source: Path) -> dict[str, dict[str, str]]:
    """The lines of participants.tsv by participant_id; none where there is no readable table."""
    try:
        with (source / "participants.tsv").open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}
    return {str(row["participant_id"]): row for row in rows if row.get("participant_id")}


def _histograms(rows: Iterable[ScanRow]) -> Iterable[dict[str, Any]]:
    """Bars of each quality metric before and after, in shares of the highest; only scans that have both."""
    rows = list(rows)
    for metric in SHOWN:
        both = [(row[metric + BEFORE], row[metric + AFTER]) for row in rows]
        numbers = np.array([pair for pair in both if None not in pair], dtype=float).reshape(-1, 2)
        if not len(numbers):
            continue
        low, high = float(numbers.min()), float(numbers.max())
        counts = [np.histogram(column, BINS, (low, high if high > low else low + 1))[0] for column in numbers.T]
        most = max(int(count.max()) for count in counts)
        bars = {when: (count / most).tolist() for when, count in zip(("before", "after"), counts, strict=True)}
        yield {"metric": metric, "low": low, "high": high, "most": most, "scans": len(numbers), **bars}


def _plots(rows: Iterable[ScanRow], people: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """Motion against each column of participants.tsv that is an age or a group."""
    plots = []
    for column in ("age", "group", "sex", "diagnosis"):
        points = [
            (value, float(row["severity_mm"]), row["scan"]) for row in rows
            if row.get("severity_mm") is not None
            and (value := (people.get(row["participant_id"], {}).get(column) or "").strip()).lower() not in MISSING
        ]  # fmt: skip
        if points:
            plots.append({"column": column, **(_by_number(points) or _by_name(points))})
    return plots


def _by_number(points: Sequence[tuple[str, float, str]]) -> dict[str, Any] | None:
    """Points on a canvas of 100 x 40 where all values are numbers, else None."""
    try:
        across = np.array([float(value) for value, _, _ in points])
    except ValueError:
        return None
    if not np.isfinite(across).all():
        return None
    low, high = float(across.min()), float(across.max())
    return _placed(points, (across - low) / ((high - low) or 1), [(0, f"{low:g}"), (100, f"{high:g}")])


def _by_name(points: Sequence[tuple[str, float, str]]) -> dict[str, Any]:
    """Points in a column a name; scans of one value a little apart."""
    names = sorted({value for value, _, _ in points})
    place = {name: (number + 0.5) / len(names) for number, name in enumerate(names)}
    apart = np.linspace(-0.2, 0.2, len(points)) / len(names)
    across = np.array([place[value] for value, _, _ in points]) + apart
    return _placed(points, across, [(100 * place[name], name) for name in names])


def _placed(
    points: Sequence[tuple[str, float, str]], across: np.ndarray, ticks: Sequence[tuple[float, str]]
) -> dict[str, Any]:
    most = max([motion for _, motion, _ in points] + [0.1])
    dots = [
        {"x": 100 * float(x), "y": 40 - 38 * motion / most, "said": f"{scan}: {value}, {motion:.2f} mm"}
        for x, (value, motion, scan) in zip(across, points, strict=True)
    ]  # fmt: skip
    return {"dots": dots, "ticks": list(ticks), "most": most}
