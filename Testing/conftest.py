"""Fixtures that every test may use; each test starts from the same seeds."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")  # before numpy and torch start their threads
os.environ.setdefault("MPLBACKEND", "Agg")

import random
import sys
from functools import cache
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from BrainDiffLogic.volume import Volume

CHECKOUT = Path(__file__).resolve().parent.parent
SEED = 20240

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=25)
hypothesis.settings.load_profile("repeatable")

# An analytic head on a small grid: (centre RAS mm, semi-axes mm, value), painted in this order. The right
# ventricle is the larger one and the lesion is on the left, so that a mirrored head differs from the head.
HEAD_SHAPE, HEAD_SPACING = (48, 56, 52), 2.0
HEAD = [
    ((0, 0, 0), (42, 50, 46), 700.0),  # scalp
    ((0, 49, -12), (6, 5, 9), 650.0),  # nose
    ((0, 0, 0), (38, 46, 42), 80.0),  # skull
    ((0, 0, 0), (35, 43, 39), 250.0),  # cerebrospinal fluid
    ((0, 0, 0), (33, 41, 37), 500.0),  # grey matter
    ((-15, 0, 2), (13, 33, 27), 800.0),  # white matter, left
    ((15, 0, 2), (13, 33, 27), 800.0),  # white matter, right
    ((-6, -2, 6), (4, 14, 5), 200.0),  # ventricle, left
    ((7, -2, 6), (6, 17, 6), 200.0),  # ventricle, right
    ((-19, 17, 10), (5, 5, 5), 350.0),  # lesion, left frontal
]


@cache
def _head() -> tuple[np.ndarray, np.ndarray]:
    affine = np.diag([HEAD_SPACING] * 3 + [1.0])
    affine[:3, 3] = -HEAD_SPACING * (np.array(HEAD_SHAPE) - 1) / 2
    ras = np.moveaxis(np.indices(HEAD_SHAPE), 0, -1) * HEAD_SPACING + affine[:3, 3]
    array = np.zeros(HEAD_SHAPE)
    for centre, semi_axes, value in HEAD:
        radius = np.linalg.norm((ras - np.array(centre)) / np.array(semi_axes), axis=-1)
        inside = np.clip((1 - radius) * min(semi_axes) / HEAD_SPACING + 0.5, 0, 1)  # edges one voxel wide
        array += inside * (value - array)
    return array.astype(np.float32), affine


@pytest.fixture
def a_head() -> Volume:
    """A whole head without noise: 48 x 56 x 52 voxels of 2 mm, RAS, left unlike right, air exactly 0."""
    array, affine = _head()
    return Volume(array.copy(), affine.copy())


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real volumes that tests marked ``shared`` read."""
    folder = Path(os.environ.get("BRAINDIFF_SHARED") or CHECKOUT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}: name the folder in BRAINDIFF_SHARED")
    return folder


@pytest.fixture(autouse=True)
def _same_seeds() -> None:
    random.seed(SEED)
    np.random.seed(SEED)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(SEED)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests marked ``gpu`` where there is no GPU; torch is asked only if there is such a test."""
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA GPU"))
