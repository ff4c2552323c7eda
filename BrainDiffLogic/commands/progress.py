"""Progress of long work on stderr: a bar on a terminal, a plain line for every tenth elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from BrainDiffLogic.progress import Progress

TENTHS = 10


def say(line: str) -> None:
    """One line on stderr, for the person; where nobody can read it, the work goes on."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def say_notes(command: str, path: object, notes: Iterable[str]) -> None:
    """What was noticed about a file, a line each."""
    for note in notes:
        say(f"braindiff {command}: {path}: {note}")


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """A function to call with the share done, 0 to 1, and the name of the stage."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield _plain_lines()
        return
    from tqdm import tqdm

    with tqdm(total=1.0, bar_format="{desc}{percentage:3.0f}% |{bar}| {elapsed}<{remaining}") as bar:

        def report(share: float, stage: str) -> None:
            bar.set_description(stage, refresh=False)
            bar.update(share - bar.n)

        yield report


def _plain_lines() -> Progress:
    shown: dict[str, int] = {}

    def report(share: float, stage: str) -> None:
        tenth = int(share * TENTHS + 1e-9)
        if tenth > shown.get(stage, 0):
            shown[stage] = tenth
            say(f"{stage}: {100 * tenth // TENTHS} %")

    return report
