"""Training pairs, their cache, and heads painted from labels."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import write_volume
from BrainDiffLogic.training import heads
from BrainDiffLogic.training import pairs as pairs_module
from BrainDiffLogic.training.configuration import Recipe
from BrainDiffLogic.training.heads import Source, fourier_resampled, quiet_name
from BrainDiffLogic.training.pairs import PairCache, simulate_pair
from BrainDiffLogic.volume import Volume
from Harness.changed_files import change_a_byte

RECIPE = Recipe(max_voxels=3e4)


@pytest.fixture
def a_source(a_head: Volume, tmp_path: Path) -> Source:
    path = tmp_path / "one_T1w.nii.gz"
    write_volume(a_head, path)
    return Source(str(path), "one")


@pytest.fixture
def a_cache(a_source: Source, tmp_path: Path) -> PairCache:
    return PairCache(tmp_path / "cache", [a_source], RECIPE, seed=1)


@pytest.fixture
def a_label_map() -> np.ndarray:
    labels = np.zeros((24, 24, 24), dtype=np.int32)
    labels[2:22, 2:22, 2:22] = 165  # skull
    labels[4:20, 4:20, 4:20] = 24  # cerebrospinal fluid
    labels[5:19, 5:19, 5:19] = 3  # cortex
    labels[8:16, 8:16, 8:16] = 2  # white matter
    return labels


def test_the_same_seed_and_index_give_the_same_pair(a_source: Source) -> None:
    one, facts = simulate_pair(a_source, RECIPE, 1, 0)
    same, same_facts = simulate_pair(a_source, RECIPE, 1, 0)
    np.testing.assert_array_equal(one, same)
    assert facts == same_facts


@pytest.mark.parametrize(("seed", "index"), [(1, 1), (2, 0)])
def test_another_seed_or_index_gives_another_pair(a_source: Source, seed: int, index: int) -> None:
    one, facts = simulate_pair(a_source, RECIPE, 1, 0)
    other, other_facts = simulate_pair(a_source, RECIPE, seed, index)
    assert facts["motion"] != other_facts["motion"]
    assert one.shape != other.shape or not np.array_equal(one, other)


def test_a_pair_is_moved_and_still_in_network_units(a_source: Source) -> None:
    recipe = replace(RECIPE, still_share=0.0, severity_mm=(2.0, 2.5))
    stacks, facts = simulate_pair(a_source, recipe, 1, 0)
    assert stacks.shape[0] == 2
    assert stacks.dtype == np.float16
    assert 0.5 < np.percentile(stacks[1].astype(np.float32), 99) < 2
    assert 1.5 < facts["severity"] <= 2.5
    error = np.abs(stacks[0].astype(np.float64) - stacks[1]).mean()
    assert facts["error"] == pytest.approx(error, rel=0.02)
    assert error > 0.01


def test_a_still_pair_has_no_motion_and_less_error_than_a_moved_one(a_source: Source) -> None:
    recipe = replace(RECIPE, noise=(0.0, 0.0), phase_share=0.0, severity_mm=(2.0, 2.5))
    still = simulate_pair(a_source, replace(recipe, still_share=1.0), 1, 0)[1]
    moved = simulate_pair(a_source, replace(recipe, still_share=0.0), 1, 0)[1]
    assert (still["preset"], still["severity"]) == ("still", 0.0)
    assert still["error"] < 0.2 * moved["error"]


def test_the_receive_field_stays_where_it_is_while_the_head_moves(
    a_source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes, fields, simulate = [], [], pairs_module.simulate_motion

    def seen(volume: Volume, *args: Any, receive: np.ndarray, **more: Any) -> Any:
        shapes.append(volume.array)
        fields.append(receive)
        return simulate(volume, *args, receive=receive, **more)

    monkeypatch.setattr(pairs_module, "simulate_motion", seen)
    stacks = [simulate_pair(a_source, replace(RECIPE, bias_field=size), 1, 0)[0] for size in (0.0, 1.0)]
    np.testing.assert_array_equal(shapes[0], shapes[1])
    assert np.ptp(fields[0]) == 0 < np.ptp(fields[1])
    assert stacks[0].shape != stacks[1].shape or np.abs(stacks[0] - stacks[1]).max() > 0.01


def test_partial_fourier_blurs_the_reference_too_and_only_its_lines_count_for_the_severity(a_source: Source) -> None:
    recipe = replace(RECIPE, still_share=0.0, noise=(0.0, 0.0), phase_share=0.0, severity_mm=(2.0, 2.5))
    whole, facts = simulate_pair(a_source, recipe, 1, 0)
    partial, partial_facts = simulate_pair(
        a_source, replace(recipe, partial_fourier_share=1.0, partial_fourier=(0.55, 0.56)), 1, 0
    )
    assert 0 < partial_facts["severity"] != facts["severity"] and partial.shape == whole.shape
    references = [pair[1].astype(np.float32) for pair in (whole, partial)]
    steps = [[np.abs(np.diff(each, axis=axis)).mean() for axis in (1, 2)] for each in references]
    assert np.min(np.divide(steps[1], steps[0])) < 0.9, "the reference is blurred along the phase-encode axis"


def test_aliasing_comes_with_motion_and_never_lies_in_the_reference(a_source: Source) -> None:
    recipe = replace(RECIPE, noise=(0.0, 0.0), phase_share=0.0, severity_mm=(2.0, 2.5))
    recipe = replace(recipe, zoom=(2.0, 2.1), max_voxels=1e6)  # more lines than those of the calibration
    aliased = {"aliasing_share": 1.0, "aliasing": (0.5, 0.5)}
    for still_share, at_least, at_most in ((0.0, 5e-4, 1.0), (1.0, 0.0, 1e-6)):
        before, _ = simulate_pair(a_source, replace(recipe, still_share=still_share), 1, 0)
        after, _ = simulate_pair(a_source, replace(recipe, still_share=still_share, **aliased), 1, 0)
        before, after = before.astype(np.float32), after.astype(np.float32)
        # each pair has the scale of its moved scan
        factor = (before[1] * after[1]).sum() / (after[1] ** 2).sum()
        assert np.abs(factor * after[1] - before[1]).max() < 5e-3
        assert at_least <= np.abs(factor * after[0] - before[0]).mean() <= at_most


@pytest.mark.parametrize("size", [9, 10, 15, 16, 20, 31])
def test_resampling_keeps_the_mean_and_a_slow_wave(size: int) -> None:
    wave = 2 + np.cos(2 * np.pi * np.arange(16) / 16)
    array = np.broadcast_to(wave[:, None, None], (16, 4, 4)).astype(np.float32)
    result = fourier_resampled(array, [size, 4, 4])
    expected = 2 + np.cos(2 * np.pi * np.arange(size) / size)
    np.testing.assert_allclose(result[:, 0, 0], expected, atol=1e-4)


def test_a_cached_pair_is_the_simulated_one(a_cache: PairCache, a_source: Source) -> None:
    a_cache.make(0)
    stacks, facts = simulate_pair(a_source, RECIPE, 1, 0)
    np.testing.assert_array_equal(a_cache.stacks(0), stacks)
    assert a_cache.facts(0) == json.loads(json.dumps(facts))


@pytest.mark.parametrize("interrupted_at", [1, 2])
def test_an_interrupted_write_leaves_no_pair_and_the_next_call_makes_it(
    a_cache: PairCache, monkeypatch: pytest.MonkeyPatch, interrupted_at: int
) -> None:
    moves = []

    def killed(source: str, target: str) -> None:
        moves.append(target)
        if len(moves) == interrupted_at:
            raise KeyboardInterrupt
        os.rename(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        a_cache.make(0)
    assert a_cache.ready(1) == []
    monkeypatch.undo()
    a_cache.make(0)
    assert a_cache.ready(2) == [0]
    assert a_cache.stacks(0).shape[0] == 2


def test_a_pair_that_is_there_is_not_made_again(a_cache: PairCache, monkeypatch: pytest.MonkeyPatch) -> None:
    a_cache.make(0)
    monkeypatch.setattr(pairs_module, "simulate_pair", lambda *_: pytest.fail("simulated again"))
    a_cache.make(0)


def test_what_pairs_depend_on_names_their_folder(a_source: Source, tmp_path: Path) -> None:
    folders = {
        PairCache(tmp_path, sources, recipe, seed).folder
        for sources, recipe, seed in [
            ([a_source], RECIPE, 1),
            ([a_source], RECIPE, 2),
            ([a_source], replace(RECIPE, gamma=(1.0, 1.1)), 1),
            ([a_source, replace(a_source, subject="two")], RECIPE, 1),
            ([replace(a_source, weight=2.0)], RECIPE, 1),
        ]
    }
    assert len(folders) == 5
    assert PairCache(tmp_path, [a_source], Recipe(max_voxels=3e4), 1).folder in folders


def test_a_changed_scan_of_the_same_name_size_and_time_gives_other_pairs(a_source: Source, tmp_path: Path) -> None:
    before = PairCache(tmp_path, [a_source], RECIPE, 1), quiet_name(a_source)
    change_a_byte(Path(a_source.path))
    assert PairCache(tmp_path, [a_source], RECIPE, 1).folder != before[0].folder
    assert quiet_name(a_source) != before[1]


def test_pairs_of_a_scan_that_was_processed_anew_are_other_pairs(a_source: Source, tmp_path: Path) -> None:
    before = PairCache(tmp_path, [a_source], RECIPE, 1).folder
    Path(a_source.path).write_bytes(Path(a_source.path).read_bytes() + b"more")
    assert PairCache(tmp_path, [a_source], RECIPE, 1).folder != before


def test_sources_are_chosen_by_weight(a_source: Source, tmp_path: Path) -> None:
    sources = [replace(a_source, subject=name, weight=weight) for name, weight in (("a", 3.0), ("b", 1.0))]
    cache = PairCache(tmp_path, sources, RECIPE, 1)
    chosen = [cache.source_of(index).subject for index in range(400)]
    assert 0.68 < chosen.count("a") / 400 < 0.82


def test_a_cache_without_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no volumes"):
        PairCache(tmp_path, [], RECIPE, 1)


def test_a_t1_like_head_has_bright_white_matter_dark_fluid_and_no_air(
    a_label_map: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "T1_SHARE", 1.0)
    for seed in range(5):
        image = heads.paint(a_label_map, np.random.default_rng(seed))
        white = np.median(image[10:14, 10:14, 10:14])
        grey = np.median(image[6:7, 8:16, 8:16])
        fluid = np.median(image[4, 6:18, 6:18])
        assert white > grey > fluid
        assert image.min() >= 0


def test_a_painted_head_stands_in_air_that_is_zero(a_label_map: np.ndarray) -> None:
    padded = np.pad(a_label_map, 4)
    image = heads.paint(padded, np.random.default_rng(1))
    assert image.dtype == np.float32
    assert not image[0].any()
    assert not image[..., -1].any()


def test_painting_follows_the_generator(a_label_map: np.ndarray) -> None:
    one, same, other = (heads.paint(a_label_map, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_pair_is_made_from_a_label_map(a_label_map: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "seg.nii.gz"
    write_volume(Volume(np.repeat(a_label_map, 2, axis=0).astype(np.int16), np.diag([2.0, 4, 4, 1])), path)
    stacks, facts = simulate_pair(Source(str(path), "seg", "labels"), RECIPE, 1, 0)
    assert facts["kind"] == "labels"
    assert np.isfinite(stacks).all()
