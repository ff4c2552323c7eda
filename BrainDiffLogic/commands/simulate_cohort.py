"""``braindiff simulate-cohort``: an MR-ART-shaped BIDS dataset with simulated motion from a folder of still T1s."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import zlib
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from BrainDiffLogic import __version__
from BrainDiffLogic.data.split import bids_label, names_subject, one_person, subject_of
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.files import file_digest
from BrainDiffLogic.images import WRITABLE, file_suffix, read_volume, write_volume
from BrainDiffLogic.images.outputs import make_folder, write_json, write_texts
from BrainDiffLogic.motion.kspace import PE_AXES, phase_encode_axis
from BrainDiffLogic.motion.presets import PRESETS, SCAN_SECONDS, draw_trajectory, parse_level
from BrainDiffLogic.motion.simulation import simulate_motion
from BrainDiffLogic.motion.traces import write_trajectory
from BrainDiffLogic.motion.trajectory import Trajectory, stratum
from BrainDiffLogic.progress import Progress, run_all, shown_progress, silent
from BrainDiffLogic.volume import Volume

DEFAULT_LEVELS = ("nod5", "nod10")
"""MR-ART: 5 nods in headmotion1, 10 in headmotion2 (Narai et al., Sci Data 2022;9:630)."""
WORST_SCORE = 3
DESCRIPTION, PARTICIPANTS, SCORES = "dataset_description.json", "participants.tsv", "derivatives/scores.tsv"
TRAJECTORIES = "derivatives/trajectories"
PART = ".part-"


@dataclass(frozen=True)
class CohortSettings:
    """What the motion of a cohort depends on, beside the scans.

    levels    presets, with the number of events where they have one: "nod5", "drift"; the n-th becomes
              acq-headmotion<n>
    severity  mean displacement in mm for each level; none: the preset's natural size
    """

    levels: tuple[str, ...] = DEFAULT_LEVELS
    severity: tuple[float, ...] = ()
    pe_axis: str = "AP"
    seed: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``braindiff simulate-cohort``."""
    add = parser.add_argument
    add("input", metavar="IN_DIR", type=Path, help="folder with still T1-weighted volumes, one for each subject")
    add("output", metavar="OUT_DIR", type=Path, help="BIDS folder; finished subjects in it are left as they are")
    add("--pattern", default="*", metavar="GLOB", help="which files of IN_DIR; **/ goes into folders (default: all)")
    levels = f"presets ({', '.join(PRESETS)}) with a number of events (default: {' '.join(DEFAULT_LEVELS)})"
    add("--levels", nargs="+", default=list(DEFAULT_LEVELS), metavar="LEVEL", help=levels)
    add("--severity", nargs="+", type=float, default=[], metavar="MM", help="mean displacement, one or one a level")
    add("--pe-axis", default="AP", choices=sorted(PE_AXES), help="phase encoding (AP)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the motion (default: 0)")
    add("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Make the cohort, or the part of it that is missing."""
    settings = CohortSettings(tuple(args.levels), tuple(args.severity), args.pe_axis, args.seed)
    with shown_progress() as progress:
        subjects = simulate_cohort(args.input, args.output, settings, args.pattern, args.jobs, progress)
    print(f"{len(subjects)} subjects, levels standard {' '.join(settings.levels)}, simulated motion: {args.output}")
    return 0


def simulate_cohort(
    source: Path, target: Path, settings: CohortSettings, pattern: str = "*", jobs: int = 1, progress: Progress = silent
) -> list[str]:
    """Make a BIDS dataset like MR-ART's from still volumes; returns its subjects, sorted.

    source, pattern  folder and glob of the still volumes (NIfTI, NRRD, MetaImage)
    target           sub-ID/anat/sub-ID_acq-{standard,headmotion1,...}_T1w.nii.gz with sidecars, participants.tsv,
                     derivatives/scores.tsv (1, 2, 3 by level, not rated by anybody) and the trajectories
    jobs             processes that work on subjects
    A subject appears whole or not at all, so a stopped run goes on where it was. Its motion depends on its name and
    the settings alone. Raises InputError for bad arguments or scans, and where ``target`` holds something else.
    """
    _check(settings, jobs)
    scans = find_stills(source, pattern, target)
    _prepare(target, settings)
    missing = [(subject, path) for subject, path in scans.items() if not _is_finished(target, subject, path)]
    tasks = [partial(simulate_subject, subject, path, target, settings) for subject, path in missing]
    run_all(tasks, jobs, progress, "Simulating")
    _write_tables(target, settings)
    return sorted(scans)


def find_stills(source: Path, pattern: str, target: Path) -> dict[str, Path]:
    """The still volumes by the subject that their names make.

    Raises InputError where there is none, two names make one subject, or two may be visits of one person.
    """
    if not source.is_dir():
        raise InputError(f"{source}: there is no such folder; give the folder with the still scans")
    if target.resolve() == source.resolve():
        raise InputError(f"{target}: the cohort would be written among the scans; name another folder")
    try:
        paths = sorted(path for path in source.glob(pattern) if file_suffix(path) in WRITABLE and path.is_file())
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"--pattern {pattern!r}: {error}; give a pattern such as '**/*_T1w.nii.gz'") from error
    scans: dict[str, Path] = {}
    for path in paths:
        if path.resolve().is_relative_to(target.resolve()):
            continue
        subject = bids_label(path.name)
        same = next((other for other in scans if other.casefold() == subject.casefold()), None)
        if same is not None:
            names = f"{scans[same].relative_to(source)} and {path.relative_to(source)}"
            raise InputError(f"{names} would both be sub-{subject}; rename one or choose with --pattern")
        scans[subject] = path
    if not scans:
        remedy = f"'**/*_T1w.nii.gz' goes into folders, files end in {', '.join(WRITABLE)}"
        raise InputError(f"{source}: no volume fits --pattern {pattern!r}; {remedy}")
    _refuse_visits(scans)
    return scans


