"""Phase 1 of BrainDiff: the autoencoder, from a slice store to a file, with and without a discriminator."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from monai.losses.adversarial_loss import PatchAdversarialLoss
from monai.metrics.regression import SSIMMetric
from monai.networks.nets.autoencoderkl import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import Card, read_torch_state
from BrainDiffLogic.models.generative import (
    AUTOENCODERS,
    build_autoencoder,
    build_discriminator,
    downsampling,
    load_old_state,
    start_narrow,
    translate_arguments,
)
from BrainDiffLogic.training.batches import (
    VALIDATION_SLICES,
    EpochBatches,
    Sample,
    evenly,
    noisy_samples,
    steps_per_epoch,
)
from BrainDiffLogic.training.configuration import VaeConfiguration, chosen_arguments
from BrainDiffLogic.training.fit import ONE_DEVICE, Hardware, epochs_done, fit, log_grid, open_epochs, trained_state
from BrainDiffLogic.training.losses import PerceptualTerm, build_perceptual
from BrainDiffLogic.training.optimisers import rate_share
from BrainDiffLogic.training.slice_store import SliceStore, save_generative

SCALE_SLICES = 512
"""So many training slices, evenly spread, tell the standard deviation of the latents to better than 1 %."""
OLD_WEIGHTS = "save network.state_dict() of monai-generative with torch.save, and give that file"
ORIGIN = "trained elsewhere with monai-generative; subjects unknown"
ENCODING_BATCH = 8


class AutoencoderTraining(L.LightningModule):
    """Losses, optimisers and logging of an autoencoder ``network``: (N, 1, H, W) network units to the same.

    steps       optimiser steps of an epoch
    perceptual  term of the loss; its frozen weights are no part of the module, nor of its checkpoints

    Two optimisers that take turns need manual optimisation: rates, clipping and accumulation are done here.
    """

    def __init__(
        self, network: AutoencoderKL, plan: VaeConfiguration, steps: int, perceptual: PerceptualTerm | None
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network.to(memory_format=torch.channels_last)
        self.plan, self.steps = plan, steps
        self.frozen = (perceptual,)  # a tuple hides it from the module's parameters
        self.discriminator = None
        if plan.adversarial_weight:
            self.discriminator = build_discriminator(plan.discriminator_channels, plan.discriminator_layers)
        self.adversarial = PatchAdversarialLoss(criterion="least_squares")

    def on_fit_start(self) -> None:
        """Move what is no part of the module."""
        if self.frozen[0] is not None:
            self.frozen[0].to(self.device)

    def training_step(self, batch: Sample, batch_index: int) -> None:
        """One part of a batch through the autoencoder, and its reconstruction through the discriminator."""
        optimisers = self.optimizers()
        optimisers = optimisers if isinstance(optimisers, list) else [optimisers]
        self._set_rates(optimisers, batch_index)
        judged = self.discriminator is not None and self.current_epoch >= self.plan.adversarial_from
        reconstruction = self._step(optimisers[0], batch_index, lambda: self._autoencoder_loss(batch, judged))
        if judged:
            self._step(optimisers[1], batch_index, lambda: self._judge_loss(reconstruction, batch["x"]))

    def _step(self, optimiser: LightningOptimizer, batch_index: int, compute: Any) -> Tensor:
        """Backward through the loss of ``compute``, and a step after the last part; returns its second value."""
        part = batch_index % self.plan.accumulate
        last = part == self.plan.accumulate - 1
        with optimiser.toggle_model(sync_grad=last):
            if part == 0:
                optimiser.zero_grad()
            loss, value = compute()
            self.manual_backward(loss / self.plan.accumulate)
            if last:
                if self.plan.clip:
                    self.clip_gradients(optimiser, self.plan.clip, "norm")
                optimiser.step()
        return value

    def _autoencoder_loss(self, batch: Sample, judged: bool) -> tuple[Tensor, Tensor]:
        """BrainDiff eq. 1, and the reconstruction (N, 1, H, W) without its gradient."""
        plan, image = self.plan, batch["x"]
        mean, sd = self.network.encode(image)
        reconstruction = self.network.decode(mean + sd * batch["noise"])
        terms = {"l1": (1.0, functional.l1_loss(reconstruction.float(), image))}
        terms["kl"] = (plan.kl_weight, kl_divergence(mean, sd))
        if self.frozen[0] is not None:
            terms["perceptual"] = (plan.perceptual_weight, self.frozen[0](reconstruction, image))
        if judged and self.discriminator is not None:
            scores = self.discriminator(reconstruction.contiguous())[-1].float()
            wanted = self.adversarial(scores, target_is_real=True, for_discriminator=False)
            terms["adversarial"] = (plan.adversarial_weight, wanted)
        loss = torch.stack([weight * value for weight, value in terms.values()]).sum()
        self.log_dict({f"loss/{name}": value.detach() for name, (_, value) in terms.items()})
        self.log("loss", loss.detach(), prog_bar=True)
        return loss, reconstruction.detach()

    def _judge_loss(self, reconstruction: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Least squares of the discriminator (Mao 2017); the weight changes nothing but Adam's epsilon (tutorial)."""
        assert self.discriminator is not None
        scores = [self.discriminator(x.contiguous())[-1].float() for x in (reconstruction, image)]
        losses = [
            self.adversarial(score, target_is_real=real, for_discriminator=True)
            for score, real in zip(scores, (False, True), strict=True)
        ]
        loss = self.plan.adversarial_weight * 0.5 * torch.stack(losses).sum()
        self.log("loss/discriminator", loss.detach())
        return loss, loss

    def validation_step(self, batch: Sample, batch_index: int) -> None:
        """L1, PSNR (range 1) and SSIM of the decoded posterior mean; a grid of pictures every few epochs."""
        image = batch["x"]
        reconstruction = self.network.reconstruct(image).float()
        values = {f"validation/{name}": value for name, value in reconstruction_quality(reconstruction, image).items()}
        self.log_dict(values, sync_dist=True, batch_size=len(image), on_epoch=True)
        if batch_index == 0 and (self.current_epoch + 1) % self.plan.images_every == 0:
            rows = [image, reconstruction, 0.5 + 2 * (reconstruction - image)]
            log_grid(self, "image, reconstruction, difference x 2", rows)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the autoencoder, and one for the discriminator where there is one."""
        optimisers = [torch.optim.Adam(self.network.parameters(), lr=self.plan.learning_rate)]
        if self.discriminator is not None:
            optimisers.append(torch.optim.Adam(self.discriminator.parameters(), lr=self.plan.discriminator_rate))
        return list(optimisers)

    def _set_rates(self, optimisers: list[LightningOptimizer], batch_index: int) -> None:
        step = self.current_epoch * self.steps + batch_index // self.plan.accumulate
        share = rate_share(step, self.plan.epochs * self.steps, self.plan.warmup, self.plan.decay)
        rates = (self.plan.learning_rate, self.plan.discriminator_rate)
        for optimiser, rate in zip(optimisers, rates, strict=False):
            for group in optimiser.param_groups:
                group["lr"] = rate * share


def kl_divergence(mean: Tensor, sd: Tensor) -> Tensor:
    """Of N(mean, sd^2), each (N, C, h, w), from N(0, 1): summed over a latent, averaged over the batch (tutorial)."""
    mean, sd = mean.float(), sd.float()
    return 0.5 * (mean**2 + sd**2 - 2 * torch.log(sd) - 1).sum(dim=(1, 2, 3)).mean()


def reconstruction_quality(image: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """Means over (N, 1, H, W) in network units: "l1"; "psnr" in dB for a range of 1; "ssim", Gaussian, range 1."""
    error = (image - reference).float()
    psnr = -10 * torch.log10(error.square().mean(dim=(1, 2, 3)) + 1e-12)
    ssim = SSIMMetric(spatial_dims=2, data_range=1.0)(image.float(), reference.float())
    return {"l1": error.abs().mean(), "psnr": psnr.mean(), "ssim": ssim.mean()}


def vae_slices(plan: VaeConfiguration, store: SliceStore) -> tuple[np.ndarray, np.ndarray]:
    """(training, validation) indices: both groups of the plan's splits, by subject. Raises InputError for none."""
    indices = np.concatenate([store.select(split=split) for split in plan.splits])
    if not len(indices):
        raise InputError(f"{store.folder}: no slices in the splits {', '.join(plan.splits)}; add scans")
    return store.hold_out(indices, plan.validation_share)


