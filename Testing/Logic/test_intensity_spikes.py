"""A few voxels far brighter or darker than tissue: what a network is shown in their place."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from BrainDiffLogic import correct
from BrainDiffLogic.scan import SPIKE, Scan, without_spikes
from BrainDiffLogic.volume import Volume
from Harness.correctors import CARD, tiny_corrector

SPIKES = {
    "a line in the air": (slice(24, 25), slice(2, 3), slice(5, 25)),
    "a plane in the air": (slice(20, 30), slice(1, 3), slice(5, 15)),
    "in the brain": (slice(24, 25), slice(28, 29), slice(20, 24)),
    "a corner": (slice(0, 2), slice(0, 2), slice(0, 2)),
}


def spikes(shape: tuple[int, ...], where: str) -> np.ndarray:
    found = np.zeros(shape, bool)
    found[SPIKES[where]] = True
    return found


def test_an_image_without_spikes_is_returned_itself() -> None:
    scaled = np.random.default_rng(0).uniform(-1, 0.9 * SPIKE, (5, 6, 7)).astype(np.float32)
    assert without_spikes(scaled) is scaled


@pytest.mark.parametrize("where", SPIKES)
@pytest.mark.parametrize("value", [-9.0, 4.5, 1e6])
def test_a_spike_takes_a_neighbours_value_and_the_rest_stays(where: str, value: float) -> None:
    scaled = np.random.default_rng(0).uniform(0, 1, (48, 56, 52)).astype(np.float32)
    hot = spikes(scaled.shape, where)
    shown = scaled.copy()
    shown[hot] = value
    clean = without_spikes(shown)
    np.testing.assert_array_equal(clean[~hot], scaled[~hot])
    assert np.isin(clean[hot], scaled[ndimage.binary_dilation(hot, iterations=3) & ~hot]).all()
    assert (shown[hot] == np.float32(value)).all()


@pytest.mark.parametrize("where", SPIKES)
def test_hot_voxels_change_the_correction_near_them_alone(a_head: Volume, where: str) -> None:
    rng = np.random.default_rng(3)
    head = a_head.with_array(np.abs(a_head.array + 5 * rng.normal(size=a_head.shape)).astype(np.float32))
    hot = spikes(head.shape, where)
    array = head.array.copy()
    array[hot] = 32000 + 10 * np.arange(hot.sum())
    model = (tiny_corrector(), CARD)
    plain, other = (correct(v, model, force=True, device="cpu") for v in (head, head.with_array(array)))
    far = ndimage.distance_transform_edt(~hot) > 5
    apart = np.abs(plain.difference.array - other.difference.array)[far]
    assert apart.max() < 0.01 * Scan(head).scale.scale
    assert Scan(other.finding.volume).slices.max() < SPIKE
    np.testing.assert_array_equal(other.corrected.array - array, other.difference.array)
