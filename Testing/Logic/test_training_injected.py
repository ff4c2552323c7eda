"""Phase 4: pairs of slices, the contrastive term, early stopping, runs that go on, what is exported."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from tiny_reproduction import NETWORK, tiny_corrector

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import load_checkpoint
from BrainDiffLogic.models.corrector import build
from BrainDiffLogic.models.generative import load_vae
from BrainDiffLogic.training import losses
from BrainDiffLogic.training.configuration import CorrectorConfiguration, Stage
from BrainDiffLogic.training.corrector import (
    CorrectorTraining,
    export_pair_corrector,
    network_arguments,
    stopped_early,
    train_on_pairs,
)
from BrainDiffLogic.training.fields import read_section
from BrainDiffLogic.training.fit import (
    BEST,
    BestCheckpoint,
    Hardware,
    best_epoch,
    steps_done,
    trained_state,
    without_chatter,
)
from BrainDiffLogic.training.injected_pairs import injected_run, synthesize
from BrainDiffLogic.training.injection import InjectionSettings, load_prior
from BrainDiffLogic.training.losses import ContrastiveLoss
from BrainDiffLogic.training.slice_store import SliceStore, StackPairs, pair_slices, sagittal_slices, write_stack
from BrainDiffLogic.volume import Volume
from Harness.command_line import braindiff
from Harness.tiny_prior import save_prior, write_store
from Harness.tiny_training import curve_of

CPU = Hardware("cpu")


@pytest.fixture(scope="module")
def a_job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vae.safetensors, and injected pairs of the correction split in ``injected``."""
    folder = tmp_path_factory.mktemp("job")
    vae, ldm = save_prior(folder, write_store(folder / "store"))
    prior, cards = load_prior(vae, ldm, "cpu")
    plan = InjectionSettings(steps=1, variants=2, signal=(0.99, 0.98))
    synthesize(SliceStore(folder / "store"), prior, cards, folder / "injected", plan)
    return folder


@pytest.fixture
def fit(a_job: Path, tmp_path: Path) -> Callable[..., Path]:
    def run(configuration: CorrectorConfiguration, name: str = "run", vae: bool = True) -> Path:
        start = injected_run(a_job / "injected", a_job / "vae.safetensors" if vae else None, CPU)
        return train_on_pairs(configuration, start, tmp_path / name)

    return run


def l1_only(**changes: Any) -> CorrectorConfiguration:
    return tiny_corrector(stages=[Stage(6, {"l1": 1.0, "info_nce": 0.0}, 1e-3, 0, balance=False)], **changes)


# Configurations


@pytest.mark.parametrize("name", ["braindiff", "braindiff-paper"])
def test_the_shipped_configurations_of_phase_4_are_the_papers(name: str) -> None:
    plan = read_section(CorrectorConfiguration, name)
    assert plan.stages[-1].loss == {"l1": 1.0, "info_nce": 0.1}
    assert (plan.data, plan.batch, plan.patience, plan.weight_decay) == ("pairs", 16, 10, 0.0)
    corrector = build(plan.family, network_arguments(plan))
    assert corrector.context == 1 and corrector.residual
    assert plan.stages[-1].learning_rate == 1e-4 or name == "braindiff"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "slices"}, "data must be one of volumes, pairs"),
        ({"sources": [{"glob": "*"}]}, "sources belongs to data: volumes"),
        ({"validation_share": 0.0}, "patience watches the validation error"),
        ({"data": "volumes"}, "'sources'"),
        ({"data": "volumes", "sources": [{"glob": "*"}], "validation": ["a"], "patience": 0}, "info_nce compares"),
        ({"data": "volumes", "sources": [{"glob": "*"}], "validation": ["a"]}, "patience belongs to data: pairs"),
        ({"patience": -1}, "patience must be 0"),
    ],
)
def test_a_field_that_does_not_fit_the_data_is_one_line(changes: dict, message: str, tmp_path: Path) -> None:
    content = {"family": "attention-unet", "data": "pairs", "patience": 3,
               "stages": [{"steps": 1, "loss": {"info_nce": 1.0}}], **changes}  # fmt: skip
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=message) as raised:
        read_section(CorrectorConfiguration, tmp_path / "a.yaml")
    assert "\n" not in str(raised.value)


# The loss


