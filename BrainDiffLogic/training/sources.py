"""Which volumes and which recorded motion are trained on, and which are held out; and that they are not the same."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from BrainDiffLogic.data.subjects import assert_apart, names_subject, subject_of
from BrainDiffLogic.digests import digest
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.presets import SCAN_SECONDS
from BrainDiffLogic.motion.traces import TraceSet
from BrainDiffLogic.motion.trajectory import Trajectory, resampled, with_severity
from BrainDiffLogic.training.configuration import CorrectorConfiguration

STRETCH = (0.5, 2.0)
"""How much shorter or longer than a scan the stretch of a trace is that is played during it."""
MOST_GAIN = 6.0
"""A trace is scaled up by no more where another can be had: what it holds then is the noise of its estimate."""
TRIES = 30
STILL_MM = 1e-6
HELD_OUT = 10
"""One person in so many is held out."""
SHAPE_POINTS = 64
SAME_MOTION = 0.98
"""Correlation from which two motions are one, whatever their size. Of 160,000 pairs of presets of different seeds the
highest is 0.952. One seed at 130 and 211 lines gives 0.9999 for drift, 0.985 for steps, less for what lasts seconds."""


@dataclass(frozen=True)
class Source:
    """One still volume to train on. kind: "head", "brain" (skull-stripped) or "labels" (painted)."""

    path: str
    subject: str
    kind: str = "head"
    weight: float = 1.0


def find_sources(configuration: CorrectorConfiguration, data: str | Path) -> tuple[list[Source], list[Source]]:
    """(training, validation) volumes below the folder ``data``, split by subject.

    Raises InputError when a pattern finds nothing, a validation subject is missing, or one subject is, or by the names
    of the files may be, on both sides.
    """
    training: list[Source] = []
    validation: list[Source] = []
    guessed: tuple[set[str], set[str]] = (set(), set())
    held_out_people = {configuration.people.get(name, name) for name in configuration.validation}
    for entry in configuration.sources:
        files = sorted(glob.glob(os.path.join(data, entry["glob"])))
        if not files:
            raise InputError(f"{data}: no file matches {entry['glob']!r}; check --data and the sources' glob")
        for file in files:
            name = subject_of(Path(file).name, entry.get("subject"))
            subject = configuration.people.get(name, name)
            held_out = subject in held_out_people
            if "subject" not in entry and name not in configuration.people and not names_subject(Path(file).name):
                guessed[held_out].add(name)
            weight = float(entry.get("weight", 1.0)) / len(files)
            source = Source(file, subject, entry.get("kind", "head"), 1.0 if held_out else weight)
            (validation if held_out else training).append(source)
    if missing := held_out_people - {source.subject for source in validation}:
        raise InputError(f"{data}: validation subject {sorted(missing)[0]!r} is not among the sources")
    assert_disjoint(training, validation)
    assert_apart(*guessed)
    return training, validation


def find_traces(
    configuration: CorrectorConfiguration, data: str | Path
) -> tuple[RecordedTraces, RecordedTraces] | tuple[None, None]:
    """(training, validation) recorded motion below the folder ``data``, split by person; none where none is named."""
    if not configuration.traces:
        return None, None
    path = Path(data) / configuration.traces
    return RecordedTraces(path), RecordedTraces(path, held_out=True)


def assert_disjoint(training: list[Source], validation: list[Source]) -> None:
    """Raise InputError when a subject or a file is both trained on and validated on."""
    both = {s.subject for s in training} & {s.subject for s in validation}
    both |= {os.path.realpath(s.path) for s in training} & {os.path.realpath(s.path) for s in validation}
    if both:
        raise InputError(f"{sorted(both)[0]} is both in training and in validation; split by subject")


class RecordedTraces:
    """A set of recorded traces (``motion.traces``), of the people to train on or of those ``held_out``.

    RecordedTraces("traces").draw(192, 1.5, np.random.default_rng(1))
    """

    def __init__(self, path: str | Path, held_out: bool = False) -> None:
        people = TraceSet(path).people  # these are split, not their runs
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


def motion_shape(trajectory: Trajectory) -> list[float]:
    """The course of a motion, for ``assert_other_motion``: poses over the scan less their mean, of norm 1; none: empty.

    The same whatever the severity, and nearly so for any number of lines and any pose that is taken as 0.
    """
    poses = resampled(trajectory, SHAPE_POINTS)
    rows = np.hstack([poses.translations, poses.rotations])
    rows = rows - rows.mean(axis=0)
    size = float(np.linalg.norm(rows))
    return (rows / size).ravel().round(5).tolist() if size > 1e-6 else []


def assert_other_motion(training: Iterable[list[float]], validation: Iterable[list[float]]) -> None:
    """Raise AssertionError where a motion, as ``motion_shape``, is both in training and in validation."""
    one, other = (np.array([shape for shape in shapes if shape]) for shapes in (training, validation))
    if len(one) and len(other) and (alike := float((one @ other.T).max())) > SAME_MOTION:
        raise AssertionError(f"a trajectory is both in training and in validation (correlation {alike:.4f})")


def assert_other_runs(training: RecordedTraces, validation: RecordedTraces) -> None:
    """Raise InputError where a recorded run is, under whatever name, both in training and in validation."""
    trained, held_out = training.contents, validation.contents
    if both := sorted(trained.keys() & held_out.keys()):
        names = f"{trained[both[0]]} and {held_out[both[0]]}"
        raise InputError(f"traces: {names} are the same recorded motion, in training and in validation; remove one")
