"""A head with a folded cortex, and what the do-no-harm suite makes of it: made once for all tests."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy import ndimage

from BrainDiffLogic.evaluation.safety_scene import Scene, build_scene
from BrainDiffLogic.volume import Volume

SPACING = 2.0
WHOLE_AXES, BRAIN_AXES = np.array([62.0, 74.0, 64.0]), np.array([46.0, 56.0, 48.0])
"""Semi-axes of the brain in mm, in a whole head and alone: as small as the tests allow."""
FLUID, GREY, WHITE, SCALP, SKULL = 150.0, 450.0, 700.0, 900.0, 40.0


def folded_head(whole: bool = True, noise: float = 12.0, levels: tuple[float, ...] = (FLUID, GREY, WHITE)) -> Volume:
    """T1-like, 2 mm voxels, RAS: a folded grey ribbon and ventricles; a head of 3.1 l, or a brain of 0.6 l."""
    rng = np.random.default_rng(11)
    inner = WHOLE_AXES if whole else BRAIN_AXES
    outer = inner + (20 if whole else 4)
    shape = 2 * np.ceil(outer / SPACING).astype(int) + 5
    affine = np.diag([SPACING] * 3 + [1.0])
    affine[:3, 3] = -SPACING * (shape - 1) / 2
    x, y, z = np.indices(shape) * SPACING + affine[:3, 3].reshape(3, 1, 1, 1)
    radius = np.sqrt((x / inner[0]) ** 2 + (y / inner[1]) ** 2 + (z / inner[2]) ** 2)
    folds = 0.11 * np.sin(x / 4) * np.sin(y / 4.5 + 1) * np.sin(z / 4.2 + 2)
    skin = np.sqrt((x**2 / outer[0] ** 2) + (y**2 / outer[1] ** 2) + (z**2 / outer[2] ** 2))
    fluid, grey, white = levels
    image = np.zeros(shape)
    if whole:
        image[skin < 1] = SCALP
        image[skin < 0.92] = SKULL
    image[radius < 1.04] = fluid
    image[radius + folds < 0.98] = grey
    image[radius + 1.6 * folds < 0.78] = white
    image[(np.abs(np.abs(x) - 12) < 6) & (np.abs(y) < 25) & (np.abs(z - 5) < 8)] = fluid
    image[(x > 30) & (x < 38) & (np.abs(y - 10) < 5) & (np.abs(z) < 5)] = grey  # left is unlike right
    image = ndimage.gaussian_filter(image, 0.5)
    array = np.hypot(image + noise * rng.standard_normal(shape), noise * rng.standard_normal(shape))
    return Volume(array.astype(np.float32), affine, source="folded.nii.gz")


@cache
def a_brain_scene() -> Scene:
    """The scene of the stripped brain."""
    return build_scene(folded_head(whole=False), seed=5)
