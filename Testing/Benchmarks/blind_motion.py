"""What finding the motion in the image alone adds to the default network: the model "motion" at native resolution.

    PYTHONPATH=. python Testing/Benchmarks/blind_motion.py --data ../shared/data --out runs/blind [--group GROUP ...]

Still heads without their noise (``training.quiet``), cropped with a margin of air, moved at their own voxel size with
one pose a phase-encode line; noise of 2 % of the head's 99th percentile after the motion, the same in both images;
the phase-encode axis is given, the motion gate off. The limits of the search were set on the cases of "chosen", some
of them after a look at "fresh" and "grid", which has every kind of motion from 0.5 to 4 mm; the others decided
nothing. "coils" (8 fixed receive coils, root sum of squares, an object phase, noise of 1 % a coil), "untouched" (the
same, looked at when all was settled), "grappa" (the same, every second line measured, 24 calibration lines),
"partial" (partial Fourier of 0.75) and "torchio" (four sudden moves by TorchIO's RandomMotion, which must be
installed) are other ways of acquiring; "lesions" has lesions implanted before the motion and tells how much of their
contrast is left; "still" heads did not move. mnemisc-ecog and pycortex-S1 are of scanners that mc-net was not trained
on, ds000011-11 and -12 people of its validation. What the motion gate alone would do with each scan, and a line a
method: MRE, SSIM, Tenengrad ratio and processor seconds of doing nothing, of non-local means, of mc-net and of
"motion"; with ``--exact`` also of what "motion" takes off before it asks mc-net again, and of the true trajectory
undone. OUT keeps the quiet heads, and GROUP.json with every number. Minutes a scan.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from BrainDiffLogic.correction import Correction, correct
from BrainDiffLogic.evaluation.methods import NOTHING, non_local_means
from BrainDiffLogic.evaluation.safety_scene import implanted, place_lesions
from BrainDiffLogic.images import read_volume
from BrainDiffLogic.metrics.quality import compare
from BrainDiffLogic.motion import Trajectory, preset, simulate_motion, with_severity
from BrainDiffLogic.motion.coils import smooth_coils
from BrainDiffLogic.motion.estimate import MotionEstimate, artifact
from BrainDiffLogic.motion.joint import symmetric
from BrainDiffLogic.motion.kspace import phase_encode_axis
from BrainDiffLogic.motion.sampling import Sampling
from BrainDiffLogic.motion.simulation import smooth_phase
from BrainDiffLogic.scan import head_mask, inner_head_mask, mask_box, robust_scale
from BrainDiffLogic.training.heads import RecordedTraces, quieted
from BrainDiffLogic.volume import Volume, affine_from

NOISE = 0.02
CONTRAST = 0.25
"""Of a lesion, of the 99th percentile: about that of grey and white matter."""
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
VALIDATION = ("ds000011-11", "ds000011-12", "pycortex-S1")
KINDS = ("tremor", "drift", "steps", "nod", "swallow", RECORDED)
GRID = tuple(
    (VALIDATION[(turn + place) % 3], kind, severity, ("AP", "SI")[(turn + place) % 2], 100 + 6 * turn + place)
    for turn, severity in enumerate((2.0, 1.0, 0.5, 4.0))
    for place, kind in enumerate(KINDS)
)
"""Every kind in every severity; heads and axes take turns."""
COILS = (
    ("mnemisc-ecog", "tremor", 1.5, "AP", 41), ("ds000011-11", "drift", 2.0, "AP", 42),
    ("niivue-otsu", "steps", 2.0, "SI", 43), ("pycortex-S1", RECORDED, 2.0, "SI", 44),
)  # fmt: skip
UNTOUCHED = (
    ("mnemisc-ecog", "drift", 1.5, "SI", 201), ("pycortex-S1", "tremor", 1.5, "AP", 202),
    ("mnemisc-ecog", RECORDED, 2.0, "AP", 203), ("pycortex-S1", "drift", 2.0, "SI", 204),
    ("mnemisc-ecog", "steps", 1.5, "AP", 205), ("pycortex-S1", "steps", 2.5, "AP", 206),
    ("mnemisc-ecog", "tremor", 1.0, "SI", 207), ("pycortex-S1", "swallow", 1.5, "SI", 208),
    ("ds000011-12", "tremor", 2.0, "SI", 209), ("pycortex-S1", RECORDED, 1.0, "AP", 210),
    ("ds000011-11", "nod", 1.5, "AP", 211), ("uih-1", RECORDED, 2.5, "AP", 212),
)  # fmt: skip
GRAPPA = (
    ("mnemisc-ecog", RECORDED, 1.5, "SI", 51), ("ds000011-12", "tremor", 1.5, "AP", 52),
    ("niivue-otsu", "drift", 2.0, "AP", 53), ("pycortex-S1", "steps", 1.5, "AP", 54),
)  # fmt: skip
PARTIAL = (("mnemisc-ecog", "steps", 1.5, "AP", 61), ("pycortex-S1", "tremor", 1.5, "AP", 62))
TORCHIO = (
    ("mnemisc-ecog", "torchio", 2.0, "AP", 71), ("pycortex-S1", "torchio", 3.0, "SI", 72),
    ("niivue-otsu", "torchio", 3.0, "AP", 73), ("ds000011-11", "torchio", 2.0, "SI", 74),
)  # fmt: skip
LESIONS = (("mnemisc-ecog", "tremor", 1.5, "AP", 81), ("ds000011-11", "drift", 2.0, "AP", 82))
STILL = tuple(
    (name, "still", 0.0, axis, 91)
    for name, axis in (
        ("mnemisc-ecog", "AP"), ("pycortex-S1", "SI"), ("niivue-otsu", "AP"), ("ds000011-12", "AP"), ("uih-1", "SI"),
        ("fnndsc-adi", "AP"),
    )
)  # fmt: skip
GROUPS = {
    "chosen": CHOSEN, "fresh": FRESH, "grid": GRID, "coils": COILS, "untouched": UNTOUCHED, "grappa": GRAPPA,
    "partial": PARTIAL, "torchio": TORCHIO, "lesions": LESIONS, "still": STILL,
}  # fmt: skip
RECEIVERS, COIL_NOISE = 8, 0.01
WORSE = 1.01
"""Times the MRE of the scan."""


def main() -> None:
    """Print a line a scan, and the means of each group."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--group", nargs="+", choices=GROUPS, default=list(GROUPS), help="default: all of them")
    parser.add_argument("--cases", type=int, metavar="N", help="the first N of each group")
    parser.add_argument("--exact", action="store_true", help="physics alone, too: as found, and as it was")
    parser.add_argument("--picture", type=Path, metavar="F.png", help="also draw what was found in the first six")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    drawn = []
    for group in args.group:
        rows = []
        for case in GROUPS[group][: args.cases]:
            row, found, truth = measured(case, group, args)
            rows.append(row)
            if truth is not None:
                drawn.append((case, found, truth))
            (args.out / f"{group}.json").write_text(json.dumps(rows, indent=1))
        if group != "still":
            summary(group, rows)
    if args.picture:
        draw(drawn[:6], args.picture)


