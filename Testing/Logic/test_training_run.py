"""Configurations, the split, whole runs on tiny heads, and what they export."""

import json
import os
import re
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
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from BrainDiffLogic import correct
from BrainDiffLogic.checkpoints import load_checkpoint
from BrainDiffLogic.commands.main import main
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import write_volume
from BrainDiffLogic.networks import build
from BrainDiffLogic.training import run_folder, supervised
from BrainDiffLogic.training.configuration import (
    Configuration,
    assert_disjoint,
    find_configuration,
    find_sources,
    read_configuration,
    shipped_folder,
    subject_of,
)
from BrainDiffLogic.training.export import export, learning_curve
from BrainDiffLogic.training.hardware import Hardware
from BrainDiffLogic.training.pairs import Recipe, Source
from BrainDiffLogic.training.run import caches, network_arguments, train
from BrainDiffLogic.training.run_folder import AtomicCheckpoints, steps_done, trained_state
from BrainDiffLogic.volume import Volume

OTHER_PHASES = ("vae", "ldm", "severity")
SHIPPED = sorted(path for path in shipped_folder().glob("*.yaml") if path.stem.split("-")[0] not in OTHER_PHASES)
COMPACT = [path for path in SHIPPED if not path.stem.endswith("-paper") and path.stem != "braindiff"]
OUTER = {"context": 3, "shuffle": 2, "residual": True, "zero_init": True}
TINY = {
    "attention-unet": {**OUTER, "design": "residual", "channels": [4, 8], "blocks": 1, "bottleneck_blocks": 1},
    "mc-net": {**OUTER, "filters": [4, 8]},
    "rmman": {**OUTER, "channels": [4, 4, 8], "kernel": 3, "blocks": 1},
}
CONTENT: dict[str, Any] = {
    "family": "attention-unet",
    "network": TINY["attention-unet"],
    "sources": [{"glob": "heads/*.nii.gz"}],
    "validation": ["three"],
    "recipe": {"max_voxels": 3e4},
    "pairs": 3,
    "validation_pairs": 2,
    "batch": 2,
    "crop": 32,
    "epoch_steps": 4,
    "precision": "32-true",
    "stages": [{"steps": 20, "loss": {"l1": 1.0}, "warmup": 2}],
}


@pytest.fixture(scope="module")
def a_data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three heads, a configuration, and the pairs of it in ``pairs``."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "heads").mkdir()
    ijk = np.indices((26, 28, 28)).astype(np.float32) - 13.5
    radius = np.sqrt((ijk**2).sum(axis=0))
    for name, wave in (("one", 0.5), ("two", 0.7), ("three", 0.9)):
        head = np.where(radius < 11, 600 + 200 * np.sin(wave * ijk[0]) * np.cos(wave * ijk[2]), 0)
        volume = Volume(head.astype(np.float32), np.diag([4.0, 4, 4, 1]))
        write_volume(volume, folder / "heads" / f"{name}_T1w.nii.gz")
    write_yaml(folder / "tiny.yaml")
    write_yaml(folder / "muon.yaml", optimiser="muon")
    for cache, count in zip(caches(tiny(), folder, folder / "pairs"), (3, 2), strict=True):
        for index in range(count):
            cache.make(index)
    return folder


def write_yaml(path: Path, **changes: Any) -> Path:
    content = {name: value for name, value in {**CONTENT, **changes}.items() if value is not ...}
    path.write_text(yaml.safe_dump(content))
    return path


def tiny(**changes: Any) -> Configuration:
    from BrainDiffLogic.training.configuration import Stage

    content = {**CONTENT, "stages": [Stage(**stage) for stage in CONTENT["stages"]], "recipe": Recipe(max_voxels=3e4)}
    return Configuration(**{**content, **changes})


def trained(configuration: Configuration, data: Path, run: Path) -> Path:
    return train(configuration, data, run, cache=data / "pairs", hardware=Hardware("cpu"), workers=0)


