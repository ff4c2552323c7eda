"""RMMAN: recursive multi-scale corrector with deeper residual blocks, after SRN-DeblurNet (Tao 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.corrector import MultiScaleBody
from BrainDiffLogic.models.layers import Window, cut, shuffled, u_shape, whole

CHANNELS = (32, 64, 128)
"""Channels at strides 1, 2, 4 of the encoder (SRN)."""
BLOCKS = ("dw", "edsr", "srresnet")


def image_pyramid(image: Tensor, scales: int) -> list[Tensor]:
    """`scales` copies of image (N, C, H, W), coarse to fine, each half the size of the next.

    Bilinear with antialiasing and half-pixel centres (the published TensorFlow 1 resize had neither: it
    aliased and shifted every level). Also makes the targets of the multi-scale loss.
    """
    levels = [image]
    for _ in range(scales - 1):
        size = (levels[0].shape[-2] // 2, levels[0].shape[-1] // 2)
        levels.insert(0, functional.interpolate(levels[0], size, mode="bilinear", antialias=True))
    return levels


class ResidualBlock(nn.Module):
    """Residual block, x + f(x), channels kept; without normalisation but for "srresnet".

    Args:
        channels: channels in and out.
        kernel: odd kernel size.
        block: "edsr", f = conv-ReLU-conv (EDSR, SRN); "dw" (RMMAN's DW-ResBlock), conv-ReLU-conv inserted
            after the first convolution: f = conv-[conv-ReLU-conv]-ReLU-conv, four convolutions; "srresnet"
            (Ledig 2017, the paper's Fig. 3a), f = conv-norm-ReLU-conv-norm. Batch normalisation counts its
            running statistics over all scales where they share weights.
        act_between: "dw" only: a ReLU also between the first and the inserted convolution, which the paper's
            text does not have; without it the two are one linear convolution of a larger kernel.
    """

    def __init__(self, channels: int, kernel: int, block: str = "dw", act_between: bool = False) -> None:
        super().__init__()
        if block not in BLOCKS:
            raise InputError(f'block must be "dw", "edsr" or "srresnet", not "{block}"')
        count = 4 if block == "dw" else 2
        layers: list[nn.Module] = []
        for index in range(count):
            layers.append(nn.Conv2d(channels, channels, kernel, padding=kernel // 2))
            if block == "srresnet":
                layers.append(nn.BatchNorm2d(channels))
            linear_pair = block == "dw" and index == 0 and not act_between
            if index < count - 1 and not linear_pair:
                layers.append(nn.ReLU(inplace=True))
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return x + self.body(x)


class ScaleNetwork(nn.Module):
    """Encoder-decoder of one scale: levels at strides 1, 2, 4; skips are added; the last layer is linear."""

    def __init__(
        self, in_channels: int, out_channels: int, channels: Sequence[int], kernel: int, blocks: int,
        block: str, act_between: bool,
    ) -> None:  # fmt: skip
        super().__init__()

        def residual_blocks(width: int) -> list[nn.Module]:
            return [ResidualBlock(width, kernel, block, act_between) for _ in range(blocks)]

        inputs = [in_channels, *channels[:-1]]
        self.encoder = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, kernel, stride=2 if level else 1, padding=kernel // 2),
                nn.ReLU(inplace=True),
                *residual_blocks(b),
            )
            for level, (a, b) in enumerate(zip(inputs, channels, strict=True))
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(
                *residual_blocks(coarse),
                nn.ConvTranspose2d(coarse, fine, 4, stride=2, padding=1),
                nn.ReLU(inplace=True),
            )
            for coarse, fine in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        self.last = nn.Sequential(*residual_blocks(channels[0]))
        self.head = nn.Conv2d(channels[0], out_channels, kernel, padding=kernel // 2)
        across = blocks * (4 if block == "dw" else 2) * (kernel // 2)
        self.reach = (2 * across + 2, across + kernel // 2)

    def forward(self, x: Tensor, window: Window | None = None) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H, W), H and W multiples of 4, or a window of it."""
        steps = (partial(_added, level) for level in self.decoder)
        end = nn.Sequential(self.last, self.head)
        return u_shape(x, self.encoder, [nn.Identity()] * len(self.decoder), steps, end, window, self.reach)


def _added(level: nn.Module, coarse: Tensor, skip: Tensor) -> Tensor:
    return level(coarse) + skip


class Rmman(MultiScaleBody):
    """Recursive multi-scale body: coarse images are corrected first and guide the finer ones.

    Scale i sees its own motion-corrupted slices concatenated with the upsampled correction of scale i - 1 (no
    gradient flows back through it, as in SRN); the coarsest sees its own centre slice in that place. No
    normalisation. Xavier-uniform weights, zero biases (SRN).

    Args:
        in_channels: neighbouring slices; the centre one is corrected.
        channels: channels at strides 1, 2, 4.
        kernel: 3, 5 (the paper's best) or 7.
        blocks: residual blocks per level and direction, 1 to 5 (the paper's n = m, 3).
        block: "dw" (RMMAN), "edsr" or "srresnet", see `ResidualBlock`.
        act_between: see `ResidualBlock`.
        scales: levels of the image pyramid, ratio 0.5.
        shared: one set of weights at every scale (SRN) or one set each.
        residual: each scale predicts what to subtract from its own slice, or (published) the clean slice.
        shuffle: space-to-depth factor inside each scale. It stays inside because the pixels of one cell,
            halved channel by channel, are no longer the pixels of a halved image.
        gain: the networks' output is multiplied by this, see `Corrector`.
    """

    def __init__(
        self, in_channels: int = 1, channels: Sequence[int] = CHANNELS, kernel: int = 5, blocks: int = 3,
        block: str = "dw", act_between: bool = False, scales: int = 3, shared: bool = True,
        residual: bool = False, shuffle: int = 1, gain: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if kernel not in (3, 5, 7):
            raise InputError(f"kernel must be 3, 5 or 7, not {kernel}")
        if not 1 <= blocks <= 5:
            raise InputError(f"blocks must be 1 to 5, not {blocks}")
        if len(channels) != 3 or scales < 1:
            raise InputError(f"RMMAN needs 3 channel numbers and 1 scale or more, not {channels} and {scales}")
        cell = shuffle**2
        self.in_channels, self.scales, self.residual = in_channels, scales, residual
        self.shuffle, self.gain = shuffle, gain
        self.networks = nn.ModuleList(
            ScaleNetwork((in_channels + 1) * cell, cell, channels, kernel, blocks, block, act_between)
            for _ in range(1 if shared else scales)
        )
        self.multiple = 4 * 2 ** (scales - 1) * shuffle
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                for parameter in layer.parameters():
                    (nn.init.xavier_uniform_ if parameter.ndim > 1 else nn.init.zeros_)(parameter)

    @property
    def heads(self) -> list[nn.Conv2d]:
        """The linear output layer of each set of weights."""
        return [network.head for network in self.networks if isinstance(network, ScaleNetwork)]

    def forward(self, x: Tensor, window: Window | None = None) -> Tensor:
        """(N, in_channels, H, W) -> (N, 1, H, W): residual or clean slice at the finest scale, or a window of it."""
        return self._outputs(x, window)[-1][0]

    def scale_predictions(self, x: Tensor) -> list[Tensor]:
        """Corrected centre slice at each scale, coarse to fine, each (N, 1, h, w)."""
        return [corrected for _, corrected in self._outputs(x)]

    def _outputs(self, x: Tensor, window: Window | None = None) -> list[tuple[Tensor, Tensor]]:
        outputs: list[tuple[Tensor, Tensor]] = []
        previous: Tensor | None = None
        centre_index = self.in_channels // 2
        for level, slices in enumerate(image_pyramid(x, self.scales)):
            centre = slices[:, centre_index : centre_index + 1]
            guide = centre
            if previous is not None:
                guide = functional.interpolate(previous.detach(), scale_factor=2, mode="bilinear", align_corners=False)
            network = self.networks[min(level, len(self.networks) - 1)]
            wanted = window if window is not None and level == self.scales - 1 else whole(centre)
            output = self.gain * shuffled(network, torch.cat([slices, guide], dim=1), self.shuffle, wanted)
            previous = cut(centre, wanted) - output if self.residual else output
            outputs.append((output, previous))
        return outputs
