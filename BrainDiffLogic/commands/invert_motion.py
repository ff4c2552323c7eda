"""``braindiff invert-motion``: undo motion that was recorded, by physics alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from BrainDiffLogic.motion.kspace import PE_AXES
from BrainDiffLogic.progress import say_notes, shown_progress

FRAMES = ("scan", "trajectory")
UNEXPLAINED = 0.25
"""A residual of more than this share of the first is worth a word: right trajectories leave 0.04 to 0.23 (0.3 to
0.4 of a nod with noise or an object phase), wrong ones 0.1 to 0.6."""
SMALL = 0.01
"""A residual below this share of the scan is explained, whatever the first one was."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``braindiff invert-motion``."""
    add = parser.add_argument
    add("input", metavar="IN", help="scan with motion: NIfTI, NRRD, MetaImage or a DICOM folder")
    add("output", metavar="OUT", type=Path, help="still volume, stored as IN is")
    add("--trajectory", metavar="F", type=Path, required=True,
        help="the head's poses during the scan: .csv, FSL .par, SPM rp_*.txt or AFNI .1D")  # fmt: skip
    add("--pe-axis", default="AP", choices=sorted(PE_AXES), help="slow phase encoding (AP)")
    add("--frame", default="scan", choices=FRAMES,
        help="show the head where IN shows it (scan, default), or where the trajectory is zero")  # fmt: skip
    add("--damping", type=float, metavar="D", help="0.03 (default) to 1: more for a noisy scan; noise is amplified")
    add("--difference", metavar="F", type=Path, help="also write OUT minus IN, signed")
    add("--overwrite", action="store_true", help="replace outputs that exist")


def run(args: argparse.Namespace) -> int:
    """Check everything, invert, write all outputs or none."""
    from BrainDiffLogic.images import WRITABLE, grid_notes, read_volume, write_volume
    from BrainDiffLogic.images.outputs import check_outputs, staged_outputs
    from BrainDiffLogic.motion.inversion import DAMPING, invert_motion
    from BrainDiffLogic.motion.traces import read_trajectory, trace_notes

    paths = [path for path in (args.output, args.difference) if path]
    check_outputs([(path, WRITABLE) for path in paths], [args.input, args.trajectory], args.overwrite)
    trajectory, volume = read_trajectory(args.trajectory), read_volume(args.input)
    say_notes("invert-motion", args.input, (*volume.notes, *grid_notes(volume, args.output)))
    say_notes("invert-motion", args.trajectory, trace_notes(args.trajectory, trajectory))
    with shown_progress() as progress:
        inversion = invert_motion(
            volume, trajectory, args.pe_axis, anchor=args.frame == "scan", progress=progress,
            damping=DAMPING if args.damping is None else args.damping,
        )  # fmt: skip
    with staged_outputs(paths) as staged:
        write_volume(inversion.still, staged[0])
        if args.difference:
            stored = read_volume(staged[0]).array.astype("float32")
            write_volume(volume.with_array(stored - volume.array, kind="difference"), staged[1])
    before, after = inversion.residuals[0], inversion.residuals[-1]
    if after > max(SMALL, UNEXPLAINED * before):
        note = "leaves much of this scan unexplained: noise, or is it of another scan, incomplete, or --pe-axis wrong?"
        say_notes("invert-motion", args.trajectory, [note])
    files = ", ".join(map(str, paths))
    print(f"unexplained by the trajectory: {before:.1%} of the scan before, {after:.1%} after; written: {files}")
    return 0
