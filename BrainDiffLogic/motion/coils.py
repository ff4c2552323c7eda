"""Receive coils: smooth sensitivity maps that stay where they are while the head moves inside them.

Coil c receives, while a line is acquired in the pose (R, t), the k-space of s_c(r) f(R^T (r - t)). In the frame of the
head that is s_c(R x + t) f(x), moved by the pose. A map is held as a polynomial of the position, which is one of the
same degree in x, with other coefficients (``CoilMaps.seen_by_head``). So all lines and coils need only some products of
the head with a few smooth fields, the same for all poses:

    S_c(line) = sum_k w_ck(pose) (A (b_k f))(line)

with A the acquisition of ``motion.kspace``. The b_k are the principal components of what all coils are in all poses,
weighted with the head, up to ``TOLERANCE``: 10 to 17 for 8 coils at 1 to 2 mm, and at most 56, whatever the number of
coils and poses. Against moving the head for each pose and multiplying it with the map, images of a band-limited head
differ by 2e-4 of their norm, those of a head with edges by 5e-4, where motion changes them by 2e-2 to 7e-2
(``test_motion_coils.py``). Of the latter, most comes from beyond the band, where both are wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.polynomial.legendre import legvander
from scipy import fft

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.kspace import Acquisition, image_of
from BrainDiffLogic.motion.sampling import Sampling, fill_lines
from BrainDiffLogic.motion.trajectory import Trajectory, rotation_matrices
from BrainDiffLogic.volume import ras_axes

DEGREE = 5
"""Of the polynomials: 56 terms. They miss 2 % of maps made as below before these are cut to the degree, 6 % of the maps
from the calibration lines of a real 8-channel head coil (degree 3: 7 and 17 %)."""
MISSED = 0.1
"""Share of given maps that the polynomials may miss; what is simulated is the polynomials."""
FIT_POINTS = 24
"""Points along each axis at which maps are fitted."""
WIDTH, DISTANCE = 1.5, 1.3
"""Square of the coils' reach, and their distance from the middle, in halves of the field of view. In the real head coil
above the strongest |s| of a coil is 0.7 to 0.85 and the weakest 0.03 to 0.1; these give 0.7 to 0.8 and 0.05."""
AIR = 0.2
"""Weight of the corners of the field of view in the fit, where no head is."""
TERMS = [powers for powers in product(range(DEGREE + 1), repeat=3) if sum(powers) <= DEGREE]


@dataclass(frozen=True)
class CoilMaps:
    """Sensitivities of C coils as polynomials.

    coefficients  (C, terms) complex of products of Legendre polynomials, their degrees in ``TERMS``
    shape         (I, J, K) of the grid
    half          (3,) voxels from the middle of the grid that count as 1 along each axis
    """

    coefficients: np.ndarray
    shape: tuple[int, ...]
    half: np.ndarray

    @classmethod
    def fitted(cls, maps: np.ndarray, affine: np.ndarray) -> CoilMaps:
        """The polynomials nearest to ``maps`` (C, I, J, K) complex, where these are not all zero.

        Raises InputError for maps that are no such array, not finite, all zero, or not smooth.
        """
        maps = np.asarray(maps)
        if maps.ndim != 4 or not len(maps) or not np.isfinite(maps).all():
            raise InputError(f"coil maps must be finite and (coils, I, J, K), got {maps.shape}")
        shape, half = maps.shape[1:], _half(maps.shape[1:], affine)
        places, thin = _sparse(shape)
        values = np.stack([coil[thin].ravel() for coil in maps], axis=1)
        used = np.abs(values).max(axis=1) > 0
        if not used.any():
            raise InputError("coil maps are zero everywhere; give sensitivities that cover the head")
        coefficients, missed = _fit(_terms((places[used] - _middle(shape)) / half), values[used])
        if missed > MISSED:
            raise InputError(
                f"coil maps are not smooth: polynomials of degree {DEGREE} miss {100 * missed:.0f} % of them;"
                " smooth them, also where the head ends"
            )
        return cls(coefficients, shape, half)

    def __len__(self) -> int:
        return len(self.coefficients)

    def values(self) -> Iterator[np.ndarray]:
        """The map of each coil on the grid, (I, J, K) complex64."""
        for row in self.coefficients:
            yield self.field(row)

    def field(self, coefficients: np.ndarray) -> np.ndarray:
        """(I, J, K) complex64: the polynomial with these coefficients (terms,) on the grid."""
        cube: np.ndarray = np.zeros((DEGREE + 1,) * 3, dtype=np.complex64)
        cube[tuple(np.transpose(TERMS))] = coefficients
        for size, half in zip(self.shape, self.half, strict=True):  # each axis in turn, the next one comes first
            along = legvander((np.arange(size) - (size - 1) / 2) / half, DEGREE).astype(np.float32)
            cube = np.tensordot(cube, along, axes=(0, 1))
        return cube

    def seen_by_head(self, affine: np.ndarray, poses: Trajectory, centre: np.ndarray) -> np.ndarray:
        """(N, C, terms): the maps as functions of the place in the still head, for each of N poses.

        affine (4, 4) IJK to RAS mm; centre (3,) rotation centre, RAS mm. Exact: the polynomials are read at the moved
        nodes of a small grid, more than they have terms, and found again from these values.
        """
        to_mm, origin = affine[:3, :3] * self.half, affine[:3, :3] @ _middle(self.shape) + affine[:3, 3] - centre
        turns = rotation_matrices(poses.rotations)
        matrices = np.linalg.inv(to_mm) @ turns @ to_mm
        offsets = (turns @ origin + poses.translations - origin) @ np.linalg.inv(to_mm).T
        nodes = np.stack(np.meshgrid(*[np.cos(np.pi * (np.arange(7) + 0.5) / 7)] * 3), axis=-1).reshape(-1, 3)
        back = np.linalg.pinv(_terms(nodes))
        return np.stack([
            (back @ (_terms(nodes @ matrix.T + offset) @ self.coefficients.T)).T
            for matrix, offset in zip(matrices, offsets, strict=True)
        ])  # fmt: skip

    def weighed(self, image: np.ndarray) -> np.ndarray:
        """(terms, terms): scalar products of the terms over an image (I, J, K), weighted with its squared magnitude."""
        places, thin = _sparse(self.shape)
        terms = _terms((places - _middle(self.shape)) / self.half)
        return (terms * (np.abs(image[thin]).astype(np.float64) ** 2).reshape(-1, 1)).T @ terms


def smooth_coils(shape: tuple[int, ...], affine: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """(count, I, J, K) complex64 maps of a head coil, elements in rings around the S axis, sum of squares 1.

    Each is a Gaussian about the element, with a phase that turns slowly, divided by the root of the sum of squares
    and fitted by a polynomial, so that ``CoilMaps`` holds it exactly; the root of the sum of squares is 1 within 2 % in
    the ellipsoid that reaches eight tenths of the way to the ends of the field of view. ``seed`` turns the rings and
    draws the phases. Raises InputError for a count below 1.
    """
    if count < 1:
        raise InputError(f"{count} coils cannot receive anything; give 1 or more")
    rng, half = np.random.default_rng(seed), _half(shape, affine)
    places, _ = _sparse(shape)
    axes, signs = ras_axes(affine)
    unit = (places - _middle(shape)) / np.maximum((np.array(shape) - 1) / 2, 0.5)
    head = unit[:, list(axes)] * np.array(signs)  # along R, A, S, in halves of the field of view
    maps = np.stack([_element(head, position, rng) for position in _rings(count, rng)], axis=1)
    terms, weights = _terms((places - _middle(shape)) / half), np.where(np.linalg.norm(head, axis=1) <= 1, 1, AIR)
    for _ in range(2):  # the fit leaves a few % in the sum of squares; fitting again, a tenth of that
        maps = maps / np.sqrt((np.abs(maps) ** 2).sum(axis=1, keepdims=True))
        coefficients, _ = _fit(terms * weights[:, None], maps * weights[:, None])
        maps = terms @ coefficients.T
    return np.stack(list(CoilMaps(coefficients, shape, half).values()))


def _element(head: np.ndarray, position: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(P,) complex: what an element at ``position`` (3,) receives from the places ``head`` (P, 3)."""
    distance = ((head - position) ** 2).sum(axis=1)
    slope = np.cross(position, [0, 0, 1]) / DISTANCE + [0, 0, 0.5]
    return np.exp(-distance / WIDTH + 1j * (head @ slope + rng.uniform(-np.pi, np.pi)))