def measured(case: tuple, group: str, args: argparse.Namespace) -> tuple[dict[str, Any], Correction, Trajectory | None]:
    """What was measured, the correction by "motion", the true trajectory."""
    name, kind, severity, pe_axis, seed = case
    quiet = quiet_head(args.data / "t1_head" / f"{name}_T1w.nii.gz", args.out / f"{name}.npz")
    moved, still, truth = scanned(quiet, case, group, args.data)
    row: dict[str, Any] = {"head": name, "kind": kind, "severity": severity, "pe_axis": pe_axis, "seed": seed}
    if group == "still":
        found = correct(moved, "motion", pe_axis=pe_axis)
        row["unchanged"] = bool(np.array_equal(found.corrected.array, moved.array))
        row["ssim"] = round(compare(found.corrected, moved, head_mask(quiet.array)).ssim, 4)
        print(*row.values(), flush=True)
        return row, found, truth
    results, seconds, found = corrected(moved, truth if args.exact or group == "lesions" else None, pe_axis)
    inside = head_mask(quiet.array)
    row["gate"] = correct(moved, "mc-net").report["gate"]  # which "motion" overrules where it finds motion
    print(f"{name} {kind} {severity:g} mm {pe_axis} {seed}: {row['gate']}", flush=True)
    row["methods"] = {}
    for method, volume in results.items():
        one = compare(volume, still, inside)
        numbers = [round(value, 4) for value in (one.mre, one.ssim, one.tenengrad_ratio)]
        row["methods"][method] = [*numbers, round(seconds[method], 1)]
        print("  {}: MRE {:.4f} SSIM {:.4f} Tenengrad {:.3f}, {:.0f} s".format(method, *row["methods"][method]))
    motion = found.report["motion"] or {}
    row["motion"] = {key: motion[key] for key in ("shape", "agreement", "share_taken_off") if key in motion}
    if group == "lesions":
        row["lesions"] = lesions_left(quiet, case, group, args.data, results)
    print(f"  {row['motion']} {row.get('lesions', '')}", flush=True)
    return row, found, truth


