"""The one interface of every motion corrector: neighbouring slices in, residual (artifact) out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.layers import shuffled
from BrainDiffLogic.models.views import View
from BrainDiffLogic.models.windows import Window, cut, moved, whole


class Body(nn.Module):
    """Network (N, in, H, W) -> (N, out, H, W), H and W multiples of `multiple`, or a window of that."""

    multiple: int

    @property
    def heads(self) -> list[nn.Conv2d]:
        """The last convolution of each set of weights, linear."""
        raise NotImplementedError


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
        >>> from BrainDiffLogic.models.families import CONFIGURATIONS, build
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
        super().__init__(
            corrector.body, corrector.context, corrector.shuffle, corrector.residual, gain=corrector.gain
        )
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
