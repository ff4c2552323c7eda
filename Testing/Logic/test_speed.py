"""What a correction may do, counted: calls, reads, operations and modules, never seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from BrainDiffLogic import correction_files, inference
from BrainDiffLogic.images import write_volume
from BrainDiffLogic.models.checkpoints import load_checkpoint
from BrainDiffLogic.models.layers import folded
from BrainDiffLogic.volume import Volume

SLOW_TO_LOAD = {"monai", "matplotlib", "lightning", "jinja2", "dask", "finufft", "torchvision", "trame"}
"""Packages that ``braindiff correct`` of a NIfTI file by the default model has no need of."""


@pytest.fixture
def a_file(a_head: Volume, tmp_path: Path) -> Path:
    path = tmp_path / "in.nii.gz"
    write_volume(a_head.with_array(a_head.array.astype(np.int16)), path)
    return path


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often ``correct_file`` reads, writes, measures and asks a network."""
    calls = dict.fromkeys(["read_volume", "write_volume", "assess", "predict_residual"], 0)

    def count(module: object, name: str) -> None:
        original = getattr(module, name)

        def counting(*args: object, **options: object) -> object:
            calls[name] += 1
            return original(*args, **options)

        monkeypatch.setattr(module, name, counting)

    for name in ("read_volume", "write_volume", "assess"):
        count(correction_files, name)
    count(inference, "predict_residual")
    return calls


def test_a_file_is_read_once_and_nothing_is_measured_unasked(a_file: Path, counted: dict[str, int]) -> None:
    correction_files.correct_file(a_file, a_file.with_name("out.nii.gz"), force=True)
    assert counted == {"read_volume": 1, "write_volume": 1, "assess": 0, "predict_residual": 1}


def test_a_report_measures_before_and_after_and_reads_nothing_again(a_file: Path, counted: dict[str, int]) -> None:
    names = {"difference": a_file.with_name("d.nii.gz"), "report": a_file.with_name("r.json")}
    correction_files.correct_file(a_file, a_file.with_name("out.nii.gz"), force=True, **names)
    assert counted == {"read_volume": 1, "write_volume": 2, "assess": 2, "predict_residual": 1}


def test_a_network_is_asked_once_for_each_batch_of_slices_that_are_not_empty() -> None:
    corrector, _ = load_checkpoint("attention-unet")
    stack = np.zeros((11, 32, 32), np.float32)
    stack[1:10] = np.random.default_rng(0).normal(size=(9, 32, 32))
    asked: list[int] = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, given: asked.append(len(given[0])) if isinstance(module, type(corrector)) else None
    )
    try:
        inference.predict_residual(corrector, stack, device="cpu")
    finally:
        hook.remove()
    assert sorted(asked) == [1, 4, 4]


@pytest.mark.parametrize(("model", "most"), [("mc-net", 8.5), ("attention-unet", 5.9), ("rmman", 6.3)])
def test_a_slice_takes_no_more_operations_than_it_did(model: str, most: float) -> None:
    corrector, _ = load_checkpoint(model)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        folded(corrector)(torch.zeros(1, corrector.context, 256, 256))
    assert counter.get_total_flops() / 1e9 <= most


@pytest.mark.parametrize(("model", "needed"), [("mc-net", set()), ("motion", {"finufft"})])
def test_the_command_loads_no_package_that_it_does_not_need(a_file: Path, model: str, needed: set[str]) -> None:
    arguments = ["correct", str(a_file), str(a_file.with_name("out.nii.gz")), "--force", "--model", model]
    code = (
        f"import json, sys; from BrainDiffLogic.commands.main import main; status = main({arguments!r});"
        " print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules}))); sys.exit(status)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    loaded = set(json.loads(child.stdout.splitlines()[-1]))
    assert "torch" in loaded
    assert loaded & SLOW_TO_LOAD == needed
