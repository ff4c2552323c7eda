"""NAFNet (Chen 2022, "Simple Baselines for Image Restoration", arXiv 2204.04676): a U-Net without activations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.corrector import Body
from BrainDiffLogic.models.layers import Window, u_shape


class PixelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel of (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        last = functional.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, 1e-6)
        return last.permute(0, 3, 1, 2)


class SimpleGate(nn.Module):
    """The product of the two halves of the channels, in the place of an activation."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2 C, H, W) -> (N, C, H, W)."""
        one, other = x.chunk(2, dim=1)
        return one * other


class NafBlock(nn.Module):
    """Depthwise 3 x 3 with a gate and channel attention, then a gated pointwise part, both added to their input.

    Each part is scaled by weights that begin at ``begin``; published: 0, where a new block is the identity.
    """

    def __init__(self, channels: int, begin: float) -> None:
        super().__init__()
        self.before = nn.Sequential(
            PixelNorm(channels),
            nn.Conv2d(channels, 2 * channels, 1),
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels),
            SimpleGate(),
        )
        self.attention = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        self.after = nn.Conv2d(channels, channels, 1)
        self.pointwise = nn.Sequential(
            PixelNorm(channels), nn.Conv2d(channels, 2 * channels, 1), SimpleGate(), nn.Conv2d(channels, channels, 1)
        )
        self.beta = nn.Parameter(torch.full((1, channels, 1, 1), begin))
        self.gamma = nn.Parameter(torch.full((1, channels, 1, 1), begin))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        features = self.before(x)
        x = x + self.beta * self.after(features * self.attention(features))
        return x + self.gamma * self.pointwise(x)


class _Up(nn.Module):
    """One step up, onto the skip."""

    def __init__(self, coarse: int, blocks: int, begin: float) -> None:
        super().__init__()
        self.enlarge = nn.Sequential(nn.Conv2d(coarse, 2 * coarse, 1, bias=False), nn.PixelShuffle(2))
        self.refine = _blocks(coarse // 2, blocks, begin)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, C, H, W) and (N, C / 2, 2 H, 2 W) -> the latter."""
        return self.refine(self.enlarge(x) + skip)


class Nafnet(Body):
    """NAFNet's body: channels double where the image is halved; skips are added, not concatenated.

    The channel attention averages over the whole slice, so that what a patch gives differs from what it gives within
    the slice; train on crops that are not much smaller than slices.

    Args:
        width: channels of the finest level.
        encoder: blocks of each level on the way down, finest first.
        middle: blocks of the coarsest level.
        decoder: blocks of each level on the way up, coarsest first.
        begin: where the weights of a block's two parts begin.
    """

    def __init__(
        self, in_channels: int = 1, out_channels: int = 1, width: int = 32, encoder: Sequence[int] = (1, 1, 1, 28),
        middle: int = 1, decoder: Sequence[int] = (1, 1, 1, 1), begin: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if not encoder or len(encoder) != len(decoder) or min(middle, *encoder, *decoder) < 1:
            raise InputError("nafnet needs one block or more a level, and as many levels down as up")
        sizes = [width * 2**level for level in range(len(encoder) + 1)]
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)
        self.levels = nn.ModuleList(_blocks(size, n, begin) for size, n in zip(sizes, [*encoder, middle], strict=True))
        self.down = nn.ModuleList(nn.Conv2d(size, 2 * size, 2, stride=2) for size in sizes[:-1])
        self.up = nn.ModuleList(_Up(size, n, begin) for size, n in zip(sizes[:0:-1], decoder, strict=True))
        self.head = nn.Conv2d(width, out_channels, 3, padding=1)
        self.multiple = 2 ** len(encoder)

    def forward(self, x: Tensor, window: Window | None = None) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H, W), or a window of it."""
        return u_shape(self.stem(x), self.levels, self.down, self.up, self.head, window)


def _blocks(channels: int, count: int, begin: float) -> nn.Sequential:
    return nn.Sequential(*(NafBlock(channels, begin) for _ in range(count)))
