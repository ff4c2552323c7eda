"""Quiet bases: noise is taken off before the motion, and comes in again after it; masks, recorded motion."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import write_volume
from BrainDiffLogic.scan import head_mask
from BrainDiffLogic.training import heads
from BrainDiffLogic.training import pairs as pairs_module
from BrainDiffLogic.training.configuration import Recipe
from BrainDiffLogic.training.heads import MOST_GAIN, RecordedTraces, Source, noise_deviation, paint, quiet_head, quieted
from BrainDiffLogic.training.pairs import PairCache, drawn_mask, simulate_pair
from BrainDiffLogic.training.slices import mask_slice
from BrainDiffLogic.volume import Volume

QUIET = Recipe(quiet=True, max_voxels=4e5, still_share=0.0, phase_share=0.0, blur_share=0.0, noise=(0.0, 0.0))
DEVIATION = 0.03


@pytest.fixture
def a_quiet_head() -> np.ndarray:
    """Two tissues with an edge of one voxel, 1 and 0.5, in air."""
    ijk = np.indices((40, 48, 44)) - np.array([20, 24, 22]).reshape(3, 1, 1, 1)
    radius = np.sqrt((ijk**2).sum(axis=0))
    head = np.where(radius < 9, 1.0, np.where(radius < 17, 0.5, 0.0))
    return ndimage.gaussian_filter(head, 0.6).astype(np.float32)


@pytest.fixture
def a_noisy_head(a_quiet_head: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(1)
    real, imaginary = rng.normal(0, DEVIATION, (2, *a_quiet_head.shape))
    return np.hypot(a_quiet_head + real, imaginary).astype(np.float32)


@pytest.fixture
def a_noisy_source(a_noisy_head: np.ndarray, tmp_path: Path) -> Source:
    write_volume(Volume(a_noisy_head, np.diag([2.0, 2, 2, 1])), tmp_path / "one_T1w.nii.gz")
    return Source(str(tmp_path / "one_T1w.nii.gz"), "one")


def write_traces(folder: Path, size: float = 1000.0) -> Path:
    """40 people, one run of 300 frames each: random walks of about ``size`` micrometres."""
    rng = np.random.default_rng(3)
    keys = [f"sub-{n:02d}_task-rest" for n in range(40)]
    walks = rng.normal(size=(len(keys), 300, 6)).cumsum(axis=1) * size / 17
    np.savez(folder / "rest.npz", **dict(zip(keys, np.clip(walks, -32000, 32000).astype(np.int16), strict=True)))
    (folder / "rest_index.tsv").write_text("key\ttr_s\n" + "".join(f"{key}\t2.0\n" for key in keys))
    return folder / "rest.npz"


def test_the_noise_of_a_head_is_measured_within_a_tenth(a_noisy_head: np.ndarray) -> None:
    assert noise_deviation(a_noisy_head, head_mask(a_noisy_head)) == pytest.approx(DEVIATION, rel=0.1)


@pytest.mark.parametrize("shape", [(40, 48, 44), (39, 47, 43)])
def test_sizes_odd_and_even_are_measured_alike(a_noisy_head: np.ndarray, shape: tuple[int, ...]) -> None:
    part = a_noisy_head[tuple(slice(n) for n in shape)]
    assert noise_deviation(part, head_mask(part)) == pytest.approx(DEVIATION, rel=0.15)


def test_a_noisy_head_becomes_quiet_keeps_its_edges_and_its_air_becomes_nothing(
    a_noisy_head: np.ndarray, a_quiet_head: np.ndarray
) -> None:
    result = quieted(a_noisy_head)
    head = head_mask(a_quiet_head)
    assert noise_deviation(result, head) < 0.4 * DEVIATION
    assert np.median(result[~ndimage.binary_dilation(head, iterations=3)]) == 0
    slopes = [ndimage.gaussian_gradient_magnitude(image, 0.7) for image in (result, a_quiet_head)]
    edges = slopes[1] > 0.5 * slopes[1].max()
    assert slopes[0][edges].mean() > 0.95 * slopes[1][edges].mean()


def test_what_is_taken_off_looks_like_noise(a_noisy_head: np.ndarray, a_quiet_head: np.ndarray) -> None:
    inside = ndimage.binary_erosion(head_mask(a_quiet_head), iterations=2)
    removed, detail = a_noisy_head - quieted(a_noisy_head), a_quiet_head - ndimage.gaussian_filter(a_quiet_head, 1)
    assert removed[inside].std() == pytest.approx(DEVIATION, rel=0.25)
    assert abs(np.corrcoef(removed[inside], detail[inside])[0, 1]) < 0.15


def test_a_head_that_is_quiet_comes_back_as_it_is(a_quiet_head: np.ndarray) -> None:
    np.testing.assert_array_equal(quieted(a_quiet_head), a_quiet_head)


def test_a_quiet_base_is_made_once_and_kept(a_noisy_head: np.ndarray, tmp_path: Path) -> None:
    volume = Volume(a_noisy_head, np.diag([1.0, 1.5, 2, 1]))
    path = tmp_path / "quiet" / "one.npz"
    made = quiet_head(path, lambda: volume)
    kept = quiet_head(path, lambda: pytest.fail("made again"))
    np.testing.assert_array_equal(made.array, kept.array)
    np.testing.assert_allclose(kept.spacing, [1, 1.5, 2])
    np.testing.assert_allclose(made.array, quieted(a_noisy_head), atol=1e-3)


def test_a_pair_of_a_quiet_base_has_less_noise_than_its_source(a_noisy_source: Source, tmp_path: Path) -> None:
    still = replace(QUIET, still_share=1.0, gamma=(1.0, 1.0), bias_field=0.0, zoom=(1.0, 1.0))
    noise = []
    for recipe in (still, replace(still, quiet=False)):
        reference = simulate_pair(a_noisy_source, recipe, 1, 0, quiet=tmp_path)[0][1].astype(np.float32)
        noise.append(noise_deviation(reference, head_mask(reference)))
    assert noise[0] < 0.5 * noise[1]


def test_the_noise_after_the_motion_is_the_same_in_both_images(a_noisy_source: Source, tmp_path: Path) -> None:
    faint = replace(QUIET, severity_mm=(0.02, 0.021), noise=(0.05, 0.05))
    stacks, facts = simulate_pair(a_noisy_source, faint, 1, 0, quiet=tmp_path)
    moved, still = stacks.astype(np.float32)
    assert facts["noise"] == 0.05
    inside = head_mask(still)
    assert noise_deviation(still, inside) > 0.02
    assert (moved - still)[inside].std() < 0.25 * noise_deviation(still, inside)


def test_quiet_bases_need_a_folder(a_noisy_source: Source) -> None:
    with pytest.raises(InputError, match="folder"):
        simulate_pair(a_noisy_source, QUIET, 1, 0)


def test_pairs_of_one_cache_share_the_quiet_base(
    a_noisy_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PairCache(tmp_path, [a_noisy_source], QUIET, 1).make(0)
    monkeypatch.setattr(heads, "load", lambda *_: pytest.fail("loaded again"))
    PairCache(tmp_path, [a_noisy_source], QUIET, 2).make(0)


@pytest.mark.parametrize("kind", ["head", "brain"])
def test_a_masked_pair_has_exactly_no_signal_outside_though_noise_and_motion_came_before(
    a_noisy_source: Source, tmp_path: Path, kind: str
) -> None:
    recipe = replace(QUIET, masked_share=1.0, noise=(0.03, 0.03), severity_mm=(2.0, 2.5))
    stacks, facts = simulate_pair(replace(a_noisy_source, kind=kind), recipe, 1, 0, quiet=tmp_path)
    assert facts["masked"]
    air = stacks[1] == 0
    assert 0.1 < air.mean() < 0.95
    np.testing.assert_array_equal(stacks[0] == 0, air)
    assert np.abs(stacks[0] - stacks[1])[~air].mean() > 0.005, "what moved inside is there"


def test_masks_end_a_little_outside_or_inside_of_the_still_head(a_quiet_head: np.ndarray) -> None:
    still = Volume(a_quiet_head, np.eye(4))
    head = a_quiet_head > 0.25
    sizes = []
    for seed in range(20):
        mask = drawn_mask(still, True, np.random.default_rng(seed))
        assert mask[ndimage.distance_transform_edt(head) > 3].all()
        assert not mask[ndimage.distance_transform_edt(~head) > 6].any()
        sizes.append(mask.sum() / head.sum())
    assert min(sizes) < 1.1 < 1.3 < max(sizes)


def test_the_mask_of_a_head_leaves_out_a_ghost_that_of_a_brain_keeps_a_second_piece(a_quiet_head: np.ndarray) -> None:
    ghost = np.zeros(a_quiet_head.shape, dtype=bool)
    ghost[1:6, 1:6, 1:6] = True
    still = Volume(np.where(ghost, np.float32(0.4), a_quiet_head), np.eye(4))
    of_head, of_brain = (drawn_mask(still, stripped, np.random.default_rng(1)) for stripped in (False, True))
    assert of_head[20, 24, 22] and of_brain[20, 24, 22]
    assert not of_head[3, 3, 3] and of_brain[3, 3, 3]


def test_a_slice_loses_its_air_in_both_images_and_nothing_of_the_head(
    a_noisy_head: np.ndarray, a_quiet_head: np.ndarray
) -> None:
    clean = a_noisy_head[20:21].copy()
    moved = np.stack([clean[0] + np.float32(0.05)] * 3)
    mask_slice(moved, clean, np.random.default_rng(1))
    assert (moved[:, clean[0] == 0] == 0).all()
    assert (clean[0] == 0).mean() > 0.2
    assert (clean[0] > 0)[a_quiet_head[20] > 0.25].all()


def test_half_of_the_severities_more_lie_in_the_middle_of_the_octaves() -> None:
    recipe = Recipe(severity_mm=(0.25, 4.0), middle_share=0.5)
    drawn = np.array([pairs_module._severity(recipe, np.random.default_rng(seed)) for seed in range(600)])
    assert drawn.min() >= 0.25 and drawn.max() <= 4
    assert 0.69 < ((drawn > 0.5) & (drawn < 2)).mean() < 0.81


def test_a_painted_head_without_grain_is_smooth_within_a_tissue() -> None:
    labels = np.full((32, 32, 32), 2, dtype=np.int32)
    grainy, smooth = (paint(labels, np.random.default_rng(1), grainy) for grainy in (True, False))
    noise = [noise_deviation(image, labels > 0) / image.std() for image in (grainy, smooth)]
    assert noise[1] < 0.3 * noise[0]


def test_recorded_motion_has_the_severity_asked_for_and_follows_the_generator(tmp_path: Path) -> None:
    traces = RecordedTraces(write_traces(tmp_path))
    one, same, other = (traces.draw(64, 1.5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert len(one) == 64
    assert one.severity == pytest.approx(1.5, rel=1e-3)
    np.testing.assert_array_equal(one.rotations, same.rotations)
    assert not np.array_equal(one.rotations, other.rotations)


def test_a_calm_trace_is_passed_over_for_one_that_moves(tmp_path: Path) -> None:
    file = write_traces(tmp_path)
    with np.load(file) as runs:
        calm = {key: runs[key] if n % 8 == 0 else np.sign(runs[key]) for n, key in enumerate(runs)}
    np.savez(file, **calm)
    traces = RecordedTraces(file)
    moving = {key for n, key in enumerate(calm) if n % 8 == 0}
    for seed in range(5):
        drawn = traces.draw(64, 1.0, np.random.default_rng(seed))
        steps = np.abs(np.diff(drawn.translations, axis=0)).max()
        assert steps < MOST_GAIN, f"{steps} mm in a line: scaled up from rounding, not from {moving}"


def test_no_person_is_on_both_sides_of_the_split_of_traces(tmp_path: Path) -> None:
    file = write_traces(tmp_path)
    people = [{key for _, key in RecordedTraces(file, held_out=side).runs} for side in (False, True)]
    assert all(people)
    assert not people[0] & people[1]
    assert len(people[0] | people[1]) == 40


def test_a_recipe_of_recorded_motion_needs_traces(a_noisy_source: Source, tmp_path: Path) -> None:
    recipe = replace(QUIET, presets={"recorded": 1.0})
    with pytest.raises(InputError, match="traces"):
        PairCache(tmp_path, [a_noisy_source], recipe, 1)
    cache = PairCache(tmp_path, [a_noisy_source], recipe, 1, RecordedTraces(write_traces(tmp_path)))
    cache.make(0)
    assert cache.facts(0)["preset"] == "recorded"
