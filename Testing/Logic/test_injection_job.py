"""The job over a slice store: whole, killed and gone on with, refused; and the pairs it leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from BrainDiffLogic.errors import Cancelled, InputError
from BrainDiffLogic.training import injected_pairs as job
from BrainDiffLogic.training.injected_pairs import InjectedPairs, anatomy_drift, item_name, summary, synthesize
from BrainDiffLogic.training.injection import InjectionSettings, inject
from BrainDiffLogic.training.slice_store import SliceStore
from Harness.tiny_prior import CANVAS, tiny_cards, tiny_prior, write_store

PRIOR, CARDS = tiny_prior(), tiny_cards()
QUICK = InjectionSettings(variants=2, steps=2, signal=(0.99, 0.5))
CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from Harness.tiny_prior import tiny_cards, tiny_prior
from BrainDiffLogic.training.injection import InjectionSettings
from BrainDiffLogic.training.injected_pairs import synthesize
from BrainDiffLogic.training.slice_store import SliceStore
plan = InjectionSettings(variants=2, steps=2, signal=(0.99, 0.5))
synthesize(SliceStore(sys.argv[2]), tiny_prior(), tiny_cards(), sys.argv[3], plan, group=1)
"""


@pytest.fixture
def a_store(tmp_path: Path) -> SliceStore:
    """Six clean slices to inject motion into, of two subjects, and others."""
    return write_store(tmp_path / "store")


def made(store: SliceStore, folder: Path, plan: InjectionSettings = QUICK, **options: Any) -> job.InjectionSummary:
    return synthesize(store, PRIOR, CARDS, folder, plan, **{"group": 4, **options})


