"""The ``braindiff`` command: one module a subcommand, loaded when it is called."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from io import TextIOWrapper
from types import FrameType

from BrainDiffLogic import __version__
from BrainDiffLogic.errors import Cancelled, InputError
from BrainDiffLogic.progress import say

SUBCOMMANDS = {
    "correct": "correct head motion in a T1-weighted volume",
    "batch": "correct all scans of a BIDS dataset, on several processes or a cluster",
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
    "view": "see a scan and its correction in a browser, side by side",
    "demo": "the main job on a real head, end to end",
}

RESUMABLE = ("batch", "simulate-cohort", "train", "synthesize", "reproduce", "evaluate")
"""Commands that keep what is finished when they are stopped."""
PRINTING = ("find-motion", "models", "quality")
"""Commands whose result is what they print."""


class _Parser(argparse.ArgumentParser):
    """argparse with one line instead of usage and message."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP do as Ctrl+C does, so that what was half written is removed; ignored ones stay ignored."""
    own = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == own:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)  # a worker process that was forked
        os.kill(os.getpid(), number)

    before = {}
    for name in ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ():
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _take_any_text() -> None:
    """What the streams' encoding lacks is written as backslash escapes, a path in other letters, say."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _stdout_failed() -> bool:
    """Whether stdout is what cannot be written; nothing more is written there then."""
    try:
        print(flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


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
    _take_any_text()
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        subparsers.choices[args.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        with _stopped_by_signals():
            status = args.run(args) or 0
            if sys.stdout is not None:
                sys.stdout.flush()
            return status
    except OSError as error:
        if not _stdout_failed():
            raise
        if isinstance(error, BrokenPipeError):  # who reads it has seen enough
            return 0
        say(f"braindiff {args.command}: done, but what it prints cannot be written ({error.strerror})")
        return int(args.command in PRINTING)
    except InputError as error:
        say(f"braindiff {args.command}: {error}")
        return 2
    except (KeyboardInterrupt, Cancelled):
        left = "run it again to go on" if args.command in RESUMABLE else "nothing was written"
        say(f"braindiff {args.command}: stopped; {left}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
