"""Calibrate the disagreement map on pairs, each subject's coverage with a curve that the others gave.

    python Testing/Benchmarks/disagreement.py --pairs F.csv [--model mc-net] [--test OTHER.csv] [--out calibration.json]

F.csv as for ``braindiff evaluate``: moved, reference, subject. OTHER.csv: pairs that no curve is fitted to. ``--out``
adds the curve of all pairs of F.csv to a file as Resources/Disagreement/calibration.json is.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from BrainDiffLogic import read_volume
from BrainDiffLogic.disagreement import Calibration, Panel, spread
from BrainDiffLogic.inference import predict_residual
from BrainDiffLogic.models.checkpoints import load_checkpoint
from BrainDiffLogic.scan import head_mask, robust_scale
from BrainDiffLogic.volume import to_sagittal

SHARE = 0.8
VOXELS = 100_000
"""Drawn from each head."""


@dataclass
class Case:
    """Voxels of one corrected head: the spread of the answers and the error of the model's own, network units."""

    subject: str
    title: str
    spread: np.ndarray
    error: np.ndarray


def cases_of(pairs: Path, panel: Panel, device: str) -> list[Case]:
    """Every pair of a CSV, measured."""
    with pairs.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    cases = []
    for row in rows:
        moved, reference = (pairs.parent / row[name] for name in ("moved", "reference"))
        cases.append(case_of(moved, reference, row["subject"], panel, device))
        print(f"{cases[-1].title}: {len(cases)} of {len(rows)}", flush=True)
    return cases


def case_of(moved: Path, reference: Path, subject: str, panel: Panel, device: str) -> Case:
    """One pair; the head is that of the reference."""
    volume, still = read_volume(moved), read_volume(reference)
    scale = robust_scale(volume.array, head_mask(volume.array))
    stack, truth = (scale.forward(np.ascontiguousarray(to_sagittal(each))) for each in (volume, still))
    head = to_sagittal(volume.with_array(head_mask(still.array), kind="mask"))

    def ask(corrector, shown, _asked=0):
        return predict_residual(corrector, shown, device=device).residual

    first = ask(panel.model[0], stack)
    apart = spread(panel.answers(first, stack, ask))
    chosen = np.random.default_rng(0).choice(np.flatnonzero(head), VOXELS)
    error = np.abs(stack - first - truth)
    return Case(subject, moved.name.removesuffix(".nii.gz"), apart.ravel()[chosen], error.ravel()[chosen])


def fitted(cases: list[Case], sums: list[str]) -> Calibration:
    """The curve of all voxels of these cases."""
    return Calibration.fit(
        np.concatenate([case.spread for case in cases]), np.concatenate([case.error for case in cases]), SHARE, sums
    )


def table(cases: list[Case], curves: dict[str, Calibration]) -> list[str]:
    """Markdown rows: the coverage of each case by the curve for its subject."""
    lines = [f"| case | mean spread | mean error | Spearman | coverage (aim {SHARE}) |", "|---|---:|---:|---:|---:|"]
    for case in cases:
        covered = float((case.error <= curves[case.subject](case.spread)).mean())
        rho = float(spearmanr(case.spread, case.error).statistic)
        lines.append(
            f"| {case.title} | {case.spread.mean():.4f} | {case.error.mean():.4f} | {rho:.2f} | {covered:.2f} |"
        )
    every, errors = (np.concatenate([getattr(case, name) for case in cases]) for name in ("spread", "error"))
    covered = np.mean([(case.error <= curves[case.subject](case.spread)).mean() for case in cases])
    means = np.corrcoef([case.spread.mean() for case in cases], [case.error.mean() for case in cases])[0, 1]
    lines.append(f"| all voxels | | | {float(spearmanr(every, errors).statistic):.2f} | {covered:.2f} |")
    return [*lines, "", f"Correlation of a volume's mean spread with its mean error: {means:.3f}"]


def main() -> None:
    """Measure, fit, print; write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--model", default="mc-net")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    panel = Panel.around(load_checkpoint(args.model))
    cases = cases_of(args.pairs, panel, args.device)
    subjects = sorted({case.subject for case in cases})
    left_out = {one: fitted([case for case in cases if case.subject != one], panel.sums) for one in subjects}
    everything = fitted(cases, panel.sums)
    print("\n".join(table(cases, left_out)))
    if args.test:
        tests = cases_of(args.test, panel, args.device)
        print("\n".join(table(tests, {case.subject: everything for case in tests})))
    if args.out:
        kept = json.loads(args.out.read_text(encoding="utf-8"))["calibrations"] if args.out.exists() else []
        kept = [each for each in kept if each["sums"] != panel.sums]
        args.out.parent.mkdir(parents=True, exist_ok=True)
        content = {"calibrations": [*kept, asdict(everything)]}
        args.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
