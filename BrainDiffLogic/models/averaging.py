"""The mean of trained weights, a "model soup" (Wortsman et al., ICML 2022): one network that answers as several do.

Of use where the models have one origin, such as a run and the weights that it went on from: between weights that were
trained apart lies nothing that corrects.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from BrainDiffLogic import __version__
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import Card, find_checkpoint, load_checkpoint, save_checkpoint

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
