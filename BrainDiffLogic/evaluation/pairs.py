"""The pairs that an evaluation measures on: a moved scan, its still scan, and what is known of the two."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

from BrainDiffLogic.data import bids
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import READABLE, file_suffix
from BrainDiffLogic.images.nifti import phase_encoding, read_sidecar

REQUIRED = ("moved", "reference", "subject")
FACTS = ("severity_mm", "scanner", "pe_axis", "plane", "simulator", "group")
"""Columns that pairs may be grouped by; severity_mm is the mean RMS displacement (``motion.trajectory``)."""
PLANES = {"AP": "in-plane", "SI": "in-plane", "LR": "through-plane"}
"""Where the phase-encode lines lie beside the sagittal slices, which are corrected."""
NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Pair:
    """A moved scan and the still scan that it is measured against.

    name       what files and tables call the pair; no two of an evaluation have the same
    subject    whose head it is: the unit of the statistics
    moved, reference  the files
    facts      of ``FACTS`` those that are known
    """

    name: str
    subject: str
    moved: Path
    reference: Path
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def severity(self) -> float | None:
        """Mean displacement in mm, None where it is not known."""
        return float(self.facts["severity_mm"]) if "severity_mm" in self.facts else None


def read_pairs(path: str | Path, aligned: bool = True) -> list[Pair]:
    """The pairs of a CSV file: columns moved, reference, subject and any of ``FACTS``; files relative to the CSV.

    aligned  the two scans of a pair must have one grid, as they are compared voxel by voxel
    Raises InputError where the file is no such table, with all rows that are wrong and their line numbers.
    """
    path = Path(path)
    rows = _rows(path)
    problems: list[str] = []
    pairs: list[Pair] = []
    for line, row in rows.items():
        try:
            pairs.append(_pair(path, row, aligned))
        except InputError as error:
            problems.append(f"line {line}: {error}")
    problems += _repeated(path, rows)
    if problems:
        count = f"{len(problems)} rows are" if len(problems) > 1 else "a row is"
        raise InputError(f"{path}: {count} wrong; repair or remove: {'; '.join(problems)}")
    return _named(path, pairs)


def _rows(path: Path) -> dict[int, dict[str, str]]:
    """The rows by their line number, cells stripped."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows: dict[int, dict[str, str]] = {}
            for row in reader:
                rows[reader.line_num] = {key: (text or "").strip() for key, text in row.items() if key}
            columns = [name for name in reader.fieldnames or [] if name]
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; give a table with {', '.join(REQUIRED)}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table ({error}); save it as CSV, UTF-8") from error
    known = (*REQUIRED, *FACTS)
    if missing := [name for name in REQUIRED if name not in columns]:
        raise InputError(f"{path}: the column {missing[0]} is missing; columns are {', '.join(known)}")
    if unknown := [name for name in columns if name not in known]:
        raise InputError(f"{path}: the column {unknown[0]!r} is unknown; columns are {', '.join(known)}")
    if not rows:
        raise InputError(f"{path}: no pair is listed; give a row for each pair")
    return rows


def _pair(table: Path, row: dict[str, str], aligned: bool) -> Pair:
    """The pair of a row; its name comes later."""
    for column in REQUIRED:
        if not row.get(column):
            raise InputError(f"{column} is empty")
    moved, reference = (table.parent / row[column] for column in ("moved", "reference"))
    for column, file in (("moved", moved), ("reference", reference)):
        if not file.exists():
            raise InputError(f"{column} {row[column]}: there is no such file")
        if file.is_file() and file_suffix(file) not in READABLE:
            raise InputError(f"{column} {row[column]}: not one of {', '.join(READABLE)}")
    if aligned:
        _check_grids(moved, reference)
    if severity := row.get("severity_mm"):
        _check_severity(severity)
    return Pair("", row["subject"], moved, reference, {name: row[name] for name in FACTS if row.get(name)})


