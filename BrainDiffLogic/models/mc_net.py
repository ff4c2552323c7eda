"""MC-Net (Zhang, ISMRM abstract; Algorithms 2024, 17(5):215, doi 10.3390/a17050215): a plain 2D U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.corrector import Body
from BrainDiffLogic.models.layers import DoubledConvolution, Window, init_he_normal, norm_layer, u_shape

FILTERS = (32, 64, 128, 256, 512)
"""Filters from the finest to the coarsest level (the published network)."""


def _convolution(convolution: nn.Conv2d, norm: str) -> tuple[nn.Module, ...]:
    return convolution, norm_layer(norm, convolution.out_channels), nn.ReLU(inplace=True)


def _convolutions(inputs: int, outputs: int, norm: str) -> nn.Sequential:
    pairs = ((inputs, outputs), (outputs, outputs))
    return nn.Sequential(
        *(layer for a, b in pairs for layer in _convolution(nn.Conv2d(a, b, 3, padding=1, bias=norm == "none"), norm))
    )


class McNet(Body):
    """U-Net body of MC-Net.

    Each level is twice (3 x 3 convolution, normalisation, ReLU); levels are joined by 2 x 2 max pooling on
    the way down and by nearest upsampling with a 3 x 3 convolution on the way up; skips are concatenated.
    Where we depart: the 1 x 1 head is linear (the published sigmoid cannot restore values above the training
    maximum), and batch normalisation runs over channels whatever the memory layout.

    Args:
        filters: filters of each level, finest first.
        norm: "batch" (published), "instance" or "none".
    """

    def __init__(
        self, in_channels: int = 1, out_channels: int = 1, filters: Sequence[int] = FILTERS,
        norm: str = "batch",
    ) -> None:  # fmt: skip
        super().__init__()
        if len(filters) < 2:
            raise InputError(f"filters needs two levels or more, got {list(filters)}")
        inputs = [in_channels, *filters[:-1]]
        self.down = nn.ModuleList(_convolutions(a, b, norm) for a, b in zip(inputs, filters, strict=True))
        self.pool = nn.MaxPool2d(2)
        pairs = list(zip(filters[:0:-1], filters[-2::-1], strict=True))
        self.up = nn.ModuleList(
            nn.Sequential(*_convolution(DoubledConvolution(coarse, fine, norm == "none"), norm))
            for coarse, fine in pairs
        )
        self.merge = nn.ModuleList(_convolutions(2 * fine, fine, norm) for _, fine in pairs)
        self.head = nn.Conv2d(filters[0], out_channels, 1)
        self.multiple = 2 ** (len(filters) - 1)
        self.reach = (3, 0) if norm != "instance" else None  # whose statistics are those of the whole slice
        init_he_normal(self)

    def forward(self, x: Tensor, window: Window | None = None) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H, W), or a window of it."""
        steps = (partial(self._step, up, merge) for up, merge in zip(self.up, self.merge, strict=True))
        return u_shape(x, self.down, [self.pool] * len(self.up), steps, self.head, window, self.reach)

    def _step(self, up: nn.Module, merge: nn.Module, coarse: Tensor, skip: Tensor) -> Tensor:
        return merge(torch.cat([skip, up(coarse)], dim=1))
