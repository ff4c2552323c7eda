"""Rows of the table: measures of a slice, means over subjects, denoisers, settings."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.evaluation.methods import DENOISERS
from BrainDiffLogic.metrics.sharpness import noise_of
from BrainDiffLogic.papers.braindiff import braindiff_settings, without_contrast
from BrainDiffLogic.papers.table import Measured, over_subjects, slice_mask, slice_quality
from BrainDiffLogic.training.injection import PAPER


def a_slice(seed: int = 0, noise: float = 0.0) -> np.ndarray:
    rows, columns = np.indices((48, 64)) / np.array([48, 64])[:, None, None] - 0.5
    image = np.where(rows**2 + columns**2 < 0.16, 0.6 + 0.3 * np.sin(14 * rows) * np.cos(11 * columns), 0.0)
    return (image + noise * np.random.default_rng(seed).normal(size=image.shape)).astype(np.float32)


def test_an_identical_slice_is_perfect_and_doing_nothing_is_never_worse() -> None:
    measured = Measured("here")
    noisy = a_slice(noise=0.1)
    measured.add("one", a_slice(), {Measured.INPUT: noisy, "perfect": a_slice(), "same": noisy})
    nothing, perfect, same = measured.rows()
    assert (perfect.psnr, perfect.ssim, perfect.mre, perfect.sharpness) == (100, pytest.approx(1), 0, 1)
    assert (perfect.worse_slices, same.worse_slices, nothing.worse_slices) == (0, 0, None)
    assert not perfect.ssim_fell and not same.ssim_fell


def test_air_around_the_head_flatters() -> None:
    clean = a_slice()
    image = clean + 0.1 * slice_mask(clean).astype(np.float32) * np.where(np.indices(clean.shape).sum(0) % 2, 1, -1)
    rows = []
    for whole in (False, True):
        measured = Measured("here", whole)
        measured.add("a", clean, {"one": image})
        rows += measured.rows()
    assert rows[0].psnr == pytest.approx(20, abs=0.01) and rows[1].psnr > rows[0].psnr and rows[1].ssim > rows[0].ssim


def test_subjects_count_alike_however_many_slices_they_have() -> None:
    measured, clean = Measured("here"), a_slice()
    for subject, count, noise in (("one", 1, 0.02), ("two", 5, 0.2)):
        for seed in range(count):
            image = a_slice(seed, noise)
            measured.add(subject, clean, {Measured.INPUT: image, "blurred": DENOISERS["Gaussian"](image)})
    inside = slice_mask(clean)
    mild = slice_quality(a_slice(0, 0.02), clean, inside)["mre"]
    severe = [slice_quality(a_slice(seed, 0.2), clean, inside)["mre"] for seed in range(5)]
    assert measured.rows()[0].mre == pytest.approx((mild + np.mean(severe)) / 2)
    blurred = measured.rows()[1]
    assert (blurred.subjects, blurred.slices) == (2, 6)
    assert blurred.worse_subjects == 0.5  # a blur helps the noisy one alone
    assert blurred.worse_slices == pytest.approx(1 / 6)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=6), st.lists(st.floats(-10, 10), min_size=1, max_size=6))
def test_the_mean_over_subjects_is_that_of_each_alone(one: list[float], two: list[float]) -> None:
    found = over_subjects(["a"] * len(one) + ["b"] * len(two), one + two)
    assert found == {"a": pytest.approx(np.mean(one)), "b": pytest.approx(np.mean(two))}


def test_worse_measures_follow_the_size_of_the_error() -> None:
    clean = a_slice()
    mild, severe = (slice_quality(a_slice(1, noise), clean, slice_mask(clean)) for noise in (0.03, 0.2))
    assert mild["psnr"] > severe["psnr"] and mild["ssim"] > severe["ssim"] and mild["mre"] < severe["mre"]
    blurred = slice_quality(DENOISERS["Gaussian"](clean), clean, slice_mask(clean))
    assert blurred["sharpness"] < 1 < severe["sharpness"]


@pytest.mark.parametrize("name", list(DENOISERS))
def test_a_denoiser_removes_noise_and_keeps_shape_and_type(name: str) -> None:
    noisy = a_slice(1, 0.1)
    denoised = DENOISERS[name](noisy)
    assert denoised.shape == noisy.shape and denoised.dtype == np.float32
    assert np.abs(denoised - a_slice()).mean() < np.abs(noisy - a_slice()).mean()


def test_the_noise_is_found_within_a_tenth_and_an_empty_slice_has_none() -> None:
    assert noise_of(a_slice(1, 0.1)) == pytest.approx(0.1, rel=0.1)
    empty = np.zeros((8, 8), np.float32)
    assert noise_of(empty) == 0
    assert not DENOISERS["non-local means"](empty).any()


def test_the_sizes_read_the_shipped_configurations(tmp_path: Path) -> None:
    compact = braindiff_settings("compact", seed=4)
    assert (compact.canvas, compact.spacing_mm, compact.injection.seed) == ((96, 128), 2.0, 4)
    paper = braindiff_settings("paper", perceptual="gradient", paper_injection=True)
    assert (paper.canvas, paper.vae.network, paper.ldm.network, paper.corrector.network) == ((192, 256), *["paper"] * 3)
    assert (paper.injection.mode, paper.injection.signal, paper.injection.steps) == (PAPER.mode, None, None)
    assert braindiff_settings("paper", vgg=tmp_path / "vgg.pth").vae.perceptual == "lpips"
    assert compact.as_dict() != braindiff_settings("compact").as_dict() == braindiff_settings("compact").as_dict()
    with pytest.raises(InputError, match="perceptual term needs --vgg"):
        braindiff_settings("paper")
    with pytest.raises(InputError, match="size 'large' is unknown"):
        braindiff_settings("large")


def test_the_ablation_differs_in_one_weight() -> None:
    both = braindiff_settings("compact").corrector
    alone = without_contrast(both)
    assert both.contrastive and not alone.contrastive
    assert alone.stages[-1].loss == {"l1": 1.0, "info_nce": 0.0}
    assert alone.stages[0] == both.stages[0]
