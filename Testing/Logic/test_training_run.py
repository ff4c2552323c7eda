"""Whole runs on tiny heads, and what they export."""

import pickle
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from BrainDiffLogic import correct
from BrainDiffLogic.commands.main import main
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import load_checkpoint
from BrainDiffLogic.models.corrector import build
from BrainDiffLogic.training import corrector, fit
from BrainDiffLogic.training.configuration import CorrectorConfiguration, Recipe, Stage
from BrainDiffLogic.training.corrector import export_corrector, learning_curve, stopped_early, train
from BrainDiffLogic.training.fields import read_section
from BrainDiffLogic.training.fit import AtomicCheckpoints, Hardware, epochs_done, steps_done, trained_state
from Harness.changed_files import change_a_byte
from Harness.tiny_training import COMPACT, CONTENT, TINY, make_data_folder, tiny


@pytest.fixture(scope="module")
def a_data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data_folder(tmp_path_factory.mktemp("data"))


def trained(configuration: CorrectorConfiguration, data: Path, run: Path) -> Path:
    return train(configuration, data, run, cache=data / "pairs", hardware=Hardware("cpu"), workers=0)


def shortened(configuration: CorrectorConfiguration, **changes: Any) -> CorrectorConfiguration:
    """A shipped configuration on the tiny heads, one step for each of its stages, at least two."""
    stages = [replace(stage, steps=1) for stage in configuration.stages]
    stages[-1] = replace(stages[-1], steps=max(1, 3 - len(stages)))
    fields = {name: CONTENT[name] for name in ("sources", "validation", "pairs", "validation_pairs", "batch", "crop")}
    network = TINY[configuration.family]
    recipe = Recipe(max_voxels=3e4)
    return replace(
        configuration, stages=stages, network=network, recipe=recipe, precision="32-true", **fields, **changes
    )


def command(data: Path, run: Path, *more: str, config: str = "tiny.yaml") -> list[str]:
    return [
        *("train", "corrector", "--config", str(data / config), "--data", str(data), "--run", str(run)),
        *("--cache", str(data / "pairs"), "--device", "cpu", *more),
    ]


KILLED_IN_STEP = 6
KILLED = f"""
import os, signal, sys
from BrainDiffLogic.commands.main import main
from BrainDiffLogic.training.corrector import CorrectorTraining
step = CorrectorTraining.training_step
def killed(module, batch, batch_index):
    if module.global_step == {KILLED_IN_STEP}:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(module, batch, batch_index)
CorrectorTraining.training_step = killed
main(sys.argv[1:])
"""
"""A command that is killed in the middle of its second epoch, however the machine shares out its time."""


def child(arguments: list[str], killed: bool = False) -> subprocess.Popen[str]:
    program = ["-c", KILLED] if killed else ["-m", "BrainDiffLogic.commands.main"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, *program, *arguments], stdin=subprocess.DEVNULL, start_new_session=True, **pipes
    )


@pytest.mark.parametrize(("config", "optimiser"), [("tiny.yaml", "adamw"), ("muon.yaml", "muon")])
def test_a_run_killed_and_started_again_ends_like_one_that_was_not(
    a_data_folder: Path, tmp_path: Path, config: str, optimiser: str
) -> None:
    last = tmp_path / "killed" / "last.ckpt"
    killed = child(command(a_data_folder, tmp_path / "killed", config=config), killed=True)
    _, stderr = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, stderr
    done = steps_done(last)
    assert done == 4, "the end of the first epoch"

    again = child(command(a_data_folder, tmp_path / "killed", config=config))
    _, stderr = again.communicate()
    assert again.returncode == 0, stderr
    assert all(re.fullmatch(r"epoch \d of 5: loss .*", line) for line in stderr.splitlines()), stderr
    assert stderr.startswith(f"epoch {done // 4 + 1} of 5"), "it began again"
    assert "validation" in stderr.splitlines()[-1]
    assert steps_done(last) == 20

    whole = trained_state(trained(tiny(optimiser=optimiser), a_data_folder, tmp_path / "whole"))
    resumed = trained_state(last)
    start = build("attention-unet", TINY["attention-unet"]).state_dict()
    assert any((whole[name] - start[name]).abs().max() > 1e-3 for name in whole)
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("name", [path.stem for path in COMPACT])
def test_a_shipped_recipe_trains_two_steps(name: str, a_data_folder: Path, tmp_path: Path) -> None:
    configuration = shortened(read_section(CorrectorConfiguration, name), epoch_steps=2)
    checkpoint = trained(configuration, a_data_folder, tmp_path / "run")
    assert steps_done(checkpoint) == configuration.steps >= 2
    assert all(value.isfinite().all() for value in trained_state(checkpoint).values())
    assert list((tmp_path / "run" / "log").glob("events.*"))


