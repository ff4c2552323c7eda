"""``braindiff reproduce``: a paper from a BIDS folder to its table, with one command."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from BrainDiffLogic.commands.train import require_training_packages
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.progress import Progress, say, shown_progress

if TYPE_CHECKING:
    from BrainDiffLogic.papers.run import RecipeSettings, RecipeStage

OWN_OPTIONS: dict[str, tuple[str, ...]] = {
    "braindiff": ("perceptual", "vgg", "paper_injection"), "mcnet": (), "rmman": ("inception",),
}  # fmt: skip
"""Paper: options that the others do not have; given to those they are refused."""
PAPERS = tuple(OWN_OPTIONS)


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
    add("--seed", type=int, default=0, metavar="N", help="of the injection and the simulated pairs (default: 0)")
    own = parser.add_argument_group("braindiff").add_argument
    own("--perceptual", metavar="TERM", help="perceptual term of the autoencoder instead of the size's")
    own("--vgg", type=Path, metavar="F", help="torchvision's vgg16 weights, which the paper's perceptual term needs")
    own("--paper-injection", action="store_true", default=None,
        help="inject as the paper: t in 0.35 T to 0.65 T, every step, decode")  # fmt: skip
    own = parser.add_argument_group("rmman").add_argument
    own("--inception", type=Path, metavar="F", help="torchvision's inception_v3 weights: adds the Inception Score")


def run(args: argparse.Namespace) -> int:
    """Run the stages that are not done; print where the table is."""
    require_training_packages()
    from BrainDiffLogic.inference import choose_device
    from BrainDiffLogic.papers.run import Work, reproduce

    for name in {name for names in OWN_OPTIONS.values() for name in names} - set(OWN_OPTIONS[args.paper]):
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} is no option of reproduce {args.paper}; leave it out")
    stages = _stages(args.paper)
    names = [stage.name for stage in stages]
    if unknown := [name for name in args.only if name not in names]:
        raise InputError(f"--only {unknown[0]}: there is no such stage; stages are {', '.join(names)}")
    if args.jobs < 1:
        raise InputError(f"--jobs {args.jobs}: must be 1 or more")
    choose_device(args.device)
    work = Work(args.data, args.out, _settings(args), args.device, args.jobs, _progress())
    table = reproduce(stages, work, args.only, say)
    if table.is_file():
        print(table.read_text(encoding="utf-8"))
        print(f"written: {table}")
    return 0


def _stages(paper: str) -> tuple[RecipeStage[Any], ...]:
    from BrainDiffLogic.papers import braindiff, mcnet, rmman

    recipes: dict[str, tuple[RecipeStage[Any], ...]] = {
        "braindiff": braindiff.STAGES, "mcnet": mcnet.STAGES, "rmman": rmman.STAGES,
    }  # fmt: skip
    return recipes[paper]


def _settings(args: argparse.Namespace) -> RecipeSettings:
    from BrainDiffLogic.papers import braindiff, mcnet, rmman

    if args.paper == "mcnet":
        return mcnet.mcnet_settings(args.size, args.seed)
    if args.paper == "rmman":
        return rmman.rmman_settings(args.size, args.seed, args.inception)
    return braindiff.braindiff_settings(
        args.size, perceptual=args.perceptual, vgg=args.vgg, paper_injection=bool(args.paper_injection), seed=args.seed
    )


def _progress() -> Progress:
    """A bar for each piece of work, between the bars of training."""
    opened = ExitStack()
    bars: list[Progress] = []

    def report(share: float, stage: str) -> None:
        if not bars:
            bars.append(opened.enter_context(shown_progress()))
        bars[0](share, stage)
        if share >= 1:
            opened.close()
            bars.clear()

    return report
