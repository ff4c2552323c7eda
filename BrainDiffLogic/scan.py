"""A volume as every corrector sees it: its head, its intensity scale and its slices, each found once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from BrainDiffLogic.intensity import RobustScale, head_mask, inner_head_mask, robust_scale, without_spikes
from BrainDiffLogic.volume import Volume, from_sagittal, ras_axes, to_sagittal

PLANES = {"sagittal": (0, 1, 2), "axial": (2, 1, 0), "coronal": (1, 0, 2)}
"""Which of the patient axes left-right, anterior-posterior, superior-inferior the slices, rows and columns of a stack
run along."""
FEW_SLICES = 16
THICK_SLICES = 3.0
"""A stack of fewer slices, or of slices so many times as thick as its pixels are wide, is one of 2D slices: cut across
them, a head is a few lines."""


@dataclass(frozen=True)
class Scan:
    """A magnitude volume, and what is found in it when it is first asked for.

    Made once for a correction; the motion gate, the correctors, the disagreement map and the quality take it from
    there, so that all of them speak of the same head and scale.
    """

    volume: Volume

    @classmethod
    def of(cls, volume: Volume | Scan) -> Scan:
        """The scan of a volume; a scan is returned as it is."""
        return volume if isinstance(volume, Scan) else cls(volume)

    def same_head(self, array: np.ndarray) -> Scan:
        """Another image (I, J, K) of the same head, which is not looked for again."""
        other = Scan(self.volume.with_array(array))
        other.__dict__.update({name: vars(self)[name] for name in ("head", "inner") if name in vars(self)})
        return other

    @cached_property
    def head(self) -> np.ndarray:
        """(I, J, K) bool: ``intensity.head_mask``, in memory as the volume is."""
        head = np.empty_like(self.volume.array, dtype=bool)
        head[...] = head_mask(self.volume.array)
        return head

    @cached_property
    def inner(self) -> np.ndarray:
        """(I, J, K) bool: ``intensity.inner_head_mask``. Raises InputError where nothing lies so deep."""
        return inner_head_mask(self.volume, self.head)

    @cached_property
    def scale(self) -> RobustScale:
        """The volume's floor to 0, the 99th percentile of its head to 1: network units."""
        return robust_scale(self.volume.array, self.head)

    @cached_property
    def plane(self) -> str:
        """ "sagittal"; of a stack of few or thick axial or coronal slices their own plane."""
        axes, _ = ras_axes(self.volume.affine)
        spacing, shape = self.volume.spacing[axes], np.array(self.volume.shape)[axes]
        for plane in ("axial", "coronal"):
            across, *within = PLANES[plane]
            if shape[across] < min(FEW_SLICES, *shape[within]):
                return plane
            if spacing[across] >= THICK_SLICES * spacing[within].max():
                return plane
        return "sagittal"

    @cached_property
    def slices(self) -> np.ndarray:
        """(slices, rows, columns) float32 in network units, spikes taken out, along ``plane``, nothing resampled."""
        return without_spikes(self.scale.forward(np.ascontiguousarray(self.cut(self.volume.array))))

    @cached_property
    def head_slices(self) -> np.ndarray:
        """(slices, rows, columns) bool: ``head`` as ``slices``."""
        return np.ascontiguousarray(self.cut(self.head))

    @property
    def slice_spacing(self) -> np.ndarray:
        """(3,) mm between slices, rows and columns."""
        spacing: np.ndarray = self.volume.spacing[ras_axes(self.volume.affine)[0]][list(PLANES[self.plane])]
        return spacing

    def cut(self, array: np.ndarray) -> np.ndarray:
        """An array (I, J, K) on the volume's grid as a stack of slices along ``plane``, a view."""
        return to_sagittal(self.volume.with_array(array, kind="difference")).transpose(PLANES[self.plane])

    def uncut(self, stack: np.ndarray) -> np.ndarray:
        """The exact inverse of ``cut``: (slices, rows, columns) to (I, J, K)."""
        return from_sagittal(stack.transpose(np.argsort(PLANES[self.plane])), self.volume)

    def in_its_units(self, residual: np.ndarray) -> np.ndarray:
        """A difference (slices, rows, columns) in network units as (I, J, K) float32 in the volume's units."""
        ordered = np.empty_like(self.volume.array, dtype=np.float32)  # in memory as the volume is: sums take a fifth
        ordered[...] = self.uncut(residual)
        return self.scale.residual_to_input_units(ordered)
