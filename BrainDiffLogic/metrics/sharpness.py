"""How sharp an image is: the guard beside SSIM and PSNR, both of which a blur can raise."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.feature import canny

SOBEL_3D = 32.0
"""Sum of the positive weights of a 3D Sobel kernel times its step of 2 voxels: makes it a derivative per
voxel."""
SOBEL_2D = 8.0
CANNY_SIGMA = 1.0
"""Voxels; smaller takes noise for edges, larger loses the cortex."""


def gradient_energy(array: np.ndarray) -> np.ndarray:
    """Squared magnitude of the Sobel gradient per voxel step, float32, shape and units^2 of ``array``."""
    energy = np.zeros(array.shape, dtype=np.float32)
    for axis in range(array.ndim):
        slope = ndimage.sobel(array, axis=axis, output=np.float32)
        slope /= SOBEL_3D if array.ndim == 3 else SOBEL_2D
        energy += slope * slope
    return energy


def tenengrad(array: np.ndarray, mask: np.ndarray) -> float:
    """Mean squared Sobel gradient in ``mask`` (Tenenbaum's criterion, per voxel): falls with blur, rises with
    noise."""
    return float(gradient_energy(array)[mask].mean(dtype=np.float64))


def gradient_entropy(array: np.ndarray, mask: np.ndarray) -> float:
    """Entropy in bits of the gradient magnitudes in ``mask`` as shares of their sum (McGee et al., JMRI
    2000).

    Lower where few strong edges carry the gradient. Depends on the number of voxels: compare on one mask
    only.
    """
    magnitude = np.sqrt(gradient_energy(array)[mask], dtype=np.float64)
    total = magnitude.sum()
    if total == 0:
        return float("nan")
    share = magnitude[magnitude > 0] / total
    return float(-(share * np.log2(share)).sum())


def average_edge_strength(stack: np.ndarray, mask: np.ndarray) -> float:
    """Mean in-plane gradient magnitude at the Canny edges of the slices (slices, rows, columns) inside
    ``mask``.

    The published measure divides the root of the summed squares by the number of edge voxels, and so falls
    when ghosts add edges of the same strength; the plain mean does not. NaN where no slice has an edge.
    """
    total, count = 0.0, 0
    for image, inside in zip(stack, mask, strict=True):
        if not inside.any() or min(image.shape) < 3:
            continue
        edges = canny(image.astype(np.float32), sigma=CANNY_SIGMA) & inside
        total += float(np.sqrt(gradient_energy(image)[edges]).sum(dtype=np.float64))
        count += int(np.count_nonzero(edges))
    return total / count if count else float("nan")
