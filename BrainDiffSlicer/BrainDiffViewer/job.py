"""One correction in a process of its own: the page stays alive, and to cancel is to end it."""

from __future__ import annotations

import asyncio
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from BrainDiffLogic.correction import Finding
from BrainDiffLogic.errors import Cancelled, InputError, Refused
from BrainDiffLogic.progress import Progress
from BrainDiffLogic.volume import Volume

STORED = Path("corrected.nii.gz")
"""Measured is what such a file would hold."""


@dataclass(frozen=True)
class Result:
    """What a job gives back: the finding, and quality before and after at strength 1 (``quality.assess``)."""

    finding: Finding
    quality: dict[str, Any]


@dataclass(frozen=True)
class Order:
    """What a job is asked.

    path    of the volume, or of a DICOM folder
    name    what the report calls it
    model   name or path; None: only compare with ``corrected``, the path of a volume on the same grid
    force   correct also what would be refused or returned unchanged
    """

    path: str
    name: str
    model: str | None
    force: bool = False
    corrected: str | None = None


class Job:
    """A running order. ``result`` waits for it; ``cancel`` ends it at once."""

    def __init__(self, order: Order) -> None:
        context = multiprocessing.get_context("spawn")
        self._mine, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(theirs, order), daemon=True)
        self._process.start()
        theirs.close()
        self._cancelled = False

    async def result(self, progress: Progress) -> Result:
        """Raises InputError or Refused with what was wrong, and Cancelled."""
        try:
            while True:
                kind, content = await asyncio.to_thread(self._mine.recv)
                if kind == "progress":
                    progress(*content)
                elif kind == "result":
                    return content
                else:
                    raise content
        except (EOFError, OSError):
            if self._cancelled:
                raise Cancelled from None
            raise InputError("the correction's process ended; perhaps the memory does not hold the volume") from None
        finally:
            self._mine.close()
            await asyncio.to_thread(self._process.join)

    def cancel(self) -> None:
        """End the process; ``result`` raises Cancelled."""
        self._cancelled = True
        self._process.terminate()


def _work(pipe: Connection, order: Order) -> None:
    """The process's whole life."""
    try:
        pipe.send(("result", _done(order, lambda share, stage: pipe.send(("progress", (share, stage))))))
    except (InputError, Refused) as error:
        pipe.send(("error", error))
    except Exception as error:  # whatever it is, the page must say it
        pipe.send(("error", InputError(f"unexpected {type(error).__name__}: {error}")))


def _done(order: Order, progress: Progress) -> Result:
    from BrainDiffLogic.correction_files import measured_together
    from BrainDiffLogic.images import as_stored, read_volume

    progress(0.0, "Reading")
    volume = replace(read_volume(order.path), source=order.name)
    finding = _compared(volume, order) if order.model is None else _corrected(volume, order, progress)
    progress(1.0, "Measuring")
    at_full = finding.blended(1.0)
    with ThreadPoolExecutor() as pool:
        measuring = measured_together(at_full, as_stored(at_full.corrected, STORED), pool)
    quality = {when: job.result().as_dict() for when, job in measuring.items()}
    same = finding.scan.same_head(finding.scan.volume.array)  # without the slices, which nobody asks for any more
    return Result(replace(finding, scan=same), quality)


def _corrected(volume: Volume, order: Order, progress: Progress) -> Finding:
    from BrainDiffLogic.correction import correct
    from BrainDiffLogic.images.nifti import phase_encoding_beside

    assert order.model is not None
    axis = phase_encoding_beside(order.path)
    return correct(volume, order.model, force=order.force, pe_axis=axis, progress=progress).finding


def _compared(volume: Volume, order: Order) -> Finding:
    import numpy as np

    from BrainDiffLogic.images import read_volume
    from BrainDiffLogic.scan import Scan

    assert order.corrected is not None
    corrected = read_volume(order.corrected)
    change = np.subtract(corrected.array, volume.array, dtype=np.result_type(volume.array, np.float32))
    facts = {"input": order.name, "corrected": corrected.source, "notes": [*volume.notes], "outside_domain": []}
    return Finding(volume, change, Scan(volume.without_fill()), facts)
