"""Test-time augmentation: the mean of a corrector's answers to the same slices, seen otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional

from BrainDiffLogic.networks.corrector import Corrector

if TYPE_CHECKING:
    from BrainDiffLogic.disagreement import View


class AugmentedCorrector(Corrector):
    """A corrector that answers with the mean over the slices as they are and over some views (Wang 2019).

    corrector  shares its weights
    views      beside the slices as they are: left and right exchanged (the neighbours in reverse order), or
               rows and columns further in (the edge is repeated)
    """

    def __init__(self, corrector: Corrector, views: Sequence[View]) -> None:
        super().__init__(
            corrector.body, corrector.context, corrector.shuffle, corrector.residual, gain=corrector.gain
        )
        self.views = tuple(views)

    def forward(self, x: Tensor) -> Tensor:
        """Mean residual (N, 1, H, W) of the centre slice of x (N, context, H, W); as long as all views take."""
        total = super().forward(x)
        for view in self.views:
            total = total + self._seen(x, view)
        return total / (1 + len(self.views))

    def _seen(self, x: Tensor, view: View) -> Tensor:
        rows, columns = view.shift
        margins = (columns, -columns % self.multiple, rows, -rows % self.multiple)
        shown = functional.pad(x.flip(1) if view.mirrored else x, margins, mode="replicate")
        return super().forward(shown)[..., rows : rows + x.shape[2], columns : columns + x.shape[3]]
