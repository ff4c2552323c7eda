"""Which scans a batch corrects, of a BIDS folder, of DICOM series or of a list, and the derivatives that it writes.

A scan that cannot be used is found all the same, with what is wrong with it: it is accounted for and never stops the
rest.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from BrainDiffLogic import __version__
from BrainDiffLogic.data.bids import (
    MISNAMED,
    doubled,
    misnamed_files,
    misplaced,
    named_files,
    nothing_found,
    parse_name,
)
from BrainDiffLogic.data.split import bids_label
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.files import folders_below
from BrainDiffLogic.images import DICOM, file_suffix, is_dicom_file
from BrainDiffLogic.images.outputs import as_json, make_folder, write_texts

LISTS = {".csv": ",", ".tsv": "\t"}
"""Extensions of lists, and what separates their columns."""
PATH = "path"
COLUMNS = {"subject": "sub", "session": "ses", "acquisition": "acq", "run": "run"}
"""Optional columns of a list, and the BIDS entities that they give, in BIDS' order."""
LABEL = re.compile(r"[A-Za-z0-9]+")
SESSION = "ses-"
DICOMDIR = "DICOMDIR"
"""A list of the series beside it."""


@dataclass(frozen=True)
class Item:
    """A scan of a batch.

    source    what is read: a volume file, or the folder or one file of a DICOM series
    shown     what tables and reports call it: its path from the dataset's root, or as the list has it
    entities  of the outputs' names, in the order of BIDS, ``sub`` first
    fault     what is wrong with its name, so that no output may be called by it; ""
    """

    source: Path
    shown: str
    entities: Mapping[str, str]
    fault: str = ""

    @property
    def stem(self) -> str:
        """What the names of all its outputs begin with."""
        return "_".join(f"{key}-{value}" for key, value in self.entities.items())

    @property
    def name(self) -> str:
        """What BIDS calls the scan."""
        return f"{self.stem}_T1w"

    @property
    def folder(self) -> str:
        """Where its outputs lie, from the root of the derivatives."""
        return "/".join([*(f"{key}-{self.entities[key]}" for key in ("sub", "ses") if key in self.entities), "anat"])


def find_items(source: Path) -> list[Item]:
    """The scans of a BIDS folder, of a folder with DICOM series (a folder a series), or of a list (.csv, .tsv).

    Raises InputError where there is none, or a list does not say what its scans are called.
    """
    if source.suffix.lower() in LISTS and source.is_file():
        return _listed(source)
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; give a BIDS folder, a folder of DICOM series, or a .csv list")
    items = _bids(source) or list(_dicom_series(source))
    if not items:
        raise InputError(nothing_found(source))
    return items


def selected(items: Sequence[Item], subjects: Sequence[str], sessions: Sequence[str]) -> list[Item]:
    """The scans of these subjects and sessions, with or without ``sub-`` and ``ses-``; all where none is named.

    Raises InputError for a label that no scan has.
    """
    kept = list(items)
    for key, labels in (("sub", subjects), ("ses", sessions)):
        wanted = {label.removeprefix(f"{key}-") for label in labels}
        missing = sorted(wanted - {item.entities.get(key) for item in items})
        if missing:
            raise InputError(f"no scan is of {key}-{missing[0]}; check the label")
        kept = [item for item in kept if not wanted or item.entities.get(key) in wanted]
    if not kept:
        raise InputError("no scan is of both these subjects and these sessions; check the labels")
    return kept


def _bids(folder: Path) -> list[Item]:
    named = named_files(folder)
    faults = {
        path: "named as a derivative already (desc-); give the raw scans" for path, e in named.items() if "desc" in e
    }
    misnamed = misnamed_files(folder)
    faults |= doubled(named) | misplaced(folder, named) | dict.fromkeys(misnamed, MISNAMED)
    items = [
        Item(path, path.relative_to(folder).as_posix(), entities, faults.get(path, ""))
        for path, entities in (named | misnamed).items()
    ]  # fmt: skip
    return sorted(items, key=lambda item: (item.entities["sub"], item.entities.get("ses", ""), item.shown))


def _dicom_series(root: Path) -> Iterator[Item]:
    """The series below a folder, named by the folders that they lie in; several of one name get run numbers.

    A slice that cannot be opened is a fault of all series in its folder. Two folders that would be one subject are two
    persons, perhaps: a fault of both.
    """
    items: list[Item] = []
    folders: dict[str, set[str]] = {}
    for folder, present in folders_below(root):
        files = [file for file in present if file.name.upper() != DICOMDIR]
        opened = [file for file in files if os.access(file, os.R_OK)]
        lost = next((file.name for file in files if file not in opened and _may_be_slice(file)), "")
        if not lost and not any(map(is_dicom_file, opened)):
            continue
        first, *rest = folder.relative_to(root).parts or (root.resolve().name,)
        folders.setdefault(bids_label(first).casefold(), set()).add(first)
        entities = {"sub": bids_label(first)}
        if rest and rest[0].startswith(SESSION):
            entities["ses"] = bids_label(rest.pop(0).removeprefix(SESSION))
        if rest:
            entities["acq"] = bids_label("".join(rest))
        fault = f"{lost}: cannot be opened, a broken link perhaps; datalad get it, or copy it again" if lost else ""
        sources = _series_in(folder, opened)
        items += [Item(source, source.relative_to(root).as_posix(), entities, fault) for source in sources]
    for item in _numbered(items):
        alike = sorted(folders[item.entities["sub"].casefold()])
        shared = f"the folders {' and '.join(alike)} would be one subject; rename one" if len(alike) > 1 else ""
        yield replace(item, fault=shared or item.fault)


