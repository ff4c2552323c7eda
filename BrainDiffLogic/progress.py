"""Long work: how far it is, how that is shown on stderr, and many small pieces of it in several processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

Progress = Callable[[float, str], None]
"""Called with the share done, 0 to 1, and the name of the stage."""


def silent(share: float, stage: str) -> None:
    """The progress of work that nobody watches."""


def part_of(progress: Progress, begin: float, share: float, name: str = "") -> Progress:
    """That of a part which begins at ``begin`` and is ``share`` of the whole; ``name`` goes before its stages."""
    return lambda done, stage: progress(begin + share * done, f"{name}, {stage}" if name else stage)


def run_all(tasks: Sequence[Callable[[], None]], jobs: int, progress: Progress, name: str) -> None:
    """Run all tasks, in ``jobs`` processes of one thread each where there are several.

    progress  called with (share done, name), first with 0 and last with 1
    """
    progress(0.0 if tasks else 1.0, name)
    if jobs == 1 or len(tasks) < 2:
        for done, task in enumerate(tasks, start=1):
            task()
            progress(done / len(tasks), name)
        return
    from concurrent.futures import ProcessPoolExecutor, as_completed  # which the command's start need not wait for
    from multiprocessing import get_context

    with one_thread_each(), ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(task) for task in tasks]
        try:
            for done, job in enumerate(as_completed(waiting), start=1):
                job.result()
                progress(done / len(tasks), name)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes that start meanwhile use one thread each (numerical libraries read this when they load)."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


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
