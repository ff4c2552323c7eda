"""The configuration of the severity network's training: a YAML file, checked against these fields."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from BrainDiffLogic.data.subjects import assert_apart, names_subject
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.training.configuration import (
    Configuration,
    check_optimiser_name,
    find_configuration,
    find_sources,
    read_configuration,
    shipped_names,
)
from BrainDiffLogic.training.fields import Limits, check_number, check_numbers, check_parts, make_section, read_yaml
from BrainDiffLogic.training.pairs import PairCache

PRECISIONS = ("bf16-mixed", "32-true")
NUMBERS: Limits = {
    "epochs": (int, 1, math.inf), "epoch_steps": (int, 1, math.inf), "batch": (int, 1, math.inf),
    "accumulate": (int, 1, math.inf), "crop": (int, 1, math.inf), "learning_rate": (float, 0, math.inf),
    "warmup": (int, 0, math.inf), "decay": (float, 0, 1), "weight_decay": (float, 0, math.inf),
    "ema": (float, 0, 0.999999), "clip": (float, 0, math.inf), "validate_every": (int, 1, math.inf),
    "seed": (int, 0, math.inf),
}  # fmt: skip
SHARES = ("mild_share", "zoom_share", "blur_share", "quantised_share", "masked_share", "masked_brain_share")
RANGES = ("zoom", "gain", "gamma", "blur", "levels", "mild", "mask_threshold")


@dataclass(frozen=True)
class Variation:
    """What is done alike to a moved slice and the still one, so that nothing but the motion tells them apart.

    Ranges are drawn uniformly, zoom and levels log-uniformly, noise more often low than high.

    mild, mild_share    of the pairs, so many are mixed with the still slice; to first order in the displacement the
                        artifact, and so the severity, is that share of the whole: fills 0 to ``mild_limit_mm``
    zoom, zoom_share    interpolation after the scan, to 0.8-1.25 times the pixels
    bias_field          largest logarithm of the receive field
    blur                standard deviation in pixels
    levels              grey values between 0 and 1 of a quantised slice
    masked_share, masked_brain_share  slices of heads and of stripped brains whose air is set to 0, as stripping does
    mask_threshold      of the smoothed slice: what lies below is air
    """

    mild: tuple[float, float] = (0.1, 0.8)
    mild_share: float = 0.25
    mild_limit_mm: float = 1.5
    zoom: tuple[float, float] = (0.8, 1.25)
    zoom_share: float = 0.4
    gain: tuple[float, float] = (0.8, 1.2)
    gamma: tuple[float, float] = (0.75, 1.3)
    bias_field: float = 0.3
    blur: tuple[float, float] = (0.3, 1.0)
    blur_share: float = 0.3
    noise: float = 0.03
    levels: tuple[float, float] = (120.0, 1000.0)
    quantised_share: float = 0.3
    masked_share: float = 0.15
    masked_brain_share: float = 0.6
    mask_threshold: tuple[float, float] = (0.04, 0.12)


@dataclass(frozen=True)
class SeverityConfiguration:
    """A training of the severity network.

    pairs_of     configuration of a corrector (name or path) whose simulated pairs are used
    calibration  subjects among those of the pairs that are not trained on: calibration and threshold come from them
    network      arguments of ``SeverityNetwork``
    crop         rows and columns of the windows
    batch        pairs of one optimiser step, over all processes and accumulated parts
    optimiser    "adamw" or "muon", see ``training.optimisers``
    warmup, decay  steps in which the rate rises; share of all steps in which it falls to 0 at the end
    """

    pairs_of: str
    calibration: list[str]
    network: dict[str, Any] = field(default_factory=dict)
    variation: Variation = field(default_factory=Variation)
    crop: int = 128
    batch: int = 16
    accumulate: int = 1
    epochs: int = 30
    epoch_steps: int = 100
    learning_rate: float = 2e-3
    warmup: int = 100
    decay: float = 0.7
    weight_decay: float = 1e-3
    ema: float = 0.99
    clip: float = 1.0
    validate_every: int = 2
    precision: str = "bf16-mixed"
    seed: int = 1
    optimiser: str = "adamw"

    @property
    def steps(self) -> int:
        """Optimiser steps of the run."""
        return self.epochs * self.epoch_steps


def read_severity_configuration(path: str | Path, **overrides: Any) -> SeverityConfiguration:
    """The configuration in a YAML file; an InputError names a field that is unknown or of no use."""
    content = read_yaml(path, shipped_names())
    content = {**content, **{name: value for name, value in overrides.items() if value is not None}}
    variation = content.get("variation", {})
    if isinstance(variation, dict):
        variation = {name: tuple(value) if isinstance(value, list) else value for name, value in variation.items()}
    content["variation"] = make_section(Variation, variation, path, "variation")
    plan: SeverityConfiguration = make_section(SeverityConfiguration, content, path)
    check_numbers(plan, path, NUMBERS)
    _check_variation(plan.variation, path)
    if plan.precision not in PRECISIONS:
        raise InputError(f"{path}: precision must be one of {', '.join(PRECISIONS)}, got {plan.precision!r}")
    check_optimiser_name(plan.optimiser, path)
    check_parts(plan.batch, plan.accumulate, path)
    names = plan.calibration
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: calibration must list the names of subjects to calibrate on")
    if not isinstance(plan.network, dict) or not isinstance(plan.pairs_of, str):
        raise InputError(f"{path}: network must hold arguments, pairs_of the name of a corrector's configuration")
    return plan


def _check_variation(variation: Variation, path: str | Path) -> None:
    check_numbers(variation, path, dict.fromkeys(SHARES, (float, 0, 1)))
    for name in ("bias_field", "noise", "mild_limit_mm"):
        check_number(name, getattr(variation, name), (float, 0, math.inf), path)
    for name in RANGES:
        limits = getattr(variation, name)
        if not isinstance(limits, tuple) or len(limits) != 2:
            raise InputError(f"{path}: {name} must be [lowest, highest], got {limits!r}")
        for limit in limits:
            check_number(name, limit, (float, 1e-6, math.inf), path)
        if limits[0] > limits[1]:
            raise InputError(f"{path}: {name} must be [lowest, highest], got {list(limits)}")


def pairs_configuration(plan: SeverityConfiguration) -> Configuration:
    """The configuration of the corrector whose pairs are used."""
    return read_configuration(find_configuration(plan.pairs_of))


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
