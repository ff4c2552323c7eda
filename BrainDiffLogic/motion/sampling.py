"""What of k-space a scanner samples, and how well it fills in the rest: partial Fourier and parallel imaging."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from BrainDiffLogic.errors import InputError

REDUCTIONS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Sampling:
    """How the phase-encode lines of a scan are sampled, beside that the head moves.

    partial_fourier    share of the lines that is acquired, above 0.5 to 1; the rest, all on one side, stays zero
    late               the lines that stay zero are the last ones along the array axis, not the first ones
    reduction          of parallel imaging: outside the calibration lines every ``reduction``-th line is acquired
    calibration_lines  central lines that are all acquired
    fill_error         (I, J, K) complex, smooth: the relative error, over the image, of the lines that were filled in,
                       as when the head moved between them and the calibration (default: none). What is left is a
                       faint image displaced by the field of view / ``reduction``, like the residual aliasing of GRAPPA
    Raises InputError for a share or a reduction that no scanner uses.
    """

    partial_fourier: float = 1.0
    late: bool = True
    reduction: int = 1
    calibration_lines: int = 24
    fill_error: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not 0.5 < self.partial_fourier <= 1:
            raise InputError(f"partial Fourier of {self.partial_fourier} is none; give more than 0.5, at most 1")
        if self.reduction not in REDUCTIONS:
            raise InputError(f"reduction {self.reduction} is not simulated; give one of {REDUCTIONS}")

    @property
    def whole(self) -> bool:
        """Whether every line is acquired."""
        return self.partial_fourier == 1

    def acquired(self, kspace: np.ndarray, axis: int) -> np.ndarray:
        """(I, J, K) k-space in numpy's conventions, zero where partial Fourier along ``axis`` leaves lines out."""
        if self.whole:
            return kspace
        frequency = fft.fftfreq(kspace.shape[axis])
        kept = (frequency if self.late else -frequency) <= self.partial_fourier - 0.5
        return kspace * _along(kept, axis)

    def image_of(self, kspace: np.ndarray, axis: int) -> np.ndarray:
        """(I, J, K) complex image of ``acquired`` k-space, with the errors of the lines that were filled in."""
        image: np.ndarray = fft.ifftn(kspace, workers=-1)
        if self.fill_error is None or self.reduction == 1:
            return image
        lines = np.round(kspace.shape[axis] * fft.fftfreq(kspace.shape[axis])).astype(int)
        filled = (lines % self.reduction != 0) & (np.abs(lines + 0.5) > self.calibration_lines / 2)
        wrong = self.fill_error * fft.ifftn(kspace * _along(filled, axis), workers=-1)
        return image + wrong.astype(image.dtype)


EVERY_LINE = Sampling()


def _along(lines: np.ndarray, axis: int) -> np.ndarray:
    """A value for each line, shaped to multiply (I, J, K)."""
    return lines.astype(np.float32).reshape([-1 if d == axis else 1 for d in range(3)])
