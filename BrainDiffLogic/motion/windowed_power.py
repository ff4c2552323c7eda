"""The power spectrum of a head in overlapping windows, and the smooth functions that a still head's follows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.intensity import head_mask

WINDOWS = 3
"""Windows along each axis of the head, overlapping."""
HEAD = 0.15
"""A voxel above this share of the head's 99th percentile counts as head."""
FILLED = 0.2
"""A window needs this share of head in it."""
RADIAL_POWERS = {0: (0.0, 1.0, 2.0), 2: (0.0,), 4: (0.0,)}
"""For each spherical harmonic degree the powers of |k| in log S, beside log |k| itself: anisotropy that does not
change with |k| is the head's, anisotropy that does is rings."""


def windows(image: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """Size (3,) of the windows in voxels, and their first voxels: WINDOWS along each axis over the head."""
    inside = head_mask(image)
    starts = []
    size = size.copy()
    for axis in range(3):
        held = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        first, end = (int(held[0]), int(held[-1]) + 1) if len(held) else (0, image.shape[axis])
        size[axis] = min(size[axis], end - first)
        starts.append(np.round(np.linspace(first, end - size[axis], WINDOWS)).astype(int))
    return size, [(int(a), int(b), int(c)) for a in starts[0] for b in starts[1] for c in starts[2]]


def half_space(size: np.ndarray) -> np.ndarray:
    """(Q, 3) cycles/voxel of one of each pair +-k of a window's frequencies, without the Nyquist planes."""
    along = [np.fft.fftfreq(n) for n in size]
    cycles = np.stack(np.meshgrid(*along, indexing="ij"), axis=-1).reshape(-1, 3)
    tiny = 1e-9
    i, j, k = cycles.T
    half = (i > tiny) | ((np.abs(i) < tiny) & ((j > tiny) | ((np.abs(j) < tiny) & (k > tiny))))
    return cycles[half & (np.abs(cycles).max(axis=1) < 0.5 - tiny)]


def powers_of(
    image: np.ndarray, size: np.ndarray, starts: Sequence[tuple[int, ...]], cycles: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Power (windows, Q) at ``cycles`` such that white noise has its variance, that in the corners of k-space
    (windows,), and where each window's energy lies (windows, 3) in voxels; windows with enough head only.
    """
    taper = _hann(size)
    total, energy = taper.sum(), (taper**2).sum()
    at = tuple((np.round(cycles * size).astype(int) % size).T)
    edge = np.abs(cycles).min(axis=1) > 0.35
    powers, places = [], []
    for start in starts:
        block = image[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))].astype(np.float64)
        if (taper * (block > HEAD)).sum() < FILLED * total:
            continue
        block = (block - (block * taper).sum() / total) * taper
        powers.append((np.abs(np.fft.fftn(block)) ** 2)[at] / energy)
        places.append(np.array(start) + ndimage.center_of_mass(block**2))
    if not powers:
        raise InputError("no window of the image holds enough of a head: pass a head whose 99th percentile is 1")
    power = np.array(powers)
    return power, power[:, edge].mean(axis=1), np.array(places)


def _hann(size: np.ndarray) -> np.ndarray:
    i, j, k = (np.hanning(n + 2)[1:-1] for n in size)
    window: np.ndarray = i[:, None, None] * j[None, :, None] * k[None, None, :]
    return window


def smooth_basis(k: np.ndarray) -> np.ndarray:
    """(Q, S) even, smooth functions of k (Q, 3): harmonics of degree 0, 2, 4 times powers of |k|, and log |k|."""
    r = np.linalg.norm(k, axis=1)
    x, y, z = (k / r[:, None]).T
    harmonics = {
        0: [np.ones_like(r)],
        2: [x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1],
        4: [
            x**4 - 6 * x * x * y * y + y**4, x * y * (x * x - y * y), x * z * (x * x - 3 * y * y),
            y * z * (3 * x * x - y * y), (x * x - y * y) * (7 * z * z - 1), x * y * (7 * z * z - 1),
            x * z * (7 * z * z - 3), y * z * (7 * z * z - 3), 35 * z**4 - 30 * z * z + 3,
        ],
    }  # fmt: skip
    columns = [np.log(r)]
    for degree, powers in RADIAL_POWERS.items():
        columns += [r**power * harmonic for power in powers for harmonic in harmonics[degree]]
    return np.stack(columns, axis=1)
