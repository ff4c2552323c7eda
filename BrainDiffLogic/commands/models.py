"""``braindiff models``: which correction models there are, what they are for, and whether they are intact."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from BrainDiffLogic import checkpoints
from BrainDiffLogic.checkpoints import Card
from BrainDiffLogic.errors import InputError

HEADLINE = "all above 1 mm"
"""The row of a card's table that ``list`` shows."""


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


def run(args: argparse.Namespace) -> int:
    """Do what was asked; without an action, list."""
    if args.action == "show":
        print(json.dumps(checkpoints.read_card(checkpoints.find_checkpoint(args.model)), indent=1))
    elif args.action == "verify":
        _verify(args.model)
    elif args.action == "import":
        path = checkpoints.import_checkpoint(args.model, args.overwrite)
        print(f"{path.stem}: imported to {path}")
    else:
        _list()
    return 0


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
        print(f"{name:<20}{card['family']:<18}{card['version']:<10}{size:>8}  {_headline(card)}")


def _headline(card: Card) -> str:
    rows = [row for row in card["metrics"] if isinstance(row, dict) and row.get("severity") == HEADLINE]
    nothing = next((row for row in rows if row["method"] == "do nothing"), None)
    own = next((row for row in rows if row["method"] != "do nothing"), None)
    if own is None or nothing is None:
        return "not measured"
    numbers = (f"{name.upper()} {own[name]:.3f} (do nothing {nothing[name]:.3f})" for name in ("mre", "ssim"))
    return f"{HEADLINE}: {', '.join(numbers)}"


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
