"""``braindiff correct``: correct head motion in one volume."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from BrainDiffLogic.models.checkpoints import DEFAULT_MODEL
from BrainDiffLogic.progress import say_notes, shown_progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``braindiff correct``."""
    add = parser.add_argument
    add("input", metavar="IN", help="volume: NIfTI, NRRD, MetaImage, MGH or a DICOM folder")
    add("output", metavar="OUT", type=Path,
        help="corrected volume: .nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd, .mgz, .mgh, or of DICOM a folder")  # fmt: skip
    add("--difference", metavar="F", type=Path, help="also write OUT minus IN, signed, as OUT")
    add(
        "--disagreement", metavar="F", type=Path,
        help="also write how far the answers to mirrored and shifted slices and of the other models lie apart (slower)",
    )  # fmt: skip
    add("--html", metavar="F.html", type=Path, help="also write a page that shows what was done")
    add("--report", metavar="F.json", type=Path, help="also write what was done, and quality")
    add("--model", default=DEFAULT_MODEL, metavar="NAME|PATH", help=f"default: {DEFAULT_MODEL}; mc-net is fast")
    add("--strength", type=float, default=1.0, metavar="0..1", help="0: IN as it is; 1 (default): all that is found")
    add("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    add("--dtype", default="input", choices=["input", "float32"],
        help="type of the voxels that are written (default: input)")  # fmt: skip
    add("--force", action="store_true",
        help="correct also a scan that shows no motion, and one far outside of the model's domain")  # fmt: skip
    add("--pe-axis", default="auto", choices=["auto", "AP", "SI", "LR"],
        help="slow phase encoding, for model motion (default: as the sidecar says, else the likeliest)")  # fmt: skip
    add(
        "--series", default="", metavar="NUMBER|UID",
        help="of a DICOM folder with several series the one to correct (default: the only T1-weighted head)",
    )  # fmt: skip
    add("--overwrite", action="store_true", help="replace outputs that exist")


def run(args: argparse.Namespace) -> int:
    """Check everything, correct, write all outputs or none."""
    from BrainDiffLogic.correction_files import correct_file

    with shown_progress() as progress:
        report = correct_file(
            args.input, args.output, difference=args.difference, report=args.report,
            disagreement=args.disagreement, html=args.html, model=args.model,
            strength=args.strength, device=args.device, dtype=args.dtype, force=args.force, pe_axis=args.pe_axis,
            series=args.series, overwrite=args.overwrite, progress=progress,
        )  # fmt: skip
    say_notes("correct", args.input, [*report["outside_domain"], *report["notes"]])
    print(_summary(report))
    return 0


def _summary(report: dict[str, Any]) -> str:
    share = f"{100 * report['changed_share']:.1f} % of the head's intensity changed"
    if report["changed_share"]:
        share += f", most in sagittal slice {report['worst_sagittal_slice']}"
    how = f"{report['model']} {report['model_version']}, strength {report['strength']:g}"
    files = ", ".join(report["outputs"].values())
    return f"{share} ({how}, {report['seconds']:.1f} s on {report['device']}); written: {files}"