def _may_be_slice(file: Path) -> bool:
    suffix = file_suffix(file)
    return not file.name.startswith(".") and (suffix in ("", *DICOM) or suffix[1:].isdigit())


def _series_in(folder: Path, files: Iterable[Path]) -> list[Path]:
    """The folder, where its files are of one series, else the first file of each."""
    from BrainDiffLogic.images.dicom_files import grouped  # loads pydicom

    series = list(grouped(files))
    return [folder] if len(series) < 2 else sorted(one.files[0] for one in series)


def _numbered(items: list[Item]) -> list[Item]:
    """Scans of one name apart by ``run``."""
    times, seen = Counter(item.stem for item in items), Counter[str]()
    numbered = []
    for item in items:
        seen[item.stem] += 1
        run = {"run": str(seen[item.stem])} if times[item.stem] > 1 else {}
        numbered.append(replace(item, entities={**item.entities, **run}))
    return numbered


def _listed(table: Path) -> list[Item]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter=LISTS[table.suffix.lower()]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: cannot be read ({error}); repair the list") from error
    if not rows:
        raise InputError(f"{table}: names no scan; give the column {PATH!r} in the first line and a scan in each below")
    if PATH not in rows[0]:
        raise InputError(f"{table}: no column {PATH!r} in the first line; name the column with the scans so")
    items = [_row(f"{table}, line {number}", table, row) for number, row in enumerate(rows, start=2)]
    _check_names(table, items)
    return items


def _row(place: str, table: Path, row: Mapping[str, str | None]) -> Item:
    text = (row[PATH] or "").strip()
    if not text or "\0" in text:
        raise InputError(f"{place}: no path; remove the line or complete it")
    source = table.parent / text
    given = {entity: (row.get(name) or "").strip() for name, entity in COLUMNS.items()}
    entities = {entity: label for entity, label in given.items() if label}
    for entity, label in entities.items():
        entities[entity] = label = label.removeprefix(f"{entity}-")
        if not LABEL.fullmatch(label):
            raise InputError(f"{place}: {label!r} is no BIDS label; use letters and digits alone")
    if "sub" not in entities:
        entities = (parse_name(source.name) or {"sub": bids_label(source.name)}) | entities
    return Item(source, text, entities)


def _check_names(table: Path, items: Iterable[Item]) -> None:
    seen: dict[str, Item] = {}
    for item in items:
        other = seen.setdefault(item.stem.casefold(), item)
        if other is not item:
            columns = ", ".join(COLUMNS)
            raise InputError(
                f"{table}: {other.shown} and {item.shown} would both be {item.stem}; tell them apart in the columns"
                f" {columns}"
            )


CORRECTED, DIFFERENCE, DISAGREEMENT = "moco", "mocodiff", "mocodisagreement"
"""Values of the entity ``desc``."""
LOGS, PAGES, OWN = "logs", "reports", ".braindiff"
"""Folders of what failed, of a page a scan, and of what only running batches need."""
DATASET, README, IGNORED = "dataset_description.json", "README", ".bidsignore"
TABLE, COHORT_PAGE = "group_T1w.tsv", "group_T1w.html"
NOT_BIDS = (LOGS, PAGES, OWN, "group_T1w.*", "*_motion.*")
"""What BIDS has no place for: as other BIDS-Apps do, the validator is told so. A folder that is named with a slash
behind it the validator still finds wrong."""
BIDS_VERSION = "1.10.0"
MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
DESCRIPTIONS = {
    CORRECTED: "The scan without the head motion artifacts that the model finds, on the scan's own grid",
    DIFFERENCE: "desc-moco minus the scan, signed, in the scan's units",
    DISAGREEMENT: "How far predictions of the correction disagree, in the scan's units",
}
TITLE = "T1-weighted scans after correction for head motion"
ABOUT = f"""{TITLE}, made by BrainDiff {__version__}.
A scan in which the motion hardly shows came back unchanged: the column gate of {TABLE} tells.

sub-*/**/*_desc-{CORRECTED}_T1w.nii.gz      the corrected scan, on the grid of the scan
sub-*/**/*_desc-{DIFFERENCE}_T1w.nii.gz  what was changed: corrected minus scan
sub-*/**/*_desc-{CORRECTED}_motion.tsv      the motion, where the model finds poses: mm and degrees, a row a line
sub-*/**/*_desc-{CORRECTED}_T1w.json        model, version, parameters, checksums, quality before and after
{PAGES}/*.html                         a page a scan
{COHORT_PAGE}, {TABLE}          all scans
{LOGS}/                                why scans were not corrected

For research. Read a corrected scan beside its original.
"""


