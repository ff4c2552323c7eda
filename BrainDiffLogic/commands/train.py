"""``braindiff train``: train a phase from a configuration file."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from BrainDiffLogic.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``braindiff train``."""
    parser.add_argument("phase", choices=["corrector"], help="what to train")
    parser.add_argument("--config", required=True, type=Path, help="YAML file, see Resources/Training")
    parser.add_argument("--data", required=True, type=Path, help="folder with the volumes that the configuration names")
    parser.add_argument("--run", required=True, type=Path, help="folder of the run; a run that is there goes on")
    parser.add_argument("--cache", type=Path, help="folder of simulated pairs (default: RUN/pairs)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "gpu", "mps"])
    parser.add_argument("--initial", type=Path, help="checkpoint (.safetensors) to start from")
    parser.add_argument("--pairs", type=int, help="number of training pairs instead of the configuration's")
    parser.add_argument("--steps", type=int, help="steps of the last stage instead of the configuration's")
    parser.add_argument("--jobs", type=int, default=2, help="processes that simulate pairs (default: 2)")
    parser.add_argument("--export", type=Path, help="write the trained weights and their card to this .safetensors")


def run(args: argparse.Namespace) -> int:
    """Train, then export the weights when asked to."""
    try:
        import lightning  # noqa: F401
        import yaml  # noqa: F401
    except ImportError as error:
        raise InputError(f"training needs {error.name}: pip install 'braindiff[train]'") from None
    from dataclasses import replace

    from BrainDiffLogic.training.configuration import read_configuration
    from BrainDiffLogic.training.export import export
    from BrainDiffLogic.training.run import train

    if not args.data.is_dir():
        raise InputError(f"{args.data}: there is no such folder; give --data the folder with the volumes")
    configuration = read_configuration(args.config, pairs=args.pairs)
    if args.steps is not None:
        last = replace(configuration.stages[-1], steps=args.steps)
        configuration = replace(configuration, stages=[*configuration.stages[:-1], last])
    checkpoint = train(
        configuration, args.data, args.run, cache=args.cache, accelerator=args.device, jobs=args.jobs,
        initial=args.initial, report=_report,
    )  # fmt: skip
    if args.export:
        card = export(configuration, checkpoint, args.export, args.data)
        print(json.dumps({"weights": str(args.export), "sha256": card["sha256"]}))
    return 0


def _report(done: int, total: int) -> None:
    end = "\n" if done == total or not sys.stderr.isatty() else "\r"
    if sys.stderr.isatty() or done % 20 == 0 or done == total:
        print(f"simulated pair {done} of {total}", end=end, file=sys.stderr, flush=True)
