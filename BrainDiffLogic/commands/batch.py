"""``braindiff batch``: correct a whole BIDS dataset, resumably, on this computer or on a Dask cluster (a BIDS-App)."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import DEFAULT_MODEL
from BrainDiffLogic.progress import say

if TYPE_CHECKING:
    from distributed import Client
    from tqdm import tqdm

    from BrainDiffLogic.cohort.items import Item
    from BrainDiffLogic.cohort.work import BatchSettings, Outcome

LINE_EVERY = 30.0
"""Seconds between two lines of progress where nobody watches a bar."""
TRIES = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``braindiff batch``."""
    add = parser.add_argument
    add("input", metavar="BIDS_DIR", type=Path, help="BIDS dataset, folder with DICOM series, or a .csv list of scans")
    add("output", metavar="OUT_DIR", type=Path, help="folder of the derivatives; what is finished in it is skipped")
    add("level", nargs="?", choices=["participant", "group"],
        help="participant: correct the scans; group: the page over all of them (default: both)")  # fmt: skip
    add("--participant-label", "--participant_label", nargs="+", default=[], metavar="LABEL",
        help="only these subjects")  # fmt: skip
    add("--session-label", "--session_label", nargs="+", default=[], metavar="LABEL", help="only these sessions")
    workers = parser.add_mutually_exclusive_group()
    workers.add_argument("--jobs", type=int, metavar="N", help="worker processes (default: as cores and memory allow)")
    workers.add_argument("--dask", metavar="ADDRESS", help="a running Dask scheduler instead of workers of its own")
    add("--tries", type=int, default=TRIES, metavar="N", help=f"begin a scan whose worker dies so often ({TRIES})")
    add("--model", default=DEFAULT_MODEL, metavar="NAME|PATH", help=f"default: {DEFAULT_MODEL}; mc-net is fast")
    add("--strength", type=float, default=1.0, metavar="0..1", help="0: unchanged; 1 (default): all that is found")
    add("--pe-axis", default="auto", choices=["auto", "AP", "SI", "LR"], help="slow phase encoding (default: auto)")
    add("--force", action="store_true", help="correct also scans that show no motion, or outside of the domain")
    add("--disagreement", action="store_true", help="also how far predictions disagree (slower)")
    add("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])


def run(args: argparse.Namespace) -> int:
    """Correct what is not finished, write table and page; 0 where every scan is done, 1 where one is not."""
    _check(args)
    from BrainDiffLogic.cohort.table import read_rows, write_table

    status = 0
    if args.level != "group":
        status = _correct_all(args)
    elif not args.input.exists():
        raise InputError(f"{args.input}: no such folder; name the scans again, the page takes in participants.tsv")
    elif not args.output.is_dir():
        raise InputError(f"{args.output}: there is no such folder; correct the scans first (participant)")
    rows = read_rows(args.output)
    if not rows:
        raise InputError(f"{args.output}: no scan was corrected there; correct the scans first (participant)")
    print(f"{len(rows)} scans: {write_table(args.output, rows)}")
    if args.level != "participant":
        from BrainDiffLogic.cohort.table import write_page

        print(f"page: {write_page(args.output, rows, args.input)}")
    return status


def _check(args: argparse.Namespace) -> None:
    from BrainDiffLogic.models.checkpoints import verify, weights_of
    from BrainDiffLogic.volume import check_strength

    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise InputError(f"batch needs {error.name}: pip install 'braindiff[cohort]'") from None
    check_strength(args.strength)
    for weights in weights_of(args.model):
        verify(weights)
    for name in ("jobs", "tries"):
        number = getattr(args, name)
        if number is not None and number < 1:
            raise InputError(f"--{name} {number}: give a whole number, 1 or more")


def _correct_all(args: argparse.Namespace) -> int:
    from BrainDiffLogic.cohort.items import find_items, prepare, selected
    from BrainDiffLogic.cohort.run import run_batch
    from BrainDiffLogic.cohort.work import BatchSettings

    items = selected(find_items(args.input), args.participant_label, args.session_label)
    items = [replace(item, source=Path(os.path.abspath(item.source))) for item in items]  # for workers elsewhere
    settings = BatchSettings(args.model, args.strength, args.force, args.pe_axis, args.disagreement, args.device)
    prepare(args.output, args.input)
    crew = _crew(args, items)
    with _shown(len(items)) as shown:
        ended = run_batch(items, args.output.resolve(), _absolute(settings), crew, args.tries, shown.report)
    counts = Counter(outcome.status for outcome in ended)
    done = counts["done"] + counts["found"]
    print(f"{done} of {len(items)} scans done ({counts['found']} were already), {counts['refused']} refused,"
          f" {counts['failed']} failed, {shown.pace}: {args.output}")  # fmt: skip
    return int(done < len(items))


def _absolute(settings: BatchSettings) -> BatchSettings:
    """With a model that workers in another folder find; that of a name they have themselves."""
    from BrainDiffLogic.models.checkpoints import available

    return settings if settings.model in available() else replace(settings, model=os.path.abspath(settings.model))


def _crew(args: argparse.Namespace, items: Sequence[Item]) -> AbstractContextManager[Client]:
    from BrainDiffLogic.cohort.run import crew_at, crew_size, local_crew, memory_mib

    if args.dask:
        return crew_at(args.dask)
    need = memory_mib([item.source for item in items if not item.fault], args.model)
    workers = crew_size(args.jobs, len(items), need)
    fewer = f" of {args.jobs}: the memory holds no more" if args.jobs and workers < min(args.jobs, len(items)) else ""
    say(f"{len(items)} scans, {workers} workers{fewer} (up to {need} MiB each)")
    return local_crew(workers, args.tries)


@dataclass
class _Shown:
    """How a batch goes: what was not corrected, a line each, and on a terminal a bar, else a line now and then."""

    total: int
    bar: tqdm | None
    ended: int = 0
    worked: int = 0
    missed: int = 0
    started: float = field(default_factory=time.monotonic)
    last: float = field(default_factory=time.monotonic)

    def report(self, outcome: Outcome) -> None:
        """Count, name what was not corrected, and say how it goes."""
        self.ended += 1
        self.worked += outcome.status != "found"
        self.missed += bool(outcome.reason)
        if outcome.reason:
            shown = outcome.item.shown
            line = f"braindiff batch: {shown}: {outcome.status}: {outcome.reason.removeprefix(f'{shown}: ')}"
            self.bar.write(line, file=sys.stderr) if self.bar else say(line)
        if self.bar:
            self.bar.set_postfix_str(f"{self.missed} not corrected, {self.pace}", refresh=False)
            self.bar.update()
        elif self.ended == self.total or time.monotonic() - self.last > LINE_EVERY:
            self.last = time.monotonic()
            say(f"{self.ended} of {self.total} scans, {self.missed} not corrected, {self.pace}{self.left}")

    @property
    def pace(self) -> str:
        """Scans a minute; finished ones that were found do not count."""
        return f"{60 * self.worked / max(time.monotonic() - self.started, 1e-3):.1f} scans/min"

    @property
    def left(self) -> str:
        """How long it may still take."""
        if not self.worked or self.ended == self.total:
            return ""
        seconds = (time.monotonic() - self.started) / self.worked * (self.total - self.ended)
        return f", {seconds / 60:.0f} min left" if seconds >= 120 else f", {seconds:.0f} s left"


@contextmanager
def _shown(total: int) -> Iterator[_Shown]:
    if sys.stderr is None or not sys.stderr.isatty():
        yield _Shown(total, None)
        return
    from tqdm import tqdm

    with tqdm(total=total, bar_format="|{bar}| {n}/{total}{postfix}, {elapsed}<{remaining}") as bar:
        yield _Shown(total, bar)
