"""Seconds and peak memory of some steps of each BrainDiff phase at the published size, each in a process of its own.

    python Testing/Benchmarks/paper_size.py --data BIDS_DIR --out runs/paper-size [--steps 20] [--device cpu]

Published networks, losses, batches and 192 x 256 slices of 1 mm, but few slices and steps, the discriminator from the
first step, the gradient term in the place of LPIPS (no weights of VGG are shipped), and the batches of phases 1 and 2
computed in parts. Priors of a few steps make nothing that passes for a head, so that phase 4 trains on simulated pairs.
A stage that was measured before is not measured again.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

STAGES = ("manifest", "slices", "vae", "ldm", "ldm-clean", "injected", "physics", "corrector-physics")
PHASES = {
    "vae": "1, KL-VAE", "ldm": "2, latent diffusion", "injected": "3, injection", "corrector-physics": "4, corrector",
}  # fmt: skip
EVERY = 16
"""One slice in so many: what is validated, encoded and injected beside the steps."""
PARTS = 4
"""In which a batch is computed, for the memory."""


def run_stage(stage: str, data: Path, out: Path, steps: int, device: str) -> dict[str, object]:
    """One stage at the published size; its seconds without loading Python, and the peak memory of the process."""
    from BrainDiffLogic.errors import InputError
    from BrainDiffLogic.papers.braindiff import STAGES as ALL
    from BrainDiffLogic.papers.braindiff import braindiff_settings
    from BrainDiffLogic.papers.run import Work, reproduce
    from BrainDiffLogic.training.injection import InjectionSettings

    paper = braindiff_settings("paper", perceptual="gradient")
    short = {"epochs": 1, "epoch_steps": steps, "accumulate": PARTS}
    stages = [replace(part, steps=steps) for part in paper.corrector.stages]
    settings = replace(
        paper, step=EVERY, vae=replace(paper.vae, adversarial_from=0, **short), ldm=replace(paper.ldm, **short),
        corrector=replace(paper.corrector, stages=stages, epoch_steps=steps),
        injection=InjectionSettings(mode="decode", signal=None, steps=steps, variants=1),
    )  # fmt: skip
    work = Work(data, out, settings, device)
    started = time.monotonic()
    try:
        reproduce(ALL, work, [stage])
    except InputError as error:
        if stage != "injected":  # made, and refused afterwards: what 20 steps have learned is no head
            raise
        print(error, file=sys.stderr)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    note = next((line for line in work.log() if line["stage"] == stage), {})
    return {"stage": stage, "seconds": round(time.monotonic() - started, 1), "peak_gib": round(peak, 2), "note": note}


def main() -> None:
    """Run the stages one after the other; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--stage", choices=STAGES, help="this one alone, in this process; for the script itself")
    args = parser.parse_args()
    if args.stage:
        print(json.dumps(run_stage(args.stage, args.data, args.out, args.steps, args.device)))
        return
    rows, kept = [], args.out / "paper_size.json"
    before = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else []
    for stage in STAGES:
        if there := [row for row in before if row["stage"] == stage]:
            rows += there
            continue
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--stage", stage], stdout=subprocess.PIPE, text=True, check=True
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        kept.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        print(rows[-1]["stage"], rows[-1]["seconds"], "s", rows[-1]["peak_gib"], "GiB", flush=True)
    lines = [f"| phase | seconds for {args.steps} steps | peak memory |", "| --- | ---: | ---: |"]
    for row in rows:
        if row["stage"] in PHASES:
            lines.append(f"| {PHASES[row['stage']]} | {row['seconds']:.0f} | {row['peak_gib']:.1f} GiB |")
    (args.out / "paper_size.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
