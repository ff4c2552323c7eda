"""Recorded head motion: traces of realignment tools and trackers, read as trajectories in RAS.

FSL, SPM and AFNI write the pose that brings a volume BACK onto the reference, each in its own axes and signs.
A trajectory says where the head has gone: the inverse, about the same centre. To first order that is (p, R,
A, S as in ``Trajectory``: pitch, roll, yaw; a column of the file is named as its tool names it):

    tool   translation R, A, S   pitch, roll, yaw      file holds
    FSL    +tx, -ty, -tz         +rx, -ry, -rz         rx ry rz (rad) tx ty tz (mm)
    SPM    -x, -y, -z            +rx, -ry, +rz         x y z (mm) rx ry rz (rad)
    AFNI   +dL, +dP, -dS         +pitch, +yaw, -roll   roll pitch yaw (degrees) dS dL dP (mm)

The exact inverse is used. None of these files says which point the head turned about: FSL means the centre of
gravity of the reference, AFNI the middle of the grid, SPM the origin of the world coordinates. The centre is
left open (``centre=None``: the centre of the head), which is what the first two mean, and SPM nearly where
the origin lies in the head.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from scipy.spatial.transform import Rotation

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.outputs import write_texts
from BrainDiffLogic.motion.presets import SCAN_SECONDS
from BrainDiffLogic.motion.trajectory import EULER_ORDER, Trajectory, inverse_pose, sampled

TRANSLATIONS, ROTATIONS, CENTRE = ("tx", "ty", "tz"), ("rx", "ry", "rz"), ("cx_mm", "cy_mm", "cz_mm")
TIME = "time_s"
CSV_HEADER = [*(f"{name}_mm" for name in TRANSLATIONS), *(f"{name}_deg" for name in ROTATIONS)]
SEPARATORS = {";": "semicolons", "\t": "tabs"}
IN_RADIANS, LARGE = (".par", ".txt"), float(np.rad2deg(0.5))
"""What hold radians without saying so; degrees of a rotation from which that is worth a word."""
CELL_REMEDY = "repair or remove the line"
UNEVEN = 0.01
"""Times count as even when their steps differ by less than this share."""
CSV_REMEDY = f"name the columns in the first line: {','.join([TIME, *CSV_HEADER])}"


def read_trajectory(path: str | Path) -> Trajectory:
    """Read a recorded trace; its rows are taken as evenly spaced over the scan.

    .csv     names with units in the first line: tx_mm ty_mm tz_mm along R, A, S and rx_deg ry_deg rz_deg
             about them (or rx_rad ...), where the head is; optional time_s (uneven times are resampled to
             even ones) and cx_mm cy_mm cz_mm, the rotation centre in RAS; other columns are ignored
    .par     FSL MCFLIRT
    rp_*.txt SPM realignment
    .1D      AFNI ``3dvolreg -1Dfile``

    Raises InputError, naming file and line, for anything that is not one of these.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _read_csv(path)
    if suffix == ".txt" and not path.name.lower().startswith("rp_"):
        raise InputError(
            f"{path}: a .txt trace must be SPM's rp_*.txt; rename it if it is one, else convert it to .csv"
        )
    if suffix not in TOOLS:
        raise InputError(f"{path}: traces of type {suffix or 'none'!r} are unknown; use .csv, .par, rp_*.txt or .1D")
    columns, to_ras = TOOLS[suffix]
    turn, shift = to_ras(_table(path, columns))
    translations, rotations = inverse_pose(shift, turn.as_euler(EULER_ORDER, degrees=True))
    return Trajectory(translations, rotations)


