"""The noise levels of the diffusion prior, at which of them motion is injected, and denoising down from any of them.

A level t is MONAI's timestep, 0 to T - 1: a latent at level t is sqrt(alpha_bar_t) * z + sqrt(1 - alpha_bar_t) * noise
(Ho et al., "Denoising Diffusion Probabilistic Models", 2020, eq. 4, whose levels count from 1). ``CLEAN`` is the
latent itself, with no noise at all.

Denoising goes over an explicit list of (t, t_prev). MONAI's DDIMScheduler (1.6.1) visits levels spaced by
(T - 1) / (n - 1), but its update steps to t - T // n: the level is mis-stated, and more so when sampling starts at a
level in between. Here each update is told both levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from BrainDiffLogic.errors import InputError

CLEAN = -1
"""The level below 0, where alpha_bar is 1."""
LEVELS, BETA_START, BETA_END = 1000, 0.0015, 0.0195
"""BrainDiff: T = 1000, linear beta from 0.0015 to 0.0195."""
PAPER_LEVELS = (0.35, 0.65)
"""BrainDiff, phase 3: t uniform in these shares of T. It calls them 35 to 65 % of signal destruction; on its own
schedule 81 to 99 % of the variance is noise there, and the "pair" is two different brains."""
SIGNAL = (0.9, 0.5)
"""Our departure from the paper: levels by the fraction of the signal that is left, sqrt(alpha_bar), so that the
anatomy survives (t of 90 to 317 on the paper's schedule)."""
Steps = list[tuple[int, int]]
"""(t, t_prev) of each update, from the noisiest level to ``CLEAN``; empty: nothing to denoise."""
Predictor = Callable[[Tensor, Tensor], Tensor]
"""The noise in latents (N, C, h, w) at levels t (N,)."""
SPACING = 2.0
"""Levels lie closer together towards the clean latent, as (steps left)^2: Song et al. 2020, D.2, "quadratic". On a
Gaussian of spread 0.3 with its exact score, 25 even steps from t = 317 end with .87 of the spread, these with .96."""


@dataclass(frozen=True)
class NoiseSchedule:
    """A linear beta schedule of ``levels`` steps (MONAI's "linear_beta")."""

    levels: int = LEVELS
    beta_start: float = BETA_START
    beta_end: float = BETA_END

    @classmethod
    def of(cls, fields: Mapping[str, Any], name: str = "the schedule") -> NoiseSchedule:
        """The schedule of a prior's card: the arguments of MONAI's DDPMScheduler that describe it.

        ``name`` is what messages call it. Raises InputError for another kind of schedule or prediction, or numbers
        that are missing.
        """
        if fields.get("schedule", "linear_beta") != "linear_beta":
            raise InputError(f"{name}: schedule {fields['schedule']!r} is not known; use a prior with linear_beta")
        if fields.get("prediction", "noise") != "noise":
            raise InputError(f"{name}: prediction {fields['prediction']!r} is not known; it must be the noise")
        try:
            levels = int(fields["num_train_timesteps"])
            betas = float(fields["beta_start"]), float(fields["beta_end"])
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{name}: the schedule lacks its numbers; train or get the prior again") from None
        return cls(levels, *betas)

    @cached_property
    def _signal_variance(self) -> np.ndarray:
        """alpha_bar at CLEAN, 0, ..., levels - 1."""
        betas = np.linspace(self.beta_start, self.beta_end, self.levels)
        return np.concatenate([[1.0], np.cumprod(1 - betas)])

    def alpha_bar(self, t: np.ndarray) -> np.ndarray:
        """The share of the variance that is signal at levels ``t``, each ``CLEAN`` or 0 to levels - 1."""
        return self._signal_variance[np.asarray(t) + 1]

    def signal(self, t: int) -> float:
        """The signal fraction sqrt(alpha_bar) at level t."""
        return math.sqrt(self._signal_variance[t + 1])

    def level(self, signal: float) -> int:
        """The level whose signal fraction is nearest to ``signal``; ``CLEAN`` for 1."""
        return int(np.argmin(np.abs(np.sqrt(self._signal_variance) - signal))) - 1


def draw_level(
    generator: np.random.Generator, schedule: NoiseSchedule, signal: tuple[float, float] | None = SIGNAL
) -> int:
    """A level to inject at: signal fraction uniform between two values; ``None``: t uniform in ``PAPER_LEVELS``."""
    if signal is None:
        low, high = (round(share * schedule.levels) for share in PAPER_LEVELS)
        return int(generator.integers(low, high, endpoint=True))
    return schedule.level(generator.uniform(min(signal), max(signal)))


def sampling_steps(start: int, count: int | None = None) -> Steps:
    """At most ``count`` updates from level ``start`` to ``CLEAN``; None: through every level, as DDPM does.

    Fewer where levels would coincide. Raises InputError for a count below 1.
    """
    if count is not None and count < 1:
        raise InputError(f"sampling steps {count}: must be 1 or more, or full")
    above = start - CLEAN
    if count is None or count >= above:
        levels = list(range(start, CLEAN - 1, -1))
    else:
        left = (1 - np.arange(count + 1) / count) ** SPACING
        levels = sorted({round(above * share) + CLEAN for share in left.tolist()}, reverse=True)
    return list(zip(levels[:-1], levels[1:], strict=True))


def ddim_update(
    latent: Tensor, predicted_noise: Tensor, alpha_bar: Tensor, alpha_bar_prev: Tensor, noise: Tensor, eta: float
) -> Tensor:
    """From level t to t_prev: Song et al., "Denoising Diffusion Implicit Models" (2020), eq. 12 and 16.

    latent, predicted_noise, noise  (N, C, h, w)
    alpha_bar, alpha_bar_prev       broadcastable to them, at t and t_prev
    eta                             0: deterministic; 1: as much fresh noise as DDPM, and exactly DDPM (small
                                    variance) where t_prev = t - 1
    """
    clean = (latent - (1 - alpha_bar).sqrt() * predicted_noise) / alpha_bar.sqrt()
    variance = eta**2 * (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
    direction = (1 - alpha_bar_prev - variance).clamp(min=0).sqrt() * predicted_noise
    return alpha_bar_prev.sqrt() * clean + direction + variance.sqrt() * noise


def denoise(
    predict: Predictor,
    latents: Tensor,
    steps: Sequence[Steps],
    schedule: NoiseSchedule,
    *,
    eta: float = 0.0,
    generators: Sequence[np.random.Generator] = (),
) -> Tensor:
    """Latents (N, C, h, w), each taken through its own steps; one that is done or has none is left untouched.

    generators  one for each latent, needed for ``eta`` above 0. They draw on the CPU, each for its own latent only:
                the same noise on any device, in any batch.
    """
    latents = latents.clone()
    for number in range(max((len(own) for own in steps), default=0)):
        rows = [row for row, own in enumerate(steps) if len(own) > number]
        before, after = (np.array([steps[row][number][end] for row in rows]) for end in (0, 1))
        current = latents[rows]
        predicted = predict(current, torch.from_numpy(before).to(latents.device)).float()
        noise = torch.zeros_like(current)
        if eta > 0:
            noise = normal_noise([generators[row] for row in rows], latents)
        latents[rows] = ddim_update(
            current, predicted, _levels(schedule, before, latents), _levels(schedule, after, latents), noise, eta
        )
    return latents


def normal_noise(generators: Sequence[np.random.Generator], like: Tensor) -> Tensor:
    """(len(generators), C, h, w) standard normal noise, each from its own generator; shape and device of ``like``."""
    drawn = [generator.standard_normal(tuple(like.shape[1:]), dtype=np.float32) for generator in generators]
    return torch.from_numpy(np.stack(drawn)).to(like.device)


def add_noise(clean: Tensor, noise: Tensor, levels: np.ndarray, schedule: NoiseSchedule) -> Tensor:
    """Latents (N, C, h, w), each noised to its own of the levels (N,); at ``CLEAN`` they are unchanged."""
    alpha_bar = _levels(schedule, levels, clean)
    return alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise


def _levels(schedule: NoiseSchedule, levels: np.ndarray, like: Tensor) -> Tensor:
    """alpha_bar as (N, 1, 1, 1)."""
    values = torch.from_numpy(schedule.alpha_bar(levels).astype(np.float32)).to(like.device)
    return values.reshape(-1, *[1] * (like.ndim - 1))
