"""From a corrector's run to a checkpoint: the averaged weights and a card that says what they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from BrainDiffLogic.models.checkpoints import Card, find_checkpoint, new_card, read_card, save_checkpoint
from BrainDiffLogic.training.configuration import CORRECTING_FIELDS, OPTIMISERS, CorrectorConfiguration
from BrainDiffLogic.training.corrector import WATCHED, network_arguments, pairs_digest
from BrainDiffLogic.training.generative_checkpoints import store_spacing
from BrainDiffLogic.training.run_folder import steps_done, trained_state
from BrainDiffLogic.training.slice_pairs import PairRun
from BrainDiffLogic.training.sources import find_sources

CONTRAST = "T1-weighted, without contrast agent"
SPACING_MM = (0.6, 2.0)
"""Voxel sizes that training covers: 0.8 to 1.33 mm, zoomed by 0.75 to 1.28."""
EXTENT_MM = 60.0
LOG, LONGEST_CURVE = "log", 25
"""Folder of a run's log, and how many points of its curve go onto the card."""
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


def export_corrector(
    configuration: CorrectorConfiguration, checkpoint: Path, path: Path, data: str | Path,
    initial: str | Path | None = None,
) -> Card:  # fmt: skip
    """Write the averaged weights of a run on volumes to ``path`` (.safetensors) and their card; returns it.

    initial  the checkpoint that the run started from, whose training goes onto the card too
    The card's metrics are empty until an evaluation writes them (``Testing/Benchmarks/cards.py``).
    """
    c = configuration
    training, validation = find_sources(c, data)
    facts = {
        "data": dict(Counter(source.subject.rsplit("-", 1)[0].rsplit("_", 1)[0] for source in training)),
        "subjects": len({source.subject for source in training}),
        "held_out_subjects": sorted({source.subject for source in validation}),
        "motion": asdict(c.recipe), **({"traces": c.traces} if c.traces else {}), **_common_facts(c, checkpoint),
        **{name: getattr(c, name) for name in ("crop", "pairs", "lesions", "masked")}, "weights": f"EMA {c.ema}",
        "learning_curve": learning_curve(checkpoint.parent / LOG), **started_from(initial),
    }  # fmt: skip
    given = {"contrast": CONTRAST, "anatomy": "human head or brain", "spacing_mm": list(SPACING_MM),
             "extent_mm": EXTENT_MM}  # fmt: skip
    limits = (
        "Trained and measured on simulated rigid motion of single-coil magnitude images. For research; not for primary"
        " diagnosis. What motion has destroyed in k-space, no magnitude image gives back."
    )
    card = _card(c, c.family, given, facts, limits) | {"evidence": EVIDENCE}
    return save_checkpoint(trained_state(checkpoint), card, path)


def export_pair_corrector(
    configuration: CorrectorConfiguration, start: PairRun, checkpoint: Path, path: Path,
    initial: str | Path | None = None,
) -> Card:  # fmt: skip
    """Write the weights of a run on pairs to ``path`` (.safetensors) and their card; as ``export_corrector``.

    The card's metrics are empty; the table of ``braindiff reproduce`` holds the numbers.
    """
    c = configuration
    training, validation = start.pairs.hold_out(c.validation_share)
    used, held = ({start.pairs.facts[n]["subject"] for n in part} for part in (training, validation))
    facts = {
        "data": f"{start.source} pairs of single slices", "slices": len(training), "subjects": len(used),
        "held_out_subjects": sorted(held), "pairs": pairs_digest(start.pairs), **_common_facts(c, checkpoint),
        "weight_decay": c.weight_decay, "patience": c.patience,
        "weights": f"EMA {c.ema}, smallest validation error" if held else f"EMA {c.ema}, last", **started_from(initial),
    }  # fmt: skip
    given = {"contrast": CONTRAST, "anatomy": "human head", "spacing_mm": store_spacing(start.spacing_mm),
             "canvas": list(start.canvas)}  # fmt: skip
    limits = (
        "Trained by `braindiff reproduce` on single slices of the user's own data. For research; not for primary"
        " diagnosis."
    )
    card = _card(c, f"{c.family} on {start.source} pairs", given, facts, limits)
    return save_checkpoint(trained_state(checkpoint), card, path)


def _card(
    configuration: CorrectorConfiguration, title: str, given: dict[str, Any], facts: dict[str, Any], limits: str
) -> Card:
    asked = {name: getattr(configuration, name) for name in CORRECTING_FIELDS}
    asked = {name: value for name, value in asked.items() if value}
    return new_card(configuration.family, title, network_arguments(configuration), given, facts, limits, **asked)


def _common_facts(configuration: CorrectorConfiguration, checkpoint: Path) -> dict[str, Any]:
    """What a card says of every corrector's training."""
    fields = {name: getattr(configuration, name) for name in ("batch", "precision", "seed")}
    optimiser, stages = OPTIMISERS[configuration.optimiser], [asdict(stage) for stage in configuration.stages]
    return {**fields, "optimiser": optimiser, "stages": stages, "steps": steps_done(checkpoint)}


def started_from(initial: str | Path | None) -> dict[str, Any]:
    """For a card's training: the checkpoint that a run started from, with all that its card says of its training."""
    if initial is None:
        return {}
    before = read_card(find_checkpoint(initial))
    return {"initial": {name: before[name] for name in ("name", "sha256", "averaged", "training") if name in before}}


def learning_curve(log: Path) -> dict[str, float]:
    """Steps to the share of the input's error that is left on validation slices, from the folder of a run's log.

    Whether it still falls at the end tells whether more computing would help. Empty where there is no such log.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(log))
    events.Reload()
    if WATCHED not in events.Tags()["scalars"]:
        return {}
    found = {point.step + 1: float(f"{point.value:.4g}") for point in events.Scalars(WATCHED)}
    steps = sorted(found)
    chosen = sorted({steps[round(place)] for place in np.linspace(0, len(steps) - 1, LONGEST_CURVE)})
    return {str(step): found[step] for step in chosen}