def write_trajectory(trajectory: Trajectory, path: str | Path, seconds: float | None = None) -> None:
    """Write a trajectory as .csv; reading it back gives the same numbers.

    ``seconds`` adds a column of times for a scan of that length; the rotation centre is written where there
    is one. Raises InputError for another extension than .csv, or a file that cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".csv":
        raise InputError(f"{path}: trajectories are written as .csv; choose a name that ends in .csv")
    names, rows = list(CSV_HEADER), trajectory.rows
    if seconds is not None:
        times = (np.arange(len(rows)) + 0.5) * seconds / len(rows)
        names, rows = [TIME, *names], np.hstack([times[:, None], rows])
    if trajectory.centre is not None:
        names, rows = [*names, *CENTRE], np.hstack([rows, np.tile(trajectory.centre, (len(rows), 1))])
    lines = [",".join(names), *(",".join(repr(float(value)) for value in row) for row in rows)]
    write_texts({path: "\n".join(lines) + "\n"})


def _fsl(rows: np.ndarray) -> tuple[Rotation, np.ndarray]:
    """MCFLIRT: x -> Rx Ry Rz (x - c) + c + t in FSL's own axes, which run to L, A, S; each turn is
    left-handed.

    ``rotmat2euler`` and ``construct_rotmat_euler`` of FSL's miscmaths. FSL flips x of images stored with R
    first, so x runs to the left for any image stored in the usual axial order.
    """
    return Rotation.from_euler("XYZ", rows[:, :3] * [-1, 1, 1]), rows[:, 3:] * [-1, 1, 1]


def _spm(rows: np.ndarray) -> tuple[Rotation, np.ndarray]:
    """spm_matrix: x -> Rx Ry Rz x + t in RAS; turns about x and z left-handed, about y right-handed."""
    return Rotation.from_euler("XYZ", rows[:, 3:] * [-1, 1, -1]), rows[:, :3]


def _afni(rows: np.ndarray) -> tuple[Rotation, np.ndarray]:
    """``3drotate -rotate <roll>I <pitch>R <yaw>A -ashift <dS>S <dL>L <dP>P``.

    Right-handed turns about the axes towards S, L, P in this order, each about the already rotated axis, then
    the displacement.
    """
    return Rotation.from_euler("ZXY", rows[:, :3] * [1, -1, -1], degrees=True), rows[:, [4, 5, 3]] * [-1, -1, 1]


TOOLS: dict[str, tuple[str, Callable[[np.ndarray], tuple[Rotation, np.ndarray]]]] = {
    ".par": ("rx_rad ry_rad rz_rad tx ty tz of FSL MCFLIRT", _fsl),
    ".txt": ("x y z rx_rad ry_rad rz_rad of SPM", _spm),
    ".1d": ("roll pitch yaw dS dL dP of AFNI 3dvolreg -1Dfile", _afni),
}


def _table(path: Path, columns: str) -> np.ndarray:
    """(N, 6) numbers separated by blanks."""
    lines = [(number, line.split()) for number, line in _lines(path)]
    for number, fields in lines:
        if len(fields) != 6:
            raise InputError(f"{path}, line {number}: {len(fields)} columns, expected 6: {columns}; write it again")
    names = columns.split()[:6]
    return np.stack([_column(path, lines, n, name) for n, name in enumerate(names)], axis=1)


def _read_csv(path: Path) -> Trajectory:
    (_, header), *lines = [(number, _cells(path, number, line)) for number, line in _lines(path)]
    names = [name.strip().lower() for name in header]
    _check_names(path, names)
    places = {name: n for n, name in enumerate(names)}
    for number, fields in lines:
        if len(fields) != len(header):
            raise InputError(f"{path}, line {number}: {len(fields)} columns but {len(header)} names; repair the line")

    def read(name: str) -> np.ndarray:
        if name not in places:
            raise InputError(f"{path}, line 1: no column {name}; {CSV_REMEDY}")
        return _column(path, lines, places[name], name)

    def angle(name: str) -> np.ndarray:
        return np.rad2deg(read(f"{name}_rad")) if f"{name}_rad" in places else read(f"{name}_deg")

    translations = np.stack([read(f"{name}_mm") for name in TRANSLATIONS], axis=1)
    rotations = np.stack([angle(name) for name in ROTATIONS], axis=1)
    centre = None
    if any(name in places for name in CENTRE):
        rows = np.stack([read(name) for name in CENTRE], axis=1)
        if (rows != rows[0]).any():
            raise InputError(f"{path}: the rotation centre changes ({', '.join(CENTRE)}); give one for all lines")
        centre = rows[0]
    trajectory = Trajectory(translations, rotations, centre)
    return _evenly_timed(path, trajectory, read(TIME)) if TIME in places else trajectory


def _cells(path: Path, number: int, line: str) -> list[str]:
    """What stands between the commas of a line, without quotes."""
    try:
        return next(csv.reader([line], skipinitialspace=True))
    except csv.Error as error:
        raise InputError(f"{path}, line {number}: cannot be read ({error}); repair the line") from error


def _check_names(path: Path, names: list[str]) -> None:
    if len(names) == 1 and (separator := next((one for one in SEPARATORS if one in names[0]), "")):
        wrong = SEPARATORS[separator]
        raise InputError(f"{path}, line 1: the columns lie between {wrong}; save it with commas, and points in numbers")
    angles = [(f"{name}_deg", f"{name}_rad") for name in ROTATIONS]
    known = (TIME, *CENTRE, *(f"{name}_mm" for name in TRANSLATIONS), *(name for both in angles for name in both))
    for name in known:
        if names.count(name) > 1:
            raise InputError(f"{path}, line 1: {names.count(name)} columns are called {name}; keep one of them")
    for degrees, radians in angles:
        if degrees in names and radians in names:
            raise InputError(f"{path}, line 1: both {degrees} and {radians} are there; keep one of them")


def trace_notes(path: Path, trajectory: Trajectory) -> tuple[str, ...]:
    """What to know of a trace that was read: rotations so large that the file may hold degrees for radians."""
    largest = float(np.abs(trajectory.rotations).max())
    if path.suffix.lower() not in IN_RADIANS or largest <= LARGE:
        return ()
    return (f"rotations of up to {largest:.0f} degrees: radians were assumed; if the file holds degrees, convert it",)


def _evenly_timed(path: Path, trajectory: Trajectory, times: np.ndarray) -> Trajectory:
    steps = np.diff(times)
    if (steps <= 0).any():
        line = int(np.flatnonzero(steps <= 0)[0]) + 1
        raise InputError(f"{path}: {TIME} does not grow after {times[line - 1]:g} s; sort the lines by time")
    if np.ptp(steps) <= UNEVEN * steps.mean():
        return trajectory
    return sampled(trajectory, times, np.linspace(times[0], times[-1], len(times)))


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are neither blank nor comments, with their numbers; enough of them for a trajectory."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the name of the trace") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: this is not a text file; export the trace as text") from error
    numbered = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [(number, line) for number, line in numbered if line and not line.startswith("#")]
    poses = len(lines) - (path.suffix.lower() == ".csv")
    if poses < 2:
        raise InputError(f"{path}: {max(0, poses)} poses, a trajectory needs at least 2; record a longer trace")
    return lines


def _column(path: Path, lines: list[tuple[int, list[str]]], place: int, name: str) -> np.ndarray:
    """(N,) finite numbers of one column; the name tells whether they are radians."""
    values = np.empty(len(lines))
    for row, (number, fields) in enumerate(lines):
        try:
            values[row] = float(fields[place])
        except ValueError as error:
            wrong = fields[place].strip()
            raise InputError(f"{path}, line {number}: {name} is {wrong!r}, not a number; {CELL_REMEDY}") from error
        if not np.isfinite(values[row]):
            raise InputError(f"{path}, line {number}: {name} is {fields[place].strip()}; {CELL_REMEDY}")
        if name.endswith("_rad") and abs(values[row]) > 2 * np.pi:
            raise InputError(
                f"{path}, line {number}: {name} is {values[row]:g}, above a turn; convert degrees to radians"
            )
    return values


MM, RADIANS = 1e-3, 1e-5
"""What the stored integers count."""


class TraceSet:
    """Recorded motion of many people: the runs of one .npz, or of all in a folder, or those of some people.

    A set is a pair of files: ``NAME.npz`` with an int16 array (frames, 6) for each run, translations in micrometres
    along FSL's axes and rotations in 1e-5 rad, as MCFLIRT found them in functional MRI; and ``NAME_index.tsv`` with the
    columns key (the run), frames and tr_s (seconds between frames). A run is called ``NAME/key``; what stands before
    the first "_" of the key is the person, ``NAME/person``. They were asked to lie still: most runs hold little motion.

    people  ``NAME/person`` each (default: all). Raises InputError where there are no runs, where an index is
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
            yield name, _run_rows(file, key)

    def draw(self, rng: np.random.Generator, lines: int, seconds: float = SCAN_SECONDS) -> tuple[Trajectory, str]:
        """(``lines`` poses at even times over a scan of this length, name of the run).

        Of a longer recording some stretch of that length is taken; a shorter one is stretched, so its motion is slower
        than it was. The centre is left open, which is what MCFLIRT means.
        """
        name = sorted(self.runs)[int(rng.integers(len(self.runs)))]
        file, key, tr = self.runs[name]
        rows = _run_rows(file, key)
        times = tr * np.arange(len(rows))
        spare = times[-1] - seconds
        start, end = 0.0, times[-1]
        if spare > 0:
            start = rng.uniform(0, spare)
            end = start + seconds
        turn, shift = TOOLS[".par"][1](np.hstack([rows[:, 3:] * RADIANS, rows[:, :3] * MM]))
        recorded = Trajectory(*inverse_pose(shift, turn.as_euler(EULER_ORDER, degrees=True)))
        return sampled(recorded, times, np.linspace(start, end, lines)), name


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


def _run_rows(file: Path, key: str) -> np.ndarray:
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
