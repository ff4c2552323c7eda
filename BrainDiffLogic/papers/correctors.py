"""The stages that train a corrector: on injected pairs with and without the contrastive term, and on simulated ones."""

from __future__ import annotations

from typing import Any

from BrainDiffLogic.injection.job import injected_run
from BrainDiffLogic.papers.found import assert_split
from BrainDiffLogic.papers.settings import Settings, without_contrast
from BrainDiffLogic.papers.work import S, Work
from BrainDiffLogic.training.configuration import CorrectorConfiguration
from BrainDiffLogic.training.corrector import train_on_pairs
from BrainDiffLogic.training.corrector_cards import export_pair_corrector
from BrainDiffLogic.training.slice_pairs import PairRun, stack_run

CORRECTORS = {
    "corrector": "corrector, L1 + InfoNCE",
    "corrector-l1": "corrector, L1 alone",
    "corrector-physics": "corrector, simulated pairs",
}
"""Stage: what the table calls it."""


def corrector(work: Work[Settings]) -> dict[str, Any]:
    """Phase 4."""
    return train(work, "corrector", work.settings.corrector, _injected(work))


def corrector_without_contrast(work: Work[Settings]) -> dict[str, Any]:
    """Phase 4 without the contrastive term."""
    return train(work, "corrector-l1", without_contrast(work.settings.corrector), _injected(work))


def physics_corrector(work: Work[Settings]) -> dict[str, Any]:
    """The network, loss and slices of phase 4, the motion simulated."""
    start = stack_run(
        work.out / "physics", work.settings.spacing_mm, "simulated", work.weights("vae"), work.hardware
    )
    return train(work, "corrector-physics", work.settings.corrector, start)


def _injected(work: Work[Settings]) -> PairRun:
    return injected_run(work.out / "injected", work.weights("vae"), work.hardware)


def train(
    work: Work[S], name: str, configuration: CorrectorConfiguration, start: PairRun,
    splits: tuple[str, ...] = ("correction",),
) -> dict[str, Any]:  # fmt: skip
    """Train the corrector of the stage ``name`` on pairs of subjects of the ``splits``; returns the facts to note."""
    assert_split(name, start.pairs.subjects, work.manifest, *splits)
    checkpoint = train_on_pairs(configuration, start, work.out / name)
    card = export_pair_corrector(configuration, start, checkpoint, work.weights(name))
    facts = {key: card["training"][key] for key in ("slices", "subjects", "held_out_subjects", "steps")}
    return {**facts, "pairs": len(start.pairs)}