def test_a_run_in_bfloat16_on_the_fly_ends_at_its_steps(a_data_folder: Path, tmp_path: Path) -> None:
    stages = [replace(tiny().stages[0], steps=3)]
    configuration = tiny(precision="bf16-mixed", pairs=0, epoch_steps=2, stages=stages)
    checkpoint = trained(configuration, a_data_folder, tmp_path / "run")
    assert steps_done(checkpoint) == 3
    assert all(value.dtype == torch.float32 for value in trained_state(checkpoint).values())


def test_exported_weights_load_and_correct_and_their_card_has_the_numbers_of_the_run(
    a_data_folder: Path, tmp_path: Path
) -> None:
    views: list[dict[str, Any]] = [{"mirrored": True, "shift": [1, 1]}]
    how: dict[str, Any] = {"lesions": 0.5, "views": views, "least_change": 1e-6}
    configuration = tiny(stages=[replace(tiny().stages[0], steps=2)], epoch_steps=2, **how)
    checkpoint = trained(configuration, a_data_folder, tmp_path / "run")
    export_corrector(configuration, checkpoint, tmp_path / "own.safetensors", a_data_folder)
    corrector, card = load_checkpoint(tmp_path / "own.safetensors")
    for name, value in trained_state(checkpoint).items():
        torch.testing.assert_close(corrector.state_dict()[name].float(), value, rtol=0, atol=0)
    facts = card["training"]
    assert (card["name"], card["family"], card["arguments"]) == ("own", "attention-unet", TINY["attention-unet"])
    assert (facts["steps"], facts["pairs"], facts["batch"], facts["seed"], facts["subjects"]) == (2, 3, 2, 1, 2)
    assert (card["views"], card["least_change"], facts["lesions"]) == (views, 1e-6, 0.5)
    assert facts["held_out_subjects"] == ["three"]
    assert facts["data"] == {"one": 1, "two": 1}
    assert facts["stages"][0]["loss"] == {"l1": 1.0}
    assert facts["learning_curve"] == {}  # it ended before the first validation
    assert "initial" not in facts
    again = export_corrector(
        configuration, checkpoint, tmp_path / "on.safetensors", a_data_folder, tmp_path / "own.safetensors"
    )["training"]["initial"]
    assert again == {"name": "own", "sha256": card["sha256"], "training": facts}
    correction = correct(a_data_folder / "heads" / "three_T1w.nii.gz", tmp_path / "own.safetensors", force=True)
    assert np.isfinite(correction.corrected.array).all()


def test_a_finished_run_is_not_trained_again(a_data_folder: Path, tmp_path: Path) -> None:
    configuration = tiny(stages=[replace(tiny().stages[0], steps=1)], epoch_steps=1)
    before = trained(configuration, a_data_folder, tmp_path / "run").stat().st_mtime_ns
    assert trained(configuration, a_data_folder, tmp_path / "run").stat().st_mtime_ns == before


def test_a_run_of_several_terms_logs_how_hard_each_pulls(
    a_data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corrector, "GRADIENTS_EVERY", 20)
    stage = replace(tiny().stages[0], steps=20, loss={"l1": 1.0, "tv": 1.0})
    trained(tiny(stages=[stage]), a_data_folder, tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "log"))
    events.Reload()
    shares = [events.Scalars(f"gradient_share/{term}")[0].value for term in ("l1", "tv")]
    assert sum(shares) == pytest.approx(1)
    assert all(0 < share < 1 for share in shares)
    curve = learning_curve(tmp_path / "run" / "log")
    assert list(curve) == ["20"] and 0 < curve["20"] < 5


def test_the_line_of_an_epoch_says_how_long_it_waited_for_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two epochs of two steps that take 1 s each; the second batch comes 3 s late, then 1 s."""
    trainer: Any = SimpleNamespace(callback_metrics={}, current_epoch=0, check_val_every_n_epoch=1, is_global_zero=True)
    lines = fit.EpochLines(2, ["loss"])
    clock = iter([10, 11, 14, 15, 100, 101, 102, 103])
    monkeypatch.setattr(fit.time, "monotonic", lambda: next(clock))
    for _ in range(2):
        for _ in range(2):
            lines.on_train_batch_start(trainer, None, None, 0)
            lines.on_train_batch_end(trainer)
        lines.on_train_epoch_end(trainer, None)
    assert re.findall(r"waiting for data (\d+)%", capsys.readouterr().err) == ["60", "33"]


def test_another_draw_begins_and_goes_on_otherwise_with_the_same_pairs(a_data_folder: Path, tmp_path: Path) -> None:
    one_step = tiny(stages=[replace(tiny().stages[0], steps=1)], epoch_steps=1)
    before = sorted((a_data_folder / "pairs").rglob("*.npy"))
    first, second = (
        trained_state(trained(replace(one_step, draw=draw), a_data_folder, tmp_path / str(draw))) for draw in (0, 1)
    )
    assert any((first[name] - second[name]).abs().max() > 1e-2 for name in first)
    assert sorted((a_data_folder / "pairs").rglob("*.npy")) == before


class Followed(Callback):
    """Keeps the network's weights after each step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: object) -> None:
        self.weights.append({name: value.clone() for name, value in pl_module.network.state_dict().items()})


