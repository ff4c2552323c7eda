"""``braindiff models``: which models there are, what they are for, whether they are intact; foreign ones, and means."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.outputs import check_output
from BrainDiffLogic.models import checkpoints
from BrainDiffLogic.models.checkpoints import Card


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``braindiff models``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", parser_class=type(parser))
    actions.add_parser("list", help="list the models (default)")
    show = actions.add_parser("show", help="print the card of a model, as JSON")
    show.add_argument("model", metavar="NAME", help="name or .safetensors file")
    verify = actions.add_parser("verify", help="compare weights with the checksums on their cards")
    verify.add_argument("model", metavar="NAME", nargs="?", help="name or .safetensors file (default: all)")
    bring = actions.add_parser("import", help="check a model and copy it to your models")
    bring.add_argument("model", metavar="PATH", type=Path, help=".safetensors file, its .json card beside it")
    bring.add_argument("--overwrite", action="store_true", help="replace a model of the same name")
    mean = actions.add_parser("average", help="write the mean of the weights of models that have one origin")
    mean.add_argument("models", nargs="+", metavar="MODEL", help="names or .safetensors files, two or more")
    mean.add_argument("output", metavar="OUT", type=Path, help=".safetensors to write, its card beside it")
    mean.add_argument("--overwrite", action="store_true", help="replace an OUT that exists")
    _add_convert(actions.add_parser("convert", help="bring an autoencoder or diffusion model of monai-generative"))


def _add_convert(convert: argparse.ArgumentParser) -> None:
    add = convert.add_argument
    add("phase", choices=["vae", "ldm"], help="what the weights are of")
    add("old", metavar="OLD", type=Path, help="file of torch.save(network.state_dict(), OLD)")
    add("output", metavar="OUT", type=Path, help=".safetensors to write, its card beside it")
    add("--config", required=True, type=Path, help="YAML file, or the name of one of Resources/Training: the network")
    add("--data", required=True, type=Path, help="slice store that it will be used on")
    add("--vae", type=Path, help="ldm: autoencoder (.safetensors) of its latents")
    add("--scale", type=float, help="factor on latents that it was trained with (default: measured on the slices)")
    add("--overwrite", action="store_true", help="replace an OUT that exists")


def run(args: argparse.Namespace) -> int:
    """Do what was asked; without an action, list."""
    if args.action == "show":
        print(json.dumps(checkpoints.read_card(checkpoints.find_checkpoint(args.model)), indent=1))
    elif args.action == "verify":
        _verify(args.model)
    elif args.action == "import":
        path = checkpoints.import_checkpoint(args.model, args.overwrite)
        print(f"{path.stem}: imported to {path}")
    elif args.action == "average":
        _average(args.models, args.output, args.overwrite)
    elif args.action == "convert":
        card = _converted(args)
        print(f"{args.output}: written (scale of the latents {card['scale']:.4f})")
    else:
        _list()
    return 0


def _average(models: list[str], output: Path, overwrite: bool) -> None:
    from BrainDiffLogic.models.checkpoints import average

    files = [checkpoints.find_checkpoint(model) for model in models]
    check_output(output, files, overwrite, (checkpoints.SUFFIX,))
    card = average(files, output)
    print(f"{output}: the mean of {len(card['averaged'])} models, not measured: braindiff evaluate")


def _converted(args: argparse.Namespace) -> Card:
    """Check the arguments, then convert."""
    from BrainDiffLogic.commands.train import require_training_packages

    require_training_packages()
    from BrainDiffLogic.training.configuration import LdmConfiguration, VaeConfiguration
    from BrainDiffLogic.training.fields import read_section
    from BrainDiffLogic.training.ldm import convert_ldm
    from BrainDiffLogic.training.vae import convert_vae

    if (args.phase == "ldm") != (args.vae is not None):
        raise InputError("--vae: an ldm needs the autoencoder of its latents, a vae takes none")
    if args.scale is not None and not args.scale > 0:
        raise InputError(f"--scale {args.scale}: must be above 0")
    check_output(args.output, [args.old, *([args.vae] if args.vae else [])], args.overwrite, (checkpoints.SUFFIX,))
    if args.phase == "vae":
        return convert_vae(args.old, args.output, read_section(VaeConfiguration, args.config), args.data, args.scale)
    plan = read_section(LdmConfiguration, args.config)
    return convert_ldm(args.old, args.output, plan, args.data, args.vae, args.scale)


def _list() -> None:
    models = checkpoints.available()
    if not models:
        print(f"no models in {checkpoints.shipped_folder()} or {checkpoints.imported_folder()}")
        return
    print(f"{'name':<20}{'family':<18}{'version':<10}{'size':>8}  quality")
    for name, path in models.items():
        try:
            card = checkpoints.read_card(path)
        except InputError as error:
            print(f"{name:<20}{error}")
            continue
        size = f"{path.stat().st_size / 1e6:.1f} MB"
        print(f"{name:<20}{card['family']:<18}{card['version']:<10}{size:>8}  {checkpoints.headline(card)}")


def _verify(model: str | None) -> None:
    """One line on stdout for each intact model; the first that is not raises InputError, after the others."""
    paths = [checkpoints.find_checkpoint(model)] if model else list(checkpoints.available().values())
    if not paths:
        raise InputError(f"there are no models in {checkpoints.shipped_folder()}; import one to verify it")
    failures = []
    for path in paths:
        try:
            card = checkpoints.verify(path)
        except InputError as error:
            failures.append(error)
        else:
            print(f"{path.stem}: the weights are those of the card (sha256 {card['sha256'][:12]}...)")
    if failures:
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise InputError(f"{failures[0]}{more}")
