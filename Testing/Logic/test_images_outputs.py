"""Outputs: what is refused before work starts, and that files appear complete or not at all."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from image_files import (
    OBLIQUE,
    SUFFIXES,
    a_file,
    assert_one_line,
    save_series,
    voxels,
)

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import SERIES, WRITABLE, check_output, nifti, read_volume, staged_output, write_volume
from BrainDiffLogic.volume import Volume


@pytest.mark.parametrize("name", ["out.docx", "out", "out.gz", "out.hdr", "out.dcm"])
def test_an_output_of_unknown_type_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as error:
        check_output(tmp_path / name)
    assert_one_line(error, name, ".nii.gz")
    with pytest.raises(InputError) as error:
        write_volume(Volume(voxels("int16"), OBLIQUE), tmp_path / name)
    assert_one_line(error, name, "a DICOM series is made from one" if name == "out" else ".nii.gz")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_needs_overwrite(tmp_path: Path) -> None:
    path = a_file(tmp_path)
    with pytest.raises(InputError, match="--overwrite"):
        check_output(path)
    assert check_output(path, overwrite=True) == path


def test_existing_detached_data_need_overwrite(tmp_path: Path) -> None:
    (tmp_path / "out.raw.gz").write_bytes(b"precious")
    with pytest.raises(InputError, match="out.raw.gz"):
        check_output(tmp_path / "out.nhdr")


def test_an_output_that_is_the_input_is_refused_by_whatever_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = a_file(tmp_path)
    (tmp_path / "symbolic.nii.gz").symlink_to(path)
    os.link(path, tmp_path / "hard.nii.gz")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("in.nii.gz", "symbolic.nii.gz", "hard.nii.gz", "sub/../in.nii.gz", str(path)):
        with pytest.raises(InputError, match="would replace the input"):
            check_output(name, [path], overwrite=True)
    check_output("other.nii.gz", [path])


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".mgz", ".mgh"])
def test_an_extension_in_upper_case_replaces_no_file_of_lower_case(tmp_path: Path, suffix: str) -> None:
    volume = Volume(voxels("int16"), OBLIQUE)
    write_volume(volume, tmp_path / f"a{suffix}")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for name in (f"a{suffix.upper()}", f"b{suffix.upper()}"):
        try:
            check_output(tmp_path / name)
        except InputError as error:
            assert "small extension" in str(error) or "exists already" in str(error)
        else:
            write_volume(volume, tmp_path / name)
            assert np.array_equal(read_volume(tmp_path / name).array, volume.array)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    for name in ("a.MHD", "a.mHa"):
        with pytest.raises(InputError, match="small extension"):
            write_volume(volume, tmp_path / name)


@pytest.mark.parametrize("suffix", [".mhd", ".mha"])
def test_a_metaimage_that_somebody_named_in_upper_case_is_read(tmp_path: Path, suffix: str) -> None:
    path = a_file(tmp_path, f"in{suffix}")
    path.rename(tmp_path / f"in{suffix.upper()}")
    assert np.array_equal(read_volume(tmp_path / f"in{suffix.upper()}").array, voxels("int16"))


def test_a_folder_as_output_of_a_scan_that_is_no_dicom_is_called_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = a_file(tmp_path)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    for folder in ("..", ".", tmp_path, "../.."):
        with pytest.raises(InputError, match="is a folder.* name a file in it"):
            check_output(folder, [path], suffixes=(*WRITABLE, SERIES))
    files = save_series(tmp_path / "dicom", voxels("int16"))
    for given in (files[0], tmp_path / "dicom"):
        with pytest.raises(InputError, match="would replace the input"):
            check_output(tmp_path, [given], suffixes=(*WRITABLE, SERIES))


def test_an_output_must_not_replace_the_data_file_of_an_input(tmp_path: Path) -> None:
    path = a_file(tmp_path, "in.nhdr")
    (tmp_path / "in.raw.gz").rename(tmp_path / "in.zraw")
    path.write_text(path.read_text().replace("in.raw.gz", "in.zraw"))
    with pytest.raises(InputError, match="would replace the input"):
        check_output(tmp_path / "in.mhd", [path], overwrite=True)


@pytest.mark.parametrize("form", ["{}", "LIST\n{}"])
@pytest.mark.parametrize("name", ["a\0b.raw", "%d\0 1 2 1", "**%d 1 2 1", "[%d 1 2 1", "/%d 1 2 1", "%d/.. 1 2 1"])
def test_a_data_file_that_no_file_can_be_called_is_left_to_reading(tmp_path: Path, form: str, name: str) -> None:
    path = tmp_path / "in.mha"
    path.write_text(f"NDims = 3\nDimSize = 2 3 4\nElementType = MET_SHORT\nElementDataFile = {form.format(name)}\n")
    check_output(tmp_path / "out.nii", [path])
    with pytest.raises(InputError, match="in.mha"):
        read_volume(path)


def test_a_missing_folder_a_folder_as_output_and_an_unwritable_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="does not exist"):
        check_output(tmp_path / "missing" / "a.nii")
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        check_output(tmp_path / "folder.nii")
    volume = Volume(voxels("int16"), OBLIQUE)
    unwritable = Path("/proc") if Path("/proc").is_dir() else Path("/")
    for call in (check_output, lambda path: write_volume(volume, path)):
        with pytest.raises(InputError, match="cannot be written"):
            call(unwritable / "a.nii")


def test_a_check_leaves_nothing_behind(tmp_path: Path) -> None:
    check_output(tmp_path / "a.nii.gz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_on_the_way_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, failing: str
) -> None:
    real, calls = getattr(os, failing), itertools.count()
    last = 1 if suffix in (".nhdr", ".mhd") else 0  # these write two files: let the second fail

    def fail(*arguments: object) -> None:
        if next(calls) == last:
            raise OSError(28, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(InputError) as error:
        write_volume(Volume(voxels("int16"), OBLIQUE), tmp_path / f"a{suffix}")
    assert_one_line(error, f"a{suffix}", "No space left")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = a_file(tmp_path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(nifti, "_set_geometry", fail)
    with pytest.raises(KeyboardInterrupt):
        write_volume(Volume(voxels("uint8"), OBLIQUE), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_nothing_appears_under_the_final_name_before_the_file_is_complete(tmp_path: Path) -> None:
    with staged_output(tmp_path / "report.json") as staged:
        staged.write_text("half")
        assert not (tmp_path / "report.json").exists() and staged.suffix == ".json"
        staged.write_text("whole")
    assert (tmp_path / "report.json").read_text() == "whole"
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_files_are_readable_for_others_as_the_umask_allows(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert a_file(tmp_path).stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("suffix", [".nii.gz", ".mgz"])
def test_a_packed_file_is_small_the_same_each_time_and_read_by_others(tmp_path: Path, suffix: str) -> None:
    volume = Volume(np.arange(24**3, dtype=np.int16).reshape(24, 24, 24) % 100, np.eye(4))
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    for path in (first, second):
        write_volume(volume, path)
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < 0.6 * volume.array.nbytes
    np.testing.assert_array_equal(nib.load(first).dataobj, volume.array)
    if suffix == ".nii.gz":
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(first))), volume.array.transpose())
