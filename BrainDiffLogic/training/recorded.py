"""Recorded head motion as trajectories for training: scaled to a severity, people kept apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from BrainDiffLogic.digests import digest
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.presets import SCAN_SECONDS
from BrainDiffLogic.motion.trace_sets import TraceSet, people_of
from BrainDiffLogic.motion.trajectory import Trajectory, with_severity

STRETCH = (0.5, 2.0)
"""How much shorter or longer than a scan the stretch of a trace is that is played during it."""
MOST_GAIN = 6.0
"""A trace is scaled up by no more where another can be had: what it holds then is the noise of its estimate."""
TRIES = 30
STILL_MM = 1e-6
HELD_OUT = 10
"""One person in so many is held out."""


class RecordedTraces:
    """A set of recorded traces (``motion.trace_sets``), of the people to train on or of those ``held_out``.

    RecordedTraces("traces").draw(192, 1.5, np.random.default_rng(1))
    """

    def __init__(self, path: str | Path, held_out: bool = False) -> None:
        people = people_of(path)
        self.traces = TraceSet(path, [name for name in people if _held_out(name) == held_out])

    @property
    def runs(self) -> list[tuple[Path, str]]:
        """File and key of each run."""
        return [(file, key) for file, key, _ in self.traces.runs.values()]

    @property
    def contents(self) -> dict[str, str]:
        """The name of each run that moves, by the digest of what was recorded."""
        return {digest(rows.tobytes()): name for name, rows in self.traces.recorded() if np.ptp(rows, axis=0).any()}

    def draw(self, lines: int, severity: float, rng: np.random.Generator) -> Trajectory:
        """A stretch of a run at ``lines`` phase-encode lines, scaled to a severity in mm."""
        largest, chosen = STILL_MM, None
        for _ in range(TRIES):
            seconds = SCAN_SECONDS * float(np.exp(rng.uniform(*np.log(STRETCH))))
            trace, _ = self.traces.draw(rng, lines, seconds)
            size = trace.severity
            if size > largest:
                largest, chosen = size, trace
            if severity <= MOST_GAIN * size:
                break
        if chosen is None:
            raise InputError("the recorded traces hold no motion; give others")
        return with_severity(chosen, severity)


def _held_out(person: str) -> bool:
    """Whether a person of a set, ``NAME/person``, is held out."""
    return int(digest(person.split("/")[-1])[:2], 16) % HELD_OUT == 0
