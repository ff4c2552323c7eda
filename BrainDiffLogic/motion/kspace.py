"""The forward model of rigid motion in 3D Cartesian k-space.

While a line of k-space is acquired in the pose (R, t), the still image f with the spectrum F gives
S(k) = exp(-2 pi i k.t) F(R^T k), k in cycles/mm, the phase of F counted from the rotation centre. F is needed
between the points of the Cartesian grid: a non-uniform FFT of type 2 (finufft) evaluates it exactly, at a
cost that does not depend on the number of poses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy import fft

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.lanes import in_slabs, threads
from BrainDiffLogic.motion.trajectory import Trajectory, rotation_matrices
from BrainDiffLogic.volume import ras_axes

FINER_GRID, COARSE_ACCURACY = 1.25, 1e-4
"""finufft interpolates on a grid so many times as fine. Left to itself it takes 2 for type 2, where the FFT of eight
times as many voxels costs twice what the wider kernel does on the smaller grid (184 x 182 x 210, 1e-3: 2.1 to 1.0
s)."""
ACCURACY = 1e-4
"""Relative accuracy asked of finufft: four orders below the artifacts, and hardly slower than 1e-2."""
STILL = 1e-7
"""A rotation matrix this close to the identity does not turn the head."""
PE_AXES = {"LR": 0, "AP": 1, "SI": 2}
"""Phase-encode axes in patient terms, and their row in RAS."""


def phase_encode_axis(affine: np.ndarray, pe_axis: str) -> int:
    """The array axis nearest to the patient axis "AP", "SI" or "LR"."""
    if pe_axis not in PE_AXES:
        raise InputError(f"phase-encode axis {pe_axis!r} is unknown: use AP, SI or LR")
    return int(ras_axes(affine)[0][PE_AXES[pe_axis]])


class Acquisition:
    """The linear map A from a still object to the scan of it in motion, one pose for each line along ``axis``.

    shape       (I, J, K) of image and k-space, in numpy's conventions: without motion k-space is ``fftn(image)``
    affine      (4, 4) IJK to RAS mm
    trajectory  one pose a line: row N // 2 belongs to the zero frequency, the rows before it to negative
                frequencies along the patient's axis towards R, A or S (linear ordering), whichever way the
                array runs
    centre      (3,) rotation centre, RAS mm
    Rotated samples outside the band of the image are unknown and set to zero. Raises InputError for another number of
    poses than lines.
    """

    def __init__(
        self, shape: tuple[int, ...], affine: np.ndarray, trajectory: Trajectory, axis: int, centre: np.ndarray,
        accuracy: float = ACCURACY,
    ) -> None:  # fmt: skip
        if len(trajectory) != shape[axis]:
            raise InputError(f"{len(trajectory)} poses for {shape[axis]} phase-encode lines; resample the trajectory")
        self.shape, self.affine, self.axis, self.accuracy = shape, affine, axis, accuracy
        self.trajectory, self.centre = trajectory, centre
        self.rows = line_rows(shape, affine, axis)
        self.shifts = _shifts(shape, affine, trajectory, centre)
        turned = np.abs(rotation_matrices(trajectory.rotations) - np.eye(3)).max(axis=(1, 2)) > STILL
        self.points = None  # translations alone: the plain FFT is exact
        if turned.any():
            self.points = sample_points(shape, affine, trajectory.rotations, axis)
            # finufft counts the phase from the voxel N // 2, numpy from the first one
            self.shifts = self.shifts + np.array(shape) // 2
        self._made: Any = None
        self._cut: tuple[np.ndarray, ...] | None = None

    def kspace(self, image: np.ndarray) -> np.ndarray:
        """(I, J, K) complex64 k-space of ``image`` (I, J, K), real or complex, that moves while it is acquired."""
        if self.points is None:
            values = fft.fftn(image.astype(np.complex64), overwrite_x=True, workers=threads())
            values = np.moveaxis(values, self.axis, 0)
        else:
            voxels = np.ascontiguousarray(image, dtype=np.complex64)
            with _memory_of_finufft():
                values = self._plan.execute(voxels).reshape(self.points.shape[1:])
        _shift_lines(values, self.shape, self.affine, self.axis, self.shifts)
        if self.points is not None:
            values[self._outside()] = 0
        return np.moveaxis(values, 0, self.axis)

    def adjoint(self, kspace: np.ndarray) -> np.ndarray:
        """(I, J, K) complex64: the adjoint of ``kspace``, each sample put back where the pose says it was taken."""
        values = np.moveaxis(kspace, self.axis, 0).astype(np.complex64, order="C")
        del kspace  # which may be the last to hold a hundred megabytes
        _shift_lines(values, self.shape, self.affine, self.axis, -self.shifts)
        if self.points is None:
            return fft.ifftn(np.moveaxis(values, 0, self.axis), norm="forward", overwrite_x=True, workers=threads())
        values[self._outside()] = 0
        with _memory_of_finufft():
            return self._plan.execute_adjoint(values.reshape(-1))

    @property
    def _plan(self) -> Any:
        """A finufft plan of type 2, and of type 1 backwards, that has sorted the points."""
        import finufft

        if self._made is None:
            finer = FINER_GRID if self.accuracy >= COARSE_ACCURACY else 0  # 0: finufft chooses
            self._made = finufft.Plan(
                2, self.shape, eps=self.accuracy, isign=-1, dtype=np.complex64, upsampfac=finer, nthreads=threads()
            )
            self._made.setpts(*self.points.reshape(3, -1))  # type: ignore[union-attr]
        return self._made

    def _outside(self) -> tuple[np.ndarray, ...]:
        """Where the rotated samples (lines, A, B) lie outside the band, found once."""
        if self._cut is None:
            self._cut = _outside_band(self.points, self.shape)  # type: ignore[arg-type]
        return self._cut


@contextmanager
def _memory_of_finufft() -> Iterator[None]:
    """Its failed allocations are RuntimeErrors: raised as what they are."""
    try:
        yield
    except RuntimeError as error:
        if "malloc" in str(error):
            raise MemoryError(str(error)) from error
        raise


def sample_points(shape: tuple[int, ...], affine: np.ndarray, rotations: np.ndarray, axis: int) -> np.ndarray:
    """Where the still image's spectrum is sampled: (3, lines, A, B) float32, radians per voxel along I, J, K.

    The phase-encode lines along ``axis`` come first, then the other two axes A and B, each in numpy's FFT
    order.
    """
    k, turns = [along.astype(np.float32) for along in _frequencies(shape)], _voxel_turns(affine, rotations)
    first, second = _readout_axes(axis)
    points = np.empty((3, shape[axis], shape[first], shape[second]), dtype=np.float32)
    turns = turns[line_rows(shape, affine, axis)].astype(np.float32)

    def fill(lines: slice) -> None:
        for line in range(shape[axis])[lines]:
            turn = turns[line]
            for d in range(3):
                along_second = turn[d, second] * k[second] + turn[d, axis] * k[axis][line]
                np.add.outer(turn[d, first] * k[first], along_second, out=points[d, line])

    in_slabs(fill, points.shape[1:])
    return points


def _shifts(shape: tuple[int, ...], affine: np.ndarray, trajectory: Trajectory, centre: np.ndarray) -> np.ndarray:
    """(N, 3) in voxels: where each pose takes the voxel N // 2, beside turning about it."""
    to_voxel = np.linalg.inv(affine[:3, :3])
    from_centre = affine[:3, :3] @ (np.array(shape) // 2) + affine[:3, 3] - centre
    moved = trajectory.translations + (rotation_matrices(trajectory.rotations) - np.eye(3)) @ from_centre
    return moved @ to_voxel.T


def _shift_lines(values: np.ndarray, shape: tuple[int, ...], affine: np.ndarray, axis: int, shifts: np.ndarray) -> None:
    """Multiply each line (A, B) by exp(-i k . shift) of its pose, shifts (N, 3) in voxels; in place."""
    k = _frequencies(shape)
    first, second = _readout_axes(axis)
    for line, row in enumerate(line_rows(shape, affine, axis)):
        shift = shifts[row]
        along_first = np.exp(-1j * (k[first] * shift[first] + k[axis][line] * shift[axis]))
        along_second = np.exp(-1j * k[second] * shift[second])
        values[line] *= along_first.astype(np.complex64)[:, None]
        values[line] *= along_second.astype(np.complex64)


def _outside_band(points: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """The indices (lines, A, B) of what lies more than half a sample outside the band."""
    limits = [np.float32(np.pi * (1 + 1 / size)) for size in shape]
    samples = []
    for line in range(points.shape[1]):
        outside = np.zeros(points.shape[2:], dtype=bool)
        for along, limit in zip(points[:, line], limits, strict=True):
            if along.max() > limit or along.min() < -limit:
                outside |= np.abs(along) > limit
        first, second = np.nonzero(outside)
        samples.append((np.full(len(first), line), first, second))
    return tuple(np.concatenate(parts) for parts in zip(*samples, strict=True))


def _frequencies(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Angular frequencies in radians per voxel along each axis, in numpy's FFT order."""
    return [2 * np.pi * fft.fftfreq(size) for size in shape]


def line_rows(shape: tuple[int, ...], affine: np.ndarray, axis: int) -> np.ndarray:
    """(lines,) the row of the trajectory for each line along ``axis`` in FFT order."""
    axes, signs = ras_axes(affine)
    lines, sign = shape[axis], signs[list(axes).index(axis)]
    return (sign * np.round(lines * fft.fftfreq(lines)).astype(int) + lines // 2) % lines


def _voxel_turns(affine: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """(N, 3, 3): R^T of each pose for frequencies per voxel, which go with the affine's transpose."""
    to_mm = affine[:3, :3]
    back = rotation_matrices(rotations).transpose(0, 2, 1)
    return np.einsum("ij,njk,kl->nil", to_mm.T, back, np.linalg.inv(to_mm).T)


def _readout_axes(axis: int) -> tuple[int, int]:
    first, second = (other for other in range(3) if other != axis)
    return first, second


def image_of(kspace: np.ndarray, overwrite: bool = False) -> np.ndarray:
    """The complex image (I, J, K) of ``Acquisition.kspace``; ``overwrite``: in its memory, which spares a copy."""
    return fft.ifftn(kspace, overwrite_x=overwrite, workers=threads())


def spectrum_of(image: np.ndarray, overwrite: bool = False) -> np.ndarray:
    """The adjoint of ``image_of``: (I, J, K) complex."""
    values: np.ndarray = fft.fftn(image, norm="forward", overwrite_x=overwrite, workers=threads())
    return values
