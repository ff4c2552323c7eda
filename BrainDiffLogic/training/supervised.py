"""Supervised training of a corrector on (moved, still) slices."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.trajectory import stratum
from BrainDiffLogic.training import losses
from BrainDiffLogic.training.configuration import CorrectorConfiguration, Stage
from BrainDiffLogic.training.losses import ContrastiveLoss
from BrainDiffLogic.training.optimisers import build_optimiser
from BrainDiffLogic.training.perceptual import GradientTerm
from BrainDiffLogic.training.slices import Sample

GRADIENTS_EVERY = 100
"""Steps from one log of the terms' gradients to the next; a multiple of the trainer's interval of logging."""


class SupervisedCorrection(L.LightningModule):
    """Loss, optimiser and logging of a corrector ``network``: (N, context, H, W) to (N, 1, H, W).

    contrastive  the term "info_nce" of the loss, needed where a stage has it
    """

    def __init__(
        self, network: nn.Module, configuration: CorrectorConfiguration, contrastive: ContrastiveLoss | None = None
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.configuration, self.contrastive = configuration, contrastive
        self.gradient_ssim = GradientTerm()
        self.sums: dict[str, list[float]] = {}

    def training_step(self, batch: Sample, batch_index: int) -> Tensor:
        """The stage's loss on {"moved": (N, context, H, W), "clean": (N, 1, H, W)}."""
        moved = batch["moved"].contiguous(memory_format=torch.channels_last)
        predictions = [p.float() for p in self.network.scale_predictions(moved)]
        centre = self._centre(batch)
        stage, _ = stage_at(self.configuration.stages, self.global_step)
        even = torch.ones_like(centre[:1, :, :1, :1])
        weights = losses.pair_weights(centre, batch["clean"]) if stage.balance else even
        terms = self._terms(stage, predictions, batch["clean"], centre, weights)
        for name, value in terms.items():
            self.log(f"loss/{name}", value)
        weighted = {name: stage.loss[name] * value for name, value in terms.items()}
        loss = torch.stack(list(weighted.values())).sum()
        if len(terms) > 1 and (self.global_step + 1) % GRADIENTS_EVERY == 0:
            shares = losses.gradient_shares(weighted, predictions[-1])
            self.log_dict({f"gradient_share/{name}": share for name, share in shares.items()})
        share = (predictions[-1] - batch["clean"]).abs().mean() / (centre - batch["clean"]).abs().mean()
        self.log_dict({"loss": loss, "share_of_input_error": share}, prog_bar=True)
        return loss

    def _terms(
        self, stage: Stage, predictions: list[Tensor], clean: Tensor, moved: Tensor, weights: Tensor
    ) -> dict[str, Tensor]:
        """The terms of the stage's loss whose weight is not 0."""
        compute = {
            "l1": lambda: losses.l1(predictions[-1], clean, weights),
            "tv": lambda: losses.total_variation(predictions[-1] - clean),
            "multi_scale_l2": lambda: losses.multi_scale_l2(predictions, clean, weights),
            "multi_scale_l1": lambda: losses.multi_scale_l1(predictions, clean, weights),
            "gradient_ssim": lambda: self.gradient_ssim(predictions[-1], clean),
            "frequency": lambda: losses.frequency_l1(predictions[-1], clean),
            "info_nce": lambda: self._contrast(predictions[-1], clean, moved),
        }
        return {name: compute[name]() for name, weight in stage.loss.items() if weight}

    def _contrast(self, prediction: Tensor, clean: Tensor, moved: Tensor) -> Tensor:
        if self.contrastive is None:
            raise InputError("the loss has the term info_nce, which needs an autoencoder; give --vae")
        return self.contrastive(prediction, clean, moved)

    def validation_step(self, batch: Sample, batch_index: int) -> None:
        """Absolute errors of the correction and of doing nothing, by severity stratum where it is known."""
        moved = batch["moved"].contiguous(memory_format=torch.channels_last)
        centre = self._centre(batch)
        corrected = centre - self.network(moved).float()
        errors = [(image - batch["clean"]).abs().mean(dim=(1, 2, 3)) for image in (corrected, centre)]
        known = batch["severity"].tolist() if "severity" in batch else [None] * len(centre)
        rows = zip(known, *(error.tolist() for error in errors), strict=True)
        for severity, after, before in rows:
            for key in ("all",) if severity is None else (stratum(severity) if severity else "still", "all"):
                sums = self.sums.setdefault(key, [0.0, 0.0, 0.0])
                for position, value in enumerate((after, before, 1.0)):
                    sums[position] += value

    def on_validation_epoch_end(self) -> None:
        """Log the error that remains as a share of the input's by stratum; of still scans the error, 1e-3."""
        for key, (after, before, count) in self.sums.items():
            if key == "still":
                self.log("validation/still_error_1e-3", 1e3 * after / count)
            else:
                self.log(f"validation/{key}", after / max(before, 1e-9), prog_bar=key == "all")
        self.sums.clear()

    def configure_optimizers(self) -> Any:
        """The configuration's optimiser with the learning rate of the stages."""
        configuration, heads = self.configuration, self.network.body.heads
        optimiser = build_optimiser(configuration.optimiser, self.network, heads, configuration.weight_decay)
        schedule = LambdaLR(optimiser, lambda step: learning_rate(configuration.stages, step))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _centre(self, batch: Sample) -> Tensor:
        middle = batch["moved"].shape[1] // 2
        return batch["moved"][:, middle : middle + 1]


def stage_at(stages: list[Stage], step: int) -> tuple[Stage, int]:
    """The stage that optimiser step ``step`` belongs to, and the step within it."""
    for stage in stages[:-1]:
        if step < stage.steps:
            return stage, step
        step -= stage.steps
    return stages[-1], step


def learning_rate(stages: list[Stage], step: int) -> float:
    """Linear warm-up, constant, then linear decay to 0 in each stage."""
    stage, step = stage_at(stages, step)
    rising = min(1.0, (step + 1) / max(stage.warmup, 1))
    falling = (stage.steps - step) / max(stage.decay * stage.steps, 1)
    return stage.learning_rate * max(0.0, min(rising, falling, 1.0))
