"""All the numbers of one corrected volume against its still scan, in one declared convention.

Beside those of ``quality``: how much of the reference's fine structure an image keeps, VIF and HFEN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.signal.windows import gaussian

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.metrics.quality import (
    CONVENTION,
    HIGH_PERCENTILE,
    LOW_PERCENTILE,
    Tissues,
    assess,
    compare,
    has_measured_air,
    scaled_between,
    tissue_masks,
)
from BrainDiffLogic.scan import Scan, head_mask
from BrainDiffLogic.volume import Volume, to_sagittal

HIGHEST_PSNR = 100.0
"""dB that count for an image without error, so that means over volumes exist."""
EVALUATION_CONVENTION = (
    f"{CONVENTION}; PSNR counts up to {HIGHEST_PSNR:g} dB; "
    "VIF: pixel domain, four scales, sagittal slices (0 to 255, noise variance 2), windows with their middle in the "
    "mask, summed over the slices; HFEN: 3D Laplacian of Gaussian, sigma 1.5 voxels, relative to the reference's, in "
    "the mask; worst slice: the lowest mean SSIM of a sagittal slice; of registered pairs the mask ends where the "
    "reference's field of view does; CJV, SNR: tissue masks found on the reference; FBER: its head mask; AES: at the "
    "image's own Canny edges, on its own scale; EFC: whole volume; EFC and FBER of no image whose reference has no "
    "measured air"
)
AGAINST_REFERENCE = ("psnr", "ssim", "mre", "vif", "hfen", "tenengrad_ratio", "worst_slice_ssim")
WITHOUT_REFERENCE = ("cjv", "efc", "fber", "snr_total", "aes")
OF_AIR = ("efc", "fber")
"""Metrics that need measured air; what motion leaves in masked air is none."""


@dataclass(frozen=True)
class Measure:
    """How a metric is shown: its title, digits, and which way is ``better``: "higher", "lower" or "near 1"."""

    title: str
    digits: int
    better: str


MEASURES = {
    "psnr": Measure("PSNR (dB)", 2, "higher"), "ssim": Measure("SSIM", 4, "higher"), "mre": Measure("MRE", 4, "lower"),
    "vif": Measure("VIF", 3, "higher"), "hfen": Measure("HFEN", 3, "lower"),
    "tenengrad_ratio": Measure("Tenengrad ratio", 3, "near 1"),
    "worst_slice_ssim": Measure("SSIM, worst slice", 3, "higher"), "cjv": Measure("CJV", 3, "lower"),
    "efc": Measure("EFC", 3, "lower"), "fber": Measure("FBER", 1, "higher"), "snr_total": Measure("SNR", 2, "higher"),
    "aes": Measure("AES", 4, "higher"),
}  # fmt: skip

Numbers = dict[str, float]
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


class StillReference:
    """A still scan, and what is fixed on it before anything is measured: scale, mask and tissues.

    reference  the still scan, laid onto the grid of what is measured
    inside     (I, J, K) bool: where its field of view holds that grid; None: everywhere

    >>> StillReference(still).numbers(moved)["ssim"]  # doctest: +SKIP
    """

    def __init__(self, reference: Volume, inside: np.ndarray | None = None) -> None:
        self.reference = reference
        self.mask = head_mask(reference.array)
        if inside is not None:
            self.mask &= inside
        self.tissues = _tissues(reference)
        self._air = has_measured_air(reference.array[~self.mask])
        self._low, self._high = np.percentile(reference.array, [LOW_PERCENTILE, HIGH_PERCENTILE])

    def numbers(self, image: Volume) -> Numbers:
        """``AGAINST_REFERENCE``, ``WITHOUT_REFERENCE``, worst_slice and slice_ssim_mean of a volume on the grid.

        NaN where a number cannot be had. Raises InputError as ``quality.compare`` does.
        """
        compared = compare(image, self.reference, self.mask)
        scaled, clean = self._scaled(image), self._scaled(self.reference)
        x, y = (to_sagittal(image.with_array(array, kind="difference")) for array in (scaled, clean))
        inside = to_sagittal(self.reference.with_array(self.mask, kind="mask"))
        return {
            "psnr": min(compared.psnr, HIGHEST_PSNR), "ssim": compared.ssim, "mre": compared.mre,
            "vif": visual_information_fidelity(x, y, inside),
            "hfen": high_frequency_error(scaled, clean, self.mask),
            "tenengrad_ratio": compared.tenengrad_ratio, "worst_slice_ssim": compared.worst_slice_ssim,
            "slice_ssim_mean": compared.slice_ssim_mean, "worst_slice": compared.worst_slice,
            **self.without_reference(image),
        }  # fmt: skip

    def without_reference(self, image: Volume) -> Numbers:
        """``WITHOUT_REFERENCE`` of a volume on the grid: the reference's own are what a correction should reach."""
        assessed = assess(image, self.mask, self.tissues)
        values = {name: getattr(assessed, name) for name in WITHOUT_REFERENCE}
        return values if self._air else values | dict.fromkeys(OF_AIR, float("nan"))

    def _scaled(self, volume: Volume) -> np.ndarray:
        return scaled_between(volume.array, self._low, self._high)


def _tissues(reference: Volume) -> Tissues:
    """Empty masks, so that what needs them is NaN, where the reference shows no tissues."""
    try:
        return tissue_masks(reference.array, Scan.of(reference).inner)
    except InputError:
        none = np.zeros(reference.shape, dtype=bool)
        return Tissues(none, none, none)


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
