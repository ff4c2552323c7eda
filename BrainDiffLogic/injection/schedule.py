"""The noise levels of the diffusion prior, and at which of them motion is injected.

A level t is MONAI's timestep, 0 to T - 1: a latent at level t is sqrt(alpha_bar_t) * z + sqrt(1 - alpha_bar_t) * noise
(Ho et al., "Denoising Diffusion Probabilistic Models", 2020, eq. 4, whose levels count from 1). ``CLEAN`` is the
latent itself, with no noise at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

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
