"""The mean of weights: an identity for equal ones, between two networks for others, and a card of its origin."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import average, load_checkpoint, read_card, save_checkpoint
from BrainDiffLogic.training.corrector import started_from
from Harness.command_line import braindiff
from Harness.correctors import ARGUMENTS, CARD, save_tiny, tiny_corrector

MEASURED = {"metrics": [{"severity": "still"}], "metrics_convention": "ours", "independent_metrics": [], "safety": {}}


def save_shifted(path: Path, by: float, **changes: object) -> Path:
    """A checkpoint whose every weight is that of the tiny corrector plus ``by``."""
    save_checkpoint({k: v + by for k, v in tiny_corrector().state_dict().items()}, {**CARD, **changes}, path)
    return path


def weights(path: Path) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in load_checkpoint(path)[0].state_dict().values()])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(-64, 64), min_size=2, max_size=4, unique=True))
def test_the_mean_lies_where_the_shifts_say(tmp_path_factory: pytest.TempPathFactory, steps: list[int]) -> None:
    folder = tmp_path_factory.mktemp("mean")
    shifts = [step / 64 for step in steps]
    models = [save_shifted(folder / f"m{number}.safetensors", by) for number, by in enumerate(shifts)]
    average(models, folder / "mean.safetensors")
    expected = weights(save_tiny(folder / "tiny.safetensors")) + sum(shifts) / len(shifts)
    torch.testing.assert_close(weights(folder / "mean.safetensors"), expected, rtol=0, atol=1e-6)


def test_the_card_tells_the_origin_and_holds_no_numbers_of_another(tmp_path: Path) -> None:
    before = save_tiny(tmp_path / "before.safetensors", training={"steps": 5})
    run = save_shifted(tmp_path / "run.safetensors", 0.5, training={"steps": 7, **started_from(before)}, **MEASURED)
    beside = save_shifted(tmp_path / "beside.safetensors", 1.0, training={"steps": 9})
    card = average([run, before, beside], tmp_path / "mean.safetensors")
    assert card == read_card(tmp_path / "mean.safetensors")
    assert card["metrics"] == [] and card["training"] == read_card(run)["training"]
    assert not {"metrics_convention", "independent_metrics", "safety"} & card.keys()
    assert card["averaged"] == [
        {"name": "run", "sha256": read_card(run)["sha256"]},
        {"name": "before", "sha256": read_card(before)["sha256"]},
        {"name": "beside", "sha256": read_card(beside)["sha256"], "training": {"steps": 9}},
    ]
    assert started_from(tmp_path / "mean.safetensors")["initial"]["averaged"] == card["averaged"]


@pytest.mark.parametrize("training", [7, {"initial": "scratch"}, {"initial": {"training": None}}], ids=str)
def test_a_card_that_tells_its_training_otherwise_has_a_mean_too(tmp_path: Path, training: object) -> None:
    odd = save_tiny(tmp_path / "odd.safetensors", training=training)
    other = save_shifted(tmp_path / "other.safetensors", 0.5)
    card = average([odd, other], tmp_path / "mean.safetensors")
    assert card["training"] == training and [each["name"] for each in card["averaged"]] == ["odd", "other"]


def test_models_that_have_no_mean_are_refused(tmp_path: Path) -> None:
    a, out = save_tiny(tmp_path / "a.safetensors"), tmp_path / "mean.safetensors"
    twin = save_tiny(tmp_path / "twin.safetensors", training={"steps": 3})
    other = save_shifted(tmp_path / "other.safetensors", 0.1, arguments={**ARGUMENTS, "zero_init": False, "gain": 0.5})
    third = save_shifted(tmp_path / "third.safetensors", 0.2)
    for models, word in (
        ([a], "two or more"),
        ([a, twin, third], "twin.*weights of .*a.safe"),
        ([a, third, other], "other.*one network"),
    ):
        with pytest.raises(InputError, match=word):
            average(models, out)
        assert not out.exists() and not out.with_suffix(".json").exists()


@pytest.mark.usefixtures("own_models")
def test_the_command_writes_a_model_that_can_be_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = save_tiny(tmp_path / "a.safetensors"), save_shifted(tmp_path / "b.safetensors", 0.1)
    out = tmp_path / "c.safetensors"
    assert braindiff("models", "average", a, b, out) == 0
    assert "mean of 2 models" in capsys.readouterr().out
    assert braindiff("models", "import", out) == 0
    assert braindiff("models", "average", a, b, out) == 2 and "--overwrite" in capsys.readouterr().err
    assert braindiff("models", "average", a, b) == 2, "OUT would be one of the models"
    assert braindiff("models", "average", a, out) == 2
    assert braindiff("models", "average", b, out, a, "--overwrite") == 0
