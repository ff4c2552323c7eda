"""``reproduce mcnet``, and what comparisons share: one set of pairs, other people and other traces in the test."""

import csv
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity
from tiny_reproduction import tiny_comparison, write_cohort

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.corrector import build
from BrainDiffLogic.motion.presets import PRESETS
from BrainDiffLogic.papers import run
from BrainDiffLogic.papers.comparison import (
    ComparisonSettings,
    PairPlan,
    assert_other_traces,
    middle_slices,
    on_grid,
    simulate_pairs,
    train_variant,
)
from BrainDiffLogic.papers.mcnet import FACTOR, SETS, STAGES, TITLES, in_plane, magnitude, mcnet_settings, rotation
from BrainDiffLogic.papers.rmman import rmman_settings
from BrainDiffLogic.papers.run import Work, find_cohort, reproduce
from BrainDiffLogic.scan import head_mask
from BrainDiffLogic.training.corrector import network_arguments
from BrainDiffLogic.training.slice_store import StackPairs
from BrainDiffLogic.volume import Volume
from Harness.changed_files import change_a_byte

PRESET_NAMES = st.sampled_from(list(PRESETS))


@pytest.fixture(scope="module")
def a_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def a_run(a_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages; stopped once, before the weights of the first model are written."""
    out = tmp_path_factory.mktemp("mcnet") / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "export_pair_corrector", stopped)
        reproduce(STAGES, work(a_cohort, out))
    reproduce(STAGES, work(a_cohort, out))
    return out


def stopped(*arguments: object) -> None:
    raise KeyboardInterrupt


def tiny() -> ComparisonSettings:
    return tiny_comparison(mcnet_settings("compact"), filters=[4, 8])


def work(data: Path, out: Path) -> Work[ComparisonSettings]:
    return Work(data, out, tiny(), "cpu")


def points(out: Path) -> list[dict[str, str]]:
    with open(out / "magnitude.csv", newline="") as file:
        return list(csv.DictReader(file))


# The whole


def test_the_table_has_every_model_on_both_kinds_of_motion_beside_the_papers(a_run: Path) -> None:
    rows = json.loads((a_run / "table.json").read_text())["rows"]
    methods = ["do nothing", "L1", "L1+TV", "L1+TV-ft", "non-local means"]
    titles = ["in-plane rotation", "in-plane rotation and translation"]
    assert [(row["section"], row["method"]) for row in rows] == [(t, m) for t in titles for m in methods]
    assert all((row["subjects"], row["slices"]) == (2, 12) for row in rows)
    text = (a_run / "table.md").read_text()
    first = rows[0]
    assert f"| do nothing | {first['ssim_slices']:.3f} +- {first['ssim_sd']:.3f} | 0.715 +- 0.093 |" in text
    assert "| L1+TV-ft | 0.645 | 0.076 |" in text
    assert text.count("SSIM (2D Gaussian window") == 1 and "TV is" in text


def test_a_finished_run_does_nothing_again_and_motion_scans_are_not_used(a_run: Path, a_cohort: Path) -> None:
    lines: list[str] = []
    reproduce(STAGES, work(a_cohort, a_run), say=lines.append)
    assert lines[0] == "found 5 scans of 5 subjects: 5 clean, 0 with motion, 0 pairs"
    assert lines[1].startswith("left out, with motion (it is simulated here): sub-p0_acq-headmotion1_T1w")
    assert lines[-len(STAGES) :] == [f"{stage.name}: done before" for stage in STAGES]


def test_a_cohort_without_motion_scans_serves(a_cohort: Path, tmp_path: Path) -> None:
    bids = tmp_path / "bids"
    shutil.copytree(a_cohort, bids, ignore=shutil.ignore_patterns("*headmotion*"))
    only = find_cohort(bids, 1, ("clean",))
    before = only.digest
    assert before == find_cohort(a_cohort, 1, ("clean",)).digest != find_cohort(a_cohort, 1).digest
    with pytest.raises(InputError, match="there is no motion scan"):
        find_cohort(bids, 1)
    change_a_byte(only.scans[0].path)
    assert find_cohort(bids, 1, ("clean",)).digest != before


def test_a_row_is_the_mean_and_spread_over_slices_computed_anew(a_run: Path) -> None:
    pairs = StackPairs(a_run / "pairs-rotation-test")
    values = []
    for n in range(len(pairs)):
        moved, clean = (pairs[n][name][0].numpy() for name in ("moved", "clean"))
        _, similarity = structural_similarity(
            moved, clean, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, full=True
        )
        values.append(similarity[head_mask(clean[None])[0]].mean())
    row = json.loads((a_run / "table.json").read_text())["rows"][0]
    assert (row["ssim_slices"], row["ssim_sd"]) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values)))


def test_the_points_of_the_figure_hold_the_slices_of_the_table(a_run: Path) -> None:
    rows = {(row["section"], row["method"]): row for row in json.loads((a_run / "table.json").read_text())["rows"]}
    found = points(a_run)
    assert len(found) == len(SETS) * 2 * 2  # two scans, two traces
    for traces in SETS:
        own = [point for point in found if point["set"] == traces.name]
        magnitudes = [float(point["magnitude"]) for point in own]
        assert magnitudes == sorted(magnitudes) and magnitudes[0] > 0
        for method in ("do nothing", *TITLES.values()):
            mean = np.mean([float(point[f"ssim {method}"]) for point in own])
            assert mean == pytest.approx(rows[traces.title, method]["ssim_slices"])


def test_the_figure_is_drawn_where_matplotlib_is(a_run: Path) -> None:
    image = pytest.importorskip("matplotlib.image").imread(a_run / "magnitude.png")
    assert image.shape[1] > 2 * image.shape[0] and image[..., :3].std() > 0.02


# Subjects and traces


def test_training_and_test_share_no_subject_and_no_trace(a_run: Path) -> None:
    splits = json.loads((a_run / "manifest.json").read_text())["splits"]
    for traces in SETS:
        training, test = StackPairs(a_run / traces.folder), StackPairs(a_run / traces.test_folder)
        assert training.subjects == sorted(splits["prior"] + splits["correction"])
        assert test.subjects == splits["test"]
        names = [{facts["trace"] for facts in pairs.facts} for pairs in (training, test)]
        assert [len(found) for found in names] == [2, 2] and not names[0] & names[1]
        assert len(training) == 3 * 2 * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts, test: {**facts, "trace": test["trace"]}, "trace .* is both in training and in test"),
        (lambda facts, test: {**facts, "subject": test["subject"]}, "rotation-l1: subject .* is not in prior or corr"),
    ],
)
def test_a_leaked_trace_or_subject_stops_training(
    a_run: Path, a_cohort: Path, tmp_path: Path, change: Callable[[dict, dict], dict], message: str
) -> None:
    out = tmp_path / "leak"
    shutil.copytree(a_run, out)
    leaked, tested = next((out / "pairs-rotation").glob("*.json")), next((out / "pairs-rotation-test").glob("*.json"))
    leaked.write_text(json.dumps(change(json.loads(leaked.read_text()), json.loads(tested.read_text()))))
    with pytest.raises(AssertionError, match=message):
        train_variant(work(a_cohort, out), SETS[0], "l1")


def test_a_pair_that_was_lost_is_made_again_as_it_was(a_run: Path, a_cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(a_run, out)
    folder = out / "pairs-rotation-translation"
    lost = sorted(folder.glob("*.json"))[0]
    before, kept = np.load(lost.with_suffix(".npy")), {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    facts = lost.read_text()
    lost.unlink()
    simulate_pairs(work(a_cohort, out), SETS[1])
    assert json.loads(lost.read_text()) == json.loads(facts)
    np.testing.assert_allclose(np.load(lost.with_suffix(".npy")), before, atol=2e-3)
    same = [path for path in kept if path.stem != lost.stem]
    assert all(path.stat().st_mtime_ns == kept[path] for path in same)


def test_traces_differ_from_each_other_and_grow_with_their_number() -> None:
    plan = PairPlan((32, 32), 6.0, (0.25, 2.0), training_traces=5, test_traces=5)
    drawn = [plan.draw(SETS[1], number)[1] for number in range(10)]
    size = [max(np.abs(trace.translations).max(), np.abs(trace.rotations).max()) / FACTOR for trace in drawn]
    assert size[:5] == sorted(size[:5]) and size[5:] == sorted(size[5:])
    assert min(size) >= 0.25 and max(size) <= 2.0
    assert len({trace.translations.tobytes() for trace in drawn}) == 10
    assert pickle.loads(pickle.dumps(SETS)) == SETS  # for the processes that simulate
    pairs = SimpleNamespace(facts=[{"trace": "nod-1"}])
    with pytest.raises(AssertionError, match="trace nod-1"):
        assert_other_traces(pairs, pairs)  # type: ignore[arg-type]


# The motion


@settings(deadline=None, max_examples=15)
@given(PRESET_NAMES, st.floats(0.25, 2.0), st.integers(0, 10_000))
def test_motion_in_the_plane_stays_in_it_and_has_the_size_asked_for(name: str, size: float, seed: int) -> None:
    trace, alone = in_plane(name, size, [seed]), rotation(name, size, [seed])
    assert not trace.translations[:, 0].any() and not trace.rotations[:, 1:].any()
    top = max(np.abs(trace.translations).max(), np.abs(trace.rotations).max())
    assert top == pytest.approx(FACTOR * size)
    middle = len(trace) // 2
    np.testing.assert_allclose([*trace.translations[middle], *trace.rotations[middle]], 0, atol=1e-9)
    assert not alone.translations.any() and np.array_equal(alone.rotations, trace.rotations)


def test_the_magnitude_is_the_mean_deviation_of_what_moves() -> None:
    assert magnitude({"sd_mm": [0.0, 0.0, 0.0], "sd_deg": [3.0, 0.0, 0.0]}) == 3
    assert magnitude({"sd_mm": [0.0, 1.0, 2.0], "sd_deg": [3.0, 0.0, 0.0]}) == 2


def test_a_scan_on_its_own_grid_is_copied_and_a_finer_one_keeps_its_place() -> None:
    ijk = np.indices((40, 48, 56)).astype(np.float32) - np.array([19.5, 23.5, 27.5])[:, None, None, None]
    blob = 100 * np.exp(-(ijk**2).sum(axis=0) / 200).astype(np.float32)
    turned = Volume(
        blob[::-1].transpose(1, 0, 2), np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    )
    np.testing.assert_array_equal(on_grid(turned, (48, 56), 1.0).array, blob)
    coarse = on_grid(turned, (24, 28), 2.0)
    assert coarse.shape == (20, 24, 28)
    for axis, size in enumerate(coarse.shape):
        weights = coarse.array.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64)
        assert np.average(np.arange(size), weights=weights) == pytest.approx((size - 1) / 2, abs=1e-3)


def test_slices_lie_the_asked_distance_apart_around_the_middle_of_the_head() -> None:
    ijk = np.indices((80, 40, 40)) - np.array([45, 19.5, 19.5])[:, None, None, None]
    head = Volume(np.where((ijk**2).sum(axis=0) < 18**2, 500.0, 0).astype(np.float32), np.diag([2.0, 2, 2, 1]))
    chosen = middle_slices(head, 10, 5.0)
    assert len(chosen) == 10 and np.mean(chosen) == pytest.approx(45, abs=1)
    assert set(np.diff(chosen)) <= {2, 3}
    assert 10 < len(middle_slices(head, 40, 2.0)) < 40  # none outside the head


# The settings


@pytest.mark.parametrize("size", ["compact", "paper"])
def test_the_models_differ_in_the_weight_of_tv_alone_and_take_equal_steps(size: str) -> None:
    variants = mcnet_settings(size).variants
    betas = {name: [stage.loss["tv"] for stage in plan.stages] for name, plan in variants.items()}
    assert betas == {"l1": [0, 0], "l1-tv": [1, 1], "l1-tv-ft": [0, 1]}
    bare = [replace(p, stages=[replace(s, loss={"l1": s.loss["l1"]}) for s in p.stages]) for p in variants.values()]
    assert bare[0] == bare[1] == bare[2] and bare[0].stages[0].steps == bare[0].stages[1].steps


@pytest.mark.parametrize("size", ["compact", "paper"])
@pytest.mark.parametrize("recipe", [mcnet_settings, rmman_settings])
def test_every_network_fits_the_slices(recipe: Callable[[str], ComparisonSettings], size: str) -> None:
    chosen = recipe(size)
    for plan in chosen.variants.values():
        network = build(plan.family, network_arguments(plan))
        assert network.context == 1 and not any(n % network.multiple for n in chosen.simulation.canvas)
    with pytest.raises(InputError, match="size 'large' is unknown"):
        recipe("large")
