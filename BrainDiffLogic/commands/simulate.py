"""``braindiff simulate``: put head motion on a still volume."""

from __future__ import annotations

import argparse
from pathlib import Path

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.kspace import PE_AXES, phase_encode_axis
from BrainDiffLogic.motion.presets import PRESETS, preset
from BrainDiffLogic.motion.trajectory import Trajectory, stratum, with_severity
from BrainDiffLogic.volume import Volume

DEFAULT_PRESET = "nod"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``braindiff simulate``."""
    parser.add_argument("input", metavar="IN", help="still volume: NIfTI, NRRD, MetaImage or a DICOM folder")
    parser.add_argument("output", metavar="OUT", type=Path, help="volume with motion, stored as IN is")
    motion = parser.add_mutually_exclusive_group()
    motion.add_argument("--preset", choices=list(PRESETS), help=f"kind of motion (default: {DEFAULT_PRESET})")
    motion.add_argument(
        "--trajectory", metavar="F", type=Path, help="recorded: .csv, FSL .par, SPM rp_*.txt or AFNI .1D"
    )
    parser.add_argument(
        "--severity", type=float, metavar="MM", help="scale to this mean displacement (default: as it is)"
    )
    parser.add_argument("--pe-axis", default="AP", choices=sorted(PE_AXES), help="phase encoding (AP)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the motion (default: 0)")
    parser.add_argument(
        "--noise", type=float, default=0.0, metavar="SD", help="complex noise, image units (default: 0)"
    )
    parser.add_argument(
        "--save-trajectory", metavar="F.csv", type=Path, help="also write the pose of each phase-encode line"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")


def run(args: argparse.Namespace) -> int:
    """Check everything, simulate, write all outputs or none."""
    from BrainDiffLogic.delivery import check_outputs, staged_outputs
    from BrainDiffLogic.images import WRITABLE, read_volume, write_volume
    from BrainDiffLogic.motion.simulation import simulate_motion
    from BrainDiffLogic.motion.traces import write_trajectory

    _check_numbers(args)
    named = [(args.output, WRITABLE), (args.save_trajectory, (".csv",))]
    inputs = [args.input, *([args.trajectory] if args.trajectory else [])]
    check_outputs([(path, suffixes) for path, suffixes in named if path], inputs, args.overwrite)
    volume = read_volume(args.input)
    trajectory = _trajectory(args, volume)
    simulation = simulate_motion(volume, trajectory, args.pe_axis, noise=args.noise, seed=args.seed)
    with staged_outputs(path for path, _ in named if path) as staged:
        write_volume(simulation.moved, staged[0])
        if args.save_trajectory:
            write_trajectory(simulation.trajectory, staged[1])
    kind = str(args.trajectory) if args.trajectory else f"preset {args.preset or DEFAULT_PRESET}"
    size = f"severity {simulation.severity:.2f} mm (stratum {stratum(simulation.severity)} mm)"
    files = ", ".join(str(path) for path, _ in named if path)
    print(f"{kind}, seed {args.seed}, phase encoding {args.pe_axis}, {size}; written: {files}")
    return 0


def _check_numbers(args: argparse.Namespace) -> None:
    for name, value in (("--severity", args.severity), ("--noise", args.noise)):
        if value is not None and not 0 <= value < float("inf"):
            raise InputError(f"{name} {value:g}: give a finite number, 0 or more")
    if args.seed < 0:
        raise InputError(f"--seed {args.seed}: give a whole number, 0 or more")


def _trajectory(args: argparse.Namespace, volume: Volume) -> Trajectory:
    if args.trajectory:
        from BrainDiffLogic.motion.traces import read_trajectory

        trajectory = read_trajectory(args.trajectory)
    else:
        lines = volume.shape[phase_encode_axis(volume.affine, args.pe_axis)]
        if lines < 2:
            raise InputError(f"{volume.name}: one voxel along {args.pe_axis}; choose another --pe-axis")
        trajectory = preset(args.preset or DEFAULT_PRESET, lines, args.seed)
    return trajectory if args.severity is None else with_severity(trajectory, args.severity)
