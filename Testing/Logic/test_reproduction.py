"""``reproduce braindiff`` from a cohort to the table: stages, what goes on, who is in which split, the numbers."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from tiny_reproduction import tiny_corrector, tiny_settings, write_cohort

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import load_checkpoint
from BrainDiffLogic.papers import braindiff, run
from BrainDiffLogic.papers.braindiff import STAGES, BrainDiffSettings
from BrainDiffLogic.papers.run import Work, find_cohort
from BrainDiffLogic.papers.run import reproduce as reproduce_stages
from BrainDiffLogic.papers.table import Measured, TableRow
from BrainDiffLogic.scan import head_mask
from BrainDiffLogic.training.fit import steps_done
from BrainDiffLogic.training.slice_store import StackPairs, stack_run

Rows = dict[tuple[str, str], dict]
NAMES = tuple(stage.name for stage in STAGES)
reproduce = partial(reproduce_stages, STAGES)


@pytest.fixture(scope="module")
def a_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def a_run(a_cohort: Path, told: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages, stopped once after the motion prior and once while the corrector trains."""
    out = tmp_path_factory.mktemp("reproduction") / "run"
    for module, name in ((braindiff, "train_ldm"), (run, "export_pair_corrector")):
        original = getattr(module, name)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, name, stop_after(original, group="clean"))
            reproduce(work(a_cohort, out))
    reproduce(work(a_cohort, out), say=told.append)
    return out


def stop_after(original: Callable, group: str) -> Callable:
    """The function, stopped before the control prior, or before any weights of a corrector are written."""

    def stopped(plan: object, *arguments: object, **named: object) -> object:
        if getattr(plan, "group", group) == group:
            raise KeyboardInterrupt
        return original(plan, *arguments, **named)

    return stopped


def work(data: Path, out: Path, settings: BrainDiffSettings | None = None) -> Work:
    return Work(data, out, settings or tiny_settings(), "cpu")


def rows(out: Path) -> Rows:
    content = json.loads((out / "table.json").read_text())
    return {(row["section"], row["method"]): row for row in content["rows"]}


# The whole


def test_a_run_that_was_stopped_twice_goes_on_and_tells_what_it_found(a_run: Path, told: list[str]) -> None:
    assert told[0] == "found 10 scans of 5 subjects: 5 clean, 5 with motion, 5 pairs"
    assert told[1].startswith("prior: 1 subjects, 1 clean, 1 motion scans")
    assert [line for line in told if line.endswith("done before")] == [f"{name}: done before" for name in NAMES[:8]]
    log = json.loads((a_run / "run.json").read_text())["stages"]
    assert {note["stage"] for note in log} == set(NAMES)
    assert all(note["seconds"] >= 0 for note in log)
    assert (a_run / "injected.png").is_file()


def test_a_finished_run_does_nothing_again(a_run: Path, a_cohort: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in a_run.rglob("*") if path.is_file()}
    lines: list[str] = []
    reproduce(work(a_cohort, a_run), say=lines.append)
    assert lines[-len(NAMES) :] == [f"{name}: done before" for name in NAMES]
    assert {path: path.stat().st_mtime_ns for path in a_run.rglob("*") if path.is_file()} == before


