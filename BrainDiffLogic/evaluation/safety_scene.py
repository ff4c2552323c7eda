"""A head as the checks see it: still and moved, with lesions implanted and without, and what is known of its truth.

Lesions have 2 to 8 mm and soft edges, are bright and dark, in white and grey matter. Two shapes are ellipsoids, as
those that a training may have implanted; the third, two balls that run into one another, is of no training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_multiotsu

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.metrics.sharpness import noise_of
from BrainDiffLogic.motion import preset, simulate_motion, with_severity
from BrainDiffLogic.motion.kspace import Acquisition, image_of, phase_encode_axis
from BrainDiffLogic.motion.trajectory import Trajectory
from BrainDiffLogic.scan import RobustScale, Scan, head_mask, mask_box
from BrainDiffLogic.volume import Volume, affine_from, ras_axes, soft_ellipsoid

STILL = "still"
MOTIONS = (("steps", 1.5, "AP"), ("tremor", 3.0, "SI"))
"""Preset, mean displacement in mm and phase-encode axis: a moderate and a strong motion (MR-ART's nods are 1-3 mm)."""
MARGIN = 12
"""Voxels kept around the head."""
TISSUE_PERCENTILES = (0.5, 99.5)
"""Of the inner head: vessels and fat beyond them set no limit between tissues."""
GREY_LEVEL = 1 / 256
"""Of the robust scale: what an 8-bit display cannot show. Noise counts as at least that much."""
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
        overlap = float((difference[self.box] * self.shape).sum(dtype=np.float64))
        return overlap / (self.contrast * float((self.shape**2).sum(dtype=np.float64)))


def place_lesions(
    volume: Volume, scaled: np.ndarray, inside: np.ndarray, tissue_limits: tuple[float, float], contrast: float,
    rng: np.random.Generator,
) -> list[Lesion]:  # fmt: skip
    """A lesion of each diameter, tissue and sign at a random place, the large ones first, while there is room.

    scaled    (I, J, K) the volume on its scale; inside: (I, J, K) bool, where lesions may lie
    contrast  on that scale
    Raises InputError where there is no room for any.
    """
    depth = ndimage.distance_transform_edt(inside, sampling=volume.spacing)
    middle, white = tissue_limits
    tissues = {"white": inside & (scaled > white), "grey": inside & (scaled > middle) & (scaled <= white)}
    lesions: list[Lesion] = []
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
        lesions.append(Lesion(diameter, tissue, size, box, shape))
    if not lesions:
        raise InputError(f"{volume.name}: no room for a lesion inside the head; give a whole head")
    return lesions


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


@dataclass(frozen=True, eq=False)
class Case:
    """One scan of the head: ``plain``, and ``lesioned`` by the same lesions under the same motion."""

    name: str
    plain: Volume
    lesioned: Volume


@dataclass(frozen=True, eq=False)
class Scene:
    """One head.

    still    the scan that nothing needs to be corrected in
    cases    it, and the moved ones; the reference of each is ``still``
    lesions  those of ``Case.lesioned``
    head, inside  (I, J, K) bool: of the still scan, the second mostly brain (``Scan.inner``)
    scale    of the still scan: all numbers are on it
    noise    standard deviation of the still scan's noise on that scale
    tissue_limits  between fluid, grey and white matter on that scale
    """

    still: Volume
    cases: tuple[Case, ...]
    lesions: tuple[Lesion, ...]
    head: np.ndarray
    inside: np.ndarray
    scale: RobustScale
    noise: float
    tissue_limits: tuple[float, float]

    @property
    def moved(self) -> tuple[Case, ...]:
        """The cases with motion."""
        return tuple(case for case in self.cases if case.name != STILL)

    @property
    def tissue_step(self) -> float:
        """From grey to white matter on the scale: the contrast of an implanted lesion."""
        return tissue_step(self.scale.forward(self.still.array)[self.inside], self.tissue_limits)

    def scaled(self, array: np.ndarray) -> np.ndarray:
        """A difference of volumes on the scale, float32."""
        return array.astype(np.float32) / np.float32(self.scale.scale)


def build_scene(head: Volume, seed: int = 0) -> Scene:
    """Cut a still scan to the head, implant lesions, and move both by ``MOTIONS``; the same seed gives the same scene.

    Raises InputError where the volume shows no inside of a head with three tissues.
    """
    still = cropped(head)
    scan = Scan(still)
    scale, inside = scan.scale, scan.inner
    scaled = scale.forward(still.array)
    limits = _tissue_limits(scaled[inside], still)
    step = tissue_step(scaled[inside], limits)
    lesions = place_lesions(still, scaled, inside, limits, step, np.random.default_rng(seed))
    with_lesions = implanted(still, lesions, scale.scale)
    cases = [Case(STILL, still, with_lesions)]
    cases += [_moved_case(still, with_lesions, *motion, seed + number) for number, motion in enumerate(MOTIONS)]
    noise = max(noise_of(scaled, scan.head), GREY_LEVEL)
    return Scene(still, tuple(cases), tuple(lesions), scan.head, inside, scale, noise, limits)


def cropped(volume: Volume) -> Volume:
    """The box around the head, float32, ``MARGIN`` voxels wider where the field of view allows."""
    box = mask_box(head_mask(volume.array), MARGIN)
    affine = affine_from(volume.affine, [side.start for side in box])
    return Volume(np.ascontiguousarray(volume.array[box], dtype=np.float32), affine, source=volume.source)


def tissue_step(values: np.ndarray, limits: tuple[float, float]) -> float:
    """The gap between the medians of the brightest and the middle class."""
    return float(
        np.median(values[values > limits[1]]) - np.median(values[(values > limits[0]) & (values <= limits[1])])
    )


def _tissue_limits(values: np.ndarray, volume: Volume) -> tuple[float, float]:
    low, high = np.percentile(values, TISSUE_PERCENTILES)
    try:
        first, second = threshold_multiotsu(np.clip(values, low, high), classes=3)
    except ValueError:
        raise InputError(f"{volume.name}: no three tissues inside the head; give a T1-weighted head") from None
    return float(first), float(second)


def _moved_case(still: Volume, with_lesions: Volume, kind: str, severity: float, pe_axis: str, seed: int) -> Case:
    lines = still.shape[phase_encode_axis(still.affine, pe_axis)]
    simulation = simulate_motion(still, with_severity(preset(kind, lines, seed), severity), pe_axis)
    plain, lesioned = (_moved(volume, simulation.trajectory, pe_axis) for volume in (still, with_lesions))
    return Case(f"{kind} {severity:g} mm {pe_axis}", plain, lesioned)


def _moved(volume: Volume, poses: Trajectory, pe_axis: str) -> Volume:
    """Moved by poses as they are: ``simulate_motion`` would align them to each image anew."""
    assert poses.centre is not None
    axis, floor = phase_encode_axis(volume.affine, pe_axis), np.float32(min(0.0, float(volume.array.min())))
    model = Acquisition(volume.shape, volume.affine, poses, axis, poses.centre)
    return volume.with_array(np.abs(image_of(model.kspace(volume.array - floor))) + floor)


INVERSE_OF = 1.1
"""Of the scale: what is 0 there becomes this bright, and the other way round."""
SKIN_IN_T2 = 0.6
BLEND_MM = 3.0
SLICE_MM = 5.0
HU_AIR, HU_BRAIN, HU_BONE, HU_NOISE, HU_GREY_OVER_WHITE = -1000.0, 35.0, 900.0, 8.0, 8.0
"""Hounsfield units."""
BONE_MM = (6.0, 12.0)
"""Depth of the skull below the skin."""
PHANTOM_NOISE, PHANTOM_WATER, PHANTOM_GRID = 0.02, 0.9, 0.15
CYLINDER_SHARE = 0.4
"""Radius and half length of the phantom over the field of view's."""
GRID_MM, BAR_MM = 20.0, 3.0


@lru_cache(maxsize=1)
def other_inputs(scene: Scene, seed: int = 0) -> dict[str, Volume]:
    """Each by its name; all but the thick slices are on the still scan's grid. Those of the last scene are kept."""
    rng = np.random.default_rng(seed)
    still, scaled = scene.still, scene.scale.forward(scene.still.array)
    weight = ndimage.gaussian_filter(scene.inside.astype(np.float32), BLEND_MM / still.spacing)
    inverse = np.clip(INVERSE_OF - scaled, 0, None)
    on_scale = {
        "T2-like": np.where(scene.head, weight * inverse + (1 - weight) * SKIN_IN_T2 * scaled, scaled),
        "inverted contrast": np.where(scene.head, inverse, scaled),
        "negative": inverse,
        "skull-stripped": np.where(scene.inside, scaled, 0),
        "phantom": _phantom(still, rng),
        "pure noise": np.hypot(*rng.standard_normal((2, *still.shape), dtype=np.float32)),
    }
    unit, offset = scene.scale.scale, scene.scale.offset
    arrays = {name: (unit * array + offset).astype(np.float32) for name, array in on_scale.items()}
    arrays["CT-like"] = _hounsfield(scene, scaled, rng)
    volumes = {name: still.with_array(array) for name, array in arrays.items()}
    for name, row in (("sagittal", 0), ("axial", 2)):
        volumes[f"{SLICE_MM:g} mm {name} slices"] = thick_slices(still, int(ras_axes(still.affine)[0][row]))
    return volumes


def thick_slices(volume: Volume, axis: int) -> Volume:
    """Slices along one array axis averaged to ``SLICE_MM`` or a little more."""
    step = min(volume.shape[axis], math.ceil(SLICE_MM / float(volume.spacing[axis])))
    count = volume.shape[axis] // step
    array = np.moveaxis(volume.array, axis, 0)[: count * step]
    array = array.reshape(count, step, *array.shape[1:]).mean(axis=1)
    affine = affine_from(volume.affine, np.eye(3)[axis] * (step - 1) / 2)
    affine[:3, axis] *= step
    return Volume(np.ascontiguousarray(np.moveaxis(array, 0, axis)), affine, source=volume.source)


def _hounsfield(scene: Scene, scaled: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    depth = ndimage.distance_transform_edt(scene.head, sampling=scene.still.spacing)
    limit = scene.tissue_limits[1]
    tissue = HU_BRAIN + HU_GREY_OVER_WHITE * np.clip((limit - scaled) / limit, -1, 1) * scene.inside
    bone = scene.head & (depth > BONE_MM[0]) & (depth < BONE_MM[1])
    image = np.where(bone, HU_BONE, np.where(scene.head, tissue, HU_AIR))
    return (image + rng.normal(0, HU_NOISE, image.shape)).astype(np.float32)


def _phantom(volume: Volume, rng: np.random.Generator) -> np.ndarray:
    """A cylinder of water along the last axis with a grid of bars in its middle third, on the scale."""
    half = np.array(volume.shape) * volume.spacing / 2
    lines = [(np.arange(n) + 0.5) * size - h for n, size, h in zip(volume.shape, volume.spacing, half, strict=True)]
    x, y, z = np.ix_(*lines)
    radius, length = CYLINDER_SHARE * 2 * float(half[:2].min()), CYLINDER_SHARE * 2 * float(half[2])
    water = (np.hypot(x, y) < radius) & (np.abs(z) < length)
    bars = ((x % GRID_MM < BAR_MM) | (y % GRID_MM < BAR_MM)) & (np.abs(z) < length / 3)
    image = np.where(water, np.where(bars, PHANTOM_GRID, PHANTOM_WATER), 0)
    noise = PHANTOM_NOISE * rng.normal(size=(2, *image.shape))
    return np.hypot(image + noise[0], noise[1])