def _check_severity(text: str) -> None:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise InputError(f"severity_mm {text!r} is not a number of mm, 0 or more")


def _check_grids(moved: Path, reference: Path) -> None:
    """Compare the headers, where that is quick; the voxels are read later."""
    if {file_suffix(moved), file_suffix(reference)} - set(NIFTI):
        return
    try:
        one, other = nib.load(moved), nib.load(reference)
    except (OSError, EOFError, nib.filebasedimages.ImageFileError) as error:
        raise InputError(f"no readable NIfTI ({error})") from None
    same = one.shape[:3] == other.shape[:3] and np.allclose(one.affine, other.affine, atol=1e-3)  # type: ignore[attr-defined]
    if not same:
        raise InputError(f"{moved.name} and {reference.name} have different grids (lay them together with --register)")


def _repeated(path: Path, rows: dict[int, dict[str, str]]) -> list[str]:
    seen: dict[tuple[str, ...], int] = {}
    problems = []
    for line, row in rows.items():
        first = seen.setdefault(tuple(row.get(name, "") for name in ("moved", "reference")), line)
        if first != line:
            problems.append(f"line {line}: the pair of line {first} again")
    return problems


def _named(table: Path, pairs: list[Pair]) -> list[Pair]:
    """Named after the moved files; by their paths, then with their references', where that names no pair alone."""

    def stem(file: Path) -> str:
        return file.name[: -len(file_suffix(file))] if file.is_file() else file.name

    def place(file: Path) -> str:
        folders = (
            file.parent.relative_to(table.parent).parts if file.is_relative_to(table.parent) else file.parent.parts
        )
        return "_".join([*(part.strip("/\\:.") or "up" for part in folders), stem(file)])

    ways = (
        lambda pair: stem(pair.moved),
        lambda pair: place(pair.moved),
        lambda pair: f"{place(pair.moved)}_{place(pair.reference)}",
    )
    for way in ways:
        names = [way(pair) for pair in pairs]
        if max(Counter(name.casefold() for name in names).values()) == 1:
            break
    else:
        raise InputError(f"{table}: two pairs would have one name; give the moved scans different file names")
    return [Pair(name, p.subject, p.moved, p.reference, p.facts) for name, p in zip(names, pairs, strict=True)]


def find_pairs(folder: str | Path) -> tuple[list[Pair], list[str]]:
    """The pairs of a BIDS folder like MR-ART's (acq-standard, acq-headmotionN), and what a reader must know of them.

    Facts come from the sidecar of the moved scan; ``group`` is its level. Pairs whose still scan was rated worse than
    good are left out, as it is no reference. Raises InputError as ``data.bids.find_scans``, and where no pair is
    left.
    """
    scans = bids.find_scans(folder)
    all_pairs, kept = bids.pairs(scans), bids.pairs(bids.without_bad_stills(scans))
    if not kept:
        raise InputError(
            f"{folder}: no scan acq-headmotionN has a good acq-standard beside it; braindiff simulate-cohort makes some"
        )
    notes = []
    if dropped := len(all_pairs) - len(kept):
        notes.append(f"{dropped} pairs are left out: their still scan was rated worse than good.")
    named = [Pair(moved.name, moved.subject, moved.path, still.path, _facts(moved)) for still, moved in kept]
    return named, notes


def _facts(scan: bids.BidsScan) -> dict[str, str]:
    content = read_sidecar(scan.path)
    axis = phase_encoding(scan.path, content)
    scanner = " ".join(str(content[key]) for key in ("Manufacturer", "ManufacturersModelName") if content.get(key))
    facts = {
        "severity_mm": content.get("MotionSeverityMillimetres"), "scanner": scanner,
        "pe_axis": axis, "plane": PLANES.get(str(axis)), "group": scan.level,
        "simulator": "BrainDiff" if content.get("MotionSimulated") else None,
    }  # fmt: skip
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}
