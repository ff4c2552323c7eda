"""``braindiff train``: train a phase from a configuration file."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.outputs import check_output
from BrainDiffLogic.models.checkpoints import SUFFIX
from BrainDiffLogic.progress import shown_progress

if TYPE_CHECKING:
    from BrainDiffLogic.training.configuration import CorrectorConfiguration
    from BrainDiffLogic.training.fit import Hardware

Export = Callable[[], dict[str, Any]]
"""Writes what a phase has trained; returns the card."""
OWN_OPTIONS = {
    "corrector": ("cache", "initial", "pairs", "steps", "vae", "devices", "num_nodes", "strategy"),
    "vae": ("epochs", "perceptual", "vgg", "devices", "num_nodes", "strategy"),
    "ldm": ("epochs", "vae", "group", "devices", "num_nodes", "strategy"),
    "severity": ("cache", "pairs", "epochs", "devices", "num_nodes", "strategy"),
}
"""Options that not every phase has; given to another they are refused."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``braindiff train``."""
    add = parser.add_argument
    add("phase", choices=list(OWN_OPTIONS), help="what to train")
    add("--config", required=True, type=Path, help="YAML file, or the name of one of Resources/Training")
    add("--data", required=True, type=Path, help="volumes, or injected pairs for a corrector; vae, ldm: slice store")
    add("--run", dest="folder", metavar="RUN", required=True, type=Path, help="folder; a run in it goes on")
    add("--device", default="auto", choices=["auto", "cpu", "gpu", "cuda", "mps"], help="default: auto")
    add("--export", type=Path, help="write the trained weights and their card to this .safetensors")
    add("--overwrite", action="store_true", help="replace an --export that exists")
    pairs = parser.add_argument_group("corrector, severity").add_argument
    pairs("--cache", type=Path, help="folder of simulated pairs (default: RUN/pairs)")
    pairs("--pairs", type=int, help="number of training pairs instead of the configuration's")
    pairs("--jobs", type=int, default=2, help="processes that simulate pairs (default: 2)")
    corrector = parser.add_argument_group("corrector").add_argument
    corrector("--initial", type=Path, help="checkpoint (.safetensors) to start from")
    corrector("--steps", type=int, help="steps of the last stage instead of the configuration's")
    _add_generative(parser.add_argument_group("vae, ldm, severity").add_argument)


def _add_generative(add: Any) -> None:
    add("--epochs", type=int, help="instead of the configuration's")
    add("--perceptual", help="vae: term of the loss instead of the configuration's")
    add("--vgg", type=Path, help="vae: file of torchvision's vgg16 weights for the perceptual term lpips")
    add("--vae", type=Path, help="autoencoder (.safetensors): required for ldm and for the loss term info_nce")
    add("--group", choices=["motion", "clean"], help="ldm: scans to learn instead of the configuration's")
    add("--devices", type=int, help="processes on this machine, one a device (default: 1)")
    add("--num-nodes", type=int, help="machines, started by torchrun or SLURM (default: 1)")
    add("--strategy", help="Lightning's strategy (default: auto, DDP for several processes)")


def run(args: argparse.Namespace) -> int:
    """Train, then export the weights when asked to."""
    _check(args)
    require_training_packages()
    phase = {"corrector": _corrector, "vae": _vae, "ldm": _ldm, "severity": _severity}[args.phase]
    export = phase(args)
    from lightning.pytorch.utilities import rank_zero_only

    if args.export and rank_zero_only.rank == 0:  # of several processes one writes
        print(json.dumps({"weights": str(args.export), "sha256": export()["sha256"]}))
    return 0