def _rings(count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 3): where the elements are, in halves of the field of view along R, A, S."""
    rings = min(3, 1 + count // 6)
    positions = []
    for height, members in zip(
        [0.0] if rings == 1 else np.linspace(-0.35, 0.45, rings), np.array_split(range(count), rings), strict=True
    ):
        angles = 2 * np.pi * (np.arange(len(members)) / len(members) + rng.random())
        flat = np.sqrt(1 - height**2)
        ring = [flat * np.cos(angles), flat * np.sin(angles), np.full(len(members), height)]
        positions.append(DISTANCE * np.stack(ring, axis=1))
    return np.concatenate(positions)


def _fit(terms: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, float]:
    """((C, terms), share missed): least squares for values (P, C) at P places."""
    coefficients = np.linalg.lstsq(terms, values, rcond=1e-9)[0]
    missed = float(np.linalg.norm(terms @ coefficients - values) / np.linalg.norm(values))
    return coefficients.T, missed


def _terms(places: np.ndarray) -> np.ndarray:
    """(P, terms) of places (P, 3), the middle of the grid 0 and its ends about 1."""
    along = [legvander(places[:, d], DEGREE) for d in range(3)]
    return np.stack([along[0][:, p] * along[1][:, q] * along[2][:, r] for p, q, r in TERMS], axis=1)


def _middle(shape: tuple[int, ...]) -> np.ndarray:
    return (np.array(shape) - 1) / 2


def _half(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """(3,) voxels that count as 1: half the grid, but no less than a quarter of the longest side in mm.

    So polynomials do not run away outside a slab of few slices.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    sides = (np.array(shape) - 1) * spacing
    half: np.ndarray = np.maximum(sides, max(sides.max(), 1.0) / 2) / 2 / spacing
    return half


