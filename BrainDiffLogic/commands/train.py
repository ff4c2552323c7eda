"""``braindiff train``: train a phase from a configuration file."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from BrainDiffLogic.checkpoints import SUFFIX
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.outputs import check_output

if TYPE_CHECKING:
    from BrainDiffLogic.training.configuration import Configuration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``braindiff train``."""
    add = parser.add_argument
    add("phase", choices=["corrector"], help="what to train")
    add("--config", required=True, type=Path, help="YAML file, or the name of one of Resources/Training")
    add("--data", required=True, type=Path, help="folder with the volumes that the configuration names")
    add("--run", dest="folder", metavar="RUN", required=True, type=Path, help="folder; a run in it goes on")
    add("--cache", type=Path, help="folder of simulated pairs (default: RUN/pairs)")
    add("--device", default="auto", choices=["auto", "cpu", "gpu", "cuda", "mps"], help="default: auto")
    add("--initial", type=Path, help="checkpoint (.safetensors) to start from")
    add("--pairs", type=int, help="number of training pairs instead of the configuration's")
    add("--steps", type=int, help="steps of the last stage instead of the configuration's")
    add("--jobs", type=int, default=2, help="processes that simulate pairs (default: 2)")
    add("--export", type=Path, help="write the trained weights and their card to this .safetensors")
    add("--overwrite", action="store_true", help="replace an --export that exists")


def run(args: argparse.Namespace) -> int:
    """Train, then export the weights when asked to."""
    _check(args)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # tensorboard looks for TensorFlow and warns about it
    try:
        import lightning  # noqa: F401
        import tensorboard  # noqa: F401
        import yaml  # noqa: F401
    except ImportError as error:
        name = (error.name or "a package").partition(".")[0]
        raise InputError(f"training needs {name}: pip install 'braindiff[train]'") from None
    from BrainDiffLogic.training.export import export
    from BrainDiffLogic.training.run import train

    configuration = _configuration(args)
    checkpoint = train(
        configuration, args.data, args.folder, cache=args.cache, accelerator=args.device, jobs=args.jobs,
        initial=args.initial, report=_report,
    )  # fmt: skip
    if args.export:
        card = export(configuration, checkpoint, args.export, args.data)
        print(json.dumps({"weights": str(args.export), "sha256": card["sha256"]}))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse before the hours of training what would fail after them."""
    if not args.data.is_dir():
        raise InputError(f"{args.data}: there is no such folder; give --data the folder with the volumes")
    for name, lowest in (("steps", 1), ("jobs", 1), ("pairs", 0)):
        value = getattr(args, name)
        if value is not None and value < lowest:
            raise InputError(f"--{name} {value}: must be {lowest} or more")
    if args.export:
        check_output(args.export, overwrite=args.overwrite, suffixes=(SUFFIX,))


def _configuration(args: argparse.Namespace) -> Configuration:
    from dataclasses import replace

    from BrainDiffLogic.training.configuration import find_configuration, read_configuration

    configuration = read_configuration(find_configuration(args.config), pairs=args.pairs)
    if args.steps is None:
        return configuration
    last = replace(configuration.stages[-1], steps=args.steps)
    return replace(configuration, stages=[*configuration.stages[:-1], last])


def _report(done: int, total: int) -> None:
    """A line that counts up on a terminal; elsewhere a line at every twentieth pair."""
    terminal = sys.stderr.isatty()
    if terminal or done % 20 == 0 or done == total:
        end = "\r" if terminal and done < total else "\n"
        print(f"simulated pair {done} of {total}", end=end, file=sys.stderr, flush=True)