def corrected(
    moved: Volume, truth: Trajectory | None, pe_axis: str
) -> tuple[dict[str, Volume], dict[str, float], Correction]:
    """The moved scan by each method, processor seconds of each, and the correction by "motion"."""
    results, seconds = {NOTHING: moved}, {NOTHING: 0.0}

    def add(method: str, make: Callable[[], np.ndarray]) -> None:
        begin = time.process_time()
        results[method] = moved.with_array(make())
        seconds[method] = time.process_time() - begin

    def without(trajectory: Trajectory, share: float) -> np.ndarray:
        return moved.array - np.float32(share) * artifact(moved, MotionEstimate(trajectory, pe_axis, True, "", {}))

    add("non-local means", lambda: non_local_means(moved.array))
    add("mc-net", lambda: correct(moved, "mc-net", gate=False, force=True).corrected.array)
    found: list[Correction] = []

    def by_motion() -> np.ndarray:
        found.append(correct(moved, "motion", gate=False, force=True, pe_axis=pe_axis))
        return found[0].corrected.array

    add("motion", by_motion)
    if truth is not None:
        if motion := found[0].report["motion"]:
            poses = np.array(motion["trajectory"])
            here = Trajectory(poses[:, :3], poses[:, 3:])
            add("its physics alone", lambda: without(here, motion["share_taken_off"]))
        else:
            add("its physics alone", lambda: moved.array)
        add("known trajectory", lambda: without(truth, 1.0))
    return results, seconds, found[0]


def lesions_left(
    quiet: Volume, case: tuple, group: str, data: Path, plain: dict[str, Volume]
) -> dict[str, list[float]]:
    """Of lesions implanted before the motion, what the moved scan and each correction shows of their contrast.

    The mean over the lesions, the least, and how many show less than half of what the moved scan does.
    """
    scaled, inside = quiet.array, inner_head_mask(quiet, head_mask(quiet.array))
    limits = (float(np.quantile(scaled[inside], 0.3)), float(np.quantile(scaled[inside], 0.65)))
    lesions = place_lesions(quiet, scaled, inside, limits, CONTRAST, np.random.default_rng(case[-1]))
    moved, _, truth = scanned(implanted(quiet, lesions, 1.0), case, group, data)
    results, _, _ = corrected(moved, truth, case[3])
    shares = {
        method: np.array([lesion.share_in(volume.array - plain[method].array) for lesion in lesions])
        for method, volume in results.items()
    }
    return {
        method: [round(float(row.mean()), 3), round(float(row.min()), 3), int((row < 0.5 * shares[NOTHING]).sum())]
        for method, row in shares.items()
    }


