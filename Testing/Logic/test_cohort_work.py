"""One scan of a batch: finished by content, done again where anything differs, and nothing half done."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from filelock import FileLock
from image_files import save_series, voxels

from BrainDiffLogic.cohort import work
from BrainDiffLogic.cohort.items import CORRECTED, DIFFERENCE, Item, Places, find_items, motion_texts, prepare
from BrainDiffLogic.cohort.run import memory_mib
from BrainDiffLogic.cohort.table import read_rows, write_table
from BrainDiffLogic.cohort.work import BUSY, DONE, FAILED, FOUND, REFUSED, BatchSettings, sweep, work_on
from BrainDiffLogic.files import file_digest, resources
from BrainDiffLogic.images import read_volume, write_volume
from BrainDiffLogic.models.checkpoints import available, imported_folder
from BrainDiffLogic.volume import Volume
from Harness.batches import outputs, save_scans
from Harness.changed_files import change_a_byte

SETTINGS = BatchSettings()
pytestmark = pytest.mark.usefixtures("own_models")


@pytest.fixture
def an_item(tmp_path: Path, a_head: Volume) -> Item:
    return find_items(save_scans(tmp_path / "bids", a_head, 1))[0]


@pytest.fixture
def out(tmp_path: Path, an_item: Item) -> Path:
    prepare(tmp_path / "out", tmp_path / "bids")
    return tmp_path / "out"


def sidecar_of(out: Path, item: Item) -> dict[str, object]:
    return dict(json.loads(Places(out, item).sidecar(CORRECTED).read_text()))


def test_outputs_and_provenance_of_a_scan(out: Path, an_item: Item) -> None:
    outcome = work_on(an_item, out, SETTINGS)
    places, said = Places(out, an_item), sidecar_of(out, an_item)
    assert (outcome.status, outcome.reason) == (DONE, "") and outcome.peak_mib > 50
    difference = read_volume(places.image(CORRECTED)).array.astype(float) - read_volume(an_item.source).array
    assert np.array_equal(read_volume(places.image(DIFFERENCE)).array, difference) and difference.any()
    assert said["InputSHA256"] == file_digest(an_item.source)
    assert said["ModelSHA256"] == file_digest(available()[SETTINGS.model])
    assert said["Parameters"] == SETTINGS.parameters and said["Sources"] == [f"bids:raw:{an_item.shown}"]
    assert said["Quality"]["Before"]["cjv"] != said["Quality"]["After"]["cjv"]
    assert said["OutputSHA256"][f"{an_item.folder}/{an_item.stem}_desc-moco_T1w.nii.gz"] == file_digest(
        places.image(CORRECTED)
    )
    assert not list((out / ".braindiff" / "work").iterdir())
    assert str(out.parent) not in places.sidecar(CORRECTED).read_text()


def test_a_finished_scan_is_skipped_in_milliseconds(out: Path, an_item: Item) -> None:
    work_on(an_item, out, SETTINGS)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = work_on(an_item, out, SETTINGS)
    assert again.status == FOUND and again.seconds < 0.1
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_skipping_a_finished_scan_loads_no_torch(out: Path, an_item: Item) -> None:
    work_on(an_item, out, SETTINGS)
    code = (
        "import sys; from pathlib import Path; from BrainDiffLogic.cohort import work, items;"
        "from BrainDiffLogic.cohort.work import BatchSettings; from BrainDiffLogic.models import checkpoints;"
        f"checkpoints.shipped_folder = lambda: Path({str(out / 'none')!r});"
        f"item = items.find_items(Path({str(out.parent / 'bids')!r}))[0];"
        f"print(work.work_on(item, Path({str(out)!r}), BatchSettings()).status, 'torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert child.stdout.split() == [FOUND, "False"], child.stderr


def test_another_slice_of_a_series_among_others_is_another_scan(tmp_path: Path) -> None:
    for number in (1, 2):
        files = save_series(tmp_path / str(number), voxels("int16"), uid=f"1.2.3.{number}")
        for file in files:
            file.rename(tmp_path / f"{number}{file.name}")
        (tmp_path / str(number)).rmdir()
    first, second = find_items(tmp_path)
    before = [work.fingerprint(item, SETTINGS) for item in (first, second)]
    assert work.fingerprint(first, SETTINGS) == before[0] != before[1]
    change_a_byte(sorted(tmp_path.glob("1IM*"))[-1])
    assert work.fingerprint(first, SETTINGS) != before[0], "also where it is not the file that names the series"
    assert work.fingerprint(second, SETTINGS) == before[1]


def save_headed(folder: Path, kind: str) -> tuple[Path, Path]:
    """A scan of several files of one kind: the file that a list names, and one with voxels or the affine."""
    folder.mkdir()
    image, array = folder / f"a.{kind.split()[0]}", voxels("int16")
    if kind.startswith(("hdr", "img")):
        save = nib.Spm2AnalyzeImage if "Analyze" in kind else nib.Nifti1Pair
        nib.save(save(array, np.eye(4)), folder / "a.img")
        if ".gz" in kind:
            for part in ("a.hdr", "a.img"):
                (folder / f"{part}.gz").write_bytes(gzip.compress((folder / part).read_bytes()))
                (folder / part).unlink()
        voxel_file = next(folder.glob("a.mat" if "Analyze" in kind else "a.img*"))
        return image, next(folder.glob("a.hdr*")) if kind.startswith("img") else voxel_file
    write_volume(Volume(array, np.eye(4)), image)
    data = next(file for file in folder.iterdir() if file != image)
    if kind.endswith(("LIST", "pattern")):
        planes = [folder / f"p {number}.raw" for number in range(2)]
        if kind.endswith("pattern"):
            planes = [folder / f"p{number:03d}.raw" for number in range(2)]
        for plane in planes:
            plane.write_bytes(b"voxels")
        named = "LIST\n" + "\n".join(plane.name for plane in planes) if kind.endswith("LIST") else "p%03d.raw 0 1 1"
        image.write_text(image.read_text().replace(data.name, named))
        data = planes[1]
    return image, data


@pytest.mark.parametrize(
    "kind",
    ["nhdr", "mhd", "hdr", "img", "hdr.gz", "hdr Analyze", "nhdr LIST", "mhd LIST", "nhdr pattern", "mhd pattern"],
)
def test_a_scan_of_several_files_is_another_where_one_of_them_is(tmp_path: Path, kind: str) -> None:
    image, other = save_headed(tmp_path / "scans", kind)
    table = tmp_path / "list.csv"
    table.write_text(f"path\nscans/{image.name}\n")
    (item,) = find_items(table)
    before = work.fingerprint(item, SETTINGS)
    assert work.fingerprint(item, SETTINGS) == before
    change_a_byte(other)
    assert work.fingerprint(item, SETTINGS) != before


def test_all_that_is_made_of_a_stripped_brain_is_called_one(out: Path, an_item: Item) -> None:
    an_item.source.with_name(an_item.source.name.replace(".nii.gz", ".json")).write_text('{"SkullStripped": true}')
    assert work_on(an_item, out, SETTINGS).status == DONE
    places = Places(out, an_item)
    made = [places.sidecar(one) for one in (CORRECTED, DIFFERENCE)]
    assert [json.loads(path.read_text())["SkullStripped"] for path in made] == [True, True]


def test_what_physics_makes_depends_on_the_network_that_it_asks(an_item: Item) -> None:
    for suffix in (".safetensors", ".json"):
        shutil.copy(resources() / "Checkpoints" / f"motion{suffix}", imported_folder())
    before = work.fingerprint(an_item, BatchSettings("motion"))
    card = available()["mc-net"].with_suffix(".json")
    card.write_text(card.read_text() + "\n")
    after = work.fingerprint(an_item, BatchSettings("motion"))
    assert {name for name in before if before[name] != after[name]} == {"NetworkSHA256"}
    assert "NetworkSHA256" not in work.fingerprint(an_item, BatchSettings("mc-net"))


def test_a_worker_has_room_for_a_scan_whose_voxels_lie_apart(tmp_path: Path) -> None:
    write_volume(Volume(voxels("int16", (64, 64, 64)), np.eye(4)), tmp_path / "a.nhdr")
    assert memory_mib([tmp_path / "a.nhdr"], "mc-net") > memory_mib([], "mc-net") + 64**3 * 2 * 80 / (1 << 20)


@pytest.mark.parametrize(
    "what", ["truncated", "changed", "missing", "sidecar", "input", "axis", "strength", "model", "version"]
)
def test_what_is_stale_or_damaged_is_done_again(
    out: Path, an_item: Item, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work_on(an_item, out, SETTINGS)
    places, settings, good = Places(out, an_item), SETTINGS, outputs(out)
    image = places.image(CORRECTED)
    if what == "truncated":
        os.truncate(image, image.stat().st_size // 2)
    elif what == "changed":
        change_a_byte(image)
    elif what == "missing":
        places.image(DIFFERENCE).unlink()
    elif what == "sidecar":
        os.truncate(places.sidecar(CORRECTED), 50)
    elif what == "input":
        scan = read_volume(an_item.source)
        write_volume(scan.with_array(scan.array + np.int16(1)), an_item.source)
    elif what == "axis":
        sidecar = an_item.source.with_name(an_item.source.name.replace(".nii.gz", ".json"))
        sidecar.write_text('{"PhaseEncodingDirection": "k-"}')
    elif what == "strength":
        settings = replace(SETTINGS, strength=0.5)
    elif what == "model":
        card = available()[SETTINGS.model].with_suffix(".json")
        card.write_text(card.read_text() + "\n")
    else:
        monkeypatch.setattr(work, "__version__", "0.0.0")
    assert work_on(an_item, out, settings).status == DONE
    assert (outputs(out) == good) is (what not in ("input", "strength"))
    assert work_on(an_item, out, settings).status == FOUND


def test_a_scan_that_cannot_be_read_leaves_its_reason_alone(out: Path, an_item: Item) -> None:
    work_on(an_item, out, SETTINGS)
    os.truncate(an_item.source, 2000)
    outcome = work_on(an_item, out, SETTINGS)
    assert outcome.status == FAILED and outcome.reason.startswith(f"{an_item.shown}: ")
    assert not (out / an_item.folder).exists()
    told = json.loads(Places(out, an_item).log.read_text())
    assert (told["Status"], told["Reason"]) == (FAILED, outcome.reason)


@pytest.mark.parametrize("kind", ["empty", "broken link"])
def test_a_scan_without_content_is_named_with_its_remedy(out: Path, an_item: Item, kind: str) -> None:
    an_item.source.unlink()
    an_item.source.write_bytes(b"") if kind == "empty" else an_item.source.symlink_to("nowhere")
    assert "datalad get" in work_on(an_item, out, SETTINGS).reason


def test_what_is_not_there_and_a_pipe_are_called_so(out: Path, an_item: Item) -> None:
    an_item.source.unlink()
    assert "no such file" in work_on(an_item, out, SETTINGS).reason
    os.mkfifo(an_item.source)
    assert "a pipe?" in work_on(an_item, out, SETTINGS).reason


def test_a_reason_goes_when_the_scan_is_good_again(out: Path, an_item: Item) -> None:
    content = an_item.source.read_bytes()
    an_item.source.write_bytes(content[:2000])
    work_on(an_item, out, SETTINGS)
    an_item.source.write_bytes(content)
    assert work_on(an_item, out, SETTINGS).status == DONE
    assert not list((out / "logs").iterdir())


def test_no_head_is_refused_and_forced(out: Path, an_item: Item) -> None:
    affine = np.diag([9.0, 9.0, 9.0, 1.0])
    write_volume(Volume(read_volume(an_item.source).array, affine), an_item.source)
    assert work_on(an_item, out, SETTINGS).status == REFUSED
    assert work_on(an_item, out, replace(SETTINGS, force=True)).status == DONE


def test_a_wrong_name_touches_no_output_of_who_has_it(out: Path, an_item: Item) -> None:
    work_on(an_item, out, SETTINGS)
    good = outputs(out)
    false = replace(an_item, shown="sub-009/anat/x_T1w.nii", fault="lies in sub-009")
    assert work_on(false, out, SETTINGS).status == FAILED
    assert outputs(out) == good and work_on(an_item, out, SETTINGS).status == FOUND
    assert {row["status"] for row in read_rows(out)} == {DONE, FAILED}


def test_a_scan_that_another_batch_works_on_is_left_to_it(out: Path, an_item: Item) -> None:
    with FileLock(Places(out, an_item).lock):
        assert work_on(an_item, out, SETTINGS).status == BUSY
    assert work_on(an_item, out, SETTINGS).status == DONE


def test_what_a_killed_worker_left_is_swept(out: Path, an_item: Item) -> None:
    places = Places(out, an_item)
    places.scratch.mkdir()
    (places.scratch / "half.nii.gz").write_bytes(b"half")
    places.image(CORRECTED).parent.mkdir(parents=True)
    places.image(CORRECTED).write_bytes(b"moved, but its sidecar never came")
    with FileLock(places.lock):
        sweep([an_item], out)
        assert places.scratch.exists(), "who holds the lock is still at work"
    sweep([an_item], out)
    assert not places.scratch.exists() and not (out / "sub-001").exists()


@pytest.mark.parametrize("place", ["sub-001", "reports", "logs", ".braindiff/work"])
def test_a_link_in_the_derivatives_leads_nowhere_else(out: Path, an_item: Item, tmp_path: Path, place: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = out / place
    if link.is_dir():
        link.rmdir()
    link.symlink_to(elsewhere)
    outcome = work_on(an_item, out, SETTINGS)
    assert outcome.status == (DONE if place == "logs" else FAILED)
    assert not list(elsewhere.iterdir())


def test_the_table_has_a_row_a_scan_and_explains_its_columns(out: Path, an_item: Item) -> None:
    work_on(an_item, out, SETTINGS)
    table = write_table(out, read_rows(out))
    header, line = table.read_text().splitlines()
    row = dict(zip(header.split("\t"), line.split("\t"), strict=True))
    assert (row["participant_id"], row["scan"], row["status"], row["session_id"]) == (
        "sub-001",
        "sub-001_T1w",
        DONE,
        "n/a",
    )
    assert float(row["cjv_before"]) > 0 and len(row["input_sha256"]) == 64 and row["strength"] == "1.0"
    meaning = json.loads(table.with_suffix(".json").read_text())
    assert set(meaning) == set(row)
    units = {name: one["Units"] for name, one in meaning.items() if "Units" in one}
    assert units == {"severity_mm": "mm", "seconds": "s"}
    assert set(meaning["status"]["Levels"]) == {DONE, REFUSED, FAILED}


def test_the_table_says_what_lies_outside_of_the_domain(out: Path, an_item: Item) -> None:
    write_volume(Volume(read_volume(an_item.source).array, np.diag([3.0, 3.0, 3.0, 1.0])), an_item.source)
    assert work_on(an_item, out, SETTINGS).status == DONE
    (row,) = read_rows(out)
    assert row["outside_domain"].startswith("voxels of 3.00 mm along left-right, 3.00 mm along anterior-posterior,")
    assert row["outside_domain"].count("the model was trained on") == 1


def test_poses_become_a_table_with_units(an_item: Item) -> None:
    table, meaning = motion_texts(an_item, [[0, 0.5, 0, 1.25, 0, 0], [0, 1, 0, 2, 0, 0]])
    assert table.splitlines()[1].split("\t") == ["0", "0.5", "0", "1.25", "0", "0"]
    units = {name: column["Units"] for name, column in json.loads(meaning).items() if name != "Description"}
    assert units == {
        **dict.fromkeys(("trans_x", "trans_y", "trans_z"), "mm"),
        **dict.fromkeys(("rot_x", "rot_y", "rot_z"), "deg"),
    }
