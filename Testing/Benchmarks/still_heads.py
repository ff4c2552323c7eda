"""What the search of motion makes of heads that lay still: the limits from which on it believes in motion.

    PYTHONPATH=. python Testing/Benchmarks/still_heads.py --data ../shared/data [--heads 24] [--out still.csv]
    PYTHONPATH=. python Testing/Benchmarks/still_heads.py --data ../shared/data --heads 82 --corrected [--jobs 2]

Every scan of t1_head and, spread evenly, of t1_brain, along AP and SI, as it is: how far even motion lets F fall, the
score of rings in the spectrum, and the size of the poses found. Prints the quantiles that ``Limits`` come from.
With --corrected: each scan as it is, and each head with noise of 2 % more, as the default gives it back to a user:
unchanged and why, or how much it was changed; the same of ``mc-net``.
"""

from __future__ import annotations

import argparse
import csv
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from BrainDiffLogic.correction import correct
from BrainDiffLogic.images import read_volume
from BrainDiffLogic.metrics.quality import compare
from BrainDiffLogic.models.checkpoints import DEFAULT_MODEL, DEFAULT_NETWORK
from BrainDiffLogic.motion.estimate import SPACING, even_motion
from BrainDiffLogic.motion.kspace import phase_encode_axis
from BrainDiffLogic.motion.magnitude import MagnitudeScan
from BrainDiffLogic.motion.odd_motion import propose
from BrainDiffLogic.scan import Scan

MODELS = (DEFAULT_NETWORK, DEFAULT_MODEL)
NOISE = 0.02
QUANTILES = (0.5, 0.9, 0.95, 1.0)


def main() -> None:
    """Print a line a scan and axis, and the quantiles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--heads", type=int, default=24, help="how many scans at most")
    parser.add_argument("--out", type=Path, metavar="F.csv")
    parser.add_argument("--corrected", action="store_true", help="what a user gets back, in place of what is found")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes, with --corrected")
    args = parser.parse_args()
    heads, brains = (sorted((args.data / folder).glob("*.nii.gz")) for folder in ("t1_head", "t1_brain"))
    spread = np.linspace(0, len(brains) - 1, max(0, args.heads - len(heads))).astype(int)
    paths = [*heads, *(brains[n] for n in spread)][: args.heads]
    if args.corrected:
        noisy = [(path, NOISE) for path in paths if path in heads]
        show_corrected([*((path, 0.0) for path in paths), *noisy], args.jobs)
        return
    rows = []
    for path in paths:
        scan = MagnitudeScan(read_volume(path))
        for pe_axis in ("AP", "SI"):
            rows.append([path.name.removesuffix("_T1w.nii.gz"), pe_axis, *measured(scan, pe_axis)])
            print("{} {}: F falls by {:.5f}, rings {:.2f} ({}), poses {:.2f} mm".format(*rows[-1]), flush=True)
    for name, column in (("fall of F", 2), ("rings", 3), ("poses", 5)):
        values = np.quantile([row[column] for row in rows], QUANTILES)
        print(name, *(f"{share:.0%}: {value:.5f}" for share, value in zip(QUANTILES, values, strict=True)))
    if args.out:
        with args.out.open("w", newline="") as file:
            csv.writer(file).writerows([["head", "pe_axis", "cost_fall", "rings", "shape", "mm"], *rows])


def show_corrected(scans: list[tuple[Path, float]], jobs: int) -> None:
    """Print what a user gets back of each scan, and how many of them unchanged."""
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        rows = []
        for (path, noise), outcome in zip(scans, pool.map(corrected, *zip(*scans, strict=True)), strict=True):
            rows.append(outcome)
            print(path.name.removesuffix("_T1w.nii.gz"), f"+{noise:.0%}", *outcome.values(), sep=", ", flush=True)
    for model in MODELS:
        same, worst = sum(row[model].startswith("1.0000 ") for row in rows), min(row[model] for row in rows)
        print(f"{model}: {same} of {len(rows)} unchanged; least SSIM {worst}")


def corrected(path: Path, noise: float) -> dict[str, str]:
    """What each model makes of a still scan with ``noise`` more, of its scale: SSIM with itself, and why."""
    scan = Scan(read_volume(path))
    if noise:
        still, size = scan.volume, noise * scan.scale.scale
        grain = np.random.default_rng(0).normal(0, size, (2, *still.shape)).astype(np.float32)
        scan = Scan(still.with_array(np.hypot(still.array + grain[0], grain[1])))
    said = {}
    for model in MODELS:
        done = correct(scan, model)
        alike = compare(done.corrected, scan.volume).ssim if np.any(done.difference.array) else 1.0
        found = done.report.get("motion")
        said[model] = "{:.4f} {gate}, {severity_mm} mm".format(alike, **done.report)
        said[model] += " ({shape}, agreement {agreement}, {share_taken_off} taken off)".format(**found) if found else ""
    return said


def measured(scan: MagnitudeScan, pe_axis: str) -> tuple[float, float, str, float]:
    """(fall of F, score of the rings, their shape, root mean square of the poses in mm and degrees)."""
    problem, _ = scan.problem(phase_encode_axis(scan.affine, pe_axis), SPACING)
    still, even = even_motion(problem)
    rings = propose(problem.scan, problem.affine, problem.axis, problem.centre)[0]
    size = float(np.sqrt(problem.energy @ (even.poses**2).sum(axis=1)))
    return (still.cost - even.cost) / still.cost, rings.score, rings.shape, size


if __name__ == "__main__":
    main()
