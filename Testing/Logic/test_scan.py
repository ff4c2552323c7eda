"""What a corrector sees of a volume, and the exact way back from it."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from BrainDiffLogic.correction import correct
from BrainDiffLogic.models.corrector import Corrector
from BrainDiffLogic.scan import Scan
from BrainDiffLogic.volume import Volume

CARD: dict[str, Any] = {
    "name": "echo", "version": "1", "family": "echo", "sha256": "0", "arguments": {}, "training": {}, "metrics": [],
    "input": {"spacing_mm": [0.1, 9.0]},
}  # fmt: skip
OBLIQUE = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])


class Echo(Corrector):
    """Its residual is what it is shown: taken off, a constant remains."""

    def __init__(self, multiple: int) -> None:
        super().__init__(nn.Identity(), context=1, shuffle=1, residual=True)
        self._multiple = multiple

    @property
    def multiple(self) -> int:  # type: ignore[override]
        return self._multiple

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[2] % self._multiple == 0 and x.shape[3] % self._multiple == 0
        return x


def orientations() -> list[np.ndarray]:
    """The 48 ways in which array axes can run along patient axes."""
    return [np.eye(3)[list(order)] * signs for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def a_volume(shape: tuple[int, int, int], matrix: np.ndarray, seed: int = 0) -> Volume:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, (-20, 7, 3)
    return Volume(np.random.default_rng(seed).uniform(10, 900, shape).astype(np.float32), affine)


@pytest.mark.parametrize("number", range(48))
def test_a_corrector_that_returns_its_input_leaves_a_constant(number: int) -> None:
    """On odd shapes, every voxel's residual must come back to the voxel it was found in."""
    shape = ((19, 23, 21), (17, 33, 18), (21, 20, 35))[number % 3]
    volume = a_volume(shape, OBLIQUE @ orientations()[number] * (1.0, 1.1, 0.9), number)
    corrected = correct(volume, (Echo(32), CARD), gate=False, force=True, device="cpu").corrected.array
    np.testing.assert_allclose(corrected, corrected.flat[0], atol=0.01)


def test_no_voxel_of_a_double_precision_volume_falls_below_the_lowest() -> None:
    class TwiceTooMuch(Echo):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    volume = a_volume((17, 19, 18), np.eye(3))
    volume = volume.with_array(volume.array.astype(np.float64) + np.random.default_rng(1).uniform(size=volume.shape))
    corrected = correct(volume, (TwiceTooMuch(32), CARD), gate=False, force=True, device="cpu").corrected.array
    assert corrected.dtype == np.float64
    assert corrected.min() >= volume.array.min() - 1e-9


@pytest.mark.parametrize("number", range(48))
def test_slices_are_put_back_exactly(number: int) -> None:
    matrix = orientations()[number] * ((1, 1, 1), (1, 1, 4), (4, 1, 1))[number % 3]
    scan = Scan(a_volume((7, 9, 11), matrix))
    assert np.array_equal(scan.uncut(scan.cut(scan.volume.array)), scan.volume.array)


@pytest.mark.parametrize(
    ("shape", "spacing", "plane"),
    [
        ((160, 192, 192), (1, 1, 1), "sagittal"),
        ((256, 256, 1), (1, 1, 5), "axial"),
        ((64, 64, 15), (1, 1, 1), "axial"),
        ((64, 64, 16), (1, 1, 1), "sagittal"),
        ((64, 64, 20), (1, 1, 3), "axial"),
        ((64, 64, 20), (1, 1, 2.9), "sagittal"),
        ((256, 256, 30), (0.9, 0.9, 5), "axial"),
        ((256, 20, 256), (0.9, 5, 0.9), "coronal"),
        ((20, 256, 256), (5, 0.9, 0.9), "sagittal"),
        ((21, 26, 23), (8, 8, 8), "sagittal"),
        ((176, 240, 15), (1, 1, 1), "axial"),
        ((160, 256, 128), (1, 1, 2), "sagittal"),
    ],
)
def test_a_stack_of_few_or_thick_slices_is_cut_into_those(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], plane: str
) -> None:
    affine = np.diag([*spacing, 1.0])
    scan = Scan(Volume(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), affine))
    assert scan.plane == plane
    across = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    assert len(scan.cut(scan.volume.array)) == shape[across] and scan.slice_spacing[0] == spacing[across]


def test_thick_axial_slices_are_corrected_as_such_and_it_says_so() -> None:
    volume = a_volume((40, 44, 6), np.diag([1.0, 1.0, 6.0]))
    report = correct(volume, (Echo(1), CARD), gate=False, force=True, device="cpu").report
    assert report["plane"] == "axial" and any("axial slices" in note for note in report["notes"])
    asked: list[tuple[int, ...]] = []

    class Watched(Echo):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            asked.append(tuple(x.shape))
            return x

    correct(volume, (Watched(1), CARD), gate=False, force=True, device="cpu")
    assert sum(shape[0] for shape in asked) == 6 and {shape[1:] for shape in asked} == {(1, 44, 40)}
