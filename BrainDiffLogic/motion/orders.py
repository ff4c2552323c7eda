"""In which order a scan acquires its phase-encode lines: how a trajectory in time becomes one pose for each line."""

from __future__ import annotations

import numpy as np

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.trajectory import Trajectory, resampled, sampled

ORDERS = ("linear", "interleaved", "centric")
PASSES = 2
"""Of the interleaved order: first every other line, then those between."""


def acquisition_order(lines: int, order: str = "linear", passes: int = PASSES) -> np.ndarray:
    """(lines,) the row of k-space that is acquired first, second and so on; row ``lines // 2`` is the zero frequency.

    linear       from the first row to the last
    interleaved  every ``passes``-th row, then again from the start with the next one, until all are acquired
    centric      from the zero frequency outwards, to both sides in turn
    Raises InputError for another order, or fewer than 1 pass.
    """
    rows = np.arange(lines)
    if order == "linear":
        return rows
    if order == "interleaved":
        if passes < 1:
            raise InputError(f"{passes} passes acquire nothing; give 1 or more")
        return np.concatenate([rows[start::passes] for start in range(passes)])
    if order == "centric":
        distance = rows - lines // 2
        return np.argsort(2 * np.abs(distance) - (distance > 0))
    raise InputError(f"order {order!r} of the lines is unknown: use one of {', '.join(ORDERS)}")


def in_kspace_order(
    trajectory: Trajectory, lines: int, order: str = "linear", skipped: np.ndarray | None = None
) -> Trajectory:
    """The pose of each of the ``lines`` rows of k-space, from poses in the order of time.

    skipped  (lines,) bool: rows that parallel imaging does not acquire. They take no time, and get a pose between those
             of the acquired rows beside them, which nothing is measured in
    In linear order, with nothing skipped, that is the trajectory itself. Raises InputError as ``acquisition_order``.
    """
    rows = acquisition_order(lines, order)
    if order == "linear" and (skipped is None or not skipped.any()):
        return trajectory
    if skipped is not None:
        rows = rows[~skipped[rows]]
    poses, back = resampled(trajectory, len(rows)), np.argsort(rows)
    acquired = Trajectory(poses.translations[back], poses.rotations[back], poses.centre)
    if len(rows) == lines:
        return acquired
    places = np.sort(rows)
    return sampled(acquired, places, np.clip(np.arange(lines), places[0], places[-1]))
