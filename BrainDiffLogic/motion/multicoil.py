"""A scan through several receive coils, which stay where they are while the head moves inside them.

Coil c receives, while a line is acquired in the pose (R, t), the k-space of s_c(r) f(R^T (r - t)). In the frame of the
head that is s_c(R x + t) f(x), moved by the pose. As s_c is a polynomial (``CoilMaps``), all lines and coils need only
some products of the head with a few smooth fields, the same for all poses:

    S_c(line) = sum_k w_ck(pose) (A (b_k f))(line)

with A the acquisition of ``BrainDiffLogic.motion.kspace``. The b_k are the principal components of what all coils are
in all poses, weighted with the head, up to ``TOLERANCE``: 10 to 17 for 8 coils at 1 to 2 mm, and at most 56, whatever
the number of coils and poses. Against moving the head for each pose and multiplying it with the map, images of a
band-limited head differ by 2e-4 of their norm, those of a head with edges by 5e-4, where motion changes them by 2e-2 to
7e-2 (``test_motion_coils.py``). Of the latter, most comes from beyond the band, where both are wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import fft

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.coils import CoilMaps
from BrainDiffLogic.motion.grappa import fill_lines
from BrainDiffLogic.motion.kspace import ACCURACY, Acquisition, _rows, image_of
from BrainDiffLogic.motion.sampling import Sampling
from BrainDiffLogic.motion.trajectory import Trajectory

COMBINATIONS = ("rss", "adaptive")
TOLERANCE = 1e-3
"""Share of what the coils receive, as a norm, that the components may miss."""


@dataclass(frozen=True)
class Receiver:
    """What comes after the head: coils, noise, sampling along ``axis``, and one image from all coils.

    combine  "rss": root of the sum of squares; "adaptive": the matched filter |sum conj(s_c) z_c| (Roemer et al., Magn
             Reson Med 1990;16:192), divided by the root of the sum of |s_c|^2 so that both agree without noise
    noise    standard deviation of the complex noise of each coil, in image units, as if all lines were acquired
    seed     of the noise: the same seed, the same noise in every scan
    """

    maps: CoilMaps
    axis: int
    combine: str
    sampling: Sampling
    noise: float
    seed: int

    def __post_init__(self) -> None:
        if self.combine not in COMBINATIONS:
            raise InputError(f"combination {self.combine!r} of coils is unknown: use one of {', '.join(COMBINATIONS)}")
        if self.sampling.fill_error is not None:
            raise InputError("fill_error stands in for the coils: give coils or a fill_error, not both")

    def still(self, image: np.ndarray) -> np.ndarray:
        """(I, J, K) float32 magnitudes of a head (I, J, K), real or complex, that lies still."""
        kspaces = np.stack([fft.fftn(field * image, workers=-1) for field in self.maps.values()])
        return self._image(kspaces)

    def moved(
        self,
        image: np.ndarray,
        affine: np.ndarray,
        poses: Trajectory,
        centre: np.ndarray,
        accuracy: float = ACCURACY,
    ) -> np.ndarray:
        """(I, J, K) float32 magnitudes of a head that moves: one pose for each line, as in ``Acquisition``."""
        return self._image(moved_kspaces(image, affine, poses, self.axis, centre, self.maps, accuracy))

    def _image(self, kspaces: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        for kspace in kspaces:
            if self.noise > 0:
                kspace += fft.fftn(complex_noise(kspace.shape, self.noise, rng), workers=-1)
            kspace[:] = self.sampling.acquired(kspace, self.axis)
        fill_lines(kspaces, self.axis, self.sampling)
        return combined((image_of(kspace) for kspace in kspaces), self.maps, self.combine)


def moved_kspaces(
    image: np.ndarray,
    affine: np.ndarray,
    poses: Trajectory,
    axis: int,
    centre: np.ndarray,
    maps: CoilMaps,
    accuracy: float = ACCURACY,
) -> np.ndarray:
    """(C, I, J, K) complex64: what each coil receives of ``image`` (I, J, K) that moves while it is acquired."""
    model = Acquisition(image.shape, affine, poses, axis, centre, accuracy)
    weights, fields = _components(maps.seen_by_head(affine, poses, centre), maps.weighed(image))
    weights = weights[_rows(image.shape, affine, axis)].astype(np.complex64)
    along = [-1 if d == axis else 1 for d in range(3)]
    kspaces = np.zeros((len(maps), *image.shape), dtype=np.complex64)
    for k, field in enumerate(fields):
        values = model.kspace(maps.field(field) * image)
        for coil, kspace in enumerate(kspaces):
            kspace += weights[:, coil, k].reshape(along) * values
    return kspaces


def combined(images: Iterable[np.ndarray], maps: CoilMaps, how: str) -> np.ndarray:
    """(I, J, K) float32: one magnitude image from the complex images of the coils."""
    power, signal = np.zeros(maps.shape, dtype=np.float32), np.zeros(maps.shape, dtype=np.complex64)
    for image, field in zip(images, maps.values(), strict=True):
        if how == "rss":
            power += (image.real**2 + image.imag**2).astype(np.float32)
        else:
            power += field.real**2 + field.imag**2
            signal += np.conj(field) * image
    root = np.sqrt(power)
    return root if how == "rss" else np.abs(signal) / np.maximum(root, np.finfo(np.float32).tiny)


def complex_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Complex64 Gaussian noise, ``sigma`` in each of the two parts."""
    noise = np.empty(shape, dtype=np.complex64)
    noise.real = rng.standard_normal(shape, dtype=np.float32)
    noise.imag = rng.standard_normal(shape, dtype=np.float32)
    return noise * np.float32(sigma)


def _components(seen: np.ndarray, products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((N, C, K) weights, (K, terms) fields): ``seen`` (N, C, terms) is their product, up to ``TOLERANCE``.

    products (terms, terms): the scalar products of the terms, in which the share that is missed is measured.
    """
    power, turn = np.linalg.eigh(products)
    size = np.sqrt(np.maximum(power, 1e-10 * max(power[-1], np.finfo(float).tiny)))
    rows = seen.reshape(-1, seen.shape[-1]) @ (turn * size)
    energy, components = np.linalg.eigh(rows.conj().T @ rows)
    missed = np.cumsum(np.maximum(energy, 0))
    components = components[:, missed > TOLERANCE**2 * missed[-1]]
    weights = (rows @ components).reshape(*seen.shape[:2], -1)
    return weights, components.conj().T @ (turn / size).T
