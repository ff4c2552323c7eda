"""Lesions that are there must stay, and lesions that are not there must not appear.

An implanted lesion is the difference of two corrected scans, with it and without, so that nothing else counts; its
share is the amplitude of the implanted shape in it. Motion itself weakens a lesion: a correction is held against what
the moved scan still shows.

A new lesion is a blob in what a correction leaves or adds: an extremum of the scale-normalised Laplacian of Gaussian of
the error (corrected minus still), at the scales of 2 to 8 mm, that is round (Lindeberg, IJCV 1998; the test of the
Hessian after Lowe, IJCV 2004). Only new ones count: those that exceed all of their sign that the moved scan's own error
has at their place, and by so much that a lesion could be seen in the excess. Without that margin, a correction that
shifts the ripples of motion by a little has hundreds of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from scipy import ndimage

from BrainDiffLogic.evaluation.methods import Method
from BrainDiffLogic.evaluation.safety.checks import Outcome, at_least, at_most
from BrainDiffLogic.evaluation.safety.scene import DIAMETERS_MM, Case, Lesion, Scene

IMPLANTED, ABSENT = "implanted lesions", "absent lesions"
LEAST_KEPT = 0.9
"""Mean share of the moved scan's lesion contrast. A lesion that gains does not make up for one that loses."""
DELETED = 0.5
"""A lesion that keeps less of its contrast than this is gone for a reader."""
VISIBLE = 0.2
"""A lesion of which the moved scan shows less of the truth than this was lost before any correction."""
SMALL_MM = 3.0
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
class Found:
    """A lesion's share of the truth in the moved scan and in the corrected one."""

    lesion: Lesion
    moved: float
    corrected: float

    @property
    def kept(self) -> float:
        """Of what the moved scan shows."""
        return self.corrected / self.moved


def check_implanted_lesions(method: Method, scene: Scene) -> list[Outcome]:
    """On each scan: the mean share of contrast that is kept, and the number of lesions that are deleted."""
    outcomes = []
    for case in scene.cases:
        found = find_lesions(method, scene, case)
        seen = [each for each in found if each.moved >= VISIBLE]
        deleted = [each for each in seen if each.kept < DELETED]
        outcomes += [
            at_least(IMPLANTED, f"{case.name}: contrast kept", _kept(seen), LEAST_KEPT, "", _note(found, seen)),
            at_most(IMPLANTED, f"{case.name}: deleted", len(deleted), 0, "lesions", _names(deleted)),
        ]
    return outcomes


def find_lesions(method: Method, scene: Scene, case: Case) -> list[Found]:
    """Every lesion of the scene in one case."""
    moved = scene.scaled(case.lesioned.array - case.plain.array)
    corrected = scene.scaled(method(case.lesioned) - method(case.plain))
    return [Found(lesion, lesion.share_in(moved), lesion.share_in(corrected)) for lesion in scene.lesions]


def _kept(found: list[Found]) -> float:
    return float(np.mean([min(1.0, each.kept) for each in found])) if found else float("nan")


def _note(found: list[Found], seen: list[Found]) -> str:
    groups = {
        "bright": [each for each in seen if each.lesion.contrast > 0],
        "dark": [each for each in seen if each.lesion.contrast < 0],
        f"up to {SMALL_MM:g} mm": [each for each in seen if each.lesion.diameter <= SMALL_MM],
        "larger": [each for each in seen if each.lesion.diameter > SMALL_MM],
    }
    parts = [f"{name} {_kept(group):.2f}" for name, group in groups.items() if group]
    truth = [float(np.mean([getattr(each, name) for each in found])) for name in ("moved", "corrected")]
    count = f"{len(seen)} of {len(found)} lesions seen in the moved scan"
    return f"{', '.join(parts)}; of the truth {truth[0]:.2f} before, {truth[1]:.2f} after; {count}"


def _names(deleted: list[Found]) -> str:
    return ", ".join(
        f"{each.lesion.diameter:g} mm {'bright' if each.lesion.contrast > 0 else 'dark'} in {each.lesion.tissue}"
        for each in deleted
    )


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
        outcomes.append(at_most(ABSENT, case.name, len(blobs), 0, "blobs", note))
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
        places = np.argwhere(peaks)
        for place in places[_round(after, sigma, places)] if len(places) else ():
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


def _round(array: np.ndarray, sigma: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(n,) bool: whether the array, smoothed by ``sigma`` (3,) voxels, curves alike along all directions at (n, 3)."""
    width = np.maximum(sigma, SMALLEST_SIGMA)
    hessian = np.empty((len(places), 3, 3))
    for first, second in combinations_with_replacement(range(3), 2):
        order = tuple((axis == first) + (axis == second) for axis in range(3))
        smooth = width[first] * width[second] * ndimage.gaussian_filter(array, width, order=order)
        hessian[:, first, second] = hessian[:, second, first] = smooth[tuple(places.T)]
    curvatures = np.linalg.eigvalsh(hessian)
    sizes = np.abs(curvatures)
    one_sign = np.all(curvatures < 0, axis=1) | np.all(curvatures > 0, axis=1)
    return one_sign & (sizes.max(axis=1) <= ROUNDEST * sizes.min(axis=1))


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