def _refuse_visits(scans: dict[str, Path]) -> None:
    """InputError where two files may be visits of one person, whom a split would put on both of its sides."""
    stems = {subject_of(path.name): path for path in scans.values() if not names_subject(path.name)}
    shared = one_person(stems)
    if shared is not None:
        person, one, other = shared
        raise InputError(
            f"{stems[one]} and {stems[other].name} may be one person, {person}; keep one with --pattern, or call both"
            " by their subjects, as sub-A.nii.gz"
        )


def _check(settings: CohortSettings, jobs: int) -> None:
    for level in settings.levels:
        parse_level(level)
    if not settings.levels:
        raise InputError("--levels: give at least one level of motion, such as nod5")
    given = len(settings.severity)
    if given not in (0, 1, len(settings.levels)):
        raise InputError(f"--severity: {given} numbers for {len(settings.levels)} levels; give one, or one a level")
    for value in settings.severity:
        if not 0 < value < float("inf"):
            raise InputError(f"--severity {value:g}: give a finite number above 0, in mm")
    for name, number, lowest in (("seed", settings.seed, 0), ("jobs", jobs, 1)):
        if number < lowest:
            raise InputError(f"--{name} {number}: give a whole number, {lowest} or more")


def _prepare(target: Path, settings: CohortSettings) -> None:
    """Make the folder and describe it; refuse one that holds something else or other motion."""
    description = target / DESCRIPTION
    wanted = json.loads(json.dumps(asdict(settings)))
    if description.exists():
        try:
            before = json.loads(description.read_text(encoding="utf-8"))["GeneratedBy"][0]["Settings"]
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            raise InputError(f"{target}: holds another dataset; give an empty folder") from None
        if before != wanted:
            raise InputError(f"{target}: holds a cohort with other levels, severity, axis or seed; give another folder")
    elif target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: is not an empty folder; give another one")
    make_folder(target)
    for part in target.glob(f"{PART}*"):  # of a run that was killed
        shutil.rmtree(part)
    if not description.exists():
        write_json(description, {
            "Name": "T1-weighted scans with simulated head motion", "BIDSVersion": "1.9.0", "DatasetType": "raw",
            "GeneratedBy": [{"Name": "braindiff simulate-cohort", "Version": __version__, "Settings": wanted}],
        })  # fmt: skip


