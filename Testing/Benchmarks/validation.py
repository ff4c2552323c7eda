"""The validation volumes and ``braindiff evaluate`` on them: every model, the denoisers and doing nothing.

    python Testing/Benchmarks/validation.py --data ../shared/data --out runs/validation [--jobs 2]

Subjects ds000011-11, ds000011-12 and pycortex-S1 (a scanner that no training run saw). Each case is simulated once and
kept, and what is measured is not measured again, so the run may be stopped at any time. OUT/pairs.csv lists the cases,
OUT/evaluation is the evaluation; ``cards.py`` puts it onto the models' cards.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from BrainDiffLogic.evaluation.pairs import PLANES, read_pairs
from BrainDiffLogic.evaluation.report import write_report
from BrainDiffLogic.evaluation.run import EvaluationSettings, evaluate
from BrainDiffLogic.evaluation.safety_scene import cropped
from BrainDiffLogic.images import read_volume, write_volume
from BrainDiffLogic.motion import preset, simulate_motion, with_severity
from BrainDiffLogic.motion.kspace import phase_encode_axis
from BrainDiffLogic.training.heads import fourier_resampled
from BrainDiffLogic.volume import Volume

SUBJECTS = ("ds000011-11", "ds000011-12", "pycortex-S1")
CASES: tuple[tuple[Any, ...], ...] = (
    ("still", 0.0, "AP"), ("tremor", 0.3, "AP"), ("drift", 0.45, "SI"), ("steps", 0.7, "AP"), ("swallow", 0.9, "SI"),
    ("nod", 1.2, "AP"), ("tremor", 1.6, "SI"), ("steps", 2.5, "AP"), ("drift", 3.0, "AP"), ("tremor", 3.5, "AP"),
    ("steps", 5.0, "SI"), ("steps", 2.0, "LR"), ("steps", 2.2, "AP", 1.5), ("tremor", 1.8, "SI", 0.75),
)  # fmt: skip
"""Preset, mean displacement in mm, phase-encode axis; the size of the voxels in mm where it is not the scan's own."""
SEED = 77
EVALUATION = "evaluation"


@dataclass(frozen=True)
class Case:
    """One simulated scan of one subject."""

    subject: str
    preset: str
    severity: float
    pe_axis: str
    voxel: float | None = None

    @property
    def name(self) -> str:
        """A file name."""
        voxel = f"-voxel{self.voxel:g}mm" if self.voxel else ""
        return f"{self.subject}_{self.preset}-{self.severity:g}mm-{self.pe_axis}{voxel}"

    @property
    def group(self) -> str:
        """The stratum of its resolution."""
        return f"voxels of {self.voxel:g} mm" if self.voxel else "voxels as they are"

    @property
    def plane(self) -> str:
        """Whether the phase-encode lines lie in the sagittal slices, which are corrected."""
        return PLANES[self.pe_axis]


def cases() -> Iterator[Case]:
    """All cases, those of one subject after those of another."""
    for subject in SUBJECTS:
        for case in CASES:
            yield Case(subject, *case)


def simulated(case: Case, data: Path, out: Path) -> tuple[Volume, Volume]:
    """(moved, still) of a case, cropped to the head; simulated at the first call."""
    simulate(case, data, out)
    moved, still = (read_volume(file) for file in files_of(case, out))
    return moved, still


def files_of(case: Case, out: Path) -> list[Path]:
    """The files of the moved and the still volume."""
    return [out / "cases" / f"{case.name}_{part}.nii.gz" for part in ("moved", "still")]


def simulate(case: Case, data: Path, out: Path) -> None:
    """Write the two volumes of a case unless they are there."""
    files = files_of(case, out)
    if not all(file.exists() for file in files):
        files[0].parent.mkdir(parents=True, exist_ok=True)
        still = cropped(read_volume(data / "t1_head" / f"{case.subject}_T1w.nii.gz"))
        if case.voxel:
            still = resampled(still, case.voxel)
        lines = still.shape[phase_encode_axis(still.affine, case.pe_axis)]
        kind = "drift" if case.preset == "still" else case.preset
        seed = SEED + SUBJECTS.index(case.subject)
        simulation = simulate_motion(still, with_severity(preset(kind, lines, seed), case.severity), case.pe_axis)
        for file, volume in zip(files, (simulation.moved, simulation.reference), strict=True):
            write_volume(volume, file, dtype="float32")


def resampled(volume: Volume, voxel: float) -> Volume:
    """The volume on voxels of about this size in mm: its spectrum cut or filled with zeros, as a scanner would."""
    old = np.array(volume.shape)
    new = [round(size * mm / voxel / 2) * 2 for size, mm in zip(old, volume.spacing, strict=True)]
    affine = volume.affine.copy()
    affine[:3, :3] *= old / new
    return Volume(np.maximum(fourier_resampled(volume.array, new), 0), affine, source=volume.source)


def write_pairs(out: Path) -> Path:
    """List the cases that are simulated, for ``braindiff evaluate --pairs``; returns the file."""
    file = out / "pairs.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        facts = ["severity_mm", "scanner", "pe_axis", "plane", "simulator", "group"]
        writer.writerow(["moved", "reference", "subject", *facts])
        for case in cases():
            files = files_of(case, out)
            if all(path.exists() for path in files):
                places, scanner = [path.relative_to(out) for path in files], case.subject.split("-")[0]
                known = [case.severity, scanner, case.pe_axis, case.plane, "BrainDiff", case.group]
                writer.writerow([*places, case.subject, *known])
    return file


def main() -> None:
    """Simulate and measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=None, help="names or files (default: all networks)")
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    for case in cases():
        simulate(case, args.data, args.out)
    pairs = read_pairs(write_pairs(args.out), aligned=True)
    setting = EvaluationSettings(tuple(args.models) if args.models else None, "cpu", gated=True)
    rows = evaluate(pairs, args.out / EVALUATION, setting, args.jobs, lambda share, stage: print(f"{share:.0%}", stage))
    print(write_report(args.out / EVALUATION, rows))


if __name__ == "__main__":
    main()
