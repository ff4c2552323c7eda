"""A volume and what a model found in it, blended at a strength between 0 and 1. Needs numpy only."""

from __future__ import annotations

import numpy as np

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.storage import narrowest_type, rounded_to


def check_strength(strength: float) -> None:
    """Raises InputError unless 0 <= strength <= 1."""
    if not 0 <= strength <= 1:
        raise InputError(f"strength {strength} is outside 0 to 1; 1 removes all that the model finds")


def blend(original: np.ndarray, change: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """(corrected, difference): original + strength * change, and what that differs from the original by.

    original  any shape, any real type; at strength 0 it is returned itself
    change    same shape, float: what to add at strength 1
    Both results have the type that numpy gives to original + change. Raises InputError for a strength outside 0 to 1.
    """
    check_strength(strength)
    if strength == 0:
        return original, np.zeros(original.shape, change.dtype)
    corrected = original + np.float32(strength) * change
    np.copyto(corrected, original, where=change == 0)  # a zero keeps its sign
    return corrected, corrected - original


def blend_as_stored(original: np.ndarray, change: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """As ``blend``, with the corrected array in the original's type where its values fit after rounding.

    Integers widen to int16, int32 or float32 where they must; nothing is clipped. The difference is float32, or float64
    where that is needed: corrected - original, exactly, of the stored values.
    """
    corrected, difference = blend(original, change, strength)
    if strength == 0:
        return original, difference
    stored = rounded_to(corrected, narrowest_type(corrected, original.dtype))
    exact = np.result_type(stored.dtype, original.dtype, np.float32)
    return stored, np.subtract(stored, original, dtype=exact)
