"""What finding the motion in the image alone adds to the default network: the model "motion" at native resolution.

    PYTHONPATH=. python Testing/Benchmarks/blind_motion.py --data ../shared/data --out runs/blind [--picture F.png]

Still heads without their noise (``training.quiet``), cropped with a margin of air, moved at their own voxel size with
one pose a phase-encode line; noise of 2 % of the head's 99th percentile after the motion, the same in both images; the
phase-encode axis is given, the motion gate off. On the cases of "chosen" the limits of agreement and trust were set,
those of "fresh" were looked at afterwards. mnemisc-ecog and pycortex-S1 are of scanners that mc-net was not trained
on, ds000011-11 and -12 people of its validation. A line a scan: MRE, SSIM and Tenengrad ratio of doing nothing, of
mc-net, of "motion", and with ``--exact`` of the true trajectory undone. OUT keeps the scans. Minutes a scan.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from BrainDiffLogic.correction import Correction, correct
from BrainDiffLogic.images import read_volume
from BrainDiffLogic.intensity import head_mask, robust_scale
from BrainDiffLogic.metrics.quality import compare
from BrainDiffLogic.motion import Trajectory, preset, simulate_motion, with_severity
from BrainDiffLogic.motion.estimate import MotionEstimate, artifact
from BrainDiffLogic.motion.joint import symmetric
from BrainDiffLogic.motion.kspace import phase_encode_axis
from BrainDiffLogic.training.quiet import quieted
from BrainDiffLogic.training.sources import RecordedTraces
from BrainDiffLogic.volume import Volume

NOISE = 0.02
MARGIN = 12
"""Voxels of air around the head."""
RECORDED = "recorded"
CHOSEN = (
    ("mnemisc-ecog", "tremor", 1.5, "AP", 1), ("mnemisc-ecog", "steps", 2.0, "SI", 2),
    ("pycortex-S1", "tremor", 2.0, "SI", 6), ("ds000011-12", "steps", 2.0, "AP", 8),
    ("ds000011-11", "drift", 2.0, "AP", 5), ("uih-1", RECORDED, 1.5, "AP", 3),
    ("mnemisc-ecog", "drift", 1.5, "AP", 4), ("ds000011-12", RECORDED, 2.0, "SI", 11),
    ("pycortex-S1", "steps", 1.5, "AP", 3), ("uih-1", "tremor", 1.0, "SI", 2),
    ("ds000011-11", "nod", 2.0, "AP", 5), ("niivue-otsu", RECORDED, 1.0, "AP", 7),
)  # fmt: skip
FRESH = (
    ("uih-1", "steps", 1.5, "AP", 21), ("mnemisc-ecog", RECORDED, 2.0, "AP", 22),
    ("fnndsc-adi", "tremor", 1.5, "SI", 23), ("pycortex-S1", "drift", 2.0, "SI", 24),
    ("ds000011-12", "tremor", 1.0, "AP", 25), ("fnndsc-adi", RECORDED, 1.5, "AP", 26),
    ("niivue-otsu", "steps", 2.0, "SI", 27), ("ds000011-11", "tremor", 3.0, "SI", 28),
    ("mnemisc-ecog", "nod", 1.5, "SI", 29), ("uih-1", RECORDED, 3.0, "SI", 30),
)  # fmt: skip
WORSE = 1.01
"""Times the MRE of the other."""


def main() -> None:
    """Print a line a scan, and the means of both groups."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--group", choices=["chosen", "fresh"], help="one group alone")
    parser.add_argument("--exact", action="store_true", help="the true trajectory undone, too")
    parser.add_argument("--picture", type=Path, metavar="F.png", help="also draw what was found in the first six")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    drawn = []
    for title, cases in (("chosen", CHOSEN), ("fresh", FRESH)):
        if args.group in (None, title):
            rows = []
            for case in cases:
                row, found, truth = measured(case, args.data, args.out, args.exact)
                rows.append(row)
                drawn.append((case, found, truth))
            summary(title, np.array(rows))
    if args.picture:
        draw(drawn[:6], args.picture)


