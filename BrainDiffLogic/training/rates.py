"""The learning rate over a run of phases 1 and 2."""

from __future__ import annotations

from BrainDiffLogic.training.configuration import GenerativeConfiguration


def rate_share(plan: GenerativeConfiguration, step: int, steps: int) -> float:
    """Share of the learning rate at a step of ``steps``: linear warm-up, constant, linear decay to 0.

    Without warm-up and decay, as in the paper, always 1.
    """
    rising = (step + 1) / plan.warmup if plan.warmup else 1.0
    falling = (steps - step) / (plan.decay * steps) if plan.decay else 1.0
    return max(0.0, min(rising, falling, 1.0))
