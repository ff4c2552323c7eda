"""Long work: how far it is, and many small pieces of it in several processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context

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
