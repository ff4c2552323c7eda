"""Levels of motion: a preset with the number of its events, drawn until no head turns further than a coil lets it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.presets import PRESETS, SCAN_SECONDS
from BrainDiffLogic.motion.trajectory import Trajectory, with_severity

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
        trajectory = PRESETS[name](lines, np.random.default_rng([*seed, draw]), SCAN_SECONDS, **events)
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
