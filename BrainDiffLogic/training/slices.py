"""Slices out of simulated pairs, as batches for a corrector."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from BrainDiffLogic.training.implants import implant
from BrainDiffLogic.training.masking import mask_slice
from BrainDiffLogic.training.pairs import PairCache

Sample = dict[str, Tensor]
GAIN = (0.9, 1.1)
SLICES_PER_PAIR = 40


def take_slice(
    stacks: np.ndarray, index: int, context: int, crop: int, rng: np.random.Generator, lesions: float = 0.0,
    masked: float = 0.0,
) -> Sample:  # fmt: skip
    """One training sample out of (2, slices, rows, columns): moved, still.

    "moved" (context, crop, crop) and "clean" (1, crop, crop) float32: a random window (zeros outside the
    image), a random gain, and the neighbours in a random order of left and right. Slices beyond the stack
    repeat the last one.

    lesions  how likely lesions are put into both, see ``implants``
    masked   how likely the air of both is masked, see ``masking.mask_slice``
    """
    slices, rows, columns = stacks.shape[1:]
    order = np.arange(context) - context // 2
    neighbours = np.clip(index + (order if rng.random() < 0.5 else -order), 0, slices - 1)
    window, place = [], []
    for size in (rows, columns):
        start = int(rng.integers(min(0, size - crop), max(0, size - crop) + 1))
        window.append(slice(max(0, start), max(0, start) + min(size, crop)))
        place.append(slice(max(0, -start), max(0, -start) + min(size, crop)))
    gain = np.float32(rng.uniform(*GAIN))
    moved = np.zeros((context, crop, crop), dtype=np.float32)
    clean = np.zeros((1, crop, crop), dtype=np.float32)
    moved[:, place[0], place[1]] = stacks[0][neighbours][:, window[0], window[1]] * gain
    clean[:, place[0], place[1]] = stacks[1][index : index + 1, window[0], window[1]] * gain
    if lesions and rng.random() < lesions:
        implant(moved, clean, rng)
    if masked and rng.random() < masked:
        mask_slice(moved, clean, rng)
    return {"moved": torch.from_numpy(moved), "clean": torch.from_numpy(clean)}


class CachedSlices(Dataset[Sample]):
    """Random slices of cached pairs; what sample i of an epoch is depends on (seed, epoch, i) alone."""

    def __init__(
        self, cache: PairCache, pairs: int, samples: int, context: int, crop: int, seed: int, lesions: float = 0.0,
        masked: float = 0.0,
    ) -> None:  # fmt: skip
        self.cache, self.pairs, self.lesions, self.masked = cache, cache.ready(pairs), lesions, masked
        self.samples, self.context, self.crop, self.seed, self.epoch = samples, context, crop, seed, 0

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, item: int) -> Sample:
        rng = np.random.default_rng([self.seed, self.epoch, item])
        stacks = self.cache.stacks(self.pairs[rng.integers(len(self.pairs))])
        index = int(rng.integers(stacks.shape[1]))
        return take_slice(stacks, index, self.context, self.crop, rng, self.lesions, self.masked)


class SimulatedSlices(IterableDataset[Sample]):
    """Slices of pairs simulated on the fly: each worker simulates a pair, gives some slices and goes on.

    The slices of an epoch depend on (seed, epoch) alone, their order also on the number of workers; no epoch
    repeats a pair of another.
    """

    def __init__(
        self, cache: PairCache, samples: int, context: int, crop: int, seed: int, lesions: float = 0.0,
        masked: float = 0.0,
    ) -> None:  # fmt: skip
        self.cache, self.samples, self.context, self.crop = cache, samples, context, crop
        self.seed, self.epoch, self.lesions, self.masked = seed, 0, lesions, masked

    def __iter__(self) -> Iterator[Sample]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        pairs = -(-self.samples // SLICES_PER_PAIR)
        for pair in range(worker, pairs, workers):
            index = self.epoch * pairs + pair
            rng = np.random.default_rng([self.seed, self.epoch, pair])
            stacks, _ = self.cache.simulate(index)
            for _ in range(min(SLICES_PER_PAIR, self.samples - pair * SLICES_PER_PAIR)):
                centre = int(rng.integers(stacks.shape[1]))
                yield take_slice(stacks, centre, self.context, self.crop, rng, self.lesions, self.masked)


class ValidationSlices(Dataset[Sample]):
    """Every ``step``-th slice of the held-out pairs, with windows and gains that are always the same."""

    def __init__(self, cache: PairCache, pairs: int, context: int, crop: int, step: int = 10) -> None:
        self.cache, self.context, self.crop = cache, context, crop
        self.items = []
        for pair in cache.ready(pairs):
            severity = cache.facts(pair)["severity"]
            slices = cache.stacks(pair).shape[1]
            self.items += [(pair, index, severity) for index in range(step, slices - step, step)]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, item: int) -> Sample:
        pair, index, severity = self.items[item]
        rng = np.random.default_rng([pair, index])
        sample = take_slice(self.cache.stacks(pair), index, self.context, self.crop, rng)
        return {**sample, "severity": torch.tensor(severity)}
