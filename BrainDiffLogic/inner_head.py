"""What lies deep inside a head, as a stand-in for a brain mask. Not a brain extraction."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.volume import Volume, ras_axes

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
    box = mask_box(head, 2)
    inner = np.zeros(head.shape, dtype=bool)
    part = inner[box]
    part[:] = _deeper(head[box], STRIPPED_EDGE_MM if stripped else SCALP_AND_SKULL_MM, volume.spacing)
    if not stripped:
        _cut_below(inner, head, volume)
    labels, count = ndimage.label(part)
    if count == 0:
        raise InputError(f"{volume.name}: nothing is left deep inside the head; pass tissue masks")
    if count > 1:
        part &= labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    return inner


def mask_box(mask: np.ndarray, step: int = 1) -> tuple[slice, ...]:
    """Where a mask is not empty, begun at multiples of ``step``; everything where it is empty."""
    sides = []
    for axis, size in enumerate(mask.shape):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        sides.append(slice(int(hit[0]) - int(hit[0]) % step, int(hit[-1]) + 1) if hit.size else slice(0, size))
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
