"""``braindiff quality``: measure a volume, by itself and against a reference.

The JSON of ``--json`` has the keys image, reference, mask (paths or null), convention (text), metrics (the
numbers of ``quality.Assessment``, null where one cannot be had, and ``reasons``) and comparison (the numbers
of ``quality.Comparison``, null without a reference).
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from BrainDiffLogic.progress import say_notes

LABELS = {
    "cjv": "CJV (lower is better)", "efc": "EFC (lower is better)", "snr_csf": "SNR of CSF",
    "snr_gm": "SNR of grey matter", "snr_wm": "SNR of white matter", "snr_total": "SNR, mean of the three",
    "cnr": "CNR (higher is better)", "fber": "FBER (higher is better)", "tenengrad": "Tenengrad sharpness",
    "aes": "average edge strength", "gradient_entropy": "gradient entropy (lower is better)",
    "psnr": "PSNR (dB)", "ssim": "SSIM", "mre": "MRE (lower is better)",
    "tenengrad_ratio": "Tenengrad, image / reference", "worst_slice": "worst sagittal slice",
    "worst_slice_ssim": "SSIM of the worst slice", "slice_ssim_mean": "SSIM, mean over slices",
}  # fmt: skip
"""What the table calls a metric; one that is not here goes by its own name."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``braindiff quality``."""
    parser.add_argument("image", metavar="IMAGE", help="volume: NIfTI, NRRD, MetaImage or a DICOM folder")
    parser.add_argument("--reference", metavar="F", help="still volume of the same head on the same grid")
    parser.add_argument("--mask", metavar="F", help="where to measure, non-zero counts (default: the head)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")


def run(args: argparse.Namespace) -> int:
    """Read, measure, print."""
    from BrainDiffLogic.images import read_volume
    from BrainDiffLogic.metrics.quality import CONVENTION, HEAD, assess, compare

    image = read_volume(args.image)
    say_notes("quality", args.image, image.notes)
    reference = read_volume(args.reference) if args.reference else None
    mask = read_volume(args.mask, kind="mask") if args.mask else None
    convention = CONVENTION.replace(HEAD, args.mask) if args.mask else CONVENTION
    comparison = compare(image, reference, mask).as_dict() if reference is not None else None
    metrics = assess(image, mask).as_dict()
    if args.json:
        paths = {"image": args.image, "reference": args.reference, "mask": args.mask}
        facts = {**paths, "convention": convention, "metrics": metrics, "comparison": comparison}
        print(json.dumps(facts, indent=1, allow_nan=False))
        return 0
    print(f"convention: {convention}")
    reasons = metrics.pop("reasons")
    for name, value in {**(comparison or {}), **metrics}.items():
        print(_row(name, value, reasons.get(name)))
    return 0


def _row(name: str, value: Any, reason: str | None) -> str:
    if value is None:
        number = "inf" if name == "psnr" else f"- ({reason})" if reason else "-"
    else:
        number = str(value) if isinstance(value, int) else f"{value:.4f}"
    return f"{LABELS.get(name, name):<36}{number}"
