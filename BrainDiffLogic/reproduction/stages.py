"""``reproduce``: the stages of BrainDiff in their order, each skipped when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from BrainDiffLogic.cohort.split import cohort_manifest
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.reproduction import correctors, generation, physics, table
from BrainDiffLogic.reproduction.found import describe
from BrainDiffLogic.reproduction.report import FORMATS, TABLE
from BrainDiffLogic.reproduction.work import Work


@dataclass(frozen=True)
class Stage:
    """A stage: what must be done before it, what it leaves in the folder, and the work itself."""

    name: str
    needs: tuple[str, ...]
    leaves: tuple[str, ...]
    work: Callable[[Work], dict[str, Any]]


STAGES = (
    Stage("manifest", (), ("manifest.json",), generation.split),
    Stage("slices", ("manifest",), ("slices/slices.json",), generation.slices),
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
    Stage(
        "table", ("injected-test", "motion-test", *correctors.CORRECTORS),
        tuple(f"{TABLE}.{suffix}" for suffix in FORMATS), table.tabulate,
    ),
)  # fmt: skip
NAMES = tuple(stage.name for stage in STAGES)


def reproduce(work: Work, only: Sequence[str] = (), tell: Callable[[str], None] = lambda line: None) -> Path:
    """Run the stages (``only``: these) that are not done; returns the table, which is there after the last one.

    tell  called with lines for the person: what was found, what each stage uses, how long it took
    A run that is stopped, even killed, goes on in the stage where it was. Raises InputError where the data, the
    settings of the folder or an earlier stage are missing, and AssertionError where a subject is in two splits.
    """
    chosen = [stage for stage in STAGES if not only or stage.name in only]
    cohort = work.cohort  # before anything is written
    _check_needs(work, chosen)
    work.open()
    if not only:
        work.clean()
    manifest = cohort_manifest(work.out / "manifest.json", cohort.subjects, work.settings.shares)
    for line in describe(cohort, manifest):
        tell(line)
    for stage in chosen:
        if is_done(work, stage):
            tell(f"{stage.name}: done before")
            continue
        tell(f"{stage.name}: {str(stage.work.__doc__).splitlines()[0].rstrip('.')}")
        started = time.monotonic()
        facts = stage.work(work)
        work.note(stage.name, time.monotonic() - started, facts)
        tell(f"{stage.name}: {time.monotonic() - started:.0f} s")
    return work.out / f"{TABLE}.md"


def is_done(work: Work, stage: Stage) -> bool:
    """Whether a stage is in the log, later than what it needs, and what it left is there."""
    finished = work.finished(stage.name)
    if finished is None or not all((work.out / name).exists() for name in stage.leaves):
        return False
    return all((before := work.finished(need)) is not None and before <= finished for need in stage.needs)


def _check_needs(work: Work, chosen: Sequence[Stage]) -> None:
    """Refuse a stage whose inputs neither are there nor will be made."""
    by_name = {stage.name: stage for stage in STAGES}
    for stage in chosen:
        if is_done(work, stage):
            continue
        for need in stage.needs:
            if by_name[need] not in chosen and not is_done(work, by_name[need]):
                raise InputError(f"stage {stage.name} needs {need}, which is not done in {work.out}; run it first")
