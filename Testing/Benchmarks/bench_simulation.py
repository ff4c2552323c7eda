"""What the simulation of motion costs beside the one library call that it cannot do without.

1e7 voxels, another pose for each phase-encode line. ``simulate_motion`` and the bare ``finufft.nufft3d2`` on
the same points run in turns, so that other load on the machine falls on both; the medians are compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import finufft
import numpy as np
import pytest

from BrainDiffLogic.motion.kspace import ACCURACY, phase_encode_axis, sample_points
from BrainDiffLogic.motion.presets import preset
from BrainDiffLogic.motion.simulation import simulate_motion
from BrainDiffLogic.motion.trajectory import Trajectory, anchored, with_severity
from BrainDiffLogic.volume import Volume

SHAPE = (208, 240, 200)
REPEATS = 5
LARGEST_RATIO = 1.5


def a_large_head() -> Volume:
    """An ellipsoid with texture, air around it, 1 mm voxels."""
    axes = np.meshgrid(*(np.linspace(-1.2, 1.2, size, dtype=np.float32) for size in SHAPE), indexing="ij", sparse=True)
    radius = sum(axis**2 for axis in axes)
    texture = 500 + 100 * np.sin(20 * axes[0]) * np.cos(25 * axes[1]) + 100 * np.sin(15 * axes[2])
    affine = np.eye(4)
    affine[:3, 3] = -np.array(SHAPE) / 2
    return Volume(np.where(radius < 1, texture, 0).astype(np.float32), affine)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(volume: Volume, trajectory: Trajectory) -> dict[str, float]:
    """Median seconds of the bare call, of the forward model, and of the simulation with alignment."""
    axis = phase_encode_axis(volume.affine, "AP")
    poses = anchored(trajectory)
    points = sample_points(volume.shape, volume.affine, poses.rotations, axis).reshape(3, -1)
    image = volume.array.astype(np.complex64)
    calls = {
        "finufft.nufft3d2": lambda: finufft.nufft3d2(*points, image, isign=-1, eps=ACCURACY),
        "simulate_motion": lambda: simulate_motion(volume, trajectory, "AP", align=False),
        "simulate_motion, aligned": lambda: simulate_motion(volume, trajectory, "AP", align=True),
    }
    taken = [{name: seconds(call) for name, call in calls.items()} for _ in range(REPEATS + 1)]
    return {name: float(np.median([run[name] for run in taken[1:]])) for name in calls}  # the first warms up


@pytest.mark.slow
def test_one_pose_a_line_costs_at_most_half_more_than_the_bare_nufft():
    volume = a_large_head()
    trajectory = with_severity(preset("tremor", SHAPE[1], seed=1), 2.0)
    medians = measure(volume, trajectory)
    bare = medians["finufft.nufft3d2"]
    print(f"\n{volume.array.size / 1e6:.2f} million voxels, {len(trajectory)} poses, median of {REPEATS}")
    for name, taken in medians.items():
        print(f"{name:26s} {taken:6.2f} s {taken / bare:6.2f} x")
    assert medians["simulate_motion"] <= LARGEST_RATIO * bare
