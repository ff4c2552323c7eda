"""What a batch takes: a worker's peak memory by voxels, scans a minute with one worker and with two, Dask's share.

python Testing/Benchmarks/batch.py [--scans 40] [--sizes 64 128 192]
The reckoning is for scans of 256 x 256 x 256 voxels, by a straight line through what the sizes took.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from BrainDiffLogic.cohort.items import find_items, prepare
from BrainDiffLogic.cohort.run import local_crew, run_batch
from BrainDiffLogic.cohort.work import DONE, FAILED, BatchSettings, Outcome, work_on
from BrainDiffLogic.images import write_volume
from BrainDiffLogic.volume import Volume

RECKONED_SIDE, COHORT, NODES = 256, 10_000, 50
NOOPS = 200
FORCED = BatchSettings("mc-net", force=True)


def save_balls(folder: Path, scans: int, side: int) -> Path:
    """A BIDS dataset of noisy balls of int16, 192 mm wide."""
    radius = np.linalg.norm(np.indices((side,) * 3) - (side - 1) / 2, axis=0) / (side / 2)
    for number in range(1, scans + 1):
        noise = np.random.default_rng(number).normal(0, 50, radius.shape)
        place = folder / f"sub-{number:03d}" / "anat"
        place.mkdir(parents=True)
        array = (np.where(radius < 0.85, 500 + noise, 10)).astype(np.int16)
        write_volume(Volume(array, np.diag([192 / side] * 3 + [1.0])), place / f"sub-{number:03d}_T1w.nii.gz")
    (folder / "dataset_description.json").write_text('{"Name": "Balls", "BIDSVersion": "1.10.0"}\n')
    return folder


def scans_a_minute(dataset: Path, out: Path, workers: int) -> float:
    """Scans a minute from when each worker has had time for two: their start and what they load is not in it."""
    prepare(out, dataset)
    ends: list[float] = []
    run = run_batch(
        find_items(dataset), out, FORCED, local_crew(workers, tries=1), 1, lambda _: ends.append(time.monotonic())
    )
    assert all(one.status == DONE for one in run), [one.reason for one in run]
    return 60 * (len(run) - 2 * workers) / (ends[-1] - ends[2 * workers - 1])


def alone(dataset: Path, out: Path) -> Outcome:
    """The outcome of the dataset's only scan in a fresh process, which has its memory and one core to itself."""
    prepare(out, dataset)
    run = subprocess.run(
        [sys.executable, __file__, "--alone", str(dataset), str(out)], capture_output=True, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )  # fmt: skip
    seconds, peak = run.stdout.split()
    return Outcome(find_items(dataset)[0], DONE, seconds=float(seconds), peak_mib=int(peak))


def overhead_ms(folder: Path) -> float:
    """What Dask takes for a scan that is known to be bad before it is read, less what such a scan takes without."""
    dataset = save_balls(folder / "bad", NOOPS, 8)
    items = find_items(dataset)
    for item in items:
        item.source.unlink()
        item.source.symlink_to("gone")
    out = folder / "bad-out"
    prepare(out, dataset)
    began = time.monotonic()
    assert all(work_on(item, out, FORCED).status == FAILED for item in items)
    without = time.monotonic() - began
    ends: list[float] = []
    run_batch(items, out, FORCED, local_crew(1, tries=1), 1, lambda _: ends.append(time.monotonic()))
    return 1000 * ((ends[-1] - ends[0]) / (NOOPS - 1) - without / NOOPS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=40)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 192])
    parser.add_argument("--alone", nargs=2, type=Path)
    options = parser.parse_args()
    if options.alone:
        (item,) = find_items(options.alone[0])
        outcome = work_on(item, options.alone[1], FORCED)
        assert outcome.status == DONE, outcome.reason
        print(outcome.seconds, outcome.peak_mib)
        return
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        tell(Path(name), options.sizes, options.scans)


def tell(folder: Path, sizes: list[int], scans: int) -> None:
    """Print the tables."""
    print("voxels      seconds  peak MiB")
    took = []
    for side in sizes:
        one = alone(save_balls(folder / f"one-{side}", 1, side), folder / f"one-{side}-out")
        took.append((side**3, one.seconds, one.peak_mib))
        print(f"{side**3:<10d}  {one.seconds:7.1f}  {one.peak_mib:8d}")
    voxels, seconds, peaks = np.transpose(took)
    (memory, base), (pace, loading) = np.polyfit(voxels, peaks, 1), np.polyfit(voxels, seconds, 1)
    print(f"memory: {base:.0f} MiB and {memory * (1 << 20):.0f} bytes a voxel")
    dataset = save_balls(folder / "many", scans, sizes[0])
    for workers in (1, 2):
        rate = scans_a_minute(dataset, folder / f"many-{workers}", workers)
        print(f"{workers} worker(s): {rate:.1f} scans a minute of {sizes[0]}^3 voxels")
    dask = overhead_ms(folder)
    print(f"Dask: {dask:.1f} ms a scan")
    one = pace * RECKONED_SIDE**3 + max(loading, 0) + dask / 1000
    hours = COHORT * one / NODES / 3600
    print(f"{COHORT} scans of {RECKONED_SIDE}^3 voxels at {one:.0f} s each on {NODES} nodes, one worker a node: "
          f"{hours:.1f} h")  # fmt: skip


if __name__ == "__main__":
    main()
