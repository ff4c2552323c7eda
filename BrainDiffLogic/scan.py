"""A volume as every corrector sees it: its head, its intensity scale and its slices, each found once."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage
from skimage.filters import threshold_otsu

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.volume import Volume, from_sagittal, ras_axes, to_sagittal, voxels

HEAD_PERCENTILE = 99.0
"""This percentile of the voxels inside the head becomes 1: above white matter, below vessels and fat."""
FLOOR_PERCENTILE = 0.5
"""This percentile of the whole volume becomes 0: air in a magnitude image."""
MASKED_SHARE = 0.3
"""Share of voxels of exactly the lowest value from which an image counts as masked."""
SPIKE = 4.0
"""Network units from which a voxel is a spike, not tissue: vessels and fat of whole heads reach 3, few 4.7."""
GHOST_MARGIN = 0.5
"""The head threshold as a share of Otsu's: low enough for CSF at the edge, above the ghosts in the air."""


@dataclass(frozen=True)
class RobustScale:
    """``scaled = (value - offset) / scale``; nothing is clipped."""

    offset: float
    scale: float

    def forward(self, array: np.ndarray) -> np.ndarray:
        """Input units to the network's units, float32."""
        return (array.astype(np.float32) - np.float32(self.offset)) / np.float32(self.scale)


def robust_scale(array: np.ndarray, mask: np.ndarray | None = None) -> RobustScale:
    """The scale of a volume (I, J, K): its floor to 0, the 99th percentile inside the head to 1.

    One scale for all slices, so that a slice keeps its brightness relative to its neighbours; percentiles, so that a
    bright vessel does not set it. ``mask`` is the head (default: ``head_mask``). Any affine change of units
    a * array + b with a > 0 gives the same scaled image.
    """
    mask = head_mask(array) if mask is None else mask
    inside = voxels(array, mask if mask.any() else None)
    floor = float(np.percentile(voxels(array), FLOOR_PERCENTILE))
    top = float(np.percentile(inside, HEAD_PERCENTILE))
    if top <= floor:
        top = float(array.max())
    return RobustScale(offset=floor, scale=top - floor if top > floor else 1.0)


def head_mask(array: np.ndarray) -> np.ndarray:
    """(I, J, K) bool: the head (or the brain of a stripped image), filled, without the ghosts in the air around it.

    Otsu's threshold on a smoothed copy of half the resolution, lowered, largest connected component, holes filled
    along each axis.
    """
    steps = tuple(2 if size >= 32 else 1 for size in array.shape)
    coarse = block_means(array.astype(np.float32), steps)
    low, high = np.percentile(coarse, [FLOOR_PERCENTILE, 99.5])
    smooth = ndimage.gaussian_filter(np.clip(coarse, low, max(high, low)), 1.0) - low
    if smooth.max() <= 0:
        return np.ones(array.shape, dtype=bool)
    mask = smooth > GHOST_MARGIN * threshold_otsu(smooth.ravel())
    mask = _largest(_close_and_fill(_largest(ndimage.binary_opening(mask)) if min(mask.shape) > 4 else mask))
    for axis, step in enumerate(steps):
        mask = np.repeat(mask, step, axis=axis)
    mask = np.pad(mask, [(0, max(0, n - m)) for n, m in zip(array.shape, mask.shape, strict=True)], mode="edge")
    return mask[tuple(slice(n) for n in array.shape)]


def without_spikes(scaled: np.ndarray) -> np.ndarray:
    """An image in network units with its nearest neighbour's value in each voxel beyond ``SPIKE``, of either sign.

    A network that meets a value which it has never seen answers wrongly in the whole slice.
    """
    spikes = np.abs(scaled) > SPIKE
    if not spikes.any() or spikes.all():
        return scaled
    box = mask_box(spikes, 1)
    nearest = ndimage.distance_transform_edt(spikes[box], return_distances=False, return_indices=True)
    clean = scaled.copy()
    clean[box] = scaled[box][tuple(nearest)]
    return clean


def seen_through_mask(array: np.ndarray) -> np.ndarray | None:
    """(I, J, K) bool: where an image was seen that was masked after it was made; None for one that was not.

    Masked is an image of which ``MASKED_SHARE`` and more has exactly its lowest value: a scanner's air is noise. What
    motion put outside of the mask is lost.
    """
    empty = array == array.min()
    if empty.mean() < MASKED_SHARE:
        return None
    closed = ndimage.binary_closing(~empty, iterations=2) | ~empty
    filled: np.ndarray = ndimage.binary_fill_holes(closed)
    return filled