def scanned(still: Volume, case: tuple, group: str, data: Path) -> tuple[Volume, Volume, Trajectory | None]:
    """(moved, still with the same noise, the true trajectory), the 99th percentile at 1."""
    _, kind, severity, pe_axis, seed = case
    lines, rng = still.shape[phase_encode_axis(still.affine, pe_axis)], np.random.default_rng(seed)
    if kind == "torchio":
        return *by_torchio(still, severity, pe_axis, seed), None
    if kind == RECORDED:
        motion = RecordedTraces(data / "traces", held_out=True).draw(lines, severity, rng)
    elif kind == "still":
        motion = with_severity(preset("drift", lines, seed=seed), 0.0)
    else:
        motion = with_severity(preset(kind, lines, seed=seed), severity)
    way: dict[str, Any] = {"noise": NOISE}
    if group in ("coils", "untouched", "grappa"):
        maps = smooth_coils(still.shape, still.affine, RECEIVERS, seed)
        way = {"noise": COIL_NOISE, "coils": maps, "phase": smooth_phase(still.shape, seed)}
    if group == "grappa":
        way["sampling"] = Sampling(reduction=2)
    if group == "partial":
        way["sampling"] = Sampling(partial_fourier=0.75)
    simulated = simulate_motion(still, motion, pe_axis, seed=seed, **way)
    return simulated.moved, simulated.reference, simulated.trajectory


def by_torchio(still: Volume, largest: float, pe_axis: str, seed: int) -> tuple[Volume, Volume]:
    """Moved by TorchIO, and still, both with the same noise."""
    import nibabel as nib
    from independent_pairs import moved

    array, _ = moved(nib.Nifti1Image(still.array, still.affine), pe_axis, largest, 4, seed)
    rng = np.random.default_rng(seed)
    grain = rng.normal(0, NOISE, (2, *still.shape)).astype(np.float32)
    noisy = [np.hypot(image + grain[0], grain[1]) for image in (np.maximum(array, 0), still.array)]
    return still.with_array(noisy[0]), still.with_array(noisy[1])


def quiet_head(source: Path, kept: Path) -> Volume:
    """The head in its box, without its noise; kept in a file."""
    volume = read_volume(source)
    cut = mask_box(head_mask(volume.array), MARGIN)
    if not kept.exists():
        np.savez(kept, array=quieted(np.maximum(volume.array[cut], 0).astype(np.float32)))
    with np.load(kept) as file:
        array = file["array"]
    affine = affine_from(volume.affine, [side.start for side in cut])
    return Volume(array / np.float32(robust_scale(array).scale), affine, source=source.name)


def summary(title: str, rows: list[dict[str, Any]]) -> None:
    """Means over the scans, all of them, by kind and by severity, and how many scans got worse."""
    some_of = {"all": rows}
    for key, unit in (("kind", ""), ("severity", " mm")):
        for value in sorted({row[key] for row in rows}):
            some_of[f"{value}{unit}"] = [row for row in rows if row[key] == value]
    for name, chosen in some_of.items():
        some = [row["methods"] for row in chosen]
        for method in some[0]:
            mre, ssim, tenengrad, seconds = np.mean([one[method] for one in some], axis=0)
            worse = sum(one[method][0] > WORSE * one[NOTHING][0] for one in some)
            print(
                f"{title}, {name}, {len(some)} scans, {method}: MRE {mre:.4f} SSIM {ssim:.4f}"
                f" Tenengrad {tenengrad:.3f}, worse by 1 %: {worse}, {seconds:.0f} s"
            )


def draw(found: list[tuple[tuple, Correction, Trajectory]], file: Path) -> None:
    """Poses found over the true ones: the part that the lines k and -k share."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.5), layout="constrained")
    shown = ((1, "along A (mm)", "tab:blue"), (2, "along S (mm)", "tab:green"), (3, "pitch (degrees)", "tab:red"))
    for axes, (case, correction, truth) in zip(figure.subplots(2, 3).flat, found, strict=False):
        motion = correction.report["motion"]
        true = np.concatenate([truth.translations, truth.rotations], axis=1)
        for poses, style in ((true, ":"), (np.array(motion["trajectory"]), "-")):
            poses = poses if "drift" in motion["shape"] else symmetric(poses)
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
