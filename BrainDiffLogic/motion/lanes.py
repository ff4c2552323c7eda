"""Work side by side in threads, with the same results on any number of cores.

numpy, scipy and finufft let go of the interpreter while they compute. Tasks that do not need each other run in lanes of
one thread each, so that no library starts threads of its own beside those; elsewhere arrays are computed in slabs,
whose size does not depend on the number of threads.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from BrainDiffLogic.errors import Cancelled

T = TypeVar("T")

SLAB = 2**18
"""Voxels of a slab: what is computed of it stays in a core's cache."""


class _Lane(threading.local):
    """What a thread knows of itself: whether it runs in a lane, and the event that stops it."""

    stop: threading.Event | None = None


_lane = _Lane()


def allowed_cores() -> int:
    """Those that this process may run on, which a cluster's job has fewer of than its node."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """The number of threads that this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) else allowed_cores()


def threads() -> int:
    """The number of threads that a computation may use here: one in a lane."""
    return cores() if _lane.stop is None else 1


def stopped() -> bool:
    """Whether the lane that asks should stop, as another one failed or who waits for it was interrupted."""
    return _lane.stop is not None and _lane.stop.is_set()


def side_by_side(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """What the tasks return; each runs in one thread, also where there is one task or one core.

    The first error is raised once all have ended; the others are told to stop (``stopped``) or do not begin.
    """
    stop, errors = _lane.stop or threading.Event(), list[BaseException]()

    def run(task: Callable[[], T]) -> T:
        before, _lane.stop = _lane.stop, stop
        try:
            if stop.is_set():
                raise Cancelled
            return task()
        except BaseException as error:
            errors.append(error)
            stop.set()
            raise
        finally:
            _lane.stop = before

    if threads() == 1 or len(tasks) == 1:
        return [run(task) for task in tasks]
    with ThreadPoolExecutor(min(threads(), len(tasks))) as pool:
        running = [pool.submit(run, task) for task in tasks]
        try:
            wait(running)
        finally:
            stop.set()  # for whoever interrupted the waiting
    if errors:
        raise errors[0]
    return [job.result() for job in running]


def in_slabs(work: Callable[[slice], T], shape: tuple[int, ...]) -> list[T]:
    """``work`` on slabs, which are given as slices of the first axis of arrays of this shape (I, J, K), in turn."""
    thick = max(1, SLAB * shape[0] // max(1, math.prod(shape)))
    slabs = [slice(start, min(start + thick, shape[0])) for start in range(0, shape[0], thick)]
    if threads() == 1 or len(slabs) == 1:
        return [work(slab) for slab in slabs]
    with ThreadPoolExecutor(threads()) as pool:
        return list(pool.map(work, slabs))
