"""Denoising from any level down to the clean latent, over an explicit list of (t, t_prev).

MONAI's DDIMScheduler (1.6.1) visits levels spaced by (T - 1) / (n - 1), but its update steps to t - T // n: the
level is mis-stated, and more so when sampling starts at a level in between. Here each update is told both levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.injection.schedule import CLEAN, NoiseSchedule

Steps = list[tuple[int, int]]
"""(t, t_prev) of each update, from the noisiest level to ``CLEAN``; empty: nothing to denoise."""
Predictor = Callable[[Tensor, Tensor], Tensor]
"""The noise in latents (N, C, h, w) at levels t (N,)."""


SPACING = 2.0
"""Levels lie closer together towards the clean latent, as (steps left)^2: Song et al. 2020, D.2, "quadratic". On a
Gaussian of spread 0.3 with its exact score, 25 even steps from t = 317 end with .87 of the spread, these with .96."""


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
