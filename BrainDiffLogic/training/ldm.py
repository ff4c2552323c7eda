"""Phase 2 of BrainDiff: the latent diffusion model of one group of slices, from a slice store to a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from monai.networks.nets.autoencoderkl import AutoencoderKL
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from torch import Tensor
from torch.nn import functional

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.files import digest
from BrainDiffLogic.images import staged_output
from BrainDiffLogic.models.checkpoints import Card, read_torch_state
from BrainDiffLogic.models.generative import (
    DIFFUSION_MODELS,
    SCHEDULE,
    build_diffusion,
    build_schedule,
    load_old_state,
    load_vae,
    translate_arguments,
)
from BrainDiffLogic.training.batches import Epoch, EpochBatches, NoisySamples, Sample, noisy_samples, steps_per_epoch
from BrainDiffLogic.training.configuration import LdmConfiguration, chosen_arguments
from BrainDiffLogic.training.fit import ONE_DEVICE, Hardware, epochs_done, fit, log_grid, open_epochs, trained_state
from BrainDiffLogic.training.optimisers import rate_share, scheduled
from BrainDiffLogic.training.slice_store import SliceStore, check_slices, save_generative
from BrainDiffLogic.training.vae import OLD_WEIGHTS, ORIGIN, encode_into, latent_shape, slice_facts

LATENTS, FACTS = "latents.npy", "latents.json"
SHOWN_LEVELS = (100, 300, 500)
"""Noise levels of the pictures: signal fractions .89, .53 and .22."""
SHOWN = 4


def prior_slices(store: SliceStore, group: str) -> np.ndarray:
    """Indices of the slices of the prior split that a prior of ``group`` may know. Raises InputError for none."""
    indices = store.select(split="prior", group=group)
    if not len(indices):
        raise InputError(f"{store.folder}: no {group} slices in the prior split; add scans or change the shares")
    assert_prior(store, indices, group)
    return indices


def assert_prior(store: SliceStore, indices: np.ndarray, group: str) -> None:
    """Raise AssertionError, naming the scan, for a slice of another group or split: the paper trains on motion only."""
    for n in indices:
        item = store.items[n]
        if item["group"] != group or item["split"] != "prior":
            where = f"group {item['group']}, split {item['split']}"
            raise AssertionError(f"{item['scan']} ({where}) among the {group} slices of the prior")


class DiffusionTraining(L.LightningModule):
    """Loss, optimiser and logging of a diffusion ``network`` that finds the noise in scaled latents (Ho 2020, eq. 14).

    steps       optimiser steps of an epoch
    vae, scale  decode latents for the pictures; no part of the module, nor of its checkpoints
    """

    def __init__(
        self, network: DiffusionModelUNet, plan: LdmConfiguration, steps: int, vae: AutoencoderKL, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.network, self.plan, self.steps, self.scale = network, plan, steps, scale
        self.frozen = (vae,)  # a tuple hides it from the module's parameters
        self.schedule = build_schedule()

    def training_step(self, batch: Sample, batch_index: int) -> Tensor:
        """Mean squared error of the noise in {"x": scaled latents (N, C, h, w), "noise", "timestep": (N,)}."""
        loss = self._loss(batch)
        self.log("loss", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: Sample, batch_index: int) -> None:
        """The loss with noise and levels that are always the same; pictures every few epochs."""
        self.log("validation/loss", self._loss(batch), sync_dist=True, batch_size=len(batch["x"]), on_epoch=True)
        if batch_index == 0 and (self.current_epoch + 1) % self.plan.images_every == 0:
            self._log_pictures(batch["x"][:SHOWN], batch["noise"][:SHOWN])

    def _loss(self, batch: Sample) -> Tensor:
        noisy = self.schedule.add_noise(batch["x"], batch["noise"], batch["timestep"])
        return functional.mse_loss(self.network(noisy, batch["timestep"]).float(), batch["noise"])

    def _log_pictures(self, latents: Tensor, noise: Tensor) -> None:
        """The slices, and below them what one step leads back to from each of some noise levels."""
        vae = self.frozen[0].to(self.device)
        rows = [vae.decode(latents / self.scale)]
        for level in SHOWN_LEVELS:
            timestep = torch.full((len(latents),), level, device=self.device)
            kept = self.schedule.alphas_cumprod[level].to(self.device)
            noisy = self.schedule.add_noise(latents, noise, timestep)
            predicted = self.network(noisy, timestep).float()
            rows.append(vae.decode((noisy - (1 - kept).sqrt() * predicted) / kept.sqrt() / self.scale))
        log_grid(self, f"slice, denoised from t {', '.join(map(str, SHOWN_LEVELS))}", rows)

    def configure_optimizers(self) -> Any:
        """Adam, with the rate of the plan."""
        optimiser = torch.optim.Adam(self.network.parameters(), lr=self.plan.learning_rate)
        steps = self.plan.epochs * self.steps
        return scheduled(optimiser, lambda step: rate_share(step, steps, self.plan.warmup, self.plan.decay))


def train_ldm(
    plan: LdmConfiguration, data: str | Path, vae: str | Path, run: str | Path, hardware: Hardware = ONE_DEVICE
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
    identity = {"vae_sha256": card["sha256"], "store": store.digest}
    last = open_epochs(run, network, plan, phase="ldm", network=arguments, **identity)
    if last and epochs_done(last) >= plan.epochs:
        return last
    batches = LatentBatches(plan, store, (training, validation), autoencoder, card["sha256"], run)
    module = DiffusionTraining(network, plan, batches.steps, autoencoder)
    return fit(module, batches, run, hardware, epochs=plan.epochs, last=last, shown=("loss", "validation/loss"),
               validate_every=plan.validate_every)  # fmt: skip


def check_latents(shape: tuple[int, int, int], arguments: dict[str, object]) -> None:
    """Raise InputError where latents (C, h, w) do not fit a diffusion model of these arguments."""
    levels = arguments.get("channels")
    multiple = 2 ** (len(levels) - 1) if isinstance(levels, list) else 1
    if arguments.get("in_channels") != shape[0]:
        raise InputError(f"the autoencoder's latents have {shape[0]} channels, the network takes another number")
    if shape[1] % multiple or shape[2] % multiple:
        raise InputError(f"latents of {shape[1]} x {shape[2]} are no multiples of {multiple}, as the network needs")


class LatentBatches(EpochBatches):
    """Batches of scaled latents, which the first process encodes while the others wait."""

    def __init__(
        self, plan: LdmConfiguration, store: SliceStore, split: tuple[np.ndarray, np.ndarray], vae: AutoencoderKL,
        vae_sha256: str, folder: Path,
    ) -> None:  # fmt: skip
        self.store, self.vae, self.folder = store, vae, folder
        self.slices, self.count = np.concatenate(split), len(split[0])
        self.key = latents_key(vae_sha256, store, self.slices, self.count)
        self.plan, self.shape = plan, latent_shape(vae, store.canvas)
        super().__init__(plan, *self._samples(np.empty(0)), steps_per_epoch(plan, self.count))
        self.prepare_data_per_node = False  # one shared folder for all nodes

    def _samples(self, array: np.ndarray, scale: float = 1.0) -> tuple[Epoch, NoisySamples]:
        places = np.arange(len(self.slices))
        return noisy_samples(self.plan, array, places[: self.count], places[self.count :], self.shape, scale)

    def prepare_data(self) -> None:
        """Encode, once for all processes."""
        device = self.trainer.strategy.root_device
        make_latents(self.folder, self.key, self.vae, self.store, self.slices, self.count, device)

    def setup(self, stage: str) -> None:
        """Read the latents, and tell the training their scale."""
        latents = load_latents(self.folder, self.key)
        self.training, self.validation = self._samples(latents.array, latents.scale)
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
        "optimiser": "Adam", "epochs_done": epochs_done(checkpoint), **slice_facts(store, training, validation),
    }  # fmt: skip
    latent = {"shape": list(latent_shape(autoencoder, store.canvas)), "posterior_sd": latents.posterior_sd}
    return save_generative(network, "ldm", path, arguments, latents.scale, store, facts, **_entries(vae_card, latent))


def _entries(vae_card: Card, latent: dict[str, Any]) -> dict[str, Any]:
    """What the card of a diffusion model says beside what every card does."""
    schedule = {**SCHEDULE, "prediction": "noise", "clip_sample": False}
    return {"schedule": schedule, "vae": {name: vae_card[name] for name in ("name", "sha256")}, "latent": latent}


@dataclass(frozen=True)
class Latents:
    """Posterior means (N, C, h, w) float16, memory-mapped, of the slices that were asked for, in their order.

    sd            standard deviation of all values of the training latents
    posterior_sd  mean standard deviation of their posteriors

    Only the means are kept. Injection starts from them, and with the paper's weight of the KL term (1e-6) a posterior
    is so narrow (``posterior_sd`` / ``sd``) that sampling it would add less than the first steps of the diffusion.
    """

    array: np.ndarray
    sd: float
    posterior_sd: float

    @property
    def scale(self) -> float:
        """1 / sd: scaled latents have the variance that the noise schedule assumes (Rombach 2022, section 4)."""
        return 1 / self.sd


def latents_key(vae_sha256: str, store: SliceStore, indices: np.ndarray, training: int) -> str:
    """What cached latents were made from: the autoencoder, the slices, and how many of them are trained on."""
    return digest([vae_sha256, store.digest, training, indices.tolist()])


def make_latents(
    folder: Path, key: str, vae: AutoencoderKL, store: SliceStore, indices: np.ndarray, training: int,
    device: torch.device,
) -> None:  # fmt: skip
    """Encode the slices ``indices`` into ``folder``, unless they lie there; the first ``training`` set the scale."""
    if _facts(folder).get("key") == key:
        return
    shape = (len(indices), *latent_shape(vae, store.canvas))
    with staged_output(folder / FACTS) as staged:
        array = np.lib.format.open_memmap(staged.with_name(LATENTS), mode="w+", dtype=np.float16, shape=shape)
        spread = encode_into(array, vae.to(device), store, indices, training)
        array.flush()
        del array
        staged.write_text(json.dumps({"key": key, **spread}) + "\n", encoding="utf-8")
    vae.to("cpu")


def load_latents(folder: Path, key: str) -> Latents:
    """The cached latents of ``key``. Raises InputError where others, or none, lie in the folder."""
    facts = _facts(folder)
    if facts.get("key") != key:
        raise InputError(f"{folder / LATENTS}: no latents of these slices; start the phase again")
    array = np.load(folder / LATENTS, mmap_mode="r")
    return Latents(array, float(facts["sd"]), float(facts["posterior_sd"]))


def _facts(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / FACTS).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


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
    load_old_state(network, read_torch_state(old, OLD_WEIGHTS))
    store, (autoencoder, vae_card) = SliceStore(data), load_vae(vae)
    shape = latent_shape(autoencoder, store.canvas)
    check_latents(shape, arguments)
    facts = {"origin": ORIGIN, "group": plan.group}
    scale = scale or float(vae_card["scale"])
    more = _entries(vae_card, {"shape": list(shape)})
    return save_generative(network, "ldm", path, arguments, scale, store, facts, **more)
