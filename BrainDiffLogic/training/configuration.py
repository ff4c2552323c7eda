"""The configuration of a training run: a YAML file, checked against these fields."""

from __future__ import annotations

import glob
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from BrainDiffLogic.data.subjects import assert_apart, names_subject, subject_of
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.views import read_views
from BrainDiffLogic.motion.presets import PRESETS
from BrainDiffLogic.training.fields import Limits, check_number, check_numbers, check_parts, make_section, read_yaml
from BrainDiffLogic.training.pairs import RECORDED, Recipe, Source
from BrainDiffLogic.training.recorded import RecordedTraces

LOSS_TERMS = ("l1", "tv", "multi_scale_l2", "multi_scale_l1", "gradient_ssim", "frequency", "info_nce")
DATA = ("volumes", "pairs")
PRECISIONS = ("bf16-mixed", "16-mixed", "32-true")
OPTIMISERS = {"adamw": "AdamW", "muon": "Muon, AdamW for what is no kernel"}
"""And what a card says of them."""
HOW_TO_CORRECT = ("views", "least_change")
"""Fields that say nothing of the training, but what the trained network is asked."""
SOURCE_FIELDS = ("glob", "kind", "weight", "subject")
KINDS = ("head", "brain", "labels")
PE_AXES = ("AP", "SI", "LR")

