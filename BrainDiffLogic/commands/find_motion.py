"""``braindiff find-motion``: the trajectory that explains a scan, with its evidence."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from BrainDiffLogic.progress import say_notes, shown_progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``braindiff find-motion``."""
    add = parser.add_argument
    add("input", metavar="IN", help="scan: NIfTI, NRRD, MetaImage or a DICOM folder")
    add("--pe-axis", default="auto", choices=["auto", "AP", "SI", "LR"],
        help="slow phase encoding (default: as the sidecar says, else the axis that explains most)")  # fmt: skip
    add("--save-trajectory", metavar="F.csv", type=Path, help="also write the pose of each phase-encode line")
    add("--json", action="store_true", help="print what was found as JSON")
    add("--overwrite", action="store_true", help="replace an output that exists")


def run(args: argparse.Namespace) -> int:
    """Check everything, search, print and write."""
    from BrainDiffLogic.images import read_volume
    from BrainDiffLogic.images.nifti import phase_encoding_beside
    from BrainDiffLogic.images.outputs import check_outputs
    from BrainDiffLogic.models.checkpoints import PHYSICS, find_checkpoint, load_checkpoint
    from BrainDiffLogic.motion.estimate import estimate_motion
    from BrainDiffLogic.motion.traces import write_trajectory

    check_outputs([(args.save_trajectory, (".csv",))] if args.save_trajectory else [], [args.input], args.overwrite)
    limits, _ = load_checkpoint(find_checkpoint(PHYSICS))
    volume = read_volume(args.input)
    say_notes("find-motion", args.input, volume.notes)
    axis = phase_encoding_beside(args.input) if args.pe_axis == "auto" else args.pe_axis
    with shown_progress() as progress:
        estimate = estimate_motion(volume, axis, limits=limits, progress=progress)
    if args.save_trajectory:
        write_trajectory(estimate.trajectory, args.save_trajectory)
    if args.json:
        print(json.dumps(estimate.as_dict()))
        return 0
    moved = "motion" if estimate.moved else "no motion"
    mean, largest = (estimate.facts[f"{which}_displacement_mm"] for which in ("mean", "largest"))
    size = f"{mean:.2f} mm on average, {largest:.2f} at most"
    written = f"; written: {args.save_trajectory}" if args.save_trajectory else ""
    print(f"{moved} ({estimate.reason}); phase encoding {estimate.pe_axis}; the likeliest trajectory: {size}{written}")
    return 0
