"""Injection into slices: what is changed, what is not, and how drifted anatomy is told."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import read_volume
from BrainDiffLogic.motion import preset, simulate_motion, with_severity
from BrainDiffLogic.scan import robust_scale
from BrainDiffLogic.training.injected_pairs import MIN_SIMILARITY, anatomy_drift
from BrainDiffLogic.training.injection import (
    MODES,
    PAPER,
    InjectionSettings,
    MotionPrior,
    inject,
    load_prior,
    variant_seed,
)
from BrainDiffLogic.volume import Volume, to_sagittal
from Harness.tiny_prior import SCALE, save_prior, slices, tiny_networks, tiny_prior, write_store

PRIOR = tiny_prior()
NAMES = ["a/10", "a/11", "b/7"]
QUICK = InjectionSettings(variants=2, steps=3)
NOTHING = (1.0, 1.0)


class KnowsTheLatent(torch.nn.Module):
    """A prior that gives back the very latents it was made for: whatever the noise, nothing is injected."""

    def __init__(self, latents: torch.Tensor) -> None:
        super().__init__()
        self.latents = latents

    def forward(self, latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha_bar = torch.from_numpy(PRIOR.schedule.alpha_bar(t.numpy())).float().reshape(-1, 1, 1, 1)
        return (latents - alpha_bar.sqrt() * self.latents) / (1 - alpha_bar).sqrt()


def reconstructed(images: np.ndarray) -> np.ndarray:
    """D(E(x)) by MONAI's own words."""
    autoencoder, _ = tiny_networks()
    with torch.no_grad():
        return autoencoder.eval().reconstruct(torch.from_numpy(images)[:, None])[:, 0].numpy()


# What is injected


@pytest.mark.parametrize("steps", [3, None])
def test_where_nothing_is_injected_transplanting_gives_the_slice_itself(steps: int | None) -> None:
    clean = slices(3)
    injection = inject(PRIOR, clean, NAMES, InjectionSettings(signal=NOTHING, steps=steps, variants=2))
    assert np.array_equal(injection.images, np.stack([clean, clean], axis=1))
    assert (injection.signal == 1).all()
    assert (injection.t == -1).all()


def test_where_nothing_is_injected_decoding_gives_the_reconstruction() -> None:
    clean = slices(2)
    injection = inject(PRIOR, clean, NAMES[:2], InjectionSettings(mode="decode", signal=NOTHING, variants=1))
    np.testing.assert_allclose(injection.images[:, 0], reconstructed(clean), atol=1e-5)


@pytest.mark.parametrize("signal", [0.9, 0.3])
def test_a_prior_that_brings_the_latent_back_transplants_nothing_but_decodes_the_blur(signal: float) -> None:
    clean = slices(1)
    latent = PRIOR.encode(torch.from_numpy(clean)[:, None]).detach()
    prior = MotionPrior(PRIOR.autoencoder, KnowsTheLatent(latent), SCALE, PRIOR.schedule, PRIOR.device)
    plan = InjectionSettings(signal=(signal, signal), steps=4, variants=2)
    transplanted = inject(prior, clean, NAMES[:1], plan).images
    np.testing.assert_allclose(transplanted, clean[:, None].repeat(2, axis=1), atol=1e-3)
    decoded = inject(prior, clean, NAMES[:1], replace(plan, mode="decode")).images
    np.testing.assert_allclose(decoded[:, 0], reconstructed(clean), atol=1e-3)
    assert np.abs(decoded - transplanted).max() > 0.1


def test_transplant_and_decode_differ_by_the_error_of_the_reconstruction() -> None:
    clean = slices(3)
    added, decoded = (inject(PRIOR, clean, NAMES, replace(QUICK, mode=mode)).images for mode in MODES)
    assert np.abs(added - clean[:, None]).max() > 0.01
    np.testing.assert_allclose(added - decoded, (clean - reconstructed(clean))[:, None].repeat(2, axis=1), atol=1e-5)


