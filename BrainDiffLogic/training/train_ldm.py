"""Phase 2 from a slice store and an autoencoder to a latent diffusion model on disk."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import lightning as L
import numpy as np
from monai.networks.nets.autoencoderkl import AutoencoderKL

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import Card
from BrainDiffLogic.models.generative import DIFFUSION_MODELS, SCHEDULE, build_diffusion
from BrainDiffLogic.training.configuration import LdmConfiguration, chosen_arguments
from BrainDiffLogic.training.diffusion_phase import DiffusionTraining, prior_slices
from BrainDiffLogic.training.generative_checkpoints import check_slices, generative_card, load_vae, save_generative
from BrainDiffLogic.training.generative_run import finished, fit, start
from BrainDiffLogic.training.hardware import Hardware
from BrainDiffLogic.training.latents import latent_shape, latents_key, load_latents, make_latents
from BrainDiffLogic.training.ordered_batches import OrderedBatches
from BrainDiffLogic.training.run_folder import epochs_done, trained_state
from BrainDiffLogic.training.slice_store import SliceStore
from BrainDiffLogic.training.train_vae import describe


def train_ldm(
    plan: LdmConfiguration, data: str | Path, vae: str | Path, run: str | Path, hardware: Hardware | None = None
) -> Path:
    """Train the diffusion model on latents of the slice store ``data`` under the autoencoder file ``vae``.

    Goes on from ``run``/last.ckpt when that is there. The latents are encoded once, into ``run``. Returns
    ``run``/last.ckpt, for ``export_ldm``. Raises InputError where the store, the autoencoder, the configuration or the
    folder does not serve, and AssertionError for a slice that the prior must not know.
    """
    store, run = SliceStore(data), Path(run)
    autoencoder, card = load_vae(vae, frozen=True)
    check_slices(card, store)
    training, validation = store.hold_out(prior_slices(store, plan.group), plan.validation_share)
    L.seed_everything(plan.seed, workers=True, verbose=False)
    arguments = chosen_arguments(plan.network, DIFFUSION_MODELS)
    network = build_diffusion(arguments)
    check_latents(latent_shape(autoencoder, store.canvas), arguments)
    last, done = finished(run, network, plan)
    start(run, "ldm", plan, arguments, vae_sha256=card["sha256"], store=store.digest)
    if last and done:
        return last
    batches = LatentBatches(plan, store, (training, validation), autoencoder, card["sha256"], run)
    module = DiffusionTraining(network, plan, batches.steps, autoencoder)
    return fit(module, batches, run, last, hardware or Hardware(), (("loss",), ("validation/loss",)))


def check_latents(shape: tuple[int, int, int], arguments: dict[str, object]) -> None:
    """Raise InputError where latents (C, h, w) do not fit a diffusion model of these arguments."""
    levels = arguments.get("channels")
    multiple = 2 ** (len(levels) - 1) if isinstance(levels, list) else 1
    if arguments.get("in_channels") != shape[0]:
        raise InputError(f"the autoencoder's latents have {shape[0]} channels, the network takes another number")
    if shape[1] % multiple or shape[2] % multiple:
        raise InputError(f"latents of {shape[1]} x {shape[2]} are no multiples of {multiple}, as the network needs")


class LatentBatches(OrderedBatches):
    """Batches of scaled latents, which the first process encodes while the others wait."""

    def __init__(
        self, plan: LdmConfiguration, store: SliceStore, split: tuple[np.ndarray, np.ndarray], vae: AutoencoderKL,
        vae_sha256: str, folder: Path,
    ) -> None:  # fmt: skip
        training, validation = split
        places = np.arange(len(training) + len(validation))
        shape = latent_shape(vae, store.canvas)
        super().__init__(plan, store.array, places[: len(training)], places[len(training) :], shape)
        self.prepare_data_per_node = False  # one shared folder for all nodes
        self.store, self.vae, self.folder = store, vae, folder
        self.slices = np.concatenate([training, validation])
        self.key = latents_key(vae_sha256, store, self.slices, len(training))

    def prepare_data(self) -> None:
        """Encode, once for all processes."""
        device = self.trainer.strategy.root_device
        make_latents(self.folder, self.key, self.vae, self.store, self.slices, len(self.training), device)

    def setup(self, stage: str) -> None:
        """Read the latents, and tell the training their scale."""
        latents = load_latents(self.folder, self.key)
        self.array, self.scale = latents.array, latents.scale
        self.trainer.lightning_module.scale = latents.scale


def export_ldm(plan: LdmConfiguration, checkpoint: Path, path: Path, data: str | Path, vae: str | Path) -> Card:
    """Write the averaged weights of a run to ``path`` (.safetensors) and their card; returns the card.

    The latents of the run lie beside its checkpoint. The card names the autoencoder and the scale of its latents.
    """
    store = SliceStore(data)
    autoencoder, vae_card = load_vae(vae)
    training, validation = store.hold_out(prior_slices(store, plan.group), plan.validation_share)
    slices = np.concatenate([training, validation])
    latents = load_latents(checkpoint.parent, latents_key(vae_card["sha256"], store, slices, len(training)))
    arguments = chosen_arguments(plan.network, DIFFUSION_MODELS)
    network = build_diffusion(arguments)
    network.load_state_dict(trained_state(checkpoint))
    facts = {
        **{name: value for name, value in asdict(plan).items() if name != "network"},
        "optimiser": "Adam", "epochs_done": epochs_done(checkpoint), **describe(store, training, validation),
    }  # fmt: skip
    more = {
        "schedule": {**SCHEDULE, "prediction": "noise", "clip_sample": False},
        "vae": {"name": vae_card["name"], "sha256": vae_card["sha256"]},
        "latent": {"shape": list(latent_shape(autoencoder, store.canvas)), "posterior_sd": latents.posterior_sd},
    }
    return save_generative(network, generative_card("ldm", arguments, latents.scale, store, facts, **more), path)
