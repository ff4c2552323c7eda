"""Correctors on quiet heads that moved before their noise came in, as in a scanner; scanners that are left out.

    python Testing/Benchmarks/quiet_heads.py --data ../shared/data --out runs/quiet mc-net NEW.safetensors

Heads of two validation scanners (ds000011-11, pycortex-S1), of a scanner left out (fnndsc-adi), a brain masked after
it moved (ds002748-21). Each lies still three times, with little noise to much, and moves by 0.7, 1.5 and 3 mm in three
ways. A slab of sagittal slices beside the middle is corrected and measured at strengths 1 and 0.5, without the gate,
against the still scan with the same noise ("mre") and against the one without noise ("mre_quiet"). OUT/cases keeps the
cases, OUT/rows.csv what was measured: a run that was stopped goes on. The table comes last.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from BrainDiffLogic.correction import correct
from BrainDiffLogic.images.outputs import as_csv
from BrainDiffLogic.metrics.quality import compare
from BrainDiffLogic.models.checkpoints import load_checkpoint
from BrainDiffLogic.motion import preset, simulate_motion, with_severity
from BrainDiffLogic.motion.kspace import phase_encode_axis
from BrainDiffLogic.scan import head_mask
from BrainDiffLogic.training.heads import Source, load, quiet_head
from BrainDiffLogic.training.pairs import FFT_ACCURACY, drawn_mask
from BrainDiffLogic.volume import Volume

HEADS = {"ds000011-11": "head", "pycortex-S1": "head", "fnndsc-adi": "head", "ds002748-21": "brain"}
STILL_NOISE, MOVED_NOISE = (0.02, 0.04, 0.06), 0.03
"""Over the mean of the head."""
SEVERITIES, KINDS, AXES = (0.7, 1.5, 3.0), ("tremor", "steps", "drift"), ("AP", "SI", "AP")
STRENGTHS = (1.0, 0.5)
SLAB = slice(-4, 12)
"""Sagittal slices from the middle."""
WORSE = 1.01
"""Times the input's MRE."""
NOTHING = "do nothing"
NUMBERS = ("mre", "mre_quiet", "ssim", "tenengrad_ratio")

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One simulated scan of a head; ``kind`` "still" has no severity."""

    head: str
    kind: str
    pe_axis: str
    severity: float
    noise: float

    @property
    def name(self) -> str:
        """A file name."""
        return f"{self.head}_{self.kind}-{self.severity:g}mm-{self.pe_axis}-noise{self.noise:g}"


def cases() -> Iterator[Case]:
    """All cases, those of one head after those of another."""
    for head in HEADS:
        for noise in STILL_NOISE:
            yield Case(head, "still", "AP", 0.0, noise)
        for severity in SEVERITIES:
            for kind, axis in zip(KINDS, AXES, strict=True):
                yield Case(head, kind, axis, severity, MOVED_NOISE)


def slabs(case: Case, data: Path, out: Path) -> tuple[Volume, Volume, Volume]:
    """(moved, still with the same noise, still without noise) of a case; simulated at the first call."""
    path = out / "cases" / f"{case.name}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **_simulated(case, data, out))
    with np.load(path) as kept:
        affine = np.diag([*kept["spacing"], 1.0])
        moved, still, quiet = (Volume(kept[name], affine, source=case.name) for name in ("moved", "still", "quiet"))
    return moved, still, quiet


def _simulated(case: Case, data: Path, out: Path) -> dict[str, np.ndarray]:
    kind = HEADS[case.head]
    source = Source(str(data / f"t1_{kind}" / f"{case.head}_T1w.nii.gz"), case.head, kind)
    still = quiet_head(out / "quiet" / f"{case.head}.npz", lambda: load(source, np.random.default_rng(0)))
    seed = sum(case.name.encode())
    lines = still.shape[phase_encode_axis(still.affine, case.pe_axis)]
    motion = with_severity(preset("drift" if case.kind == "still" else case.kind, lines, seed), case.severity)
    noise = case.noise * float(still.array[head_mask(still.array)].mean())
    scan = simulate_motion(still, motion, case.pe_axis, noise=noise, seed=seed, accuracy=FFT_ACCURACY)
    parts = {"moved": scan.moved.array, "still": scan.reference.array, "quiet": still.array}
    if kind == "brain":
        mask = drawn_mask(still, True, np.random.default_rng(seed))
        parts = {name: array * mask for name, array in parts.items()}
    middle = still.shape[0] // 2
    slab = slice(middle + SLAB.start, middle + SLAB.stop)
    return {**{name: array[slab] for name, array in parts.items()}, "spacing": still.spacing}


def measured(case: Case, model: str, data: Path, out: Path) -> list[Row]:
    """The rows of a case for doing nothing, or for a model at each strength."""
    moved, still, quiet = slabs(case, data, out)
    inside = head_mask(quiet.array)
    results = {1.0: moved}
    if model != NOTHING:
        found = correct(moved, load_checkpoint(model), gate=False, force=True)
        results = {strength: found.with_strength(strength).corrected for strength in STRENGTHS}
    rows = []
    for strength, result in results.items():
        numbers = compare(result, still, inside)
        against_quiet = compare(result, quiet, inside).mre
        rows.append({
            "case": case.name, "head": case.head, "kind": case.kind, "severity": case.severity, "noise": case.noise,
            "model": model, "strength": strength, "mre": numbers.mre, "mre_quiet": against_quiet,
            "ssim": numbers.ssim, "tenengrad_ratio": numbers.tenengrad_ratio,
        })  # fmt: skip
    return rows


def read_rows(path: Path) -> list[Row]:
    """What was measured before, numbers as floats."""
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    numbers = ("severity", "noise", "strength", *NUMBERS)
    return [{name: float(value) if name in numbers else value for name, value in row.items()} for row in rows]


def append_rows(path: Path, rows: list[Row]) -> None:
    """Add rows to a table, with a header where it is new."""
    header, *lines = as_csv(list(rows[0]), rows).splitlines(keepends=True)
    with path.open("a", newline="") as stream:
        stream.writelines(lines if stream.tell() else [header, *lines])


def table(rows: list[Row], by: str = "severity") -> str:
    """Means by ``by``, model and strength; of moved scans the share that is worse than the input by 1 % and more."""
    before = {row["case"]: row["mre"] for row in rows if row["model"] == NOTHING}
    lines = [f"| {by} | model | strength | n | MRE, same noise | MRE, no noise | SSIM | Tenengrad | worse |"]
    lines.append("|" + "---|" * 9)
    for group in sorted({row[by] for row in rows}):
        here = [row for row in rows if row[by] == group]
        for model, strength in dict.fromkeys((row["model"], row["strength"]) for row in here):
            taken = [row for row in here if (row["model"], row["strength"]) == (model, strength)]
            means = [np.mean([row[name] for row in taken]) for name in NUMBERS]
            moved = [row["mre"] > WORSE * before[row["case"]] for row in taken if row["severity"] > 0]
            worse = f"{np.mean(moved):.0%}" if moved and model != NOTHING else ""
            figures = " | ".join(f"{mean:.4f}" for mean in means)
            name = Path(model).stem
            lines.append(f"| {group} | {name} | {strength:g} | {len(taken)} | {figures} | {worse} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("models", nargs="*", help="names or files")
    args = parser.parse_args()
    path = args.out / "rows.csv"
    done = {(row["case"], row["model"]) for row in read_rows(path)}
    for model in (NOTHING, *args.models):
        for case in cases():
            if (case.name, model) not in done:
                append_rows(path, measured(case, model, args.data, args.out))
    rows = [row for row in read_rows(path) if row["model"] in (NOTHING, *args.models)]
    print(table(rows))
    print(f"\n{table([row for row in rows if row['severity'] > 0], 'head')}")


if __name__ == "__main__":
    main()