def _is_finished(target: Path, subject: str, source: Path) -> bool:
    """Whether the subject is there; InputError where it was made from another file."""
    sidecar = target / f"sub-{subject}" / "anat" / f"{_scan_name(subject, 0)}.json"
    if not sidecar.parent.exists():
        return False
    try:
        facts = json.loads(sidecar.read_text(encoding="utf-8"))
        before = facts["SourceFile"], facts["SourceSHA256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{sidecar}: missing or damaged; delete the folder of sub-{subject} and run again") from None
    if before != (source.name, file_digest(source)):
        raise InputError(f"{source}: sub-{subject} was made from another {before[0]}; delete its folder or rename this")
    return True


def simulate_subject(subject: str, path: Path, target: Path, settings: CohortSettings) -> None:
    """Write the scans of one subject into a folder beside its place, which then moves there."""
    volume = read_volume(path)
    part, traces = target / f"{PART}{subject}", target / TRAJECTORIES / f"sub-{subject}"
    (part / "anat").mkdir(parents=True)
    traces.mkdir(parents=True, exist_ok=True)
    try:
        facts: dict[str, Any] = {"Modality": "MR", "SourceFile": path.name, "SourceSHA256": file_digest(path)}
        _write_scan(part, _scan_name(subject, 0), volume, facts | {"MotionSimulated": False})
        for level, name in enumerate(settings.levels, start=1):
            scan = _scan_name(subject, level)
            trace = f"{TRAJECTORIES}/sub-{subject}/{scan.removesuffix('_T1w')}_trajectory.csv"
            moved, trajectory, motion = _moved(volume, subject, level, settings)
            write_trajectory(trajectory, target / trace, SCAN_SECONDS)
            motion |= {"MotionSimulated": True, "MotionLevel": name, "Trajectory": trace}
            _write_scan(part, scan, moved, facts | motion)
        os.rename(part, target / f"sub-{subject}")
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _moved(
    volume: Volume, subject: str, level: int, settings: CohortSettings
) -> tuple[Volume, Trajectory, dict[str, Any]]:
    """The volume with the motion of a level, 1 or more; its trajectory, and what the sidecar says of it."""
    lines = volume.shape[phase_encode_axis(volume.affine, settings.pe_axis)]
    if lines < 2:
        raise InputError(f"{volume.name}: one voxel along {settings.pe_axis}; choose another --pe-axis")
    wanted = settings.severity[(level - 1) % len(settings.severity)] if settings.severity else None
    seed = [settings.seed, zlib.crc32(subject.encode()), level]
    trajectory = draw_trajectory(settings.levels[level - 1], lines, wanted, seed)
    simulation = simulate_motion(volume, trajectory, settings.pe_axis)
    facts = {
        "MotionSeverityMillimetres": simulation.severity, "MotionStratumMillimetres": stratum(simulation.severity),
        "PhaseEncodingAxis": settings.pe_axis, "Seed": seed,
    }  # fmt: skip
    return simulation.moved, simulation.trajectory, facts


def _scan_name(subject: str, level: int) -> str:
    return f"sub-{subject}_acq-{f'headmotion{level}' if level else 'standard'}_T1w"


def _write_scan(part: Path, name: str, volume: Volume, facts: dict[str, Any]) -> None:
    write_volume(volume, part / "anat" / f"{name}.nii.gz")
    write_json(part / "anat" / f"{name}.json", facts)


def _write_tables(target: Path, settings: CohortSettings) -> None:
    """participants.tsv and derivatives/scores.tsv of every subject that is there."""
    subjects = sorted(folder.name.removeprefix("sub-") for folder in target.glob("sub-*"))
    scores = {level: min(1 + level, WORST_SCORE) for level in range(len(settings.levels) + 1)}
    rows = [f"{_scan_name(subject, level)}\t{scores[level]}\ttrue" for subject in subjects for level in scores]
    tables = {
        PARTICIPANTS: ["participant_id", *(f"sub-{subject}" for subject in subjects)],
        SCORES: ["bids_name\tscore\tsimulated", *rows],
    }
    write_texts({target / name: "\n".join(lines) + "\n" for name, lines in tables.items()})
    meaning = "1, 2, 3 by the level of the simulated motion; not rated by anybody, the still scan is taken to be good"
    write_json((target / SCORES).with_suffix(".json"), {"score": {"Description": meaning}})
