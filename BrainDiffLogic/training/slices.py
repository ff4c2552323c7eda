"""What networks see of simulated pairs: slices for a corrector, pairs of windows for the severity network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from BrainDiffLogic.training.batches import VALIDATION_EPOCH, Sample
from BrainDiffLogic.training.configuration import Variation
from BrainDiffLogic.training.pairs import PairCache
from BrainDiffLogic.volume import soft_ellipsoid

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
OUTER_SHARE = 0.08
"""Of the slices of a head, on either side: too little of it to tell its motion."""
SEVERITY_SLICES = 12
"""Of each pair, evenly spread over the head."""


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
    order = np.arange(context) - context // 2
    neighbours = np.clip(index + (order if rng.random() < 0.5 else -order), 0, stacks.shape[1] - 1)
    images = cut_window(np.concatenate([stacks[0][neighbours], stacks[1][index : index + 1]]), (crop, crop), rng)
    images *= np.float32(rng.uniform(*GAIN))
    moved, clean = images[:-1], images[-1:]
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


def cut_window(images: np.ndarray, size: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """(N, *size) float32 of (N, rows, columns): a window at a random place, the same of all; zeros outside."""
    out = np.zeros((len(images), *size), dtype=np.float32)
    window, place = [], []
    for have, want in zip(images.shape[1:], size, strict=True):
        start = int(rng.integers(min(0, have - want), max(0, have - want) + 1))
        window.append(slice(max(0, start), max(0, start) + min(have, want)))
        place.append(slice(max(0, -start), max(0, -start) + min(have, want)))
    out[:, place[0], place[1]] = images[:, window[0], window[1]]
    return out


@dataclass(frozen=True)
class SliceDraw:
    """How random slices are drawn: ``samples`` an epoch, what each is depends on (seed, epoch) and its place alone.

    The others are those of ``take_slice``.
    """

    samples: int
    context: int
    crop: int
    seed: int
    lesions: float = 0.0
    masked: float = 0.0
    epoch: int = 0

    def take(self, stacks: np.ndarray, rng: np.random.Generator) -> Sample:
        """A random slice of a pair."""
        index = int(rng.integers(stacks.shape[1]))
        return take_slice(stacks, index, self.context, self.crop, rng, self.lesions, self.masked)


class CachedSlices(Dataset[Sample]):
    """Random slices of cached pairs."""

    def __init__(self, cache: PairCache, pairs: int, draw: SliceDraw) -> None:
        self.cache, self.pairs, self.draw = cache, cache.ready(pairs), draw

    def __len__(self) -> int:
        return self.draw.samples

    def __getitem__(self, item: int) -> Sample:
        rng = np.random.default_rng([self.draw.seed, self.draw.epoch, item])
        return self.draw.take(self.cache.stacks(self.pairs[rng.integers(len(self.pairs))]), rng)


class SimulatedSlices(IterableDataset[Sample]):
    """Slices of pairs simulated on the fly: each worker simulates a pair, gives some slices and goes on.

    Their order also depends on the number of workers; no epoch repeats a pair of another.
    """

    def __init__(self, cache: PairCache, draw: SliceDraw) -> None:
        self.cache, self.draw = cache, draw

    def __iter__(self) -> Iterator[Sample]:
        info, draw = get_worker_info(), self.draw
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        pairs = -(-draw.samples // SLICES_PER_PAIR)
        for pair in range(worker, pairs, workers):
            rng = np.random.default_rng([draw.seed, draw.epoch, pair])
            stacks, _ = self.cache.simulate(draw.epoch * pairs + pair)
            for _ in range(min(SLICES_PER_PAIR, draw.samples - pair * SLICES_PER_PAIR)):
                yield draw.take(stacks, rng)


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


class SeverityPairs(Dataset[Sample]):
    """Sample i of an epoch depends on (seed, epoch, i) alone.

    "slices" (2, 1, crop, crop) float32 in network units: moved (or mixed towards still), still.
    "severity" (2,) in mm.

    variation  None: as the pairs are, each once
    """

    def __init__(
        self, slices: PairSlices, samples: int, crop: int, seed: int, variation: Variation | None,
        epoch: int = VALIDATION_EPOCH,
    ) -> None:  # fmt: skip
        self.slices, self.samples, self.crop, self.seed = slices, samples, crop, seed
        self.variation, self.epoch = variation, epoch

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, item: int) -> Sample:
        rng = np.random.default_rng([self.seed, self.epoch, item])
        v, pairs = self.variation, len(self.slices)
        facts, stacks = self.slices[int(rng.integers(pairs)) if v else item % pairs]
        zoom = np.ones(2)
        if v and rng.random() < v.zoom_share:
            zoom *= np.exp(rng.uniform(*np.log(v.zoom))) * rng.uniform(0.95, 1.05, 2)
        pair = cut_window(stacks[:, rng.integers(stacks.shape[1])], [math.ceil(self.crop / z) for z in zoom], rng)
        severity = facts["severity"]
        if v:
            pair, severity = mixed(pair, severity, v, rng)
            pair = varied(resized(pair, self.crop), facts["kind"], v, rng)
        severities = torch.tensor([severity, 0.0])
        return {"slices": torch.from_numpy(np.ascontiguousarray(pair[:, None], np.float32)), "severity": severities}


class PairSlices:
    """Some slices of each pair, evenly spread over the head, in memory: (facts, (2, slices, rows, columns) float16).

    Read once each; slice by slice out of the pairs' files takes a starved machine longer than the training itself.
    """

    def __init__(self, cache: PairCache, pairs: list[int]) -> None:
        self.cache, self.pairs = cache, pairs
        self.read: dict[int, tuple[dict[str, Any], np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, position: int) -> tuple[dict[str, Any], np.ndarray]:
        index = self.pairs[position]
        if index not in self.read:
            stacks = self.cache.stacks(index)
            outer = int(OUTER_SHARE * stacks.shape[1])
            places = np.linspace(outer, stacks.shape[1] - 1 - outer, SEVERITY_SLICES).round().astype(int)
            self.read[index] = self.cache.facts(index), np.stack([part[places] for part in stacks])
        return self.read[index]


def mixed(
    slices: np.ndarray, severity: float, variation: Variation, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """The pair and its severity, in a share of the mildly moved pairs brought nearer to the still slice."""
    if severity > variation.mild_limit_mm or rng.random() >= variation.mild_share:
        return slices, severity
    share = rng.uniform(*variation.mild)
    return np.stack([slices[1] + np.float32(share) * (slices[0] - slices[1]), slices[1]]), share * severity


def resized(slices: np.ndarray, crop: int) -> np.ndarray:
    """(2, crop, crop), interpolated where the slices have another size."""
    if slices.shape[-2:] == (crop, crop):
        return slices
    image = torch.from_numpy(slices[:, None])
    return functional.interpolate(image, (crop, crop), mode="bicubic", antialias=True)[:, 0].numpy()


def varied(slices: np.ndarray, kind: str, variation: Variation, rng: np.random.Generator) -> np.ndarray:
    """(2, H, W): the same head from another scanner or after other software; the same for both."""
    v = variation
    slices = _turned(slices, rng)
    masked = v.masked_brain_share if kind == "brain" else v.masked_share
    outside = _air(slices[1], v, rng) if rng.random() < masked else None
    slices = np.sign(slices) * np.abs(slices) ** np.float32(rng.uniform(*v.gamma))
    slices = slices * (_receive_field(slices.shape[-2:], v.bias_field, rng) * np.float32(rng.uniform(*v.gain)))
    blur = rng.uniform(*v.blur) if rng.random() < v.blur_share else 0.0
    smooth_noise = rng.random() < 0.5
    if blur and not smooth_noise:
        slices = ndimage.gaussian_filter(slices, (0, blur, blur))
    slices = _noisy(slices, v.noise * rng.random() ** 2, rng)
    if blur and smooth_noise:
        slices = ndimage.gaussian_filter(slices, (0, blur, blur))
    if outside is not None:
        slices[..., outside] = 0.0
    if rng.random() < v.quantised_share:
        levels = np.float32(np.exp(rng.uniform(*np.log(v.levels))))
        slices = np.rint(slices * levels) / levels
    return slices


def _turned(slices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrored along rows and columns and transposed at random: motion is motion along any phase-encode axis."""
    if rng.random() < 0.3:
        slices = slices[..., ::-1, :]
    if rng.random() < 0.3:
        slices = slices[..., ::-1]
    return slices.swapaxes(-1, -2) if rng.random() < 0.3 else slices


def _air(still: np.ndarray, variation: Variation, rng: np.random.Generator) -> np.ndarray:
    """(H, W) bool: outside the head of the still slice, up to 3 pixels from it."""
    smooth = ndimage.gaussian_filter(still, 2.0)
    inside = smooth > rng.uniform(*variation.mask_threshold)
    width = int(rng.integers(0, 4))
    return ~(ndimage.binary_dilation(inside, iterations=width) if width else inside)


def _receive_field(shape: tuple[int, ...], strength: float, rng: np.random.Generator) -> np.ndarray:
    """(H, W) smooth positive factor, a Gaussian of random centre and sign."""
    rows, columns = (np.linspace(-1, 1, n, dtype=np.float32) - np.float32(rng.uniform(-1, 1)) for n in shape)
    hill = np.exp(-(rows[:, None] ** 2)) * np.exp(-(columns**2))
    return np.exp(np.float32(rng.uniform(-strength, strength)) * 2 * hill)


def _noisy(slices: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """With complex noise, the magnitude taken last; the same grain on both."""
    real, imaginary = rng.standard_normal((2, *slices.shape[1:]), dtype=np.float32) * np.float32(sigma)
    return np.sqrt((slices + real) ** 2 + imaginary**2)
