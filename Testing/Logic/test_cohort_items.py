"""Which scans a batch finds, and what their outputs are called."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from image_files import OBLIQUE, a_file, save_series, voxels
from pydicom import dcmread
from pydicom.dataset import FileMetaDataset

from BrainDiffLogic.cohort.items import Item, find_items, prepare, selected
from BrainDiffLogic.cohort.work import FAILED, BatchSettings, fingerprint, work_on
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import read_volume
from Harness.dicom import save_mr_series


def place(folder: Path, name: str) -> Path:
    """A file in a dataset."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"scan")
    return folder / name


def test_every_scan_of_a_bids_folder_is_found_and_keeps_its_name(tmp_path: Path) -> None:
    place(tmp_path, "sub-02/anat/sub-02_T1w.nii")
    place(tmp_path, "sub-01/ses-b/anat/sub-01_ses-b_acq-mprage_run-2_T1w.nii.gz")
    place(tmp_path, "sub-01/ses-b/anat/sub-01_ses-b_T2w.nii.gz")
    first, second = find_items(tmp_path)
    assert (first.name, first.folder) == ("sub-01_ses-b_acq-mprage_run-2_T1w", "sub-01/ses-b/anat")
    assert second.shown == "sub-02/anat/sub-02_T1w.nii" and not second.fault


