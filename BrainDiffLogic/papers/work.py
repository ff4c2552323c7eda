"""The folder of a reproduction: where each stage leaves what, which settings it was made with, and its log."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from BrainDiffLogic.data.split import Manifest, read_manifest
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.outputs import staged_output
from BrainDiffLogic.inference import choose_device
from BrainDiffLogic.papers.found import Cohort, Uses, find_cohort
from BrainDiffLogic.training.fit import Hardware
from BrainDiffLogic.training.slice_store import SliceStore

FORMAT = 1
SETTINGS, LOG = "reproduction.json", "run.json"
STAGED = ".braindiff-"
"""How the folders of ``images.outputs.staged_output`` begin."""

Progress = Callable[[float, str], None]


class RecipeSettings(Protocol):
    """What the settings of every recipe say; ``Settings`` of BrainDiff, ``ComparisonSettings`` of the others."""

    @property
    def shares(self) -> Mapping[str, float]:
        """Of the subjects, see ``data.split``."""

    @property
    def worst_still(self) -> int:
        """Still scans with a worse expert score are left out."""

    @property
    def uses(self) -> Uses:
        """Of the cohort."""

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON holds it."""


S = TypeVar("S", bound=RecipeSettings)


@dataclass
class Work(Generic[S]):
    """A reproduction under way: ``data``, the BIDS folder, becomes what lies in ``out``.

    device    "auto", "cpu", "cuda" or "mps"; jobs: processes that simulate and register
    progress  called with (share of a piece of work done, its name)
    """

    data: Path
    out: Path
    settings: S
    device: str = "auto"
    jobs: int = 1
    progress: Progress = field(default=lambda share, stage: None)

    @cached_property
    def cohort(self) -> Cohort:
        """What the BIDS folder holds."""
        return find_cohort(self.data, self.settings.worst_still, self.settings.uses.groups)

    @property
    def manifest(self) -> Manifest:
        """The split, as it was written; read again by each stage that asks."""
        return read_manifest(self.out / "manifest.json")

    @property
    def store(self) -> SliceStore:
        """The slices of the cohort."""
        return SliceStore(self.out / "slices")

    @property
    def hardware(self) -> Hardware:
        """What phases 1 and 2 train on."""
        return Hardware(choose_device(self.device).type)

    def weights(self, name: str) -> Path:
        """The trained weights of a stage."""
        return self.out / f"{name}.safetensors"

    def open(self) -> None:
        """Make the folder and note the settings, or check that it was begun with these.

        Raises InputError where it was begun with others, or cannot be written.
        """
        settings = self.settings.as_dict()
        file = self.out / SETTINGS
        if file.exists():
            before = _read(file)
            changed = [key for key, value in settings.items() if before["settings"].get(key) != value]
            if changed:
                raise InputError(f"{self.out}: was begun with another {changed[0]}; give that again, or another --out")
            if before["scans"] != self.cohort.digest:
                raise InputError(f"{self.out}: was begun with other scans than {self.data} holds; give another --out")
            return
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            occupied = any(not path.name.startswith(STAGED) for path in self.out.iterdir())
        except OSError as error:
            raise InputError(f"{self.out}: cannot be made a folder ({error.strerror}); choose another") from None
        if occupied:
            raise InputError(f"{self.out}: holds something else; give an empty folder")
        write_json(file, {"format": FORMAT, "data": str(self.data), "scans": self.cohort.digest, "settings": settings})

    def finished(self, stage: str) -> str | None:
        """When a stage ran to its end (ISO 8601, UTC); None when it has not."""
        file = self._file(stage)
        return str(_read(file)["finished"]) if file.is_file() else None

    def note(self, stage: str, seconds: float, facts: dict[str, Any]) -> None:
        """Write a stage into the log: it is done. One file a stage, so that jobs of a cluster do not collide."""
        self._file(stage).parent.mkdir(exist_ok=True)
        finished = datetime.now(UTC).isoformat(timespec="milliseconds")
        write_json(self._file(stage), {"stage": stage, "seconds": round(seconds, 1), "finished": finished, **facts})
        write_json(self.out / LOG, {"format": FORMAT, "device": self.device, "stages": self.log()})

    def log(self) -> list[dict[str, Any]]:
        """What the finished stages noted, in the order they ended."""
        notes = [_read(path) for path in (self.out / "log").glob("*.json")]
        return sorted(notes, key=lambda note: note["finished"])

    def clean(self) -> None:
        """Remove what writing left behind when a process was killed. Not while another process works here."""
        for remains in self.out.glob(f"{STAGED}*"):
            shutil.rmtree(remains, ignore_errors=True)

    def _file(self, stage: str) -> Path:
        return self.out / "log" / f"{stage}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        raise InputError(f"{path}: damaged; delete it, finished work is found again") from None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    with staged_output(path) as staged:
        staged.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
