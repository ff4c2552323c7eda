"""``braindiff simulate``: put head motion on a still volume."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.coils import COMBINATIONS
from BrainDiffLogic.motion.kspace import PE_AXES, phase_encode_axis
from BrainDiffLogic.motion.presets import PRESETS, preset
from BrainDiffLogic.motion.sampling import ORDERS, REDUCTIONS, Sampling
from BrainDiffLogic.motion.trajectory import Trajectory, stratum
from BrainDiffLogic.progress import say_notes
from BrainDiffLogic.volume import Volume

DEFAULT_PRESET = "nod"
MOST_COILS = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``braindiff simulate``."""
    add = parser.add_argument
    add("input", metavar="IN", help="still volume: NIfTI, NRRD, MetaImage or a DICOM folder")
    add("output", metavar="OUT", type=Path, help="volume with motion, stored as IN is")
    motion = parser.add_mutually_exclusive_group()
    motion.add_argument("--preset", choices=list(PRESETS), help=f"kind of motion (default: {DEFAULT_PRESET})")
    motion.add_argument("--trajectory", metavar="F", type=Path,
        help="recorded: .csv, FSL .par, SPM rp_*.txt or AFNI .1D")  # fmt: skip
    motion.add_argument("--trace-set", metavar="FOLDER|F.npz", type=Path,
        help="draw one of many recorded runs, by --seed")  # fmt: skip
    add("--severity", type=float, metavar="MM", help="scale to this mean displacement (default: as it is)")
    add("--pe-axis", default="AP", choices=sorted(PE_AXES), help="phase encoding (AP)")
    add("--order", default="linear", choices=ORDERS, help="in which the lines are acquired (default: linear)")
    add("--seed", type=int, default=0, metavar="N", help="seed of motion, noise, coils and phase (default: 0)")
    add("--noise", type=float, default=0.0, metavar="SD",
        help="complex noise of each coil, entering after the motion, in image units (default: 0)")  # fmt: skip
    add("--phase", action="store_true", help="give the object a smooth random phase that moves with it")
    add("--partial-fourier", type=float, default=1.0, metavar="SHARE",
        help="share of the lines that is acquired, above 0.5 (default: 1); the others stay zero")  # fmt: skip
    _add_coil_arguments(parser)
    add("--reference", metavar="F", type=Path, help="also write the still scan with the same noise, coils and sampling")
    add("--save-trajectory", metavar="F.csv", type=Path,
        help="also write the pose of each phase-encode line, in the order of k-space")  # fmt: skip
    add("--overwrite", action="store_true", help="replace outputs that exist")


