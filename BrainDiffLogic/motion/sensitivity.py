"""How the magnitude of a scan changes with small poses of its lines: the derivative of the forward model."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy import fft

from BrainDiffLogic.motion.kspace import Acquisition, image_of, spectrum_of
from BrainDiffLogic.motion.lanes import in_slabs
from BrainDiffLogic.motion.trajectory import rotation_matrices

TINY = 1e-12


class Sensitivity:
    """The linear map from small poses of the lines to the change of the magnitude y = |A(poses) x|, and its adjoint.

    For a small motion (t, w) that follows the pose (R, T) of a line, S(k) changes by -2 pi i k.t S(k) for a translation
    t in mm, and by -2 pi i w.(M(k) x k) for a rotation vector w in radians, where M = R applied to the k-space of the
    still image times its position from the rotation centre. So the derivatives of all lines cost three non-uniform FFTs
    beside S's own.

    model   the acquisition in the poses around which is linearised
    image   (I, J, K) float32, the still head; signal: its k-space, where that is known
    Poses are (N, 6) in the order of time, N lines: mm along R, A, S, then degrees of a rotation vector about them.
    """

    def __init__(self, model: Acquisition, image: np.ndarray, signal: np.ndarray | None = None) -> None:
        self.model, self.lines = model, model.shape[model.axis]
        self.signal = model.kspace(image) if signal is None else signal
        self.changes = _derivatives(model, image, self.signal)
        self.magnitude, self.phase = polar(image_of(self.signal))

    @cached_property
    def _parts(self) -> np.ndarray:
        """(lines, 6, 2 A B): the changes, real and imaginary parts beside each other, for real products."""
        return self.changes.view(np.float32).reshape(self.lines, 6, -1)

    def forward(self, poses: np.ndarray) -> np.ndarray:
        """(I, J, K) float32: the change of the magnitude when each line's pose (N, 6) is added."""
        weights = poses[self.model.rows].astype(np.float32)
        kspace = (weights[:, None] @ self._parts).view(np.complex64).reshape(self.lines, *self.changes.shape[2:])
        change: np.ndarray = (np.conj(self.phase) * image_of(np.moveaxis(kspace, 0, self.model.axis), True)).real
        return change

    def adjoint(self, image: np.ndarray) -> np.ndarray:
        """(N, 6) float64: the adjoint of ``forward`` on (I, J, K) real values."""
        kspace = np.ascontiguousarray(np.moveaxis(spectrum_of(self.phase * image, True), self.model.axis, 0))
        poses = np.empty((self.lines, 6))
        poses[self.model.rows] = (self._parts @ kspace.view(np.float32).reshape(self.lines, -1, 1))[..., 0]
        return poses

    @cached_property
    def blocks(self) -> np.ndarray:
        """(N, 6, 6): each line's own part of the curvature J^T J, half of its energy (the other half is imaginary)."""
        blocks = np.empty((self.lines, 6, 6))
        blocks[self.model.rows] = 0.5 * (self._parts @ self._parts.transpose(0, 2, 1)) / np.prod(self.model.shape)
        return blocks


def _derivatives(model: Acquisition, image: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """(lines, 6, A, B) complex64: how the k-space changes with the pose of its line, in FFT order."""
    first = model.axis
    along = [np.moveaxis(k, first, 0) for k in _patient_frequencies(model)]
    moments = [np.moveaxis(model.kspace(image * position), first, 0) for position in _positions(model)]
    turns = rotation_matrices(model.trajectory.rotations)[model.rows].astype(np.float32)[:, :, :, None, None]
    turned = [sum(turns[:, a, b] * moments[b] for b in range(3)) for a in range(3)]
    lines = np.moveaxis(signal, first, 0)
    changes = np.empty((len(lines), 6, *lines.shape[1:]), dtype=np.complex64)
    for d in range(3):
        a, b = (d + 1) % 3, (d + 2) % 3
        changes[:, d] = np.complex64(-2j * np.pi) * along[d] * lines
        changes[:, 3 + d] = np.complex64(-2j * np.pi * np.deg2rad(1)) * (turned[a] * along[b] - turned[b] * along[a])
    return changes


def _patient_frequencies(model: Acquisition) -> list[np.ndarray]:
    """Three arrays that broadcast to (I, J, K): frequencies along R, A, S in cycles per mm, in FFT order."""
    to_mm = np.linalg.inv(model.affine[:3, :3]).astype(np.float32)
    axes = [_along(fft.fftfreq(size), d) for d, size in enumerate(model.shape)]
    return [sum(to_mm[d, row] * axes[d] for d in range(3)) for row in range(3)]


def _positions(model: Acquisition) -> list[np.ndarray]:
    """Three arrays (I, J, K): positions along R, A, S in mm from the rotation centre."""
    grid = [_along(np.arange(size), d) for d, size in enumerate(model.shape)]
    offset = (model.affine[:3, 3] - model.centre).astype(np.float32)
    matrix = model.affine[:3, :3].astype(np.float32)
    return [sum(matrix[row, d] * grid[d] for d in range(3)) + offset[row] for row in range(3)]


def _along(values: np.ndarray, axis: int) -> np.ndarray:
    return values.astype(np.float32).reshape([-1 if d == axis else 1 for d in range(3)])


def polar(moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude and phase, a complex number of size 1, of (I, J, K) complex values; the phase takes their place."""
    magnitude = np.empty(moved.shape, moved.real.dtype)

    def part(slab: slice) -> None:
        np.abs(moved[slab], out=magnitude[slab])
        moved[slab] /= np.maximum(magnitude[slab], TINY)

    in_slabs(part, moved.shape)
    return magnitude, moved
