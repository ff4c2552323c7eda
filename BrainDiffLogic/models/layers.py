"""Building blocks that networks share, windows of slices, and building a network from the plain values of its card."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from inspect import signature
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

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


Network = TypeVar("Network", bound=nn.Module)


def folded(network: Network) -> Network:
    """A copy whose normalisation over batches and upsampling are part of the convolutions beside them."""
    copy = deepcopy(network).eval()
    for module in list(copy.modules()):
        if isinstance(module, nn.Sequential):
            for first, second in pairwise(range(len(module))):
                convolution, norm = module[first], module[second]
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    convolution = fuse_conv_bn_eval(convolution, norm)
                    module[first], module[second] = convolution, nn.Identity()
                if isinstance(convolution, DoubledConvolution):
                    module[first] = CellConvolution(convolution)
    return copy


class DoubledConvolution(nn.Conv2d):
    """3 x 3 convolution of nearest upsampling: (N, C, H, W) -> (N, C', 2 H, 2 W)."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', 2 H, 2 W)."""
        return super().forward(functional.interpolate(x, scale_factor=2, mode="nearest"))


class CellConvolution(nn.Module):
    """``DoubledConvolution`` by 4 of its 9 multiplications, on the pixels before they are doubled.

    Of three doubled pixels in a row two are the same, so that for each of the four places in a doubled pixel the
    weights of two rows and of two columns can be added up, once. One convolution answers for all four places.
    """

    def __init__(self, doubled: DoubledConvolution) -> None:
        super().__init__()
        first, second = [[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]
        taps = torch.tensor([first, second], dtype=doubled.weight.dtype)
        weight = torch.einsum("atk,bsl,oikl->aboits", taps, taps, doubled.weight.detach()).flatten(0, 2)
        self.outputs = doubled.out_channels
        self.convolution = nn.Conv2d(doubled.in_channels, 4 * self.outputs, 2, padding=1, bias=doubled.bias is not None)
        self.convolution.weight = nn.Parameter(weight)
        if doubled.bias is not None:
            self.convolution.bias = nn.Parameter(doubled.bias.detach().repeat(4))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', 2 H, 2 W)."""
        cells = self.convolution(x)
        number, _, rows, columns = cells.shape
        answer = torch.empty(
            (number, self.outputs, 2 * rows - 2, 2 * columns - 2),
            dtype=cells.dtype, device=cells.device, memory_format=torch.channels_last,
        )  # fmt: skip
        for part, corner in enumerate(cells.split(self.outputs, dim=1)):
            down, right = divmod(part, 2)
            answer[..., down::2, right::2] = corner[..., down : rows - 1 + down, right : columns - 1 + right]
        return answer
