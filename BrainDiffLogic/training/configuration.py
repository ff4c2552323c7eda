"""The configuration of a training run: a YAML file, checked against these fields."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.training.pairs import Recipe, Source

LOSS_TERMS = ("l1", "tv", "multi_scale_l2", "multi_scale_l1")


@dataclass(frozen=True)
class Stage:
    """Part of a run with its own loss: ``loss`` maps terms to weights (MC-Net: alpha of l1, beta of tv)."""

    steps: int
    loss: dict[str, float]
    learning_rate: float = 1e-3
    warmup: int = 200
    decay: float = 0.4
    """The learning rate is constant, then falls linearly to 0 over this last share of the stage."""
    balance: bool = True
    """Weigh each pair by the error of doing nothing, see ``losses.pair_weights``."""


@dataclass(frozen=True)
class Configuration:
    """A run of supervised training.

    sources      volumes to train on: a list of {glob, kind, weight}; the subject is the file name up to "_T1w" or "."
    validation   subjects held out, by name
    network      "compact", "paper", or a mapping of arguments of the family
    stages       one after the other, see ``Stage``
    pairs        how many training pairs are simulated; 0: each on the fly, never stored
    """

    family: str
    sources: list[dict[str, Any]]
    validation: list[str]
    stages: list[Stage]
    network: str | dict[str, Any] = "compact"
    recipe: Recipe = field(default_factory=Recipe)
    pairs: int = 400
    validation_pairs: int = 24
    batch: int = 8
    crop: int = 192
    weight_decay: float = 1e-4
    ema: float = 0.999
    clip: float = 1.0
    seed: int = 1
    epoch_steps: int = 200
    precision: str = "bf16-mixed"

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)


def read_configuration(path: str | Path, **overrides: Any) -> Configuration:
    """The configuration in a YAML file; unknown or missing fields are an InputError that names them."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such configuration file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: a configuration is a mapping of fields, see Resources/Training")
    content = {**content, **{name: value for name, value in overrides.items() if value is not None}}
    content["stages"] = [_make(Stage, stage, path) for stage in content.get("stages", [])]
    if not content["stages"]:
        raise InputError(f"{path}: stages is missing: give at least one stage with steps and loss")
    for stage in content["stages"]:
        if unknown := set(stage.loss) - set(LOSS_TERMS):
            raise InputError(f"{path}: loss {sorted(unknown)} is unknown: use {', '.join(LOSS_TERMS)}")
    content["recipe"] = _make(Recipe, content.get("recipe", {}), path)
    return _make(Configuration, content, path)


def _make(cls: type, content: dict[str, Any], path: str | Path) -> Any:
    names = {f.name for f in dataclasses.fields(cls)}
    required = {
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if unknown := set(content) - names:
        raise InputError(f"{path}: unknown field {sorted(unknown)[0]!r}; known are {', '.join(sorted(names))}")
    if missing := required - set(content):
        raise InputError(f"{path}: the field {sorted(missing)[0]!r} is missing")
    return cls(**{name: tuple(v) if isinstance(v, list) and cls is Recipe else v for name, v in content.items()})


def find_sources(configuration: Configuration, data: str | Path) -> tuple[list[Source], list[Source]]:
    """(training, validation) volumes below the folder ``data``, split by subject.

    Raises InputError when a pattern finds nothing, a validation subject is missing, or one subject is on both sides.
    """
    training, validation = [], []
    for entry in configuration.sources:
        files = sorted(glob.glob(os.path.join(data, entry["glob"])))
        if not files:
            raise InputError(f"{data}: no file matches {entry['glob']!r}; check --data and the sources' glob")
        for file in files:
            subject = re.split(r"_T1w|\.nii|\.nrrd|\.mha", Path(file).name)[0]
            held_out = subject in configuration.validation
            weight = float(entry.get("weight", 1.0)) / len(files)
            source = Source(file, subject, entry.get("kind", "head"), 1.0 if held_out else weight)
            (validation if held_out else training).append(source)
    if missing := set(configuration.validation) - {source.subject for source in validation}:
        raise InputError(f"{data}: validation subject {sorted(missing)[0]!r} is not among the sources")
    assert_disjoint(training, validation)
    return training, validation


def assert_disjoint(training: list[Source], validation: list[Source]) -> None:
    """Raise InputError when a subject or a file is both trained on and validated on."""
    both = {s.subject for s in training} & {s.subject for s in validation}
    both |= {os.path.realpath(s.path) for s in training} & {os.path.realpath(s.path) for s in validation}
    if both:
        raise InputError(f"{sorted(both)[0]} is both in training and in validation; split by subject")
