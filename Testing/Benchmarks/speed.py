"""What a correction costs, and beside what: seconds, processor seconds and memory, as JSON and a picture.

    PYTHONPATH=. python Testing/Benchmarks/speed.py --out runs/speed                                (make bench)
    PYTHONPATH=. python Testing/Benchmarks/speed.py --parts scaling --cubes 512 --motion-cubes 512  (an hour on 2 cores)

The whole command runs in a process of its own, which notes when each stage began. What does its work otherwise
(``speed_rivals``) runs with it in turns, A B A B, on the same slices; medians are compared, so that what else the
machine does falls on all. On a machine that others use, ratios and processor seconds tell more than seconds. The exit
status is 1 where a ratio is worse than ``GUARDS`` allow.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SHAPE = (192, 256, 256)
CUBES = (64, 96, 128, 192, 256)
TURNS = 3
PARTS = ("whole", "scaling", "motion", "rivals")
STAGES = {"Reading": "read", "Loading the model": "load and look", "Correcting": "correct", "Done": "end"}
"""What ``correct_file`` says when a stage begins, and how it is called here; what follows is to measure and write."""
KNOWN_AXIS = ("--force", "--pe-axis", "AP")
GUARDS = {
    ("mc-net", "times less processor than MONAI's"): 3.0,
    ("attention-unet", "times less processor than MONAI's"): 4.0,
    ("rmman", "times less processor than MONAI's"): 4.0,
    ("simulator", "bare finufft's share of the first transform"): 0.75,
    ("simulator", "times faster than TorchIO"): 15.0,
}
"""The least that each ratio may be."""


def a_moved_head(shape: tuple[int, int, int], path: Path) -> None:
    """The demo's head (Colin27) on a grid of this shape, with noise, moved by a tremor of 3 mm; int16."""
    import numpy as np
    from scipy import ndimage

    from BrainDiffLogic.commands.demo import find_head, simulated, with_air_above
    from BrainDiffLogic.images import read_volume, write_volume
    from BrainDiffLogic.volume import Volume

    head = with_air_above(read_volume(find_head()))
    zoom = np.divide(shape, head.shape)
    finer = ndimage.zoom(head.array.astype(np.float32), zoom, order=1, grid_mode=True, mode="nearest")
    affine = head.affine @ np.diag([*(1 / zoom), 1])
    moved = simulated(Volume(finer, affine), "tremor", 3.0).moved
    rng, sigma = np.random.default_rng(0), 0.02 * float(moved.array.max())
    noisy = np.hypot(moved.array + sigma * rng.normal(size=shape), sigma * rng.normal(size=shape))
    write_volume(Volume((noisy * 1000 / noisy.max()).astype(np.int16), affine), path)


def whole_job(head: Path, model: str, *options: str) -> dict[str, Any]:
    """Seconds, processor seconds and peak GiB of the command ``braindiff correct``, and the seconds of its stages."""
    out = head.parent / "corrected.nii.gz"
    command = [sys.executable, __file__, "--child", "correct", str(head), str(out), "--model", model, "--overwrite"]
    begun = time.time()
    child = subprocess.run([*command, "--device", "cpu", *options], capture_output=True, text=True)
    if child.returncode:
        raise SystemExit(f"{model}: the command failed\n{child.stderr}")
    ended = time.time()
    told = json.loads(child.stdout.splitlines()[-1])
    marks = [("start", begun, 0.0), *told["marks"], ("", ended, told["cpu"])]
    stages = {
        name: {"seconds": round(then - at, 2), "cpu": round(spent - before, 2)}
        for (name, at, before), (_, then, spent) in zip(marks[:-1], marks[1:], strict=True)
    }
    for key, taken in zip(("seconds", "cpu"), told["network"], strict=True):
        stages["correct"][key] = round(stages["correct"][key] - taken, 2)
        stages.setdefault("network", {})[key] = round(taken, 2)
    return {"seconds": round(ended - begun, 2), "cpu_seconds": told["cpu"], "peak_gib": told["peak"], "stages": stages}


def _child(arguments: list[str]) -> int:
    """``braindiff`` with these arguments, and a last line of JSON: when its stages began, and what they took."""
    from BrainDiffLogic.commands import correct
    from BrainDiffLogic.commands.main import main

    marks: list[tuple[str, float, float]] = []
    network = [0.0, 0.0]

    @contextmanager
    def recorded() -> Iterator[Callable[[float, str], None]]:
        def progress(_: float, stage: str) -> None:
            name = STAGES.get(stage, "measure and write" if "riting" in stage else "correct")
            if name in {mark[0] for mark in marks}:
                return
            if name == "correct":
                _timed_network(network)
            marks.append((name, time.time(), time.process_time()))

        yield progress

    correct.shown_progress = recorded
    status = main(arguments)
    memory = Path("/proc/self/status").read_text(encoding="ascii")  # getrusage also counts who started this process
    peak = round(int(memory.split("VmHWM:")[1].split()[0]) / 2**20, 2)
    figures = {"marks": marks, "network": network, "cpu": round(time.process_time(), 2), "peak": peak}
    print(json.dumps(figures))
    return status


