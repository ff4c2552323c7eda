"""Quiet heads: still scans without their noise, so that a pair's noise comes in after the motion, as in a scanner.

Noise that a base scan brought along would move with the head. It could only be averaged away, so a network would learn
to smooth.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.restoration import denoise_nl_means

from BrainDiffLogic.intensity import head_mask
from BrainDiffLogic.volume import Volume

PATCH, REACH = 3, 2
"""Voxels: width of the patches of non-local means, and how far away they are compared."""
STRENGTH = 0.8
"""Cut-off of non-local means, in standard deviations of the noise (skimage's advice for a known one)."""
QUIET_ENOUGH = 0.015
"""Noise over the mean of the head below which a base stays as it is: averaged or smoothed before."""
NORMAL_MAD = 0.6745
"""Median absolute deviation of a standard normal variable."""


def noise_deviation(array: np.ndarray, inside: np.ndarray) -> float:
    """Standard deviation of the noise of a magnitude image (I, J, K) in the flatter half of ``inside``, its head.

    From differences along all three axes at once (Haar's finest diagonal detail), in which a head has little structure.
    Inside a head Rician noise is Gaussian; in air it is not, and masked air has none.
    """
    trimmed = tuple(slice(size // 2 * 2) for size in array.shape)
    detail, smooth = array[trimmed].astype(np.float32), ndimage.gaussian_filter(array.astype(np.float32), 1.5)
    for axis in range(3):
        even, odd = (np.moveaxis(detail, axis, 0)[start::2] for start in (0, 1))
        detail = np.moveaxis((even - odd) / np.float32(np.sqrt(2)), 0, axis)
    every_second = tuple(slice(0, size // 2 * 2, 2) for size in array.shape)
    slope = np.sqrt(sum(step**2 for step in np.gradient(smooth)))[every_second]
    head = ndimage.binary_erosion(inside, iterations=2)[every_second]
    if not head.any():
        return 0.0
    flat = head & (slope <= np.median(slope[head]))
    return float(np.median(np.abs(detail[flat]))) / NORMAL_MAD


def quieted(array: np.ndarray) -> np.ndarray:
    """A magnitude image (I, J, K) >= 0 without its noise, float32.

    Non-local means (Buades 2005; Coupe et al., IEEE TMI 2008), then the mean of Rician noise off the squares, so that
    air becomes 0. One that is quiet already comes back as it is.
    """
    array = array.astype(np.float32)
    inside = head_mask(array)
    deviation = noise_deviation(array, inside)
    if deviation <= QUIET_ENOUGH * array[inside].mean():
        return array
    means = denoise_nl_means(
        array, patch_size=PATCH, patch_distance=REACH, h=STRENGTH * deviation, sigma=deviation, fast_mode=True
    )
    return np.sqrt(np.maximum(means**2 - 2 * deviation**2, 0)).astype(np.float32)


def quiet_base(path: Path, load: Callable[[], Volume]) -> Volume:
    """The quiet copy of a volume on a diagonal affine, kept in the file ``path`` (.npz), made at first."""
    if not path.exists():
        volume = load()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")
        with open(partial, "wb") as file:
            np.savez(file, array=quieted(np.maximum(volume.array, 0)).astype(np.float16), spacing=volume.spacing)
        os.replace(partial, path)
    with np.load(path) as kept:
        return Volume(kept["array"].astype(np.float32), np.diag([*kept["spacing"], 1.0]), source=path.name)
