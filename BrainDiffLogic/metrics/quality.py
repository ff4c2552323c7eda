"""Image quality with a reference (``compare``) and without one (``assess``), in one declared convention.

The convention moves SSIM more than any correction does: numbers from two conventions must not share a table.
SSIM and PSNR reward a mild blur, so each comparison carries a sharpness ratio beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_multiotsu

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.metrics.sharpness import (
    CANNY_REACH,
    CHUNK,
    TINIEST,
    average_edge_strength,
    gradient_energy,
    gradient_entropy,
    tenengrad,
)
from BrainDiffLogic.scan import Scan, head_mask, mask_box
from BrainDiffLogic.volume import Volume, to_sagittal, voxels

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
    pure = np.empty((3, inside.size), bool)
    for start in range(0, inside.size, CHUNK):
        some = slice(start, start + CHUNK)
        log = -0.5 * (inside[some] - means[:, None]) ** 2 / max(variance, 1e-12 * (high - low) ** 2)
        posterior = np.exp(log - log.max(axis=0))
        pure[:, some] = (posterior > PURE * posterior.sum(axis=0)) & (inside[some] <= high)
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


HEAD = "the reference's head"
"""The mask where none is given."""
CONVENTION = (
    "both images on the reference's scale (percentiles 1 and 99.9 of its volume to 0 and 1, not clipped), "
    f"mask: {HEAD}; PSNR in the mask, data range 1; SSIM: 3D Gaussian window, sigma 1.5, "
    "population covariance, data range 1, map averaged in the mask; "
    "MRE: sum|error| / sum|reference| in the mask, on that scale; "
    "sharpness: Tenengrad of the image / of the reference in the mask"
)
LOW_PERCENTILE, HIGH_PERCENTILE = 1.0, 99.9  # Marchetto et al., MAGMA 2025, support percentiles and a mask
SSIM_SIGMA, SSIM_RADIUS = 1.5, 5  # 11 voxels, as scikit-image and MONAI truncate it
SSIM_K1, SSIM_K2 = 0.01, 0.03  # Wang et al., IEEE TIP 2004
SLICE_SHARE = 0.05
"""Sagittal slices with less than this share of the fullest slice's mask cannot be called the worst."""
AIR_SHARE = 0.1
"""Air counts as measured if at least this share of the voxels outside the head is not exactly zero."""
NO_AIR = "no air background: the voxels outside the head are (nearly) all zero or missing"

Image = Volume | np.ndarray


