"""Blending at a strength: exact at the ends, in the type of the input, and consistent with the difference."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.volume import blend, blend_as_stored

TYPES = ("uint8", "int16", "uint16", "int32", "float32", "float64")


def _pair(dtype: str, seed: int, size: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    original = rng.uniform(0, 200, (3, 4, 5)).astype(dtype)
    return original, (rng.normal(size=original.shape) * size).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(dtype=st.sampled_from(TYPES), seed=st.integers(0, 9999), strength=st.floats(0, 1), size=st.sampled_from([1, 90]))
def test_the_difference_is_that_of_the_stored_values(dtype, seed, strength, size):
    original, change = _pair(dtype, seed, size)
    corrected, difference = blend_as_stored(original, change, strength)
    exact = np.result_type(corrected.dtype, original.dtype, np.float32)
    assert np.array_equal(difference, corrected.astype(exact) - original.astype(exact))
    slack = 0.5 if corrected.dtype.kind in "iu" else 1e-4
    assert np.abs(corrected - (original + strength * change.astype(float))).max() <= slack + 1e-3


@pytest.mark.parametrize("dtype", TYPES)
def test_strength_0_gives_the_original_itself(dtype):
    original, change = _pair(dtype, 1, 10)
    corrected, difference = blend_as_stored(original, change, 0)
    assert corrected is original and not difference.any()


def test_where_nothing_changes_every_bit_stays_that_of_a_negative_zero_too():
    original = np.array([-0.0, 0.0, 2.5], np.float32)
    corrected, difference = blend(original, np.array([0, 0, 1], np.float32), 1.0)
    assert np.signbit(corrected).tolist() == [True, False, False] and corrected[2] == 3.5 and difference[2] == 1


@pytest.mark.parametrize(
    "dtype, size, stored",
    [
        ("int16", 10, "int16"),
        ("uint8", 90, "int16"),  # below 0
        ("uint16", 90, "int16"),
        ("int16", 4e4, "int32"),
        ("int32", 1e11, "float32"),
        ("float32", 1e11, "float32"),
    ],
)
def test_the_type_of_the_original_is_kept_where_the_values_fit(dtype, size, stored):
    original, change = _pair(dtype, 2, size)
    assert blend_as_stored(original, change, 1)[0].dtype == stored


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_outside_0_to_1_is_refused(strength):
    with pytest.raises(InputError, match="outside 0 to 1"):
        blend(*_pair("float32", 3, 1), strength)


def test_models_are_found_and_blended_with_numpy_alone():
    code = (
        "import sys, BrainDiffLogic.volume, BrainDiffLogic.models.checkpoints as c;"
        "c.read_card(c.available()['mc-net']);"
        "print([m for m in ('torch', 'nibabel', 'SimpleITK', 'scipy', 'skimage', 'monai', 'tqdm') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
