"""``reproduce rmman``: kernels and blocks on the same pairs, and the Inception Score."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny_reproduction import tiny_comparison, write_cohort
from torch import nn

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import load_checkpoint
from BrainDiffLogic.papers import rmman
from BrainDiffLogic.papers.rmman import (
    STAGES,
    class_probabilities,
    inception_score,
    load_classifier,
    rmman_settings,
    six_parameters,
)
from BrainDiffLogic.papers.run import Work, reproduce

CLASSES = 4


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages, the Inception Score by a stand-in."""
    folder = tmp_path_factory.mktemp("rmman")
    plan = tiny_comparison(rmman_settings("compact"), channels=[4, 4, 4], shuffle=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rmman, "load_classifier", lambda path: a_classifier())
        asked = replace(plan, inception="w.pth")
        reproduce(STAGES, Work(write_cohort(folder), folder / "run", asked, "cpu"))
    return folder / "run"


def a_classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(99), nn.Flatten(), nn.Linear(27, CLASSES)).eval()


def test_the_table_compares_kernels_and_blocks_with_size_and_time(a_run: Path) -> None:
    rows = {row["method"]: row for row in json.loads((a_run / "table.json").read_text())["rows"]}
    assert list(rows) == [
        "do nothing", "DW block, kernel 3", "DW block, kernel 5", "DW block, kernel 7", "EDSR block, kernel 5",
        "SRResNet block, kernel 5", "non-local means",
    ]  # fmt: skip
    sizes = {name: row["parameters"] for name, row in rows.items()}
    assert sizes["do nothing"] is sizes["non-local means"] is None
    assert sizes["DW block, kernel 3"] < sizes["DW block, kernel 5"] < sizes["DW block, kernel 7"]
    assert sizes["EDSR block, kernel 5"] < sizes["SRResNet block, kernel 5"] < sizes["DW block, kernel 5"]
    assert rows["DW block, kernel 5"]["relative_time"] == 1
    for row in rows.values():
        assert (row["milliseconds"] is None) == (row["parameters"] is None)
        assert 1 <= row["inception_score"] <= CLASSES
    text = (a_run / "table.md").read_text()
    assert "| 34.97 / 0.9369 |" in text and "| EDSR block, kernel 5 | 34.78 | 0.9269 | 1.2643 |" in text
    assert "hearts" in text and "The Inception Score says little here" in text


def test_every_variant_is_the_network_it_says(a_run: Path) -> None:
    for name, (_, block, kernel) in rmman.VARIANTS.items():
        _, card = load_checkpoint(a_run / f"rigid-{name}.safetensors")
        assert (card["arguments"]["block"], card["arguments"]["kernel"]) == (block, kernel)
        assert card["training"]["steps"] == 1


def test_the_variants_differ_in_block_and_kernel_alone() -> None:
    for size in ("compact", "paper"):
        plans = list(rmman_settings(size).variants.values())
        for plan in plans[1:]:
            assert {**vars(plan), "network": None} == {**vars(plans[0]), "network": None}
            changed = {key for key in plan.network if plan.network[key] != plans[0].network[key]}  # type: ignore[index, union-attr]
            assert changed <= {"block", "kernel"}


def test_a_trace_has_six_parameters_and_the_displacement_asked_for() -> None:
    trace = six_parameters("drift", 3.0, [1])
    assert trace.severity == pytest.approx(3.0, rel=1e-3)
    assert (trace.translations.std(axis=0) > 0).all() and (trace.rotations.std(axis=0) > 0).all()


# The Inception Score


def test_slices_that_look_alike_score_one_and_those_that_do_not_their_number() -> None:
    assert inception_score(np.full((5, 4), 0.25)) == pytest.approx(1)
    assert inception_score(np.tile([1.0, 0, 0, 0], (5, 1))) == pytest.approx(1)
    assert inception_score(np.eye(4)) == pytest.approx(4)


@settings(deadline=None, max_examples=25)
@given(arrays(np.float64, (6, CLASSES), elements=st.floats(0, 1)))
def test_the_score_lies_between_one_and_the_number_of_classes(values: np.ndarray) -> None:
    p = (values + 1e-3) / (values + 1e-3).sum(axis=1, keepdims=True)
    assert 1 - 1e-9 <= inception_score(p) <= CLASSES + 1e-9
    assert inception_score(np.concatenate([p, p])) == pytest.approx(inception_score(p))


def test_the_classifier_sees_three_equal_colours_of_its_size_and_gives_probabilities() -> None:
    seen: list[torch.Tensor] = []

    class Looking(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x.mean(dim=(2, 3))

    p = class_probabilities(np.full((2, 32, 48), 3.0, np.float32), Looking(), torch.device("cpu"))
    assert p.shape == (2, 3) and p.sum(axis=1) == pytest.approx(1)
    assert seen[0].shape == (2, 3, 299, 299)
    white = [(1 - mean) / deviation for mean, deviation in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx(white)


def test_without_torchvision_or_its_weights_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(InputError, match="needs torchvision: pip install torchvision"):
        rmman_settings("compact", inception=tmp_path / "w.pth")
    stand_in = SimpleNamespace(inception_v3=lambda **options: nn.Linear(2, 2))
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=stand_in))
    monkeypatch.setitem(sys.modules, "torchvision.models", stand_in)
    with pytest.raises(InputError, match="w.pth: there is no such file"):
        load_classifier(tmp_path / "w.pth")
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match="not the weights of inception_v3"):
        load_classifier(tmp_path / "w.pth")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pth")
    assert not load_classifier(tmp_path / "w.pth").training
