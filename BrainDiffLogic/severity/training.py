"""Training the severity network on pairs of a moved and a still slice."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from BrainDiffLogic.severity.network import SeverityNetwork
from BrainDiffLogic.severity.samples import PairSlices, Sample, SeverityPairs
from BrainDiffLogic.training.configuration import SeverityConfiguration
from BrainDiffLogic.training.optimisers import build_optimiser
from BrainDiffLogic.training.ordered_batches import GPU_WORKERS, Shares
from BrainDiffLogic.training.pairs import PairCache
from BrainDiffLogic.training.rates import rate_share

HUBER = 0.3
"""Error of log(1 + mm) from which on the loss is linear."""
SPREAD_WEIGHT = 0.05


class SeverityTraining(L.LightningModule):
    """Loss, optimiser and logging of a severity ``network``."""

    def __init__(self, network: SeverityNetwork, plan: SeverityConfiguration) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.plan = plan

    def training_step(self, batch: Sample, batch_index: int) -> Tensor:
        """Huber's loss of log(1 + mm) on {"slices": (N, 2, 1, H, W), "severity": (N, 2) mm}, and of its error.

        The spread is fitted as that of a Laplace distribution, without a say in the value: with one, the first steps
        run away. Huber, not squares: motion while the edge of k-space was read may be far and leave no trace.
        """
        error, spread = self._errors(batch)
        value_loss = functional.huber_loss(error, torch.zeros_like(error), delta=HUBER)
        spread_loss = (error.detach() * torch.exp(-spread) + spread).mean()
        loss = value_loss + SPREAD_WEIGHT * spread_loss
        self.log_dict({"loss": value_loss.detach(), "error": error.mean().detach()}, prog_bar=True)
        return loss

    def validation_step(self, batch: Sample, batch_index: int) -> None:
        """Mean absolute error of log(1 + mm), of moved and of still slices, on the calibration subjects."""
        error, _ = self._errors(batch)
        moved, still = error.view(-1, 2).mean(dim=0)
        values = {"validation/moved": moved, "validation/still": still}
        self.log_dict(values, sync_dist=True, batch_size=len(error) // 2, on_epoch=True)

    def _errors(self, batch: Sample) -> tuple[Tensor, Tensor]:
        """(absolute error of log(1 + mm), logarithm of its predicted mean), each (2 N,)."""
        slices = batch["slices"].flatten(0, 1).contiguous(memory_format=torch.channels_last)
        value, spread = self.network(slices).unbind(dim=1)
        return (value - torch.log1p(batch["severity"].flatten())).abs(), spread

    def configure_optimizers(self) -> Any:
        """The plan's optimiser with its rate."""
        plan = self.plan
        optimiser = build_optimiser(plan.optimiser, self.network, [self.network.head], plan.weight_decay)
        schedule = LambdaLR(
            optimiser, lambda step: plan.learning_rate * rate_share(plan, step, plan.steps)  # type: ignore[arg-type]
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class SeverityBatches(L.LightningDataModule):
    """Loaders of ``SeverityPairs``, rebuilt at each epoch.

    training, calibration  indices of pairs; each of the latter is validated on once
    """

    def __init__(
        self, plan: SeverityConfiguration, cache: PairCache, training: list[int], calibration: list[int]
    ) -> None:
        super().__init__()
        self.plan = plan
        self.slices, self.held_out = PairSlices(cache, training), PairSlices(cache, calibration)

    def train_dataloader(self) -> DataLoader[Sample]:
        """This process's share of the epoch's batches."""
        plan, trainer = self.plan, self.trainer
        epoch = trainer.current_epoch if trainer else 0
        count = plan.epoch_steps * plan.batch
        samples = SeverityPairs(self.slices, count, plan.crop, plan.seed, plan.variation, epoch)
        on_cpu = trainer is None or isinstance(trainer.accelerator, CPUAccelerator)
        shares = Shares.of(trainer, count, plan.batch, plan.accumulate)
        return DataLoader(samples, batch_sampler=shares, num_workers=0 if on_cpu else GPU_WORKERS)

    def val_dataloader(self) -> DataLoader[Sample]:
        """One window of each calibration pair."""
        plan = self.plan
        samples = SeverityPairs(self.held_out, len(self.held_out), plan.crop, plan.seed, None)
        return DataLoader(samples, plan.batch, num_workers=0)
