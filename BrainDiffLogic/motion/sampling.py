"""What of k-space a scanner samples, in which order, and how it fills in the rest.

Lines that parallel imaging did not acquire come from their neighbours in all coils (GRAPPA, Griswold et al., Magn Reson
Med 2002;47:1202). The kernels come from the calibration lines of the same scan: where the head moved, lines and
calibration do not fit together, and the image shows what a scanner would show.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from scipy import fft

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.kspace import image_of
from BrainDiffLogic.motion.trajectory import Trajectory, resampled, sampled
from BrainDiffLogic.volume import ras_axes

ORDERS = ("linear", "interleaved", "centric")


def acquisition_order(lines: int, order: str = "linear") -> np.ndarray:
    """(lines,) the row of k-space that is acquired first, second and so on; row ``lines // 2`` is the zero frequency.

    linear       from the first row to the last
    interleaved  every other row, then those between
    centric      from the zero frequency outwards, to both sides in turn
    Raises InputError for another order.
    """
    rows = np.arange(lines)
    if order == "linear":
        return rows
    if order == "interleaved":
        return np.concatenate([rows[::2], rows[1::2]])
    if order == "centric":
        distance = rows - lines // 2
        return np.argsort(2 * np.abs(distance) - (distance > 0))
    raise InputError(f"order {order!r} of the lines is unknown: use one of {', '.join(ORDERS)}")


def in_kspace_order(
    trajectory: Trajectory, lines: int, order: str = "linear", skipped: np.ndarray | None = None
) -> Trajectory:
    """The pose of each of the ``lines`` rows of k-space, from poses in the order of time.

    skipped  (lines,) bool: rows that parallel imaging does not acquire. They take no time, and get a pose between those
             of the acquired rows beside them, which nothing is measured in
    In linear order, with nothing skipped, that is the trajectory itself. Raises InputError as ``acquisition_order``.
    """
    rows = acquisition_order(lines, order)
    if order == "linear" and (skipped is None or not skipped.any()):
        return trajectory
    if skipped is not None:
        rows = rows[~skipped[rows]]
    poses, back = resampled(trajectory, len(rows)), np.argsort(rows)
    acquired = Trajectory(poses.translations[back], poses.rotations[back], poses.centre)
    if len(rows) == lines:
        return acquired
    places = np.sort(rows)
    return sampled(acquired, places, np.clip(np.arange(lines), places[0], places[-1]))


REDUCTIONS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Sampling:
    """How the phase-encode lines of a scan are sampled, beside that the head moves.

    partial_fourier    share of the lines that is acquired, above 0.5 to 1; the rest, all on one side, stays zero
    late               the lines that stay zero are the last ones, not the first ones: along the patient's axis for who
                       simulates, of the array's (``along``) for the methods below
    reduction          of parallel imaging: outside the calibration lines every ``reduction``-th line is acquired. With
                       several coils the others are filled in from these (``fill_lines``)
    calibration_lines  central lines that are all acquired; of an even number the odd one lies before the middle
    fill_error         for one coil, in place of that. (I, J, K) complex, smooth: the relative error, over the image, of
                       the lines that were filled in, as when the head moved between them and the calibration
                       (default: none). What is left is a faint image displaced by the field of view / ``reduction``,
                       like the residual aliasing of GRAPPA
    Raises InputError for a share or a reduction that no scanner uses, and for a fill_error without a reduction.
    """

    partial_fourier: float = 1.0
    late: bool = True
    reduction: int = 1
    calibration_lines: int = 24
    fill_error: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not 0.5 < self.partial_fourier <= 1:
            raise InputError(f"partial Fourier of {self.partial_fourier} is none; give more than 0.5, at most 1")
        if self.reduction not in REDUCTIONS:
            raise InputError(f"reduction {self.reduction} is not simulated; give one of {REDUCTIONS}")
        if self.calibration_lines < 0:
            raise InputError(f"{self.calibration_lines} calibration lines cannot be; give 0 or more")
        if self.fill_error is not None and self.reduction == 1:
            raise InputError("fill_error: without a reduction no line is filled in; give one of 2 to 4, or no error")

    def along(self, affine: np.ndarray, axis: int) -> Sampling:
        """The same for an array whose ``axis`` may run against the patient's."""
        axes, signs = ras_axes(affine)
        return self if signs[list(axes).index(axis)] > 0 else replace(self, late=not self.late)

    @property
    def full_fourier(self) -> bool:
        """Whether partial Fourier leaves no line out."""
        return self.partial_fourier == 1

    def keeps(self, lines: int) -> np.ndarray:
        """(lines,) bool: whether partial Fourier acquires each line, in the order of the array axis of k-space."""
        place = (np.arange(lines) - lines // 2) / lines
        kept: np.ndarray = (place if self.late else -place) <= self.partial_fourier - 0.5
        return kept

    def calibrates(self, lines: int) -> np.ndarray:
        """(lines,) bool: whether each line is one of the calibration lines, in the order of the array axis."""
        first = lines // 2 - self.calibration_lines // 2
        place = np.arange(lines)
        central: np.ndarray = (place >= first) & (place < first + self.calibration_lines)
        return central

    def skipped(self, lines: int) -> np.ndarray:
        """(lines,) bool: whether parallel imaging leaves out each line, in the order of the array axis of k-space."""
        between: np.ndarray = (np.arange(lines) - lines // 2) % self.reduction != 0
        return between & ~self.calibrates(lines)

    def acquired(self, kspace: np.ndarray, axis: int) -> np.ndarray:
        """(I, J, K) k-space in numpy's conventions, zero where partial Fourier along ``axis`` leaves lines out."""
        return kspace if self.full_fourier else kspace * line_weights(self.keeps(kspace.shape[axis]), axis)

    def reconstructed(self, kspace: np.ndarray, axis: int) -> np.ndarray:
        """(I, J, K) complex image of ``acquired`` k-space, with the errors of the lines that were filled in."""
        image = image_of(kspace)
        if self.fill_error is None:
            return image
        if self.fill_error.shape != image.shape:
            raise InputError(f"fill_error: of shape {self.fill_error.shape}; give one value a voxel, {image.shape}")
        wrong = self.fill_error * image_of(kspace * line_weights(self.skipped(image.shape[axis]), axis))
        return image + wrong.astype(image.dtype)


EVERY_LINE = Sampling()


def line_weights(lines: np.ndarray, axis: int) -> np.ndarray:
    """A value for each line, in the order of the array axis, shaped to multiply (I, J, K) in numpy's order."""
    return fft.ifftshift(lines.astype(np.float32)).reshape([-1 if d == axis else 1 for d in range(3)])


SOURCES = (-1, 0, 1, 2)
"""Acquired lines that a missing one is made of, in steps of the reduction from the one before it."""
KERNEL_WIDTH = 3
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
    half = KERNEL_WIDTH // 2
    shifted = np.stack([np.roll(plane, shift, axis=2) for shift in range(-half, half + 1)], axis=1)
    # (lines, samples, sources of one line), and lines of zeros where a kernel reaches over the edge
    features = np.moveaxis(shifted, 3, 1).reshape(lines, samples, KERNEL_WIDTH * coils)
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
