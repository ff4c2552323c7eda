"""DICOM series written by ITK, and what is refused of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from image_files import (
    LPS,
    OBLIQUE,
    ORIENTATIONS,
    SHAPE,
    STORED_INT16,
    assert_one_line,
    oriented,
    save_series,
    voxels,
)

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import read_volume, write_volume
from BrainDiffLogic.volume import Volume

RIGHT_HANDED = [o for o in ORIENTATIONS if np.linalg.det(LPS @ oriented(o)[:3, :3]) > 0]


@pytest.mark.parametrize("number", range(0, len(RIGHT_HANDED), 4))
@pytest.mark.parametrize("dtype", ["int16", "uint16"])
def test_a_dicom_series_with_shuffled_names_is_the_volume_it_was_made_from(
    tmp_path: Path, number: int, dtype: str
) -> None:
    affine = oriented(RIGHT_HANDED[number])
    save_series(tmp_path / "series", voxels(dtype), affine)
    volume = read_volume(tmp_path / "series")
    np.testing.assert_array_equal(volume.array, voxels(dtype))
    assert volume.array.dtype == dtype
    np.testing.assert_allclose(volume.affine, affine, rtol=0, atol=1e-6)
    write_volume(volume, tmp_path / "a.nii.gz")
    assert nib.load(tmp_path / "a.nii.gz").get_data_dtype() == dtype


def test_a_dicom_series_with_a_slope_keeps_its_stored_integers(tmp_path: Path) -> None:
    real = voxels("int16").astype(np.float64) * 0.25 - 100
    save_series(tmp_path / "series", real, tags={"0028|1053": "0.25", "0028|1052": "-100"} | STORED_INT16)
    volume = read_volume(tmp_path / "series")
    np.testing.assert_array_equal(volume.array, real)
    assert volume.storage is not None and volume.storage.slope == 0.25 and volume.storage.intercept == -100
    assert volume.storage.dtype.kind in "iu"
    write_volume(volume, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(nib.load(tmp_path / "a.nii.gz").get_fdata(), real)


def test_slices_with_different_slopes_keep_their_real_values(tmp_path: Path) -> None:
    real = np.round(voxels("float32"))
    save_series(tmp_path / "series", real[:, :, :4].astype(np.int16))
    for k in range(4, 7):
        piece = np.zeros(SHAPE)
        piece[:, :, k] = real[:, :, k] * 0.5
        files = save_series(tmp_path / f"s{k}", piece, tags={"0028|1053": "0.5", "0028|1052": "0"} | STORED_INT16)
        files[k].rename(tmp_path / "series" / f"half{k}.dcm")
    expected = real.copy()
    expected[:, :, 4:] *= 0.5
    volume = read_volume(tmp_path / "series")
    np.testing.assert_array_equal(volume.array, expected)


def test_one_slice_of_dicom_is_a_volume_of_one_slice(tmp_path: Path) -> None:
    save_series(tmp_path / "series", voxels("int16", (5, 6, 1)))
    assert read_volume(tmp_path / "series").shape == (5, 6, 1)


def test_several_series_are_refused_by_name_and_one_file_chooses_its_series(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    save_series(folder, voxels("uint16"), uid="1.2.3.4.7")
    for number, file in enumerate(list(folder.iterdir())):
        file.rename(folder / f"first{number}")
    files = save_series(folder, voxels("int16"), uid="1.2.3.4.8")
    with pytest.raises(InputError) as error:
        read_volume(folder)
    listed = ('1.2.3.4.7 "t1 7" (7 slices)', '1.2.3.4.8 "t1 8" (7 slices)')
    assert_one_line(error, str(folder), "2 DICOM series", *listed, "--series", "a file of the one you mean")
    np.testing.assert_array_equal(read_volume(folder, "1.2.3.4.8").array, voxels("int16"))
    np.testing.assert_array_equal(read_volume(files[2]).array, voxels("int16"))
    np.testing.assert_array_equal(read_volume(folder / "first3").array, voxels("uint16"))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mgz"])
def test_a_file_that_is_no_dicom_has_no_series(tmp_path: Path, a_head: Volume, suffix: str) -> None:
    file = tmp_path / f"scan{suffix}"
    write_volume(a_head, file)
    with pytest.raises(InputError, match="leave --series out"):
        read_volume(file, "4")


@pytest.mark.parametrize(
    ("tags", "skip", "words"),
    [
        ({}, (3,), "slices are missing (1,"),
        ({}, (2, 3), "slices are missing (2,"),
        ({"0020|0032": "1\\2\\3"}, (), "at one position"),
    ],
)
def test_a_dicom_series_that_is_no_volume_is_refused(
    tmp_path: Path, tags: dict[str, str], skip: tuple[int, ...], words: str
) -> None:
    save_series(tmp_path / "series", voxels("int16"), tags=tags, skip=skip)
    with pytest.raises(InputError) as error:
        read_volume(tmp_path / "series")
    assert_one_line(error, "series", words)


def test_slices_of_several_orientations_or_sizes_are_refused(tmp_path: Path) -> None:
    turned = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0, 0)) @ OBLIQUE
    for shape, affine, words in ((SHAPE, turned, "orientation"), ((5, 5, 7), OBLIQUE, "size")):
        files = save_series(tmp_path / words, voxels("int16"))
        other = save_series(tmp_path / f"other {words}", voxels("int16", shape), affine)
        other[3].replace(files[3])
        with pytest.raises(InputError, match=f"different {words}"):
            read_volume(tmp_path / words)


def test_a_folder_without_dicom_and_a_damaged_slice_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    with pytest.raises(InputError) as error:
        read_volume(tmp_path / "empty")
    assert_one_line(error, "empty", "no DICOM")
    files = save_series(tmp_path / "series", voxels("int16"))
    files[4].write_bytes(files[4].read_bytes()[:-30])
    capfd.readouterr()
    with pytest.raises(InputError) as error:
        read_volume(tmp_path / "series")
    assert_one_line(error, files[4].name, "damaged", "export the series again")
    assert capfd.readouterr() == ("", "")


def test_a_colour_dicom_is_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(voxels("uint8", (1, 5, 6, 3)), isVector=True)
    image.SetMetaData("0020|000e", "1.2.9")
    sitk.WriteImage(image, str(tmp_path / "a.dcm"))
    with pytest.raises(InputError, match="colour"):
        read_volume(tmp_path / "a.dcm")


def test_a_second_copy_of_a_slice_is_passed_over_and_noted(tmp_path: Path) -> None:
    files = save_series(tmp_path / "series", voxels("int16"))
    shutil.copy(files[3], tmp_path / "series" / "copy of 3.dcm")
    volume = read_volume(tmp_path / "series")
    np.testing.assert_array_equal(volume.array, voxels("int16"))
    assert len(volume.notes) == 1 and "another file shows already" in volume.notes[0]


def test_two_different_images_at_one_position_are_named(tmp_path: Path) -> None:
    files = save_series(tmp_path / "series", voxels("int16"))
    other = save_series(tmp_path / "other", voxels("int16")[::-1].copy())
    shutil.copy(other[3], tmp_path / "series" / "second.dcm")
    with pytest.raises(InputError) as error:
        read_volume(tmp_path / "series")
    assert_one_line(error, "one position", "second.dcm", files[3].name)


def test_a_series_some_folders_deeper_is_found_and_several_are_named(tmp_path: Path) -> None:
    (tmp_path / "study" / "day").mkdir(parents=True)
    save_series(tmp_path / "study" / "day" / "t1", voxels("int16"))
    volume = read_volume(tmp_path / "study")
    np.testing.assert_array_equal(volume.array, voxels("int16"))
    assert str(Path("day") / "t1") in volume.notes[0]
    save_series(tmp_path / "study" / "t2", voxels("int16"), uid="1.2.3.4.2")
    with pytest.raises(InputError) as error:
        read_volume(tmp_path / "study")
    assert_one_line(error, "study", "2 DICOM series", '"t1 1"', '"t1 2"')


def test_a_series_in_a_linked_folder_is_found_and_a_loop_ends(tmp_path: Path) -> None:
    for folder in ("study", "disk"):
        (tmp_path / folder).mkdir()
    save_series(tmp_path / "disk" / "t1", voxels("int16"))
    (tmp_path / "study" / "day").symlink_to(tmp_path / "disk", target_is_directory=True)
    (tmp_path / "disk" / "loop").symlink_to(tmp_path / "disk", target_is_directory=True)
    volume = read_volume(tmp_path / "study")
    np.testing.assert_array_equal(volume.array, voxels("int16"))
    assert str(Path("day") / "t1") in volume.notes[0]


@pytest.mark.parametrize("key", ["0028|1052", "0028|1053"])
def test_an_empty_rescale_tag_counts_as_absent(tmp_path: Path, key: str) -> None:
    files = save_series(tmp_path / "series", voxels("int16"), tags=STORED_INT16)
    for file in files[::2]:
        replace_tag(file, key, b"")
    np.testing.assert_array_equal(read_volume(tmp_path / "series").array, voxels("int16"))


def test_a_rescale_tag_that_is_no_number_is_named(tmp_path: Path) -> None:
    files = save_series(tmp_path / "series", voxels("int16"), tags=STORED_INT16)
    replace_tag(files[2], "0028|1052", b"none")
    with pytest.raises(InputError) as error:
        read_volume(tmp_path / "series")
    assert_one_line(error, files[2].name, "0028,1052", "'none'")


def test_a_series_without_pixel_spacing_and_a_mosaic_are_refused(tmp_path: Path) -> None:
    files = save_series(tmp_path / "series", voxels("int16"))
    for file in files:
        replace_tag(file, "0028|0030", b"")
    with pytest.raises(InputError) as error:
        read_volume(tmp_path / "series")
    assert_one_line(error, "voxel size is missing", "0028,0030")
    save_series(tmp_path / "mosaic", voxels("int16", (5, 6, 1)), tags={"0008|0008": "ORIGINAL\\PRIMARY\\M\\MOSAIC"})
    with pytest.raises(InputError) as error:
        read_volume(tmp_path / "mosaic")
    assert_one_line(error, "mosaic of many slices", "dcm2niix")


def replace_tag(file: Path, key: str, value: bytes) -> None:
    """Give a tag of a file in implicit little endian another value; a missing one is put before the pixels."""
    content, tag = file.read_bytes(), b"".join(int(part, 16).to_bytes(2, "little") for part in key.split("|"))
    begin = content.find(tag)
    end = begin + 8 + int.from_bytes(content[begin + 4 : begin + 8], "little")
    if begin < 0:
        begin = end = content.index(b"\xe0\x7f\x10\x00")
    file.write_bytes(content[:begin] + tag + len(value).to_bytes(4, "little") + value + content[end:])
