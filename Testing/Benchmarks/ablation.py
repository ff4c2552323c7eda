"""What each choice of the corrector is worth: short trainings on the same pairs, with the same seed and steps.

    PYTHONPATH=. python Testing/Benchmarks/ablation.py --data DATA --cache runs/pairs --out runs/ablation [VARIANT ...]

Each variant differs from "base" (mc-net, compact, on three slices, Muon, L2, then L1) in one thing. Two thirds of the
steps are L2, the rest the variant's loss. Validation: slices of the subjects that the configuration holds out, the
remaining error as a share of the input's, by severity. A variant that is there already is not trained again. What
is smaller than the distance of the base from itself with other first weights and slices ("base again") says nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from BrainDiffLogic.models.corrector import CONFIGURATIONS, build
from BrainDiffLogic.motion import STRATUM_NAMES
from BrainDiffLogic.training.configuration import CorrectorConfiguration, Stage
from BrainDiffLogic.training.corrector import CorrectorTraining, network_arguments, train
from BrainDiffLogic.training.fields import read_section
from BrainDiffLogic.training.fit import LAST, Hardware, trained_state
from BrainDiffLogic.training.pairs import caches, make_pairs
from BrainDiffLogic.training.slices import ValidationSlices

BANDS = ("still_error_1e-3", *STRATUM_NAMES, "all")
EVERY = 16
"""One validation slice in so many."""
WARMUP, EMA = 60, 0.99
"""Shorter than in a whole training."""


@dataclass(frozen=True)
class Variant:
    """What differs from the base."""

    family: str = "mc-net"
    network: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, float] = field(default_factory=lambda: {"l1": 1.0})
    optimiser: str = "muon"
    lesions: float = 0.0
    draw: int = 0


VARIANTS = {
    "base": Variant(),
    "base again": Variant(draw=1),
    "AdamW": Variant(optimiser="adamw"),
    "lesions in half of the slices": Variant(lesions=0.5),
    "2D": Variant(network={"context": 1}),
    "5 slices": Variant(network={"context": 5}),
    "attention-unet": Variant("attention-unet"),
    "attention-unet without gates": Variant("attention-unet", network={"gates": False}),
    "nafnet": Variant("nafnet"),
    "rmman": Variant("rmman"),
    "L1 + gradient + SSIM": Variant(loss={"l1": 1.0, "gradient_ssim": 0.1}),
    "L1 + TV": Variant(loss={"l1": 1.0, "tv": 1.0}),
    "L1 + frequency": Variant(loss={"l1": 1.0, "frequency": 1.0}),
}


def configuration_of(variant: Variant, steps: int) -> CorrectorConfiguration:
    """The shipped configuration, shortened, with the variant's change."""
    base = read_section(CorrectorConfiguration, "mc-net")
    network = {**CONFIGURATIONS[variant.family]["compact"], **variant.network}
    first = steps * 2 // 3
    stages = [
        Stage(first, {"multi_scale_l2": 10.0}, learning_rate=1e-3, warmup=WARMUP, decay=0.0),
        Stage(steps - first, variant.loss, learning_rate=7e-4, warmup=0, decay=1.0, balance=False),
    ]
    return replace(
        base, family=variant.family, network=network, stages=stages, optimiser=variant.optimiser, ema=EMA,
        lesions=variant.lesions, draw=variant.draw,
    )  # fmt: skip


def validate(
    configuration: CorrectorConfiguration, checkpoint: Path, data: Path, cache: Path, device: str
) -> dict[str, float]:
    """What training logs as validation: the remaining error as a share of the input's, by severity."""
    network = build(configuration.family, network_arguments(configuration))
    network.load_state_dict(trained_state(checkpoint))
    _, held_out = caches(configuration, data, cache)
    slices = ValidationSlices(held_out, configuration.validation_pairs, network.context, configuration.crop, EVERY)
    trainer = L.Trainer(
        accelerator=device, devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    module = CorrectorTraining(network, configuration)
    found = trainer.validate(module, DataLoader(slices, 8), verbose=False)[0]
    return {name.removeprefix("validation/"): float(value) for name, value in found.items()}


def run(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train and measure one variant, or read what is there."""
    folder = args.out / name.replace(" ", "").replace("+", "-").lower()
    done = folder / "result.json"
    if done.exists():
        before = dict(json.loads(done.read_text(encoding="utf-8")))
        if before["steps"] != args.steps:
            raise SystemExit(f"{folder}: was trained for {before['steps']} steps; give another --out or --steps")
        return before
    configuration = configuration_of(VARIANTS[name], args.steps)
    for pairs, count in zip(
        caches(configuration, args.data, args.cache), (configuration.pairs, configuration.validation_pairs), strict=True
    ):
        make_pairs(pairs, count, jobs=2)
    whole = not (folder / LAST).exists()  # else a part of it was trained before, and its time is not known
    started = time.monotonic()
    checkpoint = train(configuration, args.data, folder, cache=args.cache, hardware=Hardware(args.device))
    seconds = time.monotonic() - started if whole else math.nan
    network = build(configuration.family, network_arguments(configuration))
    facts = {"name": name, "steps": args.steps, "parameters": sum(p.numel() for p in network.parameters())}
    result = {**facts, "seconds": seconds, **validate(configuration, checkpoint, args.data, args.cache, args.device)}
    done.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def table(results: list[dict[str, Any]]) -> str:
    """Markdown; the time as a ratio to the first row's."""
    lines = ["| variant | parameters | time | " + " | ".join(BANDS) + " |", "|---|" + "---:|" * (2 + len(BANDS))]
    for result in results:
        cells = [f"{result['parameters'] / 1e6:.2f} M", f"{result['seconds'] / results[0]['seconds']:.1f}"]
        cells += [f"{result.get(band, float('nan')):.3f}" for band in BANDS]
        lines.append(f"| {result['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", nargs="*", choices=[[], *VARIANTS], metavar="VARIANT")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    results = []
    for name in args.variants or VARIANTS:
        results.append(run(name, args))
        print(table(results), flush=True)


if __name__ == "__main__":
    main()