@dataclass(frozen=True)
class Places:
    """Where the outputs of a scan are."""

    out: Path
    item: Item

    def image(self, description: str) -> Path:
        """A volume, by its entity ``desc``."""
        return self._at(f"desc-{description}_T1w.nii.gz")

    def sidecar(self, description: str) -> Path:
        """What belongs to a volume; that of ``CORRECTED``, which is written last, holds all."""
        return self._at(f"desc-{description}_T1w.json")

    @property
    def motion(self) -> tuple[Path, Path]:
        """The table of poses and its sidecar."""
        return self._at(f"desc-{CORRECTED}_motion.tsv"), self._at(f"desc-{CORRECTED}_motion.json")

    @property
    def page(self) -> Path:
        """The page of the scan."""
        return self.out / PAGES / f"{self.item.name}.html"

    @property
    def log(self) -> Path:
        """Why the scan was not corrected; of one whose name is wrong it is called by its path."""
        name = self.item.shown.replace("/", "_") if self.item.fault else self.item.name
        return self.out / LOGS / f"{name}.json"

    @property
    def scratch(self) -> Path:
        """Unfinished files, of the one process that holds ``lock``."""
        return self.out / OWN / "work" / self.item.name

    @property
    def lock(self) -> Path:
        """Held by who works on the scan."""
        return self.out / OWN / "locks" / f"{self.item.name}.lock"

    @property
    def every(self) -> list[Path]:
        """All outputs that a scan may have, the one that says that they are whole first."""
        descriptions = (CORRECTED, DIFFERENCE, DISAGREEMENT)
        images = [path for one in descriptions for path in (self.sidecar(one), self.image(one))]
        return [*images, *self.motion, self.page]

    def _at(self, rest: str) -> Path:
        return self.out / self.item.folder / f"{self.item.stem}_{rest}"


def prepare(out: Path, source: Path) -> None:
    """Make the folder of derivatives and describe it.

    Raises InputError for a folder that holds another dataset, that is the input, or that cannot be written.
    """
    if out.resolve() == source.resolve():
        raise InputError(f"{out}: the derivatives would lie among the scans; name another folder")
    if out.exists() and (not out.is_dir() or not _is_own(out)):
        raise InputError(f"{out}: holds something else; give an empty folder, or that of an earlier batch")
    description = {
        "Name": TITLE, "BIDSVersion": BIDS_VERSION, "DatasetType": "derivative", **_credits(source),
        "GeneratedBy": [{"Name": "BrainDiff", "Version": __version__}],
        **({"DatasetLinks": {"raw": os.path.relpath(source, out)}} if source.is_dir() else {}),
    }  # fmt: skip
    texts = {DATASET: as_json(description), README: ABOUT, IGNORED: "\n".join(NOT_BIDS) + "\n"}
    for folder in (out, out / OWN / "locks", out / OWN / "work"):
        make_folder(folder)
    write_texts({out / name: text for name, text in texts.items()})


def _credits(source: Path) -> dict[str, Any]:
    """Authors and licence as the scans' dataset has them; what it does not say, or not as BIDS has it, is left out."""
    try:
        said = json.loads((source / DATASET).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(said, dict):
        return {}
    authors, licence = said.get("Authors"), said.get("License")
    named = isinstance(authors, list) and authors and all(isinstance(name, str) for name in authors)
    return {**({"Authors": authors} if named else {}), **({"License": licence} if isinstance(licence, str) else {})}


def _is_own(out: Path) -> bool:
    if all(path.name.startswith((OWN, IGNORED, README)) for path in out.iterdir()):
        return True  # nothing yet, or another batch is preparing it just now
    try:
        made = json.loads((out / DATASET).read_text(encoding="utf-8"))["GeneratedBy"][0]["Name"]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False
    return bool(made == "BrainDiff")


def motion_texts(item: Item, trajectory: Sequence[Sequence[float]]) -> tuple[str, str]:
    """The table of poses and its sidecar; a row a phase-encode line: mm along and degrees about R, A, S."""
    rows = ["\t".join(MOTION), *("\t".join(f"{value:g}" for value in row) for row in trajectory)]
    columns: dict[str, Any] = {
        "Description": f"Pose of the head at each phase-encode line of {item.name}, as the image tells it"
    }
    for name, axis in zip(MOTION, ("R", "A", "S") * 2, strict=True):
        along, unit = ("Displacement along", "mm") if name.startswith("trans") else ("Rotation about", "deg")
        columns[name] = {"Description": f"{along} the patient's axis {axis}", "Units": unit}
    return "\n".join(rows) + "\n", as_json(columns)


def sidecar(item: Item, description: str, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the sidecar of a volume says."""
    of_bids = item.source.name.startswith(f"{item.name}.")
    source = f"bids:raw:{item.shown}" if of_bids else item.shown
    return {"Description": DESCRIPTIONS[description], "Sources": [source], "SkullStripped": False, **(more or {})}
