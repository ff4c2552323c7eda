"""Kinds of head motion in the scanner, as trajectories of one pose for each phase-encode line.

Each preset takes the number of lines, a numpy random generator and the length of the scan in seconds, and
gives the motion in its natural size; ``trajectory.with_severity`` scales it. The axes are those of the
patient: translations along R, A, S in mm; pitch (nodding) about R, roll about A, yaw about S in degrees.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.rigid import rotation_matrices
from BrainDiffLogic.motion.trajectory import Trajectory

SCAN_SECONDS = 316.0
"""MR-ART's MPRAGE (ds004173)."""
NOD_DEGREES = 15.0
NOD_SECONDS = 2.5
"""Pitch and duration of a cued nod in MR-ART as modelled by Olsson et al., PLOS ONE 2024;19(4):e0301132."""
NECK = np.array([0.0, -20.0, -75.0])
"""From the centre of the head to the joint that a nod turns about (atlanto-occipital), mm in R, A, S."""
SWALLOW_SECONDS = 3.0
WOBBLE = np.array([0.4, 0.8, 1.0, 1.0, 0.5, 0.6])
"""Relative size of spontaneous motion along R, A, S (mm) and about them (degrees): the head rests on its
back, so it turns and slides more along A and S and pitches more than it rolls."""


def nod(lines: int, rng: np.random.Generator, seconds: float = SCAN_SECONDS, nods: int = 5) -> Trajectory:
    """``nods`` evenly spaced nods (MR-ART: 5 in headmotion1, 10 in headmotion2) about the neck.

    Each differs a little in time, height and duration, and the head does not quite come back to where it was.
    """
    time = _times(lines, seconds)
    pitch, rest = np.zeros(lines), np.zeros((lines, 6))
    for n in range(nods):
        start = seconds * (n + 0.5 + rng.uniform(-0.2, 0.2)) / nods
        duration = NOD_SECONDS * rng.uniform(0.7, 1.5)
        phase = np.clip((time - start) / duration + 0.5, 0, 1)
        pitch += NOD_DEGREES * rng.uniform(0.6, 1.2) * np.sin(np.pi * phase) ** 2
        rest += 0.25 * rng.normal(size=6) * WOBBLE * (phase >= 0.5)[:, None]
    rotations = np.stack([pitch, 0.05 * pitch * rng.normal(), 0.05 * pitch * rng.normal()], axis=1)
    # turning about the neck is turning about the centre and moving the centre: (1 - R) neck
    translations = NECK - np.einsum("nij,j->ni", rotation_matrices(rotations), NECK)
    return Trajectory(translations + rest[:, :3], rotations + rest[:, 3:])


def drift(lines: int, rng: np.random.Generator, seconds: float = SCAN_SECONDS) -> Trajectory:
    """A slow slide in one direction, settling, with a little wandering on it."""
    time = _times(lines, seconds) / seconds
    settling = rng.uniform(0.2, 2.0)
    course = (1 - np.exp(-time / settling)) / (1 - np.exp(-1 / settling))
    direction = rng.normal(size=6) * WOBBLE
    return _poses(2.0 * course[:, None] * direction + 0.15 * _wander(lines, rng, 4) * WOBBLE)


def steps(
    lines: int, rng: np.random.Generator, seconds: float = SCAN_SECONDS, count: int | None = None
) -> Trajectory:
    """``count`` sudden changes of pose (default: 1 to 5); every third goes back after some seconds."""
    time = _times(lines, seconds)
    rows = np.zeros((lines, 6))
    for _ in range(count if count is not None else rng.integers(1, 6)):
        start = rng.uniform(0.03, 0.97) * seconds
        moved = time >= start
        if rng.random() < 1 / 3:
            moved &= time < start + rng.uniform(5, 60)
        rows += 2.0 * rng.normal(size=6) * WOBBLE * moved[:, None]
    return _poses(rows)


def swallow(
    lines: int, rng: np.random.Generator, seconds: float = SCAN_SECONDS, count: int | None = None
) -> Trajectory:
    """``count`` swallows (default: 1 to 6): a jerk up and in pitch that dies away within seconds."""
    time = _times(lines, seconds)
    rows = np.zeros((lines, 6))
    for _ in range(count if count is not None else rng.integers(1, 7)):
        since = time - rng.uniform(0.02, 0.98) * seconds
        decay = np.where(
            since >= 0, np.exp(-np.clip(since, 0, None) / (SWALLOW_SECONDS * rng.uniform(0.5, 2))), 0
        )
        jerk = np.array(
            [0, 0.5 * rng.normal(), 3 * rng.uniform(0.5, 1), 3 * rng.uniform(-1, 1), 0.3 * rng.normal(), 0]
        )
        rows += decay[:, None] * jerk
    return _poses(rows)


def tremor(lines: int, rng: np.random.Generator, seconds: float = SCAN_SECONDS) -> Trajectory:
    """Restless motion on all axes: band-limited noise whose power falls with frequency."""
    return _poses(1.5 * _wander(lines, rng, max(3, lines // int(rng.integers(2, 12)))) * WOBBLE)


PRESETS: dict[str, Callable[..., Trajectory]] = {
    "nod": nod,
    "drift": drift,
    "steps": steps,
    "swallow": swallow,
    "tremor": tremor,
}


def preset(
    name: str, lines: int, seed: int | np.random.Generator, seconds: float = SCAN_SECONDS
) -> Trajectory:
    """The preset ``name`` for a scan of ``lines`` phase-encode lines; the same seed gives the same motion."""
    if name not in PRESETS:
        raise InputError(f"motion preset {name!r} is unknown: use one of {', '.join(PRESETS)}")
    return PRESETS[name](lines, np.random.default_rng(seed), seconds)


def _times(lines: int, seconds: float) -> np.ndarray:
    return (np.arange(lines) + 0.5) * seconds / lines


def _poses(rows: np.ndarray) -> Trajectory:
    return Trajectory(rows[:, :3], rows[:, 3:])


def _wander(lines: int, rng: np.random.Generator, bands: int) -> np.ndarray:
    """(lines, 6) smooth noise of unit deviation: ``bands`` frequencies, amplitude 1 / sqrt(frequency)."""
    time = np.arange(lines) / lines
    frequency = np.arange(1, bands + 1)
    amplitude = rng.normal(size=(6, bands)) / np.sqrt(frequency)
    phase = rng.uniform(0, 2 * np.pi, size=(6, bands))
    rows = np.einsum(
        "ab,abl->la", amplitude, np.cos(2 * np.pi * frequency[:, None] * time + phase[..., None])
    )
    return rows / np.maximum(rows.std(axis=0), 1e-9)
