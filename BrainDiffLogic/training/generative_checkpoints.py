"""Autoencoders and diffusion models as files: weights (.safetensors) and a card (.json), as the correctors' are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from monai.networks.nets.autoencoderkl import AutoencoderKL
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import SUFFIX, Card, new_card, save_checkpoint, verify
from BrainDiffLogic.models.generative import build_autoencoder, build_diffusion
from BrainDiffLogic.training.slice_store import SAME_SPACING, SliceStore

NAMES = {"vae": "autoencoder", "ldm": "diffusion model"}
NATIVE_SPACING_MM = (0.1, 10.0)
"""Range on the card where the slices kept each scan's own spacing."""
LIMITS = (
    "Makes training data, not diagnoses: what it decodes looks like anatomy and is not the patient's."
    " For research only."
)


def generative_card(
    family: str, arguments: Mapping[str, Any], scale: float, store: SliceStore, training: Mapping[str, Any], **more: Any
) -> Card:
    """The card of a "vae" or "ldm" trained on the slices of ``store``.

    scale  factor that gives latents unit variance: z = scale * posterior mean
    more   further entries
    """
    given = {"spacing_mm": store_spacing(store.spacing_mm), "canvas": list(store.canvas)}
    return new_card(family, NAMES[family], arguments, given, training, LIMITS, scale=scale, **more)


def store_spacing(spacing_mm: float | None) -> list[float]:
    """A card's range for slices with pixels of this size; None: of each scan's own."""
    return [spacing_mm] * 2 if spacing_mm else list(NATIVE_SPACING_MM)


def save_generative(network: nn.Module, card: Card, path: str | PathLike[str]) -> Card:
    """Write the weights and the card, whole or not at all; returns the card with the sha256."""
    state = {name: value.detach().float().cpu().contiguous() for name, value in network.state_dict().items()}
    return save_checkpoint(state, card, path)


def load_vae(path: str | PathLike[str], frozen: bool = False) -> tuple[AutoencoderKL, Card]:
    """The autoencoder of a .safetensors file, in evaluation mode, and its card.

    frozen  its weights take no gradient; one flows through it all the same
    Raises InputError where a file is missing, no autoencoder, damaged, or not that of the card.
    """
    return _load(path, "vae", build_autoencoder, frozen)


def load_ldm(path: str | PathLike[str], frozen: bool = False) -> tuple[DiffusionModelUNet, Card]:
    """The diffusion model of a .safetensors file, in evaluation mode, and its card; as ``load_vae``."""
    return _load(path, "ldm", build_diffusion, frozen)


def check_partners(vae_card: Card, ldm_card: Card) -> None:
    """Raise InputError where the diffusion model was trained on latents of another autoencoder."""
    if ldm_card["vae"]["sha256"] != vae_card["sha256"]:
        raise InputError(
            f"{ldm_card['name']}: was trained on the latents of another autoencoder ({ldm_card['vae']['name']},"
            f" sha256 {ldm_card['vae']['sha256'][:12]}...) than {vae_card['name']}; give that one"
        )


def check_slices(card: Card, store: SliceStore) -> None:
    """Raise InputError where the pixels of ``store`` have another size than those that a network was trained on."""
    own = store_spacing(store.spacing_mm)
    trained = card.get("input", {}).get("spacing_mm", own)
    if not np.allclose(own, trained, rtol=SAME_SPACING):
        raise InputError(
            f"{store.folder}: slices with pixels of {_pixels(own)}, but {card['name']} was trained on"
            f" {_pixels(trained)}; build the store with that spacing or train the network on this one"
        )


def _pixels(spacing: list[float]) -> str:
    low, high = spacing
    return f"{low:g} mm" if low == high else f"each scan's own size ({low:g} to {high:g} mm)"


def _load(
    path: str | PathLike[str], family: str, build: Callable[[Mapping[str, Any]], Any], frozen: bool
) -> tuple[Any, Card]:
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such {NAMES[family]}; make one with `braindiff train {family} --export`")
    card = verify(path)
    if card["family"] != family:
        raise InputError(f"{path}: the weights of no {NAMES[family]}; give the {SUFFIX} of `braindiff train {family}`")
    network = build(card["arguments"])
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError):
        raise InputError(f"{path}: the weights do not fit the network of their card; train it again") from None
    return network.eval().requires_grad_(not frozen), card