def test_the_loss_is_l1_and_a_tenth_of_info_nce_and_the_gradient_flows_through_the_encoder(a_job: Path) -> None:
    vae, _ = load_vae(a_job / "vae.safetensors", frozen=True)
    torch.manual_seed(1)
    network = build("attention-unet", {**NETWORK, "zero_init": False})
    module = CorrectorTraining(network, tiny_corrector(), ContrastiveLoss(vae))
    batch = {name: torch.rand(2, 1, 32, 48) for name in ("moved", "clean")}
    stage, even = tiny_corrector().stages[0], torch.ones(1, 1, 1, 1)
    prediction = network.scale_predictions(batch["moved"])[-1]
    terms = module._terms(stage, [prediction], batch["clean"], batch["moved"], even)
    expected = ContrastiveLoss(vae)(prediction, batch["clean"], batch["moved"])
    assert set(terms) == {"l1", "info_nce"}
    torch.testing.assert_close(terms["info_nce"], expected)
    torch.testing.assert_close(terms["l1"], losses.l1(prediction, batch["clean"], even))
    terms["info_nce"].backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_a_term_of_weight_0_needs_no_autoencoder_and_another_one_says_so(fit: Callable[..., Path]) -> None:
    assert steps_done(fit(l1_only(), vae=False)) > 0
    with pytest.raises(InputError, match="info_nce, which needs the autoencoder of phase 1; give --vae"):
        fit(tiny_corrector(), name="other", vae=False)
    module = CorrectorTraining(build("attention-unet", NETWORK), tiny_corrector())
    with pytest.raises(InputError, match="info_nce"):
        module._contrast(*[torch.zeros(1, 1, 32, 48)] * 3)


def test_the_contrastive_term_changes_what_is_learned_and_stays_out_of_the_checkpoint(fit: Callable[..., Path]) -> None:
    states = [trained_state(fit(tiny_corrector(), "both")), trained_state(fit(l1_only(), "l1"))]
    assert set(states[0]) == set(states[1])
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])
    raw = torch.load(fit(tiny_corrector(), "both"), weights_only=False)
    assert not any("autoencoder" in name or "encoder" in name for name in raw["state_dict"])


# Runs