def shortened(configuration: Configuration, **changes: Any) -> Configuration:
    """A shipped configuration on the tiny heads, one step for each of its stages, at least two."""
    stages = [replace(stage, steps=1) for stage in configuration.stages]
    stages[-1] = replace(stages[-1], steps=max(1, 3 - len(stages)))
    fields = {name: CONTENT[name] for name in ("sources", "validation", "pairs", "validation_pairs", "batch", "crop")}
    network = TINY[configuration.family]
    recipe = Recipe(max_voxels=3e4)
    return replace(
        configuration, stages=stages, network=network, recipe=recipe, precision="32-true", **fields, **changes
    )


# Configurations


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_configuration_loads_and_its_network_is_built(path: Path) -> None:
    configuration = read_configuration(path)
    corrector = build(configuration.family, network_arguments(configuration))
    assert configuration.crop % corrector.multiple == 0
    assert configuration.steps > 0


def test_every_family_ships_a_compact_and_a_paper_configuration() -> None:
    names = {path.stem for path in SHIPPED}
    assert {f"{family}{size}" for family in TINY for size in ("", "-paper")} <= names
    assert {"mc-net-l1", "mc-net-l1-tv"} <= names


def test_the_compact_configurations_share_their_pairs() -> None:
    first = read_configuration(COMPACT[0])
    for path in COMPACT[1:]:
        other = read_configuration(path)
        for name in ("sources", "validation", "recipe", "seed", "pairs", "validation_pairs"):
            assert getattr(other, name) == getattr(first, name), (path.name, name)


def test_the_three_ablations_of_mc_net_differ_in_their_losses_alone() -> None:
    plans = [read_configuration(find_configuration(name)) for name in ("mc-net-l1", "mc-net-l1-tv", "mc-net")]
    l1, both = {"l1": 1.0}, {"l1": 1.0, "tv": 1.0}
    assert [[stage.loss for stage in plan.stages][-2:] for plan in plans] == [[l1, l1], [both, both], [l1, both]]
    assert len({json.dumps([stage.loss for stage in plan.stages[:-2]]) for plan in plans}) == 1
    assert len({json.dumps([replace(stage, loss={}).__dict__ for stage in plan.stages]) for plan in plans}) == 1


def test_a_shipped_configuration_is_found_by_name_and_a_file_by_path(tmp_path: Path) -> None:
    assert find_configuration("rmman") == find_configuration("rmman.yaml") == shipped_folder() / "rmman.yaml"
    path = write_yaml(tmp_path / "own.yaml")
    assert find_configuration(path) == path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": ...}, "'family'"),
        ({"sources": ...}, "'sources'"),
        ({"stages": ...}, "stages"),
        ({"stages": []}, "stages"),
        ({"stages": 5}, "stages"),
        ({"stages": ["l1"]}, "stages"),
        ({"stages": [{"loss": {"l1": 1}}]}, "'steps'"),
        ({"stages": [{"steps": 0, "loss": {"l1": 1}}]}, "steps"),
        ({"stages": [{"steps": 5, "loss": {"l3": 1}}]}, "'l3'"),
        ({"stages": [{"steps": 5, "loss": {"l1": 0}}]}, "loss"),
        ({"stages": [{"steps": 5, "loss": {"l1": 1}, "learning_rate": "1e-3"}]}, "learning_rate.*write 0.001"),
        ({"stages": [{"steps": 5, "loss": {"l1": 1}, "decay": 2}]}, "decay"),
        ({"recipe": {"zooom": [1, 2]}}, "'zooom' in recipe"),
        ({"recipe": {"zoom": 1}}, "zoom"),
        ({"recipe": {"zoom": [2, 1]}}, "zoom"),
        ({"recipe": {"severity_mm": [0, 1]}}, "severity_mm"),
        ({"recipe": {"presets": {"nodd": 1}}}, "'nodd'"),
        ({"recipe": {"pe_axes": {"HF": 1}}}, "'HF'"),
        ({"recipe": {"still_share": 2}}, "still_share"),
        ({"recipe": 3}, "recipe"),
        ({"sources": [{"kind": "head"}]}, "glob"),
        ({"sources": [{"glob": "*", "kind": "foot"}]}, "kind"),
        ({"sources": [{"glob": "*", "weigth": 1}]}, "'weigth'"),
        ({"validation": []}, "validation"),
        ({"batch": 0}, "batch"),
        ({"batch": 2.5}, "batch"),
        ({"pairs": -1}, "pairs"),
        ({"ema": 1.5}, "ema"),
        ({"precision": "8"}, "precision"),
        ({"optimiser": "sgd"}, "optimiser must be one of adamw, muon"),
        ({"colour": 1}, "'colour' in configuration"),
    ],
)
def test_a_wrong_field_is_one_line_with_file_and_field(changes: dict, message: str, tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "wrong.yaml", **changes)
    with pytest.raises(InputError, match=message) as raised:
        read_configuration(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["a: [1", "- 1", "5", "\x00"])
