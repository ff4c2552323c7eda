"""What finding the motion in the image alone gives back: the model "motion" on heads of seven scanners.

    PYTHONPATH=. python Testing/Benchmarks/blind_motion.py --data ../shared/data [--spacing 2] [--picture F.png]

Voxels of about ``--spacing`` mm, motion of one pose a line, noise of 1.5 % of the head's 99th percentile after the
motion, the same in both images; the phase-encode axis is given. A line a scan: MRE and SSIM in the head of doing
nothing, of what a user gets ("returned" where the scan comes back unchanged) and of the exact trajectory; then means.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from known_trajectory import coarser

from BrainDiffLogic.images import read_volume
from BrainDiffLogic.intensity import robust_scale
from BrainDiffLogic.motion import Simulation, preset, simulate_motion, with_severity
from BrainDiffLogic.motion.estimate import MotionEstimate, artifact, estimate_motion
from BrainDiffLogic.motion.joint import symmetric
from BrainDiffLogic.motion.kspace import phase_encode_axis
from BrainDiffLogic.quality import compare
from BrainDiffLogic.volume import Volume

NOISE = 0.015
CASES = (
    ("t1_head/uih-1", "tremor", 1.5, "AP", 13), ("t1_head/uih-1", "steps", 2.0, "AP", 12),
    ("t1_head/fnndsc-adi", "tremor", 1.0, "AP", 8), ("t1_head/fnndsc-adi", "steps", 2.0, "AP", 8),
    ("t1_head/ds000011-11", "tremor", 2.0, "AP", 5), ("t1_head/pycortex-S1", "tremor", 2.0, "SI", 6),
    ("t1_head/fnndsc-adi", "nod", 2.0, "AP", 5), ("t1_head/uih-1", "tremor", 2.0, "SI", 3),
    ("t1_head/mnemisc-ecog", "tremor", 1.5, "AP", 1), ("t1_head/niivue-otsu", "steps", 1.5, "AP", 2),
    ("t1_head/pycortex-S1", "drift", 2.0, "AP", 5), ("t1_head/fnndsc-adi", "drift", 1.5, "SI", 3),
    ("t1_brain/ds002748-03", "steps", 1.5, "AP", 4), ("t1_head/ds000011-12", "steps", 2.0, "AP", 8),
    ("t1_head/fnndsc-adi", "tremor", 0.0, "SI", 1), ("t1_head/pycortex-S1", "tremor", 0.0, "AP", 1),
    ("t1_head/niivue-otsu", "tremor", 0.0, "AP", 2), ("t1_brain/ds002748-03", "tremor", 0.0, "AP", 1),
)  # fmt: skip


def main() -> None:
    """Print a line a scan, and the means over the moved and over the still ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--spacing", type=float, default=2.0, metavar="MM")
    parser.add_argument("--only", type=int, default=len(CASES), metavar="N", help="the first N scans")
    parser.add_argument("--picture", type=Path, metavar="F.png", help="only draw what was found in the first six scans")
    args = parser.parse_args()
    if args.picture:
        return draw(args.data, args.spacing, args.picture)
    rows: list[tuple[float, list[float]]] = []
    for name, kind, severity, pe_axis, seed in CASES[: args.only]:
        head = coarser(read_volume(args.data / f"{name}_T1w.nii.gz"), args.spacing)
        scan = moved(head, kind, severity, pe_axis, seed)
        begin = time.perf_counter()
        found = estimate_motion(scan.moved, pe_axis)
        results = measured(scan, found, pe_axis)
        rows.append((severity, results))
        words = "MRE {:.4f} SSIM {:.4f} | motion {:.4f} {:.4f} | exact trajectory {:.4f} {:.4f}".format(*results)
        said = "corrected" if found.moved else "returned"
        took = f"{time.perf_counter() - begin:.0f} s"
        print(f"{name} {kind} {severity:g} {pe_axis}: {words} | {said}: {found.reason} ({took})", flush=True)
    for title, chosen in (("moved", [r for s, r in rows if s]), ("still", [r for s, r in rows if not s])):
        if chosen:
            worse = sum(r[2] > 1.01 * r[0] for r in chosen)
            means = " ".join(f"{value:.4f}" for value in np.mean(chosen, axis=0))
            print(f"{len(chosen)} {title} (nothing, motion, exact: MRE and SSIM each): {means}; worse by 1 %: {worse}")


def draw(data: Path, spacing: float, file: Path) -> None:
    """Poses found over the true ones, of six scans: the part that the lines k and -k share."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.5), layout="constrained")
    shown = ((1, "along A (mm)", "tab:blue"), (2, "along S (mm)", "tab:green"), (3, "pitch (degrees)", "tab:red"))
    for axes, (name, kind, severity, pe_axis, seed) in zip(figure.subplots(2, 3).flat, CASES, strict=False):
        head = coarser(read_volume(data / f"{name}_T1w.nii.gz"), spacing)
        scan = moved(head, kind, severity, pe_axis, seed)
        found = estimate_motion(scan.moved, pe_axis)
        for motion, style in ((scan.trajectory, ":"), (found.trajectory, "-")):
            poses = symmetric(np.concatenate([motion.translations, motion.rotations], axis=1))
            poses -= poses[len(poses) // 2 - 15 : len(poses) // 2 + 16].mean(axis=0)
            for column, label, colour in shown:
                which = "true" if style == ":" else "found"
                axes.plot(poses[:, column], style, color=colour, label=f"{label}, {which}")
        said = "corrected" if found.moved else "returned unchanged"
        axes.set_title(f"{Path(name).name}, {kind} {severity:g} mm, {pe_axis}: {said}", fontsize=9)
        axes.set_xlabel("phase-encode line", fontsize=8)
    figure.axes[0].legend(fontsize=6)
    figure.savefig(file, dpi=80)


def moved(head: Volume, kind: str, severity: float, pe_axis: str, seed: int) -> Simulation:
    """The head, its 99th percentile at 1, in this motion."""
    scaled = np.maximum(head.array / robust_scale(head.array).scale, 0).astype(np.float32)
    lines = head.shape[phase_encode_axis(head.affine, pe_axis)]
    trajectory = with_severity(preset(kind, lines, seed=seed), severity)
    return simulate_motion(head.with_array(scaled), trajectory, pe_axis, noise=NOISE, seed=seed)


def measured(scan: Simulation, found: MotionEstimate, pe_axis: str) -> list[float]:
    """MRE and SSIM of the scan, of what a user gets, and of the exact trajectory."""
    exact = MotionEstimate(scan.trajectory, pe_axis, True, "", {})
    images = [scan.moved, scan.moved, scan.moved]
    for place, estimate in ((1, found), (2, exact)):
        if estimate.moved and (place == 1 or scan.severity):
            images[place] = scan.moved.with_array(scan.moved.array - artifact(scan.moved, estimate))
    results = [compare(image, scan.reference) for image in images]
    return [value for result in results for value in (result.mre, result.ssim)]


if __name__ == "__main__":
    main()
