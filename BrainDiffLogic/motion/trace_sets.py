"""Sets of recorded head motion: many runs in a file, from which training and simulation draw.

A set is a pair of files: ``NAME.npz`` with an int16 array (frames, 6) for each run, translations in micrometres along
FSL's axes and rotations in 1e-5 rad, as MCFLIRT found them in functional MRI; and ``NAME_index.tsv`` with the columns
key (the run), frames and tr_s (seconds between frames). A run is called ``NAME/key``; what stands before the first "_"
of the key is the person, ``NAME/person``. The people were asked to lie still, so most runs hold little motion.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion import rigid
from BrainDiffLogic.motion.presets import SCAN_SECONDS
from BrainDiffLogic.motion.traces import TOOLS
from BrainDiffLogic.motion.trajectory import Trajectory, sampled

MM, RADIANS = 1e-3, 1e-5
"""What the stored integers count."""


class TraceSet:
    """The runs of one .npz, or of all in a folder, or those of some people.

    people  names as in ``people_of`` (default: all). Raises InputError where there are no runs, where an index is
    missing or wrong, and for people who are not in the set.

    >>> traces = TraceSet("traces")                                   # doctest: +SKIP
    >>> trajectory, name = traces.draw(np.random.default_rng(0), 192)  # doctest: +SKIP
    """

    def __init__(self, path: str | Path, people: Collection[str] | None = None) -> None:
        path = Path(path)
        files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
        if not files or path.suffix.lower() not in ("", ".npz") and not path.is_dir():
            raise InputError(f"{path}: no set of traces; give a .npz, or a folder that holds some")
        self.runs = {f"{file.stem}/{key}": (file, key, tr) for file in files for key, tr in _index(file)}
        self.people = sorted({_person(name) for name in self.runs})
        if people is not None:
            unknown = sorted(set(people) - set(self.people))
            if unknown or not people:
                raise InputError(f"{path}: no traces of {', '.join(unknown) or 'nobody'}; give people of the set")
            self.runs = {name: run for name, run in self.runs.items() if _person(name) in people}
            self.people = sorted(people)

    def recorded(self) -> Iterator[tuple[str, np.ndarray]]:
        """The name of each run, and its (frames, 6) as stored."""
        for name, (file, key, _) in self.runs.items():
            yield name, _rows(file, key)

    def draw(
        self, rng: np.random.Generator, lines: int, seconds: float = SCAN_SECONDS
    ) -> tuple[Trajectory, str]:
        """(``lines`` poses at even times over a scan of this length, name of the run).

        Of a longer recording some stretch of that length is taken; a shorter one is stretched, so its motion is slower
        than it was. The centre is left open, which is what MCFLIRT means.
        """
        name = sorted(self.runs)[int(rng.integers(len(self.runs)))]
        file, key, tr = self.runs[name]
        rows = _rows(file, key)
        times = tr * np.arange(len(rows))
        spare = times[-1] - seconds
        start, end = 0.0, times[-1]
        if spare > 0:
            start = rng.uniform(0, spare)
            end = start + seconds
        turn, shift = TOOLS[".par"][1](np.hstack([rows[:, 3:] * RADIANS, rows[:, :3] * MM]))
        recorded = Trajectory(*rigid.inverse(shift, turn.as_euler(rigid.EULER_ORDER, degrees=True)))
        return sampled(recorded, times, np.linspace(start, end, lines)), name


def draw_trace(
    path: str | Path,
    rng: np.random.Generator,
    lines: int,
    seconds: float = SCAN_SECONDS,
    people: Collection[str] | None = None,
) -> tuple[Trajectory, str]:
    """(Trajectory of ``lines`` poses, name of the run): a recorded trace by chance, as ``TraceSet.draw`` gives it."""
    return TraceSet(path, people).draw(rng, lines, seconds)


def people_of(path: str | Path) -> list[str]:
    """The people in a set of traces, each ``NAME/person``: split these, not the runs."""
    return TraceSet(path).people


def _person(name: str) -> str:
    """``NAME/person`` of a run ``NAME/key``."""
    stem, key = name.split("/", 1)
    return f"{stem}/{key.split('_')[0]}"


def _index(file: Path) -> list[tuple[str, float]]:
    """(key, seconds between frames) of the runs that the index beside ``file`` names."""
    index = file.with_name(f"{file.stem}_index.tsv")
    if not file.is_file():
        raise InputError(f"{file}: there is no such set of traces; give a .npz, or a folder that holds some")
    try:
        with index.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t"))
        runs = [(row["key"], float(row["tr_s"])) for row in rows]
    except OSError as error:
        raise InputError(f"{index}: cannot be read ({error.strerror}); {file.name} needs its index") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{index}: every line needs a key and tr_s, a number; repair the index") from error
    if not runs or not all(0 < tr < np.inf for _, tr in runs):
        raise InputError(f"{index}: every line needs a key and tr_s above 0, and there must be one; repair the index")
    return runs


def _rows(file: Path, key: str) -> np.ndarray:
    """(frames, 6) float64, as stored."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            rows = stored[key]
    except (OSError, ValueError, BadZipFile) as error:
        raise InputError(f"{file}: cannot be read as .npz; copy the set of traces again") from error
    except KeyError as error:
        raise InputError(f"{file}: no run {key}, which its index names; give the index of this file") from error
    if rows.ndim != 2 or rows.shape[1] != 6 or len(rows) < 2 or rows.dtype.kind not in "iu":
        raise InputError(f"{file}, {key}: {rows.dtype} {rows.shape}, expected integers (frames >= 2, 6)")
    return rows.astype(np.float64)
