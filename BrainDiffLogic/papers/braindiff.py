"""``reproduce braindiff``: the stages of its four phases."""

from __future__ import annotations

from BrainDiffLogic.papers import correctors, generation, physics, table
from BrainDiffLogic.papers.report import TABLES
from BrainDiffLogic.papers.settings import Settings
from BrainDiffLogic.papers.stages import MANIFEST, Stage, split_stage

STAGES: tuple[Stage[Settings], ...] = (
    split_stage(lambda settings: settings.corrector.validation_share > 0),
    Stage("slices", (MANIFEST,), ("slices/slices.json",), generation.slices),
    Stage("vae", ("slices",), ("vae.safetensors",), generation.autoencoder),
    Stage("ldm", ("vae",), ("ldm.safetensors",), generation.motion_prior),
    Stage("ldm-clean", ("vae",), ("ldm-clean.safetensors",), generation.clean_prior),
    Stage("injected", ("ldm", "ldm-clean"), ("injected/job.json",), generation.injection),
    Stage(
        "injected-test", ("ldm", "ldm-clean"), ("injected-test/job.json", "injected-test-clean/job.json"),
        generation.injection_for_test,
    ),
    Stage("motion-test", ("slices",), ("motion-test",), physics.motion_test_pairs),
    Stage("corrector", ("injected",), ("corrector.safetensors",), correctors.corrector),
    Stage("corrector-l1", ("injected",), ("corrector-l1.safetensors",), correctors.corrector_without_contrast),
    Stage("physics", ("slices",), ("physics",), physics.physics_pairs),
    Stage("corrector-physics", ("physics", "vae"), ("corrector-physics.safetensors",), correctors.physics_corrector),
    Stage("table", ("injected-test", "motion-test", *correctors.CORRECTORS), TABLES, table.tabulate),
)  # fmt: skip
