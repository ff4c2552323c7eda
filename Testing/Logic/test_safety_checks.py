"""The do-no-harm checks: what does nothing passes all of them, and each kind of harm fails its check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from folded_head import a_brain_scene
from scipy import ndimage

from BrainDiffLogic import correct
from BrainDiffLogic.errors import Refused
from BrainDiffLogic.evaluation.methods import Ensemble, Method, ModelMethod, denoised, nothing
from BrainDiffLogic.evaluation.safety_checks import (
    ITSELF,
    CachedMethod,
    CheckResult,
    check_absent_lesions,
    check_clean_scan,
    check_equivariance,
    check_idempotence,
    check_implanted_lesions,
    check_out_of_domain,
    check_tissue_volumes,
    find_lesions,
    new_blobs,
    notes_of,
)
from BrainDiffLogic.evaluation.safety_scene import DIAMETERS_MM, other_inputs
from BrainDiffLogic.evaluation.safety_suite import CHECKS, Check
from BrainDiffLogic.volume import Volume
from Harness.correctors import CARD, save_tiny

T1_INPUT = {**CARD["input"], "contrast": "T1-weighted", "anatomy": "human head or brain"}


def failures(check: Check, method: Method) -> list[str]:
    """Cases of the outcomes that did not pass."""
    return [outcome.case for outcome in check(method, a_brain_scene()) if not outcome.passed]


def outcomes(check: Check, method: Method) -> dict[str, CheckResult]:
    return {outcome.case: outcome for outcome in check(method, a_brain_scene())}


def adding(change: Callable[[Volume], np.ndarray]) -> Method:
    """A method that adds something, in shares of the scene's scale."""
    unit = a_brain_scene().scale.scale
    return lambda volume: (volume.array + unit * change(volume)).astype(np.float32)


def median(volume: Volume) -> np.ndarray:
    return ndimage.median_filter(volume.array, 3)


def ball(volume: Volume, place: tuple[int, int, int], diameter: float, height: float) -> np.ndarray:
    grid = np.ix_(*(np.arange(n) for n in volume.shape))
    squares = [(size * (line - at)) ** 2 for line, at, size in zip(grid, place, volume.spacing, strict=True)]
    return height * np.clip(diameter / 2 - np.sqrt(sum(squares)) + 0.5, 0, 1)


# Nothing


@pytest.mark.parametrize("name", list(CHECKS))
def test_doing_nothing_passes_every_check(name: str) -> None:
    found = CHECKS[name](nothing, a_brain_scene())
    assert found and all(outcome.passed and outcome.check == name for outcome in found)


# Blur


def test_a_blur_fails_the_clean_scan_and_the_lesions_and_is_equivariant() -> None:
    assert {"SSIM", "99th percentile of the change"} <= set(failures(check_clean_scan, denoised))
    lesions = outcomes(check_implanted_lesions, denoised)
    assert not lesions["still: contrast kept"].passed and lesions["still: deleted"].number > 0
    assert failures(check_equivariance, denoised) == []
    assert all("second" in case or "growth" in case for case in failures(check_idempotence, denoised))
    assert failures(check_idempotence, denoised)


def test_small_lesions_suffer_most_from_a_median_filter() -> None:
    scene = a_brain_scene()
    found = find_lesions(median, scene, scene.cases[0])
    kept = [np.mean([each.kept for each in found if each.lesion.diameter == size]) for size in DIAMETERS_MM]
    assert kept == sorted(kept) and kept[0] < 0.1 and kept[-1] > 0.5
    deleted = outcomes(check_implanted_lesions, median)["still: deleted"]
    assert deleted.number == sum(each.kept < 0.5 for each in found) and "2 mm" in deleted.note


# Invention


@pytest.mark.parametrize(("diameter", "sign"), [(4, 1), (6, 1), (6, -1)])
def test_an_invented_lesion_is_found_once_on_every_scan(diameter: float, sign: int) -> None:
    place = tuple(int(np.mean(along)) + 9 for along in np.nonzero(a_brain_scene().inside))
    height = sign * 1.5 * a_brain_scene().tissue_step
    found = check_absent_lesions(adding(lambda volume: ball(volume, place, diameter, height)), a_brain_scene())
    assert [outcome.number for outcome in found[:2]] == [1, 1]
    assert ("bright" if sign > 0 else "dark") in found[0].note
    assert str(place[0]) in found[0].note


