"""How much of the reference's fine structure an image keeps: VIF and HFEN, inside a mask."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.signal.windows import gaussian

VIF_SCALES = 4
VIF_NOISE = 2.0
"""Variance of the visual noise for grey values of 0 to 255 (vifp_mscale.m, the authors' own pixel-domain code)."""
VIF_RANGE = 255.0
VIF_SMALLEST = 1e-10
VIF_PIXELS = 41
"""Rows and columns that the four scales need."""
VIF_SLICES = 16
"""Slices that are measured at once: bounds the memory."""
HFEN_SIGMA, HFEN_RADIUS = 1.5, 7
"""Of the Laplacian of Gaussian, voxels: "a filter of size 15 x 15 with a standard deviation of 1.5 pixels"."""


def visual_information_fidelity(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """VIF of the slices of a stack (slices, rows, columns), data range 1: 1 for the reference itself, higher is better.

    Sheikh and Bovik, IEEE TIP 2006;15:430, in the pixel domain at four scales: the information that the image holds of
    the reference over that which the reference holds, eq. 12. Both are summed over all windows whose middle lies in
    ``mask`` (bool), of all slices, before they are divided. On one slice with a mask of ones this is the authors'
    vifp_mscale.m. NaN where a slice has fewer than 41 rows or columns, or the reference holds nothing.
    """
    if min(reference.shape[1:]) < VIF_PIXELS:
        return float("nan")
    inside = np.flatnonzero(mask.any(axis=(1, 2)))
    kept, total = 0.0, 0.0
    for start in range(0, len(inside), VIF_SLICES):
        chosen = inside[start : start + VIF_SLICES]
        x, y = (VIF_RANGE * stack[chosen].astype(np.float64) for stack in (image, reference))
        some_kept, some_total = _information(x, y, mask[chosen])
        kept, total = kept + some_kept, total + some_total
    return kept / total if total > 0 else float("nan")


def _information(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """What the image holds of the reference, and what the reference holds, summed over scales, slices and windows."""
    kept, total = 0.0, 0.0
    for scale in range(VIF_SCALES):
        size = 2 ** (VIF_SCALES - scale) + 1
        if scale:
            image, reference = (_windowed(stack, size)[:, ::2, ::2] for stack in (image, reference))
            mask = _within(mask, size)[:, ::2, ::2]
        mean_x, mean_y = _windowed(image, size), _windowed(reference, size)
        covariance = _windowed(image * reference, size) - mean_x * mean_y
        variance_x = np.maximum(_windowed(image**2, size) - mean_x**2, 0)
        variance_y = _windowed(reference**2, size) - mean_y**2
        variance_y[variance_y < VIF_SMALLEST] = 0
        related = (covariance > 0) & (variance_x >= VIF_SMALLEST) & (variance_y > 0)
        gain = np.where(related, covariance / (variance_y + VIF_SMALLEST), 0)
        distortion = np.maximum(variance_x - gain * covariance, VIF_SMALLEST)
        counted = _within(mask, size)
        kept += float(np.log10(1 + gain**2 * variance_y / (distortion + VIF_NOISE))[counted].sum())
        total += float(np.log10(1 + variance_y / VIF_NOISE)[counted].sum())
    return kept, total


def _windowed(stack: np.ndarray, size: int) -> np.ndarray:
    """Gaussian means of ``size`` x ``size`` pixels, only where the window lies within the slice."""
    weights = gaussian(size, size / 5)
    weights /= weights.sum()
    for axis in (1, 2):
        stack = ndimage.correlate1d(stack, weights, axis=axis)
    return _within(stack, size)


def _within(stack: np.ndarray, size: int) -> np.ndarray:
    edge = size // 2
    return stack[:, edge:-edge, edge:-edge]


def high_frequency_error(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """HFEN of arrays of any dimension: the norm of the error after a Laplacian of Gaussian over that of the reference.

    Ravishankar and Bresler, IEEE TMI 2011;30:1028: sigma 1.5 pixels, 15 x 15. Here in all dimensions of the arrays, in
    ``mask`` (bool), and relative to the reference. 0 for the reference itself, lower is better; NaN without edges.
    """
    error = _laplacian(image.astype(np.float32) - reference.astype(np.float32))[mask]
    edges = _laplacian(reference.astype(np.float32))[mask]
    norm = float(np.sqrt(np.square(edges, dtype=np.float64).sum()))
    return float(np.sqrt(np.square(error, dtype=np.float64).sum())) / norm if norm > 0 else float("nan")


def _laplacian(array: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_laplace(array, HFEN_SIGMA, radius=HFEN_RADIUS)
