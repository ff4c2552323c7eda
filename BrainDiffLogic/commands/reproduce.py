"""``braindiff reproduce``: a paper from a BIDS folder to its table, with one command."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from BrainDiffLogic.commands.progress import Report, shown_progress
from BrainDiffLogic.commands.train import require_training_packages
from BrainDiffLogic.errors import InputError

PAPERS = ("braindiff",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``braindiff reproduce``."""
    add = parser.add_argument
    add("paper", choices=PAPERS, help="the paper")
    add("--data", required=True, type=Path, metavar="BIDS_DIR", help="scans; braindiff simulate-cohort makes some")
    add("--out", required=True, type=Path, metavar="RUN_DIR", help="folder for everything; a run in it goes on")
    add("--size", default="compact", choices=["compact", "paper"], help="compact: two cores; paper: as published")
    add("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"], help="default: auto")
    add("--jobs", type=int, default=1, metavar="N", help="processes that simulate and register (default: 1)")
    add("--only", nargs="+", default=[], metavar="STAGE", help="these stages alone, for jobs on a cluster")
    add("--perceptual", metavar="TERM", help="perceptual term of the autoencoder instead of the size's")
    add("--vgg", type=Path, metavar="F", help="torchvision's vgg16 weights, which the paper's perceptual term needs")
    add("--paper-injection", action="store_true", help="inject as the paper: t in 0.35 T to 0.65 T, every step, decode")
    add("--seed", type=int, default=0, metavar="N", help="of the injection and the simulated pairs (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Run the stages that are not done; print where the table is."""
    require_training_packages()
    from BrainDiffLogic.inference import choose_device
    from BrainDiffLogic.reproduction.settings import settings_of
    from BrainDiffLogic.reproduction.stages import NAMES, reproduce
    from BrainDiffLogic.reproduction.work import Work

    if unknown := [name for name in args.only if name not in NAMES]:
        raise InputError(f"--only {unknown[0]}: there is no such stage; stages are {', '.join(NAMES)}")
    if args.jobs < 1:
        raise InputError(f"--jobs {args.jobs}: must be 1 or more")
    choose_device(args.device)
    settings = settings_of(
        args.size, perceptual=args.perceptual, vgg=args.vgg, paper_injection=args.paper_injection, seed=args.seed
    )
    work = Work(args.data, args.out, settings, args.device, args.jobs, _progress())
    table = reproduce(work, args.only, _tell)
    if table.is_file():
        print(table.read_text(encoding="utf-8"))
        print(f"written: {table}")
    return 0


def _progress() -> Report:
    """A bar for each piece of work, between the bars of training."""
    opened = ExitStack()
    bars: list[Report] = []

    def report(share: float, stage: str) -> None:
        if not bars:
            bars.append(opened.enter_context(shown_progress()))
        bars[0](share, stage)
        if share >= 1:
            opened.close()
            bars.clear()

    return report


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
