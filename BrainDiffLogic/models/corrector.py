"""The one interface of every motion corrector, neighbouring slices in, residual (artifact) out; families by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from inspect import signature
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import View
from BrainDiffLogic.models.layers import Window, cut, moved, shuffled, whole


class Body(nn.Module):
    """Network (N, in, H, W) -> (N, out, H, W), H and W multiples of `multiple`, or a window of that."""

    multiple: int
    head: nn.Conv2d

    @property
    def heads(self) -> list[nn.Conv2d]:
        """The last convolution of each set of weights, linear."""
        return [self.head]


class MultiScaleBody(Body):
    """Network that corrects a pyramid of images and is trained on every level of it (RMMAN)."""

    residual: bool

    def scale_predictions(self, x: Tensor) -> list[Tensor]:
        """Corrected centre slice at each scale, coarse to fine, each (N, 1, h, w)."""
        raise NotImplementedError


def check_input(context: int, shuffle: int) -> None:
    """Refuse a context or a space-to-depth factor that no network can have (`InputError`)."""
    if context < 1 or context % 2 == 0:
        raise InputError(f"context must be an odd number of slices (1, 3, 5), not {context}")
    if shuffle < 1:
        raise InputError(f"shuffle must be 1 (off) or more, not {shuffle}")


class Corrector(nn.Module):
    """Motion corrector for a sagittal slice with its neighbours: predicts what to subtract.

    ``corrected = x[:, context // 2] - corrector(x)`` (BrainDiff eq. 2), intensities in robust-scaled units.

    Args:
        body: network from context * shuffle^2 to shuffle^2 channels; a multi-scale body does its own
            space-to-depth, from context channels to 1, and leaves shuffle 1 here.
        context: odd number of neighbouring sagittal slices in the channels (1: plain 2D; 3, 5: 2.5D).
        shuffle: space-to-depth factor. The pixels of each shuffle x shuffle cell become channels before the
            body and cells again after it (FFDNet, Zhang 2018, arXiv 1710.04026): no information is lost,
            every feature map is shuffle^2 times smaller.
        residual: True, the body predicts the artifact; False, it predicts the clean image (MC-Net, SRN) and
            the residual is the difference to the input. Direct prediction under bfloat16 rounds the image
            itself to 8 bits of mantissa; the residual, being small, is hurt much less.
        zero_init: the last layer starts at zero, so that a fresh network is exactly the identity: training
            starts at the do-nothing row of every table and can only leave it by lowering the loss.
        gain: the body's output is multiplied by this: about the size of an artifact, so that a step of Adam, which
            has the size of the learning rate whatever the gradient, does not overshoot it a hundred times.

    Example:
        >>> import torch
        >>> from BrainDiffLogic.models.corrector import CONFIGURATIONS, build
        >>> corrector = build("mc-net", CONFIGURATIONS["mc-net"]["compact"]).eval()
        >>> corrector(torch.zeros(1, corrector.context, 64, 64)).shape
        torch.Size([1, 1, 64, 64])
    """

    def __init__(
        self, body: Body, context: int = 1, shuffle: int = 1, residual: bool = True, zero_init: bool = False,
        gain: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        check_input(context, shuffle)
        if zero_init and not residual:
            raise InputError("zero_init makes the identity only with residual: true; switch one of the two")
        if isinstance(body, MultiScaleBody) and body.residual != residual:
            raise InputError(f"the network body has residual {body.residual}, the corrector {residual}")
        self.body, self.context, self.shuffle, self.residual = body, context, shuffle, residual
        self.gain = gain
        if zero_init:
            for head in body.heads:
                for parameter in head.parameters():
                    nn.init.zeros_(parameter)

    @property
    def multiple(self) -> int:
        """Rows and columns of the input must be multiples of this."""
        return self.body.multiple * self.shuffle

    def forward(self, x: Tensor, window: Window | None = None) -> Tensor:
        """Residual (N, 1, H, W) of the centre slice of x (N, context, H, W), in the units and dtype of x.

        Args:
            x: slices.
            window: rows and columns of the residual that alone are wanted; in them it is that of the whole slice.

        Raises:
            InputError: x has another number of slices, or H or W is not a multiple of `multiple`.
        """
        self._check(x)
        wanted = whole(x) if window is None else window
        output = self._raw(x, wanted)
        return output if self.residual else cut(self._centre(x), wanted) - output

    def scale_predictions(self, x: Tensor) -> list[Tensor]:
        """Corrected images, coarse to fine, each (N, 1, h, w); a list of one for single-scale families.

        The matching targets are `rmman.image_pyramid(clean, len(predictions))`.
        """
        self._check(x)
        if isinstance(self.body, MultiScaleBody):
            return self.body.scale_predictions(x)
        output = self._raw(x, whole(x))
        return [self._centre(x) - output if self.residual else output]

    def _raw(self, x: Tensor, window: Window) -> Tensor:
        return self.gain * shuffled(self.body, x, self.shuffle, window)

    def _centre(self, x: Tensor) -> Tensor:
        centre = self.context // 2
        return x[:, centre : centre + 1]

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.context:
            raise InputError(f"the network takes slices (N, {self.context}, H, W), not {tuple(x.shape)}")
        if x.shape[2] % self.multiple or x.shape[3] % self.multiple:
            raise InputError(
                f"slices of {x.shape[2]} x {x.shape[3]} do not fit the network: "
                f"pad rows and columns to a multiple of {self.multiple}"
            )


class AugmentedCorrector(Corrector):
    """A corrector that answers with the mean over some views of the slices (Wang 2019, Neurocomputing 338:34).

    corrector  shares its weights
    views      one or more
    """

    def __init__(self, corrector: Corrector, views: Sequence[View]) -> None:
        super().__init__(corrector.body, corrector.context, corrector.shuffle, corrector.residual, gain=corrector.gain)
        self.views = tuple(views)

    def forward(self, x: Tensor, window: Window | None = None) -> Tensor:
        """Mean residual (N, 1, H, W) of the centre slice of x (N, context, H, W); as long as all views take."""
        wanted = whole(x) if window is None else window
        total = self._seen(x, self.views[0], wanted)
        for view in self.views[1:]:
            total = total + self._seen(x, view, wanted)
        return total / len(self.views)

    def _seen(self, x: Tensor, view: View, window: Window) -> Tensor:
        rows, columns = view.shift
        margins = (columns, -columns % self.multiple, rows, -rows % self.multiple)
        shown = functional.pad(x.flip(1) if view.mirrored else x, margins, mode="replicate")
        return super().forward(shown, moved(window, rows, columns))


_BODIES: dict[str, dict[str, str]] = {
    "attention-unet": {"monai": "MonaiAttentionUnet", "residual": "ResidualAttentionUnet"},
    "mc-net": {"unet": "McNet"},
    "rmman": {"recursive": "Rmman"},
    "nafnet": {"naf": "Nafnet"},
}
"""The bodies of each family by the name of their design: classes of the module that is called like the family. It is
imported when one is built, since MONAI, which one family uses, takes longer to import than all else."""

FAMILIES = tuple(_BODIES)

CONFIGURATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "attention-unet": {
        "paper": {
            "context": 1, "shuffle": 1, "residual": True, "zero_init": False, "design": "monai",
            "channels": [32, 64, 128, 256, 512], "strides": [2, 2, 2, 2], "kernel": 3, "up_kernel": 3,
            "dropout": 0.0,
        },
        "compact": {
            "context": 3, "shuffle": 2, "residual": True, "zero_init": True, "design": "residual",
            "channels": [32, 64, 128, 256], "blocks": 1, "bottleneck_blocks": 2, "norm": "batch",
            "activation": "leaky-relu", "upsampling": "nearest", "gain": 0.05,
        },
    },
    "mc-net": {
        "paper": {
            "context": 1, "shuffle": 1, "residual": False, "zero_init": False, "design": "unet",
            "filters": [32, 64, 128, 256, 512], "norm": "batch",
        },
        "compact": {
            "context": 3, "shuffle": 2, "residual": True, "zero_init": True, "design": "unet",
            "filters": [24, 48, 96, 192, 256], "norm": "batch", "gain": 0.05,
        },
    },
    "rmman": {
        "paper": {
            "context": 1, "shuffle": 1, "residual": False, "zero_init": False, "design": "recursive",
            "channels": [32, 64, 128], "kernel": 5, "blocks": 3, "block": "dw", "act_between": False,
            "scales": 3, "shared": True,
        },
        "compact": {
            "context": 3, "shuffle": 2, "residual": True, "zero_init": True, "design": "recursive",
            "channels": [24, 48, 96], "kernel": 3, "blocks": 1, "block": "dw", "act_between": True,
            "scales": 3, "shared": True, "gain": 0.05,
        },
    },
    "nafnet": {
        "paper": {
            "context": 1, "shuffle": 1, "residual": True, "zero_init": False, "design": "naf", "width": 32,
            "encoder": [1, 1, 1, 28], "middle": 1, "decoder": [1, 1, 1, 1], "begin": 0.0,
        },
        "compact": {
            "context": 3, "shuffle": 2, "residual": True, "zero_init": True, "design": "naf", "width": 24,
            "encoder": [1, 1, 2], "middle": 4, "decoder": [1, 1, 1], "begin": 0.1, "gain": 0.05,
        },
    },
}  # fmt: skip
"""Per family: "paper", as published, holes filled; "compact", 2.5D space-to-depth residual, for two cores."""

_CORRECTOR_ARGUMENTS = ("context", "shuffle", "residual", "zero_init", "gain")
_BODY_CHANNELS = ("in_channels", "out_channels")


def build(family: str, arguments: Mapping[str, Any]) -> Corrector:
    """Corrector of a family from plain JSON values; missing arguments take the constructor's defaults.

    Args:
        family: "attention-unet", "mc-net", "rmman" or "nafnet".
        arguments: `Corrector`'s context, shuffle, residual and zero_init; `design`, which body of the family
            ("attention-unet" has "monai", its default, and "residual"); and that body's own arguments.

    Raises:
        InputError: unknown family, design or argument, or a value that the network refuses.
    """
    body_class = _body_class(family, arguments)
    names = set(signature(body_class).parameters) - {*_BODY_CHANNELS, *_CORRECTOR_ARGUMENTS}
    unknown = set(arguments) - names - {*_CORRECTOR_ARGUMENTS, "design"}
    if unknown:
        known = ", ".join(sorted({*names, *_CORRECTOR_ARGUMENTS, "design"}))
        raise InputError(f"{family} has no argument {', '.join(sorted(unknown))}; it has {known}")
    try:
        return _assemble(body_class, arguments, names)
    except InputError as error:
        raise InputError(f"{family}: {error}") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{family} cannot be built from {dict(arguments)}: {error}") from error


def _assemble(body_class: type[Body], arguments: Mapping[str, Any], names: set[str]) -> Corrector:
    own = {name: value for name, value in arguments.items() if name in names}
    outer = {name: arguments[name] for name in _CORRECTOR_ARGUMENTS if name in arguments}
    context, shuffle = outer.get("context", 1), outer.get("shuffle", 1)
    check_input(context, shuffle)
    if issubclass(body_class, MultiScaleBody):
        residual = outer.setdefault("residual", True)
        inner = {name: outer.pop(name) for name in ("shuffle", "gain") if name in outer}
        return Corrector(body_class(context, residual=residual, **inner, **own), **outer)
    return Corrector(body_class(context * shuffle**2, shuffle**2, **own), **outer)


def _body_class(family: str, arguments: Mapping[str, Any]) -> type[Body]:
    if family not in _BODIES:
        raise InputError(f"unknown network family {family!r}; the families are {', '.join(FAMILIES)}")
    designs = _BODIES[family]
    design = arguments.get("design", next(iter(designs)))
    if design not in designs:
        raise InputError(f"{family} has no design {design!r}; it has {', '.join(designs)}")
    module = import_module(f"BrainDiffLogic.models.{family.replace('-', '_')}")
    body_class: type[Body] = getattr(module, designs[design])
    return body_class
