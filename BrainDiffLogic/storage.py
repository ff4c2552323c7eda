"""Stored integers to real values and back, the type that an output is stored in, blending at a strength; numpy only."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Literal

import numpy as np

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.volume import Storage, Volume

OutputType = Literal["input", "float32"]
WIDER_INTEGERS = (np.dtype(np.int16), np.dtype(np.int32))
FLOAT32 = np.dtype(np.float32)


def real_values(raw: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """``slope * raw + intercept``, computed in float64 slice by slice, as the narrowest sufficient float type.

    float32 serves when its spacing at the largest value is below a quarter of the slope, so that rounding finds every
    stored integer again; else float64. Raw floats keep at least their precision.
    """
    ends = slope * np.array([raw.min(), raw.max()], dtype=np.float64) + intercept
    step = abs(slope) if raw.dtype.kind in "iu" else np.inf
    enough = np.abs(ends).max() * np.finfo(np.float32).eps < step / 4
    dtype = FLOAT32 if enough and raw.dtype != np.float64 else np.dtype(np.float64)
    real = np.empty(raw.shape, dtype, order="F")
    for k in range(raw.shape[-1]):
        real[..., k] = raw[..., k].astype(np.float64) * slope + intercept
    return real


def choose_storage(
    volume: Volume, dtype: OutputType, can_scale: bool, types: Collection[np.dtype] | None = None
) -> Storage:
    """How ``volume`` is stored in an output; its ``storage`` is that of the input.

    Integers stay integers at the input's slope and intercept: the input's type where all values fit after rounding,
    else int16, else int32, else float32. A difference has no intercept and a signed type. Floats keep their type. A
    mask is stored as it is. ``types`` are those that the format has, float32 among them (default: all). Formats without
    slope (``can_scale`` False) keep integers only when slope and intercept are whole numbers, so that the real values
    are integers, and take float32 otherwise.
    """
    if dtype not in ("input", "float32"):
        raise InputError(f"output type {dtype!r} is unknown: use 'input' or 'float32'")
    own = Storage(np.dtype(np.uint8) if volume.array.dtype == bool else volume.array.dtype)
    like = volume.storage or own
    wanted = replace(like, dtype=own.dtype, slope=1.0, intercept=0.0) if volume.kind == "mask" else like
    as_float = replace(like, dtype=FLOAT32, slope=1.0, intercept=0.0)
    if dtype == "float32":
        return as_float
    if volume.kind == "difference":
        wanted = replace(wanted, intercept=0.0)
    if wanted.dtype.kind == "f":
        if types is not None:
            return as_float
        wide = wanted.dtype.itemsize > 4 or not _fits(volume.array, as_float)
        return replace(as_float, dtype=np.dtype(np.float64)) if wide else as_float
    if not can_scale:
        if not (float(wanted.slope).is_integer() and float(wanted.intercept).is_integer()):
            return as_float
        wanted = replace(wanted, slope=1.0, intercept=0.0)
    candidates = (replace(wanted, dtype=d) for d in _integer_types(wanted.dtype, volume.kind == "difference"))
    fitting = (storage for storage in candidates if types is None or storage.dtype in types)
    return next((storage for storage in fitting if _fits(volume.array, storage)), as_float)


def narrowest_type(array: np.ndarray, dtype: np.dtype) -> np.dtype:
    """``dtype``, float or integer, where the values fit after rounding, else int16, int32 or float32."""
    if dtype.kind == "f":
        return dtype
    fitting = (d for d in _integer_types(dtype, signed=False) if _fits(array, Storage(d)))
    return next(fitting, FLOAT32)


def rounded_to(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The values as ``dtype``, rounded to nearest for an integer type."""
    return (np.rint(array) if dtype.kind in "iu" and array.dtype.kind == "f" else array).astype(dtype, copy=False)


def values_to_store(array: np.ndarray, storage: Storage) -> np.ndarray:
    """The values to store for real values ``array`` (I, J, K): scaled back, rounded to nearest for an integer type."""
    if array.dtype == storage.dtype and storage.slope == 1 and storage.intercept == 0:
        return array
    stored = np.empty(array.shape, storage.dtype, order="F")
    for k in range(array.shape[-1]):
        values = array[..., k]
        if storage.slope != 1 or storage.intercept != 0:
            values = (values.astype(np.float64) - storage.intercept) / storage.slope
        stored[..., k] = rounded_to(values, storage.dtype)
    return stored


def _integer_types(dtype: np.dtype, signed: bool) -> list[np.dtype]:
    own = [] if signed and dtype.kind == "u" else [dtype]
    return own + [other for other in WIDER_INTEGERS if other != dtype and other.itemsize >= dtype.itemsize]


def _fits(array: np.ndarray, storage: Storage) -> bool:
    ends = (np.array([array.min(), array.max()], dtype=np.float64) - storage.intercept) / storage.slope
    if storage.dtype.kind == "f":
        return bool(np.abs(ends).max() <= np.finfo(storage.dtype).max)
    limits = np.iinfo(storage.dtype)
    return bool(np.rint(ends.min()) >= limits.min and np.rint(ends.max()) <= limits.max)


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
