"""One table over all scans of a folder of derivatives, made from their sidecars and from what failed."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from BrainDiffLogic.cohort.derivatives import CORRECTED, LOGS, PAGES, TABLE, as_json, write_texts
from BrainDiffLogic.cohort.work import DONE

QUALITY = (
    "cjv", "efc", "snr_csf", "snr_gm", "snr_wm", "snr_total", "cnr", "fber", "tenengrad", "aes", "gradient_entropy",
)  # fmt: skip
BEFORE, AFTER = "_before", "_after"
FIRST = {
    "participant_id": "Who was scanned",
    "session_id": "Session, n/a without one",
    "scan": "BIDS name of the scan",
    "status": "done; refused: outside of the model's domain; failed",
    "reason": "Why the scan was not corrected",
    "gate": "Whether the motion gate had the scan corrected",
    "severity_mm": "Motion that the scan shows, mean displacement in mm, as the gate's network sees it",
    "changed_share": "Share of the head's intensity that was changed",
}
LAST = {
    "seconds": "Time of the correction",
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
Row = dict[str, Any]


def read_rows(out: Path) -> list[Row]:
    """A row for each scan that was done, refused or failed, sorted by participant and scan; None where nothing is."""
    ending = f"_desc-{CORRECTED}_T1w.json"
    sidecars = sorted(file for folder in out.glob("sub-*") for file in folder.rglob(f"*{ending}"))
    rows = [_row(file.name.removesuffix(ending), _done(said)) for file, said in _objects(sidecars)]
    rows += [
        _row(str(said.get("Name")).removesuffix("_T1w"), _not_done(said))
        for _, said in _objects(sorted((out / LOGS).glob("*.json")))
    ]
    return sorted(rows, key=lambda row: (row["participant_id"], row["scan"]))


def write_table(out: Path, rows: Iterable[Row]) -> Path:
    """Write the table and what its columns mean; returns the table."""
    text = StringIO()
    writer = csv.DictWriter(text, list(PER_SCAN), delimiter="\t", lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({key: "n/a" if value is None else value for key, value in row.items()} for row in rows)
    meaning = as_json({name: {"Description": description} for name, description in PER_SCAN.items()})
    write_texts({out / TABLE: text.getvalue(), (out / TABLE).with_suffix(".json"): meaning})
    return out / TABLE


def page_of(row: Mapping[str, Any]) -> str:
    """Where the page of a scan is, from the root of the derivatives."""
    return f"{PAGES}/{row['scan']}.html"


def _objects(files: Iterable[Path]) -> Iterable[tuple[Path, dict[str, Any]]]:
    """Those that can be read; a damaged sidecar is that of a scan that the next batch does again."""
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            yield file, content


def _row(stem: str, told: Row) -> Row:
    entities = dict(part.partition("-")[::2] for part in stem.split("_"))
    session = f"ses-{entities['ses']}" if "ses" in entities else None
    own = {"participant_id": f"sub-{entities.get('sub', '')}", "session_id": session, "scan": f"{stem}_T1w"}
    return {**dict.fromkeys(PER_SCAN), **own, **told}


def _done(said: Mapping[str, Any]) -> Row:
    report, quality = _object(said, "Report"), _object(said, "Quality")
    named = ("gate", "severity_mm", "changed_share", "seconds", "model", "input")
    numbers = {
        f"{metric}{when}": _object(quality, when.strip("_").title()).get(metric)
        for metric in QUALITY for when in (BEFORE, AFTER)
    }  # fmt: skip
    sums = {"model_sha256": "ModelSHA256", "version": "Version", "input_sha256": "InputSHA256"}
    return {"status": DONE, **{name: report.get(name) for name in named}, **numbers,
            **{name: said.get(key) for name, key in sums.items()}}  # fmt: skip


def _not_done(said: Mapping[str, Any]) -> Row:
    return {"status": said.get("Status"), "reason": said.get("Reason"), "input": said.get("Scan")}


def _object(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = content.get(key)
    return found if isinstance(found, dict) else {}