def train_vae(plan: VaeConfiguration, data: str | Path, run: str | Path, hardware: Hardware = ONE_DEVICE) -> Path:
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
    facts = perceptual.facts if perceptual else None
    last = open_epochs(run, network, plan, phase="vae", network=arguments, store=store.digest, perceptual_facts=facts)
    if last and epochs_done(last) >= plan.epochs:
        return last
    samples = noisy_samples(plan, store.array, training, validation, latent_shape(network, store.canvas))
    batches = EpochBatches(plan, *samples, steps_per_epoch(plan, len(training)))
    module = AutoencoderTraining(network, plan, batches.steps, perceptual)
    shown = ("loss", "loss/l1", "validation/psnr", "validation/ssim")
    return fit(module, batches, run, hardware, epochs=plan.epochs, last=last, shown=shown,
               validate_every=plan.validate_every)  # fmt: skip


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
        "optimiser": "Adam", "epochs_done": epochs_done(checkpoint), **slice_facts(store, training, validation),
        "validation": validation_quality(network, store, evenly(validation, VALIDATION_SLICES)),
    }  # fmt: skip
    scale = measured_scale(network, store, evenly(training, SCALE_SLICES))
    return save_generative(network, "vae", path, arguments, scale, store, facts)


def slice_facts(store: SliceStore, training: np.ndarray, validation: np.ndarray) -> dict[str, Any]:
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


