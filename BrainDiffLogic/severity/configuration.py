"""The simulated pairs of the severity network: those of a corrector's configuration, split by subject."""

from __future__ import annotations

from pathlib import Path

from BrainDiffLogic.data.subjects import assert_apart, names_subject
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.training.configuration import CorrectorConfiguration, SeverityConfiguration
from BrainDiffLogic.training.fields import read_section
from BrainDiffLogic.training.pairs import PairCache
from BrainDiffLogic.training.sources import find_sources


def pairs_configuration(plan: SeverityConfiguration) -> CorrectorConfiguration:
    """The configuration of the corrector whose pairs are used."""
    return read_section(CorrectorConfiguration, plan.pairs_of)


def pair_cache(plan: SeverityConfiguration, data: str | Path, folder: str | Path) -> PairCache:
    """The training pairs of that configuration; no validation subject is among them.

    data  folder of the volumes; folder: of the simulated pairs, which other runs may share
    """
    pairs = pairs_configuration(plan)
    training, _ = find_sources(pairs, data)
    if missing := set(plan.calibration) - {source.subject for source in training}:
        raise InputError(f"{data}: calibration subject {sorted(missing)[0]!r} is not among the training subjects")
    names = {source.subject for source in training if not names_subject(Path(source.path).name)}
    assert_apart(names - set(plan.calibration), names & set(plan.calibration))
    return PairCache(folder, training, pairs.recipe, pairs.seed)


def split_pairs(plan: SeverityConfiguration, cache: PairCache, pairs: int) -> tuple[list[int], list[int]]:
    """(trained on, calibrated on): indices of those of the first ``pairs`` pairs that are there, by subject."""
    ready = cache.ready(pairs)
    held = {index for index in ready if cache.facts(index)["subject"] in plan.calibration}
    if not held or len(held) == len(ready):
        raise InputError("there are no pairs to train on or to calibrate on; change calibration or --pairs")
    return [index for index in ready if index not in held], sorted(held)
