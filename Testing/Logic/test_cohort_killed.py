"""A batch whose workers are killed again and again, and once the whole program: all scans done, and the same.

A worker is killed when some scans were finished since the last kill, and no sooner than a worker needs to start: what
kills faster than that leaves nobody who could work.

``BRAINDIFF_COHORT`` names a BIDS dataset to do this with instead of a small one that is made here.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from BrainDiffLogic.volume import Volume
from Harness.batches import outputs, save_scans
from Harness.command_line import child, start

SCANS, WORKERS, FINISHED_BETWEEN = 16, 4, 2
OPTIONS = ("participant", "--jobs", WORKERS, "--tries", 6, "--force", "--model", "mc-net")


def done_in(out: Path) -> int:
    """Scans whose last file, the sidecar, is there."""
    return len(list(out.glob("sub-*/anat/*desc-moco_T1w.json")))


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """The processes that work on scans: Dask spawns them with multiprocessing."""
    return [one for one in process.children(recursive=True) if "spawn_main" in " ".join(one.cmdline())]


@pytest.mark.slow
def test_killed_workers_and_a_killed_program_lose_and_change_nothing(tmp_path: Path, a_head: Volume) -> None:
    given = os.environ.get("BRAINDIFF_COHORT")
    dataset = Path(given) if given else save_scans(tmp_path / "bids", a_head, SCANS)
    scans = len(list(dataset.glob("sub-*")))
    quiet, out = tmp_path / "quiet", tmp_path / "out"
    started = time.monotonic()
    assert child("batch", dataset, quiet, *OPTIONS, cwd=tmp_path).returncode == 0
    undisturbed = time.monotonic() - started

    chooser, kills, programs, done_at_last, start_takes = random.Random(1), 0, 0, 0, 0.0
    process = start("batch", dataset, out, *OPTIONS, cwd=tmp_path)
    last = started = time.monotonic()
    while process.poll() is None:
        time.sleep(0.1)
        done, now = done_in(out), time.monotonic()
        start_takes = start_takes or (now - started) * bool(done)
        if not programs and done >= scans // 2:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            programs, process = 1, start("batch", dataset, out, *OPTIONS, cwd=tmp_path)
            last, done_at_last = now, done
        due = start_takes and done - done_at_last >= FINISHED_BETWEEN and now - last > start_takes / 2
        if due and process.poll() is None and (alive := workers_of(psutil.Process(process.pid))):
            chooser.choice(alive).kill()
            kills, last, done_at_last = kills + 1, now, done
    printed, told = process.communicate()
    disturbed = time.monotonic() - started

    expected, found = outputs(quiet), outputs(out)
    named = {line.split(": ")[1] for line in told.splitlines() if line.startswith("braindiff batch: ")}
    print(f"{scans} scans, {kills} workers, {programs} program killed: {printed.splitlines()[0]}; {len(named)} named; "
          f"{sum(found.get(name) == content for name, content in expected.items())} of {len(expected)} files equal; "
          f"{undisturbed:.0f} s undisturbed, {disturbed:.0f} s disturbed")  # fmt: skip
    assert kills and programs and process.returncode == int(bool(named))
    missing = {name for name in expected if name not in found}
    assert len({name.split("/")[0] for name in missing}) == len(named), "each scan is done or named"
    assert all(found[name] == expected[name] for name in found)
    assert not list(out.glob(".braindiff/work/*")) and not list(out.rglob(".braindiff-*"))
    shutil.rmtree(out)
