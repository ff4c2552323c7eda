"""Building blocks that networks share, and building a network from the plain values of its card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from inspect import signature
from typing import Any

from torch import Tensor, nn

from BrainDiffLogic.errors import InputError


def norm_layer(norm: str, channels: int) -> nn.Module:
    """Normalisation over channels of (N, C, H, W): "batch", "instance" (with affine) or "none"."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    if norm == "none":
        return nn.Identity()
    raise InputError(f'norm must be "batch", "instance" or "none", not "{norm}"')


def activation_layer(activation: str) -> nn.Module:
    """Activation: "relu", "leaky-relu" (slope 0.1) or "silu"."""
    if activation == "relu":
        return nn.ReLU(inplace=True)
    if activation == "leaky-relu":
        return nn.LeakyReLU(0.1, inplace=True)
    if activation == "silu":
        return nn.SiLU(inplace=True)
    raise InputError(f'activation must be "relu", "leaky-relu" or "silu", not "{activation}"')


def init_he_normal(module: nn.Module, slope: float = 0.0) -> None:
    """He-normal weights and zero biases in every convolution of `module` (He 2015, fan in)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=slope, nonlinearity="leaky_relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def u_shape(x: Tensor, levels: nn.ModuleList, down: nn.ModuleList, up: Iterable[nn.Module]) -> Tensor:
    """Down through ``levels``, finest first, with ``down`` between them, and up again by ``up(coarse, skip)``."""
    x = levels[0](x)
    skips: list[Tensor] = []
    for halve, level in zip(down, levels[1:], strict=True):
        skips.append(x)
        x = level(halve(x))
    for step, skip in zip(up, reversed(skips), strict=True):
        x = step(x, skip)
    return x


def build_from(network: type, fixed: Mapping[str, Any], arguments: Mapping[str, Any], name: str) -> Any:
    """``network`` from ``fixed`` and ``arguments``. Raises InputError, beginning with ``name``, where it cannot be."""
    known = set(signature(network).parameters) - set(fixed)
    if unknown := set(arguments) - known:
        raise InputError(f"{name} has no argument {min(unknown)}; it has {', '.join(sorted(known))}")
    try:
        return network(**fixed, **arguments)
    except ImportError:
        raise InputError(f"the {name} needs einops: pip install 'braindiff[train]'") from None
    except (TypeError, ValueError, RuntimeError, IndexError, ZeroDivisionError) as error:
        raise InputError(f"{name} cannot be built from {dict(arguments)}: {error}") from error