CONFIGURATION_NUMBERS: Limits = {
    "pairs": (int, 0, math.inf), "validation_pairs": (int, 1, math.inf), "batch": (int, 1, math.inf),
    "crop": (int, 1, math.inf), "weight_decay": (float, 0, math.inf), "ema": (float, 0, 1),
    "clip": (float, 0, math.inf), "seed": (int, 0, math.inf), "draw": (int, 0, math.inf),
    "epoch_steps": (int, 0, math.inf), "lesions": (float, 0, 1), "masked": (float, 0, 1),
    "least_change": (float, 0, 1), "revive": (float, 0, 1),
    "patience": (int, 0, math.inf), "validation_share": (float, 0, 0.9), "accumulate": (int, 1, math.inf),
}  # fmt: skip
STAGE_NUMBERS: Limits = {
    "steps": (int, 1, math.inf), "learning_rate": (float, 0, math.inf), "warmup": (int, 0, math.inf),
    "decay": (float, 0, 1),
}  # fmt: skip
RECIPE_NUMBERS: Limits = {
    "still_share": (float, 0, 1), "bias_field": (float, 0, math.inf), "phase_share": (float, 0, 1),
    "blur_share": (float, 0, 1), "partial_fourier_share": (float, 0, 1), "aliasing_share": (float, 0, 1),
    "max_voxels": (float, 1, math.inf), "masked_share": (float, 0, 1), "middle_share": (float, 0, 1),
}  # fmt: skip
RECIPE_RANGES = ("severity_mm", "zoom", "gamma", "noise", "blur", "partial_fourier", "aliasing")


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

    data         "volumes", on which motion is simulated, or "pairs" of slices that are there (BrainDiff, phase 4);
                 sources to crop describe volumes, patience and validation_share pairs
    sources      volumes to train on: a list of {glob, kind, weight, subject}, the last a regular expression that finds
                 the subject in a file name (default: its BIDS entity sub, else all up to "_T1w" or the extension)
    validation   subjects held out, by name
    people       other names of a subject, each with the one that is used: files of different sources that show one head
    traces       set of recorded motion below the data folder (a folder or .npz): the motion "recorded" of the recipe
    network      "compact", "paper", or a mapping of arguments of the family
    stages       one after the other, see ``Stage``
    pairs        how many training pairs are simulated; 0: each on the fly, never stored
    optimiser    "adamw", or "muon" (``optimisers.KernelMuon``), which learns faster; PyTorch 2.9
    lesions      share of the training slices that get lesions, moved and still alike, so that the network leaves what
                 is focal (``implants``); of volumes only
    masked       share of the training slices whose air is masked, moved and still alike, beside pairs that are masked
                 (``Recipe.masked_share``); of volumes only
    views        beside the slices as they are, what the trained network is asked about when it corrects: a list of
                 {mirrored, shift}, see ``views.View``; its answer is the mean
    least_change a correction that changes the head by less than this on average (network units: 1 is the 99th
                 percentile of the head) is not applied: on still scans a network finds a little, too
    revive       slope of the gradient below zero of feature maps that sleep (``revival``); 0: none
    draw         another number: other first weights and other slices, of the same simulated pairs
    epoch_steps  optimiser steps of an epoch; pairs of slices: 0, once through them
    patience     epochs without a smaller validation error after which a run on pairs ends; 0: it never does
    validation_share  share of the subjects of the pairs that is held out, at least one
    batch        slices of one optimiser step, over all processes and accumulated parts
    accumulate   parts in which a batch is computed one after the other, for the memory; batch normalisation is each
                 part's own
    """

    family: str
    stages: list[Stage]
    data: str = "volumes"
    sources: list[dict[str, Any]] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    people: dict[str, str] = field(default_factory=dict)
    traces: str = ""
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
    lesions: float = 0.0
    masked: float = 0.0
    views: list[dict[str, Any]] = field(default_factory=list)
    least_change: float = 0.0
    revive: float = 0.0
    draw: int = 0
    epoch_steps: int = 200
    precision: str = "bf16-mixed"
    optimiser: str = "adamw"
    patience: int = 0
    validation_share: float = 0.2
    accumulate: int = 1

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def contrastive(self) -> bool:
        """Whether the loss has a term that needs the autoencoder."""
        return any(stage.loss.get("info_nce", 0) > 0 for stage in self.stages)


def shipped_folder() -> Path:
    """Where the shipped configurations are: beside the library in a checkout, inside it in a wheel."""
    library = Path(__file__).resolve().parents[1]
    beside, inside = library.parent / "Resources" / "Training", library / "Resources" / "Training"
    return inside if inside.is_dir() else beside


def find_configuration(name: str | Path) -> Path:
    """A configuration file by its path, or a shipped one by its name ("mc-net", "mc-net.yaml")."""
    path = Path(name)
    if path.is_file() or len(path.parts) > 1:
        return path
    shipped = shipped_folder() / f"{path.name.removesuffix('.yaml')}.yaml"
    return shipped if shipped.is_file() else path


def read_configuration(path: str | Path, **overrides: Any) -> Configuration:
    """The configuration in a YAML file; unknown or missing fields are an InputError that names them."""
    content = read_yaml(path, shipped_names())
    content = {**content, **{name: value for name, value in overrides.items() if value is not None}}
    if not isinstance(content.get("stages"), list) or not content["stages"]:
        raise InputError(f"{path}: stages is missing: give at least one stage with steps and loss")
    content["stages"] = [make_section(Stage, stage, path, "stages") for stage in content["stages"]]
    recipe = content.get("recipe", {})
    if isinstance(recipe, dict):
        recipe = {name: tuple(value) if isinstance(value, list) else value for name, value in recipe.items()}
    content["recipe"] = make_section(Recipe, recipe, path, "recipe")
    configuration = make_section(Configuration, content, path)
    _check(configuration, path)
    return configuration


def shipped_names() -> str:
    """The names of the shipped configurations, for a message."""
    return ", ".join(path.stem for path in sorted(shipped_folder().glob("*.yaml"))) or "none"


def _check(configuration: Configuration, path: str | Path) -> None:
    """Raise InputError for a value that no run can use."""
    check_numbers(configuration, path, CONFIGURATION_NUMBERS)
    for stage in configuration.stages:
        check_numbers(stage, path, STAGE_NUMBERS)
        _check_weights("loss", stage.loss, LOSS_TERMS, path)
    _check_recipe(configuration.recipe, path)
    if configuration.precision not in PRECISIONS:
        raise InputError(f"{path}: precision must be one of {', '.join(PRECISIONS)}")
    check_optimiser_name(configuration.optimiser, path)
    try:
        read_views(configuration.views)
    except ValueError as error:
        raise InputError(f"{path}: views: {error}; give a list of {{mirrored, shift}}") from None
    check_parts(configuration.batch, configuration.accumulate, path)
    if configuration.data not in DATA:
        raise InputError(f"{path}: data must be one of {', '.join(DATA)}, got {configuration.data!r}")
    check = _check_volumes if configuration.data == "volumes" else _check_pairs
    check(configuration, path)


def check_optimiser_name(name: str, path: str | Path) -> None:
    """Raise InputError for an optimiser that there is not."""
    if name not in OPTIMISERS:
        raise InputError(f"{path}: optimiser must be one of {', '.join(OPTIMISERS)}, got {name!r}")


def _check_pairs(configuration: Configuration, path: str | Path) -> None:
    if configuration.sources or configuration.validation:
        raise InputError(f"{path}: sources and validation belong to data: volumes; leave them out for pairs")
    for name in ("lesions", "masked", "people"):
        if getattr(configuration, name):
            raise InputError(f"{path}: {name} belongs to data: volumes; leave it out for pairs")
    if configuration.patience and not configuration.validation_share:
        raise InputError(f"{path}: patience watches the validation error; give validation_share too")


def _check_volumes(configuration: Configuration, path: str | Path) -> None:
    for name in ("sources", "validation"):
        if not getattr(configuration, name):
            raise InputError(f"{path}: the field {name!r} of configuration is missing")
    if configuration.patience:
        raise InputError(f"{path}: patience belongs to data: pairs; leave it out")
    if configuration.contrastive:
        raise InputError(f"{path}: info_nce compares whole slices of a canvas; it needs data: pairs")
    if configuration.epoch_steps < 1:
        raise InputError(f"{path}: epoch_steps must be 1 or more, got {configuration.epoch_steps}")
    names = configuration.validation
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: validation must list the names of subjects to hold out")
    if not isinstance(configuration.sources, list) or not configuration.sources:
        raise InputError(f"{path}: sources must list the volumes to train on as {{glob, kind, weight}}")
    for entry in configuration.sources:
        if not isinstance(entry, dict) or not isinstance(entry.get("glob"), str):
            raise InputError(f"{path}: sources: glob is missing in {entry!r}")
        if unknown := set(entry) - set(SOURCE_FIELDS):
            raise InputError(f"{path}: sources: unknown field {min(unknown)!r}; known are {', '.join(SOURCE_FIELDS)}")
        if entry.get("kind", "head") not in KINDS:
            raise InputError(f"{path}: sources: kind must be one of {', '.join(KINDS)}, got {entry['kind']!r}")
        check_number("weight", entry.get("weight", 1.0), (float, 0, math.inf), path)
        _check_pattern(entry.get("subject", ""), path)
    people = configuration.people
    if not isinstance(people, dict) or not all(isinstance(name, str) for name in (*people, *people.values())):
        raise InputError(f"{path}: people must map names of files to the name of their subject, got {people!r}")


def _check_pattern(pattern: Any, path: str | Path) -> None:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise InputError(f"{path}: sources: subject {pattern!r} is no regular expression ({error})") from None


def _check_recipe(recipe: Recipe, path: str | Path) -> None:
    check_numbers(recipe, path, RECIPE_NUMBERS)
    _check_weights("presets", recipe.presets, (*PRESETS, RECORDED), path)
    if not isinstance(recipe.quiet, bool):
        raise InputError(f"{path}: quiet must be true or false, got {recipe.quiet!r}")
    _check_weights("pe_axes", recipe.pe_axes, PE_AXES, path)
    for name in RECIPE_RANGES:
        limits = getattr(recipe, name)
        if not isinstance(limits, tuple) or len(limits) != 2:
            raise InputError(f"{path}: {name} must be [lowest, highest], got {limits!r}")
        for limit in limits:
            check_number(name, limit, (float, 0, math.inf), path)
        if limits[0] > limits[1] or (limits[0] == 0 and name != "noise"):
            raise InputError(f"{path}: {name} must be [lowest, highest] above 0, got {list(limits)}")
    if not 0.5 < recipe.partial_fourier[0] <= recipe.partial_fourier[1] <= 1:
        given = list(recipe.partial_fourier)
        raise InputError(f"{path}: partial_fourier must be shares of the lines above 0.5 to 1, got {given}")


def _check_weights(name: str, weights: Any, known: tuple[str, ...], path: str | Path) -> None:
    """A mapping of known names to weights that are not all 0."""
    if not isinstance(weights, dict) or not weights:
        raise InputError(f"{path}: {name} must map names to weights, got {weights!r}")
    if unknown := set(map(str, weights)) - set(known):
        raise InputError(f"{path}: {name} {min(unknown)!r} is unknown; use {', '.join(known)}")
    for value in weights.values():
        check_number(name, value, (float, 0, math.inf), path)
    if not any(weights.values()):
        raise InputError(f"{path}: {name} has no weight above 0")


def find_sources(configuration: Configuration, data: str | Path) -> tuple[list[Source], list[Source]]:
    """(training, validation) volumes below the folder ``data``, split by subject.

    Raises InputError when a pattern finds nothing, a validation subject is missing, or one subject is, or by the names
    of the files may be, on both sides.
    """
    training: list[Source] = []
    validation: list[Source] = []
    guessed: tuple[set[str], set[str]] = (set(), set())
    held_out_people = {configuration.people.get(name, name) for name in configuration.validation}
    for entry in configuration.sources:
        files = sorted(glob.glob(os.path.join(data, entry["glob"])))
        if not files:
            raise InputError(f"{data}: no file matches {entry['glob']!r}; check --data and the sources' glob")
        for file in files:
            name = subject_of(Path(file).name, entry.get("subject"))
            subject = configuration.people.get(name, name)
            held_out = subject in held_out_people
            if "subject" not in entry and name not in configuration.people and not names_subject(Path(file).name):
                guessed[held_out].add(name)
            weight = float(entry.get("weight", 1.0)) / len(files)
            source = Source(file, subject, entry.get("kind", "head"), 1.0 if held_out else weight)
            (validation if held_out else training).append(source)
    if missing := held_out_people - {source.subject for source in validation}:
        raise InputError(f"{data}: validation subject {sorted(missing)[0]!r} is not among the sources")
    assert_disjoint(training, validation)
    assert_apart(*guessed)
    return training, validation


def find_traces(
    configuration: Configuration, data: str | Path
) -> tuple[RecordedTraces, RecordedTraces] | tuple[None, None]:
    """(training, validation) recorded motion below the folder ``data``, split by person; none where none is named."""
    if not configuration.traces:
        return None, None
    path = Path(data) / configuration.traces
    return RecordedTraces(path), RecordedTraces(path, held_out=True)


def assert_disjoint(training: list[Source], validation: list[Source]) -> None:
    """Raise InputError when a subject or a file is both trained on and validated on."""
    both = {s.subject for s in training} & {s.subject for s in validation}
    both |= {os.path.realpath(s.path) for s in training} & {os.path.realpath(s.path) for s in validation}
    if both:
        raise InputError(f"{sorted(both)[0]} is both in training and in validation; split by subject")
