"""Implanted lesions of 2 to 8 mm with soft edges, bright and dark, in white and grey matter.

Two shapes are ellipsoids, as those that a training may have implanted; the third, two balls that run into one another,
is of no training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import ndimage

from BrainDiffLogic.ellipsoids import soft_ellipsoid
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.volume import Volume

DIAMETERS_MM = (2.0, 3.0, 4.0, 6.0, 8.0)
AXES = ((1.0, 1.0, 1.0), (0.8, 1.0, 1.25), None)
"""Semi-axes over the radius, by turns: a ball, an ellipsoid of its volume; None: the two balls of ``LOBE``."""
LOBE, BETWEEN = 0.81, 1.134
"""Radius of each of two balls and the distance of their middles, over the radius of one ball of the same volume."""
EDGE_MM = 1.0
"""Width of the soft edge."""
APART_MM = 20.0
"""Between centres: what one lesion does to the images must not reach the next."""
INSIDE_MM = 2.0
"""From a ball's edge to the end of the inner head; two balls reach further, by 0.4 radii on both sides."""
DARKEST = 0.8
"""A dark lesion takes at most this share of the signal at its middle away: magnitudes below 0 cannot exist."""


@dataclass(frozen=True, eq=False)
class Lesion:
    """One implanted lesion.

    diameter  mm; tissue: "white" or "grey"
    contrast  what it adds to a voxel that it fills, on the scene's scale; negative: dark
    box       where in the volume it lies; shape: what it fills of each voxel of the box, 0 to 1
    """

    diameter: float
    tissue: str
    contrast: float
    box: tuple[slice, ...]
    shape: np.ndarray

    def share_in(self, difference: np.ndarray) -> float:
        """How much of the lesion a difference of volumes (with it minus without, on the scale) holds: least squares."""
        found = float((difference[self.box] * self.shape).sum(dtype=np.float64))
        return found / (self.contrast * float((self.shape**2).sum(dtype=np.float64)))


def place_lesions(
    volume: Volume,
    scaled: np.ndarray,
    inside: np.ndarray,
    tissue_limits: tuple[float, float],
    contrast: float,
    rng: np.random.Generator,
) -> list[Lesion]:
    """A lesion of each diameter, tissue and sign at a random place, the large ones first, while there is room.

    scaled    (I, J, K) the volume on its scale; inside: (I, J, K) bool, where lesions may lie
    contrast  on that scale
    Raises InputError where there is no room for any.
    """
    depth = ndimage.distance_transform_edt(inside, sampling=volume.spacing)
    middle, white = tissue_limits
    tissues = {"white": inside & (scaled > white), "grey": inside & (scaled > middle) & (scaled <= white)}
    found: list[Lesion] = []
    taken: list[np.ndarray] = []
    wanted = product(sorted(DIAMETERS_MM, reverse=True), tissues, (1, -1))
    for number, (diameter, tissue, sign) in enumerate(wanted):
        room = np.argwhere(tissues[tissue] & (depth > diameter / 2 + INSIDE_MM))
        place = _free(room, taken, volume.spacing, rng)
        if place is None:
            continue
        taken.append(place)
        size = contrast if sign > 0 else -min(contrast, DARKEST * float(scaled[tuple(place)]))
        axes, radius = AXES[number % len(AXES)], diameter / 2
        if axes:
            box, shape = soft_ellipsoid(place, radius * rng.permutation(axes), EDGE_MM, volume.spacing, volume.shape)
        else:
            box, shape = two_balls(place, radius, rng.normal(size=3), volume.spacing, volume.shape)
        found.append(Lesion(diameter, tissue, size, box, shape))
    if not found:
        raise InputError(f"{volume.name}: no room for a lesion inside the head; give a whole head")
    return found


def two_balls(
    place: np.ndarray, radius: float, along: np.ndarray, spacing: np.ndarray, shape: Sequence[int]
) -> tuple[tuple[slice, ...], np.ndarray]:
    """As ``soft_ellipsoid``, of two balls that run into one another, with the volume of one ball of ``radius`` (mm).

    along  (3,) from one middle to the other; its length does not count
    """
    half = BETWEEN * radius / 2 * along / np.linalg.norm(along)
    ball = np.full(3, LOBE * radius)
    box, around = soft_ellipsoid(place, ball + BETWEEN * radius / 2 + spacing, EDGE_MM, spacing, shape)
    filled = np.zeros_like(around)
    for step in (half, -half):
        part, one = soft_ellipsoid(place + step / spacing, ball, EDGE_MM, spacing, shape)
        within = tuple(slice(p.start - b.start, p.stop - b.start) for p, b in zip(part, box, strict=True))
        filled[within] = np.maximum(filled[within], one)
    return box, filled


def implanted(volume: Volume, lesions: Iterable[Lesion], unit: float) -> Volume:
    """The volume with the lesions in it; ``unit``: of the scale, in the volume's units."""
    array = volume.array.copy()
    for lesion in lesions:
        array[lesion.box] += np.float32(unit * lesion.contrast) * lesion.shape
    return volume.with_array(array)


def _free(
    room: np.ndarray, taken: list[np.ndarray], spacing: np.ndarray, rng: np.random.Generator
) -> np.ndarray | None:
    """A random voxel of ``room`` (n, 3) that is far enough from those that are taken; None where there is none."""
    for place in taken:
        room = room[np.linalg.norm((room - place) * spacing, axis=1) >= APART_MM]
    return room[rng.integers(len(room))] if len(room) else None
