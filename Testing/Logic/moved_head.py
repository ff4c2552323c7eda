"""A small head that moved a little on all axes, made once for all tests."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from scipy import ndimage

from BrainDiffLogic.motion import Simulation, Trajectory, simulate_motion
from BrainDiffLogic.motion.estimate import Search, search_poses
from BrainDiffLogic.motion.joint import Problem
from BrainDiffLogic.volume import Volume


@cache
def a_head(shape: tuple[int, int, int] = (42, 47, 44)) -> Volume:
    """A still ellipsoid of 3.5 mm voxels with folds of two grey values and a skull, LAS."""
    rng = np.random.default_rng(7)
    affine = np.diag([-3.5, 3.5, 3.5, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    radius = np.linalg.norm(2.6 * (np.moveaxis(np.indices(shape), 0, -1) / (np.array(shape) - 1) - 0.5), axis=-1)
    folds = ndimage.gaussian_filter(rng.standard_normal(shape), 1.1)
    head = np.where(radius < 0.85, np.where(folds > 0, 0.75, 0.45), np.where(radius < 1, 0.95, 0.0))
    return Volume(ndimage.gaussian_filter(head, 0.45).astype(np.float32), affine)


@cache
def a_moved_scan() -> Simulation:
    """The head, restless by about 1.5 mm and degrees along its lines, each line for the same time; noise of 1 %."""
    rng = np.random.default_rng(3)
    poses = ndimage.gaussian_filter1d(rng.standard_normal((47, 6)), 2.0, axis=0)
    poses *= np.array([1.0, 1.6, 1.6, 1.5, 0.8, 0.8]) / poses.std(axis=0)
    return simulate_motion(a_head(), Trajectory(poses[:, :3], poses[:, 3:]), "AP", noise=0.01, seed=1)


_SEARCHED: dict[tuple[bytes, int], Search] = {}


def search_once(problem: Problem, seen: np.ndarray | None = None, *more: Any) -> Search:
    """``search_poses``, made once for each scan of a head that does not nod, all that ``seen`` is asked for."""
    key = problem.scan.tobytes(), problem.axis
    if key not in _SEARCHED:
        _SEARCHED[key] = search_poses(problem, seen, *more)
    return _SEARCHED[key]