def test_a_stage_alone_gives_the_table_of_the_whole_run(a_run: Path, a_cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(a_run, out)
    (out / "corrector.safetensors").unlink()
    (out / "table.md").write_text("old")
    reproduce(work(a_cohort, out), only=["corrector"])
    assert (out / "table.md").read_text() == "old"
    reproduce(work(a_cohort, out), only=["table"])  # older than a stage that it needs
    assert (out / "table.md").read_text() != "old"
    assert rows(out) == rows(a_run)


def test_every_subject_is_used_in_its_split_alone(a_run: Path) -> None:
    splits = json.loads((a_run / "manifest.json").read_text())["splits"]
    notes = {path.stem: json.loads(path.read_text()) for path in (a_run / "log").glob("*.json")}
    assert set(notes["vae"]["subjects"]) == {*splits["prior"], *splits["correction"]}
    assert notes["ldm"]["subjects"] == notes["ldm-clean"]["subjects"] == splits["prior"]
    assert notes["physics"]["subjects"] == splits["correction"]
    assert notes["motion-test"]["subjects"] == splits["test"]
    for name in ("corrector", "corrector-l1", "corrector-physics"):
        held = notes[name]["held_out_subjects"]
        assert len(held) == 1 and set(held) < set(splits["correction"])


def test_both_correctors_see_the_same_slices_in_as_many_versions(a_run: Path) -> None:
    simulated = StackPairs(a_run / "physics")
    injected = json.loads((a_run / "log" / "injected.json").read_text())
    assert len(simulated) == injected["versions"]
    assert (a_run / "corrector" / "best.ckpt").is_file() and steps_done(a_run / "corrector" / "last.ckpt") == 6
    losses = [json.loads((a_run / f"{name}.json").read_text())["training"]["stages"][0]["loss"]
              for name in ("corrector", "corrector-l1", "corrector-physics")]  # fmt: skip
    assert losses == [{"l1": 1.0, "info_nce": 0.1}, {"l1": 1.0, "info_nce": 0.0}, {"l1": 1.0, "info_nce": 0.1}]


# The table


def test_the_table_has_the_rows_that_the_paper_forgot(a_run: Path) -> None:
    methods = ["do nothing", "corrector, L1 + InfoNCE", "corrector, L1 alone", "corrector, simulated pairs",
               "Gaussian", "median", "non-local means"]  # fmt: skip
    expected = [
        ("clean test slices", "VAE reconstruction"),
        ("clean test slices, with the air around the head", "VAE reconstruction"),
        ("injection into clean test slices", "motion prior"),
        ("injection into clean test slices", "clean prior (control)"),
        *[("injected test pairs", method) for method in methods],
        *[("motion test pairs, never seen", method) for method in methods],
    ]  # fmt: skip
    found = rows(a_run)
    assert list(found) == expected
    assert all(row["subjects"] == 2 for row in found.values())
    injected = found["injection into clean test slices", "motion prior"]
    same = found["injected test pairs", "do nothing"]
    assert {**injected, "section": "", "method": ""} == {**same, "section": "", "method": ""}


def test_a_row_is_what_it_says_computed_anew(a_run: Path) -> None:
    """The corrector on motion test pairs: PSNR, SSIM by scikit-image and MRE, slice by slice, subject by subject."""
    network, _ = load_checkpoint(a_run / "corrector.safetensors")
    pairs = StackPairs(a_run / "motion-test")
    values: dict[str, list[tuple[float, ...]]] = {}
    for n, facts in enumerate(pairs.facts):
        moved, clean = (pairs[n][name][0].numpy() for name in ("moved", "clean"))
        with torch.inference_mode():
            image = moved - network(torch.from_numpy(moved)[None, None])[0, 0].numpy()
        inside = head_mask(clean[None])[0]
        _, similarity = structural_similarity(
            image, clean, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, full=True
        )
        error, before = np.abs(image - clean)[inside], np.abs(moved - clean)[inside]
        values.setdefault(facts["subject"], []).append((
            -10 * np.log10((error**2).mean()), similarity[inside].mean(), error.sum() / np.abs(clean[inside]).sum(),
            float(error.sum() > before.sum()),
        ))  # fmt: skip
    means = np.mean([np.mean(slices, axis=0) for slices in values.values()], axis=0)
    row = rows(a_run)["motion test pairs, never seen", "corrector, L1 + InfoNCE"]
    assert [row["psnr"], row["ssim"], row["mre"]] == pytest.approx(means[:3], rel=1e-4)
    worse = [slice_[3] for slices in values.values() for slice_ in slices]
    assert row["worse_slices"] == pytest.approx(np.mean(worse))
    assert (row["slices"], row["subjects"]) == (len(worse), len(values))


def test_the_three_formats_hold_the_same_table_beside_the_papers(a_run: Path) -> None:
    content = json.loads((a_run / "table.json").read_text())
    text = (a_run / "table.md").read_text()
    with open(a_run / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(content["rows"])
    for line, row in zip(lines, content["rows"], strict=True):
        assert (line["method"], float(line["psnr"])) == (row["method"], pytest.approx(row["psnr"]))
        assert f"| {row['method']} | {row['psnr']:.2f} | {row['ssim']:.4f} | {row['mre']:.4f} |" in text
        assert (f"below its input's: {row['section']}, {row['method']}" in text) == row["ssim_fell"]
    assert text.count(content["convention"]) == 1
    assert "| Corrector (Restoration) | 22.12 | 0.5724 | 0.1072 |" in text
    assert any(row["ssim_fell"] for row in content["rows"])


# What is refused


def test_a_subject_in_two_splits_stops_every_stage(a_run: Path, a_cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "leak"
    shutil.copytree(a_run, out)
    manifest = json.loads((out / "manifest.json").read_text())
    leaked = manifest["splits"]["test"][0]
    manifest["splits"]["prior"].append(leaked)
    (out / "manifest.json").write_text(json.dumps(manifest))
    for stage in STAGES[1:]:
        with pytest.raises(AssertionError, match=f"subject {leaked} is both in prior and in test"):
            stage.work(work(a_cohort, out))


def test_slices_or_pairs_of_a_test_subject_stop_the_stage_that_would_train_on_them(
    a_run: Path, a_cohort: Path, tmp_path: Path
) -> None:
    out = tmp_path / "leak"
    shutil.copytree(a_run, out)
    manifest = json.loads((out / "manifest.json").read_text())["splits"]
    leaked = manifest["test"][0]
    store = json.loads((out / "slices" / "slices.json").read_text())
    moved = [{**item, "split": "prior"} if item["subject"] == leaked else item for item in store["items"]]
    (out / "slices" / "slices.json").write_text(json.dumps({**store, "items": moved}))
    for name in ("vae", "ldm", "ldm-clean"):
        stage = next(stage for stage in STAGES if stage.name == name)
        with pytest.raises(AssertionError, match=f"{name}: subject {leaked} is not in"):
            stage.work(work(a_cohort, out))
    shutil.copytree(out / "motion-test", out / "physics", dirs_exist_ok=True)
    with pytest.raises(AssertionError, match="corrector-physics: subject .* is not in correction"):
        braindiff.corrector(work(a_cohort, out), "corrector-physics")
    for file in (out / "physics").iterdir():
        shutil.copy(file, out / "motion-test")
    with pytest.raises(AssertionError, match="table: subject .* is not in test"):
        STAGES[-1].work(work(a_cohort, out))


def test_another_setting_or_other_scans_need_another_folder(a_run: Path, a_cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="begun with another corrector"):
        reproduce(work(a_cohort, a_run, tiny_settings(corrector=tiny_corrector(seed=2))))
    other = tmp_path / "bids"
    shutil.copytree(a_cohort, other)
    scan = next(other.glob("sub-*/**/*.nii*"))
    scan.write_bytes(scan.read_bytes()[:-1] + b"\x99")  # of the same name and size
    with pytest.raises(InputError, match="begun with other scans"):
        reproduce(work(other, a_run))
    shutil.rmtree(next(folder for folder in other.glob("sub-*")))
    with pytest.raises(InputError, match="begun with other scans"):
        reproduce(work(other, a_run))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        reproduce(work(a_cohort, tmp_path / "full"))


def test_a_stage_whose_inputs_are_missing_names_them_and_writes_nothing(a_cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stage ldm needs vae, which is not done"):
        reproduce(work(a_cohort, tmp_path / "run"), only=["ldm"])
    assert not (tmp_path / "run").exists()


def test_a_cohort_too_small_for_its_splits_is_refused_before_training(a_cohort: Path, tmp_path: Path) -> None:
    small = tmp_path / "bids"
    shutil.copytree(a_cohort, small)
    for folder in sorted(small.glob("sub-*"))[:2]:
        shutil.rmtree(folder)
    with pytest.raises(InputError, match="the split correction has 1 subjects with clean scans, 2 needed"):
        reproduce(work(small, tmp_path / "run"))
    assert not (tmp_path / "run" / "slices").exists()


def test_scans_are_left_out_for_a_reason_that_is_told(a_cohort: Path, tmp_path: Path) -> None:
    bids = tmp_path / "bids"
    shutil.copytree(a_cohort, bids)
    scores = bids / "derivatives" / "scores.tsv"
    subject = sorted(folder.name for folder in bids.glob("sub-*"))[0]
    scores.write_text(scores.read_text().replace(f"{subject}_acq-standard_T1w\t1", f"{subject}_acq-standard_T1w\t3"))
    cohort = find_cohort(bids, 1)
    assert cohort.excluded == {
        "still scans with a score worse than 1": [f"{subject}_acq-standard_T1w"],
        "without a partner (no pair, used elsewhere)": [f"{subject}_acq-headmotion1_T1w"],
    }
    assert len(cohort.pairs) == 4 and len(cohort.scans) == 9
    for path in bids.rglob("*headmotion1*"):
        path.unlink() if path.is_file() else None
    with pytest.raises(InputError, match="there is no motion scan; mark them by"):
        find_cohort(bids, 1)


def test_without_motion_in_the_test_split_the_table_says_so(a_run: Path, a_cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(a_run, out)
    shutil.rmtree(out / "motion-test")
    (out / "motion-test").mkdir()
    STAGES[-1].work(work(a_cohort, out))
    assert "No subject of the test split has a pair" in (out / "table.md").read_text()
    assert not any(section.startswith("motion") for section, _ in rows(out))


@pytest.mark.parametrize("reconstruction, warned", [(0.2, True), (0.05, False)])
def test_a_table_says_when_the_autoencoder_loses_more_than_the_motion_costs(
    a_cohort: Path, a_run: Path, reconstruction: float, warned: bool
) -> None:
    found = [
        TableRow(section, method, 20.0, 0.8, mre, 1.0, 3, 9)
        for section, method, mre in (
            (braindiff.CLEAN, braindiff.RECONSTRUCTION, reconstruction), (braindiff.MOTION, Measured.INPUT, 0.1)
        )
    ]  # fmt: skip
    assert any("loses more" in line for line in braindiff.notes(work(a_cohort, a_run), found)) == warned


def test_a_prior_and_its_copy_share_all_that_they_change(a_cohort: Path, a_run: Path, tmp_path: Path) -> None:
    shared = braindiff.shared_change(work(a_cohort, a_run))
    assert f"from the same noise correlate with {shared:.2f}" in (a_run / "table.md").read_text()
    for name in ("injected-test", "injected-test-clean"):
        shutil.copytree(a_run / "injected-test", tmp_path / name)
    assert braindiff.shared_change(work(a_cohort, tmp_path)) == pytest.approx(1.0)
    for path in (tmp_path / "injected-test-clean").glob("*.npy"):
        images = np.load(path).astype(np.float32)
        np.save(path, 2 * images[:, :1] - images)  # each version changes the opposite
    assert braindiff.shared_change(work(a_cohort, tmp_path)) == pytest.approx(-1.0, abs=1e-3)


def test_the_physics_pairs_train_in_the_units_of_the_moved_scan(a_run: Path) -> None:
    start = stack_run(a_run / "physics", 6.0, "simulated")
    assert start.canvas == (32, 32)
    plan = replace(tiny_corrector(), patience=0, validation_share=0.0)
    assert plan.contrastive
    tops = [float(start.pairs[n]["moved"].max()) for n in range(len(start.pairs))]
    assert 0.5 < float(np.median(tops)) < 2
