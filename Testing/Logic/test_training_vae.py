"""Phase 1: losses, steps of two optimisers, runs that go on, what is exported, what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_stores import VAE_NETWORK, vae_plan, write_store

from BrainDiffLogic.commands.main import main
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.generative import AUTOENCODERS, build_autoencoder, load_ldm, load_vae, start_narrow
from BrainDiffLogic.training.batches import (
    EpochBatches,
    NoisySamples,
    ProcessBatches,
    steps_per_epoch,
)
from BrainDiffLogic.training.configuration import VaeConfiguration, chosen_arguments
from BrainDiffLogic.training.fields import read_section
from BrainDiffLogic.training.fit import (
    Hardware,
    epochs_done,
    grid,
    trained_state,
)
from BrainDiffLogic.training.optimisers import rate_share
from BrainDiffLogic.training.slice_store import SliceStore
from BrainDiffLogic.training.vae import export_vae, kl_divergence, reconstruction_quality, train_vae, vae_slices
from Harness.tiny_training import curve_of

CPU = Hardware("cpu")


@pytest.fixture(scope="module")
def a_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def a_run(a_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run with a discriminator from its second epoch on, in two parts a batch."""
    plan = vae_plan(adversarial_weight=0.01, adversarial_from=1, accumulate=2, images_every=1)
    return train_vae(plan, a_store, tmp_path_factory.mktemp("run"), CPU)


# Configurations


@pytest.mark.parametrize("name", ["vae", "vae-paper"])
def test_a_shipped_configuration_of_the_autoencoder_loads(name: str) -> None:
    plan = read_section(VaeConfiguration, name)
    with torch.device("meta"):
        build_autoencoder(chosen_arguments(plan.network, AUTOENCODERS))


def test_the_papers_configuration_is_the_default_but_for_the_moving_average() -> None:
    assert read_section(VaeConfiguration, "vae-paper") == replace(VaeConfiguration(), ema=0.0)
    plan = VaeConfiguration()
    assert (plan.epochs, plan.batch, plan.learning_rate, plan.kl_weight) == (50, 8, 1e-4, 1e-6)
    assert (plan.perceptual, plan.perceptual_weight) == ("lpips", 1.0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "epochs must be 1 or more"),
        ("learning_rate", "1e-3", "YAML reads 1e-3 as text"),
        ("splits", ["prior", "test"], "must be one of prior, correction, got 'test'"),
        ("perceptual", "vgg", "perceptual must be one of none, gradient, self, lpips"),
        ("accumulate", 3, "batch 8 cannot be computed in 3 equal parts"),
        ("precision", "16-mixed", "precision must be one of"),
        ("steps", 3, "unknown field 'steps'"),
    ],
)
def test_a_field_that_is_of_no_use_is_named(field: str, value: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({field: value}))
    with pytest.raises(InputError, match=message):
        read_section(VaeConfiguration, tmp_path / "a.yaml")


# Data


def test_training_and_validation_share_no_subject_and_the_test_split_stays_out(a_store: Path) -> None:
    store = SliceStore(a_store)
    training, validation = vae_slices(vae_plan(validation_share=0.3), store)
    subjects = [{store.items[n]["subject"] for n in part} for part in (training, validation)]
    assert [len(part) for part in subjects] == [4, 2]
    assert not subjects[0] & subjects[1]
    assert not (subjects[0] | subjects[1]) & set(store.subjects("test"))


def test_one_subject_cannot_be_trained_and_validated_on(a_store: Path) -> None:
    store = SliceStore(a_store)
    alone = np.array([n for n, item in enumerate(store.items) if item["subject"] == "sub-0"])
    with pytest.raises(InputError, match="set validation_share: 0"):
        store.hold_out(alone, 0.1)
    training, validation = store.hold_out(alone, 0.0)
    assert len(training) == len(alone)
    assert not len(validation)


