"""Synthetic heads painted from label maps: anatomy without the noise, resolution and contrast of any scanner.

After SynthSeg (Billot et al., Medical Image Analysis 2023;86:102789): each label gets its own random grey
value and texture. Here most heads keep the order of a T1-weighted image, the rest have any contrast.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

T1_LEVELS = {
    "white": ((2, 7, 16, 28, 41, 46, 60, 85), (0.75, 1.0)),
    "deep": ((10, 11, 12, 13, 26, 49, 50, 51, 52, 58), (0.55, 0.8)),
    "grey": ((3, 8, 17, 18, 42, 47, 53, 54, 136, 137, 163, 164), (0.4, 0.65)),
    "fluid": ((4, 5, 14, 15, 24, 43, 44, 72), (0.08, 0.3)),
    "lesion": ((25, 57, 30, 62), (0.3, 0.9)),
}
"""FreeSurfer labels by tissue, and the range of their grey values in T1-weighted images; white is near 1."""
OTHER_RANGE = (0.05, 1.1)
"""Skull, skin, fat, muscle, eyes: anything."""
T1_SHARE = 0.75


def paint(labels: np.ndarray, rng: np.random.Generator, grainy: bool = True) -> np.ndarray:
    """An image (I, J, K) float32, white matter near 1, from an integer label map; air is 0.

    grainy  the texture has a scale of single voxels, which looks like noise
    """
    t1_like = rng.random() < T1_SHARE
    values = np.unique(labels)
    level = np.zeros(int(values.max()) + 1, dtype=np.float32)
    grain = np.zeros_like(level)
    for tissue_labels, limits in [*T1_LEVELS.values(), (tuple(values[values > 0]), OTHER_RANGE)]:
        shared = rng.uniform(*limits) if t1_like else rng.uniform(*OTHER_RANGE)
        for label in tissue_labels:
            if label < len(level) and level[label] == 0:
                other = limits is OTHER_RANGE
                level[label] = rng.uniform(*OTHER_RANGE) if other else shared * rng.uniform(0.95, 1.05)
                grain[label] = rng.uniform(0.01, 0.15 if other else 0.06)
    index = labels.astype(np.int32)
    texture = _texture(labels.shape, rng, grainy)
    image = level[index] + grain[index] * texture
    return np.maximum(ndimage.gaussian_filter(image, rng.uniform(0.4, 0.8)), 0)


def _texture(shape: tuple[int, ...], rng: np.random.Generator, grainy: bool) -> np.ndarray:
    """Noise of unit standard deviation on two scales: voxels, unless not ``grainy``, and structures of a few voxels."""
    fine = rng.standard_normal(shape, dtype=np.float32) if grainy else np.float32(0)
    coarse = ndimage.zoom(rng.standard_normal([-(-n // 4) for n in shape], dtype=np.float32), 4, order=1)
    coarse = coarse[tuple(slice(n) for n in shape)]
    share = np.float32(rng.uniform(0.2, 0.8))
    return share * fine + (1 - share) * coarse / coarse.std()