@dataclass(frozen=True)
class Comparison:
    """An image against its reference, by ``CONVENTION``. Higher is better except ``mre``.

    ``worst_slice`` indexes the sagittal stack (``volume.to_sagittal``), whose per-slice SSIM ``slice_ssim``
    holds (NaN outside the mask); ``slice_ssim_mean`` is its mean.
    """

    psnr: float
    ssim: float
    mre: float
    tenengrad_ratio: float
    worst_slice: int
    worst_slice_ssim: float
    slice_ssim_mean: float
    slice_ssim: np.ndarray = field(repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """The numbers for a JSON report, without the per-slice array; what is not finite (PSNR inf) is None."""
        return finite_or_none({key: value for key, value in vars(self).items() if key != "slice_ssim"})


@dataclass(frozen=True)
class Assessment:
    """No-reference metrics; NaN where one cannot be had, with the reason under its name in ``reasons``.

    Better is lower for cjv, efc and gradient_entropy; higher for snr_*, cnr, fber, tenengrad and aes. Meant
    for an image against another of the same head: across scanners none of them has an absolute meaning.
    """

    cjv: float
    efc: float
    snr_csf: float
    snr_gm: float
    snr_wm: float
    snr_total: float
    cnr: float
    fber: float
    tenengrad: float
    aes: float
    gradient_entropy: float
    reasons: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The numbers for a JSON report; what is not finite is None, and ``reasons`` says why."""
        return finite_or_none(asdict(self))


def compare(image: Image, reference: Image, mask: Image | None = None) -> Comparison:
    """Quality of ``image`` against ``reference`` on the same grid (Volumes, or arrays (I, J, K) taken as RAS+).

    ``mask`` (non-zero counts) replaces the reference's head mask. Register and match intensities first: half
    a voxel or 5 % gain between the two already caps PSNR near 30 dB.

    Raises InputError if the grids differ, or if mask or reference is empty or constant.
    """
    moved, clean = _volume(image), _volume(reference)
    check_same_grid(moved, clean)
    inside = _mask(mask, clean) if mask is not None else head_mask(clean.array)
    low, high = np.percentile(voxels(clean.array), [LOW_PERCENTILE, HIGH_PERCENTILE])
    if high <= low:
        raise InputError(f"{clean.name}: percentiles 1 and 99.9 are equal; choose a reference with contrast")
    box = mask_box(inside, SSIM_RADIUS)
    cut = inside[box]
    x, y = (scaled_between(volume.array[box], low, high) for volume in (moved, clean))
    error = np.abs(x[cut].astype(np.float64) - y[cut])
    similarity = ssim_map(x, y)
    squared = float(np.mean(error**2))
    sharp = tenengrad(y, cut)
    total = float(np.abs(y[cut], dtype=np.float64).sum())
    full_map = np.zeros(clean.shape, dtype=np.float32)
    full_map[box] = similarity
    return Comparison(
        psnr=float("inf") if squared == 0 else float(-10 * np.log10(squared)),
        ssim=float(similarity[cut].mean(dtype=np.float64)),
        mre=float(error.sum()) / total if total > 0 else float("nan"),
        tenengrad_ratio=tenengrad(x, cut) / sharp if sharp > 0 else float("nan"),
        **_by_slice(clean.with_array(full_map, kind="difference"), clean.with_array(inside, kind="mask")),
    )


def ssim_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SSIM at each voxel, float32, for data range 1 (Wang et al. 2004, Gaussian window; borders reflect).

    Equals scikit-image's ``structural_similarity(..., gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1, full=True)``.
    """
    # scikit-image gives the same to 1e-6, but refuses arrays of fewer than 11 voxels along an axis, as stacks of few
    # slices are, and takes a quarter longer and 160 MB more for 176 x 200 x 200
    mean_x, mean_y = _window(x), _window(y)
    product = mean_x * mean_y
    covariance = _window(x * y) - product
    squares = mean_x * mean_x + mean_y * mean_y
    variances = _window(x * x + y * y) - squares  # the two variances enter only as their sum
    c1, c2 = np.float32(SSIM_K1**2), np.float32(SSIM_K2**2)
    return (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))