def latent_shape(vae: AutoencoderKL, canvas: tuple[int, int]) -> tuple[int, int, int]:
    """(C, h, w) of the latent of a slice of ``canvas`` (rows, columns)."""
    factor = downsampling(vae)
    return vae.latent_channels, canvas[0] // factor, canvas[1] // factor


@torch.no_grad()
def encode_into(
    array: np.ndarray, vae: AutoencoderKL, store: SliceStore, indices: np.ndarray, training: int
) -> dict[str, float]:
    """Fill ``array``; returns "sd" and "posterior_sd" of the first ``training`` latents."""
    device = next(vae.parameters()).device
    total = squares = widths = count = 0.0
    for start in range(0, len(indices), ENCODING_BATCH):
        chosen = indices[start : start + ENCODING_BATCH]
        images = torch.from_numpy(store.array[chosen].astype(np.float32))[:, None].to(device)
        mean, sd = (tensor.float().cpu() for tensor in vae.encode(images))
        array[start : start + len(chosen)] = mean.numpy()
        mean, sd = (tensor[: max(0, training - start)].double() for tensor in (mean, sd))
        total, squares = total + float(mean.sum()), squares + float((mean**2).sum())
        widths, count = widths + float(sd.sum()), count + mean.numel()
    return {"sd": math.sqrt(squares / count - (total / count) ** 2), "posterior_sd": widths / count}


def measured_scale(vae: AutoencoderKL, store: SliceStore, indices: np.ndarray) -> float:
    """1 / standard deviation of the latents of these slices; nothing is stored."""
    array = np.empty((len(indices), *latent_shape(vae, store.canvas)), dtype=np.float16)
    return 1 / encode_into(array, vae, store, indices, len(indices))["sd"]


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
    load_old_state(network, read_torch_state(old, OLD_WEIGHTS))
    store = SliceStore(data)
    slices = store.select(split="prior")
    facts = {"origin": ORIGIN, "validation": validation_quality(network, store, evenly(slices, VALIDATION_SLICES))}
    scale = scale or measured_scale(network, store, evenly(slices, SCALE_SLICES))
    return save_generative(network, "vae", path, arguments, scale, store, facts)
