"""How far an injected slice has drifted from the anatomy of its clean one.

An artifact lives in fine detail and in ghosts; another brain differs in its coarse shape. Both images are therefore
looked at through a low-pass: structural similarity inside the head, and the Dice overlap of the head's outline.

Measured on sagittal slices of heads of ds000011 (pixels of 1.33 mm). Lowest similarity and overlap of 45 slices with
steps, tremor and drift in 3D, by mean displacement; then the highest of 216 pairs of slices of two heads:

    identical 1, 1    1 mm .995, .982    3 mm .975, .937    6 mm .919, .898    another head .752, .948
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from BrainDiffLogic.metrics.quality import SSIM_K1, SSIM_K2

LOW_PASS_MM = 5.0
"""Standard deviation of the Gaussian low-pass, and of the window that SSIM is taken in afterwards. At half of it 6 mm
of tremor come down to .75, towards another head."""
OUTLINE_SHARE = 0.5
"""The head is what lies above this share of Otsu's threshold of the clean slice, low-passed."""
MIN_SIMILARITY, MIN_OVERLAP = 0.85, 0.85
"""An injected slice below one of these is rejected. Similarity tells heads apart: the limit lies between 6 mm of motion
and another head. The outline does not (ghosts move it as much), so that its limit only catches what has lost it."""


@dataclass(frozen=True)
class Drift:
    """Low-pass SSIM in the head, -1 to 1, and Dice of the head's outline, 0 to 1; both 1 for the same slice."""

    similarity: float
    overlap: float

    @property
    def accepted(self) -> bool:
        """Whether this is still the same head, by ``MIN_SIMILARITY`` and ``MIN_OVERLAP``."""
        return self.similarity >= MIN_SIMILARITY and self.overlap >= MIN_OVERLAP


def anatomy_drift(injected: np.ndarray, clean: np.ndarray, spacing_mm: float | None = None) -> Drift:
    """The drift of one slice (rows, columns) from its clean one, both in network units.

    ``spacing_mm`` is the size of the square pixels (None: taken as 1 mm).
    """
    sigma = LOW_PASS_MM / (spacing_mm or 1.0)
    coarse_injected, coarse_clean = (
        ndimage.gaussian_filter(image.astype(np.float32), sigma) for image in (injected, clean)
    )
    level = OUTLINE_SHARE * threshold_otsu(coarse_clean) if np.ptp(coarse_clean) > 0 else 0.0
    outlines = [ndimage.binary_fill_holes(image > level) for image in (coarse_injected, coarse_clean)]
    inside = outlines[1] if outlines[1].any() else np.ones(clean.shape, dtype=bool)
    similarity = _similarity(coarse_injected, coarse_clean, sigma)
    return Drift(float(similarity[inside].mean(dtype=np.float64)), _dice(*outlines))


def _similarity(x: np.ndarray, y: np.ndarray, sigma: float) -> np.ndarray:
    """SSIM at each pixel (Wang et al. 2004) for data range 1 in a Gaussian window of ``sigma`` pixels."""
    mean_x, mean_y, xx, yy, xy = (ndimage.gaussian_filter(part, sigma) for part in (x, y, x * x, y * y, x * y))
    c1, c2 = np.float32(SSIM_K1**2), np.float32(SSIM_K2**2)
    product = mean_x * mean_y
    squares = mean_x * mean_x + mean_y * mean_y
    return (2 * product + c1) * (2 * (xy - product) + c2) / ((squares + c1) * (xx + yy - squares + c2))


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0
