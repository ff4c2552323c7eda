"""Images that are refused, each with one line that names the file and the remedy."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from image_files import (
    OBLIQUE,
    SHAPE,
    assert_one_line,
    save_nifti,
    truncated,
    voxels,
)

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import read_volume, write_volume
from BrainDiffLogic.volume import Volume


def nifti_of(array: np.ndarray) -> Callable[[Path], Path]:
    return lambda folder: save_nifti(folder / "bad.nii.gz", array)


def itk_of(array: np.ndarray, name: str, vector: bool = False) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(folder / name))
        return folder / name

    return make


def without_its_data(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write_volume(Volume(voxels("int16"), OBLIQUE), folder / name)
        for file in folder.iterdir():
            if file.name != name:
                file.unlink()
        return folder / name

    return make


def file_of(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def with_flipped_bit(folder: Path) -> Path:
    path = save_nifti(folder / "bad.nii", voxels("int16"))
    content = bytearray(gzip.compress(path.read_bytes(), compresslevel=0))
    content[-50] ^= 1
    (folder / "bad.nii.gz").write_bytes(content)
    return folder / "bad.nii.gz"


def singular(folder: Path) -> Path:
    path = save_nifti(folder / "bad.nii", voxels("int16"), sform_code=1)
    content = bytearray(path.read_bytes())
    content[296:312] = bytes(16)  # srow_y
    path.write_bytes(content)
    return path


def colour(folder: Path) -> Path:
    dtype = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, dtype), OBLIQUE), folder / "bad.nii.gz")
    return folder / "bad.nii.gz"


def micrometres(folder: Path) -> Path:
    return save_nifti(folder / "bad.nii", voxels("int16"), xyzt_units=3)


def empty(folder: Path) -> Path:
    return save_nifti(folder / "bad.nii.gz", np.zeros((4, 0, 5), np.int16))


def not_finite() -> np.ndarray:
    array = voxels("float32")
    array.flat[:3] = np.nan, np.inf, -np.inf
    return array


SINGULAR_NRRD = (
    b"NRRD0004\ntype: uchar\ndimension: 3\nspace: LPS\nsizes: 2 2 2\n"
    b"space directions: (1,0,0) (1,0,0) (0,0,1)\nencoding: raw\nspace origin: (0,0,0)\n\n12345678"
)
BAD = {
    "missing": (lambda folder: folder / "bad.nii", "no such file"),
    "unknown": (file_of("bad.docx", b"x" * 200), "not known"),
    "empty file": (file_of("bad.nii", b""), "copy it again"),
    "garbage nii": (file_of("bad.nii", b"garbage" * 100), "copy it again"),
    "garbage gz": (file_of("bad.nii.gz", b"garbage" * 100), "copy it again"),
    "garbage nrrd": (file_of("bad.nrrd", b"garbage" * 100), "copy it again"),
    "garbage mha": (file_of("bad.mha", b"garbage" * 100), "copy it again"),
    "garbage dcm": (file_of("bad.dcm", b"garbage" * 100), "export it again"),
    "truncated nii": (truncated("bad.nii"), "copy it again"),
    "truncated gz": (truncated("bad.nii.gz"), "copy it again"),
    "truncated nrrd": (truncated("bad.nrrd"), "copy it again"),
    "truncated mha": (truncated("bad.mha"), "copy it again"),
    "wrong checksum": (with_flipped_bit, "copy it again"),
    "nhdr alone": (without_its_data("bad.nhdr"), "data file"),
    "mhd alone": (without_its_data("bad.mhd"), "data file"),
    "4D nifti": (nifti_of(voxels("int16", (4, 5, 6, 7))), "7 volumes"),
    "4D mha": (itk_of(voxels("int16", (7, 6, 5, 4)), "bad.mha"), "7 volumes"),
    "5D nifti": (nifti_of(voxels("float32", (4, 5, 6, 1, 3))), "several values"),
    "2D nifti": (nifti_of(voxels("int16", (4, 5))), "2D"),
    "2D nrrd": (itk_of(voxels("int16", (4, 5)), "bad.nrrd"), "2D"),
    "colour nifti": (colour, "colour"),
    "colour nrrd": (itk_of(voxels("uint8", (4, 5, 6, 3)), "bad.nrrd", vector=True), "3 values a voxel"),
    "rgba mha": (itk_of(voxels("uint8", (4, 5, 6, 4)), "bad.mha", vector=True), "4 values a voxel"),
    "complex": (nifti_of(voxels("float32").astype(np.complex64)), "magnitude image"),
    "constant": (nifti_of(np.full(SHAPE, 7, np.int16)), "all voxels have the value 7"),
    "no voxels": (empty, "empty"),
    "not finite": (nifti_of(not_finite()), "3 voxels are NaN or infinite"),
    "singular": (singular, "cannot be inverted"),
    "singular nrrd": (file_of("bad.nrrd", SINGULAR_NRRD), "cannot be inverted"),
    "micrometres": (micrometres, "mm"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_input_gets_one_line_that_names_the_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    make, words = BAD[case]
    path = make(tmp_path)
    capfd.readouterr()
    with pytest.raises(InputError) as error:
        read_volume(path)
    assert_one_line(error, str(path), words, ";")
    assert capfd.readouterr() == ("", "")


def test_what_the_image_library_prints_stays_away_from_stdout_and_stderr(tmp_path: Path) -> None:
    path = truncated("bad.mha")(tmp_path)
    lines = ("from BrainDiffLogic.images import read_volume", f"try: read_volume({str(path)!r})")
    code = "\n".join((*lines, "except ValueError as error: print(type(error).__name__)"))
    checkout = Path(__file__).resolve().parents[2]
    child = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True)
    assert (child.returncode, child.stdout, child.stderr) == (0, "InputError\n", "")
