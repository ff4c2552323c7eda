"""Checkpoints: weights in one .safetensors file, and beside it a .json card that says what they are for.

Loading reads numbers and text; it never executes code from a file. Finding models and reading cards needs no package
beyond numpy, so that Slicer's panel can do both before anything is installed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from BrainDiffLogic import __version__
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.files import file_digest, resources

if TYPE_CHECKING:
    import torch

    from BrainDiffLogic.models.corrector import Corrector
    from BrainDiffLogic.motion.estimate import Limits


@dataclass(frozen=True)
class View:
    """How sagittal slices are shown to a network.

    mirrored  left and right exchanged: the neighbours of a slice in reverse order
    shift     rows and columns by which the slices lie further in; the edge is repeated, at the far ends too
    """

    mirrored: bool = False
    shift: tuple[int, int] = (0, 0)


AS_IT_IS = View()


def read_views(entries: Any) -> tuple[View, ...]:
    """Views as a card or a configuration lists them: {"mirrored": bool, "shift": [rows, columns]}, both optional.

    Raises ValueError for anything else.
    """
    if not isinstance(entries, list):
        raise ValueError(f"{entries!r} is no list of views")
    return tuple(_read_view(entry) for entry in entries)


def _read_view(entry: Any) -> View:
    known = {"mirrored": False, "shift": [0, 0]}
    if not isinstance(entry, dict) or not set(entry) <= set(known):
        raise ValueError(f"{entry!r} is no view")
    mirrored, shift = ({**known, **entry}[name] for name in known)
    whole = isinstance(shift, list | tuple) and len(shift) == 2 and all(type(size) is int for size in shift)
    if not isinstance(mirrored, bool) or not whole or min(shift) < 0:
        raise ValueError(f"{entry!r} is no view")
    return View(mirrored, (shift[0], shift[1]))


FORMAT = 1
SUFFIX = ".safetensors"
DEFAULT_NETWORK = "mc-net"
"""Also asked by the family ``PHYSICS`` beside what it finds itself."""
OWN_FOLDER = "BRAINDIFF_MODELS"
"""Environment variable that names the folder of imported models (default: ~/.braindiff/models)."""
REQUIRED = ("format", "name", "version", "family", "arguments", "input", "training", "metrics", "sha256")
KINDS: dict[str, type] = {
    **dict.fromkeys(("name", "version", "family", "sha256"), str),
    **{"arguments": dict, "input": dict, "metrics": list},
}  # fmt: skip
"""What these entries of a card must be."""

SHIPPED = {
    "attention-unet": "82bac358ad72ebecd569c0df05187aa354fd1747d9391cea98d357b1644f7ce4",
    "mc-net": "f241da13ac87b039d8f5d224c19da786fab638f95584bb390c30db3f7efb35be",
    "motion": "d3fb2bf5774d869144f322a35b543705f3373363b1be510e29aaf315ebc9d887",
    "rmman": "3f51f64bc829ebe167a775406cef75250ed21593759524ec77f9de5e2b79272c",
    "severity": "40d184aa8128fe16546bf04f30b97ec333bc35463578feb6a2685653ec758040",
}
"""The sha256 of the shipped weights. A sum on a card beside them proves nothing: who changes one can change both."""
HALF_FROM = 60_000
"""Values of a tensor from which on it is stored as float16, half the size. Of mc-net these are the deep kernels, nearly
all of its weights: its residual changes by 0.011 %, with every kernel rounded by 0.14 %."""
PHYSICS = "motion"
"""The family that finds the motion and undoes it, beside the default network; its numbers are limits, not weights."""
DEFAULT_MODEL = PHYSICS
Card = dict[str, Any]
Module = TypeVar("Module", bound="torch.nn.Module")
HEADLINE = "all above 1 mm"
"""The row of a card's table that stands for it."""


def shipped_folder() -> Path:
    """Where the shipped weights are."""
    return resources() / "Checkpoints"


