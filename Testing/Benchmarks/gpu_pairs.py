"""Training pairs on the GPU: what is drawn of each on the CPU, and the pool of their slices on the device."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gpu_simulation import Scan, sent
from torch import Tensor, nn
from torch.utils.data import IterableDataset

if importlib.util.find_spec("SimpleITK") is None:  # reads files; a large wheel, imported but unused on the device
    sys.modules["SimpleITK"] = types.ModuleType("SimpleITK")

from BrainDiffLogic.motion.kspace import PE_AXES  # noqa: E402
from BrainDiffLogic.motion.sampling import Sampling  # noqa: E402
from BrainDiffLogic.motion.trajectory import (  # noqa: E402
    Trajectory,
    resampled,
    rotation_matrices,  # noqa: E402
    with_severity,
)
from BrainDiffLogic.training import heads, pairs  # noqa: E402
from BrainDiffLogic.training.configuration import Recipe  # noqa: E402
from BrainDiffLogic.training.pairs import FULL_ALIASING_MM, _choose, _severity, _trajectory  # noqa: E402

ROUND = 4
"""Voxels: sizes of simulated grids are multiples of it."""
LESIONS, MOST_LESIONS = 0.5, 3
"""Share of the slices that get some, and how many at most."""
SHORTEST_STRETCH = 0.5
"""Of a recorded trajectory, so that two hundred of them make more."""
WINDOWS = 4
"""Of the slices of a pair."""


class PackedTraces:
    """Recorded motion out of a pack: (traces, poses, 6) mm and degrees."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def draw(self, lines: int, severity: float, rng: np.random.Generator) -> Trajectory:
        """A stretch of one of them, forwards or backwards, at so many lines, scaled to a severity in mm."""
        rows = self.rows[rng.integers(len(self.rows))].astype(float)[:: rng.choice([1, -1])]
        length = int(len(rows) * rng.uniform(SHORTEST_STRETCH, 1))
        start = int(rng.integers(len(rows) - length + 1))
        rows = rows[start : start + length]
        return with_severity(resampled(Trajectory(rows[:, :3], rows[:, 3:]), lines), severity)


class Scans(IterableDataset):
    """Scans without end; each worker draws its own."""

    def __init__(
        self, facts: list[dict[str, Any]], recipe: Recipe, traces: PackedTraces, seed: int, start: int
    ) -> None:
        self.facts, self.recipe, self.traces = facts, recipe, traces
        self.seed, self.start = seed, start

    def __iter__(self) -> Iterator[Scan]:
        info = torch.utils.data.get_worker_info()
        index, workers = (self.start + info.id, info.num_workers) if info else (self.start, 1)
        weights = np.array([0.0 if facts["held_out"] else facts["weight"] for facts in self.facts])
        while True:
            rng = np.random.default_rng([self.seed, index])
            base = int(rng.choice(len(weights), p=weights / weights.sum()))
            yield draw_scan(base, self.facts[base], self.recipe, self.traces, rng)
            index += workers


def draw_scan(
    base: int, facts: dict[str, Any], recipe: Recipe, traces: PackedTraces, rng: np.random.Generator,
    severity: float | None = None, noise: float | None = None,
) -> Scan:  # fmt: skip
    """How a base is varied and moved: what ``training.pairs.simulate_pair`` draws, of a given severity and noise."""
    zoom = rng.uniform(*recipe.zoom) * rng.uniform(0.93, 1.07, size=3)
    shape = np.array(facts["shape"])
    zoom *= min(1.0, (recipe.max_voxels / (shape.prod() * zoom.prod())) ** (1 / 3))
    new = tuple(int(n) for n in np.maximum(ROUND, np.round(shape * zoom / ROUND) * ROUND).astype(int))
    axis = PE_AXES[_choose(recipe.pe_axes, rng)]
    if severity is None:
        severity = 0.0 if rng.random() < recipe.still_share else _severity(recipe, rng)
    poses = _trajectory(_choose(recipe.presets, rng), new[axis], severity, rng, traces)  # type: ignore[arg-type]
    sampling, fill = Sampling(), None
    if rng.random() < recipe.partial_fourier_share:
        sampling = Sampling(rng.uniform(*recipe.partial_fourier), late=bool(rng.random() < 0.5))
    if severity and rng.random() < recipe.aliasing_share:
        sampling = replace(sampling, reduction=int(rng.integers(2, 4)), calibration_lines=2 * int(rng.integers(8, 21)))
        strength = rng.uniform(*recipe.aliasing) * min(1.0, severity / FULL_ALIASING_MM)
        fill = strength * np.stack([_coarse(rng), _coarse(rng)])
    drawn_noise = recipe.noise[0] + (recipe.noise[1] - recipe.noise[0]) * rng.random() ** 2
    masked = rng.random() < recipe.masked_share
    return Scan(
        base, new, axis, rotation_matrices(poses.rotations), poses.translations, severity,
        palette=drawn_palette(facts["labels"], rng) if "labels" in facts else None,
        mirrored=bool(rng.random() < 0.5), gamma=rng.uniform(*recipe.gamma),
        blur=rng.uniform(*recipe.blur) if rng.random() < recipe.blur_share else 0.0,
        bias=rng.uniform(0, recipe.bias_field) * _coarse(rng),
        phase=rng.uniform(0.2, np.pi) * _coarse(rng) if rng.random() < recipe.phase_share else None,
        noise=drawn_noise if noise is None else noise,
        kept=None if sampling.full_fourier else np.fft.ifftshift(sampling.keeps(new[axis])),
        skipped=None if fill is None else np.fft.ifftshift(sampling.skipped(new[axis])), fill=fill,
        mask_level=float(np.exp(rng.uniform(*np.log(pairs.MASK_LEVEL)))) if masked else 0.0,
        seed=int(rng.integers(2**31)),
    )  # fmt: skip


