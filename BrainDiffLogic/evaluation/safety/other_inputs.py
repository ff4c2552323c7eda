"""Images that are no T1-weighted head, made from one: what they have of its shape must not help them through."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import ndimage

from BrainDiffLogic.evaluation.safety.scene import Scene
from BrainDiffLogic.volume import Volume, ras_axes

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
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, axis] * (step - 1) / 2
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