@given(steps=st.integers(1, 4), parts=st.integers(1, 3), processes=st.integers(1, 3), share=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_the_shares_of_all_processes_and_parts_are_the_batches_of_one_process(
    steps: int, parts: int, processes: int, share: int
) -> None:
    batch = parts * processes * share
    ranks = [list(ProcessBatches(steps * batch, batch, parts, rank, processes)) for rank in range(processes)]
    assert {len(rank) for rank in ranks} == {steps * parts}
    for step in range(steps):
        own = [n for rank in ranks for part in rank[step * parts : (step + 1) * parts] for n in part]
        assert sorted(own) == list(range(step * batch, (step + 1) * batch))


def test_each_epoch_has_samples_of_its_own_and_the_last_may_be_shorter() -> None:
    asked = []

    def epoch(number: int, count: int) -> list[int]:
        asked.append((number, count))
        return list(range(count))

    batches = EpochBatches(vae_plan(batch=4), epoch, [], steps=5, total=12, workers=0)
    sizes = []
    for number in range(3):
        batches.trainer = SimpleNamespace(current_epoch=number, global_rank=0, world_size=1)
        sizes.append(len(batches.train_dataloader()))
    assert asked == [(0, 20), (1, 20), (2, 8)]
    assert sizes == [5, 5, 2]


@given(epoch=st.integers(0, 50), count=st.integers(1, 20))
@settings(max_examples=15, deadline=None)
def test_an_epoch_goes_through_all_slices_before_it_takes_one_again(epoch: int, count: int) -> None:
    samples = NoisySamples(np.zeros((9, 4, 4)), np.arange(2, 9), (1, 1, 1), 1, epoch, count)
    assert len(samples) == count
    assert len(set(samples.order[:7])) == min(7, count)
    assert set(samples.order) <= set(range(2, 9))


def test_a_sample_depends_on_seed_epoch_and_place_alone() -> None:
    array = np.random.default_rng(0).random((6, 8, 8)).astype(np.float16)
    one, same = (NoisySamples(array, np.arange(6), (3, 2, 2), 1, 4, 6) for _ in range(2))
    other = NoisySamples(array, np.arange(6), (3, 2, 2), 1, 5, 6)
    _ = same[0]  # what was read before does not matter
    assert all(torch.equal(one[3][name], same[3][name]) for name in ("x", "noise", "timestep"))
    assert not torch.equal(one[3]["noise"], other[3]["noise"])
    assert one[3]["x"].shape == (1, 8, 8)


def test_an_epoch_has_as_many_steps_as_whole_batches() -> None:
    assert steps_per_epoch(vae_plan(epoch_steps=0, batch=4), 11) == 2
    assert steps_per_epoch(vae_plan(epoch_steps=0, batch=4), 3) == 1
    assert steps_per_epoch(vae_plan(epoch_steps=7), 11) == 7


# Losses and rates


def test_the_divergence_is_that_of_torch_summed_over_the_latent() -> None:
    mean, sd = torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5) + 0.1
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, sd), normal(0.0, 1.0)).sum(dim=(1, 2, 3)).mean()
    torch.testing.assert_close(kl_divergence(mean, sd), expected)


@pytest.mark.parametrize("sd", [0.02, 0.5])
def test_a_posterior_can_start_narrow(sd: float) -> None:
    network = build_autoencoder(chosen_arguments("compact", AUTOENCODERS))
    image = torch.rand(2, 1, 32, 48)
    mean, wide = network.encode(image)
    start_narrow(network, sd)
    same, narrow = network.encode(image)
    torch.testing.assert_close(same, mean)
    assert float(narrow.detach().mean() / sd) == pytest.approx(1, abs=0.3)
    assert wide.detach().mean() > 0.7


