"""Test-time augmentation: the mean of a corrector's answers to the same slices, seen otherwise."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from BrainDiffLogic.networks.corrector import Corrector
from BrainDiffLogic.views import View


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

    def forward(self, x: Tensor) -> Tensor:
        """Mean residual (N, 1, H, W) of the centre slice of x (N, context, H, W); as long as all views take."""
        total = self._seen(x, self.views[0])
        for view in self.views[1:]:
            total = total + self._seen(x, view)
        return total / len(self.views)

    def _seen(self, x: Tensor, view: View) -> Tensor:
        rows, columns = view.shift
        margins = (columns, -columns % self.multiple, rows, -rows % self.multiple)
        shown = functional.pad(x.flip(1) if view.mirrored else x, margins, mode="replicate")
        return super().forward(shown)[..., rows : rows + x.shape[2], columns : columns + x.shape[3]]
