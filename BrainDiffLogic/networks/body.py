"""What a network must offer to be the body of a corrector."""

from __future__ import annotations

from torch import Tensor, nn


class Body(nn.Module):
    """Network (N, in, H, W) -> (N, out, H, W), H and W multiples of `multiple`."""

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
