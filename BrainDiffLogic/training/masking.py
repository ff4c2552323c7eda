"""Masks as skull-stripping and defacing leave them: put on a scan after it was made, whatever motion was in it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from BrainDiffLogic.intensity import head_mask
from BrainDiffLogic.volume import Volume

SMOOTHING_MM = 2.0
BRAIN_FLOOR = 0.02
"""Network units: a stripped brain is where its base is brighter."""
SLICE_LEVEL = (0.08, 0.2)
"""Network units, above noise in air: a slice's head is where the smoothed still slice is brighter."""
SLICE_SMOOTHING = 2.0
"""Pixels."""
LEVEL = (0.03, 0.7)
"""Of the smoothed mask, log-uniform: from 4 mm outside of the still outline to 1 mm inside."""


def drawn_mask(still: Volume, stripped: bool, rng: np.random.Generator) -> np.ndarray:
    """(I, J, K) bool: the still head, or the brain of a ``stripped`` base, with a smooth edge a little out or in.

    still  quiet, in network units
    """
    mask = _brain(still.array) if stripped else head_mask(still.array)
    smooth = ndimage.gaussian_filter(mask.astype(np.float32), SMOOTHING_MM / still.spacing)
    return smooth > np.exp(rng.uniform(*np.log(LEVEL)))


def mask_slice(moved: np.ndarray, clean: np.ndarray, rng: np.random.Generator) -> None:
    """Set moved (context, rows, columns) and clean (1, rows, columns) to 0 where the still slice shows no head."""
    smooth = ndimage.gaussian_filter(clean[0], SLICE_SMOOTHING)
    air = ~ndimage.binary_fill_holes(smooth > rng.uniform(*SLICE_LEVEL))
    moved[:, air] = 0
    clean[:, air] = 0


def _brain(array: np.ndarray) -> np.ndarray:
    return ndimage.binary_fill_holes(ndimage.binary_opening(array > BRAIN_FLOOR))