def require_training_packages() -> None:
    """Raises InputError, which names the first package that is missing."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # tensorboard looks for TensorFlow and warns about it
    try:
        import lightning  # noqa: F401
        import pydantic  # noqa: F401
        import tensorboard  # noqa: F401
        import yaml  # noqa: F401
    except ImportError as error:
        name = (error.name or "a package").partition(".")[0]
        raise InputError(f"training needs {name}: pip install 'braindiff[train]'") from None


def _check(args: argparse.Namespace) -> None:
    """Refuse before the hours of training what would fail after them."""
    what = "the volumes" if args.phase in ("corrector", "severity") else "the slices (a slice store)"
    if not args.data.is_dir():
        raise InputError(f"{args.data}: there is no such folder; give --data the folder with {what}")
    for name in {name for names in OWN_OPTIONS.values() for name in names} - set(OWN_OPTIONS[args.phase]):
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} is no option of phase {args.phase}; leave it out")
    for name, lowest in (("steps", 1), ("jobs", 1), ("pairs", 0), ("epochs", 1), ("devices", 1), ("num_nodes", 1)):
        value = getattr(args, name)
        if value is not None and value < lowest:
            raise InputError(f"--{name.replace('_', '-')} {value}: must be {lowest} or more")
    if args.phase == "ldm" and args.vae is None:
        raise InputError("phase ldm needs --vae: the .safetensors that `braindiff train vae --export` wrote")
    if args.export:
        check_output(args.export, [args.vae] if args.vae else [], overwrite=args.overwrite, suffixes=(SUFFIX,))


def _corrector(args: argparse.Namespace) -> Export:
    from BrainDiffLogic.training.corrector import export_corrector, train

    configuration = _configuration(args)
    if configuration.data == "pairs":
        return _pair_corrector(args, configuration)
    if args.vae is not None:
        raise InputError("--vae belongs to a configuration with data: pairs; leave it out")
    with shown_progress() as progress:
        checkpoint = train(
            configuration, args.data, args.folder, cache=args.cache, hardware=_hardware(args), jobs=args.jobs,
            initial=args.initial, progress=progress,
        )  # fmt: skip
    return partial(export_corrector, configuration, checkpoint, args.export, args.data, args.initial)


def _pair_corrector(args: argparse.Namespace, configuration: CorrectorConfiguration) -> Export:
    from BrainDiffLogic.training.corrector import export_pair_corrector, train_on_pairs
    from BrainDiffLogic.training.injected_pairs import injected_run

    for name in ("cache", "pairs"):
        if getattr(args, name) is not None:
            raise InputError(f"--{name} belongs to a configuration of volumes; leave it out")
    start = injected_run(args.data, args.vae, _hardware(args))
    checkpoint = train_on_pairs(configuration, start, args.folder, args.initial)
    return partial(export_pair_corrector, configuration, start, checkpoint, args.export, args.initial)


def _vae(args: argparse.Namespace) -> Export:
    from BrainDiffLogic.training.configuration import VaeConfiguration
    from BrainDiffLogic.training.fields import read_section
    from BrainDiffLogic.training.vae import export_vae, train_vae

    options = {"vgg": str(args.vgg)} if args.vgg else None
    changes = {"epochs": args.epochs, "perceptual": args.perceptual, "perceptual_options": options}
    plan = read_section(VaeConfiguration, args.config, **changes)
    checkpoint = train_vae(plan, args.data, args.folder, _hardware(args))
    return partial(export_vae, plan, checkpoint, args.export, args.data)


def _ldm(args: argparse.Namespace) -> Export:
    from BrainDiffLogic.training.configuration import LdmConfiguration
    from BrainDiffLogic.training.fields import read_section
    from BrainDiffLogic.training.ldm import export_ldm, train_ldm

    plan = read_section(LdmConfiguration, args.config, epochs=args.epochs, group=args.group)
    checkpoint = train_ldm(plan, args.data, args.vae, args.folder, _hardware(args))
    return partial(export_ldm, plan, checkpoint, args.export, args.data, args.vae)


def _severity(args: argparse.Namespace) -> Export:
    from BrainDiffLogic.training.configuration import SeverityConfiguration
    from BrainDiffLogic.training.fields import read_section
    from BrainDiffLogic.training.severity import export_severity, train_severity

    plan = read_section(SeverityConfiguration, args.config, epochs=args.epochs)
    with shown_progress() as progress:
        checkpoint = train_severity(
            plan, args.data, args.folder, _hardware(args), cache=args.cache, pairs=args.pairs, jobs=args.jobs,
            progress=progress,
        )  # fmt: skip
    return partial(export_severity, plan, checkpoint, args.export, args.data, cache=args.cache, pairs=args.pairs)


def _hardware(args: argparse.Namespace) -> Hardware:
    from BrainDiffLogic.training.fit import Hardware

    return Hardware(args.device, args.devices or 1, args.num_nodes or 1, args.strategy or "auto")


def _configuration(args: argparse.Namespace) -> CorrectorConfiguration:
    from dataclasses import replace

    from BrainDiffLogic.training.configuration import CorrectorConfiguration
    from BrainDiffLogic.training.fields import read_section

    configuration = read_section(CorrectorConfiguration, args.config, pairs=args.pairs)
    if args.steps is None:
        return configuration
    last = replace(configuration.stages[-1], steps=args.steps)
    return replace(configuration, stages=[*configuration.stages[:-1], last])
