"""What the exact model gives back where the trajectory is known, and what spoils it: the ceiling of physics alone.

    python Testing/Benchmarks/known_trajectory.py --data ../shared/data [--spacing 3] [--picture F.png]

Validation subjects on voxels of about ``--spacing`` mm (at 3 mm it takes a few minutes), four motions each, measured
in the head. Conditions: the trajectory as it was; with white errors of a tracker; a scan with noise and an object phase
that the model does not know; the trajectory of another motion. The picture shows steps in a head on voxels of 1.5 mm:
with motion, undone, still, and the differences of the second from the first and the third.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import ndimage
from validation import SEED, SUBJECTS

from BrainDiffLogic.images import read_volume
from BrainDiffLogic.metrics.quality import CONVENTION, compare
from BrainDiffLogic.motion import Simulation, Trajectory, invert_motion, preset, simulate_motion, with_severity
from BrainDiffLogic.pictures import write_strip
from BrainDiffLogic.volume import Volume, to_sagittal

MOTIONS = (("tremor", 1.6), ("steps", 2.5), ("nod", 3.0), ("drift", 3.0))
TRACKER = 0.1
"""Standard deviation of a tracker's error in mm and degrees."""
NOISE = 0.01
"""Standard deviation of the noise, of the 99th percentile of the head."""


def main() -> None:
    """Print a line a scan, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--spacing", type=float, default=3.0, metavar="MM")
    parser.add_argument("--picture", type=Path, metavar="F.png", help="only make the picture")
    args = parser.parse_args()
    if args.picture:
        return draw(args.data, args.picture)
    rows: dict[str, list[tuple[float, float]]] = {}
    for subject in SUBJECTS:
        head = coarser(read_volume(args.data / "t1_head" / f"{subject}_T1w.nii.gz"), args.spacing)
        for kind, severity in MOTIONS:
            for condition, result in conditions(head, kind, severity):
                rows.setdefault(condition, []).append(result)
                numbers = f"MRE {result[0]:.4f} SSIM {result[1]:.4f}"
                print(f"{subject} {kind} {severity:g} mm, {condition}: {numbers}", flush=True)
    print(f"\n{len(SUBJECTS) * len(MOTIONS)} scans of {len(SUBJECTS)} subjects, {args.spacing:g} mm; {CONVENTION}\n")
    print("| | MRE | SSIM | worst MRE |\n|---|---:|---:|---:|")
    for condition, results in rows.items():
        mre, ssim = np.mean(results, axis=0)
        print(f"| {condition} | {mre:.3f} | {ssim:.3f} | {max(results)[0]:.3f} |")


def draw(data: Path, file: Path) -> None:
    """Write the picture."""
    kind, severity = MOTIONS[1]
    head = coarser(read_volume(data / "t1_head" / f"{SUBJECTS[-1]}_T1w.nii.gz"), 1.5)
    scan = simulate_motion(head, with_severity(preset(kind, max(head.shape), seed=SEED), severity), "AP")
    found = invert_motion(scan.moved, scan.trajectory, "AP", anchor=False).still
    write_strip(file, scan.moved, found, scan.reference, to_sagittal(head).shape[0] // 2)


def coarser(volume: Volume, spacing: float) -> Volume:
    """The volume, low-pass filtered, on voxels of about ``spacing`` mm along each axis."""
    own = np.linalg.norm(volume.affine[:3, :3], axis=0)
    factors = np.maximum(1, spacing / own)
    smooth = ndimage.gaussian_filter(volume.array.astype(np.float32), 0.4 * np.where(factors > 1, factors, 0))
    array = ndimage.zoom(smooth, 1 / factors, order=1, grid_mode=True, mode="nearest")
    steps = np.array(volume.shape) / array.shape
    affine = volume.affine.copy()
    affine[:3, :3] *= steps
    affine[:3, 3] += volume.affine[:3, :3] @ ((steps - 1) / 2)
    return Volume(np.maximum(array, 0), affine)


def conditions(head: Volume, kind: str, severity: float) -> Iterator[tuple[str, tuple[float, float]]]:
    """(condition, (MRE, SSIM)) of one motion of one head."""
    lines = max(head.shape)
    motion, other = (with_severity(preset(kind, lines, seed=seed), severity) for seed in (SEED, SEED + 1))
    peak = float(np.percentile(head.array[head.array > head.array.mean()], 99))
    plain = simulate_motion(head, motion, "AP")
    grainy = simulate_motion(head, motion, "AP", noise=NOISE * peak, seed=SEED, phase=smooth_phase(head.shape))
    true, rng = plain.trajectory, np.random.default_rng(SEED)
    shifts, turns = (rows + rng.normal(0, TRACKER, rows.shape) for rows in (true.translations, true.rotations))
    tracked = Trajectory(shifts, turns, true.centre)
    yield "do nothing", measured(plain.moved, plain)
    yield "exact trajectory", undone(plain, true)
    yield f"trajectory with errors of {TRACKER:g} mm and degrees a line", undone(plain, tracked)
    yield "do nothing, noise and object phase", measured(grainy.moved, grainy)
    yield "exact trajectory, noise and object phase", undone(grainy, grainy.trajectory)
    yield "trajectory of another motion", undone(plain, simulate_motion(head, other, "AP").trajectory)


def smooth_phase(shape: tuple[int, ...]) -> np.ndarray:
    """(I, J, K) radians, a field of -1.3 to 1.3 such as shim and coils leave."""
    i, j, _ = np.indices(shape, dtype=np.float32)
    phase: np.ndarray = 0.8 * np.sin(3 * i / shape[0]) + 0.5 * np.cos(4 * j / shape[1])
    return phase


def undone(scan: Simulation, trajectory: Trajectory) -> tuple[float, float]:
    """The measures after inversion."""
    return measured(invert_motion(scan.moved, trajectory, "AP", anchor=False).still, scan)


def measured(volume: Volume, scan: Simulation) -> tuple[float, float]:
    """MRE and SSIM against the still scan with the same noise."""
    found = compare(volume, scan.reference)
    return found.mre, found.ssim


if __name__ == "__main__":
    main()
