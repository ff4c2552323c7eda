"""Lesions put into training samples, and the ellipsoids they are made of."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from BrainDiffLogic.training.configuration import CorrectorConfiguration
from BrainDiffLogic.training.fields import read_section
from BrainDiffLogic.training.slices import LESION_CONTRAST as CONTRAST
from BrainDiffLogic.training.slices import MOST_LESIONS as MOST
from BrainDiffLogic.training.slices import TISSUE, implant, take_slice
from BrainDiffLogic.volume import soft_ellipsoid

SHAPE = (3, 64, 64)
REACH = 16
"""Pixels: no lesion reaches further from its middle."""


def a_sample(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A moved stack and a still slice of it: a head of 0.8 in air of 0, and noise that motion left."""
    rng = np.random.default_rng(seed)
    still = np.zeros(SHAPE, np.float32)
    still[:, 20:52, 20:52] = 0.8
    return still + rng.normal(0, 0.02, SHAPE).astype(np.float32), still[1:2].copy()


@given(seed=st.integers(0, 10_000))
def test_lesions_leave_the_artifact_as_it_is_and_lie_in_the_head(seed: int) -> None:
    moved, still = a_sample(seed)
    before, truth = moved.copy(), still.copy()
    implant(moved, still, np.random.default_rng(seed))
    np.testing.assert_allclose(moved[1] - still[0], before[1] - truth[0], atol=1e-6)
    added = still - truth
    assert not added[:, : 20 - REACH].any()
    assert 0 < np.abs(added).max() <= MOST * CONTRAST[1]


def test_lesions_are_bright_and_dark_and_reach_into_neighbours() -> None:
    signs, neighbours = set(), 0
    for seed in range(40):
        moved, still = a_sample(seed)
        before = moved.copy()
        implant(moved, still, np.random.default_rng(seed))
        added = moved - before
        signs |= set(np.sign(added[np.abs(added) > 1e-3]))
        neighbours += bool(added[0].any() and not np.array_equal(added[0], added[1]))
    assert signs == {-1.0, 1.0}
    assert neighbours > 20


def test_a_slice_of_air_gets_no_lesion() -> None:
    moved, still = (np.full(shape, TISSUE / 2, np.float32) for shape in (SHAPE, (1, *SHAPE[1:])))
    implant(moved, still, np.random.default_rng(0))
    assert moved.std() == still.std() == 0


@pytest.mark.parametrize(("share", "changed"), [(0.0, 0), (0.5, 0.5), (1.0, 1.0)])
def test_as_many_samples_get_lesions_as_the_configuration_says(share: float, changed: float) -> None:
    stacks = np.full((2, 5, 32, 32), 0.8, np.float16)
    samples = [take_slice(stacks, 2, 3, 32, np.random.default_rng(seed), share) for seed in range(100)]
    assert np.mean([sample["clean"].std() > 1e-4 for sample in samples]) == pytest.approx(changed, abs=0.12)


def test_the_shipped_corrector_trains_with_lesions() -> None:
    assert read_section(CorrectorConfiguration, "Resources/Training/mc-net.yaml").lesions == 0.5


@given(axes=st.tuples(*[st.floats(2, 6)] * 3), offset=st.tuples(*[st.floats(-0.5, 0.5)] * 3))
def test_an_ellipsoid_fills_its_volume(axes: tuple[float, ...], offset: tuple[float, ...]) -> None:
    spacing = np.array([1.0, 0.8, 1.2])
    place = np.array([12.0, 15.0, 10.0]) + offset
    _, filled = soft_ellipsoid(place, np.array(axes), 0.2, spacing, (24, 30, 20))
    assert filled.sum() * spacing.prod() == pytest.approx(4 / 3 * np.pi * np.prod(axes), rel=0.1)


@given(place=st.tuples(*[st.integers(-20, 40)] * 3))
def test_an_ellipsoid_at_the_border_is_the_part_of_it_on_the_grid(place: tuple[int, int, int]) -> None:
    axes, spacing = np.array([3.0, 2.0, 4.0]), np.ones(3)
    whole, part = np.zeros((90, 90, 90), np.float32), np.zeros((20, 20, 20), np.float32)
    box, filled = soft_ellipsoid(np.array(place) + 35, axes, 1.0, spacing, whole.shape)
    whole[box] = filled
    box, filled = soft_ellipsoid(np.array(place), axes, 1.0, spacing, part.shape)
    part[box] = filled
    np.testing.assert_allclose(part, whole[35:55, 35:55, 35:55], atol=1e-6)
