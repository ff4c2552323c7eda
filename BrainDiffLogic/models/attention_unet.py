"""Residual Attention U-Net, the corrector of BrainDiff (phase 4), after Oktay 2018 (arXiv 1804.03999)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from monai.networks.nets import attentionunet as monai_attention_unet
from torch import Tensor, nn

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.corrector import Body
from BrainDiffLogic.models.layers import Window, activation_layer, cut, init_he_normal, norm_layer, u_shape

CHANNELS = (32, 64, 128, 256, 512)
"""Not given in the paper; chosen so that the three published families cost about the same."""

_SECOND_CONVOLUTION = 0.1
"""Initial scale of a residual branch: keeps deep stacks without normalisation stable (ESRGAN, Wang 2018)."""


class MonaiAttentionUnet(Body):
    """MONAI's `AttentionUnet` as a corrector body: what "Attention U-Net" in BrainDiff most likely means.

    The paper gives no sizes. What MONAI (1.6) fixes and a reader cannot see from its arguments: batch
    normalisation in blocks and gates, but instance normalisation with PReLU where a gated skip is merged;
    3 x 3 transposed convolution with stride 2 on the way up (uneven overlap, can draw a checkerboard); a
    1 x 1 linear output layer; H and W must be multiples of the product of strides.

    Args:
        channels: channels of each level, finest first.
        strides: step between levels, one fewer than channels.
        kernel: kernel size of the convolutions.
        up_kernel: kernel size of the transposed convolutions.
        dropout: dropout ratio.
    """

    def __init__(
        self, in_channels: int = 1, out_channels: int = 1, channels: Sequence[int] = CHANNELS,
        strides: Sequence[int] = (2, 2, 2, 2), kernel: int = 3, up_kernel: int = 3, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if len(channels) < 2 or len(strides) != len(channels) - 1:
            raise InputError(f"strides needs one entry fewer than channels, not {strides} for {channels}")
        self.network = monai_attention_unet.AttentionUnet(
            2, in_channels, out_channels, channels, strides, kernel_size=kernel, up_kernel_size=up_kernel,
            dropout=dropout,
        )  # fmt: skip
        self.multiple = prod(strides)

    @property
    def heads(self) -> list[nn.Conv2d]:
        """The 1 x 1 linear output layer."""
        return [self.network.model[-1].conv]

    def forward(self, x: Tensor, window: Window | None = None) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H, W), or a window of it."""
        return self.network(x) if window is None else cut(self.network(x), window)


class ConvolutionBlock(nn.Module):
    """x + conv(act(norm(conv(x)))), 3 x 3, channels kept; no normalisation after the sum (EDSR)."""

    def __init__(self, channels: int, norm: str, activation: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            norm_layer(norm, channels),
            activation_layer(activation),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return x + self.body(x)


class GatedUp(nn.Module):
    """One step up: coarse features gate the skip, both are merged and refined.

    The coarse features are projected first and enlarged after (the two commute, and it is four times
    cheaper); enlarging by interpolation cannot draw the checkerboard of transposed convolutions. The gate is
    MONAI's `AttentionBlock`, its fixed batch normalisation replaced by `norm`.
    """

    def __init__(
        self, coarse: int, fine: int, blocks: int, norm: str, activation: str, upsampling: str, gates: bool
    ) -> None:
        super().__init__()
        self.project = nn.Conv2d(coarse, fine, 1)
        self.enlarge = nn.Upsample(scale_factor=2, mode=upsampling)
        self.gate = _gate(fine, norm) if gates else None
        self.merge = nn.Conv2d(2 * fine, fine, 1)
        self.refine = nn.Sequential(*(ConvolutionBlock(fine, norm, activation) for _ in range(blocks)))

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """(N, coarse, H, W) and (N, fine, 2 H, 2 W) -> (N, fine, 2 H, 2 W)."""
        x = self.enlarge(self.project(coarse))
        passed = skip if self.gate is None else self.gate(g=x, x=skip)
        return self.refine(self.merge(torch.cat([passed, x], dim=1)))


def _gate(channels: int, norm: str) -> monai_attention_unet.AttentionBlock:
    gate = monai_attention_unet.AttentionBlock(2, f_int=channels // 2, f_g=channels, f_l=channels)
    for part, size in ((gate.W_g, channels // 2), (gate.W_x, channels // 2), (gate.psi, 1)):
        part[1] = norm_layer(norm, size)
    return gate


class ResidualAttentionUnet(Body):
    """Attention U-Net of residual blocks, made for training and correcting on a CPU.

    Without normalisation by default. Batch statistics of eight neighbouring slices are noisy, and at
    correction time they are those of the training scanner; instance normalisation erases the absolute
    intensity a residual is measured in and amplifies slices of air; the robust scale of the whole volume has
    normalised the input already, and the identity paths keep the gradient healthy without it (EDSR, Lim 2017,
    arXiv 1707.02921).

    Args:
        channels: channels of each level, finest first.
        blocks: residual blocks at each level, on the way down and again on the way up.
        bottleneck_blocks: residual blocks at the coarsest level, which reaches ghosts far from their source.
        norm: "none", "batch" or "instance".
        activation: "leaky-relu", "relu" or "silu".
        upsampling: "bilinear" or "nearest".
        gates: attention gates on the skips; without them a plain residual U-Net, to tell what the gates are worth.
    """

    def __init__(
        self, in_channels: int = 1, out_channels: int = 1, channels: Sequence[int] = (32, 64, 128, 256),
        blocks: int = 1, bottleneck_blocks: int = 2, norm: str = "none", activation: str = "leaky-relu",
        upsampling: str = "nearest", gates: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if len(channels) < 2 or blocks < 1 or bottleneck_blocks < 1:
            raise InputError("the attention U-Net needs two levels or more and one block or more per level")
        if upsampling not in ("bilinear", "nearest"):
            raise InputError(f'upsampling must be "bilinear" or "nearest", not "{upsampling}"')
        self.stem = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.levels = nn.ModuleList(
            nn.Sequential(*(ConvolutionBlock(c, norm, activation) for _ in range(count)))
            for c, count in zip(channels, [blocks] * (len(channels) - 1) + [bottleneck_blocks], strict=True)
        )
        pairs = list(zip(channels[:-1], channels[1:], strict=True))
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairs)
        self.up = nn.ModuleList(
            GatedUp(coarse, fine, blocks, norm, activation, upsampling, gates) for fine, coarse in reversed(pairs)
        )
        self.head = nn.Conv2d(channels[0], out_channels, 3, padding=1)
        self.multiple = 2 ** len(pairs)
        # instance normalisation has the statistics of the whole slice
        self.reach = None if norm == "instance" else (2 * blocks + 2 * (upsampling == "bilinear"), 1)
        init_he_normal(self)
        for module in self.modules():
            if isinstance(module, ConvolutionBlock):
                for parameter in module.body[-1].parameters():
                    parameter.data.mul_(_SECOND_CONVOLUTION)

    def forward(self, x: Tensor, window: Window | None = None) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H, W), or a window of it."""
        return u_shape(self.stem(x), self.levels, self.down, self.up, self.head, window, self.reach)
