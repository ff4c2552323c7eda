"""The slice store: what it holds, that it is whole, and that no subject is in two splits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from BrainDiffLogic.data.bids import BidsScan
from BrainDiffLogic.data.split import Manifest, split_subjects
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import write_volume
from BrainDiffLogic.scan import head_mask, robust_scale
from BrainDiffLogic.training import slice_store
from BrainDiffLogic.training.slice_store import SliceStore, build_store, sagittal_slices
from BrainDiffLogic.volume import Volume
from Harness.changed_files import change_a_byte

SUBJECTS = ("a", "b", "c")
CANVAS = (64, 48)


@pytest.fixture
def some_scans(tmp_path: Path, a_head: Volume) -> list[BidsScan]:
    """Three subjects, each lying still and with headmotion1; the head of 48 x 56 x 52 voxels of 2 mm."""
    scans = []
    for number, subject in enumerate(SUBJECTS):
        for level, score in (("standard", 1), ("headmotion1", 3)):
            path = tmp_path / f"sub-{subject}_acq-{level}_T1w.nii"
            write_volume(a_head.with_array(a_head.array * np.float32(1 + number) + np.float32(score)), path)
            scans.append(BidsScan(path, subject, "", {"sub": subject, "acq": level}, level, score))
    return scans


@pytest.fixture
def a_manifest() -> Manifest:
    return split_subjects(SUBJECTS)


def test_a_store_holds_the_occupied_slices_of_every_scan_in_network_units(
    some_scans: list[BidsScan], a_manifest: Manifest, tmp_path: Path, a_head: Volume
) -> None:
    store = build_store(reversed(some_scans), a_manifest, tmp_path / "store", CANVAS, None)
    assert store.array.dtype == np.float16 and store.array.shape == (len(store), *CANVAS)
    assert not store.array.flags.writeable
    mask = head_mask(a_head.array)
    area = mask.sum(axis=(1, 2))
    occupied = np.flatnonzero(area > 0.05 * area.max())
    chosen = [item for item in store.items if item["scan"] == "sub-b_acq-headmotion1_T1w.nii"]
    assert [item["slice"] for item in chosen] == occupied.tolist()
    described = {"subject": "b", "session": "", "group": "motion", "level": "headmotion1", "score": 3}
    assert chosen[0] == described | {
        "scan": "sub-b_acq-headmotion1_T1w.nii", "slice": occupied[0], "split": a_manifest.split_of("b")
    }  # fmt: skip
    index = next(n for n, item in enumerate(store.items) if item["scan"] == chosen[0]["scan"] and item["slice"] == 20)
    expected = robust_scale(a_head.array).forward(a_head.array)[20]
    np.testing.assert_allclose(store.array[index, 4:60], expected[:, 2:50], atol=2e-3)
    assert (store.array[index, :4] == 0).all() and (store.array[index, 60:] == 0).all()


def test_slices_are_selected_by_split_and_group(
    some_scans: list[BidsScan], a_manifest: Manifest, tmp_path: Path
) -> None:
    store = build_store(some_scans, a_manifest, tmp_path / "store", CANVAS, None, step=8)
    for split in ("prior", "correction", "test"):
        assert store.subjects(split) == list(a_manifest.splits[split])
        both = [store.select(split=split, group=group) for group in ("clean", "motion")]
        assert len(both[0]) and sorted(np.concatenate(both)) == store.select(split=split).tolist()
    assert {store.items[n]["group"] for n in store.select(split="prior", group="motion")} == {"motion"}
    assert len(store.select()) == len(store) and len(store.select(split="other")) == 0
    assert {item["slice"] % 8 for item in store.items} == {0}


def test_a_changed_scan_of_the_same_name_size_and_time_needs_another_store(
    some_scans: list[BidsScan], a_manifest: Manifest, tmp_path: Path
) -> None:
    build_store(some_scans, a_manifest, tmp_path / "store", CANVAS, None)
    change_a_byte(some_scans[0].path)
    with pytest.raises(InputError, match="holds slices of other scans"):
        build_store(some_scans, a_manifest, tmp_path / "store", CANVAS, None)


def test_a_subject_in_two_splits_is_a_leak(some_scans: list[BidsScan], a_manifest: Manifest, tmp_path: Path) -> None:
    build_store(some_scans, a_manifest, tmp_path / "store", CANVAS, None, step=8)
    facts = json.loads((tmp_path / "store" / "slices.json").read_text())
    leak = facts["items"][0]
    leak["split"] = next(split for split in ("prior", "test") if split != leak["split"])
    (tmp_path / "store" / "slices.json").write_text(json.dumps(facts))
    with pytest.raises(AssertionError, match=f"subject {leak['subject']} is both in"):
        SliceStore(tmp_path / "store")


def test_the_same_scans_give_the_same_bytes(some_scans: list[BidsScan], a_manifest: Manifest, tmp_path: Path) -> None:
    for name in ("one", "two"):
        build_store(some_scans, a_manifest, tmp_path / name, CANVAS, 2.5, step=4)
    for name in ("slices.npy", "slices.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_store_that_is_there_is_opened_and_another_one_is_not_overwritten(
    some_scans: list[BidsScan], a_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = build_store(some_scans, a_manifest, tmp_path / "store", CANVAS, None, step=8)
    monkeypatch.setattr(slice_store, "read_volume", lambda path: pytest.fail("read again"))
    assert build_store(some_scans, a_manifest, store.folder, CANVAS, None, step=8).items == store.items
    other = split_subjects(SUBJECTS, salt="other")
    for arguments in ((some_scans[:2], a_manifest, 8), (some_scans, a_manifest, 4), (some_scans, other, 8)):
        with pytest.raises(InputError, match="other scans, splits or sizes"):
            build_store(*arguments[:2], store.folder, CANVAS, None, step=arguments[2])


@pytest.mark.parametrize("killed_at", [0.5, "facts"])
def test_a_build_that_is_killed_leaves_no_store_and_can_be_done_again(
    some_scans: list[BidsScan],
    a_manifest: Manifest,
    tmp_path: Path,
    killed_at: float | str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def killed(share: float | str, stage: str) -> None:
        if share == killed_at:
            raise KeyboardInterrupt

    if killed_at == "facts":
        monkeypatch.setattr(slice_store, "write_texts", lambda texts: killed("facts", ""))
    with pytest.raises(KeyboardInterrupt):
        build_store(some_scans, a_manifest, tmp_path / "store", CANVAS, None, step=8, progress=killed)
    monkeypatch.undo()
    (tmp_path / "store" / ".braindiff-killed").mkdir(parents=True, exist_ok=True)
    with pytest.raises(InputError, match="no whole slice store"):
        SliceStore(tmp_path / "store")
    again = build_store(some_scans, a_manifest, tmp_path / "store", CANVAS, None, step=8)
    assert len(again.subjects("prior") + again.subjects("correction") + again.subjects("test")) == 3
    assert sorted(file.name for file in again.folder.iterdir()) == ["slices.json", "slices.npy"]


def test_a_damaged_store_is_refused(some_scans: list[BidsScan], a_manifest: Manifest, tmp_path: Path) -> None:
    store = build_store(some_scans, a_manifest, tmp_path / "store", CANVAS, None, step=8)
    text = (store.folder / "slices.json").read_text()
    fewer = json.loads(text)
    fewer["items"].pop()
    for content, words in ((json.dumps(fewer), "do not belong together"), (text[:100], "damaged"), ("[]", "damaged")):
        (store.folder / "slices.json").write_text(content)
        with pytest.raises(InputError, match=words):
            SliceStore(store.folder)


# geometry


def test_any_orientation_gives_the_same_slices(a_head: Volume) -> None:
    kept, slices, _ = sagittal_slices(a_head, CANVAS, 2.5, step=4)
    affine = a_head.affine.copy()
    affine[:3, 0] *= -1
    affine[:3, 3] = [-a_head.affine[0, 3], *a_head.affine[1:3, 3]]
    turned = Volume(a_head.array[::-1].transpose(2, 0, 1), affine[:, [2, 0, 1, 3]])
    other_kept, other, _ = sagittal_slices(turned, CANVAS, 2.5, step=4)
    np.testing.assert_array_equal(kept, other_kept)
    np.testing.assert_allclose(slices.astype(float), other.astype(float), atol=2e-3)


@pytest.mark.parametrize("spacing", [1.3, 2.0, 2.7])
def test_resampling_keeps_size_place_and_aspect_of_the_head(spacing: float) -> None:
    """An ellipse in pixels of 1.5 x 2.5 mm keeps its semi-axes of 30 and 20 mm, and its middle."""
    grid = np.moveaxis(np.indices((16, 64, 32)), 0, -1) * [3.0, 1.5, 2.5] - [22.5, 47.25, 38.75]
    radius = np.linalg.norm((grid - [0, 6, -5]) / [20, 30, 20], axis=-1)
    ball = Volume(np.clip((1 - radius) * 10 + 0.5, 0, 1), np.diag([3.0, 1.5, 2.5, 1.0]))
    kept, slices, cut_off = sagittal_slices(ball, (96, 96), spacing)
    assert cut_off == 0
    image = slices[kept.tolist().index(8)].astype(float)
    axes = [(np.arange(96) - 47.5) * spacing for _ in range(2)]
    total = image.sum()
    centre = [(image.sum(axis=1 - n) @ axes[n]) / total for n in range(2)]
    np.testing.assert_allclose(centre, [6, -5], atol=0.15)
    spread = [np.sqrt((image.sum(axis=1 - n) @ (axes[n] - centre[n]) ** 2) / total) for n in range(2)]
    assert spread[0] / spread[1] == pytest.approx(1.5, rel=0.02)
    assert total * spacing**2 == pytest.approx(np.pi * 30 * 20, rel=0.04)


def test_larger_pixels_do_not_alias() -> None:
    stripes = np.zeros((16, 96, 96), dtype=np.float32)
    stripes[:, 8:88, 8:88] = 1 + 0.5 * (-1.0) ** np.arange(80)
    _, slices, _ = sagittal_slices(Volume(stripes, np.eye(4)), (48, 48), 2.1)
    inner = slices[8].astype(float)[12:36, 12:36]
    assert inner.std() < 0.06 * inner.mean()


def test_the_share_of_the_head_that_the_canvas_cuts_off_is_told(
    some_scans: list[BidsScan], a_manifest: Manifest, tmp_path: Path
) -> None:
    build_store(some_scans[:1], a_manifest, tmp_path / "small", (32, 32), None, step=8)
    build_store(some_scans[:1], a_manifest, tmp_path / "large", (64, 64), None, step=8)
    shares = [
        json.loads((tmp_path / name / "slices.json").read_text())["scans"][0]["head_outside_canvas"]
        for name in ("small", "large")
    ]
    assert 0.1 < shares[0] < 0.6 and shares[1] == 0


@pytest.mark.parametrize(
    ("canvas", "spacing", "step", "words"),
    [((60, 48), 1.0, 1, "multiples of 16"), ((64, 48), 0.0, 1, "spacing_mm"), ((64, 48), None, 0, "step")],
)
def test_arguments_that_make_no_store_are_refused(
    some_scans: list[BidsScan], a_manifest: Manifest, tmp_path: Path, canvas: tuple[int, int], spacing: float | None,
    step: int, words: str,
) -> None:  # fmt: skip
    with pytest.raises(InputError, match=words):
        build_store(some_scans, a_manifest, tmp_path / "store", canvas, spacing, step)
    assert not (tmp_path / "store").exists()


def test_scans_of_unknown_group_or_subject_make_no_store(
    some_scans: list[BidsScan], a_manifest: Manifest, tmp_path: Path
) -> None:
    unknown = [replace(scan, level="", score=None) for scan in some_scans]
    with pytest.raises(InputError, match="clean or motion"):
        build_store(unknown, a_manifest, tmp_path / "store", CANVAS, None)
    with pytest.raises(InputError, match="subject z is in no split"):
        build_store([replace(some_scans[0], subject="z")], a_manifest, tmp_path / "store", CANVAS, None)
