"""Kinds of head motion in the scanner, as trajectories of one pose for each phase-encode line.

Each preset takes the number of lines and a numpy random generator, and gives the motion in its natural size;
``trajectory.with_severity`` scales it. The axes are those of the patient: translations along R, A, S in mm; pitch
(nodding) about R, roll about A, yaw about S in degrees. A level is a preset with the number of its events ("nod5"),
drawn until no head turns further than a coil lets it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.trajectory import Trajectory, rotation_matrices, with_severity

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


def nod(lines: int, rng: np.random.Generator, nods: int = 5) -> Trajectory:
    """``nods`` evenly spaced nods (MR-ART: 5 in headmotion1, 10 in headmotion2) about the neck.

    Each differs a little in time, height and duration, and the head does not quite come back to where it was.
    """
    time = _times(lines)
    pitch, rest = np.zeros(lines), np.zeros((lines, 6))
    for n in range(nods):
        start = SCAN_SECONDS * (n + 0.5 + rng.uniform(-0.2, 0.2)) / nods
        duration = NOD_SECONDS * rng.uniform(0.7, 1.5)
        phase = np.clip((time - start) / duration + 0.5, 0, 1)
        pitch += NOD_DEGREES * rng.uniform(0.6, 1.2) * np.sin(np.pi * phase) ** 2
        rest += 0.25 * rng.normal(size=6) * WOBBLE * (phase >= 0.5)[:, None]
    rotations = np.stack([pitch, 0.05 * pitch * rng.normal(), 0.05 * pitch * rng.normal()], axis=1)
    # turning about the neck is turning about the centre and moving the centre: (1 - R) neck
    translations = NECK - np.einsum("nij,j->ni", rotation_matrices(rotations), NECK)
    return Trajectory(translations + rest[:, :3], rotations + rest[:, 3:])


def drift(lines: int, rng: np.random.Generator) -> Trajectory:
    """A slow slide in one direction, settling, with a little wandering on it."""
    time = _times(lines) / SCAN_SECONDS
    settling = rng.uniform(0.2, 2.0)
    course = (1 - np.exp(-time / settling)) / (1 - np.exp(-1 / settling))
    direction = rng.normal(size=6) * WOBBLE
    return Trajectory.of_rows(2.0 * course[:, None] * direction + 0.15 * _wander(lines, rng, 4) * WOBBLE)


def steps(lines: int, rng: np.random.Generator, count: int | None = None) -> Trajectory:
    """``count`` sudden changes of pose (default: 1 to 5); every third goes back after some seconds."""
    time = _times(lines)
    rows = np.zeros((lines, 6))
    for _ in range(count if count is not None else rng.integers(1, 6)):
        start = rng.uniform(0.03, 0.97) * SCAN_SECONDS
        moved = time >= start
        if rng.random() < 1 / 3:
            moved &= time < start + rng.uniform(5, 60)
        rows += 2.0 * rng.normal(size=6) * WOBBLE * moved[:, None]
    return Trajectory.of_rows(rows)


def swallow(lines: int, rng: np.random.Generator, count: int | None = None) -> Trajectory:
    """``count`` swallows (default: 1 to 6): a jerk up and in pitch that dies away within seconds."""
    time = _times(lines)
    rows = np.zeros((lines, 6))
    for _ in range(count if count is not None else rng.integers(1, 7)):
        since = time - rng.uniform(0.02, 0.98) * SCAN_SECONDS
        decay = np.where(since >= 0, np.exp(-np.clip(since, 0, None) / (SWALLOW_SECONDS * rng.uniform(0.5, 2))), 0)
        jerk = np.array([0, 0.5 * rng.normal(), 3 * rng.uniform(0.5, 1), 3 * rng.uniform(-1, 1), 0.3 * rng.normal(), 0])
        rows += decay[:, None] * jerk
    return Trajectory.of_rows(rows)


def tremor(lines: int, rng: np.random.Generator) -> Trajectory:
    """Restless motion on all axes: band-limited noise whose power falls with frequency."""
    return Trajectory.of_rows(1.5 * _wander(lines, rng, max(3, lines // int(rng.integers(2, 12)))) * WOBBLE)


PRESETS: dict[str, Callable[..., Trajectory]] = {
    "nod": nod,
    "drift": drift,
    "steps": steps,
    "swallow": swallow,
    "tremor": tremor,
}


def preset(name: str, lines: int, seed: int | np.random.Generator) -> Trajectory:
    """The preset ``name`` for a scan of ``lines`` phase-encode lines; the same seed gives the same motion."""
    if name not in PRESETS:
        raise InputError(f"motion preset {name!r} is unknown: use one of {', '.join(PRESETS)}")
    return PRESETS[name](lines, np.random.default_rng(seed))


def _times(lines: int) -> np.ndarray:
    return (np.arange(lines) + 0.5) * SCAN_SECONDS / lines


def _wander(lines: int, rng: np.random.Generator, bands: int) -> np.ndarray:
    """(lines, 6) smooth noise of unit deviation: ``bands`` frequencies, amplitude 1 / sqrt(frequency)."""
    time = np.arange(lines) / lines
    frequency = np.arange(1, bands + 1)
    amplitude = rng.normal(size=(6, bands)) / np.sqrt(frequency)
    phase = rng.uniform(0, 2 * np.pi, size=(6, bands))
    rows = np.einsum("ab,abl->la", amplitude, np.cos(2 * np.pi * frequency[:, None] * time + phase[..., None]))
    return rows / np.maximum(rows.std(axis=0), 1e-9)


COUNTED = {"nod": "nods", "steps": "count", "swallow": "count"}
"""Presets that happen a number of times, and the argument that takes it."""
LEVEL = re.compile(r"([a-z]+)(\d*)")
LARGEST_TURN, DRAWS = 25.0, 20
"""Degrees, more than a head turns in a coil; motion that is scaled above is drawn again so many times."""
SMALLEST_MM = 0.1
"""Every kind of motion reaches it."""


def draw_trajectory(level: str, lines: int, severity: float | None, seed: Sequence[int]) -> Trajectory:
    """The motion of a level for ``lines`` phase-encode lines, scaled to ``severity`` in mm unless None.

    Motion that would turn the head further than 25 degrees is drawn again; InputError after 20 draws.
    """
    name, count = parse_level(level)
    events = {COUNTED[name]: count} if count else {}
    for draw in range(DRAWS):
        trajectory = PRESETS[name](lines, np.random.default_rng([*seed, draw]), **events)
        if severity is None:
            return trajectory
        try:
            trajectory = with_severity(trajectory, severity)
        except InputError:
            continue
        if np.abs(trajectory.rotations).max() <= LARGEST_TURN:
            return trajectory
    raise InputError(
        f"--severity {severity:g}: with {level} the head would turn more than {LARGEST_TURN:g} degrees; "
        "choose a smaller one or another level"
    )


def draw_up_to(level: str, lines: int, severity: float, seed: Sequence[int]) -> Trajectory:
    """As ``draw_trajectory``, at the next smaller severity in steps of a fifth that this kind of motion reaches.

    For severities that are themselves drawn: nods of several mm would turn the head further than a coil lets it.
    """
    while True:
        try:
            return draw_trajectory(level, lines, severity, seed)
        except InputError:
            if severity < SMALLEST_MM:
                raise
            severity *= 0.8


def parse_level(level: str) -> tuple[str, int]:
    """The preset and the number of events of a level, 0: the preset's own. Raises InputError for none."""
    match = LEVEL.fullmatch(level)
    if match is None or match[1] not in PRESETS:
        raise InputError(f"--levels {level}: give one of {', '.join(PRESETS)}, a number of events behind it (nod5)")
    name, count = match[1], int(match[2] or 0)
    if match[2] and (name not in COUNTED or count < 1):
        raise InputError(f"--levels {level}: only {', '.join(COUNTED)} take a number, 1 or more; write {name}")
    return name, count
