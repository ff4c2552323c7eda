"""Files of weights that monai-generative (0.2.3) left, as autoencoders and diffusion models with cards of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from BrainDiffLogic.models.checkpoints import Card
from BrainDiffLogic.models.generative import (
    AUTOENCODERS,
    DIFFUSION_MODELS,
    SCHEDULE,
    build_autoencoder,
    build_diffusion,
    load_old_state,
    read_old_state,
    translate_arguments,
)
from BrainDiffLogic.training.configuration import LdmConfiguration, VaeConfiguration, chosen_arguments
from BrainDiffLogic.training.generative_checkpoints import generative_card, load_vae, save_generative
from BrainDiffLogic.training.latents import latent_shape, measured_scale
from BrainDiffLogic.training.ordered_batches import VALIDATION_SLICES, evenly
from BrainDiffLogic.training.slice_store import SliceStore
from BrainDiffLogic.training.train_ldm import check_latents
from BrainDiffLogic.training.train_vae import SCALE_SLICES, validation_quality

ORIGIN = "trained elsewhere with monai-generative; subjects unknown"


def convert_vae(
    old: str | Path, path: Path, plan: VaeConfiguration, data: str | Path, scale: float | None = None
) -> Card:
    """Write monai-generative's AutoencoderKL in the file ``old`` to ``path`` (.safetensors); returns the card.

    old    of ``torch.save(network.state_dict(), old)``
    plan   its network; its arguments may have their old names (``num_channels``)
    data   slice store, whose canvas and spacing it will serve and on which its quality is measured
    scale  of its latents; None: measured on the store
    Raises InputError where the weights are not those of the plan's network; nothing is written then.
    """
    arguments = translate_arguments(chosen_arguments(plan.network, AUTOENCODERS))
    network = build_autoencoder(arguments).eval()
    load_old_state(network, read_old_state(old))
    store = SliceStore(data)
    slices = store.select(split="prior")
    facts = {"origin": ORIGIN, "validation": validation_quality(network, store, evenly(slices, VALIDATION_SLICES))}
    scale = scale or measured_scale(network, store, evenly(slices, SCALE_SLICES))
    return save_generative(network, generative_card("vae", arguments, scale, store, facts), path)


def convert_ldm(
    old: str | Path, path: Path, plan: LdmConfiguration, data: str | Path, vae: str | Path, scale: float | None = None
) -> Card:
    """Write monai-generative's DiffusionModelUNet in the file ``old`` to ``path``; as ``convert_vae``.

    plan   its network, and the group of scans that it was trained on
    vae    the autoencoder (.safetensors) of its latents
    scale  that it was trained with; None: that on the autoencoder's card
    It must predict the noise of the schedule ``models.generative.SCHEDULE``.
    """
    arguments = translate_arguments(chosen_arguments(plan.network, DIFFUSION_MODELS))
    network = build_diffusion(arguments).eval()
    load_old_state(network, read_old_state(old))
    store, (autoencoder, vae_card) = SliceStore(data), load_vae(vae)
    shape = latent_shape(autoencoder, store.canvas)
    check_latents(shape, arguments)
    more: dict[str, Any] = {
        "schedule": {**SCHEDULE, "prediction": "noise", "clip_sample": False},
        "vae": {"name": vae_card["name"], "sha256": vae_card["sha256"]}, "latent": {"shape": list(shape)},
    }  # fmt: skip
    facts = {"origin": ORIGIN, "group": plan.group}
    return save_generative(
        network, generative_card("ldm", arguments, scale or float(vae_card["scale"]), store, facts, **more), path
    )