def _sparse(shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """((P, 3) voxels, index): at most ``FIT_POINTS`` along each axis, spread evenly from end to end."""
    lines = [np.unique(np.linspace(0, size - 1, min(size, FIT_POINTS)).round().astype(int)) for size in shape]
    thin = np.ix_(*lines)
    return np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 3).astype(float), thin


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

    def moved(self, image: np.ndarray, model: Acquisition) -> np.ndarray:
        """(I, J, K) float32 magnitudes of a head that moves as the model says."""
        return self._image(moved_kspaces(image, model, self.maps))

    def _image(self, kspaces: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        for kspace in kspaces:
            if self.noise > 0:
                kspace += fft.fftn(complex_noise(kspace.shape, self.noise, rng), workers=-1)
            kspace[:] = self.sampling.acquired(kspace, self.axis)
        fill_lines(kspaces, self.axis, self.sampling)
        return combined((image_of(kspace) for kspace in kspaces), self.maps, self.combine)


def moved_kspaces(image: np.ndarray, model: Acquisition, maps: CoilMaps) -> np.ndarray:
    """(C, I, J, K) complex64: what each coil receives of ``image`` (I, J, K) that moves while it is acquired."""
    seen = maps.seen_by_head(model.affine, model.trajectory, model.centre)
    weights, fields = _components(seen, maps.weighed(image))
    weights = weights[model.rows].astype(np.complex64)
    along = [-1 if d == model.axis else 1 for d in range(3)]
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
