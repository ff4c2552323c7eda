"""How sharp and how noisy an image is: the guard beside SSIM and PSNR, both of which a blur can raise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from skimage.feature import canny

from BrainDiffLogic.scan import mask_box

SLAB, CHUNK = 8, 2**16
"""Slices whose gradient is taken at a time, and voxels that are summed: what is between stays in the cache."""
TINIEST = np.finfo(np.float32).tiny
CANNY_SIGMA = 1.0
"""Voxels; smaller takes noise for edges, larger loses the cortex."""
CANNY_REACH = 8
"""Pixels beyond the mask that its edges depend on: the Gaussian, the gradient, and the walk along the ridge."""


def gradient_energy(
    array: np.ndarray, axes: tuple[int, ...] | None = None, mask: np.ndarray | None = None
) -> np.ndarray:
    """Squared magnitude of the Sobel gradient per voxel step, float32, shape and units^2 of ``array``.

    axes  along which the gradient is taken (default: all); borders reflect
    mask  of the shape of ``array``: the energies in it alone, (n,)
    """
    axes = tuple(range(array.ndim)) if axes is None else axes
    margins, reach = [(1, 1) if axis in axes else (0, 0) for axis in range(array.ndim)], int(0 in axes)
    parts = []
    for start in range(0, len(array), SLAB):
        stop = min(start + SLAB, len(array))
        slab = array[max(0, start - reach) : stop + reach].astype(np.float32, copy=False)
        margins[0] = reach * (start == 0), reach * (stop == len(array))
        energy = _sobel_energy(np.pad(slab, margins, mode="symmetric"), axes)
        parts.append(energy if mask is None else energy[mask[start:stop]])
    return np.concatenate(parts)


def _sobel_energy(padded: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Of an array with one voxel more on either side along ``axes``."""
    total: np.ndarray | None = None
    weights = np.float32(2 * 4 ** (len(axes) - 1))  # of the kernel's positive part, times its step of 2 voxels
    for along in axes:
        slope = padded
        for axis in axes:
            before, middle, after = (_cut(slope, axis, start) for start in range(3))
            slope = after - before if axis == along else before + after
            if axis != along:
                slope += middle
                slope += middle
        slope /= weights
        slope *= slope
        total = slope if total is None else np.add(total, slope, out=total)
    assert total is not None
    return total


def _cut(array: np.ndarray, axis: int, start: int) -> np.ndarray:
    return array[(slice(None),) * axis + (slice(start, array.shape[axis] - 2 + start),)]


def tenengrad(array: np.ndarray, mask: np.ndarray) -> float:
    """Mean squared Sobel gradient in ``mask`` (Tenenbaum's criterion): falls with blur, rises with noise."""
    return float(gradient_energy(array, mask=mask).mean(dtype=np.float64))


def gradient_entropy(energy: np.ndarray) -> float:
    """Entropy in bits of gradient magnitudes as shares of their sum (McGee et al., JMRI 2000), from their squares.

    Lower where few strong edges carry the gradient. Depends on the number of voxels: compare on one mask only.
    """
    parts = np.array_split(energy, 1 + energy.size // CHUNK)
    total = sum(float(np.sqrt(part).sum(dtype=np.float64)) for part in parts)
    if total == 0:
        return float("nan")
    entropy = 0.0
    for part in parts:
        share = np.sqrt(part[part > 0]) / np.float32(total)
        np.maximum(share, TINIEST, out=share)  # x log x of what is rounded to 0 is 0
        entropy -= float(np.sum(share * np.log2(share), dtype=np.float64))
    return entropy


def average_edge_strength(stack: np.ndarray, mask: np.ndarray) -> float:
    """Mean in-plane gradient magnitude at the Canny edges of the slices (slices, rows, columns) inside
    ``mask``.

    The published measure divides the root of the summed squares by the number of edge voxels, and so falls
    when ghosts add edges of the same strength; the plain mean does not. NaN where no slice has an edge.
    """
    if min(stack.shape[1:]) < 3 or not mask.any():
        return float("nan")
    stack = stack.astype(np.float32, copy=False)
    strengths = [np.empty(0, np.float32)]
    for image, inside in zip(stack, mask, strict=True):
        if inside.any():
            box = mask_box(inside, CANNY_REACH)
            edges = canny(image[box], sigma=CANNY_SIGMA) & inside[box]
            strengths.append(np.sqrt(_sobel_energy(np.pad(image[box], 1, mode="symmetric"), (0, 1))[edges]))
    strength = np.concatenate(strengths)
    return float(strength.mean(dtype=np.float64)) if strength.size else float("nan")


def noise_of(array: np.ndarray, mask: np.ndarray | None = None, axes: Sequence[int] | None = None) -> float:
    """Standard deviation of the noise: scaled MAD of the diagonal Haar details (Donoho, 1994); 0 where there are none.

    mask  blocks that lie in it count; None: all whose detail is not 0, as in air that a mask emptied
    axes  that the details are taken along; None: all
    """
    # scikit-image's estimate_sigma takes no mask, and needs PyWavelets
    axes = range(array.ndim) if axes is None else axes
    detail = haar_detail(array, axes)
    deviations = np.abs(detail[detail != 0 if mask is None else _in_pairs(mask, axes, np.logical_and)])
    return float(np.median(deviations)) / 0.6745 if deviations.size else 0.0


def haar_detail(array: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """The finest diagonal Haar detail along ``axes``, float32: half as many voxels along each."""
    return _in_pairs(array.astype(np.float32), axes, lambda even, odd: (even - odd) / np.float32(np.sqrt(2)))


def _in_pairs(array: np.ndarray, axes: Sequence[int], join: Callable[..., np.ndarray]) -> np.ndarray:
    """Every two neighbours joined along each of the axes; one that is left over at an end is left out."""
    for axis in axes:
        pairs = np.moveaxis(array, axis, 0)[: array.shape[axis] // 2 * 2]
        array = np.moveaxis(join(pairs[::2], pairs[1::2]), 0, axis)
    return array