def groups(folder: Path) -> list[Path]:
    return sorted(folder.glob("group-*"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# A whole job


def test_every_clean_slice_of_the_correction_split_is_injected_into_and_no_other(
    a_store: SliceStore, tmp_path: Path
) -> None:
    counted = made(a_store, tmp_path / "out")
    assert (counted.slices, counted.versions) == (6, 12)
    assert [path.name for path in groups(tmp_path / "out")] == [
        "group-000000.json", "group-000000.npy", "group-000001.json", "group-000001.npy",
    ]  # fmt: skip
    facts = [json.loads(path.read_text()) for path in groups(tmp_path / "out")[::2]]
    items = [item for group in facts for item in group["items"]]
    assert [item["index"] for item in items] == a_store.select("correction", "clean").tolist()
    assert {(item["split"], item["group"]) for item in items} == {("correction", "clean")}
    assert {item["subject"] for item in items} == {"sub-0", "sub-1"}


def test_a_group_holds_the_images_and_what_is_known_of_them(a_store: SliceStore, tmp_path: Path) -> None:
    made(a_store, tmp_path / "out")
    images = np.load(tmp_path / "out" / "group-000000.npy")
    group = json.loads((tmp_path / "out" / "group-000000.json").read_text())
    assert (images.dtype, images.shape) == (np.float16, (4, 3, *CANVAS))
    assert group["prior"] == {"ldm": "ldm", "sha256": "b" * 64, "group": "motion"}
    item = group["items"][1]
    clean = a_store.array[item["index"]].astype(np.float32)
    assert np.array_equal(images[1, 0], clean)
    expected = inject(PRIOR, clean[None], [item_name(item)], QUICK)
    np.testing.assert_allclose(images[1, 1:], expected.images[0], atol=2e-3)
    for variant, version in enumerate(item["versions"]):
        drift = anatomy_drift(expected.images[0, variant], clean, a_store.spacing_mm)
        assert version == {
            "variant": variant, "t": expected.t[0, variant], "seed": expected.seeds[0][variant],
            "signal": pytest.approx(expected.signal[0, variant]), "accepted": drift.accepted,
            "similarity": pytest.approx(drift.similarity, abs=1e-4), "overlap": pytest.approx(drift.overlap, abs=1e-3),
        }  # fmt: skip


def test_the_job_says_what_was_asked_for_and_keeps_the_cards(a_store: SliceStore, tmp_path: Path) -> None:
    made(a_store, tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "job.json").read_text())
    assert facts["plan"] == {"mode": "transplant", "signal": [0.99, 0.5], "steps": 2, "variants": 2, "seed": 0}
    assert (facts["store"], facts["cards"]) == ("feed", CARDS)


def test_progress_ends_at_one_and_a_cancelled_job_goes_on_later(a_store: SliceStore, tmp_path: Path) -> None:
    shares: list[float] = []

    def watch(share: float, _: str) -> None:
        shares.append(share)
        if len(shares) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        made(a_store, tmp_path / "out", group=2, progress=watch)
    assert shares == [pytest.approx(1 / 3), pytest.approx(2 / 3)]
    made(a_store, tmp_path / "out", group=2, progress=lambda share, _: shares.append(share))
    assert shares[-1] == 1


# Killed, and run again


def test_a_job_killed_at_any_moment_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    store, folder = write_store(tmp_path / "store", subjects=4, each=6), tmp_path / "killed"
    testing = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(testing.parent), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(testing), str(store.folder), str(folder)],
        env=environment, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while len(list(folder.glob("group-*.json"))) < 3 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    _, errors = child.communicate()
    done = {path.name: path.stat().st_mtime_ns for path in folder.glob("group-*.json")}
    assert 3 <= len(done) < 24, errors.decode()
    (folder / ".braindiff-killed").mkdir()  # as a kill in the middle of writing leaves it
    made(store, folder, group=1)
    assert {name: (folder / name).stat().st_mtime_ns for name in done} == done
    made(store, tmp_path / "whole", group=1)
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_group_without_its_facts_is_made_again(a_store: SliceStore, tmp_path: Path) -> None:
    made(a_store, tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "group-000001.json").unlink()
    (tmp_path / "out" / "group-000001.npy").write_bytes(b"half")
    with pytest.raises(InputError, match=r"group-000001\.json: .*run braindiff synthesize to its end"):
        InjectedPairs(tmp_path / "out")
    made(a_store, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_a_finished_job_is_not_done_again(a_store: SliceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made(a_store, tmp_path / "out")
    monkeypatch.setattr(job, "inject", None)
    assert made(a_store, tmp_path / "out") == first == summary(tmp_path / "out")


# Refused


@pytest.mark.parametrize(("change", "word"), [({"seed": 1}, "plan"), ({"steps": 3}, "plan"), ({}, "group")])
def test_a_folder_of_another_job_is_refused_and_left_alone(
    a_store: SliceStore, tmp_path: Path, change: dict[str, Any], word: str
) -> None:
    made(a_store, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match=f"out: holds a job with another {word}; name another folder"):
        made(a_store, tmp_path / "out", replace(QUICK, **change), group=4 if change else 3)
    assert contents(tmp_path / "out") == before


def test_another_prior_does_not_go_on_with_the_job(a_store: SliceStore, tmp_path: Path) -> None:
    made(a_store, tmp_path / "out")
    cards = {**CARDS, "ldm": {**CARDS["ldm"], "sha256": "c" * 64}}
    with pytest.raises(InputError, match="another cards"):
        synthesize(a_store, PRIOR, cards, tmp_path / "out", QUICK, group=4)


def test_a_split_without_clean_slices_is_refused(a_store: SliceStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no clean slice in the split nowhere"):
        made(a_store, tmp_path / "out", split="nowhere")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["training_subjects", "held_out_subjects"])
def test_a_prior_of_a_store_that_is_split_otherwise_is_refused(a_store: SliceStore, tmp_path: Path, part: str) -> None:
    training = {"group": "motion", part: ["sub-1", "sub-p"]}
    cards = {**CARDS, "ldm": {**CARDS["ldm"], "training": training}}
    with pytest.raises(InputError, match="the LDM was trained where sub-1, now in correction, was in prior"):
        synthesize(a_store, PRIOR, cards, tmp_path / "out", QUICK)
    assert not (tmp_path / "out").exists()


def test_images_that_are_not_finite_are_refused(a_store: SliceStore, tmp_path: Path) -> None:
    prior = replace(tiny_prior(), scale=float("nan"))
    with pytest.raises(InputError, match="not finite; train it longer"):
        synthesize(a_store, prior, CARDS, tmp_path / "out", QUICK)
    assert not groups(tmp_path / "out")


# Pairs


def test_pairs_are_the_accepted_versions_and_their_clean_slices(a_store: SliceStore, tmp_path: Path) -> None:
    made(a_store, tmp_path / "out")
    for group in groups(tmp_path / "out")[::2]:
        content = json.loads(group.read_text())
        for item in content["items"]:
            for version in item["versions"]:
                version["accepted"] = not (item["slice"] == 1 and version["variant"] == 0)
        group.write_text(json.dumps(content))
    pairs = InjectedPairs(tmp_path / "out")
    assert len(pairs) == len(pairs.facts) == 12 - 2
    assert pairs.subjects == ["sub-0", "sub-1"]
    assert not [fact for fact in pairs.facts if fact["slice"] == 1 and fact["variant"] == 0]
    for pair, fact in zip((pairs[n] for n in range(len(pairs))), pairs.facts, strict=True):
        assert np.array_equal(pair["clean"][0], a_store.array[fact["index"]].astype(np.float32))
        expected = inject(PRIOR, pair["clean"].numpy(), [item_name(fact)], QUICK).images[0, fact["variant"]]
        np.testing.assert_allclose(pair["moved"][0], expected, atol=2e-3)
    batch = next(iter(DataLoader(pairs, batch_size=3)))
    assert batch["moved"].shape == batch["clean"].shape == (3, 1, *CANVAS)


def test_a_drifted_version_is_rejected_counted_and_not_trained_on(a_store: SliceStore, tmp_path: Path) -> None:
    plan = InjectionSettings("decode", None, steps=2, variants=1)  # an untrained autoencoder decodes no head
    counted = made(a_store, tmp_path / "out", plan)
    assert (counted.accepted, counted.rejected_share) == (0, 1)
    with pytest.raises(InputError, match="no pair was accepted; inject at a higher --signal"):
        InjectedPairs(tmp_path / "out")


def test_a_folder_without_a_job_has_no_pairs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"job\.json: there is no such file"):
        InjectedPairs(tmp_path)


def test_damaged_facts_are_named(a_store: SliceStore, tmp_path: Path) -> None:
    made(a_store, tmp_path / "out")
    (tmp_path / "out" / "group-000000.json").write_text("{")
    with pytest.raises(InputError, match=r"group-000000\.json: damaged; delete it and run braindiff synthesize again"):
        InjectedPairs(tmp_path / "out")
