"""A quarter of an hour of one large GPU: the full-size MC-Net on pairs that are simulated while it learns.

1. Pack (two cores, minutes; quiet bases are kept in --cache, so that it may be stopped and started again). 64 MiB may
   travel, 38 of them are this repository: 20 MB are left for heads; 40 with Resources/Checkpoints/*.safetensors (33 MB)
   moved out of the tree during the call. What the library imports and the device lacks goes as wheels (8 MB):

    nice .venv/bin/python Testing/Benchmarks/gpu_campaign.py pack --data ../shared/data --cache runs/quiet \\
        --out .carry/heads.npz
    .venv/bin/python -m pip download --no-deps -d .carry/whl monai==1.6.1 nibabel==5.4.2 \\
        pydantic==2.14.4 pydantic_core==2.50.5 annotated-types==0.8.0 typing-inspection==0.4.5

2. Train: the device tool's ``run`` with carry [".carry"], timeout_s 595, and the command

    python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/site .carry/whl/*.whl; \\
    export PYTHONPATH=/tmp/site:$PWD PYTHONUNBUFFERED=1; set -o pipefail; \\
    python3 Testing/Benchmarks/gpu_campaign.py train --pack .carry/heads.npz --out runs/campaign --copy $OUT \\
        --minutes 9 2>&1 | tee $OUT/log

   It ends after --minutes in all, from the reading of the pack on. Cut short, the same command on the machine still
   warm goes on from the last minute (runs/ stays there). On a fresh machine: put the shards and state.json that came
   back into .carry/run and give --out .carry/run; where they are too much to travel, a smaller pack makes room.

3. Export what came back, then correct with it:

    .venv/bin/python Testing/Benchmarks/gpu_campaign.py export --run FILES_AT --out runs/mc-net-full.safetensors
    .venv/bin/braindiff correct IN.nii.gz --model runs/mc-net-full.safetensors

The network is the published U-Net (registry: mc-net, paper) as a residual of three slices that starts as the identity:
a direct prediction in bf16 rounds the image itself to 8 bits, nine minutes are too short to learn to copy, and the
neighbours show what moves through the slice. L1, then L1 + TV (the paper's two stages) after a short opening with L2,
without which L1 keeps a residual at zero for thousands of steps (mc-net.yaml).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_heads import on_device, pack_heads, read_pack
from gpu_pairs import PackedTraces, Pool, Recipe, Scans, cut, draw_scan
from gpu_simulation import Base, simulate
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from BrainDiffLogic.models.corrector import CONFIGURATIONS, build
from BrainDiffLogic.training import losses

PAPER = {**CONFIGURATIONS["mc-net"]["paper"], "context": 3, "residual": True, "zero_init": True, "gain": 0.05}
OPENING, FINE_TUNING, PLATEAU = 0.12, 0.8, 0.5
"""Shares of the time: until when L2, from when L1 + TV (the paper: 100 of 123 epochs), until when the full rate."""
FINE_RATE = 0.3
RESERVE = 10.0
"""Seconds for the last checkpoint."""
SHARD_BYTES = 15 * 2**20
"""A file of up to 16 MiB comes back from the device, eight of them."""
SPREAD_UNIT = 2.0**20
"""Of the square roots of Adam's second moments, which are kept in 8 bits."""
HELD_SEVERITIES = (0.0, 0.7, 1.5, 3.0)
HELD_NOISE, HELD_SLICES = 0.02, 8
CURVE, STATE = "curve.jsonl", "state.json"
TIMED, WARM = 8, 20
"""Simulations, and steps, that are timed to share the device between them."""


@dataclass(frozen=True)
class Settings:
    """How a campaign trains. ``share`` of the time goes to simulation; the pool holds slices."""

    minutes: float = 9.0
    filters: tuple[int, ...] = tuple(PAPER["filters"])
    batch: int = 32
    crop: int = 192
    pool: int = 4096
    slices: int = 96
    share: float = 0.3
    rate: float = 1e-3
    ema: float = 0.999
    every: float = 60.0
    workers: int = 8
    seed: int = 1
    steps: int = 10**9

    @property
    def network(self) -> dict[str, Any]:
        """The arguments of the network."""
        return {**PAPER, "filters": list(self.filters)}


def rate_at(progress: float) -> float:
    """The learning rate in units of the highest: warm-up, plateau, linear falls to ``FINE_RATE`` and to 0."""
    if progress < FINE_TUNING:
        fall = max(0.0, progress - PLATEAU) / (FINE_TUNING - PLATEAU)
        return min(1.0, 0.02 + progress / 0.01) * (1 - (1 - FINE_RATE) * fall)
    return FINE_RATE * max(0.0, 1 - progress) / (1 - FINE_TUNING)