def block_means(array: np.ndarray, steps: ArrayLike) -> np.ndarray:
    """Means of blocks of voxels; what does not fill a block, at the ends, is left out."""
    kept = np.maximum(1, np.array(array.shape) // steps)
    steps = np.minimum(steps, array.shape)
    trimmed = array[tuple(slice(n * step) for n, step in zip(kept, steps, strict=True))]
    shape = [n for pair in zip(kept, steps, strict=True) for n in pair]
    return trimmed.reshape(shape).mean(axis=(1, 3, 5))


def _largest(mask: np.ndarray) -> np.ndarray:
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def _close_and_fill(mask: np.ndarray) -> np.ndarray:
    """Close gaps of a few voxels, then fill what is enclosed in 3D or within a slice of any of the three planes."""
    padded = np.pad(mask, 4)
    mask = ndimage.binary_closing(padded, iterations=3)[4:-4, 4:-4, 4:-4] | mask
    mask = ndimage.binary_fill_holes(mask)
    plane = np.zeros((3, 3, 3), dtype=bool)
    for axis in range(3):
        cross = plane.copy()
        cross[1, 1, 1] = True
        for other in {0, 1, 2} - {axis}:
            index = [1, 1, 1]
            for shift in (0, 2):
                index[other] = shift
                cross[tuple(index)] = True
        mask = ndimage.binary_fill_holes(mask, structure=cross)
    return mask


BRAIN_VOLUME_ML = 2200.0
"""A foreground smaller than this is a stripped brain (brains: 1.0-2.0 l); whole heads hold 3 l and more."""
SCALP_AND_SKULL_MM = 22.0
"""Depth from the skin at which the inner head begins: scalp, skull and the fluid below them."""
STRIPPED_EDGE_MM = 2.0
"""Depth at which a stripped brain begins: its outermost voxels are partial volume."""
VERTEX_TO_STEM_MM = 115.0
"""How far below the crown the inner head goes: deeper lie face and neck."""


def inner_head_mask(volume: Volume, head: np.ndarray) -> np.ndarray:
    """(I, J, K) bool: the inside of a volume's head (I, J, K) bool, of which ``Scan.inner`` keeps one.

    Of a whole head: deeper than 22 mm below the skin and within 115 mm below the crown, so mostly brain, with
    some of the skull base. Of a stripped brain: all but its outer 2 mm. Raises InputError where nothing is
    left.
    """
    stripped = np.count_nonzero(head) * abs(np.linalg.det(volume.affine[:3, :3])) / 1000 < BRAIN_VOLUME_ML
    box = mask_box(head, step=2)
    inner = np.zeros_like(head)
    part = inner[box]
    part[:] = _deeper(head[box], STRIPPED_EDGE_MM if stripped else SCALP_AND_SKULL_MM, volume.spacing)
    if not stripped:
        _cut_below(inner, head, volume)
    if not part.any():
        raise InputError(f"{volume.name}: nothing is left deep inside the head; pass tissue masks")
    part = part[mask_box(part)]  # labels are dear
    part[:] = _largest(part)
    return inner


def mask_box(mask: np.ndarray, margin: ArrayLike = 0, step: int = 1) -> tuple[slice, ...]:
    """Where a mask is not empty, begun at multiples of ``step``; everything where it is empty.

    margin  voxels, of all axes or of each, by which the box is wider, as far as there are any
    """
    sides, wider = [], np.broadcast_to(margin, mask.ndim)
    for axis, size in enumerate(mask.shape):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        first, end = (int(hit[0]) - int(hit[0]) % step, int(hit[-1]) + 1) if hit.size else (0, size)
        sides.append(slice(max(0, first - int(wider[axis])), min(size, end + int(wider[axis]))))
    return tuple(sides)


def _deeper(head: np.ndarray, millimetres: float, spacing: np.ndarray) -> np.ndarray:
    """What of a head lies deeper below its surface, to every other voxel."""
    steps = tuple(2 if size >= 32 else 1 for size in head.shape)
    coarse = np.pad(head[:: steps[0], :: steps[1], :: steps[2]], 1)
    depth = ndimage.distance_transform_edt(coarse, sampling=spacing * steps)[1:-1, 1:-1, 1:-1]
    deep = depth > millimetres
    for axis, step in enumerate(steps):
        deep = np.repeat(deep, step, axis=axis)
    return deep[tuple(slice(size) for size in head.shape)] & head


def _cut_below(inner: np.ndarray, head: np.ndarray, volume: Volume) -> None:
    axes, signs = ras_axes(volume.affine)
    axis, sign = int(axes[2]), int(signs[2])
    occupied = np.flatnonzero(head.any(axis=tuple(a for a in range(3) if a != axis)))
    reach = round(VERTEX_TO_STEM_MM / float(volume.spacing[axis]))
    below = slice(None, max(0, occupied[-1] - reach)) if sign > 0 else slice(occupied[0] + reach, None)
    inner[tuple(below if a == axis else slice(None) for a in range(3))] = False


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

    def look(self) -> None:
        """Find what every correction asks for, so that it is there."""
        _ = self.slices
        with suppress(InputError):  # for who asks for it
            _ = self.inner

    def forget_slices(self) -> None:
        """Free the memory of what is made again when it is asked for."""
        for name in ("slices", "head_slices"):
            vars(self).pop(name, None)

    @cached_property
    def head(self) -> np.ndarray:
        """(I, J, K) bool: ``head_mask``, in memory as the volume is."""
        head = np.empty_like(self.volume.array, dtype=bool)
        head[...] = head_mask(self.volume.array)
        return head

    @cached_property
    def inner(self) -> np.ndarray:
        """(I, J, K) bool: ``inner_head_mask``. Raises InputError where nothing lies so deep."""
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
        return np.multiply(self.uncut(residual), np.float32(self.scale.scale), out=ordered)