def test_a_wrong_name_is_a_fault_of_that_scan_alone(tmp_path: Path) -> None:
    place(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz")
    place(tmp_path, "sub-01/anat/sub-01_T1w.nii")
    place(tmp_path, "sub-02/anat/sub-01_T1w.nii.gz")
    place(tmp_path, "sub-03/anat/sub-03_desc-preproc_T1w.nii.gz")
    faults = {item.shown: item.fault for item in find_items(tmp_path)}
    assert len([shown for shown, fault in faults.items() if not fault]) == 1
    assert "lies in sub-02" in faults["sub-02/anat/sub-01_T1w.nii.gz"]
    assert "desc-" in faults["sub-03/anat/sub-03_desc-preproc_T1w.nii.gz"]


@pytest.mark.parametrize(
    "name",
    [
        "sub-02/anat/sub-02_acq-T1_mprage_T1w.nii.gz",
        "sub-02/anat/sub-02_T1W.nii.gz",
        "Sub-02/anat/Sub-02_T1w.nii",
        "sub-02/ses-1/anat/sub-02_ses-1_run+1_T1w.nii.gz",
        "sub-02/anat/sub-02_run-1_run-2_T1w.nii.gz",
        "sub-02/Anat/T1w.nii.gz",
    ],
)
def test_a_scan_whose_name_cannot_be_understood_is_named_and_not_lost(tmp_path: Path, name: str) -> None:
    place(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz")
    place(tmp_path, name)
    for other in ("sub-02_space-T1w_mask.nii.gz", "sub-02_T1w.json", "._sub-02_T1w.nii.gz", "sub-02_acq-t1w_T2w.nii"):
        place(tmp_path, f"sub-02/anat/{other}")
    good, wrong = find_items(tmp_path)
    assert not good.fault and wrong.shown == name and "rename it" in wrong.fault
    assert selected([good, wrong], ["02"], []) == [wrong]
    outcome = work_on(wrong, tmp_path / "out", BatchSettings())
    assert (outcome.status, outcome.reason) == (FAILED, wrong.fault)


def test_a_list_without_a_line_says_that_it_names_no_scan(tmp_path: Path) -> None:
    for text in ("path\n", "path,subject\n\n", ""):
        (tmp_path / "list.csv").write_text(text)
        with pytest.raises(InputError, match="names no scan"):
            find_items(tmp_path / "list.csv")


def test_subjects_and_sessions_are_chosen_with_and_without_prefix(tmp_path: Path) -> None:
    for subject in ("01", "02"):
        for session in ("a", "b"):
            place(tmp_path, f"sub-{subject}/ses-{session}/anat/sub-{subject}_ses-{session}_T1w.nii.gz")
    items = find_items(tmp_path)
    assert [item.stem for item in selected(items, ["sub-02"], ["a"])] == ["sub-02_ses-a"]
    assert len(selected(items, [], [])) == 4
    with pytest.raises(InputError, match="sub-03"):
        selected(items, ["01", "03"], [])


def test_dicom_series_are_named_by_their_folders(tmp_path: Path) -> None:
    save_series(tmp_path / "7", voxels("int16"))
    (tmp_path / "8 b").mkdir()
    save_series(tmp_path / "8 b" / "t1", voxels("int16"))
    both = tmp_path / "9"
    save_series(both, voxels("int16"), uid="1.2.3.4.1")
    save_series(tmp_path / "spare", voxels("int16"), uid="1.2.3.4.2")
    for file in (tmp_path / "spare").iterdir():
        file.rename(both / f"x{file.name}")
    (tmp_path / "spare").rmdir()
    (tmp_path / "notes.txt").write_text("no scan")
    items = find_items(tmp_path)
    assert [item.stem for item in items] == ["sub-7", "sub-8b_acq-t1", "sub-9_run-1", "sub-9_run-2"]
    assert items[0].source.is_dir() and items[2].source.is_file()


def test_dicom_series_in_the_folders_of_bids_subjects_are_found(tmp_path: Path) -> None:
    for folder in ("sub-01", "sub-02/ses-a/t1", "sub-02/ses-b"):
        (tmp_path / folder).mkdir(parents=True)
        save_series(tmp_path / folder, voxels("int16"))
    place(tmp_path, "sub-03/func/sub-03_bold.nii.gz")
    assert [item.stem for item in find_items(tmp_path)] == ["sub-01", "sub-02_ses-a_acq-t1", "sub-02_ses-b"]
    place(tmp_path, "sub-03/anat/sub-03_T1w.nii.gz")
    assert [item.stem for item in find_items(tmp_path)] == ["sub-03"], "of BIDS the NIfTI files alone are its scans"


def test_two_folders_are_never_one_subject(tmp_path: Path) -> None:
    for name in ("a-b", "AB", "c"):
        save_series(tmp_path / name, voxels("int16"))
    items = find_items(tmp_path)
    assert [item.fault for item in items if item.shown == "c"] == [""]
    assert {item.fault for item in items if item.shown != "c"} == {
        "the folders AB and a-b would be one subject; rename one"
    }


@pytest.mark.skipif(os.name != "posix", reason="pipes are of Unix")
@pytest.mark.parametrize("slices", ["all slices are links", "one slice is a link"])
def test_broken_links_and_pipes_among_dicom_files_stop_nothing(tmp_path: Path, slices: str) -> None:
    for name in ("good", "lost", "other"):
        files = save_series(tmp_path / name, voxels("int16"))
        for file in files if name == "lost" and slices.startswith("all") else files[-1:] if name == "lost" else ():
            file.unlink()
            file.symlink_to(tmp_path / ".git" / "annex" / "gone")
    os.mkfifo(tmp_path / "good" / "pipe")
    (tmp_path / "other" / "readme.txt").symlink_to("nowhere")
    save_series(tmp_path / ".git", voxels("int16"))
    faults = {item.shown: item.fault for item in find_items(tmp_path)}
    assert set(faults) == {"good", "lost", "other"} and not faults["good"] and not faults["other"]
    assert "datalad get" in faults["lost"] and "IM00" in faults["lost"]


def test_linked_folders_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for folder in (root / "one", elsewhere / "two", elsewhere / "deep" / "three", tmp_path / "beside"):
        folder.mkdir(parents=True)
        save_series(folder, voxels("int16"))
    links = {"disk": elsewhere, "a": elsewhere / "two", "within": root / "one", "loop": root, "around": tmp_path}
    for name, target in links.items():
        (root / name).symlink_to(target, target_is_directory=True)
    (elsewhere / "back").symlink_to(elsewhere, target_is_directory=True)
    (elsewhere / "home").symlink_to(root, target_is_directory=True)
    items = find_items(root)
    assert {item.shown: item.stem for item in items} == {
        "a": "sub-a", "disk/deep/three": "sub-disk_acq-deepthree", "one": "sub-one",
    }  # fmt: skip
    assert not any(item.fault for item in items)


def test_dicom_files_without_the_magic_word_are_found_and_their_directory_is_no_scan(tmp_path: Path) -> None:
    for number in (1, 2):
        save_mr_series(tmp_path / "s", voxels("int16"), OBLIQUE, name=f"{number}_{{:03d}}".format)
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "two").write_bytes(b"\x08\x00 begins as a DICOM file may, and is none")
    for file in (tmp_path / "s").iterdir():
        data = dcmread(file)
        data.preamble, data.file_meta = None, FileMetaDataset()
        data.save_as(file, implicit_vr=True, little_endian=True)
        assert file.read_bytes()[:2] == b"\x08\x00"
    items = find_items(tmp_path)
    assert [item.shown for item in items] == ["s/1_000", "s/2_000"]
    assert read_volume(items[1].source).shape == voxels("int16").shape
    one, other = (fingerprint(item, BatchSettings()) for item in items[:2])
    assert one != other, "all files of the series count"


def test_a_list_names_scans_by_its_columns_or_their_files(tmp_path: Path) -> None:
    a_file(tmp_path, "scan.nii.gz")
    shutil.copy(tmp_path / "scan.nii.gz", tmp_path / "sub-5_ses-1_T1w.nii.gz")
    table = tmp_path / "list.csv"
    table.write_text("path,subject,session\nscan.nii.gz,sub-x,2\nsub-5_ses-1_T1w.nii.gz,,\nscan.nii.gz,,\n")
    assert [item.stem for item in find_items(table)] == ["sub-x_ses-2", "sub-5_ses-1", "sub-scan"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_letter_with_a_mark_is_that_letter_however_the_disk_writes_it(tmp_path: Path, form: Any) -> None:
    table = tmp_path / "list.csv"
    table.write_text(unicodedata.normalize(form, "path\nM\u00fcller.nii.gz\n"), encoding="utf-8")
    assert [item.stem for item in find_items(table)] == ["sub-Muller"]


def described(source: Path) -> dict[str, Any]:
    prepare(source.parent / "out", source)
    return dict(json.loads((source.parent / "out" / "dataset_description.json").read_text(encoding="utf-8")))


def test_derivatives_have_the_authors_and_the_licence_of_their_scans(tmp_path: Path) -> None:
    raw = tmp_path / "bids"
    raw.mkdir()
    (raw / "dataset_description.json").write_text(json.dumps({"Name": "n", "Authors": ["A. B."], "License": "CC0"}))
    said = described(raw)
    assert (said["Authors"], said["License"], said["DatasetLinks"]) == (["A. B."], "CC0", {"raw": "../bids"})
    (raw / "dataset_description.json").write_text(json.dumps({"Name": "n", "Authors": "A. B.", "License": None}))
    assert not {"Authors", "License"} & set(described(raw)), "what is not as BIDS has it is left out"
    (raw / "dataset_description.json").write_text("[")
    assert not {"Authors", "License"} & set(described(raw))


def test_a_list_is_no_dataset_that_derivatives_can_link_to(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\nscan.nii\n")
    assert "DatasetLinks" not in described(tmp_path / "list.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file\na.nii\n", "no column 'path'"),
        ("path,subject\na.nii,../../etc\n", "line 2: '../../etc' is no BIDS label"),
        ("path,subject\na.nii,a/b\n", "is no BIDS label"),
        ("path\n \n", "line 2: no path"),
        ("path\na/t1.nii\nb/t1.nii\n", "would both be sub-t1"),
    ],
)
def test_a_list_that_does_not_name_its_scans_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        find_items(tmp_path / "list.csv")


@pytest.mark.parametrize("name", ["missing", "missing.csv", "empty"])
def test_nothing_to_correct_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=name):
        find_items(tmp_path / name)


def test_no_label_leads_out_of_the_derivatives(tmp_path: Path) -> None:
    hostile = tmp_path / "... .." / "x"
    save_series_at = tmp_path / "... .."
    save_series_at.mkdir()
    save_series(hostile, voxels("int16"))
    with pytest.raises(InputError, match="no letter or digit"):
        find_items(tmp_path)


def test_what_a_scan_with_a_fault_is_called_stays_in_the_logs(tmp_path: Path) -> None:
    from BrainDiffLogic.cohort.items import Places

    item = Item(tmp_path / "x", "../../sub-1/x_T1w.nii", {"sub": "1"}, "wrong")
    assert Places(tmp_path, item).log.parent == tmp_path / "logs"
