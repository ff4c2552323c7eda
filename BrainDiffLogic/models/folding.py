"""A network as it is asked, no longer trained: the same answers by fewer operations."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

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
