"""Phase 1 from a slice store to an autoencoder on disk."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from monai.networks.nets.autoencoderkl import AutoencoderKL

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import Card
from BrainDiffLogic.models.generative import AUTOENCODERS, build_autoencoder, downsampling, start_narrow
from BrainDiffLogic.training.autoencoder_phase import AutoencoderTraining, reconstruction_quality
from BrainDiffLogic.training.configuration import VaeConfiguration, chosen_arguments
from BrainDiffLogic.training.generative_checkpoints import generative_card, save_generative
from BrainDiffLogic.training.generative_run import finished, fit, start
from BrainDiffLogic.training.hardware import Hardware
from BrainDiffLogic.training.latents import latent_shape, measured_scale
from BrainDiffLogic.training.ordered_batches import VALIDATION_SLICES, OrderedBatches, evenly
from BrainDiffLogic.training.perceptual import build_perceptual
from BrainDiffLogic.training.run_folder import epochs_done, trained_state
from BrainDiffLogic.training.slice_store import SliceStore

SCALE_SLICES = 512
"""So many training slices, evenly spread, tell the standard deviation of the latents to better than 1 %."""


def vae_slices(plan: VaeConfiguration, store: SliceStore) -> tuple[np.ndarray, np.ndarray]:
    """(training, validation) indices: both groups of the plan's splits, by subject. Raises InputError for none."""
    indices = np.concatenate([store.select(split=split) for split in plan.splits])
    if not len(indices):
        raise InputError(f"{store.folder}: no slices in the splits {', '.join(plan.splits)}; add scans")
    return store.hold_out(indices, plan.validation_share)


def train_vae(plan: VaeConfiguration, data: str | Path, run: str | Path, hardware: Hardware | None = None) -> Path:
    """Train the autoencoder on the slice store ``data``; goes on from ``run``/last.ckpt when that is there.

    Returns ``run``/last.ckpt, for ``export_vae``. Raises InputError where the store, the configuration, the folder or
    a file of the perceptual term does not serve.
    """
    store, run = SliceStore(data), Path(run)
    training, validation = vae_slices(plan, store)
    L.seed_everything(plan.seed, workers=True, verbose=False)
    arguments = chosen_arguments(plan.network, AUTOENCODERS)
    network = build_autoencoder(arguments)
    if plan.posterior_sd:
        start_narrow(network, plan.posterior_sd)
    _check_canvas(store, network)
    perceptual = build_perceptual(plan.perceptual, plan.perceptual_options)
    last, done = finished(run, network, plan)
    facts = perceptual.facts if perceptual else None
    start(run, "vae", plan, arguments, store=store.digest, perceptual_facts=facts)
    if last and done:
        return last
    batches = OrderedBatches(plan, store.array, training, validation, latent_shape(network, store.canvas))
    module = AutoencoderTraining(network, plan, batches.steps, perceptual)
    lines = ("loss", "loss/l1"), ("validation/psnr", "validation/ssim")
    return fit(module, batches, run, last, hardware or Hardware(), lines)


def _check_canvas(store: SliceStore, network: AutoencoderKL) -> None:
    factor = downsampling(network)
    if store.canvas[0] % factor or store.canvas[1] % factor:
        raise InputError(f"{store.folder}: slices of {store.canvas} are no multiples of {factor}, as the network needs")


def export_vae(plan: VaeConfiguration, checkpoint: Path, path: Path, data: str | Path) -> Card:
    """Write the averaged weights of a run to ``path`` (.safetensors) and their card; returns the card.

    The card holds the scale of the latents, measured on training slices, and the quality of held-out reconstructions.
    """
    store = SliceStore(data)
    training, validation = vae_slices(plan, store)
    arguments = chosen_arguments(plan.network, AUTOENCODERS)
    network = build_autoencoder(arguments).eval()
    network.load_state_dict(trained_state(checkpoint))
    perceptual = build_perceptual(plan.perceptual, plan.perceptual_options)
    facts = {
        **{name: value for name, value in asdict(plan).items() if name not in ("network", "perceptual_options")},
        "perceptual": perceptual.facts if perceptual else {"term": "none"},
        "optimiser": "Adam", "epochs_done": epochs_done(checkpoint), **describe(store, training, validation),
        "validation": validation_quality(network, store, evenly(validation, VALIDATION_SLICES)),
    }  # fmt: skip
    scale = measured_scale(network, store, evenly(training, SCALE_SLICES))
    return save_generative(network, generative_card("vae", arguments, scale, store, facts), path)


def describe(store: SliceStore, training: np.ndarray, validation: np.ndarray) -> dict[str, Any]:
    """What a card says about the slices of a run."""
    return {
        "slices": dict(Counter(store.items[n]["group"] for n in training)),
        "training_subjects": sorted({store.items[n]["subject"] for n in training}),
        "held_out_subjects": sorted({store.items[n]["subject"] for n in validation}),
        "store": store.digest,
    }


@torch.no_grad()
def validation_quality(network: AutoencoderKL, store: SliceStore, indices: np.ndarray) -> dict[str, float]:
    """Means of "l1", "psnr" and "ssim" of the decoded posterior means of these slices; empty for no slices."""
    rows = []
    for n in indices:
        image = torch.from_numpy(store.array[[n]].astype(np.float32))[None]
        quality = reconstruction_quality(network.reconstruct(image), image)
        rows.append({name: float(value) for name, value in quality.items()})
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} if rows else {}
