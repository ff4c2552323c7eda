"""A magnitude image as the search for motion sees it: in the head's box, on voxels as coarse as asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import fft

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.joint import Problem
from BrainDiffLogic.motion.lanes import threads
from BrainDiffLogic.motion.simulation import head_centre, low_resolution
from BrainDiffLogic.scan import Scan, mask_box, seen_through_mask
from BrainDiffLogic.volume import Volume, affine_from

MARGIN_MM = 9.0
"""Air left around the head along the axes that are not phase-encoded."""
TAPER = 0.35
"""Weight of the spectrum at the ends of a cropped band. Uncut ringing is taken for motion: without a taper tremor of
1 mm in pycortex-S1 was found with a correlation of .04 with the truth, with it of .77."""
LEAST_VOXELS = 16
"""Along each axis: a stack that is thinner shows no turning head."""


class MagnitudeScan:
    """A magnitude image as the search sees it.

    volume  its lowest value stands for no signal, wherever the units have their zero; spikes are taken out
    tick    called often; may raise to stop the search
    Where most of the air is exactly empty, the scan was masked after it was made: what motion left outside of the
    mask is not known, and counts for nothing. Raises InputError for a stack too thin to show a turning head.
    """

    def __init__(self, volume: Volume | Scan, tick: Callable[[], None] = lambda: None) -> None:
        scan = Scan.of(volume)
        volume = scan.volume
        if min(volume.shape) < LEAST_VOXELS:
            raise InputError(
                f"{volume.name}: {min(volume.shape)} voxels along an axis; finding motion needs {LEAST_VOXELS} or more"
            )
        self.scale = np.float32(scan.scale.scale)
        self.array = np.ascontiguousarray(scan.uncut(scan.slices - scan.slices.min()))
        self.affine, self.tick = volume.affine, tick
        self.centre = head_centre(self.array, volume.affine)
        self.seen = seen_through_mask(self.array)
        self.head = scan.head
        self.box = mask_box(scan.head, np.ceil(MARGIN_MM / volume.spacing))

    def cut(self, axis: int) -> tuple[slice, ...]:
        """The head's box, whole along the phase-encode axis."""
        return tuple(slice(None) if d == axis else side for d, side in enumerate(self.box))

    def coarse(self, array: np.ndarray, axis: int, spacing: float) -> np.ndarray:
        """An array (I, J, K) on the scan's grid, in the box and on the voxels of a coarse problem."""
        cut = self.cut(axis)
        return low_resolution(array[cut].astype(np.float32), self.affine, axis, spacing)[0]

    def problem(self, axis: int, spacing: float | None = None) -> tuple[Problem, slice]:
        """The scan in its box on voxels of about ``spacing`` mm (None: its own), and which of all lines it shows."""
        cut = self.cut(axis)
        affine = affine_from(self.affine, [side.start or 0 for side in cut])
        image, seen, lines = self.array[cut], None, slice(0, self.array.shape[axis])
        if self.seen is not None:
            seen = self.seen[cut].astype(np.float32)
        if spacing is not None:
            if seen is not None:
                seen = (low_resolution(seen, affine, axis, spacing)[0] > 0.5).astype(np.float32)
            image, affine, lines = low_resolution(image, affine, axis, spacing)
            image = tapered(image)
        image = np.ascontiguousarray(image, dtype=np.float32)
        return Problem(image, affine, axis, self.centre, seen=seen, tick=self.tick), lines


def tapered(image: np.ndarray) -> np.ndarray:
    """The image (I, J, K) float32 with its spectrum falling to ``TAPER`` at the ends of the band."""
    kspace = fft.fftn(image, workers=threads())
    for axis, size in enumerate(image.shape):
        weights = TAPER ** ((2 * fft.fftfreq(size)) ** 2)
        kspace *= weights.reshape([-1 if d == axis else 1 for d in range(3)])
    values: np.ndarray = fft.ifftn(kspace, workers=threads()).real.astype(np.float32)
    return values
