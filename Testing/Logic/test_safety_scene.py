"""The head that the checks look at: lesions, motion, noise, and the images made from it."""

from __future__ import annotations

import numpy as np
import pytest
from folded_head import a_brain_scene, folded_head
from hypothesis import given, settings
from hypothesis import strategies as st

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.evaluation.safety_checks import BALL_RESPONSE, DIAMETERS_MM, CachedMethod, new_blobs
from BrainDiffLogic.evaluation.safety_scene import APART_MM, build_scene, implanted, thick_slices, two_balls
from BrainDiffLogic.metrics.sharpness import noise_of
from BrainDiffLogic.volume import Volume


def test_the_lesions_are_of_each_size_and_sign_and_lie_apart_in_the_tissues() -> None:
    scene = a_brain_scene()
    kinds = {(lesion.diameter, lesion.tissue, lesion.contrast > 0) for lesion in scene.lesions}
    assert len(kinds) == len(scene.lesions) == 20
    places = [np.array([side.start + side.stop - 1 for side in lesion.box]) / 2 for lesion in scene.lesions]
    distances = [np.linalg.norm((a - b) * scene.still.spacing) for n, a in enumerate(places) for b in places[:n]]
    assert min(distances) >= APART_MM
    assert all(scene.inside[tuple(np.round(place).astype(int))] for place in places)


def test_a_lesion_has_its_volume() -> None:
    scene = a_brain_scene()
    voxel = float(np.prod(scene.still.spacing))
    for lesion in scene.lesions:
        if lesion.diameter >= 6:
            truth = np.pi / 6 * lesion.diameter**3
            assert lesion.shape.sum() * voxel == pytest.approx(truth, rel=0.15)


@given(
    place=st.tuples(*[st.floats(12, 18)] * 3),
    along=st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda along: np.linalg.norm(along) > 0.1),
)
def test_two_balls_have_the_volume_of_one_wherever_they_lie(place: tuple[float, ...], along: tuple[float, ...]) -> None:
    spacing = np.array([1.0, 0.9, 1.1])
    box, filled = two_balls(np.array(place), 4.0, np.array(along), spacing, (32, 32, 32))
    assert filled.sum() * spacing.prod() == pytest.approx(4 / 3 * np.pi * 4**3, rel=0.1)
    assert filled.max() == pytest.approx(1)
    assert all(filled.take(end, axis).max() == 0 for end in (0, -1) for axis in range(3))
    centre = [float((filled.sum(axis=tuple({0, 1, 2} - {axis})) @ np.arange(side.start, side.stop)) / filled.sum())
              for axis, side in enumerate(box)]  # fmt: skip
    np.testing.assert_allclose(centre, place, atol=0.05)


@settings(max_examples=10)
@given(share=st.floats(-2, 2), background=st.floats(-0.1, 0.1))
def test_the_share_of_a_lesion_is_found_exactly(share: float, background: float) -> None:
    scene = a_brain_scene()
    lesion = scene.lesions[0]
    plain = scene.still.with_array(np.zeros(scene.still.shape, dtype=np.float32), kind="difference")
    difference = share * implanted(plain, [lesion], 1.0).array
    assert lesion.share_in(difference) == pytest.approx(share, abs=1e-5)
    assert (
        lesion.share_in(difference + np.float32(background)) != pytest.approx(share, abs=1e-9) or abs(background) < 1e-6
    )


def test_the_still_case_holds_the_lesions_whole_and_motion_weakens_them() -> None:
    scene = a_brain_scene()
    shares = [
        [lesion.share_in(scene.scaled(case.lesioned.array - case.plain.array)) for lesion in scene.lesions]
        for case in scene.cases
    ]
    np.testing.assert_allclose(shares[0], 1, atol=1e-4)
    assert np.mean(shares[2]) < np.mean(shares[1]) < 0.95


def test_the_same_seed_gives_the_same_scene_and_another_another() -> None:
    one, (same, other) = a_brain_scene(), (build_scene(folded_head(whole=False), seed) for seed in (5, 6))
    np.testing.assert_array_equal(one.cases[2].lesioned.array, same.cases[2].lesioned.array)
    assert not np.array_equal(one.cases[2].lesioned.array, other.cases[2].lesioned.array)


def test_lesions_share_the_motion_of_the_scan_without_them() -> None:
    scene = a_brain_scene()
    far = np.ones(scene.still.shape, dtype=bool)
    for lesion in scene.lesions:
        far[lesion.box] = False
    for case in scene.cases[1:]:
        difference = scene.scaled(case.lesioned.array - case.plain.array)
        assert (
            np.abs(difference[far]).mean()
            < 0.1 * np.abs(scene.scaled(case.plain.array - scene.still.array)[far]).mean()
        )


@pytest.mark.parametrize("sd", [0.01, 0.05])
def test_the_noise_is_found_on_smooth_anatomy(sd: float) -> None:
    rng = np.random.default_rng(0)
    smooth = np.sin(np.arange(40) / 6)[:, None, None] * np.cos(np.arange(44) / 7)[:, None] * np.ones(42)
    noisy = smooth + rng.normal(0, sd, smooth.shape)
    assert noise_of(noisy, np.ones(noisy.shape, dtype=bool)) == pytest.approx(sd, rel=0.05)


def test_an_image_without_tissues_is_refused() -> None:
    plain = folded_head(whole=False, noise=0, levels=(500.0, 500.0, 500.0))
    with pytest.raises(InputError, match="folded.nii.gz"):
        build_scene(plain.with_array(np.where(plain.array > 250, 500, 0).astype(np.float32)))


@pytest.mark.parametrize("diameter", DIAMETERS_MM[1:])
def test_a_lesion_in_the_error_has_the_strength_of_one(diameter: float) -> None:
    scene = a_brain_scene()
    middle = [int(np.mean(along)) for along in np.nonzero(scene.inside)]
    grid = np.ix_(*(np.arange(n) for n in scene.still.shape))
    radius = np.sqrt(sum((2.0 * (line - at)) ** 2 for line, at in zip(grid, middle, strict=True)))
    error = (scene.tissue_step * np.clip((diameter / 2 - radius) / 2 + 0.5, 0, 1)).astype(np.float32)
    (blob,) = new_blobs(np.zeros_like(error), error, scene)
    assert blob.place == tuple(middle) and 0.6 < blob.excess < 1.4
    assert new_blobs(error, error * 0.99, scene) == []


def test_the_response_of_a_ball_is_that_of_the_formula() -> None:
    assert pytest.approx(0.925, abs=1e-3) == BALL_RESPONSE


def test_thick_slices_show_the_same_head_at_the_same_place() -> None:
    volume = folded_head(whole=False)
    thick = thick_slices(volume, 2)
    assert thick.spacing[2] == pytest.approx(6.0) and thick.shape[2] == volume.shape[2] // 3
    centres = []
    for image in (volume, thick):
        weight = image.array.sum(axis=(0, 1), dtype=np.float64)
        centres.append((image.affine[2, 2] * np.arange(len(weight)) + image.affine[2, 3]) @ weight / weight.sum())
    assert centres[0] == pytest.approx(centres[1], abs=0.1)


def test_an_answer_is_kept_for_the_volumes_that_come_again_alone() -> None:
    asked: list[Volume] = []

    def method(volume: Volume) -> np.ndarray:
        asked.append(volume)
        return volume.array

    known, other = folded_head(whole=False), folded_head(whole=False)
    remembered = CachedMethod(method, [known])
    for volume in (known, known, other, other):
        remembered(volume)
    assert asked == [known, other, other] or [each is known for each in asked] == [True, False, False]
