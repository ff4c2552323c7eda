"""Denoisers as rows of the table: what a corrector must beat, and how much a mere blur wins."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage
from skimage.restoration import denoise_nl_means

GAUSSIAN_SIGMA = 0.6
"""Pixels."""
MEDIAN_SIZE = 3
NLM_PATCH, NLM_DISTANCE, NLM_STRENGTH = 3, 2, 0.8
"""Pixels, pixels, and the filter's h in standard deviations of the noise."""


def gaussian(image: np.ndarray) -> np.ndarray:
    """A slice (rows, columns), blurred."""
    return ndimage.gaussian_filter(image, GAUSSIAN_SIGMA)


def median(image: np.ndarray) -> np.ndarray:
    """The median of each 3 x 3 pixels."""
    return ndimage.median_filter(image, MEDIAN_SIZE)


def non_local_means(image: np.ndarray) -> np.ndarray:
    """Non-local means (Buades 2005) at the noise found in the slice.

    scikit-image's fast mode compares patches of 2 x 2 for 3 x 3, half a pixel off their middle: not mirror-symmetric.
    """
    sigma = noise_of(image)
    if sigma == 0:
        return image
    return denoise_nl_means(
        image, patch_size=NLM_PATCH, patch_distance=NLM_DISTANCE, h=NLM_STRENGTH * sigma, sigma=sigma, fast_mode=True
    ).astype(np.float32)


def noise_of(image: np.ndarray) -> float:
    """Standard deviation of the noise: MAD of the diagonal Haar differences that are not 0 (Donoho, 1994)."""
    blocks = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
    diagonal = (blocks[::2, ::2] - blocks[1::2, ::2] - blocks[::2, 1::2] + blocks[1::2, 1::2]) / 2
    details = diagonal[diagonal != 0]
    return float(np.median(np.abs(details)) / 0.6745) if details.size else 0.0


DENOISERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Gaussian": gaussian, "median": median, "non-local means": non_local_means,
}  # fmt: skip