def test_a_file_that_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match="wrong.yaml") as raised:
        read_configuration(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_configuration_that_cannot_be_read_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="configuration file|cannot be read"):
        read_configuration(tmp_path / name)


# The split


def test_the_sources_are_split_by_subject(a_data_folder: Path) -> None:
    training, validation = find_sources(tiny(), a_data_folder)
    assert [source.subject for source in training] == ["one", "two"]
    assert [source.subject for source in validation] == ["three"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"sources": [{"glob": "none/*"}]}, "none"), ({"validation": ["four"]}, "'four'")],
)
def test_sources_that_are_not_there_are_refused(a_data_folder: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_sources(tiny(**changes), a_data_folder)


def test_a_subject_on_both_sides_is_refused() -> None:
    with pytest.raises(InputError, match="one is both"):
        assert_disjoint([Source("a.nii", "one"), Source("b.nii", "two")], [Source("c.nii", "one")])


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("sub-01_ses-2_run-1_T1w.nii.gz", "sub-01"), ("sub-01_T1w.nii.gz", "sub-01"), ("sub-A1.nii", "sub-A1"),
        ("ds000011-11_T1w.nii.gz", "ds000011-11"), ("one.mha", "one"), ("subject-7_T1w.nrrd", "subject-7"),
    ],
)  # fmt: skip
def test_a_session_is_no_subject(name: str, subject: str) -> None:
    assert subject_of(name) == subject


def test_all_sessions_of_a_subject_are_on_one_side(a_data_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "heads").mkdir()
    for name in ("sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"):
        shutil.copy(a_data_folder / "heads" / "one_T1w.nii.gz", tmp_path / "heads" / f"{name}_T1w.nii.gz")
    training, validation = find_sources(tiny(validation=["sub-01"]), tmp_path)
    assert [len(sources) for sources in (training, validation)] == [1, 2]
    with pytest.raises(InputError, match="sub-01_ses-1"):
        find_sources(tiny(validation=["sub-01_ses-1"]), tmp_path)


def test_a_file_on_both_sides_is_refused_also_through_a_link(a_data_folder: Path, tmp_path: Path) -> None:
    file = a_data_folder / "heads" / "one_T1w.nii.gz"
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / "one_T1w.nii.gz").symlink_to(file)
    (tmp_path / "heads" / "alias_T1w.nii.gz").symlink_to(file)
    with pytest.raises(InputError, match="both in training and in validation"):
        find_sources(tiny(validation=["alias"]), tmp_path)


def test_no_trajectory_is_both_trained_on_and_validated_on(a_data_folder: Path) -> None:
    training, validation = caches(tiny(), a_data_folder, a_data_folder / "pairs")
    used = [{cache.facts(index)["trajectory"] for index in cache.ready(9)} for cache in (training, validation)]
    assert [len(names) for names in used] == [3, 2]
    assert not used[0] & used[1]
    assert not {training.facts(i)["subject"] for i in range(3)} & {validation.facts(i)["subject"] for i in range(2)}


