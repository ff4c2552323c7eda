"""From a training run to a checkpoint: the averaged weights and a card that says what they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from BrainDiffLogic import __version__
from BrainDiffLogic.models.checkpoints import Card, save_checkpoint
from BrainDiffLogic.training.configuration import HOW_TO_CORRECT, OPTIMISERS, CorrectorConfiguration
from BrainDiffLogic.training.run import network_arguments, started_from
from BrainDiffLogic.training.run_folder import steps_done, trained_state
from BrainDiffLogic.training.sources import find_sources

SPACING_MM = (0.6, 2.0)
"""Voxel sizes that training covers: 0.8 to 1.33 mm, zoomed by 0.75 to 1.28."""
EXTENT_MM = 60.0
LOG, CURVE, LONGEST_CURVE = "log", "validation/all", 25
"""Folder of a run's log, its curve that goes onto the card, and of how many points."""
EVIDENCE = [
    "On simulated motion of 83 subjects stacked U-Nets on magnitude images raised SSIM from 0.717 to 0.950 (Al-masni"
    " 2022).",
    "On real motion, simulation 'systematically exaggerates algorithm performance, and reference-free evaluation"
    " overrates oversmoothed deep learning outputs'; people put an image-domain U-Net far behind methods that have the"
    " raw data (PMoC3D, arXiv 2506.05975).",
    "An independent test of another magnitude-image method, JDAC, on 22 subjects (ds004332): with motion SSIM rose from"
    " 0.540 to 0.561; on still scans cortical thickness fell from 2.595 to 2.435 mm; regional thickness came no nearer"
    " to the truth than in the uncorrected scan (github.com/math-wil/jdac-motion-correction).",
]
"""Published evidence for and against correction from the magnitude image alone; none of it is about this model."""


def export(
    configuration: CorrectorConfiguration, checkpoint: Path, path: Path, data: str | Path,
    initial: str | Path | None = None,
) -> Card:
    """Write the averaged weights of a run's checkpoint to ``path`` (.safetensors) and their card; returns it.

    initial  the checkpoint that the run started from, whose training goes onto the card too
    The card's metrics are empty until an evaluation writes them (``Testing/Benchmarks/cards.py``).
    """
    training = _training(configuration, data, steps_done(checkpoint))
    training |= {"learning_curve": learning_curve(checkpoint.parent / LOG), **started_from(initial)}
    card: dict[str, Any] = {
        "title": f"BrainDiff {configuration.family}",
        "version": __version__,
        "family": configuration.family,
        "arguments": network_arguments(configuration),
        **how_to_correct(configuration),
        "input": {
            "contrast": "T1-weighted, without contrast agent", "plane": "sagittal",
            "anatomy": "human head or brain",
            "spacing_mm": list(SPACING_MM), "extent_mm": EXTENT_MM,
            "scaling": "volume floor to 0, 99th percentile inside the head to 1",
        },
        "training": training,
        "limits": "Trained and measured on simulated rigid motion of single-coil magnitude images. For "
        "research; not for primary diagnosis. What motion has destroyed in k-space, no magnitude image gives back.",
        "evidence": EVIDENCE,
        "metrics": [],
        "licence": "Apache-2.0",
    }  # fmt: skip
    return save_checkpoint(trained_state(checkpoint), card, path)


def how_to_correct(configuration: CorrectorConfiguration) -> dict[str, Any]:
    """For a card: "views" and "least_change" of a configuration, where it has them."""
    asked = {name: getattr(configuration, name) for name in HOW_TO_CORRECT}
    return {name: value for name, value in asked.items() if value}


def learning_curve(log: Path) -> dict[str, float]:
    """Steps to the share of the input's error that is left on validation slices, from the folder of a run's log.

    Whether it still falls at the end tells whether more computing would help. Empty where there is no such log.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(log))
    events.Reload()
    if CURVE not in events.Tags()["scalars"]:
        return {}
    found = {point.step + 1: float(f"{point.value:.4g}") for point in events.Scalars(CURVE)}
    steps = sorted(found)
    chosen = sorted({steps[round(place)] for place in np.linspace(0, len(steps) - 1, LONGEST_CURVE)})
    return {str(step): found[step] for step in chosen}


def _training(configuration: CorrectorConfiguration, data: str | Path, steps: int) -> dict[str, Any]:
    training, validation = find_sources(configuration, data)
    recipe = asdict(configuration.recipe)
    return {
        "data": dict(Counter(source.subject.rsplit("-", 1)[0].rsplit("_", 1)[0] for source in training)),
        "subjects": len({source.subject for source in training}),
        "held_out_subjects": sorted({source.subject for source in validation}),
        "motion": recipe, **({"traces": configuration.traces} if configuration.traces else {}),
        "stages": [asdict(stage) for stage in configuration.stages],
        "batch": configuration.batch, "crop": configuration.crop, "optimiser": OPTIMISERS[configuration.optimiser],
        "precision": configuration.precision, "steps": steps, "pairs": configuration.pairs,
        "lesions": configuration.lesions, "masked": configuration.masked, "seed": configuration.seed,
        "weights": f"EMA {configuration.ema}",
    }  # fmt: skip