def imported_folder() -> Path:
    """Where ``import_checkpoint`` puts models."""
    return Path(os.environ.get(OWN_FOLDER) or Path.home() / ".braindiff" / "models")


def available() -> dict[str, Path]:
    """The weights by model name; a shipped model comes before an imported one of the same name."""
    models: dict[str, Path] = {}
    for folder in (imported_folder(), shipped_folder()):
        models.update({path.stem: path for path in sorted(folder.glob("*" + SUFFIX))})
    return models


def networks() -> dict[str, Path]:
    """The weights of networks by model name: ``available`` without physics."""
    return {name: path for name, path in available().items() if path.stem != PHYSICS}


def find_checkpoint(model: str | os.PathLike[str]) -> Path:
    """The .safetensors file of a model by name or path. Raises InputError when there is none."""
    path = Path(model)
    if path.suffix == SUFFIX or len(path.parts) > 1:
        if not path.is_file():
            raise InputError(f"{path}: there is no such checkpoint; give a {SUFFIX} file or a model's name")
        return path
    models = available()
    if str(model) not in models:
        raise InputError(f"there is no model {str(model)!r}; available: {', '.join(models) or 'none'}")
    return models[str(model)]


def weights_of(model: str | os.PathLike[str]) -> list[Path]:
    """The weights that a model's answers depend on: its own, and for physics those of the network that it asks.

    Raises InputError when one of them is missing, or the model's card is.
    """
    path = find_checkpoint(model)
    return [path, find_checkpoint(DEFAULT_NETWORK)] if read_card(path)["family"] == PHYSICS else [path]


def files_of(model: str | os.PathLike[str]) -> list[Path]:
    """The weights of ``weights_of``, each with its card after it."""
    return [file for path in weights_of(model) for file in (path, path.with_suffix(".json"))]


def read_card(checkpoint: str | os.PathLike[str]) -> Card:
    """The card beside a checkpoint. Raises InputError when it is missing, no card, or of another format."""
    path = Path(checkpoint).with_suffix(".json")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        name = Path(checkpoint).name
        raise InputError(f"{path}: the card of {name} is missing; keep the two files together") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); make the card readable") from None
    except ValueError:  # no JSON, no text
        raise InputError(f"{path}: not a model card (no valid JSON); get the model again") from None
    missing = [name for name in REQUIRED if not isinstance(card, dict) or name not in card]
    if missing:
        raise InputError(f"{path}: not a model card ({missing[0]!r} is missing); get the model again")
    if card["format"] != FORMAT:
        raise InputError(f"{path}: card of format {card['format']}, this version reads {FORMAT}; update BrainDiff")
    wrong = [name for name, kind in KINDS.items() if not isinstance(card[name], kind)]
    ends = card["input"].get("spacing_mm") if not wrong else None
    if not (isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, int | float) for end in ends)):
        malformed = (wrong or ["spacing_mm"])[0]
        raise InputError(f"{path}: not a model card ({malformed!r} is malformed); get the model again")
    return card


def verify(checkpoint: str | os.PathLike[str]) -> Card:
    """The card, once it is that of the weights: their name, their sha256, and of shipped weights that of ``SHIPPED``.

    Raises InputError when it is not.
    """
    path, card = Path(checkpoint), read_card(checkpoint)
    try:
        sha256 = file_digest(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); make the weights readable") from None
    if card["name"] != path.stem:
        raise InputError(f"{path}: its card is that of {card['name']!r}; give weights and card the card's name")
    if path.resolve().parent.parent == resources() and sha256 != SHIPPED.get(path.stem):
        raise InputError(f"{path}: not the weights that BrainDiff ships (sha256 differs); install BrainDiff again")
    if sha256 != card["sha256"]:
        raise InputError(f"{path}: the weights are not those of the card (sha256 differs); get the model again")
    return card