@pytest.mark.parametrize("ema", [0.6, 0.0])
def test_the_weights_of_a_run_are_their_moving_average_as_its_card_says(
    a_data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float
) -> None:
    followed = Followed()
    monkeypatch.setattr("BrainDiffLogic.training.fit.progress_callback", lambda epochs, shown: followed)
    configuration = tiny(stages=[replace(tiny().stages[0], steps=4, warmup=1)], epoch_steps=2, ema=ema)
    checkpoint = trained(configuration, a_data_folder, tmp_path / "run")
    card = export_corrector(configuration, checkpoint, tmp_path / "own.safetensors", a_data_folder)
    average = followed.weights[0]
    for weights in followed.weights[1:]:
        average = {name: ema * average[name] + (1 - ema) * value for name, value in weights.items()}
    assert len(followed.weights) == 4
    apart = max(float((average[name] - value).abs().max()) for name, value in followed.weights[-1].items())
    assert apart > 1e-4 if ema else apart == 0
    for name, value in trained_state(checkpoint).items():
        torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-7)
    assert card["training"]["weights"] == f"EMA {ema}"


def test_gradients_are_clipped_as_the_configuration_says(a_data_folder: Path, tmp_path: Path) -> None:
    """Clipped far below the epsilon of AdamW, a gradient moves nothing."""
    still = one_step(stages=[replace(tiny().stages[0], steps=1, learning_rate=0.0)])
    plans = {"still": still, "clipped": one_step(clip=1e-14, weight_decay=0.0), "moved": one_step(weight_decay=0.0)}
    states = {name: trained_state(trained(plan, a_data_folder, tmp_path / name)) for name, plan in plans.items()}
    apart = {
        name: max(float((state[key] - states["still"][key]).abs().max()) for key in state if "running" not in key)
        for name, state in states.items()
    }
    assert apart["clipped"] < 1e-6 < 1e-4 < apart["moved"]


@pytest.fixture(scope="module")
def a_finished_run(a_data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    trained(one_step(), a_data_folder, run)
    return run


def one_step(**changes: Any) -> CorrectorConfiguration:
    return tiny(**{"stages": [replace(tiny().stages[0], steps=1)], "epoch_steps": 1, **changes})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"optimiser": "muon"}, r"optimiser \(adamw, now muon\)"), ({"seed": 2}, r"seed \(1, now 2\)"),
        ({"stages": [Stage(1, {"l1": 1.0}, 0.5, 2)]}, r"stages\[0\].learning_rate \(0.001, now 0.5\);"),
        ({"stages": [Stage(2, {"l1": 1.0}, warmup=2)]}, r"stages\[0\].steps \(1, now 2\);"),
        ({"stages": [Stage(1, {"l1": 1.0, "tv": 0.1}, warmup=2)]}, r"stages\[0\].loss.tv \(None, now 0.1\);"),
        ({"recipe": Recipe(max_voxels=3e4, noise=(0.0, 0.1))}, r"recipe.noise\[1\] \(0.03, now 0.1\)"),
        ({"lesions": 0.5}, r"lesions \(0.0, now 0.5\);"), ({"ema": 0.5}, r"ema \(0.999, now 0.5\);"),
        ({"seed": 2, "batch": 1}, r"batch \(2, now 1\), another .*seed \(1, now 2\)"),
    ],
)  # fmt: skip
def test_a_run_does_not_go_on_with_another_configuration(
    a_data_folder: Path, a_finished_run: Path, changes: dict[str, Any], named: str
) -> None:
    """Else its card would claim the new values for all steps."""
    with pytest.raises(InputError, match=f"another {named}") as refused:
        trained(one_step(**changes), a_data_folder, a_finished_run)
    assert "\n" not in str(refused.value)


def test_what_a_network_is_asked_may_change_without_training(a_data_folder: Path, a_finished_run: Path) -> None:
    trained(one_step(least_change=0.1, views=[{"mirrored": True}]), a_data_folder, a_finished_run)


