"""The workers of a batch, here or on a Dask cluster, and all its scans through them: done, or accounted for."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import psutil

from BrainDiffLogic.cohort.items import Item
from BrainDiffLogic.cohort.work import BUSY, BatchSettings, Outcome, give_up, sweep, work_on
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.outputs import files_read
from BrainDiffLogic.models.checkpoints import weights_of
from BrainDiffLogic.motion.lanes import allowed_cores

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster


BASE_MIB, NETWORK_BYTES, PHYSICS_BYTES = 600, 80, 150
"""Peak memory of a worker: without a scan, and for each voxel of the largest, corrected by a network or by physics
(Testing/Benchmarks/batch.py, speed.py)."""
FREE_SHARE = 0.9
"""Of the memory that is free, what workers may take."""
PACKED = 2.5
"""Voxels for each byte on disk, at most, of what is not asked for its shape (DICOM)."""
SILENT = logging.CRITICAL + 1
LOST_S, LOOK_S = 60.0, 5.0
"""Seconds after which a worker that died and did not come back is given up, and between looks for such ones."""
ANY_PORT = "127.0.0.1:0"
"""Dask opens a web server on 8787 also without a dashboard: here it has no page, and takes nobody's port."""


def memory_mib(sources: Iterable[Path], model: str) -> int:
    """What a worker needs that corrects the largest of these scans by this model."""
    voxels = max((_voxels(source) for source in sources), default=0.0)
    bytes_a_voxel = NETWORK_BYTES if len(weights_of(model)) == 1 else PHYSICS_BYTES
    return round(BASE_MIB + voxels * bytes_a_voxel / (1 << 20))


def _voxels(source: Path) -> float:
    import nibabel as nib
    import numpy as np
    from nibabel.spatialimages import SpatialImage

    try:
        if source.is_dir():
            return PACKED * sum(file.stat().st_size for file in source.rglob("*"))
        if source.name.endswith((".nii", ".nii.gz", ".mgh", ".mgz")):
            return float(np.prod(cast(SpatialImage, nib.load(source)).shape[:3]))
        return PACKED * sum(file.stat().st_size for file in files_read(source))
    except Exception:  # noqa: BLE001 - whatever is wrong with it, reading it says so
        return 0.0


def crew_size(wanted: int | None, scans: int, need_mib: int) -> int:
    """How many workers: as many as are wanted, else as there are cores, but no more than scans or than memory holds."""
    hold = int(FREE_SHARE * psutil.virtual_memory().available / (1 << 20) / need_mib)
    return max(1, min(wanted or allowed_cores(), scans, hold))


@contextmanager
def local_crew(workers: int, tries: int) -> Iterator[Client]:
    """Worker processes on this computer, one scan each at a time; they encrypt what they say to each other.

    tries  how often a scan may be worked on when workers die; a worker that dies is replaced
    """
    import dask
    from distributed import Client, LocalCluster

    threads = str(max(1, allowed_cores() // workers))
    settings: dict[str, object] = {
        "distributed.scheduler.allowed-failures": tries - 1,
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.scheduler.worker-ttl": None, "distributed.deploy.lost-worker-timeout": f"{LOST_S}s",
        "distributed.scheduler.http.routes": [], "distributed.worker.http.routes": [],
        "distributed.worker.memory.target": False, "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False, "distributed.worker.memory.terminate": 0.98,
        "distributed.nanny.pre-spawn-environ": dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads),
        "distributed.logging": {"distributed": "critical"},
    }  # fmt: skip
    share = FREE_SHARE * psutil.virtual_memory().available / workers
    with tempfile.TemporaryDirectory(prefix="braindiff-") as folder, dask.config.set(settings), LocalCluster(
        n_workers=workers, threads_per_worker=1, memory_limit=int(share), dashboard_address=None,
        local_directory=folder, silence_logs=SILENT, security=True, scheduler_kwargs={"dashboard_address": ANY_PORT},
    ) as cluster, Client(cluster) as client, _kept_at(workers, cluster):  # fmt: skip
        yield client


@contextmanager
def _kept_at(workers: int, cluster: LocalCluster) -> Iterator[None]:
    """Replace workers that Dask has given up: those that take longer to come back than it waits, on a busy computer."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            cluster.scale(workers)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def crew_at(address: str) -> Iterator[Client]:
    """The cluster of a Dask scheduler, which goes on when the batch is over. Raises InputError where there is none."""
    from distributed import Client

    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise InputError(f"--dask {address}: no scheduler answers there ({type(error).__name__}); check it") from error
    with client:
        yield client


OutcomeReport = Callable[[Outcome], None]
SUSPECT = "suspect"
"""Its workers were killed, but another scan, which waited or worked there too, may have been the reason."""
KILLED = "given up: alone, too, the worker was killed each of {} times (out of memory?); try it with braindiff correct"


def run_batch(
    items: Sequence[Item], out: Path, settings: BatchSettings, crew: AbstractContextManager[Client], tries: int,
    report: OutcomeReport,
) -> list[Outcome]:  # fmt: skip
    """Work on every scan; returns what became of each, in the order in which they ended.

    crew    the workers, who come and go with this batch
    tries   how often a scan is begun whose worker dies or fails unexpectedly; where workers died, as often again at the
            end, with no other scan at work, before it is given up and named
    report  called with each outcome
    When this is interrupted, no unfinished file stays of scans that no worker is at any more.
    """
    ended: list[Outcome] = []
    try:
        with crew as client:
            for left in ("", BUSY, SUSPECT):
                waiting = [one.item for one in ended if one.status == left] if left else items
                ended = [one for one in ended if one.status != left]
                for part in [[item] for item in waiting] if left == SUSPECT else [waiting]:
                    for outcome in _ended(part, out, settings, client, tries, left):
                        ended.append(outcome)
                        if outcome.status not in (BUSY, SUSPECT):
                            report(outcome)
    finally:
        sweep(items, out)
    return ended


def _ended(
    items: Iterable[Item], out: Path, settings: BatchSettings, client: Client, tries: int, left: str
) -> Iterable[Outcome]:
    from distributed import as_completed

    futures = {
        client.submit(work_on, item, out, settings, bool(left), retries=tries - 1, pure=False): item for item in items
    }  # fmt: skip
    for future in as_completed(list(futures)):
        yield _outcome(future, futures.pop(future), out, tries, left)
        future.release()


def _outcome(future: Future, item: Item, out: Path, tries: int, left: str) -> Outcome:
    """What became of a scan; waits where the outcome was lost with its worker and is made again.

    Without an outcome its workers died, it failed unexpectedly, or the scheduler went away.
    """
    from distributed.scheduler import KilledWorker

    try:
        return cast(Outcome, future.result())
    except KilledWorker:
        return Outcome(item, SUSPECT) if left != SUSPECT else give_up(item, out, KILLED.format(tries))
    except CancelledError:
        return give_up(item, out, "not done: the Dask scheduler was lost; run the batch again")
    except Exception as error:  # noqa: BLE001 - one scan must not end the others
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return give_up(item, out, f"failed unexpectedly each of {tries} times, {what}")