def measured(case: tuple, data: Path, out: Path, exact: bool) -> tuple[list[list[float]], Correction, Trajectory]:
    """MRE, SSIM and Tenengrad ratio of each method; the correction by "motion"; the true trajectory."""
    name, kind, severity, pe_axis, _ = case
    begin = time.perf_counter()
    moved, still, quiet, truth = scan(case, data, out)
    inside = head_mask(quiet.array)
    net = correct(moved, "mc-net", gate=False, force=True).corrected
    found = correct(moved, "motion", gate=False, force=True, pe_axis=pe_axis)
    results = [moved, net, found.corrected]
    if exact:
        made = artifact(moved, MotionEstimate(truth, pe_axis, True, "", {}))
        results.append(moved.with_array(moved.array - made))
    numbers = [compare(volume, still, inside) for volume in results]
    row = [[one.mre, one.ssim, one.tenengrad_ratio] for one in numbers]
    words = " | ".join("MRE {:.4f} SSIM {:.4f} Tenengrad {:.3f}".format(*one) for one in row)
    said = {key: found.report["motion"][key] for key in ("shape", "agreement", "share_taken_off")}
    took = f"{time.perf_counter() - begin:.0f} s"
    print(f"{name} {kind} {severity:g} mm {pe_axis}: {words} | {said} ({took})", flush=True)
    return row, found, truth


def scan(case: tuple, data: Path, out: Path) -> tuple[Volume, Volume, Volume, Trajectory]:
    """(moved, still with the same noise, still without noise, the true trajectory), the 99th percentile at 1."""
    name, kind, severity, pe_axis, seed = case
    still = quiet_head(data / "t1_head" / f"{name}_T1w.nii.gz", out / f"{name}.npz")
    lines = still.shape[phase_encode_axis(still.affine, pe_axis)]
    if kind == RECORDED:
        motion = RecordedTraces(data / "traces", held_out=True).draw(lines, severity, np.random.default_rng(seed))
    else:
        motion = with_severity(preset(kind, lines, seed=seed), severity)
    simulated = simulate_motion(still, motion, pe_axis, noise=NOISE, seed=seed)
    return simulated.moved, simulated.reference, still, simulated.trajectory


def quiet_head(source: Path, kept: Path) -> Volume:
    """The head in its box, without its noise; kept in a file."""
    volume = read_volume(source)
    head = head_mask(volume.array)
    places = [np.flatnonzero(head.any(axis=tuple(d for d in range(3) if d != axis))) for axis in range(3)]
    cut = tuple(slice(max(0, place[0] - MARGIN), place[-1] + MARGIN + 1) for place in places)
    if not kept.exists():
        np.savez(kept, array=quieted(np.maximum(volume.array[cut], 0).astype(np.float32)))
    with np.load(kept) as file:
        array = file["array"]
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [side.start for side in cut]
    return Volume(array / np.float32(robust_scale(array).scale), affine, source=source.name)


def summary(title: str, rows: np.ndarray) -> None:
    """Means of (scans, methods, numbers), and how many scans got worse."""
    for method, values in zip(("nothing", "mc-net", "motion", "exact"), rows.mean(axis=0), strict=False):
        print("{} {}: MRE {:.4f} SSIM {:.4f} Tenengrad {:.3f}".format(title, method, *values))
    mre = rows[:, :, 0]
    than_input, than_network = ((mre[:, 2] > WORSE * mre[:, other]).sum() for other in (0, 1))
    print(f"{title}: {len(rows)} scans; motion worse by 1 % than the input: {than_input}, than mc-net: {than_network}")


def draw(found: list[tuple[tuple, Correction, Trajectory]], file: Path) -> None:
    """Poses found over the true ones: the part that the lines k and -k share."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.5), layout="constrained")
    shown = ((1, "along A (mm)", "tab:blue"), (2, "along S (mm)", "tab:green"), (3, "pitch (degrees)", "tab:red"))
    for axes, (case, correction, truth) in zip(figure.subplots(2, 3).flat, found, strict=False):
        motion = correction.report["motion"]
        true = np.concatenate([truth.translations, truth.rotations], axis=1)
        for poses, style in ((true, ":"), (np.array(motion["trajectory"]), "-")):
            poses = poses if motion["shape"] == "drift" else symmetric(poses)
            poses = poses - poses[len(poses) // 2 - 15 : len(poses) // 2 + 16].mean(axis=0)
            for column, label, colour in shown:
                which = "true" if style == ":" else "found"
                axes.plot(poses[:, column], style, color=colour, label=f"{label}, {which}")
        name, kind, severity, pe_axis, _ = case
        title = f"{name}, {kind} {severity:g} mm, {pe_axis}: {motion['shape']}, {motion['share_taken_off']:.0%} off"
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("phase-encode line", fontsize=8)
    figure.axes[0].legend(fontsize=6)
    figure.savefig(file, dpi=80)


if __name__ == "__main__":
    main()
