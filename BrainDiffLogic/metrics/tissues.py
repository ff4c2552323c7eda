"""Fluid, grey and white matter of a T1-weighted image, good enough for the statistics of an image-quality
metric."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_multiotsu

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.scan import Scan
from BrainDiffLogic.volume import Volume, ras_axes

BRAIN_VOLUME_ML = 2200.0
"""A foreground smaller than this is a stripped brain (brains: 1.0-2.0 l); whole heads hold 3 l and more."""
SCALP_AND_SKULL_MM = 22.0
"""Depth from the skin at which the inner head begins: scalp, skull and the fluid below them."""
STRIPPED_EDGE_MM = 2.0
"""Depth at which a stripped brain begins: its outermost voxels are partial volume."""
VERTEX_TO_STEM_MM = 115.0
"""How far below the crown the inner head goes: deeper lie face and neck."""
PURE = 0.85
"""Posterior above which a voxel belongs to a tissue (MRIQC's summary_stats, same number on FAST's partial
volumes)."""
TOO_FEW = 100
"""Voxels of a tissue below which its statistics mean nothing (MRIQC warns below 1,000)."""
BINS = 256


@dataclass(frozen=True)
class Tissues:
    """Three disjoint boolean masks (I, J, K), named by the order of T1 contrast: csf darkest, wm
    brightest."""

    csf: np.ndarray
    gm: np.ndarray
    wm: np.ndarray


def inner_head_mask(scan: Volume | Scan) -> np.ndarray:
    """(I, J, K) bool: what lies deep inside the head, as a stand-in for a brain mask. Not a brain extraction.

    Of a whole head: deeper than 22 mm below the skin and within 115 mm below the crown, so mostly brain, with
    some of the skull base. Of a stripped brain: all but its outer 2 mm. Raises InputError where nothing is
    left.
    """
    scan = Scan.of(scan)
    volume, head = scan.volume, scan.head
    steps = tuple(2 if size >= 32 else 1 for size in head.shape)
    coarse = np.pad(head[:: steps[0], :: steps[1], :: steps[2]], 1)
    depth = ndimage.distance_transform_edt(coarse, sampling=volume.spacing * steps)[1:-1, 1:-1, 1:-1]
    stripped = head.sum() * abs(np.linalg.det(volume.affine[:3, :3])) / 1000 < BRAIN_VOLUME_ML
    inner = depth > (STRIPPED_EDGE_MM if stripped else SCALP_AND_SKULL_MM)
    for axis, step in enumerate(steps):
        inner = np.repeat(inner, step, axis=axis)
    inner = inner[tuple(slice(size) for size in head.shape)] & head
    if not stripped:
        _cut_below(inner, head, volume)
    labels, count = ndimage.label(inner)
    if count == 0:
        raise InputError(f"{volume.name}: nothing is left deep inside the head; pass tissue masks")
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def _cut_below(inner: np.ndarray, head: np.ndarray, volume: Volume) -> None:
    axes, signs = ras_axes(volume.affine)
    axis, sign = int(axes[2]), int(signs[2])
    occupied = np.flatnonzero(head.any(axis=tuple(a for a in range(3) if a != axis)))
    reach = round(VERTEX_TO_STEM_MM / float(volume.spacing[axis]))
    below = slice(None, max(0, occupied[-1] - reach)) if sign > 0 else slice(occupied[0] + reach, None)
    inner[tuple(below if a == axis else slice(None) for a in range(3))] = False


def tissue_masks(array: np.ndarray, brain: np.ndarray) -> Tissues:
    """Voxels of ``array`` (I, J, K) inside ``brain`` that are clearly csf, gm or wm.

    Multi-Otsu splits the intensities in three; a voxel belongs to a class if its posterior under Gaussians of
    equal weight and the pooled variance about the class means exceeds 0.85, and each mask is then eroded by
    one voxel (18 neighbours) where that leaves enough, as MRIQC does with the partial volumes of FSL FAST.
    A strong bias field should be removed first.

    Raises InputError where the voxels inside the brain hold no three classes.
    """
    inside = array[brain].astype(np.float64)
    low, high = np.percentile(inside, [0.5, 99.5]) if inside.size else (0.0, 0.0)
    if high <= low:
        raise InputError("no tissue contrast inside the brain mask: check that the mask covers the brain")
    values = inside[(inside >= low) & (inside <= high)]  # vessels and fat are brighter than white matter
    try:
        labels = np.digitize(values, threshold_multiotsu(values, classes=3, nbins=BINS))
    except ValueError as error:
        raise InputError("the brain mask holds fewer than three intensities: check image and mask") from error
    means = np.array([values[labels == label].mean() for label in range(3)])
    variance = float(np.mean((values - means[labels]) ** 2))
    log = -0.5 * (inside - means[:, None]) ** 2 / max(variance, 1e-12 * (high - low) ** 2)
    posterior = np.exp(log - log.max(axis=0))
    pure = np.zeros((3, *brain.shape), dtype=bool)
    pure[:, brain] = (posterior > PURE * posterior.sum(axis=0)) & (inside <= high)
    return Tissues(*(_core(mask) for mask in pure))


def _core(mask: np.ndarray) -> np.ndarray:
    eroded = ndimage.binary_erosion(mask, structure=ndimage.generate_binary_structure(3, 2))
    return eroded if np.count_nonzero(eroded) >= TOO_FEW else mask