def test_a_run_does_not_go_on_with_other_scans_or_from_other_weights(
    a_data_folder: Path, a_finished_run: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(a_data_folder / "heads", data / "heads")
    change_a_byte(data / "heads" / "one_T1w.nii.gz")
    with pytest.raises(InputError, match=r"another pairs_of\[0\] \("):
        trained(one_step(), data, a_finished_run)
    export_corrector(one_step(), a_finished_run / "last.ckpt", tmp_path / "own.safetensors", a_data_folder)
    with pytest.raises(InputError, match=r"another initial \(None, now [0-9a-f]{64}\)"):
        train(
            one_step(), a_data_folder, a_finished_run, cache=a_data_folder / "pairs", hardware=Hardware("cpu"),
            initial=tmp_path / "own.safetensors",
        )  # fmt: skip


def test_a_run_without_its_configuration_does_not_go_on(
    a_data_folder: Path, a_finished_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(a_finished_run, tmp_path / "run")
    (tmp_path / "run" / "configuration.json").unlink()
    with pytest.raises(InputError, match="not the configuration of a run; restore it"):
        trained(one_step(), a_data_folder, tmp_path / "run")


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("read", [fit.read_checkpoint, steps_done, epochs_done, trained_state, stopped_early])
def test_a_crafted_checkpoint_runs_no_code(read: Any, tmp_path: Path) -> None:
    content = {"state_dict": {}, "global_step": 1, "epoch": 0, "callbacks": {}, "trap": Trap(tmp_path / "sprung")}
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        read(tmp_path / "last.ckpt")
    assert not (tmp_path / "sprung").exists()


def test_a_crafted_run_folder_is_refused_and_no_trainer_runs_its_code(
    a_data_folder: Path, a_finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(a_finished_run, tmp_path / "run")
    last = tmp_path / "run" / "last.ckpt"
    whole = torch.load(last, weights_only=True)
    torch.save({**whole, "trap": Trap(tmp_path / "sprung")}, last)
    with pytest.raises(InputError, match="not a checkpoint of a run"):
        trained(one_step(), a_data_folder, tmp_path / "run")
    monkeypatch.setattr("BrainDiffLogic.training.fit.last_checkpoint", lambda run, network: last)
    monkeypatch.setattr("BrainDiffLogic.training.corrector.steps_done", lambda path: 0)  # which reads it safely, too
    with pytest.raises(pickle.UnpicklingError):
        trained(one_step(), a_data_folder, tmp_path / "run")
    assert not (tmp_path / "sprung").exists()


def test_a_run_does_not_go_on_with_another_split(a_data_folder: Path, tmp_path: Path) -> None:
    """Else it would have learned from those whom its card calls held out."""
    configuration = tiny(stages=[replace(tiny().stages[0], steps=1)], epoch_steps=1)
    trained(configuration, a_data_folder, tmp_path / "run")
    with pytest.raises(InputError, match="another split"):
        trained(replace(configuration, validation=["one"]), a_data_folder, tmp_path / "run")


def test_a_folder_with_a_run_of_another_network_is_refused(a_data_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained(tiny(stages=[replace(tiny().stages[0], steps=1)], epoch_steps=1), a_data_folder, run)
    with pytest.raises(InputError, match="another network"):
        trained(tiny(family="mc-net", network=TINY["mc-net"]), a_data_folder, run)
    with pytest.raises(InputError, match=r"another network.gain \(None, now 0.5\)"):  # weights of the same shapes
        trained(tiny(network={**TINY["attention-unet"], "gain": 0.5}), a_data_folder, run)
    other = tiny(network={**TINY["attention-unet"], "channels": [4, 4]})
    with pytest.raises(InputError, match="another network"):
        trained(other, a_data_folder, run)
    (run / "configuration.json").unlink()
    with pytest.raises(InputError, match="another network"):
        trained(other, a_data_folder, run)
    (run / "last.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="not a checkpoint"):
        trained(tiny(), a_data_folder, run)


def test_an_interrupted_checkpoint_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpoints().save_checkpoint({"global_step": 1}, path)

    def interrupted(checkpoint: dict, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(fit.torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpoints().save_checkpoint({"global_step": 2}, path)
    assert steps_done(path) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--config", "nothing.yaml"], "nothing.yaml.*shipped are .*mc-net"),
        (["--export", "weights.pt"], "weights.pt"),
        (["--steps", "0"], "--steps 0"),
        (["--jobs", "0"], "--jobs 0"),
        (["--run", "/dev/null/run"], "/dev/null/run"),
        (["--device", "mps"], "--device mps"),
    ],
)
def test_what_a_run_cannot_use_is_one_line_and_status_2(
    more: list[str], message: str, a_data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(command(a_data_folder, tmp_path / "run", *more)) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1


@pytest.mark.parametrize("package", ["lightning", "yaml", "pydantic", "tensorboard"])
def test_a_missing_package_is_named_with_the_way_to_install_it(
    package: str, a_data_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(command(a_data_folder, a_data_folder / "run")) == 2
    assert f"training needs {package}: pip install 'braindiff[train]'" in capsys.readouterr().err
