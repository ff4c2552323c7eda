"""What a training is told: each phase's fields of a YAML file, with the bounds that are checked as it is read.

The defaults of phases 1 and 2 of BrainDiff are the paper's; where it is silent, those of MONAI's tutorial 2d_ldm, whose
networks it uses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NotRequired, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import read_views
from BrainDiffLogic.motion.presets import PRESETS
from BrainDiffLogic.training.fields import (
    Amount,
    Count,
    Flag,
    Natural,
    Network,
    Range,
    Section,
    Share,
    one_of,
    range_within,
    weights_of,
)

LOSS_TERMS = ("l1", "tv", "multi_scale_l2", "multi_scale_l1", "gradient_ssim", "frequency", "info_nce")
OPTIMISERS = {"adamw": "AdamW", "muon": "Muon, AdamW for what is no kernel"}
"""And what a card says of them."""
CORRECTING_FIELDS = ("views", "least_change")
"""Fields that say nothing of the training, but what the trained network is asked."""
RECORDED = "recorded"
"""The kind of motion that is drawn from recorded traces, beside the presets."""
TRAINABLE = ("prior", "correction")
"""Splits of a slice store that may be trained on; "test" never."""
PERCEPTUAL = ("none", "gradient", "self", "lpips")
"""Terms of the autoencoder's loss, see ``losses.build_perceptual``."""

Optimiser = Annotated[str, one_of(OPTIMISERS)]
Precision = Annotated[str, one_of(("bf16-mixed", "32-true"))]
"""Not 16-mixed: the variances of an autoencoder's posterior exceed the range of float16."""
Decay = Annotated[float, Field(ge=0, lt=1, strict=True)]
"""Of a moving average of weights; with 1 it would stay at the first."""
HeldOut = Annotated[float, Field(ge=0, le=0.9, strict=True)]
"""Share of the subjects; those that train must be more than a few."""


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression ({error})") from None
    return text


