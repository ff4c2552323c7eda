"""Fluid, grey and white matter of a T1-weighted image, good enough for the statistics of an image-quality metric."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_multiotsu

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.intensity import mask_box

PURE = 0.85
"""Posterior above which a voxel belongs to a tissue (MRIQC's summary_stats, same number on FAST's partial volumes)."""
TOO_FEW = 100
"""Voxels of a tissue below which its statistics mean nothing (MRIQC warns below 1,000)."""
BINS = 256


@dataclass(frozen=True)
class Tissues:
    """Three disjoint boolean masks (I, J, K), named by the order of T1 contrast: csf darkest, wm brightest."""

    csf: np.ndarray
    gm: np.ndarray
    wm: np.ndarray


def tissue_masks(array: np.ndarray, brain: np.ndarray) -> Tissues:
    """Voxels of ``array`` (I, J, K) inside ``brain`` that are clearly csf, gm or wm.

    Multi-Otsu splits the intensities in three; a voxel belongs to a class if its posterior under Gaussians of
    equal weight and the pooled variance about the class means exceeds 0.85, and each mask is then eroded by
    one voxel (18 neighbours) where that leaves enough, as MRIQC does with the partial volumes of FSL FAST.
    A strong bias field should be removed first.

    Raises InputError where the voxels inside the brain hold no three classes.
    """
    box = mask_box(brain)
    part = np.ascontiguousarray(brain[box])
    inside = np.ascontiguousarray(array[box])[part].astype(np.float64)
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
    pure = (posterior > PURE * posterior.sum(axis=0)) & (inside <= high)
    masks = [np.zeros_like(brain) for _ in pure]
    for mask, chosen in zip(masks, pure, strict=True):
        mask[box] = _core(part, chosen)
    return Tissues(*masks)


def _core(brain: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(i, j, k) bool: the chosen voxels (n,) of a brain, without their outermost layer."""
    mask = np.zeros_like(brain)
    mask[brain] = chosen
    eroded = ndimage.binary_erosion(np.pad(mask, 1), structure=ndimage.generate_binary_structure(3, 2))
    return eroded[1:-1, 1:-1, 1:-1] if np.count_nonzero(eroded) >= TOO_FEW else mask
