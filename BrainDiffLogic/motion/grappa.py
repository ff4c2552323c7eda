"""Parallel imaging: lines that were not acquired, from their neighbours in all coils (GRAPPA).

Griswold et al., Magn Reson Med 2002;47:1202. The kernels come from the calibration lines of the same scan: where the
head moved, lines and calibration do not fit together, and the image shows what a scanner would show.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy import fft

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.sampling import Sampling

SOURCES = (-1, 0, 1, 2)
"""Acquired lines that a missing one is made of, in steps of the reduction from the one before it."""
WIDTH = 3
"""Neighbouring samples of each, along one readout axis; along the other each position has kernels of its own."""
RIDGE = 1e-5
"""Of the mean square of the sources: holds the kernels where the calibration leaves them open."""


def fill_lines(kspaces: np.ndarray, axis: int, sampling: Sampling) -> None:
    """Fill in, in place, the lines along ``axis`` that the sampling skips.

    kspaces (C, I, J, K) complex64 in numpy's order, C coils; what they hold in the skipped lines is not looked at.
    Raises InputError for too few calibration lines.
    """
    if sampling.reduction == 1:
        return
    lines = kspaces.shape[1 + axis]
    missing, calibration = sampling.skipped(lines) & sampling.keeps(lines), _calibration(sampling, lines)
    first = 1 if axis == 0 else 0
    hybrid = fft.ifft(kspaces, axis=1 + first, workers=-1)
    # (positions, lines in the order of the array axis, coils, samples), a view
    planes = np.moveaxis(hybrid, (1 + first, 1 + axis), (0, 1))
    order = fft.ifftshift(np.arange(lines))  # FFT order shows line order[n] at place n
    place = np.argsort(order)

    def fill(position: int) -> None:
        plane = planes[position][place]
        _fill_plane(plane, sampling.reduction, calibration, missing)
        planes[position] = plane[order]

    with ThreadPoolExecutor() as threads:  # numpy lets go of the interpreter in the products
        list(threads.map(fill, range(len(planes))))
    kspaces[:] = fft.fft(hybrid, axis=1 + first, workers=-1)


def _calibration(sampling: Sampling, lines: int) -> np.ndarray:
    """The rows that are all acquired, one after the other."""
    rows = np.flatnonzero(sampling.calibrates(lines) & sampling.keeps(lines))
    needed = (SOURCES[-1] - SOURCES[0]) * sampling.reduction + 1
    if len(rows) < needed:
        raise InputError(
            f"{len(rows)} calibration lines are too few for a reduction of {sampling.reduction}:"
            f" give {needed} or more, or a smaller reduction"
        )
    return rows


def _fill_plane(plane: np.ndarray, reduction: int, calibration: np.ndarray, missing: np.ndarray) -> None:
    """One position: plane (lines, C, samples), in place. A kernel reaches acquired lines only, none that is missing."""
    lines, coils, samples = plane.shape
    half = WIDTH // 2
    shifted = np.stack([np.roll(plane, shift, axis=2) for shift in range(-half, half + 1)], axis=1)
    # (lines, samples, sources of one line), and lines of zeros where a kernel reaches over the edge
    features = np.moveaxis(shifted, 3, 1).reshape(lines, samples, WIDTH * coils)
    features = np.concatenate([features, np.zeros_like(features[:1])])
    steps = reduction * np.array(SOURCES)
    starts = calibration[(calibration + steps[0] >= calibration[0]) & (calibration + steps[-1] <= calibration[-1])]
    known = _gathered(features, starts[:, None] + steps)
    normal = (known.conj().T @ known).astype(np.complex128)
    normal += RIDGE * np.trace(normal).real / len(normal) * np.eye(len(normal))
    for offset in range(1, reduction):
        wanted = np.moveaxis(plane[starts + offset], 1, 2).reshape(-1, coils)
        kernel = np.linalg.solve(normal, known.conj().T @ wanted).astype(np.complex64)
        targets = np.flatnonzero(missing & ((np.arange(lines) - lines // 2) % reduction == offset))
        rows = (targets - offset)[:, None] + steps
        found = _gathered(features, np.where((rows >= 0) & (rows < lines), rows, lines)) @ kernel
        plane[targets] = np.moveaxis(found.reshape(len(targets), samples, coils), 2, 1)


def _gathered(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(targets * samples, 4 * sources): the features of the four source lines of each target."""
    return np.moveaxis(features[rows], 1, 2).reshape(-1, rows.shape[1] * features.shape[2])
