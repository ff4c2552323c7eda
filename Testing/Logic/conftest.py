"""Fixtures for tests of the library and its command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from BrainDiffLogic import write_volume
from BrainDiffLogic.models import checkpoints
from BrainDiffLogic.volume import Volume
from Harness.correctors import save_tiny
from Harness.severities import save_severity


@pytest.fixture
def own_models(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Default model and network are tiny networks, in a folder of imported models; the shipped gate sees 2 mm."""
    folder = tmp_path_factory.mktemp("models")
    for name in (checkpoints.DEFAULT_MODEL, checkpoints.DEFAULT_NETWORK):
        save_tiny(folder / f"{name}.safetensors")
    save_severity(folder / "Severity" / "severity.safetensors", raw=1.0)
    monkeypatch.setenv("BRAINDIFF_MODELS", str(folder))
    monkeypatch.setattr(checkpoints, "shipped_folder", lambda: folder / "none")


@pytest.fixture
def a_scan(tmp_path: Path, a_head: Volume) -> Path:
    """An int16 scan of 96 x 112 x 104 mm."""
    rng = np.random.default_rng(4)
    noisy = (a_head.array + 20 + rng.normal(0, 4, a_head.shape)).clip(0, 2000)
    write_volume(Volume(noisy.astype(np.int16), a_head.affine), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"
