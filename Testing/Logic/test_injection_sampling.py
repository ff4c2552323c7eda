"""Denoising: the lists of levels, DDIM against MONAI's DDPM, and a toy whose answer is known."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.networks.schedulers import DDPMScheduler
from torch import Tensor

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.generative import SCHEDULE
from BrainDiffLogic.training.injection import CLEAN, NoiseSchedule, add_noise, ddim_update, denoise, sampling_steps

PAPER = NoiseSchedule()
MEAN, SPREAD = 0.8, 0.3


def exact_noise(latents: Tensor, t: Tensor) -> Tensor:
    """The expected noise in a latent whose clean values are normal with MEAN and SPREAD."""
    alpha_bar = torch.from_numpy(PAPER.alpha_bar(t.numpy())).float().reshape(-1, 1, 1, 1)
    variance = alpha_bar * SPREAD**2 + 1 - alpha_bar
    return (1 - alpha_bar).sqrt() * (latents - alpha_bar.sqrt() * MEAN) / variance


@given(start=st.integers(CLEAN, 999), count=st.integers(1, 1200) | st.none())
def test_steps_go_down_from_the_start_to_the_clean_latent(start: int, count: int | None) -> None:
    steps = sampling_steps(start, count)
    assert len(steps) <= start + 1 if count is None else len(steps) <= min(count, start + 1)
    levels = [start, *(after for _, after in steps)]
    assert levels[:-1] == [before for before, _ in steps]
    assert levels[-1] == CLEAN
    gaps = -np.diff(levels)
    assert all(gaps >= 1)
    assert all(np.diff(gaps) <= 1)  # closer and closer, to whole levels


def test_the_default_number_of_steps_is_what_is_taken_from_where_motion_is_injected() -> None:
    assert [len(sampling_steps(start, 25)) for start in (90, 317, 650)] == [23, 25, 25]


def test_full_sampling_visits_every_level() -> None:
    assert sampling_steps(3) == [(3, 2), (2, 1), (1, 0), (0, CLEAN)]
    assert sampling_steps(CLEAN) == []


def test_no_steps_at_all_are_refused() -> None:
    with pytest.raises(InputError, match="steps 0: must be 1 or more, or full"):
        sampling_steps(10, 0)


@pytest.mark.parametrize("t", [0, 1, 2, 90, 317, 650, 999])
def test_one_level_with_eta_1_is_a_step_of_monais_ddpm(t: int) -> None:
    latent, predicted = torch.randn(2, 3, 8, 12), torch.randn(2, 3, 8, 12)
    scheduler = DDPMScheduler(**SCHEDULE, clip_sample=False)
    expected, _ = scheduler.step(predicted, t, latent, generator=torch.Generator().manual_seed(7))
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(7))
    before, after = (torch.tensor(PAPER.alpha_bar(np.array([level])), dtype=torch.float32) for level in (t, t - 1))
    torch.testing.assert_close(
        ddim_update(latent, predicted, before, after, noise, 1.0), expected, atol=2e-4, rtol=1e-3
    )


@given(t=st.integers(1, 999), back=st.integers(1, 999), eta=st.floats(0, 1))
def test_an_update_keeps_the_variance_of_the_level_it_goes_to(t: int, back: int, eta: float) -> None:
    # with a clean value of 0 and the true noise, what remains is noise of variance 1 - alpha_bar
    before, after = (torch.tensor(float(PAPER.alpha_bar(np.array(level)))) for level in (t, max(CLEAN, t - back)))
    scale = (1 - before).sqrt()
    from_old = ddim_update(scale, torch.tensor(1.0), before, after, torch.tensor(0.0), eta)
    from_new = ddim_update(torch.tensor(0.0), torch.tensor(0.0), before, after, torch.tensor(1.0), eta)
    assert float(from_old**2 + from_new**2) == pytest.approx(float(1 - after), abs=1e-5)


@pytest.mark.parametrize(
    ("start", "count", "eta", "tolerance"),
    [
        # updates of finite length narrow the spread; with more of them less
        (90, 25, 0.0, 0.03), (317, 25, 0.0, 0.05), (317, 100, 0.0, 0.02), (999, 100, 0.0, 0.03),
        (90, None, 1.0, 0.05), (317, None, 1.0, 0.04), (317, None, 0.0, 0.02), (650, None, 1.0, 0.04),
    ],
)  # fmt: skip
def test_the_exact_score_of_a_gaussian_gives_its_mean_and_spread(
    start: int, count: int | None, eta: float, tolerance: float
) -> None:
    generator = np.random.default_rng(1)
    clean = MEAN + SPREAD * torch.from_numpy(generator.standard_normal((1, 1, 80, 100), dtype=np.float32))
    noise = torch.from_numpy(generator.standard_normal(clean.shape, dtype=np.float32))
    noised = add_noise(clean, noise, np.array([start]), PAPER)
    sampled = denoise(exact_noise, noised, [sampling_steps(start, count)], PAPER, eta=eta, generators=[generator])
    assert sampled.mean().item() == pytest.approx(MEAN, abs=0.015)
    assert sampled.std().item() == pytest.approx(SPREAD, rel=tolerance)


def test_each_latent_goes_through_its_own_steps_as_if_it_were_alone() -> None:
    latents = torch.randn(4, 1, 6, 6)
    steps = [sampling_steps(start, 5) for start in (400, 2, CLEAN, 90)]
    together = denoise(exact_noise, latents, steps, PAPER, eta=1.0, generators=rngs(4))
    for row in range(4):
        alone = denoise(exact_noise, latents[[row]], [steps[row]], PAPER, eta=1.0, generators=[rngs(4)[row]])
        torch.testing.assert_close(together[[row]], alone)
    assert torch.equal(together[2], latents[2])
    assert not torch.equal(together[1], latents[1])


def rngs(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def test_the_latents_that_came_in_are_left_as_they_were() -> None:
    latents = torch.randn(1, 1, 4, 4)
    before = latents.clone()
    denoise(exact_noise, latents, [sampling_steps(50, 3)], PAPER)
    assert torch.equal(latents, before)


def test_the_network_is_told_the_level_that_the_update_leaves() -> None:
    told = []

    def note(latents: Tensor, t: Tensor) -> Tensor:
        told.append(t.tolist())
        return torch.zeros_like(latents)

    denoise(note, torch.zeros(2, 1, 4, 4), [[(90, 40), (40, CLEAN)], [(7, CLEAN)]], PAPER)
    assert told == [[90, 7], [40]]
