"""All the numbers of one corrected volume against its still scan, in one declared convention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.evaluation.fidelity import high_frequency_error, visual_information_fidelity
from BrainDiffLogic.intensity import head_mask
from BrainDiffLogic.metrics import quality
from BrainDiffLogic.metrics.quality import HIGH_PERCENTILE, LOW_PERCENTILE
from BrainDiffLogic.metrics.tissues import Tissues, tissue_masks
from BrainDiffLogic.scan import Scan
from BrainDiffLogic.volume import Volume, to_sagittal

HIGHEST_PSNR = 100.0
"""dB that count for an image without error, so that means over volumes exist."""
CONVENTION = (
    f"{quality.CONVENTION}; PSNR counts up to {HIGHEST_PSNR:g} dB; "
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
class Metric:
    """How a metric is shown: its title, digits, and which way is ``better``: "higher", "lower" or "near 1"."""

    title: str
    digits: int
    better: str


METRICS = {
    "psnr": Metric("PSNR (dB)", 2, "higher"), "ssim": Metric("SSIM", 4, "higher"), "mre": Metric("MRE", 4, "lower"),
    "vif": Metric("VIF", 3, "higher"), "hfen": Metric("HFEN", 3, "lower"),
    "tenengrad_ratio": Metric("Tenengrad ratio", 3, "near 1"),
    "worst_slice_ssim": Metric("SSIM, worst slice", 3, "higher"), "cjv": Metric("CJV", 3, "lower"),
    "efc": Metric("EFC", 3, "lower"), "fber": Metric("FBER", 1, "higher"), "snr_total": Metric("SNR", 2, "higher"),
    "aes": Metric("AES", 4, "higher"),
}  # fmt: skip

Numbers = dict[str, float]


class Yardstick:
    """A still scan, and what is fixed on it before anything is measured: scale, mask and tissues.

    reference  the still scan, laid onto the grid of what is measured
    inside     (I, J, K) bool: where its field of view holds that grid; None: everywhere

    >>> Yardstick(still).numbers(moved)["ssim"]  # doctest: +SKIP
    """

    def __init__(self, reference: Volume, inside: np.ndarray | None = None) -> None:
        self.reference = reference
        self.mask = head_mask(reference.array)
        if inside is not None:
            self.mask &= inside
        self.tissues = _tissues(reference)
        self._air = quality.has_measured_air(reference.array[~self.mask])
        self._low, self._high = np.percentile(reference.array, [LOW_PERCENTILE, HIGH_PERCENTILE])

    def numbers(self, image: Volume) -> Numbers:
        """``AGAINST_REFERENCE``, ``WITHOUT_REFERENCE``, worst_slice and slice_ssim_mean of a volume on the grid.

        NaN where a number cannot be had. Raises InputError as ``quality.compare`` does.
        """
        found = quality.compare(image, self.reference, self.mask)
        scaled, clean = self._scaled(image), self._scaled(self.reference)
        x, y = (to_sagittal(image.with_array(array, kind="difference")) for array in (scaled, clean))
        inside = to_sagittal(self.reference.with_array(self.mask, kind="mask"))
        return {
            "psnr": min(found.psnr, HIGHEST_PSNR), "ssim": found.ssim, "mre": found.mre,
            "vif": visual_information_fidelity(x, y, inside),
            "hfen": high_frequency_error(scaled, clean, self.mask),
            "tenengrad_ratio": found.tenengrad_ratio, "worst_slice_ssim": found.worst_slice_ssim,
            "slice_ssim_mean": found.slice_ssim_mean, "worst_slice": found.worst_slice,
            **self.without_reference(image),
        }  # fmt: skip

    def without_reference(self, image: Volume) -> Numbers:
        """``WITHOUT_REFERENCE`` of a volume on the grid: the reference's own are what a correction should reach."""
        assessed = quality.assess(image, self.mask, self.tissues)
        found = {name: getattr(assessed, name) for name in WITHOUT_REFERENCE}
        return found if self._air else found | dict.fromkeys(OF_AIR, float("nan"))

    def _scaled(self, volume: Volume) -> np.ndarray:
        return ((volume.array - self._low) / (self._high - self._low)).astype(np.float32)


def _tissues(reference: Volume) -> Tissues:
    """Empty masks, so that what needs them is NaN, where the reference shows no tissues."""
    try:
        return tissue_masks(reference.array, Scan.of(reference).inner)
    except InputError:
        none = np.zeros(reference.shape, dtype=bool)
        return Tissues(none, none, none)
