"""Phase 2 of BrainDiff: training the latent diffusion model on slices of one group."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch
from monai.networks.nets.autoencoderkl import AutoencoderKL
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.generative import build_schedule
from BrainDiffLogic.training.configuration import LdmConfiguration
from BrainDiffLogic.training.image_grid import log_grid
from BrainDiffLogic.training.ordered_batches import Sample
from BrainDiffLogic.training.rates import rate_share
from BrainDiffLogic.training.slice_store import SliceStore

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
            found = self.network(noisy, timestep).float()
            rows.append(vae.decode((noisy - (1 - kept).sqrt() * found) / kept.sqrt() / self.scale))
        log_grid(self, f"slice, denoised from t {', '.join(map(str, SHOWN_LEVELS))}", rows)

    def configure_optimizers(self) -> Any:
        """Adam, with the rate of the plan."""
        optimiser = torch.optim.Adam(self.network.parameters(), lr=self.plan.learning_rate)
        steps = self.plan.epochs * self.steps
        schedule = LambdaLR(optimiser, lambda step: rate_share(self.plan, step, steps))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
