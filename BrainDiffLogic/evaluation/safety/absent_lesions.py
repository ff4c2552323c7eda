"""Lesions that are not there must not appear: focal blobs in what a correction leaves or adds.

Blobs are the extrema of the scale-normalised Laplacian of Gaussian of the error (corrected minus still), at the scales
of 2 to 8 mm, that are round (Lindeberg, IJCV 1998; the test of the Hessian after Lowe, IJCV 2004). Only new ones count:
those that exceed all of their sign that the moved scan's own error has at their place, and by so much that a lesion
could be seen in the excess. Without that margin, a correction that shifts the ripples of motion by a little has
hundreds of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import ndimage

from BrainDiffLogic.evaluation.methods import Method
from BrainDiffLogic.evaluation.safety.outcome import Outcome, at_most
from BrainDiffLogic.evaluation.safety.scene import Scene

CHECK = "absent lesions"
DIAMETERS_MM = (2.0, 3.0, 4.0, 6.0, 8.0)
NOISE_LIMIT = 5.0
"""Standard deviations of the noise in the same filter: Rose's criterion for what is seen reliably (JOSA 1948)."""
LESION_LIMIT = 0.5
"""The least excess, of the response to a lesion of one tissue step: half a lesion, as in ``implanted_lesions``."""
BALL_RESPONSE = 3 * np.sqrt(6 / np.pi) * np.exp(-1.5)
"""0.925: response of the filter, sigma = radius / sqrt(3), at the middle of a ball of contrast 1."""
ROUNDEST = 10.0
"""Largest over smallest curvature beyond which an extremum is an edge or a line (Lowe's limit)."""
SMALLEST_SIGMA = 0.7
"""Voxels; the sampled filter means nothing below."""
REACH = 3.0
"""Standard deviations around the inner head that the filters need."""


@dataclass(frozen=True)
class Blob:
    """A new extremum: diameter in mm, voxel, and its excess as a share of a lesion's response, negative where dark."""

    diameter: float
    place: tuple[int, ...]
    excess: float


def check_absent_lesions(method: Method, scene: Scene) -> list[Outcome]:
    """The number of new blobs in the error of each corrected scan."""
    outcomes = []
    for case in scene.cases:
        before, after = (scene.scaled(array - scene.still.array) for array in (case.plain.array, method(case.plain)))
        blobs = new_blobs(before, after, scene)
        note = ""
        if blobs:
            worst = max(blobs, key=lambda blob: abs(blob.excess))
            kind = "bright" if worst.excess > 0 else "dark"
            size, share = f"{worst.diameter:g} mm", f"{100 * abs(worst.excess):.0f} %"
            note = f"strongest: {kind}, {size}, {share} of a lesion, at voxel {', '.join(map(str, worst.place))}"
        outcomes.append(at_most(CHECK, case.name, len(blobs), 0, "blobs", note))
    return outcomes


def new_blobs(before: np.ndarray, after: np.ndarray, scene: Scene) -> list[Blob]:
    """Blobs of the error ``after`` that ``before`` has not, both (I, J, K) on the scene's scale."""
    if not np.any(after != before):
        return []
    sigmas = [diameter / 2 / np.sqrt(3) / scene.still.spacing for diameter in DIAMETERS_MM]
    margin = np.ceil(REACH * sigmas[-1]).astype(int)
    box = ndimage.find_objects(scene.inside.astype(np.uint8))[0]
    cut = tuple(slice(max(0, side.start - m), side.stop + m) for side, m in zip(box, margin, strict=True))
    inside, before, after = scene.inside[cut], before[cut], after[cut]
    unit = float(BALL_RESPONSE) * scene.tissue_step
    responses = [_response(before, sigma) for sigma in sigmas]
    bright, dark = np.max(responses, axis=0), -np.min(responses, axis=0)
    found: list[Blob] = []
    for diameter, sigma in zip(DIAMETERS_MM, sigmas, strict=True):
        reach = np.maximum(1, np.round(diameter / 2 / scene.still.spacing)).astype(int)
        response = _response(after, sigma)
        size = np.abs(response)
        known = [ndimage.maximum_filter(np.maximum(each, 0), 2 * reach + 1) for each in (bright, dark)]
        excess = np.sign(response) * (size - np.where(response > 0, *known))
        least = max(LESION_LIMIT * unit, NOISE_LIMIT * scene.noise * _noise_gain(sigma))
        peaks = inside & (excess * np.sign(response) > least) & (size == ndimage.maximum_filter(size, 3))
        curvature = _Curvature(after, sigma)
        for place in np.argwhere(peaks):
            if curvature.is_round(place):
                where = tuple(int(p + side.start) for p, side in zip(place, cut, strict=True))
                found.append(Blob(diameter, where, float(excess[tuple(place)]) / unit))
    return _distinct(found, scene.still.spacing)


