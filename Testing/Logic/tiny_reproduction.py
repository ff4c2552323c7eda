"""A cohort of five phantom heads, and settings of reproductions that take seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tiny_stores import LDM_NETWORK, VAE_NETWORK, ldm_plan, vae_plan

from BrainDiffLogic.commands.simulate_cohort import CohortSettings, simulate_cohort
from BrainDiffLogic.images import write_volume
from BrainDiffLogic.papers.braindiff import BrainDiffSettings
from BrainDiffLogic.papers.comparison import ComparisonSettings
from BrainDiffLogic.training.configuration import CorrectorConfiguration, Stage
from BrainDiffLogic.training.injection import InjectionSettings
from BrainDiffLogic.volume import Volume

NETWORK: dict[str, Any] = {
    "context": 1, "shuffle": 2, "residual": True, "zero_init": True, "design": "residual", "channels": [4, 8],
    "blocks": 1, "bottleneck_blocks": 1,
}  # fmt: skip
SHARES = {"prior": 0.2, "correction": 0.4, "test": 0.4}


def write_cohort(folder: Path, subjects: int = 5) -> Path:
    """A BIDS dataset of heads of 18 x 24 x 24 voxels of 6 mm, a still and a moved scan each."""
    rng = np.random.default_rng(1)
    (folder / "still").mkdir(parents=True)
    ijk = np.indices((18, 24, 24)) - np.array([8.5, 11.5, 11.5])[:, None, None, None]
    for number in range(subjects):
        radius = np.sqrt((ijk[0] / 7) ** 2 + (ijk[1] / (9 + 0.2 * number)) ** 2 + (ijk[2] / 9) ** 2)
        texture = 600 + 150 * np.sin(0.5 * ijk[1] + number) * np.cos(0.7 * ijk[2])
        head = np.where(radius < 0.8, texture, np.where(radius < 1, 300, 0)) + rng.normal(0, 4, radius.shape)
        volume = Volume(np.abs(head).astype(np.float32), np.diag([6.0, 6, 6, 1]))
        write_volume(volume, folder / "still" / f"p{number}.nii.gz")
    simulate_cohort(folder / "still", folder / "bids", CohortSettings(levels=("steps",), severity=(4.0,)))
    return folder / "bids"


def tiny_corrector(**changes: Any) -> CorrectorConfiguration:
    """Six steps in three epochs."""
    stages = [Stage(6, {"l1": 1.0, "info_nce": 0.1}, learning_rate=1e-3, warmup=0, balance=False)]
    content: dict[str, Any] = {
        "family": "attention-unet", "stages": stages, "network": NETWORK, "data": "pairs", "batch": 4, "ema": 0.5,
        "weight_decay": 0.0, "epoch_steps": 2, "precision": "32-true", "patience": 10, "validation_share": 0.5,
    }  # fmt: skip
    return CorrectorConfiguration(**{**content, **changes})


def tiny_settings(**changes: Any) -> BrainDiffSettings:
    """32 x 32 pixels of 6 mm; every network a few channels and a few steps."""
    content: dict[str, Any] = {
        "canvas": (32, 32), "spacing_mm": 6.0, "step": 3, "shares": SHARES,
        "vae": vae_plan(network=VAE_NETWORK, validation_share=0.0),
        "ldm": ldm_plan(network=LDM_NETWORK, validation_share=0.0),
        "corrector": tiny_corrector(), "injection": InjectionSettings(steps=2, variants=2, signal=(0.99, 0.97)),
        "physics_levels": ("steps", "drift"),
    }  # fmt: skip
    return BrainDiffSettings(**{**content, **changes})


def tiny_comparison(settings: ComparisonSettings, **network: Any) -> ComparisonSettings:
    """A recipe's compact settings on 32 x 32 pixels of 6 mm: two traces each, a step a stage, ``network`` changed."""
    variants = {}
    for name, plan in settings.variants.items():
        stages = [replace(stage, steps=1, warmup=0) for stage in plan.stages]
        arguments = {**plan.network, **network} if isinstance(plan.network, dict) else network
        variants[name] = replace(
            plan, network=arguments, stages=stages, batch=4, ema=0.5, epoch_steps=1, precision="32-true"
        )
    simulation = replace(
        settings.simulation, canvas=(32, 32), spacing_mm=6.0, training_traces=2, test_traces=2, slices=3, gap_mm=12.0
    )
    return replace(settings, variants=variants, simulation=simulation, shares=SHARES)