def test_sharing_a_trajectory_stops_the_run(a_data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("BrainDiffLogic.training.run.VALIDATION_SEEDS", 0)
    with pytest.raises(AssertionError, match="trajectory"):
        caches(tiny(), a_data_folder, a_data_folder / "pairs")


# Runs


def command(data: Path, run: Path, *more: str, config: str = "tiny.yaml") -> list[str]:
    return [
        *("train", "corrector", "--config", str(data / config), "--data", str(data), "--run", str(run)),
        *("--cache", str(data / "pairs"), "--device", "cpu", *more),
    ]


def child(arguments: list[str]) -> subprocess.Popen[str]:
    call = [sys.executable, "-m", "BrainDiffLogic.commands.main", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(call, stdin=subprocess.DEVNULL, start_new_session=True, **pipes)


@pytest.mark.parametrize(("config", "optimiser"), [("tiny.yaml", "adamw"), ("muon.yaml", "muon")])
def test_a_run_killed_and_started_again_ends_like_one_that_was_not(
    a_data_folder: Path, tmp_path: Path, config: str, optimiser: str
) -> None:
    last = tmp_path / "killed" / "last.ckpt"
    killed = child(command(a_data_folder, tmp_path / "killed", config=config))
    while killed.poll() is None and not last.exists():
        time.sleep(0.002)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert 0 < steps_done(last) < 20

    again = child(command(a_data_folder, tmp_path / "killed", config=config))
    _, stderr = again.communicate()
    assert again.returncode == 0, stderr
    assert all(re.fullmatch(r"epoch \d: step \d+ of 20, loss .*", line) for line in stderr.splitlines()), stderr
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
    configuration = shortened(read_configuration(find_configuration(name)), epoch_steps=2)
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
    configuration = tiny(stages=[replace(tiny().stages[0], steps=2)], epoch_steps=2)
    checkpoint = trained(configuration, a_data_folder, tmp_path / "run")
    export(configuration, checkpoint, tmp_path / "own.safetensors", a_data_folder)
    corrector, card = load_checkpoint(tmp_path / "own.safetensors")
    for name, value in trained_state(checkpoint).items():
        torch.testing.assert_close(corrector.state_dict()[name].float(), value, rtol=0, atol=0)
    facts = card["training"]
    assert (card["name"], card["family"], card["arguments"]) == ("own", "attention-unet", TINY["attention-unet"])
    assert (facts["steps"], facts["pairs"], facts["batch"], facts["seed"], facts["subjects"]) == (2, 3, 2, 1, 2)
    assert facts["held_out_subjects"] == ["three"]
    assert facts["data"] == {"one": 1, "two": 1}
    assert facts["stages"][0]["loss"] == {"l1": 1.0}
    assert facts["learning_curve"] == {}  # it ended before the first validation
    correction = correct(a_data_folder / "heads" / "three_T1w.nii.gz", tmp_path / "own.safetensors", force=True)
    assert np.isfinite(correction.corrected.array).all()


def test_a_finished_run_is_not_trained_again(a_data_folder: Path, tmp_path: Path) -> None:
    configuration = tiny(stages=[replace(tiny().stages[0], steps=1)], epoch_steps=1)
    before = trained(configuration, a_data_folder, tmp_path / "run").stat().st_mtime_ns
    assert trained(configuration, a_data_folder, tmp_path / "run").stat().st_mtime_ns == before


def test_a_run_of_several_terms_logs_how_hard_each_pulls(
    a_data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised, "GRADIENTS_EVERY", 20)
    stage = replace(tiny().stages[0], steps=20, loss={"l1": 1.0, "tv": 1.0})
    trained(tiny(stages=[stage]), a_data_folder, tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "log"))
    events.Reload()
    shares = [events.Scalars(f"gradient_share/{term}")[0].value for term in ("l1", "tv")]
    assert sum(shares) == pytest.approx(1)
    assert all(0 < share < 1 for share in shares)
    curve = learning_curve(tmp_path / "run" / "log")
    assert list(curve) == ["20"] and 0 < curve["20"] < 5


def test_a_run_does_not_go_on_with_another_optimiser(a_data_folder: Path, tmp_path: Path) -> None:
    stages = [replace(tiny().stages[0], steps=1)]
    trained(tiny(stages=stages, epoch_steps=1), a_data_folder, tmp_path / "run")
    with pytest.raises(InputError, match="another optimiser"):
        trained(tiny(stages=stages, epoch_steps=1, optimiser="muon"), a_data_folder, tmp_path / "run")


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
    with pytest.raises(InputError, match=r"another network \(configuration.json"):  # weights of the same shapes
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

    monkeypatch.setattr(run_folder.torch, "save", interrupted)
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


@pytest.mark.parametrize("package", ["lightning", "yaml", "tensorboard"])
def test_a_missing_package_is_named_with_the_way_to_install_it(
    package: str, a_data_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(command(a_data_folder, a_data_folder / "run")) == 2
    assert f"training needs {package}: pip install 'braindiff[train]'" in capsys.readouterr().err
