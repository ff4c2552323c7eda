"""The autoencoder and the diffusion network: sizes, shapes, schedule, refusals."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_stores import LDM_NETWORK, VAE_NETWORK

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.generative import (
    AUTOENCODERS,
    DIFFUSION_MODELS,
    SCHEDULE,
    build_autoencoder,
    build_diffusion,
    build_discriminator,
    build_schedule,
    downsampling,
)


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_autoencoder_of_the_paper_makes_a_latent_of_3_x_48_x_64() -> None:
    with torch.device("meta"):
        network = build_autoencoder(AUTOENCODERS["paper"])
        mean, sd = network.encode(torch.empty(1, 1, 192, 256))
        assert mean.shape == sd.shape == (1, 3, 48, 64)
        assert network.decode(mean).shape == (1, 1, 192, 256)
    assert count(network) == pytest.approx(13.3e6, rel=0.02)


def test_the_diffusion_network_of_the_paper_has_64_million_weights() -> None:
    with torch.device("meta"):
        network = build_diffusion(DIFFUSION_MODELS["paper"])
    assert count(network) == pytest.approx(64.1e6, rel=0.02)


def test_the_compact_networks_fit_together_and_are_small() -> None:
    vae = build_autoencoder(AUTOENCODERS["compact"])
    ldm = build_diffusion(DIFFUSION_MODELS["compact"])
    mean, _ = vae.encode(torch.zeros(1, 1, 32, 48))
    assert ldm(mean, torch.tensor([5])).shape == mean.shape == (1, 3, 16, 24)
    assert count(vae) < 0.5e6
    assert count(ldm) < 12e6


@given(rows=st.integers(1, 4), columns=st.integers(1, 4))
@settings(max_examples=5, deadline=None)
def test_a_latent_pixel_covers_four_by_four_pixels_of_any_canvas(rows: int, columns: int) -> None:
    vae = build_autoencoder(VAE_NETWORK)
    image = torch.zeros(1, 1, 16 * rows, 16 * columns)
    mean, _ = vae.encode(image)
    assert downsampling(vae) == 4
    assert mean.shape == (1, 3, 4 * rows, 4 * columns)
    assert vae.decode(mean).shape == image.shape


def test_the_discriminator_judges_patches() -> None:
    scores = build_discriminator(channels=4, layers=2)(torch.zeros(2, 1, 32, 48))[-1]
    assert scores.shape[:2] == (2, 1)
    assert min(scores.shape[2:]) > 1


def test_the_schedule_is_the_linear_one_of_the_paper_and_clips_nothing() -> None:
    schedule = build_schedule()
    kept = torch.cumprod(1 - torch.linspace(0.0015, 0.0195, 1000, dtype=torch.float64), dim=0)
    torch.testing.assert_close(schedule.alphas_cumprod.double(), kept, rtol=1e-4, atol=1e-7)
    assert schedule.clip_sample is False
    latents, noise = torch.full((1, 3, 4, 4), 5.0), torch.ones(1, 3, 4, 4)
    noisy = schedule.add_noise(latents, noise, torch.tensor([300]))
    torch.testing.assert_close(noisy, 5 * kept[300].sqrt().float() + (1 - kept[300]).sqrt().float() * noise)
    assert SCHEDULE["num_train_timesteps"] == 1000


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (build_autoencoder, {**VAE_NETWORK, "depth": 3}, "autoencoder has no argument depth"),
        (build_autoencoder, {**VAE_NETWORK, "norm_num_groups": 3}, "autoencoder cannot be built"),
        (build_diffusion, {**LDM_NETWORK, "spatial_dims": 3}, "diffusion network has no argument spatial_dims"),
        (build_diffusion, {**LDM_NETWORK, "attention_levels": [True]}, "diffusion network cannot be built"),
    ],
)
def test_arguments_that_no_network_has_are_refused_by_name(build: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(arguments)
