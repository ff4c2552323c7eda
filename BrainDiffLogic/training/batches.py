"""What a phase trains and validates on, batch by batch: the same for every number of processes.

All that is random depends on the seed, the epoch and the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import lightning as L
import numpy as np
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from BrainDiffLogic.models.generative import SCHEDULE
from BrainDiffLogic.training.configuration import CorrectorConfiguration, Fitting, GenerativeConfiguration

Sample = dict[str, Tensor]
VALIDATION_EPOCH = 2**31 - 1
"""Seeds the noise of validation, which is always the same."""
VALIDATION_SLICES = 256
"""At most so many slices, evenly spread, are validated on."""
GPU_WORKERS = 4
"""Processes that load: a GPU would wait for its data; on a CPU the cores have better to do."""
Epoch = Callable[[int, int], "Dataset[Sample]"]
"""(epoch, samples) to the dataset of an epoch."""


def evenly(indices: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of the indices, evenly spread."""
    return indices[np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int)]


def steps_per_epoch(plan: GenerativeConfiguration | CorrectorConfiguration, slices: int) -> int:
    """Optimiser steps of an epoch: once through the slices, without an incomplete batch, unless the plan says."""
    return plan.epoch_steps or max(1, slices // plan.batch)


def in_rounds(indices: np.ndarray, count: int, seed: int, epoch: int) -> np.ndarray:
    """``count`` of the indices, one random order of all after the other."""
    rng = np.random.default_rng([seed, epoch])
    return np.concatenate([rng.permutation(indices) for _ in range(-(-count // len(indices)))])[:count]


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
        self.order = indices if count is None else in_rounds(indices, count, seed, epoch)

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


class ProcessBatches(Sampler[list[int]]):
    """What one process computes, part by part: together the processes' shares are the batches of one process."""

    def __init__(self, samples: int, batch: int, accumulate: int, rank: int, processes: int) -> None:
        self.samples, self.rank = samples, rank
        # every process takes a slice of every part: so parts, and the gradients summed over them, are the same batch
        self.part = batch // accumulate
        self.share = self.part // processes

    @classmethod
    def of(cls, trainer: L.Trainer | None, samples: int, batch: int, accumulate: int = 1) -> ProcessBatches:
        """The share of this process of the trainer's; without a trainer, all."""
        rank, processes = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        return cls(samples, batch, accumulate, rank, processes)

    def __len__(self) -> int:
        return self.samples // self.part

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(self.rank * self.share, len(self) * self.part, self.part):
            yield list(range(start, start + self.share))


class EpochBatches(L.LightningDataModule):
    """Loaders rebuilt at each epoch.

    training    the dataset of an epoch, a new one for each
    validation  always the same; every process measures all of it
    steps       optimiser steps of an epoch
    total       of the whole run, where its last epoch may be shorter
    workers     processes that load; None: as ``GPU_WORKERS`` says
    """

    def __init__(
        self, plan: Fitting, training: Epoch, validation: Dataset[Sample], steps: int, total: int | None = None,
        workers: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.plan, self.training, self.validation = plan, training, validation
        self.steps, self.total, self.workers = steps, total, workers

    def train_dataloader(self) -> DataLoader[Sample]:
        """This process's share of the epoch's batches."""
        plan, trainer = self.plan, self.trainer
        epoch = trainer.current_epoch if trainer else 0
        steps = self.steps if self.total is None else min(self.steps, self.total - epoch * self.steps)
        samples, workers = self.training(epoch, steps * plan.batch), self.workers
        if workers is None:
            workers = 0 if trainer is None or isinstance(trainer.accelerator, CPUAccelerator) else GPU_WORKERS
        if isinstance(samples, IterableDataset):
            return DataLoader(samples, plan.batch // plan.accumulate, num_workers=workers)
        shares = ProcessBatches.of(trainer, steps * plan.batch, plan.batch, plan.accumulate)
        return DataLoader(samples, batch_sampler=shares, num_workers=workers)

    def val_dataloader(self) -> DataLoader[Sample]:
        """The held-out samples."""
        return DataLoader(self.validation, self.plan.batch // self.plan.accumulate)


def noisy_samples(
    plan: Fitting, array: np.ndarray, training: np.ndarray, validation: np.ndarray,
    noise_shape: Sequence[int], scale: float = 1.0,
) -> tuple[Epoch, NoisySamples]:  # fmt: skip
    """What phases 1 and 2 train and validate on; array to noise_shape as ``NoisySamples`` takes them."""

    def epoch(number: int, count: int) -> NoisySamples:
        return NoisySamples(array, training, noise_shape, plan.seed, number, count, scale)

    held_out = evenly(validation, VALIDATION_SLICES)
    return epoch, NoisySamples(array, held_out, noise_shape, plan.seed, VALIDATION_EPOCH, scale=scale)
