"""Where the head lies in the image, and which side is left, should not decide what is corrected."""

from __future__ import annotations

import numpy as np

from BrainDiffLogic.evaluation.methods import Method
from BrainDiffLogic.evaluation.safety.outcome import Outcome, at_most, ratio
from BrainDiffLogic.evaluation.safety.scene import Scene
from BrainDiffLogic.volume import Volume, ras_axes

CHECK = "equivariance"
LARGEST_DIFFERENCE = 0.25
"""Mean difference of the two changes over the mean change: three quarters of a correction must not depend on the
pose. Flips and shifts of a voxel."""
LARGEST_ON_STRIDE = 0.05
"""Shifted by a multiple of all strides a network does the same again, up to what it sees of the borders and to the
rounding of bfloat16."""
STRIDE = 32
"""Voxels; a multiple of the strides of all families (the deepest: four halvings of pixels unshuffled by two)."""


def check_equivariance(method: Method, scene: Scene) -> list[Outcome]:
    """The change of the most moved scan against that of its mirror image, and of the scan moved on its grid."""
    volume, head = scene.cases[-1].plain, scene.head
    change = method(volume) - volume.array
    side = int(ras_axes(volume.affine)[0][0])
    mirrored = volume.with_array(np.flip(volume.array, side).copy())
    back = np.flip(method(mirrored) - mirrored.array, side)
    outcomes = [at_most(CHECK, "mirrored left to right", _difference(back, change, head), LARGEST_DIFFERENCE)]
    plain = _shifted(method, volume, 0)
    for voxels, limit in ((1, LARGEST_DIFFERENCE), (STRIDE, LARGEST_ON_STRIDE)):
        number = _difference(_shifted(method, volume, voxels), plain, head)
        plural = "voxel" if voxels == 1 else "voxels"
        outcomes.append(at_most(CHECK, f"shifted by {voxels} {plural} in-plane", number, limit))
    return outcomes


def _shifted(method: Method, volume: Volume, voxels: int) -> np.ndarray:
    """The change of the volume inside a larger one, ``voxels`` from its corner in the sagittal plane.

    The larger one is always larger by ``STRIDE``, so that a network pads it alike wherever the volume lies.
    """
    axes = ras_axes(volume.affine)[0][1:]
    pads = [(voxels, STRIDE - voxels) if axis in axes else (0, 0) for axis in range(3)]
    affine = volume.affine.copy()
    affine[:3, 3] -= volume.affine[:3, :3] @ [before for before, _ in pads]
    larger = Volume(np.pad(volume.array, pads, mode="minimum"), affine, source=volume.source)
    cut = tuple(slice(before, before + size) for (before, _), size in zip(pads, volume.shape, strict=True))
    return (method(larger) - larger.array)[cut]


def _difference(one: np.ndarray, other: np.ndarray, head: np.ndarray) -> float:
    size = (np.abs(one[head]).sum(dtype=np.float64) + np.abs(other[head]).sum(dtype=np.float64)) / 2
    return ratio(float(np.abs(one[head] - other[head]).sum(dtype=np.float64)), float(size))
