"""Damaged files that were found by chance (test_fuzz_images.py), each refused in one line ever since."""

from __future__ import annotations

import gzip
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from image_files import OBLIQUE, assert_one_line, save_nifti, voxels
from pydicom import dcmread

from BrainDiffLogic import read_volume, write_volume
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.volume import Volume
from Harness.dicom import save_mr_series

NRRD = (
    "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 5 6 7\nspace directions: (1,0,0)"
    " (0,1,0) (0,0,1)\nkinds: domain domain domain\nendian: little\nencoding: raw\nspace origin: (0,0,0)\n"
)
READ = "import sys; from BrainDiffLogic import read_volume; read_volume(sys.argv[1])"


def set_tag(file: Path, keyword: str, value: bytes) -> None:
    data = dcmread(file)
    data[keyword] = data.get_item(keyword)._replace(value=value, length=len(value))
    data.save_as(file)


def save_nrrd(path: Path, header: str) -> Path:
    path.write_bytes((header + "\n").encode() + voxels("int16").tobytes())
    return path


def test_a_nrrd_with_an_endless_field_is_refused_before_itk_dies_of_it(tmp_path: Path) -> None:
    path = save_nrrd(tmp_path / "long.nrrd", NRRD.replace("type: short", "type: short" + "x" * 2000))
    run = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True)
    assert run.returncode == 1 and "a line of the header has 20" in run.stderr.splitlines()[-1]


def test_what_may_be_long_in_a_nrrd_is_read(tmp_path: Path) -> None:
    free = f"# {'c' * 3000}\ncontent: {'t' * 3000}\nsegments:={'s' * 70000}\n"
    assert read_volume(save_nrrd(tmp_path / "scan.nrrd", NRRD + free)).shape == (5, 6, 7)


@pytest.mark.parametrize("length", [4, 31, 32, 40, 283, 284])
def test_a_file_of_freesurfer_that_ends_in_its_header_is_incomplete(tmp_path: Path, length: int) -> None:
    write_volume(Volume(voxels("int16"), OBLIQUE), tmp_path / "scan.mgz")
    whole = gzip.decompress((tmp_path / "scan.mgz").read_bytes())
    (tmp_path / "scan.mgz").write_bytes(gzip.compress(whole[:length]))
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path / "scan.mgz")
    assert_one_line(caught, "scan.mgz", "incomplete")


def test_a_file_of_freesurfer_with_overflowing_axes_is_refused_without_a_warning(tmp_path: Path) -> None:
    write_volume(Volume(voxels("int16"), OBLIQUE), tmp_path / "scan.mgh")
    content = bytearray((tmp_path / "scan.mgh").read_bytes())
    content[30:34] = content[42:46] = np.array(3e38, ">f4").tobytes()  # the voxel's size, and a cosine
    (tmp_path / "scan.mgh").write_bytes(content)
    with warnings.catch_warnings(), pytest.raises(InputError) as caught:
        warnings.simplefilter("error")
        read_volume(tmp_path / "scan.mgh")
    assert_one_line(caught, "scan.mgh", "affine")


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("Columns", b"xx" * 5000), ("SliceThickness", b"x" * 5000), ("SamplesPerPixel", b"inf"),
        ("SamplesPerPixel", b"\3\0\3\0"), ("Rows", b"\0\0"),
        ("Columns", b"\\\\\\"), ("Columns", b"\xff\xff\xff\xff"), ("Columns", b"\0\0"),
    ],
)  # fmt: skip
def test_a_slice_with_a_wrong_tag_is_named_in_a_short_line(tmp_path: Path, keyword: str, value: bytes) -> None:
    files = save_mr_series(tmp_path / "series", voxels("int16"), OBLIQUE)
    set_tag(files[2], keyword, value)
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path / "series")
    assert_one_line(caught, files[2].name)
    assert len(str(caught.value)) < 1000


def test_a_slice_of_two_classes_is_a_slice(tmp_path: Path) -> None:
    files = save_mr_series(tmp_path / "series", voxels("int16"), OBLIQUE)
    set_tag(files[2], "SOPClassUID", b"1\\2")
    assert np.array_equal(read_volume(tmp_path / "series").array, voxels("int16"))


def test_a_slice_that_ends_within_its_first_tags_is_no_reason_for_a_traceback(tmp_path: Path) -> None:
    files = save_mr_series(tmp_path / "series", voxels("int16"), OBLIQUE)
    files[2].write_bytes(files[2].read_bytes()[:153])
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path / "series")
    assert_one_line(caught, "slices are missing")


def test_a_nifti_with_an_endless_sform_is_refused_without_a_warning(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "scan.nii", voxels("int16"))
    content = bytearray(path.read_bytes())
    content[252:256] = b"\1\0\1\0"  # qform_code, sform_code
    content[288:292] = np.array(-np.inf, "<f4").tobytes()  # srow_x[2]
    path.write_bytes(content)
    with warnings.catch_warnings(), pytest.raises(InputError) as caught:
        warnings.simplefilter("error")
        read_volume(path)
    assert_one_line(caught, "scan.nii", "affine")
