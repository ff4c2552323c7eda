"""``braindiff synthesize``: moved versions of clean slices by a diffusion prior (BrainDiff, phase 3)."""

from __future__ import annotations

import argparse
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import SUFFIX
from BrainDiffLogic.progress import shown_progress

if TYPE_CHECKING:
    from BrainDiffLogic.training.injected_pairs import InjectedPairs
    from BrainDiffLogic.training.injection import InjectionSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``braindiff synthesize``."""
    add = parser.add_argument
    add("--store", required=True, type=Path, metavar="DIR", help="slice store; its clean correction slices are used")
    add("--vae", required=True, type=Path, metavar=f"F{SUFFIX}", help="autoencoder of phase 1")
    add("--ldm", required=True, type=Path, metavar=f"F{SUFFIX}",
        help="diffusion prior of phase 2; one trained on clean scans is the control")  # fmt: skip
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the pairs; a job in it goes on")
    add("--paper", action="store_true", help="as the paper: t in 0.35 T to 0.65 T, every step, plain decode")
    add("--mode", choices=["transplant", "decode"], help="add what the prior changes, or decode (default: transplant)")
    add("--steps", type=_steps, metavar="N|full", help="denoising steps (default: 25)")
    add("--signal", type=float, nargs=2, metavar=("FROM", "TO"),
        help="how much of the signal is left where motion is injected (default: 0.9 0.5)")  # fmt: skip
    add("--variants", type=int, default=5, metavar="N", help="moved versions of each slice (default: 5)")
    add("--seed", type=int, default=0, metavar="N", help="default: 0")
    add("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    add("--batch", type=int, metavar="N", help="slices denoised at once (default: 8 on the CPU, 64 on CUDA)")
    add("--bf16", action="store_true", help="networks in bfloat16: faster where the device computes in it")
    add("--picture", type=Path, metavar="F.png", help="also draw a slice, its versions and their differences")
    add("--overwrite", action="store_true", help="replace a --picture that exists")


def run(args: argparse.Namespace) -> int:
    """Check everything, inject, count, draw."""
    from BrainDiffLogic.images.outputs import check_output
    from BrainDiffLogic.training.injected_pairs import InjectedPairs, synthesize
    from BrainDiffLogic.training.injection import load_prior
    from BrainDiffLogic.training.slice_store import SliceStore

    plan = plan_of(args)
    if args.batch is not None and args.batch < 1:
        raise InputError(f"--batch {args.batch}: must be 1 or more")
    if args.picture:
        if find_spec("matplotlib") is None:
            raise InputError("--picture draws with matplotlib: pip install 'braindiff[demo]'")
        check_output(args.picture, overwrite=args.overwrite, suffixes=(".png",))
    store = SliceStore(args.store)
    prior, cards = load_prior(args.vae, args.ldm, args.device, args.bf16)
    with shown_progress() as progress:
        made = synthesize(store, prior, cards, args.out, plan, batch=args.batch, progress=progress)
    print(
        f"{made.slices} clean slices, {made.versions} moved versions, {100 * made.rejected_share:.1f} % rejected for "
        f"drifted anatomy; written: {args.out}"
    )
    if args.picture:
        draw(InjectedPairs(args.out), args.picture)
        print(f"drawn: {args.picture}")
    return 0


def plan_of(args: argparse.Namespace) -> InjectionSettings:
    """The plan that the arguments ask for: the defaults, or the paper's with --paper, and what is named beside it."""
    from BrainDiffLogic.training.injection import PAPER, InjectionSettings

    if args.paper and args.signal:
        raise InputError("--signal and --paper both say where to inject; give one of them")
    plan = replace(PAPER if args.paper else InjectionSettings(), variants=args.variants, seed=args.seed)
    if args.mode:
        plan = replace(plan, mode=args.mode)
    if args.steps is not None:
        plan = replace(plan, steps=args.steps or None)
    return replace(plan, signal=tuple(args.signal)) if args.signal else plan


def _steps(text: str) -> int:
    """A number of steps; 0 for all of them."""
    if text == "full":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 1, or full")
    return int(text)


def draw(pairs: InjectedPairs, path: Path) -> None:
    """A picture of the fullest slice and its versions."""
    from BrainDiffLogic.images.outputs import staged_output
    from BrainDiffLogic.pictures import injection_picture

    chosen = pairs.fullest()
    shown = [pairs.facts[number] for number in chosen]
    captions = [
        f"signal {fact['signal']:.2f} (t {fact['t']})\ndrift: similarity {fact['similarity']:.2f}" for fact in shown
    ]
    clean = pairs[chosen[0]]["clean"][0].numpy()
    moved = [pairs[number]["moved"][0].numpy() for number in chosen]
    title = f"{shown[0]['scan']}, sagittal slice {shown[0]['slice']}"
    with staged_output(path) as staged:
        injection_picture(clean, {"injected": moved}, {"injected": captions}, staged, title)
