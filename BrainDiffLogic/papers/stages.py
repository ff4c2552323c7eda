"""The stages of a recipe in their order, each skipped when it is done: a stopped run goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from BrainDiffLogic.data.split import cohort_manifest
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.papers.found import check_enough, describe
from BrainDiffLogic.papers.report import TABLE
from BrainDiffLogic.papers.work import S, Work

MANIFEST = "manifest"


@dataclass(frozen=True)
class Stage(Generic[S]):
    """A stage: what must be done before it, what it leaves in the folder, and the work itself.

    does  what the person is told that it does; without it the first line of the work's docstring
    """

    name: str
    needs: tuple[str, ...]
    leaves: tuple[str, ...]
    work: Callable[[Work[S]], dict[str, Any]]
    does: str = ""


def reproduce(
    stages: Sequence[Stage[S]], work: Work[S], only: Sequence[str] = (), tell: Callable[[str], None] = lambda line: None
) -> Path:
    """Run the stages (``only``: these) that are not done; returns the table, which is there after the last one.

    tell  called with lines for the person: what was found, what each stage uses, how long it took
    A run that is stopped, even killed, goes on in the stage where it was. Raises InputError where the data, the
    settings of the folder or an earlier stage are missing, and AssertionError where a subject is in two splits.
    """
    chosen = [stage for stage in stages if not only or stage.name in only]
    cohort = work.cohort  # before anything is written
    _check_needs(work, stages, chosen)
    work.open()
    if not only:
        work.clean()
    manifest = cohort_manifest(work.out / "manifest.json", cohort.subjects, work.settings.shares)
    for line in describe(cohort, manifest, work.settings.uses):
        tell(line)
    for stage in chosen:
        if is_done(work, stage):
            tell(f"{stage.name}: done before")
            continue
        tell(f"{stage.name}: {stage.does or str(stage.work.__doc__).splitlines()[0].rstrip('.')}")
        started = time.monotonic()
        facts = stage.work(work)
        work.note(stage.name, time.monotonic() - started, facts)
        tell(f"{stage.name}: {time.monotonic() - started:.0f} s")
    return work.out / f"{TABLE}.md"


def is_done(work: Work[S], stage: Stage[S]) -> bool:
    """Whether a stage is in the log, later than what it needs, and what it left is there."""
    finished = work.finished(stage.name)
    if finished is None or not all((work.out / name).exists() for name in stage.leaves):
        return False
    return all((before := work.finished(need)) is not None and before <= finished for need in stage.needs)


def split_stage(held_out: Callable[[S], bool]) -> Stage[S]:
    """The first stage of every recipe.

    held_out  whether, with these settings, correctors hold out a subject to validate on
    """

    def split(work: Work[S]) -> dict[str, Any]:
        """Three-way split of the subjects."""
        manifest = cohort_manifest(work.out / "manifest.json", work.cohort.subjects, work.settings.shares)
        check_enough(work.cohort, manifest, work.settings.uses.needs(held_out(work.settings)))
        excluded = {reason: len(names) for reason, names in work.cohort.excluded.items()}
        return {"splits": {name: len(members) for name, members in manifest.splits.items()}, "left_out": excluded}

    return Stage(MANIFEST, (), ("manifest.json",), split)


def _check_needs(work: Work[S], stages: Sequence[Stage[S]], chosen: Sequence[Stage[S]]) -> None:
    """Refuse a stage whose inputs neither are there nor will be made."""
    by_name = {stage.name: stage for stage in stages}
    for stage in chosen:
        if is_done(work, stage):
            continue
        for need in stage.needs:
            if by_name[need] not in chosen and not is_done(work, by_name[need]):
                raise InputError(f"stage {stage.name} needs {need}, which is not done in {work.out}; run it first")
