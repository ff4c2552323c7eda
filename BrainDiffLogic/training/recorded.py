"""Recorded head motion as trajectories for training: windows of fMRI realignment traces, people kept apart."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.presets import SCAN_SECONDS
from BrainDiffLogic.motion.trajectory import Trajectory, anchored, resampled, with_severity

UNITS = np.array([1e-3] * 3 + [np.degrees(1e-5)] * 3)
"""Of the int16 columns: micrometres to mm, 1e-5 rad to degrees."""
STRETCH = (0.5, 2.0)
"""How much slower or faster than it was recorded a trace is played."""
MOST_GAIN = 6.0
"""A trace is not scaled up by more: what it holds then is the noise of its estimate."""
TRIES = 30
HELD_OUT = 10
"""One person in so many is held out."""


class RecordedTraces:
    """Runs of recorded motion in .npz files of int16 (frames, 6), beside each its NAME_index.tsv with key and tr_s.

    held_out  whether the people are those held out for validation

        RecordedTraces(sorted(folder.glob("*.npz"))).draw(192, 1.5, np.random.default_rng(1))
    """

    def __init__(self, files: Sequence[Path], held_out: bool = False) -> None:
        self.runs: list[tuple[Path, str, float]] = []
        for file in files:
            index = file.with_name(f"{file.stem}_index.tsv")
            if not index.is_file():
                raise InputError(f"{index}: there is no such table of the runs in {file.name}; copy it beside it")
            with index.open(encoding="utf-8") as table:
                rows = list(csv.DictReader(table, delimiter="\t"))
            self.runs += [(file, row["key"], float(row["tr_s"])) for row in rows if _held_out(row["key"]) == held_out]
        if not self.runs:
            raise InputError("there are no recorded traces; give traces, a pattern of .npz files below --data")

    def draw(self, lines: int, severity: float, rng: np.random.Generator) -> Trajectory:
        """A window of a run at ``lines`` phase-encode lines, scaled to a severity in mm."""
        calmest = np.inf
        chosen = None
        for _ in range(TRIES):
            window = anchored(resampled(self._window(rng), lines))
            gain = severity / max(window.severity, 1e-6)
            if gain < calmest:
                calmest, chosen = gain, window
            if gain <= MOST_GAIN:
                break
        if chosen is None:
            raise InputError("the recorded traces hold no motion; give others")
        return with_severity(chosen, severity)

    def _window(self, rng: np.random.Generator) -> Trajectory:
        file, key, seconds = self.runs[rng.integers(len(self.runs))]
        with np.load(file) as runs:
            rows = runs[key] * UNITS
        frames = min(len(rows), max(2, round(SCAN_SECONDS * np.exp(rng.uniform(*np.log(STRETCH))) / seconds)))
        start = int(rng.integers(len(rows) - frames + 1))
        rows = rows[start : start + frames]
        return Trajectory(rows[:, :3], rows[:, 3:])


def _held_out(key: str) -> bool:
    """Whether the person of a run, the first part of its name, is held out."""
    person = hashlib.sha256(key.split("_")[0].encode()).digest()
    return person[0] % HELD_OUT == 0
