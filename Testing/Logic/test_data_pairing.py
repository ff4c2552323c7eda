"""A real pair laid onto each other: a phantom of known transform, moved, at another gain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from BrainDiffLogic.data.pairing import Alignment, align_reference, robust_gain
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.metrics.quality import Comparison, compare
from BrainDiffLogic.volume import Volume
from Harness.phantom import HEAD, Ellipsoid, Phantom

SIZE, NOISE, GAIN = 2.4, 4.0, 1.3
LARGE = tuple(
    Ellipsoid(tuple(np.multiply(SIZE, part.centre)), tuple(np.multiply(SIZE, part.semi_axes)), part.value, part.turn)
    for part in (*HEAD, Ellipsoid((-6, -3, -9), (2, 6, 3), -300), Ellipsoid((9, 3, 6), (2, 5, 4), 250))
)
"""The last two show how far the head rolls; without them it is nearly round, seen from the front."""
TURN, SHIFT, CENTRE = (5.0, -3.0, 4.0), np.array([3.3, -4.1, 2.7]), np.array([0.0, 5.0, -4.0])


@dataclass(frozen=True)
class Pair:
    still: Volume
    moved: Volume
    truth: np.ndarray  # RAS mm, from points of the moved scan to the still one
    aligned: Alignment
    before: Comparison
    after: Comparison


def scan(shape: tuple[int, int, int], affine: np.ndarray, gain: float, seed: int, moved: bool = False) -> Volume:
    turns = np.repeat(Rotation.from_euler("xyz", TURN, degrees=True).as_matrix()[None], shape[1], axis=0)
    shifts = np.repeat(SHIFT[None], shape[1], axis=0)
    poses = {"axis": 1, "rows": np.arange(shape[1]), "turns": turns, "shifts": shifts, "centre": CENTRE}
    image = Phantom(LARGE, blur=2.4).image(shape, affine, poses if moved else None)
    grain = np.random.default_rng(seed).normal(0, NOISE, shape)
    return Volume(np.abs(gain * image + grain).astype(np.float32), affine)


@pytest.fixture(scope="module")
def a_pair() -> Pair:
    """The moved scan is on another grid: axes in another order and other voxels than the still one's."""
    still_affine = np.diag([2.0, 2.0, 2.0, 1.0])
    still_affine[:3, 3] = [-38, -48, -42]
    moved_affine = np.array([[0, 0, -2.2, 40], [2.0, 0, 0, -47], [0, 2.0, 0, -41], [0, 0, 0, 1.0]])
    still = scan((40, 50, 44), still_affine, 1.0, seed=1)
    moved = scan((48, 44, 38), moved_affine, GAIN, seed=2, moved=True)
    unmoved = scan((48, 44, 38), moved_affine, GAIN, seed=3)
    turn = Rotation.from_euler("xyz", TURN, degrees=True).as_matrix().T
    truth = np.eye(4)
    truth[:3, :3], truth[:3, 3] = turn, CENTRE - turn @ (CENTRE + SHIFT)
    aligned = align_reference(still, moved)
    after = compare(moved, aligned.reference, aligned.inside)
    return Pair(still, moved, truth, aligned, compare(moved, unmoved), after)


def test_a_known_rigid_transform_is_found(a_pair: Pair) -> None:
    error = a_pair.aligned.matrix @ np.linalg.inv(a_pair.truth)
    assert np.rad2deg(Rotation.from_matrix(error[:3, :3]).magnitude()) < 0.1
    centre = np.append(a_pair.aligned.centre, 1)
    assert np.linalg.norm((a_pair.aligned.matrix - a_pair.truth) @ centre) < 0.1
    expected = Rotation.from_matrix(a_pair.truth[:3, :3]).as_euler("xyz", degrees=True)
    np.testing.assert_allclose(a_pair.aligned.rotation, expected, atol=0.1)
    assert a_pair.aligned.similarity[1] > a_pair.aligned.similarity[0]


def test_a_gain_is_undone(a_pair: Pair) -> None:
    assert a_pair.aligned.gain == pytest.approx(GAIN, rel=0.01)


def test_the_pair_can_be_compared_after_the_alignment_and_not_before(a_pair: Pair) -> None:
    assert a_pair.before.psnr < 24 and a_pair.before.ssim < 0.8
    assert a_pair.after.psnr > 33 and a_pair.after.ssim > 0.9
    assert 0.9 < a_pair.after.tenengrad_ratio < 1.1


def test_the_reference_lies_on_the_grid_of_the_moved_scan_which_is_not_touched(a_pair: Pair) -> None:
    np.testing.assert_array_equal(a_pair.aligned.reference.affine, a_pair.moved.affine)
    assert a_pair.aligned.reference.shape == a_pair.moved.shape == a_pair.aligned.inside.shape
    fresh = scan(a_pair.moved.shape, a_pair.moved.affine, GAIN, seed=2, moved=True)
    np.testing.assert_array_equal(a_pair.moved.array, fresh.array)


def test_what_lies_outside_the_still_field_of_view_is_marked(a_pair: Pair) -> None:
    inside = a_pair.aligned.inside
    points = np.moveaxis(np.indices(inside.shape), 0, -1) @ a_pair.moved.affine[:3, :3].T + a_pair.moved.affine[:3, 3]
    index = (points @ a_pair.truth[:3, :3].T + a_pair.truth[:3, 3] - a_pair.still.affine[:3, 3]) / 2.0
    depth = np.minimum(index + 0.5, np.array(a_pair.still.shape) - 0.5 - index).min(axis=-1)  # voxels from the edge
    assert inside[depth > 0.3].all() and not inside[depth < -0.3].any()
    assert not inside.all()
    assert (a_pair.aligned.reference.array[~inside] == 0).all()


def test_the_facts_of_an_alignment_are_plain_numbers(a_pair: Pair) -> None:
    facts = a_pair.aligned.as_dict()
    assert facts["gain"] == a_pair.aligned.gain and len(facts["translation_mm"]) == 3
    assert facts["inside"] == pytest.approx(a_pair.aligned.inside.mean())


def test_the_gain_does_not_follow_ghosts() -> None:
    rng = np.random.default_rng(1)
    reference = rng.uniform(100, 900, (20, 20, 20))
    image = 1.3 * reference + rng.normal(0, 5, reference.shape)
    image[:4] += 400
    everywhere = np.ones(reference.shape, dtype=bool)
    assert robust_gain(reference, image, everywhere) == pytest.approx(1.3, rel=2e-3)
    assert (reference * image).sum() / (reference**2).sum() > 1.35


def test_scans_that_cannot_be_laid_onto_each_other_are_refused() -> None:
    with pytest.raises(InputError, match="check that both show one head"):
        robust_gain(np.zeros((4, 4, 4)), np.ones((4, 4, 4)), np.ones((4, 4, 4), dtype=bool))
