"""What the search of motion makes of heads that lay still: the limits from which on it believes in motion.

    PYTHONPATH=. python Testing/Benchmarks/still_heads.py --data ../shared/data [--heads 24] [--out still.csv]

Every scan of t1_head and, spread evenly, of t1_brain, along AP and SI, as it is: how far even motion lets F fall, the
score of rings in the spectrum, and the size of the poses found. Prints the quantiles that ``Limits`` come from.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from BrainDiffLogic.images import read_volume
from BrainDiffLogic.motion.estimate import SPACING, even_motion
from BrainDiffLogic.motion.kspace import phase_encode_axis
from BrainDiffLogic.motion.magnitude import MagnitudeScan
from BrainDiffLogic.motion.odd_motion import propose

QUANTILES = (0.5, 0.9, 0.95, 1.0)


def main() -> None:
    """Print a line a scan and axis, and the quantiles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--heads", type=int, default=24, help="how many scans at most")
    parser.add_argument("--out", type=Path, metavar="F.csv")
    args = parser.parse_args()
    heads, brains = (sorted((args.data / folder).glob("*.nii.gz")) for folder in ("t1_head", "t1_brain"))
    spread = np.linspace(0, len(brains) - 1, max(0, args.heads - len(heads))).astype(int)
    rows = []
    for path in [*heads, *(brains[n] for n in spread)][: args.heads]:
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


def measured(scan: MagnitudeScan, pe_axis: str) -> tuple[float, float, str, float]:
    """(fall of F, score of the rings, their shape, root mean square of the poses in mm and degrees)."""
    problem, _ = scan.problem(phase_encode_axis(scan.affine, pe_axis), SPACING)
    still, even = even_motion(problem)
    rings = propose(problem.scan, problem.affine, problem.axis, problem.centre)[0]
    size = float(np.sqrt(problem.energy @ (even.poses**2).sum(axis=1)))
    return (still.cost - even.cost) / still.cost, rings.score, rings.shape, size


if __name__ == "__main__":
    main()
