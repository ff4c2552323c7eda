"""``braindiff evaluate``: what corrections are worth on pairs of a moved and a still scan, and whether they do harm."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.progress import shown_progress

if TYPE_CHECKING:
    from BrainDiffLogic.evaluation.pairs import Pair

SUITES = ("quality", "safety")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``braindiff evaluate``."""
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    table = "CSV: moved, reference, subject; severity_mm, scanner, pe_axis, plane, simulator, group where known"
    source.add_argument("--pairs", type=Path, metavar="F.csv", help=table)
    source.add_argument("--bids", type=Path, metavar="DIR", help="BIDS folder: acq-standard beside acq-headmotionN")
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the tables; what is measured in it stays")
    add("--models", nargs="+", metavar="NAME|PATH", help="models (default: all networks that are available)")
    add("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"], help="default: auto")
    add("--views", action="store_true", help="also each model's mean answer to mirrored and shifted slices")
    add("--gated", action="store_true", help="also the default model as users get it (not in --models: the first)")
    add("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    add("--suite", default="quality", choices=SUITES, help="quality on pairs (default), or that no harm is done")
    register = "lay the reference onto the moved scan first (default: with --bids)"
    add("--register", action=argparse.BooleanOptionalAction, default=None, help=register)


def run(args: argparse.Namespace) -> int:
    """Measure what is missing; print the table of all pairs and where the report is."""
    from BrainDiffLogic.evaluation.methods import build_methods
    from BrainDiffLogic.evaluation.pairs import find_pairs, read_pairs

    if args.jobs < 1:
        raise InputError(f"--jobs {args.jobs}: must be 1 or more")
    register = args.bids is not None if args.register is None else args.register
    notes: list[str] = []
    if args.bids is not None:
        pairs, notes = find_pairs(args.bids)
    else:
        pairs = read_pairs(args.pairs, aligned=not register and args.suite == "quality")
    build_methods(args.models, args.device, args.views)
    if args.suite == "safety":
        return _safety(args, pairs)

    from BrainDiffLogic.evaluation.report import MARKDOWN, write_report
    from BrainDiffLogic.evaluation.run import EvaluationSettings, evaluate

    models = tuple(args.models) if args.models else None
    settings = EvaluationSettings(models, args.device, register, args.views, args.gated)
    with shown_progress() as progress:
        rows = evaluate(pairs, args.out, settings, args.jobs, progress)
    how = "the still scan is registered with the moved one and resampled, the moved one never is"
    how = how if register else "taken to lie on each other, nothing is registered"
    page = write_report(args.out, rows, [*notes, f"{len(pairs)} pairs; {how}."])
    print(f"{page.with_name(MARKDOWN).read_text(encoding='utf-8').split('### Change')[0].strip()}\n\nwritten: {page}")
    return 0


def _safety(args: argparse.Namespace, pairs: Sequence[Pair]) -> int:
    """The suite of checks that no harm is done, on the first still scan of each subject."""
    from BrainDiffLogic.evaluation.methods import build_methods
    from BrainDiffLogic.evaluation.run import prepare_folder
    from BrainDiffLogic.evaluation.safety_suite import run_safety
    from BrainDiffLogic.images import read_volume

    given = {"--jobs": args.jobs > 1, "--gated": args.gated, "--register": args.register}
    if too_much := ", ".join(option for option, there in given.items() if there):
        raise InputError(f"{too_much}: no part of --suite safety, which takes one still scan at a time; leave it out")
    prepare_folder(args.out)
    references: dict[str, Path] = {}
    for pair in pairs:
        references.setdefault(pair.subject, pair.reference)
    heads = [read_volume(path) for path in dict.fromkeys(references.values())]
    with shown_progress() as progress:
        report = run_safety(build_methods(args.models, args.device, args.views), heads, args.out, progress)
    print(f"{report.read_text(encoding='utf-8')}\nwritten: {report}")
    return 0