def _response(array: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Minus the scale-normalised Laplacian of Gaussian, positive at bright blobs; ``sigma`` (3,) in voxels."""
    width = np.maximum(sigma, SMALLEST_SIGMA)
    orders = np.eye(3, dtype=int) * 2
    return -sum(
        np.float32(width[axis] ** 2) * ndimage.gaussian_filter(array, width, order=tuple(orders[axis]))
        for axis in range(3)
    )


def _noise_gain(sigma: np.ndarray) -> float:
    """Standard deviation of the response to white noise of 1: the root of the filter's summed squares."""
    half = np.ceil(4 * np.maximum(sigma, SMALLEST_SIGMA)).astype(int) + 1
    impulse = np.zeros(2 * half + 1, dtype=np.float32)
    impulse[tuple(half)] = 1
    return float(np.sqrt((_response(impulse, sigma) ** 2).sum(dtype=np.float64)))


class _Curvature:
    """The Hessian of an array smoothed by ``sigma`` (3,) voxels, at single voxels, in units of sigma."""

    def __init__(self, array: np.ndarray, sigma: np.ndarray) -> None:
        width = np.maximum(sigma, SMALLEST_SIGMA)
        self.half = np.ceil(4 * width).astype(int)
        self.padded = np.pad(array, [(n, n) for n in self.half], mode="reflect")
        self.kernels = [
            [w**order * _kernel(w, int(n), order) for order in range(3)] for w, n in zip(width, self.half, strict=True)
        ]

    def is_round(self, place: np.ndarray) -> bool:
        """Whether it curves alike along all directions at a voxel."""
        part = self.padded[tuple(slice(at, at + 2 * n + 1) for at, n in zip(place, self.half, strict=True))]
        hessian = np.empty((3, 3))
        for first, second in product(range(3), repeat=2):
            orders = [(axis == first) + (axis == second) for axis in range(3)]
            value = part
            for axis in range(3):  # each product takes the first axis that is left
                value = np.tensordot(self.kernels[axis][orders[axis]], value, axes=(0, 0))
            hessian[first, second] = value
        curvatures = np.linalg.eigvalsh(hessian)
        least, most = np.abs(curvatures).min(), np.abs(curvatures).max()
        return bool(np.all(curvatures < 0) or np.all(curvatures > 0)) and bool(most <= ROUNDEST * least)


def _kernel(sigma: float, half: int, order: int) -> np.ndarray:
    impulse = np.zeros(2 * half + 1)
    impulse[half] = 1
    return ndimage.gaussian_filter1d(impulse, sigma, order=order, mode="constant")


def _distinct(blobs: list[Blob], spacing: np.ndarray) -> list[Blob]:
    """The strongest of those that lie within each other: one lesion answers at several scales."""
    kept: list[Blob] = []
    for blob in sorted(blobs, key=lambda blob: -abs(blob.excess)):
        distances = [float(np.linalg.norm((np.array(blob.place) - other.place) * spacing)) for other in kept]
        if all(
            distance > max(blob.diameter, other.diameter) / 2 for distance, other in zip(distances, kept, strict=True)
        ):
            kept.append(blob)
    return kept
