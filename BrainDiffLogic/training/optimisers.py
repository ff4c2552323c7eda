"""How weights learn: AdamW, Muon for the kernels of convolutions, and gradients for feature maps that sleep."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from BrainDiffLogic.errors import InputError

FASTER = 3.0
"""A kernel's learning rate under Muon, in those of the rest (after 500 steps 3 left less error than 10)."""


WITH_KERNEL = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
ASLEEP = 0.01
"""Share of a map (of one sample and channel) above zero below which it sleeps."""


def check_optimiser(name: str) -> None:
    """Raise InputError for Muon with a PyTorch that has none."""
    if name == "muon" and not hasattr(torch.optim, "Muon"):
        raise InputError(f"optimiser: muon needs PyTorch 2.9 or newer, this is {torch.__version__}; use adamw")


def build_optimiser(name: str, network: nn.Module, heads: Iterable[nn.Module], weight_decay: float) -> Optimizer:
    """The optimiser of a network with a learning rate of 1, for a schedule to multiply.

    name   of ``configuration.OPTIMISERS``
    heads  the network's output layers, which Muon leaves to AdamW
    """
    if name == "adamw":
        return AdamW(network.parameters(), lr=1.0, weight_decay=weight_decay)
    outputs = {id(layer) for head in heads for layer in head.modules()}
    layers = [layer for layer in network.modules() if isinstance(layer, WITH_KERNEL) and id(layer) not in outputs]
    kernels: list[nn.Parameter] = [layer.weight for layer in layers]  # type: ignore[misc]
    taken = {id(kernel) for kernel in kernels}
    return KernelMuon(kernels, [p for p in network.parameters() if id(p) not in taken], 1.0, weight_decay)


class KernelMuon(Optimizer):
    """Muon for convolution kernels as matrices, AdamW for biases, norms and output layers.

    Muon's step has the same size along every direction of a matrix (Jordan 2024), scaled to the root mean square of
    AdamW's steps (Liu 2025, arXiv 2502.16982, eq. 4). So it also learns what has small gradients, as the faint
    artifact of motion has beside the anatomy. ``torch.optim.Muon`` does it, for matrices alone: a kernel (outputs,
    inputs, rows, columns) is shown to it as (outputs, rows * columns * inputs).

    learning_rate  of the rest; the kernels have ``FASTER`` times as much
    """

    def __init__(
        self, kernels: list[nn.Parameter], rest: list[nn.Parameter], learning_rate: float, weight_decay: float
    ) -> None:
        rates = [learning_rate * FASTER, learning_rate]
        groups = [{"params": part, "lr": rate} for part, rate in zip((kernels, rest), rates, strict=True)]
        super().__init__(groups, {"lr": learning_rate})
        # torch's Muon refuses what is not 2D: it steps copies of the kernels, which step() brings up to date and back
        self.matrices = [nn.Parameter(_as_matrix(kernel.detach())) for kernel in kernels]
        self.parts: tuple[Optimizer, Optimizer] = (
            torch.optim.Muon(self.matrices, rates[0], weight_decay, adjust_lr_fn="match_rms_adamw"),
            AdamW(rest, rates[1], weight_decay=weight_decay),
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step with the learning rates of ``param_groups``."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        kernels = self.param_groups[0]["params"]
        for kernel, matrix in zip(kernels, self.matrices, strict=True):
            matrix.data = _as_matrix(kernel).clone()
            matrix.grad = None if kernel.grad is None else _as_matrix(kernel.grad)
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups[0]["lr"] = group["lr"]  # schedules and checkpoints know the outer groups alone
            part.step()
        for kernel, matrix in zip(kernels, self.matrices, strict=True):
            kernel.copy_(matrix.view(kernel.movedim(1, -1).shape).movedim(-1, 1))
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Rates and, of both parts, momenta."""
        return {**super().state_dict(), "parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        super().load_state_dict({name: state_dict[name] for name in ("state", "param_groups")})
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)


def _as_matrix(kernel: Tensor) -> Tensor:
    """(outputs, inputs, ...) to (outputs, ... * inputs), the order of channels_last."""
    return kernel.detach().movedim(1, -1).flatten(1)


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
    """Replace every nn.ReLU of a network, in place; its parameters and what it computes stay as they are.

    A corrector learns to recognise a still scan and switches off its last features. What it takes for still by mistake
    (air that was masked after motion) then has no gradient at all, and no number of samples would teach it otherwise.
    """
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(module, name, RevivingReLU(slope))


def rate_share(step: int, steps: int, warmup: int, decay: float) -> float:
    """Share of the learning rate at a step of ``steps``: linear warm-up, constant, linear decay to 0.

    decay  share of the steps; without warm-up and decay, as in BrainDiff's paper, always 1
    """
    rising = (step + 1) / warmup if warmup else 1.0
    falling = (steps - step) / (decay * steps) if decay else 1.0
    return max(0.0, min(rising, falling, 1.0))


def scheduled(optimiser: Optimizer, rate: Callable[[int], float]) -> dict[str, Any]:
    """What Lightning takes: the optimiser, its learning rates multiplied at each step by what ``rate`` says."""
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": LambdaLR(optimiser, rate), "interval": "step"}}