def load_checkpoint(model: str | os.PathLike[str]) -> tuple[Any, Card]:
    """The corrector of a model, ready to correct, and its card. ``model`` is a name or a .safetensors file.

    A ``models.corrector.Corrector``; of the family ``PHYSICS`` the ``motion.estimate.Limits`` of its search.

    Where the card has "views", the corrector answers with the mean over the slices as they are and over these.
    Raises InputError for an unknown model, weights that are not the card's, or a card that does not fit the
    weights.
    """
    path = find_checkpoint(model)
    card = verify(path)
    if card["family"] == PHYSICS:
        return _limits(path), card
    from BrainDiffLogic.models.corrector import build

    try:
        corrector = build(card["family"], card["arguments"])
    except InputError as error:
        raise InputError(f"{path.with_suffix('.json')}: {error}; get the model again") from None
    return _with_views(with_weights(corrector, path), card, path).eval(), card


def with_weights(network: Module, path: str | os.PathLike[str]) -> Module:
    """A network with the weights of a .safetensors file, ready to be asked. Raises InputError where they do not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except (SafetensorError, RuntimeError, AttributeError):
        raise InputError(f"{path}: the weights do not fit the network of their card; get the model again") from None
    return network.eval()


def verify_of(path: str | os.PathLike[str], family: str, title: str) -> Card:
    """``verify`` of weights that must be there, of a ``family`` that messages call ``title``."""
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such {title}; make one with `braindiff train {family} --export`")
    card = verify(path)
    if card["family"] != family:
        raise InputError(f"{path}: the weights of no {title}; give those of `braindiff train {family}`")
    return card


def read_torch_state(path: str | os.PathLike[str], remedy: str) -> dict[str, torch.Tensor]:
    """The tensors in a file of ``torch.save``; code in it is never run.

    Raises InputError, which ends with the remedy, for anything else.
    """
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; {remedy}") from None
    except Exception:  # whatever unpickling a foreign or damaged file raises
        raise InputError(f"{path}: not a torch file of weights; {remedy}") from None
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise InputError(f"{path}: not a state dict; {remedy}")
    return content


def _limits(path: Path) -> Limits:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from BrainDiffLogic.motion.estimate import Limits

    try:
        return Limits(**{name: float(value) for name, value in load_file(path).items()})
    except (SafetensorError, TypeError):
        raise InputError(f"{path}: these are not the limits of a search; get the model again") from None


def _with_views(corrector: Corrector, card: Card, path: Path) -> Corrector:
    from BrainDiffLogic.models.corrector import AugmentedCorrector

    try:
        views = read_views(card.get("views", []))
    except ValueError as error:
        raise InputError(f"{path.with_suffix('.json')}: views: {error}; get the model again") from None
    return AugmentedCorrector(corrector, [AS_IT_IS, *views]) if views else corrector


def new_card(
    family: str, title: str, arguments: Mapping[str, Any], given: Mapping[str, Any], training: Mapping[str, Any],
    limits: str, **more: Any,
) -> Card:  # fmt: skip
    """The card of what a run has trained.

    given  entries of "input" that differ: "spacing_mm", "anatomy", ...
    more   further entries
    """
    scaling = "volume floor to 0, 99th percentile inside the head to 1"
    return {
        "title": f"BrainDiff {title}", "version": __version__, "family": family, "arguments": dict(arguments),
        "input": {"contrast": "T1-weighted", "plane": "sagittal", **given, "scaling": scaling},
        "training": dict(training), "limits": limits, "metrics": [], "licence": "Apache-2.0", **more,
    }  # fmt: skip


def save_checkpoint(state: dict[str, Any], card: Card, path: str | os.PathLike[str]) -> Card:
    """Write weights (names to tensors) and their card; returns the card with the sha256 of the weights.

    Tensors of ``HALF_FROM`` values and more are rounded to float16; they are float32 again when they are loaded.
    """
    from safetensors.torch import save

    from BrainDiffLogic.images.outputs import staged_output

    path = Path(path)
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: a checkpoint's name ends with {SUFFIX}")
    with staged_output(path) as staged:
        packed = {name: _packed(value) for name, value in state.items()}
        staged.write_bytes(save(packed))  # save_file would make a file that only its owner reads
        card = {**card, "format": FORMAT, "name": path.stem, "sha256": file_digest(staged)}
        staged.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return card


def _packed(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as it is stored."""
    return tensor.half() if tensor.is_floating_point() and tensor.numel() >= HALF_FROM else tensor