def test_a_configuration_decides_how_narrow_the_posterior_starts(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    plan = vae_plan(posterior_sd=0.01, learning_rate=1e-9)
    state = trained_state(train_vae(plan, store, tmp_path / "run", Hardware("cpu")))
    assert float(state["quant_conv_log_sigma.conv.bias"].mean()) == pytest.approx(2 * np.log(0.01), abs=1e-3)


def test_quality_of_a_known_error_is_known() -> None:
    image = torch.rand(2, 1, 32, 48)
    quality = reconstruction_quality(image + 0.1, image)
    assert float(quality["psnr"]) == pytest.approx(20, abs=1e-3)
    assert float(quality["l1"]) == pytest.approx(0.1, abs=1e-6)
    assert float(reconstruction_quality(image, image)["ssim"]) == pytest.approx(1, abs=1e-6)


@given(step=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_the_rate_is_constant_without_warm_up_and_decay_and_stays_within_it_else(step: int) -> None:
    assert rate_share(step, 100, 0, 0.0) == 1
    assert 0 < rate_share(step, 100, 10, 0.5) <= 1
    assert rate_share(step, 100, 10, 0.5) == 1 or not 10 <= step <= 50


def test_a_grid_shows_superior_up_and_clips() -> None:
    row = torch.zeros(8, 1, 4, 6)
    row[0, 0, 0, 5] = 3.0
    picture = grid([row, row])
    assert picture.shape == (1, 12, 24)
    assert picture[0, 0, 0] == 1


# Runs


def test_a_run_with_a_discriminator_trains_both_and_logs_pictures(a_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert epochs_done(a_run) == 2
    checkpoint = torch.load(a_run, weights_only=False)
    generator, judge = (optimiser["state"][0]["step"] for optimiser in checkpoint["optimizer_states"])
    assert (float(generator), float(judge)) == (4, 2)
    log = EventAccumulator(str(a_run.parent / "log"))
    log.Reload()
    assert log.Tags()["images"] == ["image, reconstruction, difference x 2"]
    assert {"validation/psnr", "validation/ssim"} <= set(log.Tags()["scalars"])


def test_a_batch_in_parts_teaches_what_it_teaches_as_a_whole(a_store: Path, tmp_path: Path) -> None:
    states = [
        torch.load(train_vae(vae_plan(accumulate=parts, epochs=1), a_store, tmp_path / str(parts), CPU),
                   weights_only=False)["optimizer_states"][0]["state"]
        for parts in (1, 2)
    ]  # fmt: skip
    for whole, divided in zip(states[0].values(), states[1].values(), strict=True):
        torch.testing.assert_close(divided["exp_avg"], whole["exp_avg"], rtol=1e-3, atol=1e-6)


def test_a_run_that_was_interrupted_ends_like_one_that_was_not(
    a_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = vae_plan(epochs=3, adversarial_weight=0.01, adversarial_from=1)
    whole = train_vae(plan, a_store, tmp_path / "whole", CPU)
    curve = curve_of(capsys.readouterr().err)
    train_vae(replace(plan, epochs=1), a_store, tmp_path / "parts", CPU)
    resumed = train_vae(plan, a_store, tmp_path / "parts", CPU)
    again = curve_of(capsys.readouterr().err)
    assert again == curve
    assert len(curve) == 3
    expected, state = trained_state(whole), trained_state(resumed)
    assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_a_finished_run_is_not_started_again(a_run: Path, a_store: Path) -> None:
    before = a_run.stat().st_mtime_ns
    plan = vae_plan(adversarial_weight=0.01, adversarial_from=1, accumulate=2, images_every=1)
    assert train_vae(plan, a_store, a_run.parent, CPU) == a_run
    assert a_run.stat().st_mtime_ns == before


def test_a_folder_with_a_run_of_another_network_is_refused(a_run: Path, a_store: Path) -> None:
    with pytest.raises(InputError, match=r"another .*batch \(.*, now 1\)"):
        train_vae(vae_plan(batch=1), a_store, a_run.parent, CPU)
    with pytest.raises(InputError, match=r"another .*decay \(0.0, now 0.5\)"):
        train_vae(vae_plan(decay=0.5), a_store, a_run.parent, CPU)
    with pytest.raises(InputError, match="another network"):
        train_vae(vae_plan(network={**VAE_NETWORK, "channels": [4, 8, 8]}), a_store, a_run.parent, CPU)


def test_the_loss_falls(a_store: Path, tmp_path: Path) -> None:
    plan = vae_plan(epochs=1, epoch_steps=40, learning_rate=5e-3, perceptual="none", ema=0.9)
    card = export_vae(plan, train_vae(plan, a_store, tmp_path, CPU), tmp_path / "v.safetensors", a_store)
    fresh = replace(plan, epoch_steps=1, learning_rate=0.0)
    start = export_vae(fresh, train_vae(fresh, a_store, tmp_path / "0", CPU), tmp_path / "0.safetensors", a_store)
    quality = [facts["training"]["validation"]["psnr"] for facts in (start, card)]
    assert quality[1] > quality[0] + 3


# Checkpoints


def test_an_exported_autoencoder_loads_and_its_latents_have_unit_variance(
    a_run: Path, a_store: Path, tmp_path: Path
) -> None:
    plan = vae_plan(adversarial_weight=0.01, adversarial_from=1, accumulate=2, images_every=1)
    export_vae(plan, a_run, tmp_path / "vae.safetensors", a_store)
    vae, card = load_vae(tmp_path / "vae.safetensors", frozen=True)
    assert not any(parameter.requires_grad for parameter in vae.parameters())
    for name, value in trained_state(a_run).items():
        torch.testing.assert_close(vae.state_dict()[name], value, rtol=0, atol=0)
    store = SliceStore(a_store)
    training, _ = vae_slices(plan, store)
    with torch.no_grad():
        mean, _ = vae.encode(torch.from_numpy(store.array[training].astype(np.float32))[:, None])
    assert float(card["scale"] * mean.std()) == pytest.approx(1, abs=0.01)
    assert card["training"]["perceptual"] == {"term": "gradient", "scales": 3}
    assert card["training"]["slices"] == {"clean": 10, "motion": 10}
    assert set(card["training"]["validation"]) == {"l1", "psnr", "ssim"}


def test_files_that_are_no_autoencoder_are_refused(a_run: Path, a_store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such autoencoder; make one with `braindiff train vae --export`"):
        load_vae(tmp_path / "none.safetensors")
    path = tmp_path / "vae.safetensors"
    export_vae(vae_plan(), a_run, path, a_store)
    with pytest.raises(InputError, match="the weights of no diffusion model"):
        load_ldm(path)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match="sha256 differs"):
        load_vae(path)


# The command


def test_the_command_trains_exports_and_refuses_in_one_line(
    a_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {name: value for name, value in vars(vae_plan(epochs=1)).items() if value is not None}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    export = str(tmp_path / "own.safetensors")
    run = ["--config", str(tmp_path / "tiny.yaml"), "--run", str(tmp_path / "run"), "--device", "cpu"]
    assert main(["train", "vae", *run, "--data", str(a_store), "--export", export]) == 0
    assert json.loads(capsys.readouterr().out)["weights"] == export
    assert load_vae(export)[1]["family"] == "vae"
    for arguments, message in (
        (["--data", str(tmp_path)], "there is no whole slice store here"),
        (["--data", str(tmp_path / "none")], "there is no such folder"),
        (["--data", str(a_store), "--group", "clean"], "--group is no option of phase vae"),
        (["--data", str(a_store), "--perceptual", "lpips"], "give the option vgg"),
        (["--data", str(a_store), "--devices", "3", "--epochs", "2"], "cannot be shared by 3 processes"),
    ):
        assert main(["train", "vae", *run, *arguments]) == 2, arguments
        stderr = capsys.readouterr().err
        assert message in stderr
        assert len(stderr.strip().splitlines()) == 1