def test_an_edge_that_is_moved_is_no_lesion() -> None:
    def step(volume: Volume) -> np.ndarray:
        part = np.zeros(volume.shape, dtype=np.float32)
        part[volume.shape[0] // 2 : volume.shape[0] // 2 + 2] = a_brain_scene().tissue_step
        return part

    assert check_absent_lesions(adding(step), a_brain_scene())[0].number == 0


def test_what_the_moved_scan_shows_already_is_not_new() -> None:
    scene = a_brain_scene()
    half = adding(lambda volume: -0.5 * scene.scaled(volume.array - scene.still.array))
    assert failures(check_absent_lesions, half) == []


def test_a_dark_ripple_turned_bright_is_new() -> None:
    scene = a_brain_scene()
    place = tuple(int(np.mean(along)) + 9 for along in np.nonzero(scene.inside))
    dark = ball(scene.still, place, 6, -1.5 * scene.tissue_step)
    assert len(new_blobs(dark, -dark, scene)) == 1
    assert new_blobs(dark, dark / 2, scene) == new_blobs(dark, 1.2 * dark, scene) == []


def test_taking_the_whole_error_away_invents_nothing_and_keeps_the_volumes() -> None:
    perfect: Method = lambda volume: a_brain_scene().still.array  # noqa: E731
    assert failures(check_absent_lesions, perfect) == failures(check_tissue_volumes, perfect) == []
    assert all(outcome.number < 0 for outcome in check_tissue_volumes(perfect, a_brain_scene()))


# Contrast, gain, repetition


def test_a_gain_fails_the_mean_alone_of_the_lesions_nothing() -> None:
    brighter: Method = lambda volume: 1.02 * volume.array  # noqa: E731
    assert "change of the mean" in failures(check_clean_scan, brighter)
    assert failures(check_implanted_lesions, brighter) == []


def test_a_darker_grey_matter_fails_the_tissue_volumes() -> None:
    scene = a_brain_scene()
    limit = scene.tissue_limits[1]

    def darker(volume: Volume) -> np.ndarray:
        scaled = scene.scale.forward(volume.array)
        return np.where((scaled > limit) & (scaled < limit + 0.08), limit - 0.02 - scaled, 0)

    assert failures(check_tissue_volumes, adding(darker))
    assert "change of tissue volumes" in failures(check_clean_scan, adding(darker))


def test_a_sharpening_that_never_ends_fails_idempotence() -> None:
    sharper: Method = lambda volume: 2 * volume.array - ndimage.gaussian_filter(volume.array, 1.0)  # noqa: E731
    found = outcomes(check_idempotence, sharper)
    assert found["tremor 3 mm SI: second change / first"].number > 1
    assert not found["tremor 3 mm SI: error growth"].passed


# Where the head lies


def test_a_change_on_one_side_alone_fails_the_mirror() -> None:
    def right(volume: Volume) -> np.ndarray:
        return 0.1 * (np.arange(volume.shape[0]) > volume.shape[0] / 2)[:, None, None] * np.ones(volume.shape)

    assert failures(check_equivariance, adding(right)) == ["mirrored left to right"]


def test_a_pattern_on_the_grid_fails_the_shift_by_a_voxel_and_not_that_by_the_stride() -> None:
    checkers = adding(lambda volume: 0.1 * (-1.0) ** np.arange(volume.shape[2]) * np.ones(volume.shape))
    assert failures(check_equivariance, checkers) == ["shifted by 1 voxel in-plane"]


def test_a_change_that_depends_on_the_place_in_the_image_fails_every_shift() -> None:
    def ramp(volume: Volume) -> np.ndarray:
        return 0.01 * np.arange(volume.shape[1])[:, None] * np.ones(volume.shape)

    assert {"shifted by 32 voxels in-plane"} <= set(failures(check_equivariance, adding(ramp)))


# Other images


def test_a_blur_changes_every_other_image_without_a_word() -> None:
    everything = [outcome.case for outcome in check_out_of_domain(nothing, a_brain_scene())]
    assert failures(check_out_of_domain, denoised) == [case for case in everything if case != ITSELF]


def test_a_method_that_refuses_passes_but_not_on_the_head_that_it_is_made_for() -> None:
    def refuse(volume: Volume) -> np.ndarray:
        raise Refused("scan.nii: not a head")

    found = check_out_of_domain(refuse, a_brain_scene())
    assert all(outcome.note == "refused: scan.nii: not a head" for outcome in found)
    assert [outcome.case for outcome in found if not outcome.passed] == [ITSELF]


def test_what_a_model_notes_of_the_head_itself_is_no_flag_for_other_images(tmp_path: Path) -> None:
    finer = {**T1_INPUT, "spacing_mm": [0.1, 0.2]}  # every image is noted as coarser than that
    method = ModelMethod(save_tiny(tmp_path / "t1.safetensors", input=finer), "cpu")
    found = outcomes(check_out_of_domain, method)
    assert not found[ITSELF].passed and found[ITSELF].note
    notes = notes_of(method, a_brain_scene().still)
    assert all(note not in found[case].note for case in found if case != ITSELF for note in notes)


def test_a_model_refuses_or_flags_all_but_the_brain_that_its_card_names(tmp_path: Path) -> None:
    method = ModelMethod(save_tiny(tmp_path / "t1.safetensors", input=T1_INPUT), "cpu")
    found = outcomes(check_out_of_domain, method)
    verdicts = {name: outcome.note.partition(":")[0] for name, outcome in found.items()}
    assert {name for name, verdict in verdicts.items() if verdict == "refused"} == {
        "negative", "phantom", "pure noise", "CT-like",
    }  # fmt: skip
    assert {name for name, verdict in verdicts.items() if verdict == "flagged"} == {
        "T2-like", "inverted contrast", "5 mm sagittal slices", "5 mm axial slices",
    }  # fmt: skip
    assert verdicts["skull-stripped"] in ("left as it is", "changed without a word")


def test_the_notes_of_a_model_are_those_of_its_report(tmp_path: Path) -> None:
    method = ModelMethod(save_tiny(tmp_path / "t1.safetensors", input=T1_INPUT), "cpu")
    volume = other_inputs(a_brain_scene())["inverted contrast"]
    expected = correct(volume, method.model, device="cpu").report["outside_domain"]
    assert expected and notes_of(method, volume) == expected
    assert notes_of(Ensemble([method, method]), volume) == notes_of(CachedMethod(method, []), volume) == expected
    assert notes_of(nothing, volume) == []
