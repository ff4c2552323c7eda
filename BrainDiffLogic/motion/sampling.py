"""What of k-space a scanner samples, and how well it fills in the rest: partial Fourier and parallel imaging."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.kspace import image_of

REDUCTIONS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Sampling:
    """How the phase-encode lines of a scan are sampled, beside that the head moves.

    partial_fourier    share of the lines that is acquired, above 0.5 to 1; the rest, all on one side, stays zero
    late               the lines that stay zero are the last ones along the array axis, not the first ones
    reduction          of parallel imaging: outside the calibration lines every ``reduction``-th line is acquired. With
                       several coils the others are filled in from these (``motion.grappa``)
    calibration_lines  central lines that are all acquired; of an even number the odd one lies before the middle
    fill_error         for one coil, in place of that. (I, J, K) complex, smooth: the relative error, over the image, of
                       the lines that were filled in, as when the head moved between them and the calibration
                       (default: none). What is left is a faint image displaced by the field of view / ``reduction``,
                       like the residual aliasing of GRAPPA
    Raises InputError for a share or a reduction that no scanner uses, and for a fill_error without a reduction.
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
        if self.calibration_lines < 0:
            raise InputError(f"{self.calibration_lines} calibration lines cannot be; give 0 or more")
        if self.fill_error is not None and self.reduction == 1:
            raise InputError("fill_error: without a reduction no line is filled in; give one of 2 to 4, or no error")

    @property
    def full_fourier(self) -> bool:
        """Whether partial Fourier leaves no line out."""
        return self.partial_fourier == 1

    def keeps(self, lines: int) -> np.ndarray:
        """(lines,) bool: whether partial Fourier acquires each line, in the order of the array axis of k-space."""
        place = (np.arange(lines) - lines // 2) / lines
        kept: np.ndarray = (place if self.late else -place) <= self.partial_fourier - 0.5
        return kept

    def calibrates(self, lines: int) -> np.ndarray:
        """(lines,) bool: whether each line is one of the calibration lines, in the order of the array axis."""
        first = lines // 2 - self.calibration_lines // 2
        place = np.arange(lines)
        central: np.ndarray = (place >= first) & (place < first + self.calibration_lines)
        return central

    def skipped(self, lines: int) -> np.ndarray:
        """(lines,) bool: whether parallel imaging leaves out each line, in the order of the array axis of k-space."""
        between: np.ndarray = (np.arange(lines) - lines // 2) % self.reduction != 0
        return between & ~self.calibrates(lines)

    def acquired(self, kspace: np.ndarray, axis: int) -> np.ndarray:
        """(I, J, K) k-space in numpy's conventions, zero where partial Fourier along ``axis`` leaves lines out."""
        return kspace if self.full_fourier else kspace * line_weights(self.keeps(kspace.shape[axis]), axis)

    def reconstructed(self, kspace: np.ndarray, axis: int) -> np.ndarray:
        """(I, J, K) complex image of ``acquired`` k-space, with the errors of the lines that were filled in."""
        image = image_of(kspace)
        if self.fill_error is None:
            return image
        if self.fill_error.shape != image.shape:
            raise InputError(f"fill_error: of shape {self.fill_error.shape}; give one value a voxel, {image.shape}")
        wrong = self.fill_error * image_of(kspace * line_weights(self.skipped(image.shape[axis]), axis))
        return image + wrong.astype(image.dtype)


EVERY_LINE = Sampling()


def line_weights(lines: np.ndarray, axis: int) -> np.ndarray:
    """A value for each line, in the order of the array axis, shaped to multiply (I, J, K) in numpy's order."""
    return fft.ifftshift(lines.astype(np.float32)).reshape([-1 if d == axis else 1 for d in range(3)])