def test_the_latent_scale_is_undone_before_decoding() -> None:
    clean = torch.from_numpy(slices(1))[:, None]
    latents = PRIOR.encode(clean)
    mean, _ = PRIOR.autoencoder.encode(clean)
    torch.testing.assert_close(latents, SCALE * mean)
    torch.testing.assert_close(PRIOR.decode(latents), PRIOR.autoencoder.decode(mean))


def test_less_signal_left_changes_more() -> None:
    clean = slices(3)
    change = []
    for signal in (0.99, 0.9, 0.5):
        images = inject(PRIOR, clean, NAMES, replace(QUICK, signal=(signal, signal))).images
        change.append(np.abs(images - clean[:, None]).mean())
    assert change == sorted(change)


def test_the_papers_plan_draws_t_from_350_to_650_and_takes_every_step() -> None:
    assert (PAPER.mode, PAPER.steps, PAPER.variants) == ("decode", None, 5)
    injection = inject(PRIOR, slices(3), NAMES, replace(PAPER, steps=2))
    assert ((injection.t >= 350) & (injection.t <= 650)).all()
    np.testing.assert_allclose(injection.signal, np.sqrt(PRIOR.schedule.alpha_bar(injection.t)))


# Seeds


def test_a_version_is_the_same_in_any_batch_and_any_order() -> None:
    clean = slices(3)
    reference = inject(PRIOR, clean, NAMES, QUICK)
    for batch, order in ((1, [0, 1, 2]), (4, [2, 0, 1]), (5, [1])):
        other = inject(PRIOR, clean[order], [NAMES[n] for n in order], QUICK, batch)
        np.testing.assert_allclose(other.images, reference.images[order], atol=1e-5)
        assert np.array_equal(other.t, reference.t[order])
        assert other.seeds == [reference.seeds[n] for n in order]


def test_full_sampling_is_the_same_in_any_batch_too() -> None:
    clean, plan = slices(2), InjectionSettings(signal=(0.995, 0.98), steps=None, variants=2)
    reference = inject(PRIOR, clean, NAMES[:2], plan)
    np.testing.assert_allclose(inject(PRIOR, clean, NAMES[:2], plan, 3).images, reference.images, atol=1e-5)


def test_versions_slices_and_runs_have_seeds_of_their_own() -> None:
    clean = slices(1).repeat(2, axis=0)  # the same slice under two names
    images = inject(PRIOR, clean, NAMES[:2], QUICK).images.reshape(4, -1)
    images = np.concatenate([images, inject(PRIOR, clean, NAMES[:2], replace(QUICK, seed=1)).images.reshape(4, -1)])
    distances = np.abs(images[:, None] - images).max(axis=-1)
    assert distances[~np.eye(8, dtype=bool)].min() > 1e-3


@given(st.integers(0, 2**31), st.sampled_from(NAMES), st.integers(0, 9))
def test_a_seed_depends_on_run_slice_and_version_alone(seed: int, name: str, variant: int) -> None:
    first = variant_seed(seed, name, variant)
    assert first == variant_seed(seed, name, variant)
    assert 0 <= first < 2**64
    assert first not in (variant_seed(seed + 1, name, variant), variant_seed(seed, name, variant + 1))


def test_bfloat16_gives_nearly_the_same_images() -> None:
    clean = slices(2)
    exact = inject(PRIOR, clean, NAMES[:2], QUICK).images
    fast = inject(replace(PRIOR, bf16=True), clean, NAMES[:2], QUICK).images
    assert 0 < np.abs(fast - exact).mean() < 0.1 * np.abs(exact - clean[:, None]).mean()


@pytest.mark.gpu
def test_a_gpu_draws_the_same_noise() -> None:
    clean = slices(2)
    expected = inject(PRIOR, clean, NAMES[:2], QUICK)
    found = inject(MotionPrior(*tiny_networks(), SCALE, PRIOR.schedule, torch.device("cuda")), clean, NAMES[:2], QUICK)
    assert np.array_equal(found.t, expected.t)
    np.testing.assert_allclose(found.images, expected.images, atol=2e-2)


