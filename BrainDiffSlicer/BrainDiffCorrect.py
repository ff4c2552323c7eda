#!/usr/bin/env python-real
"""Batch CLI module: corrects head motion in one volume file.

    PythonSlicer BrainDiffCorrect.py [options] INPUT OUTPUT

Slicer starts it in a process of its own and reads the filter tags on stdout. Flags, results and exit status are those
of ``braindiff correct``. Whatever comes on stderr is an error to Slicer: it gets one line from a run that failed, and
nothing of what libraries have to say.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn
from xml.sax.saxutils import escape

NAME = "BrainDiffCorrect"


class Parser(argparse.ArgumentParser):
    """argparse with one line instead of usage and message."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


class FilterTags:
    """Tells Slicer on stdout how far the job is; ``stageEnds`` are the shares at which its stages end."""

    def __init__(self, stageEnds: list[float]) -> None:
        self.stageEnds = stageEnds
        self.stage, self.begin = "", 0.0

    def report(self, share: float, stage: str) -> None:
        if stage != self.stage:
            self.stage, self.begin = stage, share
            remark(stage)
        end = min((end for end in self.stageEnds if end > self.begin), default=self.begin)
        done = (share - self.begin) / (end - self.begin) if end > self.begin else 1.0
        say(tag("progress", f"{share:.4f}") + tag("stage-progress", f"{done:.4f}"))


def tag(name: str, text: object) -> str:
    return f"<filter-{name}>{escape(str(text))}</filter-{name}>"


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def remark(text: str) -> None:
    """Say it twice: Slicer shows the tag in its own progress bar only, and gives scripts and the log what is left."""
    say(tag("comment", text) + "\n" + text)


def findLibrary() -> None:
    """Make BrainDiffLogic importable where Slicer does not: beside this folder, installed or in a checkout."""
    try:
        import BrainDiffLogic  # noqa: F401
    except ModuleNotFoundError:
        above = Path(__file__).resolve().parent.parent
        homes = [home for home in (above / "qt-scripted-modules", above) if (home / "BrainDiffLogic").is_dir()]
        if not homes:
            sys.exit(f"BrainDiff: {above} has no BrainDiffLogic; reinstall the BrainDiff extension")
        sys.path.append(str(homes[0]))


def makeParser() -> Parser:
    from BrainDiffLogic.commands.correct import add_arguments

    parser = Parser(prog=NAME, description="Correct head motion in a T1-weighted volume.", allow_abbrev=False)
    parser.add_argument("--xml", action="store_true", help="print the description that Slicer reads, and stop")
    add_arguments(parser)
    parser.add_argument(
        "--staging", type=Path, metavar="DIR",
        help="folder on the disk of OUT for files that are not finished (default: beside each)",
    )  # fmt: skip
    return parser


def silence() -> None:
    """Keep what libraries say on stderr to themselves."""
    with open(os.devnull, "w", encoding="utf-8") as sink:
        os.dup2(sink.fileno(), sys.stderr.fileno())


def run(args: argparse.Namespace) -> None:
    start = time.monotonic()
    silence()
    say("<filter-start>" + tag("name", NAME) + tag("comment", "Starting") + "</filter-start>\nStarting")
    from BrainDiffLogic import correction_files
    from BrainDiffLogic.images.outputs import staging_in

    tags = FilterTags([correction_files.LOADING, correction_files.CORRECTING, correction_files.WRITING, 1.0])
    with staging_in(args.staging):
        report = correction_files.correct_file(
            args.input, args.output, difference=args.difference, report=args.report, html=args.html,
            disagreement=args.disagreement, model=args.model,
            strength=args.strength, device=args.device, dtype=args.dtype, force=args.force, pe_axis=args.pe_axis,
            series=args.series, overwrite=args.overwrite, progress=tags.report,
        )  # fmt: skip
    for line in [*report["outside_domain"], *report["notes"]]:
        remark(line)
    say("<filter-end>" + tag("name", NAME) + tag("time", f"{time.monotonic() - start:.1f}") + "</filter-end>")


def main(
    arguments: list[str], script: str = __file__, parser: Callable[[], argparse.ArgumentParser] = makeParser,
    work: Callable[[argparse.Namespace], None] = run,
) -> int:  # fmt: skip
    """Returns the exit status: 0 done, 1 unexpected failure or stopped, 2 bad usage or input."""
    if "--xml" in arguments:
        say(Path(script).with_suffix(".xml").read_text(encoding="utf-8"))
        return 0
    findLibrary()
    from BrainDiffLogic.errors import Cancelled, InputError

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl+C: what was half written is removed
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    with open(os.dup(sys.stderr.fileno()), "w", encoding="utf-8", errors="backslashreplace") as errors:
        try:
            work(parser().parse_args(arguments))
            return 0
        except InputError as error:
            status, reason = 2, str(error)
        except (KeyboardInterrupt, Cancelled):
            status, reason = 1, "stopped; nothing was written"
        except ModuleNotFoundError as error:
            status, reason = 1, f"the Python package {error.name} is missing; the BrainDiff module offers to install it"
        except Exception as error:
            say(traceback.format_exc())  # on stdout, which Slicer logs
            status, reason = 1, " ".join(f"unexpected {type(error).__name__}: {error}".split())
        errors.write(f"{Path(script).stem}: {reason}\n")
        return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
