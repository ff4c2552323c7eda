"""Training the severity network: configuration, split, samples, runs that go on, what is exported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import write_volume
from BrainDiffLogic.models.severity import build_severity, load_severity
from BrainDiffLogic.severity import estimate_severity
from BrainDiffLogic.training.configuration import SeverityConfiguration, Variation
from BrainDiffLogic.training.fields import read_section
from BrainDiffLogic.training.fit import Hardware, trained_state
from BrainDiffLogic.training.pairs import PairCache
from BrainDiffLogic.training.severity import (
    export_severity,
    pair_cache,
    pairs_configuration,
    split_pairs,
    train_severity,
)
from BrainDiffLogic.training.slices import PairSlices, SeverityPairs, cut_window, mixed, varied
from BrainDiffLogic.volume import Volume
from Harness.command_line import braindiff
from Harness.severities import ARGUMENTS
from Harness.tiny_training import curve_of

CPU = Hardware("cpu")
PAIRS = 6
CORRECTOR: dict[str, Any] = {
    "family": "mc-net", "sources": [{"glob": "heads/*.nii.gz"}], "validation": ["four"],
    "recipe": {"max_voxels": 3e4}, "pairs": PAIRS, "stages": [{"steps": 1, "loss": {"l1": 1.0}}],
}  # fmt: skip
TINY: dict[str, Any] = {
    "calibration": ["one"], "network": ARGUMENTS, "crop": 24, "batch": 2, "epochs": 2, "epoch_steps": 3, "warmup": 1,
    "precision": "32-true",
}  # fmt: skip


@pytest.fixture(scope="module")
def a_data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four heads, the configurations ``corrector.yaml`` and ``tiny.yaml``, and the pairs in ``pairs``."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "heads").mkdir()
    ijk = np.indices((26, 28, 28)).astype(np.float32) - 13.5
    radius = np.sqrt((ijk**2).sum(axis=0))
    for name, wave in (("one", 0.5), ("two", 0.7), ("three", 0.9), ("four", 1.1)):
        head = np.where(radius < 11, 600 + 200 * np.sin(wave * ijk[0]) * np.cos(wave * ijk[2]), 0)
        volume = Volume(head.astype(np.float32), np.diag([4.0, 4, 4, 1]))
        write_volume(volume, folder / "heads" / f"{name}_T1w.nii.gz")
    (folder / "corrector.yaml").write_text(yaml.safe_dump(CORRECTOR))
    write_yaml(folder / "tiny.yaml", folder)
    cache = pair_cache(tiny(folder), folder, folder / "pairs")
    for index in range(PAIRS):
        cache.make(index)
    return folder


def write_yaml(path: Path, folder: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump({**TINY, "pairs_of": str(folder / "corrector.yaml"), **changes}))
    return path


def tiny(folder: Path, **changes: Any) -> SeverityConfiguration:
    return SeverityConfiguration(**{**TINY, "pairs_of": str(folder / "corrector.yaml"), **changes})


def trained(plan: SeverityConfiguration, data: Path, run: Path) -> Path:
    return train_severity(plan, data, run, CPU, cache=data / "pairs")


@pytest.fixture(scope="module")
def a_run(a_data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tiny(a_data_folder), a_data_folder, tmp_path_factory.mktemp("run"))


# Configuration and split


def test_the_shipped_configuration_loads_and_uses_a_correctors_pairs() -> None:
    plan = read_section(SeverityConfiguration, "severity")
    network = build_severity(plan.network)
    assert plan.crop % network.multiple == 0
    corrector = pairs_configuration(plan)
    assert corrector.pairs == 650 and not set(plan.calibration) & set(corrector.validation)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibration": []}, "calibration must list one or more"),
        ({"crop": 0}, "crop must be 1 or more"),
        ({"colour": 1}, "unknown field 'colour'"),
        ({"precision": "16"}, "precision must be one of"),
        ({"optimiser": "sgd"}, "optimiser must be one of adamw, muon"),
        ({"batch": 3, "accumulate": 2}, "equal parts"),
        ({"variation": {"gamma": [2, 1]}}, "gamma must be"),
        ({"variation": {"blur_share": 2}}, "variation.blur_share must be 1 or less"),
    ],
)
def test_a_value_of_no_use_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_section(SeverityConfiguration, write_yaml(tmp_path / "a.yaml", tmp_path, **changes))


def test_no_calibration_subject_is_trained_on(a_data_folder: Path) -> None:
    plan = tiny(a_data_folder)
    cache = pair_cache(plan, a_data_folder, a_data_folder / "pairs")
    training, held_out = split_pairs(plan, cache, PAIRS)
    assert {cache.facts(index)["subject"] for index in held_out} == {"one"}
    assert {cache.facts(index)["subject"] for index in training} <= {"two", "three"}
    assert sorted([*training, *held_out]) == list(range(PAIRS))


def test_a_calibration_subject_that_is_not_there_is_named(a_data_folder: Path) -> None:
    for name in ("nobody", "four"):  # four is the corrector's validation subject
        with pytest.raises(InputError, match=name):
            pair_cache(tiny(a_data_folder, calibration=[name]), a_data_folder, a_data_folder / "pairs")


# Samples


@pytest.fixture
def cache(a_data_folder: Path) -> PairCache:
    return pair_cache(tiny(a_data_folder), a_data_folder, a_data_folder / "pairs")


def test_a_sample_depends_on_seed_epoch_and_number_alone(cache: PairCache) -> None:
    def sample(epoch: int, item: int) -> dict[str, torch.Tensor]:
        return SeverityPairs(PairSlices(cache, [0, 1, 2]), 9, 24, 5, Variation(), epoch)[item]

    first = sample(1, 4)
    assert first["slices"].shape == (2, 1, 24, 24) and first["slices"].isfinite().all()
    assert first["severity"][1] == 0
    assert torch.equal(sample(1, 4)["slices"], first["slices"])
    assert not torch.equal(sample(2, 4)["slices"], first["slices"])


@given(seed=st.integers(0, 10_000), kind=st.sampled_from(["head", "brain", "labels"]))
@settings(max_examples=20)
def test_without_motion_the_two_slices_of_a_pair_stay_alike(seed: int, kind: str) -> None:
    still = np.random.default_rng(0).random((20, 24), dtype=np.float32)
    pair = varied(np.stack([still, still]), kind, Variation(), np.random.default_rng(seed))
    np.testing.assert_array_equal(pair[0], pair[1])


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_a_mixed_pair_has_the_share_of_the_artifact_and_of_the_severity(seed: int) -> None:
    still, artifact = np.zeros((8, 8), np.float32), np.ones((8, 8), np.float32)
    pair, severity = mixed(
        np.stack([artifact, still]), 1.0, replace(Variation(), mild_share=1.0), np.random.default_rng(seed)
    )
    np.testing.assert_allclose(pair[0], severity, rtol=1e-5)
    assert 0.1 <= severity <= 0.8 and not pair[1].any()


def test_severe_motion_is_not_mixed() -> None:
    pair = np.ones((2, 4, 4), np.float32)
    assert mixed(pair, 2.0, replace(Variation(), mild_share=1.0), np.random.default_rng(0)) == (pair, 2.0)


@given(rows=st.integers(3, 20), columns=st.integers(3, 20), size=st.integers(2, 24), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_a_window_is_a_part_of_the_slice_or_holds_it(rows: int, columns: int, size: int, seed: int) -> None:
    pair = np.arange(1.0, 1 + 2 * rows * columns, dtype=np.float32).reshape(2, rows, columns)
    window = cut_window(pair, [size, size], np.random.default_rng(seed))
    assert window.shape == (2, size, size)
    assert np.count_nonzero(window) == 2 * min(rows, size) * min(columns, size)


# Runs


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_run_that_was_interrupted_ends_like_one_that_was_not(
    a_data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], optimiser: str
) -> None:
    plan = tiny(a_data_folder, epochs=3, decay=0.0, optimiser=optimiser)
    whole = trained(plan, a_data_folder, tmp_path / "whole")
    curve = curve_of(capsys.readouterr().err)
    assert len(curve) == 3
    trained(replace(plan, epochs=1), a_data_folder, tmp_path / "parts")
    resumed = trained(plan, a_data_folder, tmp_path / "parts")
    again = curve_of(capsys.readouterr().err)
    assert again == curve
    state = trained_state(resumed)
    assert all(torch.equal(state[name], value) for name, value in trained_state(whole).items())


def test_a_folder_with_a_run_of_another_network_is_refused(a_run: Path, a_data_folder: Path) -> None:
    for changes in ({"network": {"channels": [4, 4], "heads": 2}}, {"calibration": ["two"]}, {"optimiser": "muon"}):
        with pytest.raises(InputError, match="another"):
            trained(tiny(a_data_folder, epochs=9, **changes), a_data_folder, a_run.parent)


def test_a_crop_that_does_not_fit_is_refused(a_data_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="crop 20 is not a multiple of 8"):
        trained(tiny(a_data_folder, crop=20), a_data_folder, tmp_path)


def test_what_is_exported_estimates_severity(a_run: Path, a_data_folder: Path, tmp_path: Path, a_head: Volume) -> None:
    path = tmp_path / "own.safetensors"
    card = export_severity(tiny(a_data_folder), a_run, path, a_data_folder, cache=a_data_folder / "pairs")
    assert card["training"]["calibration_subjects"] == ["one"] and card["training"]["subjects"] == 2
    assert card["training"]["pairs"] + card["training"]["calibration_pairs"] == PAIRS
    assert sum(row["volumes"] for row in card["metrics"]) == 2 * card["training"]["calibration_pairs"]
    state = trained_state(a_run)
    assert all(torch.equal(state[name], value) for name, value in load_severity(path).network.state_dict().items())
    assert estimate_severity(a_head, path).volume_mm >= 0


def test_the_command_trains_and_exports(
    a_data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        "train", "severity", "--config", a_data_folder / "tiny.yaml", "--data", a_data_folder,
        "--run", tmp_path / "run", "--cache", a_data_folder / "pairs", "--epochs", 1, "--device", "cpu",
    )  # fmt: skip
    assert braindiff(*arguments, "--export", tmp_path / "own.safetensors") == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("epoch 1 of 1: loss ")
    written = json.loads(printed.out)
    assert written == {"weights": str(tmp_path / "own.safetensors"), "sha256": written["sha256"]}
    assert load_severity(tmp_path / "own.safetensors").card["training"]["epochs_done"] == 1
    assert braindiff(*arguments, "--steps", "3") == 2
    assert "--steps is no option of phase severity" in capsys.readouterr().err