def drawn_palette(labels: list[int], rng: np.random.Generator) -> np.ndarray:
    """(2, labels): grey values, and textures in these units, as ``training.heads.paint`` draws them."""
    t1_like, texture = rng.random() < heads.T1_SHARE, rng.uniform(0.2, 0.8)
    found = np.zeros((2, len(labels)))
    tissues = [(set(members), rng.uniform(*limits)) for members, limits in heads.T1_LEVELS.values()]
    for place, label in enumerate(labels):
        shared = [level for members, level in tissues if label in members]
        if label and shared and t1_like:
            found[:, place] = shared[0] * rng.uniform(0.95, 1.05), texture * rng.uniform(0.01, 0.06)
        elif label:
            found[:, place] = rng.uniform(*heads.OTHER_RANGE), texture * rng.uniform(0.01, 0.15)
    return found


def _coarse(rng: np.random.Generator) -> np.ndarray:
    cube = rng.normal(size=(4, 4, 4))
    return cube / np.abs(cube).max()


def cut(
    moved: Tensor, still: Tensor, chosen: np.ndarray, crop: int, context: int, corner: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """(n, context, crop, crop) and (n, 1, crop, crop): slices in a window at a ``corner``, shares of the free room."""
    order = np.arange(context) - context // 2
    neighbours = sent(np.clip(chosen[:, None] + order, 0, len(moved) - 1), moved.device, torch.long)
    pads = [p for size in moved.shape[:0:-1] for p in (max(0, crop - size) // 2, -(-max(0, crop - size) // 2))]
    moved, still = (nn.functional.pad(stack, pads) for stack in (moved, still))
    row, column = (int(share * (size - crop)) for share, size in zip(corner, moved.shape[1:], strict=True))
    window = (..., slice(row, row + crop), slice(column, column + crop))
    return moved[window][neighbours], still[window][neighbours[:, context // 2 :][:, :1]]


class Pool:
    """Slices on the device, the oldest replaced first: batches are drawn from it without waiting."""

    def __init__(self, size: int, context: int, crop: int, device: torch.device) -> None:
        self.moved = torch.zeros((size, context, crop, crop), dtype=torch.float16, device=device)
        self.clean = torch.zeros((size, 1, crop, crop), dtype=torch.float16, device=device)
        self.size, self.written = size, 0

    @property
    def full(self) -> bool:
        """Whether every place holds a slice."""
        return self.written >= self.size

    def add(self, moved: Tensor, still: Tensor, ends: tuple[int, int], count: int, seed: int) -> None:
        """``count`` slices of a simulated pair, at most all of the head's."""
        rng = np.random.default_rng(seed)
        inside = np.arange(ends[0], ends[1] + 1)
        context, crop = self.moved.shape[1:3]
        for chosen in np.array_split(rng.choice(inside, min(count, len(inside)), False), WINDOWS):
            x, y = cut(moved, still, chosen, crop, context, tuple(rng.random(2)))
            x, y = implanted(x.flip(1) if rng.random() < 0.5 else x, y, LESIONS)
            places = (self.written + torch.arange(len(x), device=x.device)) % self.size
            self.moved[places], self.clean[places] = x.clamp(-8, 8).half(), y.clamp(-8, 8).half()
            self.written += len(x)

    def batch(self, n: int) -> tuple[Tensor, Tensor]:
        """(n, context, crop, crop) and (n, 1, crop, crop) float32, each slice with a gain of its own."""
        chosen = torch.randint(min(self.written, self.size), (n,), device=self.moved.device)
        gain = torch.empty((n, 1, 1, 1), device=self.moved.device).uniform_(0.9, 1.1)
        x, y = self.moved[chosen].float() * gain, self.clean[chosen].float() * gain
        return x.contiguous(memory_format=torch.channels_last), y


def implanted(moved: Tensor, clean: Tensor, share: float, most: int = MOST_LESIONS) -> tuple[Tensor, Tensor]:
    """Lesions in a share of the slices, alike in both images, as ``training.slices.implant``."""
    n, context, rows, columns = moved.shape
    device = moved.device
    flat = clean.flatten(1)
    place = torch.multinomial((flat > 0.25).float() + 1e-9, most)  # a slice without tissue gets them anywhere: faint
    value = flat.gather(1, place)
    axes = torch.exp(torch.rand((n, most, 1), device=device) * np.log(5)) * (
        0.6 + 1.1 * torch.rand((n, most, 3), device=device)
    )
    centre = torch.stack([(2 * torch.rand_like(value) - 1) * axes[..., 0], place // columns, place % columns], dim=2)
    grids = [torch.arange(size, device=device) for size in (context, rows, columns)]
    grids[0] -= context // 2
    distance = torch.zeros((n, most, context, rows, columns), device=device)
    for d, grid in enumerate(grids):
        along = (grid - centre[..., d : d + 1]) / axes[..., d : d + 1]
        distance += (along**2).view(n, most, *(-1 if d == e else 1 for e in range(3)))
    edge = 1 + 3 * torch.rand((n, most, 1, 1, 1), device=device)
    soft = ((1 - distance.sqrt()) * axes.amin(dim=2).view(n, most, 1, 1, 1) / edge + 0.5).clamp(0, 1)
    contrast = 0.05 + 0.55 * torch.rand_like(value)
    contrast = torch.where(torch.rand_like(value) < 0.5, contrast, -torch.minimum(contrast, 0.8 * value.clamp(min=0)))
    contrast = contrast * (torch.rand((n, 1), device=device) < share) * (value > 0.25)
    added = (contrast.view(n, most, 1, 1, 1) * soft).sum(dim=1)
    return moved + added, clean + added[:, context // 2 : context // 2 + 1]
