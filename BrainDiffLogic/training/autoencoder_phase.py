"""Phase 1 of BrainDiff: training the autoencoder on slices, with and without a discriminator."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from monai.losses.adversarial_loss import PatchAdversarialLoss
from monai.metrics.regression import SSIMMetric
from monai.networks.nets.autoencoderkl import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from BrainDiffLogic.models.generative import build_discriminator
from BrainDiffLogic.training.configuration import VaeConfiguration
from BrainDiffLogic.training.image_grid import log_grid
from BrainDiffLogic.training.ordered_batches import Sample
from BrainDiffLogic.training.perceptual import PerceptualTerm
from BrainDiffLogic.training.rates import rate_share


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
        share = rate_share(self.plan, step, self.plan.epochs * self.steps)
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