def _timed_network(total: list[float]) -> None:
    """From now on the seconds and processor seconds of the network are added up; PyTorch is loaded by now."""
    from BrainDiffLogic import inference

    ask = inference.predict_residual

    def timed(*args: Any, **options: Any) -> Any:
        begun = time.perf_counter(), time.process_time()
        try:
            return ask(*args, **options)
        finally:
            total[0] += time.perf_counter() - begun[0]
            total[1] += time.process_time() - begun[1]

    inference.predict_residual = timed


def report(arguments: argparse.Namespace, show: Callable[..., None]) -> dict[str, Any]:
    """The figures of the parts that are asked for; the whole jobs first, while this process is small."""
    found: dict[str, Any] = {"shape": SHAPE, "threads": os.environ.get("OMP_NUM_THREADS", "all")}
    models, parts = arguments.models, arguments.parts
    with tempfile.TemporaryDirectory() as folder:
        head = Path(folder) / "head.nii.gz"
        if "whole" in parts or "motion" in parts:
            a_moved_head(SHAPE, head)
        if "whole" in parts:
            full = ["--difference", str(head.with_name("d.nii.gz")), "--report", str(head.with_name("r.json"))]
            found["whole_job"] = {}
            for model in models:
                found["whole_job"][model] = whole_job(head, model, *full)
                show(model, found["whole_job"][model])
            found["without_report"] = {models[0]: whole_job(head, models[0])}
            show("without difference and report", found["without_report"])
        if "motion" in parts:
            found["physics"] = {"shape": SHAPE, **whole_job(head, "motion", *KNOWN_AXIS)}
            show("motion", found["physics"])
        if "scaling" in parts:
            found["scaling"] = list(scaling(arguments.cubes, models[0], head, show, "--force"))
            found["motion_scaling"] = list(scaling(arguments.motion_cubes, "motion", head, show, *KNOWN_AXIS))
    if "rivals" in parts:
        import speed_rivals

        found["network"] = speed_rivals.networks(models, arguments.turns, show)
        found["simulator"] = speed_rivals.simulator(arguments.turns)
        show("simulator", found["simulator"])
    return found


def scaling(
    cubes: list[int], model: str, head: Path, show: Callable[..., None], *options: str
) -> Iterator[dict[str, Any]]:
    """What a model takes for cubes of voxels of a moved head."""
    for cube in cubes:
        a_moved_head((cube,) * 3, head)
        row = {"voxels": cube**3, **whole_job(head, model, *options)}
        show(f"{model}, {cube}^3", row)
        yield row


def worse_than_allowed(found: dict[str, Any]) -> list[str]:
    """A line for each ratio that is below its guard."""
    rows = {**found["network"]["ours"], "simulator": found["simulator"]["ratios"]}
    checked = ((row, name, rows.get(row, {}).get(name), least) for (row, name), least in GUARDS.items())
    return [f"{row}: {name}: {value}, below {least}" for row, name, value, least in checked if (value or least) < least]


def plot(found: dict[str, Any], path: Path) -> None:
    """The stages of the whole job, the network beside others, and time and memory against voxels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    jobs = found["whole_job"]
    begun = dict.fromkeys(jobs, 0.0)
    for stage in ("start", "read", "load and look", "correct", "network", "measure and write", "end"):
        widths = [job["stages"].get(stage, {}).get("cpu", 0.0) for job in jobs.values()]
        left.barh(list(jobs), widths, left=list(begun.values()), label=stage)
        begun = {name: begun[name] + width for name, width in zip(jobs, widths, strict=True)}
    left.set(title="Whole job of 192 x 256 x 256 voxels", xlabel="processor seconds")
    left.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    taken = found["network"]["milliseconds_a_slice"]
    middle.barh(list(taken), [row["cpu"] for row in taken.values()])
    middle.set(title="Network", xscale="log", xlim=(10, None), xlabel="processor milliseconds a slice of 256 x 256")
    middle.tick_params(axis="y", labelsize=7)
    millions = [row["voxels"] / 1e6 for row in found["scaling"]]
    right.plot(millions, [row["cpu_seconds"] for row in found["scaling"]], "o-", label="processor seconds")
    right.plot(millions, [10 * row["peak_gib"] for row in found["scaling"]], "s-", label="peak memory in 0.1 GiB")
    right.set(title="Against size", xlabel="million voxels", ylim=(0, None))
    right.legend()
    figure.savefig(path, dpi=80)


def main() -> int:
    """Everything, as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/speed"), help="folder for speed.json and speed.png")
    parser.add_argument("--models", nargs="+", default=["mc-net", "attention-unet", "rmman"])
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="all of them are pictured and guarded")
    parser.add_argument("--cubes", type=int, nargs="*", default=CUBES, help="edges of the volumes of the scaling curve")
    parser.add_argument("--motion-cubes", type=int, nargs="*", default=[], help="the same for the model motion")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    def show(name: str, figures: object) -> None:
        print(f"{name}: {json.dumps(figures)}", flush=True)

    found = report(arguments, show)
    (arguments.out / "speed.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if set(arguments.parts) != set(PARTS):
        return 0
    plot(found, arguments.out / "speed.png")
    worse = worse_than_allowed(found)
    print("\n".join(worse) or f"All ratios are as good as they were; written: {arguments.out}")
    return int(bool(worse))


if __name__ == "__main__":
    sys.exit(_child(sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main())