def loss_of(prediction: Tensor, clean: Tensor, moved: Tensor, progress: float) -> Tensor:
    """The stage's loss."""
    if progress < OPENING:
        return 10 * losses.multi_scale_l2([prediction], clean, losses.pair_weights(moved, clean))
    loss = (prediction - clean).abs().mean()
    return loss if progress < FINE_TUNING else loss + losses.total_variation(prediction - clean)


class Learner:
    """Network, optimiser and averaged weights, and how they are kept in files."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        torch.manual_seed(settings.seed)
        self.network = build("mc-net", settings.network).to(device, memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.network).eval()
        fused = device.type == "cuda"
        self.optimiser = torch.optim.AdamW(self.network.parameters(), settings.rate, weight_decay=1e-4, fused=fused)
        self.settings, self.device, self.step = settings, device, 0

    def learn(self, moved: Tensor, clean: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """One step; (L1 of the prediction, of doing nothing), on the device."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate * rate_at(progress)
        centre = moved[:, moved.shape[1] // 2 :][:, :1]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            residual = self.network(moved)
        prediction = centre - residual.float()
        self.optimiser.zero_grad(set_to_none=True)
        loss_of(prediction, clean, centre, progress).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        self._average()
        return (prediction.detach() - clean).abs().mean(), (centre - clean).abs().mean()

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        pairs = zip(self.averaged.state_dict().values(), self.network.state_dict().values(), strict=True)
        ours, theirs = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(list(ours), list(theirs), 1 - decay)

    @torch.no_grad()
    def validate(self, held_out: dict[str, tuple[Tensor, Tensor]]) -> dict[str, list[float]]:
        """By severity [L1 of the averaged network, L1 of doing nothing]."""
        found = {}
        for name, (moved, clean) in held_out.items():
            centre, parts = moved[:, moved.shape[1] // 2 :][:, :1], moved.split(self.settings.batch)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                residual = torch.cat([self.averaged(part).float() for part in parts])
            errors = (centre - residual - clean).abs().mean(), (centre - clean).abs().mean()
            found[name] = [float(f"{error.item():.5g}") for error in errors]
        return found

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds: float16 weights, bfloat16 momenta, 8 bits for the second moments."""
        found: dict[str, Tensor] = {}
        for kind, network in (("averaged", self.averaged), ("network", self.network)):
            for name, value in network.state_dict().items():
                found[f"{kind}.{name}"] = value.half() if value.ndim > 1 else value
        for name, parameter in self.network.named_parameters():
            if state := self.optimiser.state.get(parameter):
                spread = (state["exp_avg_sq"].sqrt() * SPREAD_UNIT).clamp(max=57344)
                found[f"momentum.{name}"] = state["exp_avg"].bfloat16()
                found[f"spread.{name}"] = spread.to(torch.float8_e5m2)
        return {name: value.cpu().contiguous() for name, value in found.items()}

    def restore(self, found: dict[str, Tensor], step: int) -> None:
        """Go on from ``tensors``. Where others are missing, the averaged weights are the weights, and momenta 0."""
        self.step = step
        averaged = {name: found[f"averaged.{name}"] for name in self.averaged.state_dict()}
        self.averaged.load_state_dict(averaged)
        self.network.load_state_dict({name: found.get(f"network.{name}", value) for name, value in averaged.items()})
        for name, parameter in self.network.named_parameters():
            if f"momentum.{name}" in found and f"spread.{name}" in found:
                spread = found[f"spread.{name}"].float().to(self.device) / SPREAD_UNIT
                self.optimiser.state[parameter] = {
                    "step": torch.tensor(float(step), device=self.device if self.device.type == "cuda" else "cpu"),
                    "exp_avg": found[f"momentum.{name}"].float().to(self.device).view_as(parameter),
                    "exp_avg_sq": (spread**2).view_as(parameter),
                }


def save_run(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any], also: Path | None) -> None:
    """Write a checkpoint into ``folder``: shards and, last, its state; a run killed meanwhile keeps the one before.

    also  a folder that gets a copy of the files
    """
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(value.nbytes for value in tensors.values())
    shards: list[dict[str, Tensor]] = [{} for _ in range(-(-total // SHARD_BYTES))]
    sizes = [0] * len(shards)
    for name, value in sorted(tensors.items(), key=lambda item: -item[1].nbytes):
        emptiest = sizes.index(min(sizes))
        shards[emptiest][name] = value
        sizes[emptiest] += value.nbytes
    for number, shard in enumerate(shards):
        save_file(shard, folder / f"shard-{number}.part")
    (folder / "state.part").write_text(json.dumps(state, indent=1) + "\n")
    for part in sorted(folder.glob("*.part")):
        os.replace(part, folder / STATE if part.stem == "state" else part.with_suffix(".safetensors"))
    if also and also.resolve() != folder.resolve():
        for file in [*folder.glob("shard-*.safetensors"), folder / STATE, folder / CURVE]:
            if file.exists():
                shutil.copy(file, also)


def load_run(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What ``save_run`` wrote, None where there is none."""
    if not (folder / STATE).exists():
        return None
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("shard-*.safetensors")):
        found.update(load_file(file))
    return found, json.loads((folder / STATE).read_text())


@torch.no_grad()
def held_out_slices(
    pack: dict[str, Any], bases: list[Base], settings: Settings
) -> dict[str, tuple[Tensor, Tensor]]:  # fmt: skip
    """By severity fixed (moved, clean) slices of the people held out, moved by people held out."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    traces, recipe = PackedTraces(pack["held_traces"]), Recipe(**pack["recipe"])
    for index, facts in enumerate(pack["facts"]):
        for severity in HELD_SEVERITIES if facts["held_out"] else ():
            rng = np.random.default_rng([settings.seed + 10_000, index, int(10 * severity)])
            scan = draw_scan(index, facts, recipe, traces, rng, severity, HELD_NOISE)
            moved, still, ends = simulate(bases[index], scan)
            chosen = np.linspace(*ends, HELD_SLICES + 2).round().astype(int)[1:-1]
            found[f"{severity:g}"].append(cut(moved, still, chosen, settings.crop, PAPER["context"], (0.5, 0.5)))
    return {name: (torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])) for name, pairs in found.items()}


def train(path: Path, out: Path, settings: Settings, device: torch.device, also: Path | None = None) -> dict[str, Any]:
    """Train for the settings' minutes in all, or go on with a run in ``out``; returns its last state."""
    began = time.monotonic()
    torch.backends.cudnn.benchmark = True
    pack = read_pack(path)
    before = load_run(out)
    state = before[1] if before else {"step": 0, "seconds": 0.0, "volumes": 0}
    total, earlier, volumes = settings.minutes * 60 - RESERVE, state["seconds"], state["volumes"]
    recipe = Recipe(**pack["recipe"])
    scans = Scans(pack["facts"], recipe, PackedTraces(pack["traces"]), settings.seed, volumes)
    ahead = {"prefetch_factor": 4} if settings.workers else {}
    drawn = iter(DataLoader(scans, batch_size=None, num_workers=settings.workers, **ahead))  # forks before CUDA starts
    bases = on_device(pack, device)
    learner = Learner(settings, device)
    if before:
        learner.restore(before[0], state["step"])
    held_out = held_out_slices(pack, bases, settings)
    pool = Pool(settings.pool, PAPER["context"], settings.crop, device)

    def elapsed() -> float:
        return earlier + time.monotonic() - began

    @torch.no_grad()
    def refresh() -> float:
        """Simulate a pair into the pool; the seconds it took the host."""
        nonlocal volumes
        start, scan = time.monotonic(), next(drawn)
        pool.add(*simulate(bases[scan.base], scan), settings.slices, scan.seed)
        volumes += 1
        return time.monotonic() - start

    def checkpoint() -> dict[str, Any]:
        mean = (errors / max(1, since)).tolist()
        state = {
            "step": learner.step, "seconds": round(elapsed(), 1), "volumes": volumes, "settings": asdict(settings),
        }  # fmt: skip
        line = {**state, "train": [float(f"{m:.5g}") for m in mean], "validation": learner.validate(held_out), **pace}
        del line["settings"]
        print(json.dumps(line), flush=True)
        out.mkdir(parents=True, exist_ok=True)
        with open(out / CURVE, "a") as file:
            file.write(json.dumps(line) + "\n")
        save_run(out, learner.tensors(), state, also)
        return state

    pace: dict[str, float] = {}
    errors, since, saved, last_step = torch.zeros(2, device=device), 0, elapsed(), learner.step + settings.steps
    while not pool.full and elapsed() < total:
        refresh()
    _wait(device)
    timed = time.monotonic()
    for _ in range(TIMED):
        refresh()
    _wait(device)
    pace["simulation_s"] = round((time.monotonic() - timed) / TIMED, 4)
    timed, first, interval = 0.0, learner.step, TIMED
    while (now := elapsed()) < total and learner.step < last_step:
        done = learner.step - first
        if done in (WARM, 2 * WARM) and not pace.get("step_s"):
            _wait(device)
            if timed:
                pace["step_s"] = round((time.monotonic() - timed) / WARM, 4)
                interval = max(1, round(pace["simulation_s"] * (1 / settings.share - 1) / pace["step_s"]))
                pace["steps_per_volume"] = interval
            timed = time.monotonic()
        elif done and done % interval == 0 and pace.get("step_s"):
            refresh()
        errors += torch.stack(learner.learn(*pool.batch(settings.batch), now / total))
        since += 1
        if elapsed() - saved >= settings.every:
            checkpoint()
            errors, since, saved = torch.zeros(2, device=device), 0, elapsed()
    return checkpoint()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def export(run: Path, pack: Path, out: Path) -> dict[str, Any]:
    """Write the averaged weights of a run as a project checkpoint and its card; returns the card."""
    from BrainDiffLogic.models.checkpoints import new_card, save_checkpoint
    from BrainDiffLogic.training.corrector import CONTRAST, EVIDENCE, EXTENT_MM, LIMITS, SPACING_MM

    found = load_run(run)
    if found is None:
        raise SystemExit(f"{run}: holds no run ({STATE}); give the folder that came back from the device")
    tensors, state = found
    weights = {n.removeprefix("averaged."): v for n, v in tensors.items() if n.startswith("averaged.")}
    about = read_pack(pack)
    trained = [fact["subject"] for fact in about["facts"] if not fact["held_out"]]
    curve = [json.loads(line) for line in (run / CURVE).read_text().splitlines()]
    settings = state["settings"]
    given = {
        "contrast": CONTRAST, "anatomy": "human head or brain", "spacing_mm": list(SPACING_MM), "extent_mm": EXTENT_MM,
    }  # fmt: skip
    training = {
        "data": dict(Counter(name.rsplit("-", 1)[0] for name in trained)), "subjects": len(trained),
        "held_out_subjects": [fact["subject"] for fact in about["facts"] if fact["held_out"]],
        "motion": about["recipe"], "steps": state["step"], "seconds": state["seconds"],
        "simulated_volumes": state["volumes"], "batch": settings["batch"], "crop": settings["crop"],
        "optimiser": "AdamW", "precision": "bf16-mixed", "weights": f"EMA {settings['ema']}",
        "seed": settings["seed"], "curve": {str(line["step"]): line["validation"] for line in curve},
    }  # fmt: skip
    arguments = {**PAPER, "filters": settings["filters"]}
    card = new_card("mc-net", "mc-net, full size", arguments, given, training, LIMITS, evidence=EVIDENCE)
    out.parent.mkdir(parents=True, exist_ok=True)
    return save_checkpoint(weights, card, out)


def main() -> None:
    """Pack, train or export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing, training, exporting = (verbs.add_parser(name) for name in ("pack", "train", "export"))
    packing.add_argument("--config", default="mc-net-quiet", help="whose people, split and recipe")
    packing.add_argument("--data", type=Path, required=True)
    packing.add_argument("--cache", type=Path, default=Path("runs/quiet"), help="quiet bases")
    packing.add_argument("--megabytes", type=float, default=20.0)
    for part in (training, exporting):
        part.add_argument("--pack", type=Path, default=Path(".carry/heads.npz"))
    exporting.add_argument("--run", type=Path, required=True)
    for part in (packing, training, exporting):
        part.add_argument("--out", type=Path, required=True)
    training.add_argument("--copy", type=Path, help="a folder that gets every checkpoint, too")
    training.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for field in fields(Settings):
        many = {"nargs": "+", "type": int} if field.name == "filters" else {"type": type(field.default)}
        training.add_argument(f"--{field.name}", default=field.default, **many)
    args = parser.parse_args()
    if args.verb == "pack":
        print(pack_heads(args.config, args.data, args.cache, args.out, args.megabytes))
    elif args.verb == "train":
        chosen = {field.name: getattr(args, field.name) for field in fields(Settings)}
        settings = Settings(**{**chosen, "filters": tuple(chosen["filters"])})
        train(args.pack, args.out, settings, torch.device(args.device), args.copy)
    else:
        print(export(args.run, args.pack, args.out)["sha256"])


if __name__ == "__main__":
    main()
