"""Whether a volume looks like a T1-weighted head, and what a correction does when it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folded_head import FLUID, GREY, WHITE, a_brain_scene, folded_head
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from BrainDiffLogic import correct, read_volume
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.evaluation.safety_scene import other_inputs
from BrainDiffLogic.models.domain import Look, doubts, far_outside_domain, judge, look_at, no_head, outside_domain
from BrainDiffLogic.motion import preset, simulate_motion, with_severity
from BrainDiffLogic.scan import head_mask
from BrainDiffLogic.volume import Volume
from Harness.correctors import CARD, tiny_corrector

T1_CARD: dict[str, Any] = {
    **CARD,
    "input": {**CARD["input"], "contrast": "T1-weighted, without contrast agent", "anatomy": "human head or brain"},
}
HEADS_ALONE = {**T1_CARD, "input": {**T1_CARD["input"], "anatomy": "human head"}}


def noise_on(volume: Volume, blur: float = 0.0) -> Volume:
    grain = np.random.default_rng(1).standard_normal(volume.shape)
    return volume.with_array(np.abs(ndimage.gaussian_filter(grain, blur)).astype(np.float32))


def looks(volume: Volume) -> tuple[str | None, list[str]]:
    look = look_at(volume)
    return no_head(look), doubts(look)


# What belongs to a model's domain


@pytest.mark.parametrize("whole", [True, False])
def test_a_t1_weighted_head_and_a_brain_are_not_doubted(whole: bool) -> None:
    assert looks(folded_head(whole)) == (None, [])


@pytest.mark.parametrize("kind", ["steps", "tremor"])
def test_a_strongly_moved_head_is_not_doubted(kind: str) -> None:
    still = folded_head()
    moved = simulate_motion(still, with_severity(preset(kind, still.shape[1], 3), 5.0)).moved
    assert looks(moved) == (None, [])


@settings(max_examples=4)
@given(gain=st.floats(1e-3, 1e3), offset=st.floats(-1e3, 1e3))
def test_the_look_does_not_depend_on_the_units(gain: float, offset: float) -> None:
    volume = folded_head(whole=False)
    offset *= gain
    other = volume.with_array((gain * volume.array.astype(np.float64) + offset).astype(np.float32))
    one, two = look_at(volume), look_at(other)
    assert not two.hounsfield
    np.testing.assert_allclose(
        [two.smoothness, two.uniformity, two.lead, two.air],
        [one.smoothness, one.uniformity, one.lead, one.air],
        atol=0.02,
    )


def test_a_strong_receive_field_is_not_taken_for_another_contrast() -> None:
    volume = folded_head()
    slope = np.linspace(0.5, 1.5, volume.shape[0], dtype=np.float32)[:, None, None]
    assert looks(volume.with_array(volume.array * slope)) == (None, [])


# What does not


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("levels", [(700.0, 450.0, 150.0), (800.0, 400.0, 300.0)], ids=["inverted", "T2"])
def test_another_contrast_is_doubted_and_not_refused(whole: bool, levels: tuple[float, ...]) -> None:
    refused, found = looks(folded_head(whole, levels=levels))
    assert refused is None and "contrast is not T1's" in " ".join(found)


@pytest.mark.parametrize("blur", [0.0, 0.7])
def test_noise_is_no_head(blur: float) -> None:
    refused, _ = looks(noise_on(folded_head(whole=False), blur))
    assert refused is not None and "noise" in refused


def test_noise_that_is_smooth_enough_for_a_head_is_doubted() -> None:
    assert looks(noise_on(folded_head(whole=False), 1.5))[1]


def test_noise_in_the_shape_of_a_head_is_no_head() -> None:
    volume = folded_head()
    refused, _ = looks(volume.with_array(noise_on(volume).array * head_mask(volume.array)))
    assert refused is not None and "noise" in refused


def test_a_ball_of_water_is_a_phantom_whatever_the_coils_see_of_it() -> None:
    volume = folded_head()
    mm = [(np.arange(n) - n / 2) * 2.0 for n in volume.shape]
    x, y, z = np.ix_(*mm)
    ball = np.where(x**2 + y**2 + z**2 < 75**2, 700 + 3 * x, 5) + np.random.default_rng(0).normal(0, 10, volume.shape)
    refused, _ = looks(volume.with_array(ball.astype(np.float32)))
    assert refused is not None and "phantom" in refused


def test_a_ct_is_told_by_its_units_and_without_them() -> None:
    ct = other_inputs(a_brain_scene())["CT-like"]
    assert "Hounsfield" in str(looks(ct)[0])
    assert "phantom or a CT" in str(looks(ct.with_array(ct.array + 1024))[0])


def test_a_negative_is_doubted() -> None:
    volume = folded_head()
    _, found = looks(volume.with_array(volume.array.max() - volume.array))
    assert "inverted image" in " ".join(found)


def test_too_little_of_a_head_is_noted() -> None:
    volume = folded_head(whole=False)
    slab = Volume(np.ascontiguousarray(volume.array[26:30]), volume.affine)
    assert "too little" in " ".join(doubts(look_at(slab)))


def test_a_foreground_of_another_size_is_doubted() -> None:
    look = look_at(folded_head(whole=False))
    sizes = [doubts(Look(litres, *list(vars(look).values())[1:])) for litres in (0.05, 15.0)]
    assert all("is not that of a head" in " ".join(found) for found in sizes)


# Held against a card


def test_a_stripped_brain_is_outside_the_domain_of_a_model_for_heads_alone() -> None:
    brain = folded_head(whole=False)
    assert judge(brain, T1_CARD).notes == []
    assert "stripped brain" in " ".join(judge(brain, HEADS_ALONE).notes)


def test_a_card_that_states_no_contrast_judges_the_geometry_alone() -> None:
    noise = noise_on(folded_head(whole=False))
    assert judge(noise, CARD) == judge(noise, {**CARD, "input": {**CARD["input"], "contrast": "any"}})
    assert judge(noise, CARD).refused is None and judge(noise, T1_CARD).refused is not None


def test_geometry_and_look_are_noted_together() -> None:
    volume = folded_head(whole=False, levels=(WHITE, GREY, FLUID))
    thick = Volume(volume.array, np.diag([2.5, 2.0, 2.0, 1.0]))
    notes = judge(thick, T1_CARD).notes
    assert len(notes) == 2 and "2.50 mm" in notes[0] and "T1's" in notes[1]


def test_the_domain_is_measured_along_the_patients_axes() -> None:
    affine = np.array([[0, 0, 3.0, 0], [-1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1]])
    volume = Volume(np.random.default_rng(0).random((80, 80, 30)), affine)
    found = outside_domain(volume, CARD)
    assert len(found) == 1 and "3.00 mm along left-right" in found[0]
    assert outside_domain(volume, {"input": {"spacing_mm": [0.5, 3.0]}}) == []


def test_thick_axial_slices_are_judged_by_their_pixels() -> None:
    volume = Volume(np.random.default_rng(0).random((80, 80, 20)), np.diag([1.0, 1.0, 6.0, 1.0]))
    assert far_outside_domain(volume, CARD) is None
    assert [line for line in outside_domain(volume, CARD) if "6.00 mm along superior-inferior" in line]
    turned = Volume(volume.array, np.diag([6.0, 6.0, 1.0, 1.0]))
    assert "6.00 mm" in str(far_outside_domain(turned, CARD))


def test_noise_is_refused_by_a_correction_unless_it_is_forced() -> None:
    noise = noise_on(folded_head(whole=False))
    model = (tiny_corrector(), T1_CARD)
    with pytest.raises(InputError, match=r"folded.nii.gz: .*noise.*--force"):
        correct(noise, model, device="cpu")
    report = correct(noise, model, device="cpu", force=True).report
    assert report["forced"] and "noise" in " ".join(report["outside_domain"])


def test_another_contrast_is_corrected_and_noted() -> None:
    volume = folded_head(whole=False, levels=(WHITE, GREY, FLUID))
    report = correct(volume, (tiny_corrector(), T1_CARD), device="cpu").report
    assert not report["forced"] and "T1's" in " ".join(report["outside_domain"])


@pytest.mark.shared
@pytest.mark.slow
def test_no_real_t1_volume_is_doubted(shared_data: Path) -> None:
    files = sorted(shared_data.glob("t1_*/*.nii.gz"))
    assert files
    assert {file.name: looks(read_volume(file)) for file in files if looks(read_volume(file)) != (None, [])} == {}


# What is refused for a reason of its own


def mp2rage(volume: Volume) -> Volume:
    """The uniform image of an MP2RAGE: as sharp as the scan, noise of full range in the air."""
    noise = np.random.default_rng(6).integers(0, 4095, volume.shape)
    top = volume.array.max()
    uni = np.where(ndimage.gaussian_filter(volume.array, 1) > 0.08 * top, 1000 + 3000 * volume.array / top, noise)
    return volume.with_array(uni.clip(0, 4095).astype(np.int16))


@pytest.mark.parametrize("whole", [True, False])
def test_the_noisy_air_of_an_mp2rage_is_named(whole: bool) -> None:
    refused = judge(mp2rage(folded_head(whole)), T1_CARD).refused
    assert refused is not None and "MP2RAGE" in refused and "denoised" in refused and "phantom" not in refused


def test_noise_alone_and_a_noisy_head_are_no_mp2rage() -> None:
    for volume in (noise_on(folded_head()), folded_head(noise=80.0)):
        assert "MP2RAGE" not in str(judge(volume, T1_CARD))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_slice_is_refused(axis: int) -> None:
    volume = folded_head()
    middle = volume.shape[axis] // 2
    slice_alone = Volume(np.take(volume.array, [middle], axis=axis), volume.affine)
    assert "one slice" in str(judge(slice_alone, T1_CARD).refused)
