"""The phase that an object has of its own in a gradient-echo image."""

from __future__ import annotations

import numpy as np
from numpy.polynomial.legendre import legvander

DEGREE = 3
LARGEST = 1.5
"""Radians: as the field leaves at short echo times, without wraps."""


def smooth_phase(shape: tuple[int, ...], seed: int | np.random.Generator = 0, largest: float = LARGEST) -> np.ndarray:
    """(I, J, K) float32 radians up to +-``largest``: a random polynomial of degree 3 along each axis."""
    rng = np.random.default_rng(seed)
    field = rng.normal(size=(DEGREE + 1,) * 3) / (1 + np.indices((DEGREE + 1,) * 3).sum(axis=0)) ** 2
    field[0, 0, 0] = 0  # a constant phase changes no magnitude
    for size in shape:
        along = legvander(np.linspace(-1, 1, size) if size > 1 else np.zeros(1), DEGREE)
        field = np.tensordot(field, along, axes=(0, 1))
    field *= largest / max(float(np.abs(field).max()), 1e-12)
    return field.astype(np.float32)
