"""All scans of a batch through a crew of workers: done, or accounted for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from BrainDiffLogic.cohort.items import Item
from BrainDiffLogic.cohort.settings import Settings
from BrainDiffLogic.cohort.work import BUSY, Outcome, give_up, sweep, work_on

if TYPE_CHECKING:
    from distributed import Client, Future

Report = Callable[[Outcome], None]
KILLED = "given up: the worker was killed each of {} times (out of memory?); try it alone with braindiff correct"


def run_batch(
    items: Sequence[Item],
    out: Path,
    settings: Settings,
    crew: AbstractContextManager[Client],
    tries: int,
    report: Report,
) -> list[Outcome]:
    """Work on every scan; returns what became of each, in the order in which they ended.

    crew    the workers, who come and go with this batch
    tries   how often a scan is begun whose worker dies or fails unexpectedly, before it is given up and named
    report  called with each outcome
    When this is interrupted, no unfinished file stays of scans that no worker is at any more.
    """
    ended: list[Outcome] = []
    try:
        with crew as client:
            for wait in (False, True):
                waiting = items if not wait else [one.item for one in ended if one.status == BUSY]
                ended = [one for one in ended if one.status != BUSY]
                for outcome in _ended(waiting, out, settings, client, tries, wait):
                    ended.append(outcome)
                    if outcome.status != BUSY:
                        report(outcome)
    finally:
        sweep(items, out)
    return ended


def _ended(
    items: Iterable[Item], out: Path, settings: Settings, client: Client, tries: int, wait: bool
) -> Iterable[Outcome]:
    from distributed import as_completed

    futures = {
        client.submit(work_on, item, out, settings, wait, retries=tries - 1, pure=False): item for item in items
    }  # fmt: skip
    for future in as_completed(list(futures)):
        item = futures.pop(future)
        yield future.result() if future.status == "finished" else give_up(item, out, _why(future, tries))
        future.release()


def _why(future: Future, tries: int) -> str:
    """Why a scan did not end in an outcome: its workers died, it failed unexpectedly, or the scheduler went away."""
    from distributed.scheduler import KilledWorker

    if future.status == "cancelled":
        return "not done: the Dask scheduler was lost; run the batch again"
    error = future.exception()
    if isinstance(error, KilledWorker):
        return KILLED.format(tries)
    return f"failed unexpectedly each of {tries} times, {type(error).__name__}: {' '.join(str(error).split())}"