# Plans and files


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "paste"}, "mode 'paste' is unknown: use transplant or decode"), ({"signal": (0.9, 0.0)}, "signal"),
        ({"signal": (1.2, 0.5)}, "signal"), ({"steps": 0}, "steps 0"), ({"variants": 0}, "variants 0"),
        ({"seed": -1}, "seed -1"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        InjectionSettings(**changes)


def test_the_files_of_phase_1_and_2_make_a_prior(tmp_path: Any) -> None:
    prior, cards = load_prior(*save_prior(tmp_path, write_store(tmp_path / "store")), device="cpu")
    assert (prior.scale, prior.schedule) == (SCALE, PRIOR.schedule)
    assert cards["ldm"]["training"]["group"] == "motion"
    clean = slices(1)
    expected = inject(PRIOR, clean, NAMES[:1], QUICK).images
    np.testing.assert_allclose(inject(prior, clean, NAMES[:1], QUICK).images, expected, atol=1e-6)


# Drift


def network_units(volume: Volume) -> np.ndarray:
    return to_sagittal(volume.with_array(robust_scale(volume.array).forward(volume.array)))


def test_a_slice_has_not_drifted_from_itself(a_head: Volume) -> None:
    image = network_units(a_head)[20]
    drift = anatomy_drift(image, image, 2.0)
    assert drift.similarity == pytest.approx(1, abs=1e-5)
    assert drift.overlap == 1
    assert drift.accepted


@pytest.mark.parametrize("kind", ["steps", "tremor"])
def test_motion_up_to_6_mm_is_accepted_and_more_motion_drifts_more(a_head: Volume, kind: str) -> None:
    clean = network_units(a_head)[20]
    drifts = []
    for severity in (1, 3, 6):
        trajectory = with_severity(preset(kind, a_head.shape[1], 3), severity)
        drifts.append(anatomy_drift(network_units(simulate_motion(a_head, trajectory, "AP").moved)[20], clean, 2.0))
    assert all(drift.accepted for drift in drifts)
    similarities = [drift.similarity for drift in drifts]
    assert similarities == sorted(similarities, reverse=True)


def other_anatomy(a_head: Volume) -> np.ndarray:
    """Another head on the same grid: a slice further out, turned over, unlike it in all but its outline."""
    return network_units(a_head)[32, ::-1, ::-1]


def test_another_brain_is_rejected(a_head: Volume) -> None:
    drift = anatomy_drift(other_anatomy(a_head), network_units(a_head)[20], 2.0)
    assert not drift.accepted
    assert drift.similarity < MIN_SIMILARITY


@pytest.mark.shared
def test_real_heads_are_told_apart_by_a_wide_margin(shared_data: Path) -> None:
    volumes = [read_volume(path) for path in sorted((shared_data / "t1_head").glob("ds000011-0[1-3]_T1w.nii.gz"))]
    middles = [network_units(volume)[volume.shape[0] // 2] for volume in volumes]
    assert len(middles) == 3
    for one, other in combinations(middles, 2):
        assert anatomy_drift(one, other, 1.333).similarity < MIN_SIMILARITY - 0.05


@given(st.floats(0.0, 0.02), st.integers(0, 9))
@settings(max_examples=8)
def test_noise_is_no_drift(spread: float, seed: int) -> None:
    clean = slices(1)[0]
    noisy = clean + np.random.default_rng(seed).normal(0, spread, clean.shape).astype(np.float32)
    assert anatomy_drift(noisy, clean, 4.0).similarity > 0.95


def test_an_empty_slice_is_no_error() -> None:
    empty = np.zeros((32, 48), dtype=np.float32)
    assert anatomy_drift(empty, empty).accepted
    assert not anatomy_drift(slices(1)[0], empty).accepted