def _views(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    try:
        read_views(entries)
    except ValueError as error:
        raise ValueError(f"{error}; give a list of {{mirrored, shift}}") from None
    return entries


class SourceFiles(TypedDict):
    """Volumes to train on: a pattern below the data folder.

    kind     "head", "brain" (skull-stripped) or "labels" (a label map, painted)
    weight   how often one of them is drawn, beside other sources
    subject  a regular expression that finds whose head a file shows in its name (default: see ``subject_of``)
    """

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    glob: str
    kind: NotRequired[Annotated[str, one_of(("head", "brain", "labels"))]]
    weight: NotRequired[Amount]
    subject: NotRequired[Annotated[str, AfterValidator(_pattern)]]


@dataclass(frozen=True)
class Stage(Section):
    """Part of a run with its own loss: ``loss`` maps terms to weights (MC-Net: alpha of l1, beta of tv)."""

    steps: Count
    loss: Annotated[dict[str, Amount], weights_of(LOSS_TERMS)]
    learning_rate: Amount = 1e-3
    warmup: Natural = 200
    decay: Share = 0.4
    """The learning rate is constant, then falls linearly to 0 over this last share of the stage."""
    balance: Flag = True
    """Weigh each pair by the error of doing nothing, see ``losses.pair_weights``."""


@dataclass(frozen=True)
class Recipe(Section):
    """How a still scan is varied and moved.

    Ranges are drawn uniformly, severities log-uniformly, noise more often low than high. blur is the standard
    deviation in voxels of the Gaussian that smooths a share of the scans, as averages and interpolation do.
    partial_fourier is the share of the lines that is acquired; aliasing how wrong the lines are that parallel imaging
    filled in while the head moved by 2 mm and more (less motion, less aliasing), see ``motion.sampling``.

    quiet         still scans lose their noise first (``heads.quieted``), painted heads have no grain: noise comes after
                  motion alone
    masked_share  of the pairs that are masked after the motion, alike, as skull-stripping and defacing do
    middle_share  of the pairs whose severity lies in the middle half of its octaves
    """

    presets: Annotated[dict[str, Amount], weights_of((*PRESETS, RECORDED))] = field(
        default_factory=lambda: {"nod": 1.0, "drift": 1.0, "steps": 1.5, "swallow": 0.7, "tremor": 1.5}
    )
    pe_axes: Annotated[dict[str, Amount], weights_of(("AP", "SI", "LR"))] = field(
        default_factory=lambda: {"AP": 0.5, "SI": 0.4, "LR": 0.1}
    )
    severity_mm: Annotated[Range, range_within(0)] = (0.3, 6.0)
    still_share: Share = 0.08
    zoom: Annotated[Range, range_within(0)] = (0.8, 1.2)
    gamma: Annotated[Range, range_within(0)] = (0.75, 1.35)
    bias_field: Amount = 0.3
    noise: Range = (0.0, 0.03)
    phase_share: Share = 0.4
    blur: Annotated[Range, range_within(0)] = (0.3, 1.2)
    blur_share: Share = 0.4
    partial_fourier: Annotated[Range, range_within(0.5, 1)] = (0.6, 0.9)
    partial_fourier_share: Share = 0.0
    aliasing: Annotated[Range, range_within(0)] = (0.05, 0.5)
    aliasing_share: Share = 0.0
    max_voxels: Annotated[float, Field(ge=1, strict=True)] = 7.5e6
    quiet: Flag = False
    masked_share: Share = 0.0
    middle_share: Share = 0.0


@dataclass(frozen=True, kw_only=True)
class Fitting(Section):
    """What every phase's training has.

    batch       slices of one optimiser step, over all processes and accumulated parts: what is learned does not depend
                on the number of devices
    accumulate  parts in which a batch is computed one after the other, for the memory; batch normalisation is each
                part's own
    ema         decay of the moving average of the weights, which is what is exported; 0: none
    clip        largest norm of the gradient; 0: any
    """

    batch: Count = 8
    accumulate: Count = 1
    ema: Decay = 0.999
    clip: Amount = 1.0
    precision: Precision = "bf16-mixed"
    seed: Natural = 1

    @model_validator(mode="after")
    def _equal_parts(self) -> Self:
        if self.batch % self.accumulate:
            raise ValueError(f"batch {self.batch} cannot be computed in {self.accumulate} equal parts")
        return self


@dataclass(frozen=True)
class CorrectorConfiguration(Fitting):
    """A run of supervised training.

    data         "volumes", on which motion is simulated, or "pairs" of slices that are there (BrainDiff, phase 4);
                 sources to crop describe volumes, patience and validation_share pairs
    validation   subjects held out, by name
    people       other names of a subject, each with the one that is used: files of different sources that show one head
    traces       set of recorded motion below the data folder (a folder or .npz): the motion "recorded" of the recipe
    network      "compact", "paper", or a mapping of arguments of the family
    stages       one after the other
    pairs        how many training pairs are simulated; 0: each on the fly, never stored
    optimiser    "adamw", or "muon" (``optimisers.KernelMuon``), which learns faster; PyTorch 2.9
    lesions      share of the training slices that get lesions, moved and still alike, so that the network leaves what
                 is focal (``slices.implant``); of volumes only
    masked       share of the training slices whose air is masked, moved and still alike, beside pairs that are masked
                 (``Recipe.masked_share``); of volumes only
    views        beside the slices as they are, what the trained network is asked about when it corrects: a list of
                 {mirrored, shift}, see ``checkpoints.View``; its answer is the mean
    least_change a correction that changes the head by less than this on average (network units: 1 is the 99th
                 percentile of the head) is not applied: on still scans a network finds a little, too
    revive       slope of the gradient below zero of feature maps that sleep (``optimisers.revive``); 0: none
    draw         another number: other first weights and other slices, of the same simulated pairs
    epoch_steps  optimiser steps of an epoch; pairs of slices: 0, once through them
    patience     epochs without a smaller validation error after which a run on pairs ends; 0: it never does
    validation_share  share of the subjects of the pairs that is held out, at least one
    """

    family: str
    stages: Annotated[list[Stage], Field(min_length=1)]
    data: Annotated[str, one_of(("volumes", "pairs"))] = "volumes"
    sources: list[SourceFiles] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    people: dict[str, str] = field(default_factory=dict)
    traces: str = ""
    network: Network = "compact"
    recipe: Recipe = field(default_factory=Recipe)
    pairs: Natural = 400
    validation_pairs: Count = 24
    crop: Count = 192
    weight_decay: Amount = 1e-4
    lesions: Share = 0.0
    masked: Share = 0.0
    views: Annotated[list[dict[str, Any]], AfterValidator(_views)] = field(default_factory=list)
    least_change: Share = 0.0
    revive: Share = 0.0
    draw: Natural = 0
    epoch_steps: Natural = 200
    precision: Annotated[str, one_of(("bf16-mixed", "16-mixed", "32-true"))] = field(default="bf16-mixed", kw_only=True)
    optimiser: Optimiser = "adamw"
    patience: Natural = 0
    validation_share: HeldOut = 0.2

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def contrastive(self) -> bool:
        """Whether the loss has a term that needs the autoencoder."""
        return any(stage.loss.get("info_nce", 0) > 0 for stage in self.stages)

    @model_validator(mode="after")
    def _of_its_data(self) -> Self:
        of_volumes = ("sources", "validation", "people", "lesions", "masked")
        if self.data == "pairs":
            if given := [name for name in of_volumes if getattr(self, name)]:
                raise ValueError(f"{given[0]} belongs to data: volumes; leave it out for pairs")
            if self.patience and not self.validation_share:
                raise ValueError("patience watches the validation error; give validation_share too")
            return self
        if missing := [name for name in of_volumes[:2] if not getattr(self, name)]:
            raise ValueError(f"the field {missing[0]!r} is missing; name the volumes and the subjects held out")
        if self.patience:
            raise ValueError("patience belongs to data: pairs; leave it out")
        if self.contrastive:
            raise ValueError("info_nce compares whole slices of a canvas; it needs data: pairs")
        if not self.epoch_steps:
            raise ValueError("epoch_steps must be 1 or more for data: volumes, got 0")
        return self


@dataclass(frozen=True, kw_only=True)
class EpochFitting(Fitting):
    """A training that is told in epochs.

    warmup, decay     steps in which the rate rises; share of all steps in which it falls to 0 at the end
    validate_every    in epochs
    """

    epochs: Count = 50
    learning_rate: Amount = 1e-4
    warmup: Natural = 0
    decay: Share = 0.0
    validate_every: Count = 1


@dataclass(frozen=True, kw_only=True)
class GenerativeConfiguration(EpochFitting):
    """What phases 1 and 2 of BrainDiff have in common.

    network           "paper", "compact", or a mapping of arguments of the network
    epoch_steps       optimiser steps of an epoch; 0: once through the data
    validation_share  share of the subjects held out for validation
    images_every      in epochs
    """

    network: Network = "paper"
    epoch_steps: Natural = 0
    clip: Amount = 0.0
    validation_share: HeldOut = 0.1
    images_every: Count = 5


@dataclass(frozen=True, kw_only=True)
class VaeConfiguration(GenerativeConfiguration):
    """Phase 1: L1 + kl_weight KL + perceptual_weight perceptual + adversarial_weight least-squares GAN (eq. 1).

    splits            of the slice store; both groups, clean and motion, are trained on
    perceptual        "none", "gradient", "self" or "lpips", with ``perceptual_options``: see ``build_perceptual``
    adversarial_from  epochs before the adversarial term sets in
    posterior_sd      standard deviation that the posterior starts with; 0: the network's own start, about 1, which is
                      as much noise as signal, and at the paper's KL weight takes thousands of steps to unlearn
    """

    splits: Annotated[list[Annotated[str, one_of(TRAINABLE)]], Field(min_length=1)] = field(
        default_factory=lambda: list(TRAINABLE)
    )
    kl_weight: Amount = 1e-6
    perceptual: Annotated[str, one_of(PERCEPTUAL)] = "lpips"
    perceptual_weight: Amount = 1.0
    perceptual_options: dict[str, Any] = field(default_factory=dict)
    adversarial_weight: Amount = 0.01
    adversarial_from: Natural = 10
    discriminator_rate: Amount = 5e-4
    discriminator_channels: Count = 64
    discriminator_layers: Count = 3
    posterior_sd: Share = 0.0


@dataclass(frozen=True, kw_only=True)
class LdmConfiguration(GenerativeConfiguration):
    """Phase 2: the noise in scaled latents of one group of slices of the prior split.

    group  "motion": the motion prior; "clean": the control, which must not know artifacts
    """

    group: Annotated[str, one_of(("motion", "clean"))] = "motion"
    epochs: Count = 100
    batch: Count = 16
    learning_rate: Amount = 2.5e-5


@dataclass(frozen=True)
class Variation(Section):
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

    mild: Annotated[Range, range_within(0)] = (0.1, 0.8)
    mild_share: Share = 0.25
    mild_limit_mm: Amount = 1.5
    zoom: Annotated[Range, range_within(0)] = (0.8, 1.25)
    zoom_share: Share = 0.4
    gain: Annotated[Range, range_within(0)] = (0.8, 1.2)
    gamma: Annotated[Range, range_within(0)] = (0.75, 1.3)
    bias_field: Amount = 0.3
    blur: Annotated[Range, range_within(0)] = (0.3, 1.0)
    blur_share: Share = 0.3
    noise: Amount = 0.03
    levels: Annotated[Range, range_within(0)] = (120.0, 1000.0)
    quantised_share: Share = 0.3
    masked_share: Share = 0.15
    masked_brain_share: Share = 0.6
    mask_threshold: Annotated[Range, range_within(0)] = (0.04, 0.12)


@dataclass(frozen=True, kw_only=True)
class SeverityConfiguration(EpochFitting):
    """A training of the severity network.

    pairs_of     configuration of a corrector (name or path) whose simulated pairs are used
    calibration  subjects among those of the pairs that are not trained on: calibration and threshold come from them
    network      arguments of ``SeverityNetwork``
    crop         rows and columns of the windows
    batch        pairs, each of two slices
    """

    pairs_of: str
    calibration: Annotated[list[str], Field(min_length=1)]
    network: dict[str, Any] = field(default_factory=dict)
    variation: Variation = field(default_factory=Variation)
    crop: Count = 128
    batch: Count = 16
    epochs: Count = 30
    epoch_steps: Count = 100
    learning_rate: Amount = 2e-3
    warmup: Natural = 100
    decay: Share = 0.7
    weight_decay: Amount = 1e-3
    ema: Decay = 0.99
    validate_every: Count = 2
    optimiser: Optimiser = "adamw"

    @property
    def steps(self) -> int:
        """Optimiser steps of the run."""
        return self.epochs * self.epoch_steps


def chosen_arguments(network: str | dict[str, Any], known: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The arguments of a configuration's network, as a card stores them."""
    if isinstance(network, dict):
        return network
    if network not in known:
        raise InputError(f"network {network!r} is unknown: use one of {', '.join(known)}, or give its arguments")
    return known[network]
