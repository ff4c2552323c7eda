"""The BIDS derivatives that a batch writes: names, places, and what the sidecars say."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from BrainDiffLogic import __version__
from BrainDiffLogic.cohort.items import Item
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.outputs import as_json, make_folder, staged_outputs

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
ABOUT = f"""T1-weighted scans without head motion artifacts, made by BrainDiff {__version__}.

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
        "Name": "T1-weighted scans without head motion artifacts", "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative", "License": "as the scans", "Authors": ["as the scans"],
        "GeneratedBy": [{"Name": "BrainDiff", "Version": __version__}],
        "DatasetLinks": {"raw": os.path.relpath(source, out)},
    }  # fmt: skip
    texts = {DATASET: as_json(description), README: ABOUT, IGNORED: "\n".join(NOT_BIDS) + "\n"}
    for folder in (out, out / OWN / "locks", out / OWN / "work"):
        make_folder(folder)
    write_texts({out / name: text for name, text in texts.items()})


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


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write all files or none; raises InputError where that fails."""
    with staged_outputs(texts) as staged:
        for path, text in zip(staged, texts.values(), strict=True):
            path.write_text(text, encoding="utf-8")
