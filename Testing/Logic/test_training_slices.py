"""Slices of pairs as training samples."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from BrainDiffLogic.training.configuration import Recipe
from BrainDiffLogic.training.heads import Source
from BrainDiffLogic.training.pairs import PairCache
from BrainDiffLogic.training.slices import GAIN, CachedSlices, SimulatedSlices, SliceDraw, ValidationSlices, take_slice


def numbered(slices: int = 6, rows: int = 20, columns: int = 24) -> np.ndarray:
    """(2, slices, rows, columns): the slice number, negative in the still stack, in every voxel."""
    moved = np.broadcast_to(np.arange(1, slices + 1.0)[:, None, None], (slices, rows, columns))
    return np.stack([moved, -moved]).astype(np.float16)


@pytest.fixture
def a_cache(tmp_path: Path) -> PairCache:
    """Three pairs of random voxels, as ``PairCache.make`` leaves them."""
    (tmp_path / "head.nii").touch()  # only its size is asked for
    cache = PairCache(tmp_path, [Source(str(tmp_path / "head.nii"), "one")], Recipe(), 1)
    for index in range(3):
        stacks = np.random.default_rng(index).random((2, 24, 20, 24)).astype(np.float16)
        np.save(cache.folder / f"{index:05d}.npy", stacks)
        (cache.folder / f"{index:05d}.json").write_text(json.dumps({"severity": float(index)}))
    return cache


@pytest.mark.parametrize("crop", [8, 20, 24, 40])
def test_a_window_lies_inside_a_larger_image_and_holds_all_of_a_smaller_one(crop: int) -> None:
    stacks = numbered()
    for seed in range(20):
        sample = take_slice(stacks, 2, 1, crop, np.random.default_rng(seed))
        assert sample["moved"].shape == sample["clean"].shape == (1, crop, crop)
        assert (sample["moved"] != 0).sum() == min(crop, 20) * min(crop, 24)


def test_moved_and_still_are_cut_alike_with_one_gain() -> None:
    stacks = np.random.default_rng(1).random((1, 5, 20, 24)).astype(np.float16).repeat(2, axis=0)
    sample = take_slice(stacks, 2, 3, 16, np.random.default_rng(0))
    torch.testing.assert_close(sample["moved"][1:2], sample["clean"])
    assert sample["moved"].dtype == sample["clean"].dtype == torch.float32


def test_the_gain_stays_in_its_range() -> None:
    stacks = np.ones((2, 3, 8, 8), dtype=np.float16)
    gains = [take_slice(stacks, 1, 1, 8, np.random.default_rng(seed))["clean"].max().item() for seed in range(30)]
    assert GAIN[0] <= min(gains) < 1 < max(gains) <= GAIN[1]


@pytest.mark.parametrize(("index", "neighbours"), [(0, [1, 1, 1, 2, 3]), (3, [2, 3, 4, 5, 6]), (5, [4, 5, 6, 6, 6])])
def test_context_holds_the_neighbours_and_repeats_the_last_slice(index: int, neighbours: list[int]) -> None:
    seen = set()
    for seed in range(12):
        sample = take_slice(numbered(), index, 5, 8, np.random.default_rng(seed))
        gain = -sample["clean"][0, 0, 0] / (index + 1)
        numbers = torch.round(sample["moved"][:, 0, 0] / gain).int().tolist()
        seen.add(tuple(numbers))
    assert seen == {tuple(neighbours), tuple(reversed(neighbours))}


def test_a_sample_depends_on_seed_epoch_and_item_alone(a_cache: PairCache) -> None:
    def sample(seed: int, epoch: int, item: int) -> torch.Tensor:
        return CachedSlices(a_cache, 3, SliceDraw(10, 3, 16, seed, epoch=epoch))[item]["moved"]

    one = sample(1, 0, 0)
    torch.testing.assert_close(one, sample(1, 0, 0), rtol=0, atol=0)
    for other in (sample(2, 0, 0), sample(1, 1, 0), sample(1, 0, 1)):
        assert not torch.equal(one, other)


def test_cached_slices_use_only_the_pairs_that_are_there(a_cache: PairCache) -> None:
    dataset = CachedSlices(a_cache, 100, SliceDraw(7, 1, 16, 1))
    assert dataset.pairs == [0, 1, 2]
    assert len(dataset) == 7


def fake_pair(cache: PairCache, index: int) -> tuple[np.ndarray, dict]:
    """Every voxel holds the number of the pair, a power of 2 apart so that no gain hides it."""
    return np.full((2, 4, 8, 8), 2.0**index, dtype=np.float32), {}


def drawn(cache: PairCache, epoch: int, workers: int, samples: int = 100) -> list[float]:
    loader = DataLoader(SimulatedSlices(cache, SliceDraw(samples, 1, 8, 1, epoch=epoch)), 8, num_workers=workers)
    return [float(image.max()) for batch in loader for image in batch["clean"]]


def test_simulated_slices_are_the_same_set_whatever_the_workers(
    a_cache: PairCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PairCache, "simulate", fake_pair)
    alone = drawn(a_cache, 0, 0)
    assert len(alone) == 100
    assert sorted(drawn(a_cache, 0, 2)) == sorted(alone)
    assert drawn(a_cache, 0, 0) == alone


def test_no_epoch_repeats_a_simulated_pair_of_another(a_cache: PairCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PairCache, "simulate", fake_pair)
    pairs = [{round(np.log2(value)) for value in drawn(a_cache, epoch, 0)} for epoch in range(3)]
    assert pairs == [{0, 1, 2}, {3, 4, 5}, {6, 7, 8}]


def test_validation_slices_are_always_the_same_and_carry_the_severity(a_cache: PairCache) -> None:
    one, again = (ValidationSlices(a_cache, 3, 3, 16, step=10) for _ in range(2))
    assert len(one) == 3 * 1
    for item in range(len(one)):
        assert one[item]["severity"].item() == float(item)
        torch.testing.assert_close(one[item]["moved"], again[item]["moved"], rtol=0, atol=0)
