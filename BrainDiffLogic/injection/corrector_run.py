"""From a finished injection to the training of a corrector on its pairs (phase 4)."""

from __future__ import annotations

import json
from pathlib import Path

from BrainDiffLogic.injection.job import JOB, InjectedPairs
from BrainDiffLogic.training.hardware import ONE_DEVICE, Hardware
from BrainDiffLogic.training.pair_run import PairRun


def injected_run(folder: str | Path, vae: Path | None = None, hardware: Hardware = ONE_DEVICE) -> PairRun:
    """A run on the pairs of a finished ``braindiff synthesize``. Raises InputError where the folder holds none."""
    folder = Path(folder)
    pairs = InjectedPairs(folder)  # also checks job.json
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    return PairRun(pairs, tuple(job["canvas"]), job["spacing_mm"], "injected", vae, hardware)
