"""Batches whose content depends on the seed and the epoch alone, not on workers, devices or interruptions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import lightning as L
import numpy as np
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from BrainDiffLogic.models.generative import SCHEDULE
from BrainDiffLogic.training.configuration import GenerativeConfiguration

Sample = dict[str, Tensor]
VALIDATION_EPOCH = 2**31 - 1
"""Seeds the noise of validation, which is always the same."""
VALIDATION_SLICES = 256
"""At most so many slices, evenly spread, are validated on."""
GPU_WORKERS = 4


def evenly(indices: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of the indices, evenly spread."""
    return indices[np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int)]


def steps_per_epoch(plan: GenerativeConfiguration, slices: int) -> int:
    """Optimiser steps of an epoch: once through the slices, without an incomplete batch, unless the plan says."""
    return plan.epoch_steps or max(1, slices // plan.batch)


class NoisySamples(Dataset[Sample]):
    """Sample p of an epoch: {"x" (C, h, w), "noise", "timestep"}; all three depend on (seed, epoch, p) alone.

    array, indices  (N, h, w) or (N, C, h, w) and those to take, in this order where ``count`` is None; else ``count``
                    of them in one random order after the other
    scale           factor on x
    noise_shape     of the standard normal noise: that of a latent
    """

    def __init__(
        self, array: np.ndarray, indices: np.ndarray, noise_shape: Sequence[int], seed: int, epoch: int,
        count: int | None = None, scale: float = 1.0,
    ) -> None:  # fmt: skip
        self.array, self.noise_shape, self.scale = array, tuple(noise_shape), np.float32(scale)
        self.seed, self.epoch = seed, epoch
        self.order = indices
        if count is not None:
            rng = np.random.default_rng([seed, epoch])
            rounds = [rng.permutation(indices) for _ in range(-(-count // len(indices)))]
            self.order = np.concatenate(rounds)[:count]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> Sample:
        rng = np.random.default_rng([self.seed, self.epoch, position])
        x = self.array[self.order[position]].astype(np.float32) * self.scale
        return {
            "x": torch.from_numpy(x if x.ndim == 3 else x[None]),
            "noise": torch.from_numpy(rng.standard_normal(self.noise_shape, dtype=np.float32)),
            "timestep": torch.tensor(int(rng.integers(SCHEDULE["num_train_timesteps"]))),
        }


class Shares(Sampler[list[int]]):
    """What one process computes, part by part: together the processes' shares are the batches of one process."""

    def __init__(self, samples: int, batch: int, accumulate: int, rank: int, processes: int) -> None:
        self.samples, self.rank = samples, rank
        self.part = batch // accumulate
        self.share = self.part // processes

    @classmethod
    def of(cls, trainer: L.Trainer | None, samples: int, batch: int, accumulate: int = 1) -> Shares:
        """The share of this process of the trainer's; without a trainer, all."""
        rank, processes = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        return cls(samples, batch, accumulate, rank, processes)

    def __len__(self) -> int:
        return self.samples // self.part

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(self.rank * self.share, len(self) * self.part, self.part):
            yield list(range(start, start + self.share))


class OrderedBatches(L.LightningDataModule):
    """Loaders of ``NoisySamples``, rebuilt at each epoch.

    array, training, validation  as ``NoisySamples`` takes them; ``scale`` too
    steps                        optimiser steps of an epoch
    """

    def __init__(
        self, plan: GenerativeConfiguration, array: np.ndarray, training: np.ndarray, validation: np.ndarray,
        noise_shape: Sequence[int], scale: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.plan, self.array, self.scale, self.noise_shape = plan, array, scale, noise_shape
        self.training, self.validation = training, evenly(validation, VALIDATION_SLICES)
        self.steps = steps_per_epoch(plan, len(training))

    def train_dataloader(self) -> DataLoader[Sample]:
        """This process's share of the epoch's batches."""
        plan, trainer = self.plan, self.trainer
        epoch = trainer.current_epoch if trainer else 0
        count = self.steps * plan.batch
        samples = NoisySamples(self.array, self.training, self.noise_shape, plan.seed, epoch, count, self.scale)
        shares = Shares.of(trainer, count, plan.batch, plan.accumulate)
        return DataLoader(samples, batch_sampler=shares, num_workers=self._workers())

    def val_dataloader(self) -> DataLoader[Sample]:
        """This process's part of the held-out slices."""
        rank, processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        samples = NoisySamples(
            self.array, self.validation, self.noise_shape, self.plan.seed, VALIDATION_EPOCH, scale=self.scale
        )
        batch = self.plan.batch // self.plan.accumulate
        mine = range(rank, len(samples), processes)
        batches = [list(mine[start : start + batch]) for start in range(0, len(mine), batch)]
        return DataLoader(samples, batch_sampler=batches, num_workers=0)

    def _workers(self) -> int:
        """A GPU would wait for its data; on a CPU the cores have better to do."""
        return 0 if self.trainer is None or isinstance(self.trainer.accelerator, CPUAccelerator) else GPU_WORKERS
