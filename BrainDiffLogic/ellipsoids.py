"""Ellipsoids with soft edges on a grid: the shape of the lesions that are implanted, to train on and to test with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SUBSAMPLES = 3
"""Points a voxel along each axis at which the shape is sampled: small ellipsoids fill voxels in part."""


def soft_ellipsoid(
    place: np.ndarray, axes: np.ndarray, edge: float, spacing: np.ndarray, shape: Sequence[int]
) -> tuple[tuple[slice, ...], np.ndarray]:
    """The box around an ellipsoid on a 3D grid, and what it fills of the box's voxels, 0 to 1, float32.

    place  its centre, in voxels, which may lie outside the grid; axes: semi-axes in mm along the grid's axes
    edge   mm over which it falls from 1 to 0 along its shortest axis, half of it outside
    The box is empty where the ellipsoid does not reach the grid.
    """
    reach = np.ceil(axes * (1 + edge / (2 * axes.min())) / spacing).astype(int) + 1
    middle = np.rint(place).astype(int)
    start = np.clip(middle - reach, 0, shape)
    stop = np.clip(middle + reach + 1, start, shape)
    steps = (np.arange(SUBSAMPLES) + 0.5) / SUBSAMPLES - 0.5
    lines = [((np.arange(start[d], stop[d])[:, None] + steps).ravel() - place[d]) * spacing[d] for d in range(3)]
    radius = np.sqrt(sum((line / axis) ** 2 for line, axis in zip(np.ix_(*lines), axes, strict=True)))
    filled = np.clip((1 - radius) * float(axes.min()) / edge + 0.5, 0, 1)
    blocks = [n for size in stop - start for n in (size, SUBSAMPLES)]
    box = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    return box, filled.reshape(blocks).mean(axis=(1, 3, 5)).astype(np.float32)
