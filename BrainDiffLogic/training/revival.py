"""Gradients for feature maps that sleep: ReLUs that let them through where a whole map of a sample is zero.

A corrector learns to recognise a still scan and switches off its last features. What it takes for still by mistake (air
that was masked after motion) then has no gradient at all, and no number of samples would teach it otherwise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

ASLEEP = 0.01
"""Share of a map (of one sample and channel) above zero below which it sleeps."""


class RevivingReLU(nn.Module):
    """ReLU of (N, C, H, W); its gradient below zero is ``slope`` in maps that sleep, and 0 in the others, as usual."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same, as nn.ReLU."""
        output: Tensor = _Revived.apply(x, self.slope)
        return output


class _Revived(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        output = x.clamp(min=0)
        ctx.save_for_backward(output)
        ctx.slope = slope
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (output,), (gradient,) = ctx.saved_tensors, gradients
        awake = output > 0
        asleep = awake.sum(dim=(2, 3), keepdim=True) < ASLEEP * output[0, 0].numel()
        below = asleep.to(gradient.dtype) * ctx.slope
        return gradient * torch.where(awake, gradient.new_ones(()), below), None


def revive(network: nn.Module, slope: float) -> None:
    """Replace every nn.ReLU of a network, in place; its parameters and what it computes stay as they are."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(module, name, RevivingReLU(slope))
