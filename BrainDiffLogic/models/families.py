"""Corrector families by name: what a model card stores and `build` makes again."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from inspect import signature
from typing import Any

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.corrector import Body, Corrector, MultiScaleBody, check_input

_BODIES: dict[str, dict[str, str]] = {
    "attention-unet": {"monai": "MonaiAttentionUnet", "residual": "ResidualAttentionUnet"},
    "mc-net": {"unet": "McNet"},
    "rmman": {"recursive": "Rmman"},
    "nafnet": {"naf": "Nafnet"},
}
"""The bodies of each family by the name of their design: classes of the module that is called like the family. It is
imported when one is built, since MONAI, which one family uses, takes longer to import than all else."""

FAMILIES = tuple(_BODIES)

CONFIGURATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "attention-unet": {
        "paper": {
            "context": 1, "shuffle": 1, "residual": True, "zero_init": False, "design": "monai",
            "channels": [32, 64, 128, 256, 512], "strides": [2, 2, 2, 2], "kernel": 3, "up_kernel": 3,
            "dropout": 0.0,
        },
        "compact": {
            "context": 3, "shuffle": 2, "residual": True, "zero_init": True, "design": "residual",
            "channels": [32, 64, 128, 256], "blocks": 1, "bottleneck_blocks": 2, "norm": "batch",
            "activation": "leaky-relu", "upsampling": "nearest", "gain": 0.05,
        },
    },
    "mc-net": {
        "paper": {
            "context": 1, "shuffle": 1, "residual": False, "zero_init": False, "design": "unet",
            "filters": [32, 64, 128, 256, 512], "norm": "batch",
        },
        "compact": {
            "context": 3, "shuffle": 2, "residual": True, "zero_init": True, "design": "unet",
            "filters": [24, 48, 96, 192, 256], "norm": "batch", "gain": 0.05,
        },
    },
    "rmman": {
        "paper": {
            "context": 1, "shuffle": 1, "residual": False, "zero_init": False, "design": "recursive",
            "channels": [32, 64, 128], "kernel": 5, "blocks": 3, "block": "dw", "act_between": False,
            "scales": 3, "shared": True,
        },
        "compact": {
            "context": 3, "shuffle": 2, "residual": True, "zero_init": True, "design": "recursive",
            "channels": [24, 48, 96], "kernel": 3, "blocks": 1, "block": "dw", "act_between": True,
            "scales": 3, "shared": True, "gain": 0.05,
        },
    },
    "nafnet": {
        "paper": {
            "context": 1, "shuffle": 1, "residual": True, "zero_init": False, "design": "naf", "width": 32,
            "encoder": [1, 1, 1, 28], "middle": 1, "decoder": [1, 1, 1, 1], "begin": 0.0,
        },
        "compact": {
            "context": 3, "shuffle": 2, "residual": True, "zero_init": True, "design": "naf", "width": 24,
            "encoder": [1, 1, 2], "middle": 4, "decoder": [1, 1, 1], "begin": 0.1, "gain": 0.05,
        },
    },
}  # fmt: skip
"""Per family: "paper", as published, holes filled; "compact", 2.5D space-to-depth residual, for two cores."""

_CORRECTOR_ARGUMENTS = ("context", "shuffle", "residual", "zero_init", "gain")
_BODY_CHANNELS = ("in_channels", "out_channels")


def build(family: str, arguments: Mapping[str, Any]) -> Corrector:
    """Corrector of a family from plain JSON values; missing arguments take the constructor's defaults.

    Args:
        family: "attention-unet", "mc-net", "rmman" or "nafnet".
        arguments: `Corrector`'s context, shuffle, residual and zero_init; `design`, which body of the family
            ("attention-unet" has "monai", its default, and "residual"); and that body's own arguments.

    Raises:
        InputError: unknown family, design or argument, or a value that the network refuses.
    """
    body_class = _body_class(family, arguments)
    names = set(signature(body_class).parameters) - {*_BODY_CHANNELS, *_CORRECTOR_ARGUMENTS}
    unknown = set(arguments) - names - {*_CORRECTOR_ARGUMENTS, "design"}
    if unknown:
        known = ", ".join(sorted({*names, *_CORRECTOR_ARGUMENTS, "design"}))
        raise InputError(f"{family} has no argument {', '.join(sorted(unknown))}; it has {known}")
    try:
        return _assemble(body_class, arguments, names)
    except InputError as error:
        raise InputError(f"{family}: {error}") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{family} cannot be built from {dict(arguments)}: {error}") from error


def _assemble(body_class: type[Body], arguments: Mapping[str, Any], names: set[str]) -> Corrector:
    own = {name: value for name, value in arguments.items() if name in names}
    outer = {name: arguments[name] for name in _CORRECTOR_ARGUMENTS if name in arguments}
    context, shuffle = outer.get("context", 1), outer.get("shuffle", 1)
    check_input(context, shuffle)
    if issubclass(body_class, MultiScaleBody):
        residual = outer.setdefault("residual", True)
        inner = {name: outer.pop(name) for name in ("shuffle", "gain") if name in outer}
        return Corrector(body_class(context, residual=residual, **inner, **own), **outer)
    return Corrector(body_class(context * shuffle**2, shuffle**2, **own), **outer)


def _body_class(family: str, arguments: Mapping[str, Any]) -> type[Body]:
    if family not in _BODIES:
        raise InputError(f"unknown network family {family!r}; the families are {', '.join(FAMILIES)}")
    designs = _BODIES[family]
    design = arguments.get("design", next(iter(designs)))
    if design not in designs:
        raise InputError(f"{family} has no design {design!r}; it has {', '.join(designs)}")
    module = import_module(f"BrainDiffLogic.models.{family.replace('-', '_')}")
    body_class: type[Body] = getattr(module, designs[design])
    return body_class
