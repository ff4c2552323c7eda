"""Batches as tests make them: a small BIDS dataset, and scans that kill the worker that touches them."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from BrainDiffLogic.cohort.items import Item
from BrainDiffLogic.images import write_volume
from BrainDiffLogic.volume import Volume


def save_scans(folder: Path, head: Volume, subjects: int) -> Path:
    """A BIDS dataset of int16 heads that differ in their noise."""
    for number in range(1, subjects + 1):
        noise = np.random.default_rng(number).normal(0, 4, head.shape)
        array = (head.array + 20 + noise).clip(0, 2000).astype(np.int16)
        place = folder / f"sub-{number:03d}" / "anat"
        place.mkdir(parents=True)
        write_volume(Volume(array, head.affine), place / f"sub-{number:03d}_T1w.nii.gz")
    (folder / "dataset_description.json").write_text('{"Name": "Heads", "BIDSVersion": "1.10.0"}\n')
    return folder


def outputs(folder: Path) -> dict[str, bytes]:
    """The volumes and tables of a folder of derivatives by their places; what only a running batch needs is no part."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix in (".gz", ".tsv"))
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in files if not path.name.startswith("group")
    }


@dataclass(frozen=True)
class DeadlyItem(Item):
    """A scan that kills the process which asks for its path, as often as there are lives; counted in a file.

    counter  a file that grows by one byte with each kill
    """

    counter: Path = Path()
    lives: int = 0
    home: int = field(default_factory=os.getpid)

    def __getattribute__(self, name: str) -> object:
        """Kill on ``source``, elsewhere than at home, in the process that made it."""
        if name == "source" and os.getpid() != object.__getattribute__(self, "home"):
            counter = object.__getattribute__(self, "counter")
            killed = counter.stat().st_size if counter.exists() else 0
            if killed < object.__getattribute__(self, "lives"):
                with counter.open("ab") as file:
                    file.write(b".")
                os.kill(os.getpid(), signal.SIGKILL)
        return object.__getattribute__(self, name)
