"""Slices out of simulated pairs, as batches for a corrector."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy import ndimage
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from BrainDiffLogic.ellipsoids import soft_ellipsoid
from BrainDiffLogic.training.batches import Sample
from BrainDiffLogic.training.pairs import PairCache

GAIN = (0.9, 1.1)
SLICES_PER_PAIR = 40
SLICE_LEVEL = (0.08, 0.2)
"""Network units, above noise in air: a slice's head is where the smoothed still slice is brighter."""
SLICE_SMOOTHING = 2.0
"""Pixels."""
MOST_LESIONS = 6
LESION_DIAMETER = (2.0, 10.0)
"""Pixels, as likely in each octave; pixels of 1 mm on most training scans."""
LESION_STRETCH = (0.6, 1.7)
LESION_EDGE = (1.0, 4.0)
"""Pixels: from a sharp border to one that motion has smeared."""
LESION_CONTRAST = (0.05, 0.6)
"""In network units; as often bright as dark."""
DARKEST = 0.8
"""A dark lesion takes at most this share of the signal at its place away."""
TISSUE = 0.25
"""Network units: lesions lie where the still slice has more."""


def take_slice(
    stacks: np.ndarray, index: int, context: int, crop: int, rng: np.random.Generator, lesions: float = 0.0,
    masked: float = 0.0,
) -> Sample:  # fmt: skip
    """One training sample out of (2, slices, rows, columns): moved, still.

    "moved" (context, crop, crop) and "clean" (1, crop, crop) float32: a random window (zeros outside the
    image), a random gain, and the neighbours in a random order of left and right. Slices beyond the stack
    repeat the last one.

    lesions  how likely lesions are put into both, see ``implant``
    masked   how likely the air of both is masked, see ``mask_slice``
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


def implant(moved: np.ndarray, clean: np.ndarray, rng: np.random.Generator) -> None:
    """Add 1 to ``MOST_LESIONS`` lesions to moved (context, rows, columns) and clean (1, rows, columns) alike.

    What is focal is no artifact, and a network learns to leave it. That motion also blurs a lesion is left out: the
    slices were simulated before it is there, so lesions stay as the moved scan shows them.
    """
    room = np.argwhere(clean[0] > TISSUE)
    if not len(room):
        return
    middle = len(moved) // 2
    for row, column in room[rng.integers(len(room), size=rng.integers(1, MOST_LESIONS + 1))]:
        axes = np.exp(rng.uniform(*np.log(LESION_DIAMETER))) / 2 * rng.uniform(*LESION_STRETCH, size=3)
        place = np.array([middle + rng.uniform(-1, 1) * axes[0], row, column])
        contrast = rng.uniform(*LESION_CONTRAST)
        if rng.random() < 0.5:
            contrast = -min(contrast, DARKEST * float(clean[0, row, column]))
        box, filled = soft_ellipsoid(place, axes, rng.uniform(*LESION_EDGE), np.ones(3), moved.shape)
        added = np.zeros((len(moved), *filled.shape[1:]), np.float32)
        added[box[0]] = np.float32(contrast) * filled
        moved[:, *box[1:]] += added
        clean[:, *box[1:]] += added[middle : middle + 1]


def mask_slice(moved: np.ndarray, clean: np.ndarray, rng: np.random.Generator) -> None:
    """Set moved (context, rows, columns) and clean (1, rows, columns) to 0 where the still slice shows no head."""
    smooth = ndimage.gaussian_filter(clean[0], SLICE_SMOOTHING)
    air = ~ndimage.binary_fill_holes(smooth > rng.uniform(*SLICE_LEVEL))
    moved[:, air] = 0
    clean[:, air] = 0


class CachedSlices(Dataset[Sample]):
    """Random slices of cached pairs; what sample i of an epoch is depends on (seed, epoch, i) alone."""

    def __init__(
        self, cache: PairCache, pairs: int, samples: int, context: int, crop: int, seed: int, lesions: float = 0.0,
        masked: float = 0.0, epoch: int = 0,
    ) -> None:  # fmt: skip
        self.cache, self.pairs, self.lesions, self.masked = cache, cache.ready(pairs), lesions, masked
        self.samples, self.context, self.crop, self.seed, self.epoch = samples, context, crop, seed, epoch

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
        masked: float = 0.0, epoch: int = 0,
    ) -> None:  # fmt: skip
        self.cache, self.samples, self.context, self.crop = cache, samples, context, crop
        self.seed, self.epoch, self.lesions, self.masked = seed, epoch, lesions, masked

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
