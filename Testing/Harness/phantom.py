"""A head-like phantom whose Fourier transform is known in closed form, still and moved.

Blurred ellipsoids: the transform of an ellipsoid (Koay, Sarlls and Ozarslan, Magn Reson Med 2007;58:430, eq.
3-6) times that of a Gaussian. The blur makes the image as good as band-limited, so that its samples on a grid
hold all of it and a simulation can be compared with the formula to the accuracy of the arithmetic, without
any interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ellipsoid:
    """centre (3,) and semi-axes (3,) in RAS mm, turned by a rotation matrix, with a value inside."""

    centre: tuple[float, float, float]
    semi_axes: tuple[float, float, float]
    value: float
    turn: tuple[tuple[float, ...], ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))

    def spectrum(self, k: np.ndarray) -> np.ndarray:
        """Fourier transform at (..., 3) cycles/mm, phase counted from the RAS origin."""
        radius = 2 * np.pi * np.linalg.norm((k @ np.array(self.turn)) * self.semi_axes, axis=-1)
        safe = np.maximum(radius, 1e-3)
        shape = np.where(radius < 1e-3, 1 / 3, (np.sin(safe) - safe * np.cos(safe)) / safe**3)
        volume = 4 * np.pi * np.prod(self.semi_axes)
        return self.value * volume * shape * np.exp(-2j * np.pi * k @ np.array(self.centre))


TILT = ((0.8, -0.6, 0.0), (0.6, 0.8, 0.0), (0.0, 0.0, 1.0))
HEAD = (
    Ellipsoid((0, 0, 0), (13, 16, 14), 500),
    Ellipsoid((-4, 2, 3), (5, 9, 4), 300, TILT),
    Ellipsoid((5, -4, -2), (3, 6, 5), -250),
    Ellipsoid((0, 16.5, -3), (2.5, 3.5, 3), 450),
)
"""No mirror symmetry on any axis; the last one is the nose, which points to A."""
NOSE = HEAD[-1:]


@dataclass(frozen=True)
class Phantom:
    """Ellipsoids blurred by a Gaussian of standard deviation ``blur`` in mm."""

    parts: tuple[Ellipsoid, ...] = HEAD
    blur: float = 1.6

    def spectrum(self, k: np.ndarray) -> np.ndarray:
        """Fourier transform at (..., 3) cycles/mm, phase counted from the RAS origin."""
        gauss = np.exp(-2 * (np.pi * self.blur) ** 2 * (k**2).sum(axis=-1))
        return gauss * sum(part.spectrum(k) for part in self.parts)

    def moved_spectrum(self, k: np.ndarray, turn: np.ndarray, shift: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """The transform when each point x has moved to turn (x - centre) + centre + shift."""
        there = k @ (centre + shift)
        back = k @ turn  # R^T k
        return np.exp(-2j * np.pi * (there - back @ centre)) * self.spectrum(back)

    def kspace(self, shape: tuple[int, int, int], affine: np.ndarray, poses: dict | None = None) -> np.ndarray:
        """Its samples on a grid in the conventions of ``fftn(image)``.

        poses  None (still), or axis (array axis of the lines), rows (pose of each line in FFT order), turns
               (N, 3, 3), shifts (N, 3) and centre (3,)
        """
        k = frequencies(shape, affine)
        if poses is None:
            samples = self.spectrum(k)
        else:
            lines = np.moveaxis(k, poses["axis"], 0)
            moved = [
                self.moved_spectrum(line, poses["turns"][row], poses["shifts"][row], poses["centre"])
                for line, row in zip(lines, poses["rows"], strict=True)
            ]
            samples = np.moveaxis(np.stack(moved), 0, poses["axis"])
        return samples * np.exp(2j * np.pi * k @ affine[:3, 3]) / abs(np.linalg.det(affine[:3, :3]))

    def image(self, shape: tuple[int, int, int], affine: np.ndarray, poses: dict | None = None) -> np.ndarray:
        """(I, J, K) values; magnitudes where it moves."""
        image = np.fft.ifftn(self.kspace(shape, affine, poses))
        return (image.real if poses is None else np.abs(image)).astype(np.float32)


def frequencies(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """(I, J, K, 3) cycles/mm in RAS of each sample in numpy's FFT order."""
    per_voxel = np.stack(np.meshgrid(*(np.fft.fftfreq(size) for size in shape), indexing="ij"), axis=-1)
    return per_voxel @ np.linalg.inv(affine[:3, :3])