def import_checkpoint(source: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Copy a checkpoint and its card, verified and loaded once, to the user's models; returns the copy."""
    from BrainDiffLogic.images.outputs import make_folder, staged_output

    path = find_checkpoint(source)
    load_checkpoint(path)
    if path.stem in SHIPPED:
        raise InputError(f"{path}: {path.stem!r} is the name of a shipped model; give weights and card another name")
    target = imported_folder() / path.name
    if target.exists() and not overwrite:
        raise InputError(f"{target}: a model of this name is there already; rename yours or allow it with --overwrite")
    make_folder(target.parent, f"name another folder in {OWN_FOLDER}")
    with staged_output(target) as staged:
        shutil.copyfile(path, staged)
        shutil.copyfile(path.with_suffix(".json"), staged.with_suffix(".json"))
    return target


def headline(card: Card) -> str:
    """What a model is worth, in one line, from its card."""
    rows = [row for row in card["metrics"] if isinstance(row, dict) and row.get("severity") == HEADLINE]
    nothing = next((row for row in rows if row["method"] == "do nothing"), None)
    own = next((row for row in rows if row["method"] != "do nothing"), None)
    if own is None or nothing is None:
        return "not measured"
    numbers = (f"{name.upper()} {own[name]:.3f} (do nothing {nothing[name]:.3f})" for name in ("mre", "ssim"))
    return f"{HEADLINE}: {', '.join(numbers)}"


MEASURED = ("metrics_convention", "independent_metrics", "safety")
"""What an evaluation wrote onto a card, beside its metrics; the mean has to be evaluated itself."""


def average(models: Sequence[str | Path], path: str | Path) -> Card:
    """Write the mean of the weights of models (names or .safetensors files) to ``path``, and its card; returns it.

    The card is that of the first model without what was measured of it; its "averaged" names all models, with their
    training where the first's does not tell of it. Statistics of batch normalisation are averaged as weights are.
    Raises InputError for fewer than two models, the same weights twice, and other networks; nothing is written then.
    """
    import torch

    files = [find_checkpoint(model) for model in models]
    loaded = [load_checkpoint(file) for file in files]
    (_, first), cards = loaded[0], [card for _, card in loaded]
    if len(files) < 2:
        raise InputError(f"{files[0]}: alone it has no mean; name two or more models")
    seen: dict[str, Path] = {}
    for file, card in zip(files, cards, strict=True):
        if card["sha256"] in seen:
            raise InputError(f"{file}: has the weights of {seen[card['sha256']]}; name each once")
        seen[card["sha256"]] = file
        if (card["family"], card["arguments"]) != (first["family"], first["arguments"]):
            raise InputError(f"{file}: another network than that of {files[0]}; average models of one network")
    states = [network.state_dict() for network, _ in loaded]
    state = {
        name: torch.stack([other[name].double() for other in states]).mean(dim=0).to(tensor.dtype)
        for name, tensor in states[0].items()
    }
    kept = {name: value for name, value in first.items() if name not in MEASURED}
    told = {first["sha256"], *_ancestors(first["training"])}
    changes = {"version": __version__, "metrics": [], "averaged": [_entry(card, told) for card in cards]}
    return save_checkpoint(state, {**kept, **changes}, path)


def _ancestors(training: Any) -> set[str]:
    """The checksums of the weights that a run went on from, and that those went on from, as far as a card tells."""
    initial = training.get("initial") if isinstance(training, dict) else None
    if not isinstance(initial, dict):
        return set()
    return {initial.get("sha256", ""), *_ancestors(initial.get("training"))}


def _entry(card: Card, told: set[str]) -> dict[str, Any]:
    names = ["name", "sha256", "averaged", *([] if card["sha256"] in told else ["training"])]
    return {name: card[name] for name in names if name in card}