def _add_coil_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.add_argument(
        "--coils", type=int, default=1, metavar="N",
        help="receive coils around the head, which do not move with it (default: 1, which receives all alike)",
    )  # fmt: skip
    add("--combine", choices=COMBINATIONS,
        help="of the coils: root of the sum of squares, or matched filter with their maps (default: rss)")  # fmt: skip
    parser.add_argument(
        "--reduction", type=int, default=1, choices=REDUCTIONS,
        help="acquire every n-th line beside 24 calibration lines; the others are filled in from all coils (GRAPPA)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Check everything, simulate, write all outputs or none."""
    from BrainDiffLogic.images import WRITABLE, grid_notes, read_volume, write_volume
    from BrainDiffLogic.images.outputs import check_outputs, staged_outputs
    from BrainDiffLogic.motion.coils import smooth_coils
    from BrainDiffLogic.motion.simulation import simulate_motion, smooth_phase
    from BrainDiffLogic.motion.traces import write_trajectory

    _check_numbers(args)
    named = [(args.output, WRITABLE), (args.reference, WRITABLE), (args.save_trajectory, (".csv",))]
    named = [(path, suffixes) for path, suffixes in named if path]
    inputs = [args.input, *(path for path in (args.trajectory, args.trace_set) if path)]
    check_outputs(named, inputs, args.overwrite)
    volume = read_volume(args.input)
    say_notes("simulate", args.input, (*volume.notes, *grid_notes(volume, args.output)))
    trajectory, kind = _trajectory(args, volume)
    simulation = simulate_motion(
        volume, trajectory, args.pe_axis, severity=args.severity, noise=args.noise, seed=args.seed,
        phase=smooth_phase(volume.shape, args.seed) if args.phase else None,
        sampling=Sampling(args.partial_fourier, reduction=args.reduction), order=args.order,
        coils=smooth_coils(volume.shape, volume.affine, args.coils, args.seed) if args.coils > 1 else None,
        combine=args.combine or COMBINATIONS[0],
    )  # fmt: skip
    with staged_outputs(path for path, _ in named) as staged:
        places = iter(staged)
        write_volume(simulation.moved, next(places))
        if args.reference:
            write_volume(simulation.reference, next(places))
        if args.save_trajectory:
            write_trajectory(simulation.trajectory, next(places))
    size = f"severity {simulation.severity:.2f} mm (stratum {stratum(simulation.severity)} mm)"
    files = ", ".join(str(path) for path, _ in named)
    print(f"{kind}, seed {args.seed}, phase encoding {args.pe_axis}{_scan(args)}, {size}; written: {files}")
    return 0


def _check_numbers(args: argparse.Namespace) -> None:
    for name, value in (("--severity", args.severity), ("--noise", args.noise)):
        if value is not None and not 0 <= value < float("inf"):
            raise InputError(f"{name} {value:g}: give a finite number, 0 or more")
    if args.seed < 0:
        raise InputError(f"--seed {args.seed}: give a whole number, 0 or more")
    if not 0.5 < args.partial_fourier <= 1:
        raise InputError(f"--partial-fourier {args.partial_fourier:g}: give a share above 0.5, at most 1")
    if not 1 <= args.coils <= MOST_COILS:
        raise InputError(f"--coils {args.coils}: give a number from 1 to {MOST_COILS}")
    if args.coils == 1 and args.reduction > 1:
        raise InputError(f"--reduction {args.reduction}: one coil cannot fill in lines; give --coils 4 or more")
    if args.coils == 1 and args.combine:
        raise InputError(f"--combine {args.combine}: one coil has nothing to combine; give --coils 2 or more")


def _trajectory(args: argparse.Namespace, volume: Volume) -> tuple[Trajectory, str]:
    """(The motion in the order of time, where it comes from.)"""
    if args.trajectory:
        from BrainDiffLogic.motion.traces import read_trajectory, trace_notes

        trajectory = read_trajectory(args.trajectory)
        say_notes("simulate", args.trajectory, trace_notes(args.trajectory, trajectory))
        return trajectory, str(args.trajectory)
    lines = volume.shape[phase_encode_axis(volume.affine, args.pe_axis)]
    if lines < 2:
        raise InputError(f"{volume.name}: one voxel along {args.pe_axis}; choose another --pe-axis")
    if args.trace_set:
        from BrainDiffLogic.motion.traces import TraceSet

        trajectory, name = TraceSet(args.trace_set).draw(np.random.default_rng(args.seed), lines)
        return trajectory, f"recorded run {name}"
    kind = args.preset or DEFAULT_PRESET
    return preset(kind, lines, args.seed), f"preset {kind}"


def _scan(args: argparse.Namespace) -> str:
    """What of the scan is not as it is by default, in words that follow a comma."""
    words = [
        (args.order != "linear", f"{args.order} order"),
        (args.coils > 1, f"{args.coils} coils ({args.combine or COMBINATIONS[0]})"),
        (args.reduction > 1, f"reduction {args.reduction}"),
        (args.partial_fourier < 1, f"partial Fourier {args.partial_fourier:g}"),
        (args.phase, "object phase"),
    ]
    return "".join(f", {word}" for wanted, word in words if wanted)