def _window(array: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(array, SSIM_SIGMA, radius=SSIM_RADIUS, mode="reflect")


def scaled_between(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """The array with ``low`` at 0 and ``high`` at 1, float32, not clipped."""
    scaled = np.array(array, dtype=np.float32, order="C")
    scaled -= np.float32(low)
    scaled /= np.float32(high - low)
    return scaled


def _by_slice(similarity: Volume, mask: Volume) -> dict[str, Any]:
    inside = to_sagittal(mask)
    count = np.count_nonzero(inside, axis=(1, 2))
    total = np.where(inside, to_sagittal(similarity), 0).sum(axis=(1, 2), dtype=np.float64)
    per_slice = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    worst = int(np.argmin(np.where(count >= max(1, SLICE_SHARE * count.max()), per_slice, np.inf)))
    return {
        "worst_slice": worst,
        "worst_slice_ssim": float(per_slice[worst]),
        "slice_ssim_mean": float(np.nanmean(per_slice)),
        "slice_ssim": per_slice,
    }


def assess(image: Image | Scan, mask: Image | None = None, tissues: Tissues | None = None) -> Assessment:
    """Quality of one T1-weighted image (a Volume or its Scan, or an array (I, J, K) taken as RAS+ of 1 mm) by itself.

    ``mask`` replaces the head mask, inside which tenengrad, aes and gradient_entropy are taken and outside
    which lies the air. ``tissues`` fixes the tissue masks, as found on the reference by ``tissue_masks``: the
    same voxels before and after. By default they are found on the image itself inside ``Scan.inner``, as
    MRIQC does.

    cjv, snr, cnr, efc and fber are MRIQC's (0.16): medians, CJV with scaled MAD, the others with SD. MRIQC
    removes the bias field and sets white matter to 1000 first; here the image is taken as it is. efc and fber
    are NaN without measured air. tenengrad and aes are on the image's own scale (percentiles 1 and 99.9 to 0
    and 1).
    """
    scan = image if isinstance(image, Scan) else Scan(_volume(image))
    array, head = scan.volume.array, scan.head if mask is None else _mask(mask, scan.volume)
    reasons: dict[str, str] = {}
    air = voxels(array, ~head)
    measured = has_measured_air(air)
    if not measured:
        reasons |= dict.fromkeys(("efc", "fber"), NO_AIR)
    air_sd = float(np.std(air)) if measured else 0.0
    fber = foreground_background_energy_ratio(voxels(array, head), air) if measured else float("nan")
    del air  # may be most of the image
    numbers = _tissue_metrics(scan, tissues, air_sd, reasons)
    return Assessment(
        efc=entropy_focus_criterion(array) if measured else float("nan"),
        fber=fber,
        reasons=reasons,
        **numbers,
        **_sharpness(scan.volume, head),
    )


def _sharpness(volume: Volume, head: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(voxels(volume.array), [LOW_PERCENTILE, HIGH_PERCENTILE])
    stack, inside = to_sagittal(volume), to_sagittal(volume.with_array(head, kind="mask"))
    box = mask_box(inside, CANNY_REACH)
    inside = np.ascontiguousarray(inside[box])
    scaled = scaled_between(stack[box], low, high if high > low else low + 1)
    energy = gradient_energy(scaled, mask=inside)
    figures = {"tenengrad": float(energy.mean(dtype=np.float64)), "gradient_entropy": gradient_entropy(energy)}
    del energy
    return {**figures, "aes": average_edge_strength(scaled, inside)}


def has_measured_air(air: np.ndarray) -> bool:
    """Whether the air (n,) around a head holds what was measured, and was not set to 0 by a mask."""
    return bool(air.size > 0 and np.count_nonzero(air) >= AIR_SHARE * air.size)


def _tissue_metrics(scan: Scan, tissues: Tissues | None, air_sd: float, reasons: dict[str, str]) -> dict[str, float]:
    names = ("cjv", "cnr", "snr_csf", "snr_gm", "snr_wm", "snr_total")
    try:
        masks = tissues or tissue_masks(scan.volume.array, scan.inner)
    except InputError as error:
        reasons |= dict.fromkeys(names, str(error))
        return dict.fromkeys(names, float("nan"))
    volume = scan.volume
    if masks.wm.shape != volume.shape:
        raise InputError(f"tissue masks {masks.wm.shape} do not fit {volume.name} {volume.shape}: use its grid")
    values = {name: voxels(volume.array, getattr(masks, name)).astype(np.float64) for name in ("csf", "gm", "wm")}
    few = [name for name, part in values.items() if part.size < TOO_FEW]
    numbers = {f"snr_{name}": _or_nan(signal_to_noise, part) for name, part in values.items()}
    numbers["snr_total"] = float(np.mean([numbers[f"snr_{name}"] for name in values]))
    numbers["cjv"] = _or_nan(joint_variation, values["gm"], values["wm"])
    numbers["cnr"] = _or_nan(lambda gm, wm: contrast_to_noise(gm, wm, air_sd), values["gm"], values["wm"])
    if few:
        text = f"fewer than {TOO_FEW} voxels of {', '.join(few)}"
        reasons |= {name: text for name, number in numbers.items() if np.isnan(number)}
    return numbers


def _or_nan(metric: Callable[..., float], *parts: np.ndarray) -> float:
    return metric(*parts) if all(part.size >= TOO_FEW for part in parts) else float("nan")


def joint_variation(gm: np.ndarray, wm: np.ndarray) -> float:
    """CJV of the values in grey and white matter (Ganzetti et al. 2016; MRIQC): scaled MADs over the medians' gap."""
    gap = abs(np.median(wm) - np.median(gm))
    return float((_scaled_mad(wm) + _scaled_mad(gm)) / gap) if gap > 0 else float("nan")


def signal_to_noise(values: np.ndarray) -> float:
    """SNR of one tissue's voxel values (MRIQC): median / (SD * sqrt(n / (n - 1))), with the population's SD."""
    noise = float(np.std(values)) * np.sqrt(values.size / (values.size - 1))
    return float(np.median(values) / noise) if noise > 0 else float("nan")


def contrast_to_noise(gm: np.ndarray, wm: np.ndarray, air_sd: float) -> float:
    """CNR (Magnotta et al. 2006; MRIQC): the medians' gap over the root of the summed variances."""
    noise = float(np.sqrt(np.var(gm) + np.var(wm) + air_sd**2))
    return float(abs(np.median(wm) - np.median(gm)) / noise) if noise > 0 else float("nan")


def _scaled_mad(values: np.ndarray) -> float:
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def entropy_focus_criterion(array: np.ndarray) -> float:
    """EFC (Atkinson et al. 1997; MRIQC): entropy of the voxels' shares of the image's energy, 1 if all are equal.

    Ghosts in the air raise it. Over the whole volume; negative values count as 0.
    """
    values = voxels(array)
    parts = [slice(start, start + CHUNK) for start in range(0, values.size, CHUNK)]
    energy = np.sqrt(sum(float(np.sum(np.square(above), dtype=np.float64)) for above in _positive(values, parts)))
    if energy == 0 or array.size < 2:
        return float("nan")
    total = 0.0
    for share in _positive(values, parts):
        share /= np.float32(energy)
        np.maximum(share, TINIEST, out=share)  # x log x of what is rounded to 0 is 0
        total -= float(np.sum(share * np.log(share), dtype=np.float64))
    return float(total / (np.sqrt(array.size) * np.log(np.sqrt(array.size))))


def _positive(values: np.ndarray, parts: list[slice]) -> Iterator[np.ndarray]:
    """What is above 0 in each part of values (n,), float32."""
    return (values[part][values[part] > 0].astype(np.float32) for part in parts)


def foreground_background_energy_ratio(head: np.ndarray, air: np.ndarray) -> float:
    """FBER (Shehzad et al. 2015; MRIQC): median squared value in the head (n,) over that in the air (m,); NaN if that
    is 0."""
    background = _median_square(air)
    return _median_square(head) / background if background > 0 else float("nan")


def _median_square(values: np.ndarray) -> float:
    """The median of the squares, from the size that lies in the middle."""
    middle = [(values.size - 1) // 2, values.size // 2]
    sizes = np.abs(values).astype(np.float32, copy=False)
    sizes.partition(middle)
    return float(np.mean(sizes[middle].astype(np.float64) ** 2))


def _volume(image: Image) -> Volume:
    return (image if isinstance(image, Volume) else Volume(np.asarray(image), np.eye(4))).without_fill()


def check_same_grid(image: Volume, reference: Volume) -> None:
    """Raises InputError where two volumes have different shapes or lie differently in space."""
    if image.shape != reference.shape:
        raise InputError(
            f"{image.name} {image.shape} and {reference.name} {reference.shape} have different grids: "
            "resample the reference to the image's grid"
        )
    if not np.allclose(image.affine, reference.affine, atol=1e-3):
        raise InputError(
            f"{image.name} and {reference.name} lie differently in space (affines differ): "
            "resample the reference to the image's grid"
        )


def _mask(mask: Image, volume: Volume) -> np.ndarray:
    if isinstance(mask, Volume):
        check_same_grid(mask, volume)
    inside = np.asarray(mask.array if isinstance(mask, Volume) else mask) != 0
    if inside.shape != volume.shape:
        raise InputError(f"the mask {inside.shape} does not fit {volume.name} {volume.shape}: use its grid")
    if not inside.any():
        raise InputError(f"the mask for {volume.name} is empty: mark the voxels to compare with 1")
    return inside


def finite_or_none(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers as JSON can hold them: None for what is not finite."""
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in numbers.items()}
