"""Building blocks that networks share, windows of slices, and building a network from the plain values of its card."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from BrainDiffLogic.errors import InputError

Window = tuple[slice, slice]
"""Rows and columns, with a start and a stop."""


def whole(x: Tensor) -> Window:
    """All of (N, C, H, W)."""
    return slice(0, x.shape[-2]), slice(0, x.shape[-1])


def cut(x: Tensor, window: Window, origin: Window | None = None) -> Tensor:
    """A window of (N, C, H, W), which is itself the window ``origin`` of what the first counts in (default: all)."""
    rows, columns = window
    if origin is not None:
        rows, columns = (slice(w.start - o.start, w.stop - o.start) for w, o in zip(window, origin, strict=True))
    return x[..., rows, columns]


def in_cells(window: Window, cell: int, margin: int = 0) -> Window:
    """The cells of ``cell`` pixels a side that a window, ``margin`` pixels wider, touches."""
    rows, columns = (slice((side.start - margin) // cell, -(-(side.stop + margin) // cell)) for side in window)
    return rows, columns


def in_pixels(window: Window, cell: int) -> Window:
    """The pixels of a window of cells."""
    rows, columns = (slice(side.start * cell, side.stop * cell) for side in window)
    return rows, columns


def moved(window: Window, rows: int, columns: int) -> Window:
    """A window further down and to the right."""
    down, right = (slice(side.start + by, side.stop + by) for side, by in zip(window, (rows, columns), strict=True))
    return down, right


def within(window: Window, x: Tensor) -> Window:
    """What of a window lies in (N, C, H, W)."""
    rows, columns = (
        slice(max(0, side.start), min(size, side.stop)) for side, size in zip(window, x.shape[-2:], strict=True)
    )
    return rows, columns


def norm_layer(norm: str, channels: int) -> nn.Module:
    """Normalisation over channels of (N, C, H, W): "batch", "instance" (with affine) or "none"."""
    if norm not in ("batch", "instance", "none"):
        raise InputError(f'norm must be "batch", "instance" or "none", not "{norm}"')
    if norm == "none":
        return nn.Identity()
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.InstanceNorm2d(channels, affine=True)


def activation_layer(activation: str) -> nn.Module:
    """Activation: "relu", "leaky-relu" (slope 0.1) or "silu"."""
    if activation == "relu":
        return nn.ReLU(inplace=True)
    if activation == "leaky-relu":
        return nn.LeakyReLU(0.1, inplace=True)
    if activation == "silu":
        return nn.SiLU(inplace=True)
    raise InputError(f'activation must be "relu", "leaky-relu" or "silu", not "{activation}"')


def init_he_normal(module: nn.Module) -> None:
    """He-normal weights and zero biases in every convolution of `module` (He 2015, fan in)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=0.0, nonlinearity="leaky_relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def u_shape(
    x: Tensor, levels: nn.ModuleList, down: Iterable[nn.Module], up: Iterable[Callable[[Tensor, Tensor], Tensor]],
    head: nn.Module, window: Window | None = None, reach: tuple[int, int] | None = None,
) -> Tensor:  # fmt: skip
    """Down through ``levels``, finest first, ``down`` between them, up again by ``up(coarse, skip)``, and ``head``.

    window  the only part of the output that is wanted; it is what the whole output has there
    reach   of a step up, and of the head: pixels of its output's level from which one of them is made, each way; what
            no pixel of the window is made from is not computed on the way up. None: all is computed.
    """
    x = levels[0](x)
    skips: list[Tensor] = []
    for halve, level in zip(down, levels[1:], strict=True):
        skips.append(x)
        x = level(halve(x))
    wanted = whole(skips[0]) if window is None else window
    coarser = [*skips[1:], x]
    parts = [whole(level) for level in coarser] if reach is None else _parts(wanted, coarser, *reach)
    origin = whole(x)
    for step, skip, part in zip(up, reversed(skips), reversed(parts), strict=True):
        x = cut(x, part, origin)
        origin = in_pixels(part, 2)
        x = step(x, cut(skip, origin))
    return cut(head(x), wanted, origin)


def _parts(window: Window, coarser: Sequence[Tensor], step: int, head: int) -> list[Window]:
    """What of each level but the finest, given finest first, a window of the finest is made from."""
    parts: list[Window] = []
    for level in coarser:
        window = within(in_cells(window, 2, step if parts else step + head), level)
        parts.append(window)
    return parts


def shuffled(network: nn.Module, x: Tensor, factor: int, window: Window | None = None) -> Tensor:
    """A network's answer to the cells of ``factor`` pixels a side as channels (space to depth), as pixels again.

    window  in pixels: the only part of the answer that is wanted
    """
    wanted = whole(x) if window is None else window
    if factor == 1:
        return network(x, wanted).to(x.dtype)
    cells = in_cells(wanted, factor)
    output = functional.pixel_shuffle(network(functional.pixel_unshuffle(x, factor), cells), factor)
    return cut(output.to(x.dtype), wanted, in_pixels(cells, factor))


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
