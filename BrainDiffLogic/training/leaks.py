"""Whether a corrector is validated on motion that it was trained on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.trajectory import Trajectory, resampled
from BrainDiffLogic.training.recorded import RecordedTraces

POINTS = 64
SAME = 0.98
"""Correlation from which two motions are one, whatever their size. Of 160,000 pairs of presets of different seeds the
highest is 0.952. One seed at 130 and 211 lines gives 0.9999 for drift, 0.985 for steps, less for what lasts seconds."""


def motion_shape(trajectory: Trajectory) -> list[float]:
    """The course of a motion, for ``assert_other_motion``: poses over the scan less their mean, of norm 1; none: empty.

    The same whatever the severity, and nearly so for any number of lines and any pose that is taken as 0.
    """
    poses = resampled(trajectory, POINTS)
    rows = np.hstack([poses.translations, poses.rotations])
    rows = rows - rows.mean(axis=0)
    size = float(np.linalg.norm(rows))
    return (rows / size).ravel().round(5).tolist() if size > 1e-6 else []


def assert_other_motion(training: Iterable[list[float]], validation: Iterable[list[float]]) -> None:
    """Raise AssertionError where a motion, as ``motion_shape``, is both in training and in validation."""
    one, other = (np.array([shape for shape in shapes if shape]) for shapes in (training, validation))
    if len(one) and len(other) and (alike := float((one @ other.T).max())) > SAME:
        raise AssertionError(f"a trajectory is both in training and in validation (correlation {alike:.4f})")


def assert_other_runs(training: RecordedTraces, validation: RecordedTraces) -> None:
    """Raise InputError where a recorded run is, under whatever name, both in training and in validation."""
    trained, held_out = training.contents, validation.contents
    if both := sorted(trained.keys() & held_out.keys()):
        names = f"{trained[both[0]]} and {held_out[both[0]]}"
        raise InputError(f"traces: {names} are the same recorded motion, in training and in validation; remove one")
