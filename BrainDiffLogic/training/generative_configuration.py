"""Configurations of phase 1 (autoencoder) and phase 2 (latent diffusion): YAML files, checked against these fields.

The defaults are the paper's; where it is silent, those of MONAI's tutorial 2d_ldm, whose networks it uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.training.configuration import shipped_names
from BrainDiffLogic.training.fields import Limits, check_numbers, check_parts, make_section, read_yaml
from BrainDiffLogic.training.perceptual import TERMS

GROUPS = ("motion", "clean")
TRAINABLE = ("prior", "correction")
"""Splits of a slice store that may be trained on; "test" never."""
PRECISIONS = ("bf16-mixed", "32-true")
"""float16 is left out: the variances of the posterior exceed its range."""
NUMBERS: Limits = {
    "epochs": (int, 1, math.inf), "epoch_steps": (int, 0, math.inf), "batch": (int, 1, math.inf),
    "accumulate": (int, 1, math.inf), "learning_rate": (float, 0, math.inf), "warmup": (int, 0, math.inf),
    "decay": (float, 0, 1), "ema": (float, 0, 0.999999), "seed": (int, 0, math.inf), "clip": (float, 0, math.inf),
    "validation_share": (float, 0, 0.9), "validate_every": (int, 1, math.inf), "images_every": (int, 1, math.inf),
}  # fmt: skip
VAE_NUMBERS: Limits = {
    "kl_weight": (float, 0, math.inf), "perceptual_weight": (float, 0, math.inf),
    "adversarial_weight": (float, 0, math.inf), "adversarial_from": (int, 0, math.inf),
    "discriminator_rate": (float, 0, math.inf), "discriminator_channels": (int, 1, math.inf),
    "discriminator_layers": (int, 1, math.inf), "posterior_sd": (float, 0, 1),
}  # fmt: skip


@dataclass(frozen=True)
class GenerativeConfiguration:
    """What the two phases have in common.

    network           "paper", "compact", or a mapping of arguments of the network
    batch             slices of one optimiser step, over all processes and accumulated parts: what is learned does not
                      depend on the number of devices
    accumulate        parts in which a batch is computed one after the other
    epoch_steps       optimiser steps of an epoch; 0: once through the data
    warmup, decay     steps in which the rate rises; share of all steps in which it falls to 0 at the end
    ema               decay of the moving average of the weights, which is what is exported; 0: none
    clip              largest norm of the gradient; 0: any
    validation_share  share of the subjects held out for validation
    validate_every, images_every  in epochs
    """

    network: str | dict[str, Any] = "paper"
    epochs: int = 50
    epoch_steps: int = 0
    batch: int = 8
    accumulate: int = 1
    learning_rate: float = 1e-4
    warmup: int = 0
    decay: float = 0.0
    ema: float = 0.999
    clip: float = 0.0
    validation_share: float = 0.1
    validate_every: int = 1
    images_every: int = 5
    precision: str = "bf16-mixed"
    seed: int = 1


@dataclass(frozen=True)
class VaeConfiguration(GenerativeConfiguration):
    """Phase 1: L1 + kl_weight KL + perceptual_weight perceptual + adversarial_weight least-squares GAN (eq. 1).

    splits            of the slice store; both groups, clean and motion, are trained on
    perceptual        "none", "gradient", "self" or "lpips", with ``perceptual_options``: see ``build_perceptual``
    adversarial_from  epochs before the adversarial term sets in
    posterior_sd      standard deviation that the posterior starts with; 0: the network's own start, about 1, which is
                      as much noise as signal, and at the paper's KL weight takes thousands of steps to unlearn
    """

    splits: list[str] = field(default_factory=lambda: list(TRAINABLE))
    kl_weight: float = 1e-6
    perceptual: str = "lpips"
    perceptual_weight: float = 1.0
    perceptual_options: dict[str, Any] = field(default_factory=dict)
    adversarial_weight: float = 0.01
    adversarial_from: int = 10
    discriminator_rate: float = 5e-4
    discriminator_channels: int = 64
    discriminator_layers: int = 3
    posterior_sd: float = 0.0


@dataclass(frozen=True)
class LdmConfiguration(GenerativeConfiguration):
    """Phase 2: the noise in scaled latents of one group of slices of the prior split.

    group  "motion": the motion prior; "clean": the control, which must not know artifacts
    """

    group: str = "motion"
    epochs: int = 100
    batch: int = 16
    learning_rate: float = 2.5e-5


Plan = TypeVar("Plan", VaeConfiguration, LdmConfiguration)


def read_vae_configuration(path: str | Path, **overrides: Any) -> VaeConfiguration:
    """The configuration of phase 1 in a YAML file; an InputError names a field that is unknown or of no use."""
    plan = _read(VaeConfiguration, path, overrides)
    check_numbers(plan, path, VAE_NUMBERS)
    if plan.perceptual not in TERMS:
        raise InputError(f"{path}: perceptual must be one of {', '.join(TERMS)}, got {plan.perceptual!r}")
    if not isinstance(plan.perceptual_options, dict):
        raise InputError(f"{path}: perceptual_options must hold fields with values, got {plan.perceptual_options!r}")
    if not isinstance(plan.splits, list) or not plan.splits or not set(map(str, plan.splits)) <= set(TRAINABLE):
        raise InputError(f"{path}: splits must list some of {', '.join(TRAINABLE)}, got {plan.splits!r}")
    return plan


def read_ldm_configuration(path: str | Path, **overrides: Any) -> LdmConfiguration:
    """The configuration of phase 2 in a YAML file; an InputError names a field that is unknown or of no use."""
    plan = _read(LdmConfiguration, path, overrides)
    if plan.group not in GROUPS:
        raise InputError(f"{path}: group must be one of {', '.join(GROUPS)}, got {plan.group!r}")
    return plan


def _read(cls: type[Plan], path: str | Path, overrides: Mapping[str, Any]) -> Plan:
    content = read_yaml(path, shipped_names())
    content = {**content, **{name: value for name, value in overrides.items() if value is not None}}
    plan: Plan = make_section(cls, content, path)
    check_numbers(plan, path, NUMBERS)
    if plan.precision not in PRECISIONS:
        raise InputError(f"{path}: precision must be one of {', '.join(PRECISIONS)}, got {plan.precision!r}")
    check_parts(plan.batch, plan.accumulate, path)
    return plan


def chosen_arguments(network: str | dict[str, Any], known: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The arguments of a configuration's network, as a card stores them."""
    if isinstance(network, dict):
        return network
    if network not in known:
        raise InputError(f"network {network!r} is unknown: use one of {', '.join(known)}, or give its arguments")
    return known[network]
