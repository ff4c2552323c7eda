"""Training at the size of a test: three heads of some thousand voxels, networks of some hundred weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from BrainDiffLogic.images import write_volume
from BrainDiffLogic.training.configuration import CorrectorConfiguration, Recipe, Stage
from BrainDiffLogic.training.fields import configuration_folder
from BrainDiffLogic.training.pairs import caches
from BrainDiffLogic.volume import Volume

OTHER_PHASES = ("vae", "ldm", "severity")
SHIPPED = sorted(path for path in configuration_folder().glob("*.yaml") if path.stem.split("-")[0] not in OTHER_PHASES)
OTHER_PAIRS = ("-paper", "-sampling", "-quiet")
COMPACT = [path for path in SHIPPED if not path.stem.endswith(OTHER_PAIRS) and path.stem != "braindiff"]
OUTER = {"context": 3, "shuffle": 2, "residual": True, "zero_init": True}
TINY = {
    "attention-unet": {**OUTER, "design": "residual", "channels": [4, 8], "blocks": 1, "bottleneck_blocks": 1},
    "mc-net": {**OUTER, "filters": [4, 8]},
    "rmman": {**OUTER, "channels": [4, 4, 8], "kernel": 3, "blocks": 1},
}
CONTENT: dict[str, Any] = {
    "family": "attention-unet",
    "network": TINY["attention-unet"],
    "sources": [{"glob": "heads/*.nii.gz"}],
    "validation": ["three"],
    "recipe": {"max_voxels": 3e4},
    "pairs": 3,
    "validation_pairs": 2,
    "batch": 2,
    "crop": 32,
    "epoch_steps": 4,
    "precision": "32-true",
    "stages": [{"steps": 20, "loss": {"l1": 1.0}, "warmup": 2}],
}


def curve_of(printed: str) -> list[str]:
    """What the lines of the epochs say, but for their number and how long they waited, which no two runs share."""
    lines = re.sub(r", waiting for data \d+%$", "", printed, flags=re.MULTILINE).splitlines()
    return [line.split(": ", 1)[1] for line in lines]


def make_data_folder(folder: Path) -> Path:
    """Three heads, a configuration, and the pairs of it in ``pairs``."""
    (folder / "heads").mkdir()
    ijk = np.indices((26, 28, 28)).astype(np.float32) - 13.5
    radius = np.sqrt((ijk**2).sum(axis=0))
    for name, wave in (("one", 0.5), ("two", 0.7), ("three", 0.9)):
        head = np.where(radius < 11, 600 + 200 * np.sin(wave * ijk[0]) * np.cos(wave * ijk[2]), 0)
        volume = Volume(head.astype(np.float32), np.diag([4.0, 4, 4, 1]))
        write_volume(volume, folder / "heads" / f"{name}_T1w.nii.gz")
    write_yaml(folder / "tiny.yaml")
    write_yaml(folder / "muon.yaml", optimiser="muon")
    for cache, count in zip(caches(tiny(), folder, folder / "pairs"), (3, 2), strict=True):
        for index in range(count):
            cache.make(index)
    return folder


def write_yaml(path: Path, **changes: Any) -> Path:
    content = {name: value for name, value in {**CONTENT, **changes}.items() if value is not ...}
    path.write_text(yaml.safe_dump(content))
    return path


def tiny(**changes: Any) -> CorrectorConfiguration:
    content = {**CONTENT, "stages": [Stage(**stage) for stage in CONTENT["stages"]], "recipe": Recipe(max_voxels=3e4)}
    return CorrectorConfiguration(**{**content, **changes})