def test_a_run_that_was_interrupted_ends_like_one_that_was_not(
    fit: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(tiny_corrector(), "whole")
    curve = curve_of(capsys.readouterr().err)
    step = CorrectorTraining.training_step

    def killed(module: CorrectorTraining, batch: dict, batch_index: int) -> torch.Tensor:
        if module.global_step == 3:
            raise RuntimeError("killed")
        return step(module, batch, batch_index)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(CorrectorTraining, "training_step", killed)
        fit(tiny_corrector(), "parts")
    resumed = fit(tiny_corrector(), "parts")
    again = curve_of(capsys.readouterr().err)
    assert again == curve and len(curve) == 3
    state = trained_state(resumed)
    assert all(torch.equal(state[name], value) for name, value in trained_state(whole).items())


def test_a_run_whose_error_does_not_fall_stops_and_is_not_started_again(
    fit: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    stages = [Stage(40, {"l1": 1.0, "info_nce": 0.0}, learning_rate=0.0, warmup=0, balance=False)]
    plan = tiny_corrector(stages=stages, patience=2)
    best = fit(plan)
    last = best.with_name("last.ckpt")
    assert stopped_early(last) and steps_done(last) == 6  # the first epoch and two without a smaller error
    assert steps_done(best) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3
    before = last.stat().st_mtime_ns
    assert fit(plan) == best and last.stat().st_mtime_ns == before
    assert capsys.readouterr().err == ""


class Errors(L.LightningModule):
    """Its error falls, rises twice and would fall again."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, *_: Any) -> torch.Tensor:
        return self.weight.sum()

    def validation_step(self, *_: Any) -> None:
        self.log("error", (3.0, 1.0, 2.0, 1.5, 0.5)[self.current_epoch], batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_the_epoch_with_the_smallest_error_is_kept_and_two_more_are_waited_for(tmp_path: Path) -> None:
    with without_chatter():
        trainer = L.Trainer(max_epochs=5, accelerator="cpu", logger=False, callbacks=best_epoch(tmp_path, "error", 2),
                            enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
        trainer.fit(Errors(), [0], [0])
    assert steps_done(tmp_path / BEST) == 2
    assert trainer.current_epoch == 4


def test_a_run_goes_on_only_with_its_own_pairs_and_loss(fit: Callable[..., Path], a_job: Path, tmp_path: Path) -> None:
    fit(tiny_corrector())
    with pytest.raises(InputError, match="another contrastive"):
        fit(l1_only())
    start = injected_run(a_job / "injected", a_job / "vae.safetensors", CPU)
    start.pairs.facts[0]["seed"] += 1
    with pytest.raises(InputError, match="another pairs_of"):
        train_on_pairs(tiny_corrector(), start, tmp_path / "run")


def test_the_best_epoch_is_remembered_where_the_folder_has_moved(tmp_path: Path) -> None:
    old, new = (BestCheckpoint(tmp_path / name, filename="best", monitor="error") for name in ("old", "new"))
    old.best_model_path = old.kth_best_model_path = str(tmp_path / "old" / "best.ckpt")
    old.best_k_models = {old.best_model_path: torch.tensor(0.25)}
    old.best_model_score = old.kth_value = torch.tensor(0.25)
    new.load_state_dict(old.state_dict())
    assert float(new.best_model_score) == 0.25
    assert new.best_k_models == {str(tmp_path / "new" / "best.ckpt"): torch.tensor(0.25)}
    assert new.best_model_path == new.kth_best_model_path == str(tmp_path / "new" / "best.ckpt")
    assert not new.check_monitor_top_k(L.Trainer(logger=False, accelerator="cpu"), torch.tensor(0.3))
    assert new.check_monitor_top_k(L.Trainer(logger=False, accelerator="cpu"), torch.tensor(0.2))


def test_a_network_or_configuration_that_does_not_fit_pairs_is_refused(fit: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="takes 3 slices, pairs have single ones"):
        fit(tiny_corrector(network={**NETWORK, "context": 3}))
    with pytest.raises(InputError, match="no multiples of 64"):
        fit(tiny_corrector(network={**NETWORK, "channels": [4] * 6}))
    with pytest.raises(InputError, match="the configuration is for volumes"):
        fit(tiny_corrector(data="volumes"))


def test_subjects_are_held_out_whole(a_job: Path) -> None:
    pairs = injected_run(a_job / "injected").pairs
    training, validation = pairs.hold_out(0.5)
    sides = [{pairs.facts[n]["subject"] for n in part} for part in (training, validation)]
    assert not sides[0] & sides[1] and sides[0] | sides[1] == set(pairs.subjects)
    assert sorted([*training, *validation]) == list(range(len(pairs)))
    with pytest.raises(InputError, match="two or more are needed"):
        pairs.hold_out(0.9 if len(pairs.subjects) < 3 else 1.0)


# What comes out


def test_exported_weights_load_and_their_card_says_what_was_held_out(
    fit: Callable[..., Path], a_job: Path, tmp_path: Path
) -> None:
    start = injected_run(a_job / "injected", a_job / "vae.safetensors", CPU)
    checkpoint = fit(tiny_corrector())
    card = export_pair_corrector(tiny_corrector(), start, checkpoint, tmp_path / "own.safetensors")
    corrector, read = load_checkpoint(tmp_path / "own.safetensors")
    assert read == card
    for name, value in trained_state(checkpoint).items():
        torch.testing.assert_close(corrector.state_dict()[name], value, rtol=0, atol=0)
    training, validation = start.pairs.hold_out(0.5)
    assert card["training"]["held_out_subjects"] == sorted({start.pairs.facts[n]["subject"] for n in validation})
    assert card["training"]["slices"] == len(training)
    assert card["training"]["stages"][0]["loss"] == {"l1": 1.0, "info_nce": 0.1}


def write_configuration(configuration: CorrectorConfiguration, path: Path) -> None:
    content = {**vars(configuration), "stages": [vars(stage) for stage in configuration.stages]}
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if k != "recipe"}))


def test_the_command_trains_on_injected_pairs_and_says_what_is_missing(
    a_job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_configuration(tiny_corrector(), tmp_path / "c.yaml")
    export = tmp_path / "own.safetensors"
    call = ["train", "corrector", "--config", tmp_path / "c.yaml", "--data", a_job / "injected", "--run",
            tmp_path / "run", "--device", "cpu", "--export", export]  # fmt: skip
    assert braindiff(*call) == 2
    assert "give --vae" in capsys.readouterr().err
    assert braindiff(*call, "--vae", a_job / "vae.safetensors") == 0
    assert json.loads(capsys.readouterr().out)["weights"] == str(export)
    for options, words in ((["--cache", tmp_path], "--cache belongs"), (["--data", a_job / "store"], "job.json")):
        other = [*call[:-1], tmp_path / "x.safetensors", "--vae", a_job / "vae.safetensors", *options]
        assert braindiff(*other) == 2
        stderr = capsys.readouterr().err
        assert words in stderr and stderr.count("\n") == 1


@pytest.mark.slow
def test_two_processes_compute_the_gradients_of_one(a_job: Path, tmp_path: Path) -> None:
    """Adam's running mean of the gradients after one step is a tenth of the gradient."""
    stages = [Stage(1, {"l1": 1.0, "info_nce": 0.1}, 1e-3, 0, balance=False)]
    write_configuration(tiny_corrector(network={**NETWORK, "zero_init": False}, stages=stages), tmp_path / "c.yaml")
    moments = []
    for devices in ("1", "2"):
        line = ["train", "corrector", "--config", tmp_path / "c.yaml", "--data", a_job / "injected", "--vae",
                a_job / "vae.safetensors", "--run", tmp_path / devices, "--device", "cpu", "--devices", devices,
                "--export", tmp_path / f"{devices}.safetensors"]  # fmt: skip
        child = subprocess.run(
            [sys.executable, "-m", "BrainDiffLogic.commands.main", *map(str, line)], check=True, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout.count('"weights"') == 1, "one of several processes writes and says so"
        checkpoint = torch.load(tmp_path / devices / "last.ckpt", weights_only=False)
        moments.append([state["exp_avg"] for state in checkpoint["optimizer_states"][0]["state"].values()])
        assert load_checkpoint(tmp_path / f"{devices}.safetensors")
    assert max(float(moment.abs().max()) for moment in moments[0]) > 1e-4
    for one, two in zip(*moments, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-6)


def test_a_batch_computed_in_parts_has_the_gradients_of_the_whole(a_job: Path, tmp_path: Path) -> None:
    stages = [Stage(1, {"l1": 1.0, "info_nce": 0.1}, 1e-3, 0, balance=False)]
    start = injected_run(a_job / "injected", a_job / "vae.safetensors", Hardware("cpu"))
    moments = []
    for parts in (1, 2):
        plan = tiny_corrector(network={**NETWORK, "zero_init": False}, stages=stages, accumulate=parts, clip=0.0)
        train_on_pairs(plan, start, tmp_path / str(parts))
        checkpoint = torch.load(tmp_path / str(parts) / "last.ckpt", weights_only=False)
        assert checkpoint["global_step"] == 1
        moments.append([state["exp_avg"] for state in checkpoint["optimizer_states"][0]["state"].values()])
    assert max(float(moment.abs().max()) for moment in moments[0]) > 1e-4
    for whole, halves in zip(*moments, strict=True):
        torch.testing.assert_close(halves, whole, rtol=1e-3, atol=1e-6)


def test_a_batch_that_processes_cannot_share_is_refused(a_job: Path, tmp_path: Path) -> None:
    start = injected_run(a_job / "injected", a_job / "vae.safetensors", Hardware("cpu", devices=3))
    with pytest.raises(InputError, match="batch 4 cannot be shared by 3 processes"):
        train_on_pairs(tiny_corrector(), start, tmp_path / "run")


# Pairs of scans


def test_a_scan_and_its_reference_are_cut_like_the_store_cuts_and_in_the_scans_units(a_head: Volume) -> None:
    kept, stored, _ = sagittal_slices(a_head, (48, 64), 3.0, step=5)
    doubled = a_head.with_array(2 * a_head.array)
    stacks = pair_slices(a_head, doubled, kept.tolist(), (48, 64), 3.0)
    np.testing.assert_array_equal(stacks[0], stored)
    np.testing.assert_allclose(stacks[1], 2 * stored.astype(np.float32), rtol=2e-3, atol=2e-3)
    with pytest.raises(InputError, match="not on the grid"):
        pair_slices(a_head, Volume(a_head.array, 2 * a_head.affine), [3], (48, 64), 3.0)


def test_pairs_of_scans_are_read_as_they_were_written(tmp_path: Path) -> None:
    stacks = np.random.default_rng(1).random((2, 3, 16, 16)).astype(np.float16)
    write_stack(tmp_path, "b", stacks, {"subject": "2", "scan": "b.nii", "slices": [4, 6, 8]})
    write_stack(tmp_path, "a", stacks[:, :1], {"subject": "1", "scan": "a.nii", "slices": [5]})
    pairs = StackPairs(tmp_path)
    assert (len(pairs), pairs.subjects) == (4, ["1", "2"])
    places = [(facts["scan"], facts["slice"]) for facts in pairs.facts]
    assert places == [("a.nii", 5), ("b.nii", 4), ("b.nii", 6), ("b.nii", 8)]
    sample = pairs[2]
    np.testing.assert_array_equal(sample["moved"][0].numpy(), stacks[0, 1].astype(np.float32))
    np.testing.assert_array_equal(sample["clean"][0].numpy(), stacks[1, 1].astype(np.float32))
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match="a.json: damaged"):
        StackPairs(tmp_path)
    with pytest.raises(InputError, match="no pairs of slices"):
        StackPairs(tmp_path / "none")
