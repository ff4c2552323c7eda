"""The ``braindiff`` command: one module a subcommand, loaded when it is called."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from BrainDiffLogic import __version__
from BrainDiffLogic.errors import Cancelled, InputError

SUBCOMMANDS = {
    "correct": "correct head motion in a T1-weighted volume",
    "simulate": "put simulated head motion on a still volume",
    "invert-motion": "undo motion whose trajectory was recorded, by physics alone",
    "find-motion": "find the motion of the head from the image alone, with its evidence",
    "simulate-cohort": "make a BIDS dataset with simulated motion from a folder of still volumes",
    "quality": "measure the quality of a volume, with or without a reference",
    "models": "list, show, verify or import correction models",
    "train": "train a corrector, the autoencoder or the diffusion model",
    "synthesize": "inject motion into clean slices with a diffusion prior, to train a corrector on",
    "reproduce": "reproduce a paper on your own data, from a BIDS folder to its table",
    "evaluate": "measure corrections on pairs of a moved and a still scan, or check that they do no harm",
    "demo": "the main job on a real head, end to end",
}

RESUMABLE = ("simulate-cohort", "train", "synthesize", "reproduce", "evaluate")
"""Commands that keep what is finished when they are stopped."""


class _Parser(argparse.ArgumentParser):
    """argparse with one line instead of usage and message."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 1 unexpected failure, 2 bad usage or input."""
    parser = _Parser(prog="braindiff", description="Correct head motion in T1-weighted brain MRI.")
    parser.add_argument("--version", action="version", version=f"braindiff {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    arguments = list(sys.argv[1:] if argv is None else argv)
    for name, summary in SUBCOMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if arguments[:1] == [name]:
            module = import_module(f"BrainDiffLogic.commands.{name.replace('-', '_')}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    args = parser.parse_args(arguments)
    try:
        return args.run(args) or 0
    except InputError as error:
        print(f"braindiff {args.command}: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Cancelled):
        left = "run it again to go on" if args.command in RESUMABLE else "nothing was written"
        print(f"braindiff {args.command}: stopped; {left}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
