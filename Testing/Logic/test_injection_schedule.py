"""Noise levels: the paper's schedule, signal fractions, and where motion is injected."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from monai.networks.schedulers import DDPMScheduler

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.generative import SCHEDULE
from BrainDiffLogic.training.injection import CLEAN, NoiseSchedule, draw_level

PAPER = NoiseSchedule()


def test_alpha_bar_is_that_of_monais_scheduler() -> None:
    expected = DDPMScheduler(1000, "linear_beta", beta_start=0.0015, beta_end=0.0195, clip_sample=False).alphas_cumprod
    np.testing.assert_allclose(PAPER.alpha_bar(np.arange(1000)), expected.numpy(), rtol=3e-5)


@pytest.mark.parametrize(
    ("t", "signal"), [(100, 0.886), (200, 0.717), (300, 0.531), (350, 0.441), (500, 0.221), (650, 0.090)]
)
def test_the_signal_that_is_left_has_the_values_of_the_methods_notes(t: int, signal: float) -> None:
    assert np.sqrt(PAPER.alpha_bar(np.array(t))) == pytest.approx(signal, abs=6e-4)


def test_no_noise_at_all_lies_below_level_0() -> None:
    none, least, more = PAPER.alpha_bar(np.array([CLEAN, 0, 1]))
    assert none == 1 > least > more
    assert PAPER.level(1.0) == CLEAN


@given(st.integers(CLEAN, 999))
def test_a_level_is_found_again_from_its_signal(t: int) -> None:
    assert PAPER.level(float(np.sqrt(PAPER.alpha_bar(np.array(t))))) == t


def test_the_paper_injects_uniformly_from_350_to_650() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([draw_level(rng, PAPER, None) for _ in range(6000)])
    assert (drawn.min(), drawn.max()) == (350, 650)
    assert np.histogram(drawn, 3, (350, 651))[0] == pytest.approx(2000, rel=0.1)


@pytest.mark.parametrize("ends", [(0.9, 0.5), (0.5, 0.9)])
def test_the_default_injects_uniformly_in_signal_from_90_to_50_percent(ends: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([draw_level(rng, PAPER, ends) for _ in range(3000)])
    assert (drawn.min(), drawn.max()) == (90, 317)
    shares = np.sqrt(PAPER.alpha_bar(drawn))
    assert np.histogram(shares, 4, (0.4999, 0.9001))[0] == pytest.approx(750, rel=0.15)


def test_a_card_gives_its_schedule() -> None:
    assert NoiseSchedule.of({**SCHEDULE, "prediction": "noise", "clip_sample": False}) == PAPER
    assert NoiseSchedule.of({**SCHEDULE, "num_train_timesteps": 50}).levels == 50


@pytest.mark.parametrize(
    ("fields", "word"),
    [({**SCHEDULE, "schedule": "cosine"}, "cosine"), ({**SCHEDULE, "prediction": "v"}, "'v'"), ({}, "numbers")],
)
def test_a_schedule_that_is_not_ours_is_refused(fields: dict, word: str) -> None:
    with pytest.raises(InputError, match=rf"^ldm\.safetensors: .*{word}"):
        NoiseSchedule.of(fields, "ldm.safetensors")
