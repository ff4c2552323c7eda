"""Phase 2: which slices a prior may know, latents, runs that go on, several processes, what is exported."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny_stores import LDM_NETWORK, VAE_NETWORK, ldm_plan, vae_plan, write_store

from BrainDiffLogic.commands.main import main
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.generative import (
    DIFFUSION_MODELS,
    build_autoencoder,
    build_diffusion,
    check_partners,
    load_ldm,
    load_vae,
)
from BrainDiffLogic.training.configuration import LdmConfiguration, chosen_arguments
from BrainDiffLogic.training.fields import read_section
from BrainDiffLogic.training.fit import Hardware, epochs_done, trained_state
from BrainDiffLogic.training.ldm import DiffusionTraining, assert_prior, export_ldm, prior_slices, train_ldm
from BrainDiffLogic.training.slice_store import SliceStore, save_generative
from Harness.tiny_training import curve_of

CPU = Hardware("cpu")


@pytest.fixture(scope="module")
def a_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def a_vae(a_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vae(tmp_path_factory.mktemp("vae") / "vae.safetensors", a_store, 1)


def write_vae(path: Path, store: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    save_generative(build_autoencoder(VAE_NETWORK), "vae", path, VAE_NETWORK, 1.0, SliceStore(store), {})
    return path


@pytest.fixture(scope="module")
def a_run(a_store: Path, a_vae: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_ldm(ldm_plan(images_every=1), a_store, a_vae, tmp_path_factory.mktemp("run"), CPU)


# Configurations


@pytest.mark.parametrize("name", ["ldm", "ldm-paper"])
def test_a_shipped_configuration_of_the_diffusion_model_loads(name: str) -> None:
    plan = read_section(LdmConfiguration, name)
    assert plan.group == "motion"
    with torch.device("meta"):
        build_diffusion(chosen_arguments(plan.network, DIFFUSION_MODELS))


def test_the_papers_configuration_is_the_default() -> None:
    assert read_section(LdmConfiguration, "ldm-paper") == LdmConfiguration()
    plan = LdmConfiguration()
    assert (plan.epochs, plan.batch, plan.learning_rate) == (100, 16, 2.5e-5)


def test_a_group_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("group: moved")
    with pytest.raises(InputError, match="group must be one of motion, clean"):
        read_section(LdmConfiguration, tmp_path / "a.yaml")


# Which slices


@pytest.mark.parametrize("group", ["motion", "clean"])
def test_a_prior_knows_only_its_group_and_the_prior_split(group: str, a_store: Path) -> None:
    store = SliceStore(a_store)
    chosen = [store.items[n] for n in prior_slices(store, group)]
    assert len(chosen) == 6
    assert {(item["group"], item["split"]) for item in chosen} == {(group, "prior")}


def test_a_slice_that_the_prior_must_not_know_is_named(a_store: Path) -> None:
    store = SliceStore(a_store)
    motion = prior_slices(store, "motion")
    for split, group in (("prior", "clean"), ("test", "motion"), ("correction", "motion")):
        intruder = store.select(split=split, group=group)[:1]
        scan = store.items[intruder[0]]["scan"]
        with pytest.raises(AssertionError, match=rf"{scan} \(group {group}, split {split}\)"):
            assert_prior(store, np.concatenate([motion, intruder]), "motion")


def test_a_store_without_such_slices_is_refused(tmp_path: Path) -> None:
    store = SliceStore(write_store(tmp_path / "store", splits=("correction", "test")))
    with pytest.raises(InputError, match="no motion slices in the prior split"):
        prior_slices(store, "motion")


# The loss and the latents


def test_a_network_that_knows_the_noise_has_no_loss() -> None:
    noise = torch.randn(2, 3, 4, 6)

    class Oracle(torch.nn.Module):
        def forward(self, noisy: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            return noise

    module = DiffusionTraining(Oracle(), ldm_plan(), 1, None)  # type: ignore[arg-type]
    batch = {"x": torch.randn(2, 3, 4, 6), "noise": noise, "timestep": torch.tensor([1, 900])}
    assert float(module._loss(batch)) == 0


def test_latents_are_posterior_means_encoded_once_with_unit_variance_after_scaling(
    a_run: Path, a_store: Path, a_vae: Path, tmp_path: Path
) -> None:
    store, (vae, _) = SliceStore(a_store), load_vae(a_vae)
    card = export_ldm(ldm_plan(images_every=1), a_run, tmp_path / "l.safetensors", a_store, a_vae)
    latents = np.load(a_run.parent / "latents.npy")
    with torch.no_grad():
        means, _ = vae.encode(torch.from_numpy(store.array[prior_slices(store, "motion")].astype(np.float32))[:, None])
    assert sorted(latents.mean(axis=(1, 2, 3))) == pytest.approx(sorted(means.mean(dim=(1, 2, 3)).tolist()), abs=2e-3)
    assert card["scale"] * latents[:4].astype(np.float64).std() == pytest.approx(1, abs=2e-3)
    before = (a_run.parent / "latents.npy").stat().st_mtime_ns
    train_ldm(ldm_plan(images_every=1, epochs=3), a_store, a_vae, a_run.parent, CPU)
    assert (a_run.parent / "latents.npy").stat().st_mtime_ns == before


# Runs


def test_a_run_logs_pictures_and_the_loss(a_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(a_run.parent / "log"))
    log.Reload()
    assert log.Tags()["images"] == ["slice, denoised from t 100, 300, 500"]
    assert "validation/loss" in log.Tags()["scalars"]


def test_a_run_that_was_interrupted_ends_like_one_that_was_not(
    a_store: Path, a_vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = ldm_plan(epochs=3, accumulate=2, clip=1.0, warmup=3)
    whole = train_ldm(plan, a_store, a_vae, tmp_path / "whole", CPU)
    curve = curve_of(capsys.readouterr().err)
    train_ldm(replace(plan, epochs=2), a_store, a_vae, tmp_path / "parts", CPU)
    resumed = train_ldm(plan, a_store, a_vae, tmp_path / "parts", CPU)
    again = curve_of(capsys.readouterr().err)
    assert again == curve
    assert len(curve) == 3
    state = trained_state(resumed)
    assert all(torch.equal(state[name], value) for name, value in trained_state(whole).items())


def test_a_run_in_bfloat16_learns_finite_weights(a_store: Path, a_vae: Path, tmp_path: Path) -> None:
    state = trained_state(train_ldm(ldm_plan(precision="bf16-mixed", epochs=1), a_store, a_vae, tmp_path, CPU))
    assert all(value.isfinite().all() and value.dtype == torch.float32 for value in state.values())


def test_a_run_with_another_autoencoder_or_group_needs_another_folder(
    a_run: Path, a_store: Path, a_vae: Path, tmp_path: Path
) -> None:
    other = write_vae(tmp_path / "other.safetensors", a_store, 2)
    with pytest.raises(InputError, match="another vae_sha256"):
        train_ldm(ldm_plan(), a_store, other, a_run.parent, CPU)
    with pytest.raises(InputError, match="another group"):
        train_ldm(ldm_plan(group="clean"), a_store, a_vae, a_run.parent, CPU)
    with pytest.raises(InputError, match="another validation_share"):
        train_ldm(ldm_plan(validation_share=0.5), a_store, a_vae, a_run.parent, CPU)


def test_slices_of_another_pixel_size_than_the_autoencoders_are_refused(
    a_store: Path, a_vae: Path, tmp_path: Path
) -> None:
    facts = json.loads((a_store / "slices.json").read_text())
    shutil.copytree(a_store, tmp_path / "store")
    (tmp_path / "store" / "slices.json").write_text(json.dumps({**facts, "spacing_mm": 1.0}))
    with pytest.raises(InputError, match="pixels of 1 mm, but vae was trained on 2 mm"):
        train_ldm(ldm_plan(), tmp_path / "store", a_vae, tmp_path / "run", CPU)


def test_a_network_that_does_not_fit_the_latents_is_refused(a_store: Path, a_vae: Path, tmp_path: Path) -> None:
    for change, message in (({"in_channels": 4}, "have 3 channels"), ({"channels": [8] * 4}, "no multiples of 8")):
        network = {**LDM_NETWORK, "attention_levels": [False] * 4, "num_head_channels": 8, **change}
        network["attention_levels"] = network["attention_levels"][: len(network["channels"])]
        with pytest.raises(InputError, match=message):
            train_ldm(ldm_plan(network=network), a_store, a_vae, tmp_path, CPU)


# Checkpoints and the command


def test_an_exported_model_loads_and_its_card_names_its_partner(
    a_run: Path, a_store: Path, a_vae: Path, tmp_path: Path
) -> None:
    export_ldm(ldm_plan(), a_run, tmp_path / "ldm.safetensors", a_store, a_vae)
    ldm, card = load_ldm(tmp_path / "ldm.safetensors", frozen=True)
    for name, value in trained_state(a_run).items():
        torch.testing.assert_close(ldm.state_dict()[name], value, rtol=0, atol=0)
    assert not ldm.training
    assert (card["schedule"]["beta_start"], card["schedule"]["beta_end"]) == (0.0015, 0.0195)
    assert card["schedule"]["clip_sample"] is False
    assert card["training"]["group"] == "motion"
    assert card["training"]["slices"] == {"motion": 4}
    check_partners(load_vae(a_vae)[1], card)
    with pytest.raises(InputError, match="was trained on the latents of another autoencoder"):
        check_partners({**load_vae(a_vae)[1], "sha256": "0" * 64}, card)


def command(store: Path, vae: Path, run: Path, *options: str, phase: str = "ldm", **changes: Any) -> list[str]:
    """Command line of a run with the plan of this file, changed."""
    plan = ldm_plan(**changes) if phase == "ldm" else vae_plan(**changes)
    config = run.parent / f"{run.name}.yaml"
    config.write_text(yaml.safe_dump(vars(plan)))
    partner = ["--vae", str(vae)] if phase == "ldm" else []
    return ["train", phase, "--config", str(config), "--data", str(store), "--run", str(run), "--device", "cpu",
            *partner, *options]  # fmt: skip


def child(arguments: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "BrainDiffLogic.commands.main", *arguments], env=environment, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip


def test_the_command_trains_exports_and_says_what_is_missing(
    a_store: Path, a_vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = command(a_store, a_vae, tmp_path / "run", epochs=1)
    export = str(tmp_path / "own.safetensors")
    assert main([*run, "--export", export, "--group", "clean"]) == 0
    assert json.loads(capsys.readouterr().out)["weights"] == export
    assert load_ldm(export)[1]["training"]["group"] == "clean"
    alone = [part for part in run if part not in ("--vae", str(a_vae))]
    for arguments, message in (
        (alone, "phase ldm needs --vae"),
        ([*alone, "--vae", str(tmp_path / "none.safetensors")], "there is no such autoencoder"),
        ([*run, "--initial", "x.safetensors"], "--initial is no option of phase ldm"),
        ([*run, "--export", str(a_vae), "--overwrite"], "would replace the input"),
    ):
        assert main(arguments) == 2
        stderr = capsys.readouterr().err
        assert message in stderr
        assert len(stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_run_killed_and_started_again_ends_like_one_that_was_not(a_store: Path, a_vae: Path, tmp_path: Path) -> None:
    run = command(a_store, a_vae, tmp_path / "killed", epochs=30)
    last = tmp_path / "killed" / "last.ckpt"
    killed = child(run)
    while killed.poll() is None and not last.exists():
        time.sleep(0.002)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert 0 < epochs_done(last) < 30
    # the whole run in a process like the others: the gradient of a key's bias is rounding alone, which Adam blows up
    for line in (run, command(a_store, a_vae, tmp_path / "whole", epochs=30)):
        process = child(line)
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
    whole = trained_state(tmp_path / "whole" / "last.ckpt")
    for name, value in trained_state(last).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["vae", "ldm"])
def test_two_processes_compute_the_gradients_of_one(phase: str, a_store: Path, a_vae: Path, tmp_path: Path) -> None:
    """Adam's running mean of the gradients after one step is a tenth of the gradient."""
    moments = []
    for devices in ("1", "2"):
        run = command(a_store, a_vae, tmp_path / devices, "--devices", devices, phase=phase, epochs=1, epoch_steps=1)
        process = child(run)
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
        checkpoint = torch.load(tmp_path / devices / "last.ckpt", weights_only=False)
        moments.append([state["exp_avg"] for state in checkpoint["optimizer_states"][0]["state"].values()])
    assert max(float(moment.abs().max()) for moment in moments[0]) > 1e-4
    for one, two in zip(*moments, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_two_processes_train_with_a_discriminator(a_store: Path, a_vae: Path, tmp_path: Path) -> None:
    process = child(
        command(a_store, a_vae, tmp_path / "run", "--devices", "2", phase="vae", adversarial_weight=0.01,
                adversarial_from=1, accumulate=2)
    )  # fmt: skip
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert epochs_done(tmp_path / "run" / "last.ckpt") == 2
    assert len([line for line in stderr.splitlines() if line.startswith("epoch")]) == 2
