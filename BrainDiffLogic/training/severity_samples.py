"""A moved slice and the still one, varied alike, as a sample for the severity network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from BrainDiffLogic.training.configuration import Variation
from BrainDiffLogic.training.pairs import PairCache

Sample = dict[str, Tensor]
OUTER_SHARE = 0.08
"""Of the slices of a head, on either side: too little of it to tell its motion."""
SLICES_PER_PAIR = 12
VALIDATION_EPOCH = 2**31 - 1
"""Seeds the windows of validation, which are always the same, and no variation."""


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
        pair = take_window(stacks[:, rng.integers(stacks.shape[1])], [math.ceil(self.crop / z) for z in zoom], rng)
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
            places = np.linspace(outer, stacks.shape[1] - 1 - outer, SLICES_PER_PAIR).round().astype(int)
            self.read[index] = self.cache.facts(index), np.stack([part[places] for part in stacks])
        return self.read[index]


def take_window(pair: np.ndarray, size: list[int], rng: np.random.Generator) -> np.ndarray:
    """(2, *size) float32 of (2, rows, columns): a window at a random place, zeros outside."""
    out = np.zeros((2, *size), dtype=np.float32)
    window, place = [], []
    for have, want in zip(pair.shape[1:], size, strict=True):
        start = int(rng.integers(min(0, have - want), max(0, have - want) + 1))
        window.append(slice(max(0, start), max(0, start) + min(have, want)))
        place.append(slice(max(0, -start), max(0, -start) + min(have, want)))
    out[:, place[0], place[1]] = pair[:, window[0], window[1]]
    return out


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
