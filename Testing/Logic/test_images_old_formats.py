"""MINC and Analyze 7.5, which are read and not written."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from image_files import SHAPE, assert_one_line, voxels
from scipy.io import netcdf_file, savemat

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import read_volume

STEPS, STARTS = {"xspace": 0.9, "yspace": 1.1, "zspace": -1.3}, {"xspace": -80.0, "yspace": 12.0, "zspace": 30.0}
MINC_AFFINE = np.array([[0, 0, 0.9, -80], [0, 1.1, 0, 12], [-1.3, 0, 0, 30], [0, 0, 0, 1]])
"""Of slices along z with rows along y, as MINC stores them; MINC's axes are RAS."""


def save_minc(path: Path, array: np.ndarray, maximum: float = 32767.0, units: str = "") -> Path:
    """A MINC 1 file of int16 voxels (z, y, x) whose valid range stands for 0 to ``maximum``."""
    with netcdf_file(str(path), "w") as file:
        for axis, (name, size) in enumerate(zip(("zspace", "yspace", "xspace"), array.shape, strict=True)):
            file.createDimension(name, size)
            own = file.createVariable(name, "d", ())
            own.step, own.start, own.spacing = STEPS[name], STARTS[name], b"regular__"
            own.direction_cosines = np.eye(3)[2 - axis]
            if units:
                own.units = units.encode()
        image = file.createVariable("image", "h", ("zspace", "yspace", "xspace"))
        image[:] = array
        image.valid_range, image.signtype = np.array([0.0, 32767.0]), b"signed__"
        for name, value in (("image-max", maximum), ("image-min", 0.0)):
            file.createVariable(name, "d", ("zspace",))[:] = value
    return path


@pytest.mark.parametrize(("maximum", "dtype"), [(32767.0, np.int16), (1000.0, np.float32)])
def test_a_minc_file_is_read_with_its_values_and_place(tmp_path: Path, maximum: float, dtype: type) -> None:
    array = np.abs(voxels("int16").astype(np.int32)).clip(0, 32767).astype(np.int16)
    volume = read_volume(save_minc(tmp_path / "a.mnc", array, maximum))
    np.testing.assert_allclose(volume.array, array * (maximum / 32767), rtol=1e-6)
    assert volume.array.dtype == dtype and volume.array.dtype.isnative
    np.testing.assert_allclose(volume.affine, MINC_AFFINE)


@pytest.mark.parametrize("units", ["mm", "millimeters", "MM"])
def test_a_minc_file_in_mm_is_read(tmp_path: Path, units: str) -> None:
    volume = read_volume(save_minc(tmp_path / "a.mnc", voxels("int16"), units=units))
    np.testing.assert_allclose(volume.affine, MINC_AFFINE)


@pytest.mark.parametrize("units", ["m", "cm", "um"])
def test_a_minc_file_that_is_not_in_mm_is_refused(tmp_path: Path, units: str) -> None:
    with pytest.raises(InputError) as error:
        read_volume(save_minc(tmp_path / "a.mnc", voxels("int16"), units=units))
    assert_one_line(error, "a.mnc", f"lengths in {units};", "to mm")


def test_minc_files_that_cannot_be_read_are_refused_with_the_reason(tmp_path: Path) -> None:
    content = save_minc(tmp_path / "a.mnc", np.ones(SHAPE, np.int16)).read_bytes()
    bad = {"zip.mnc": (gzip.compress(content), "unpack it"), "text.mnc": (b"text" * 99, "no MINC")}
    bad |= {"new.mnc": (b"\x89HDF\r\n\x1a\n" + bytes(99), ""), "half.mnc": (content[:300], "damaged")}
    for name, (data, words) in bad.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError) as error:
            read_volume(tmp_path / name)
        assert_one_line(error, name, words)


@pytest.mark.parametrize("named", ["hdr", "img"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("big", [False, True])
def test_an_analyze_pair_is_read_and_the_side_it_leaves_open_noted(
    tmp_path: Path, named: str, dtype: str, big: bool
) -> None:
    header = nib.Spm2AnalyzeImage.header_class(endianness=">" if big else "<")
    header.set_data_dtype(dtype)
    nib.save(nib.Spm2AnalyzeImage(voxels(dtype), np.diag([-0.9, 1.1, 1.3, 1]), header), tmp_path / "a.img")
    (tmp_path / "a.mat").unlink()
    volume = read_volume(tmp_path / f"a.{named}")
    np.testing.assert_array_equal(volume.array, voxels(dtype))
    assert volume.array.dtype == dtype and "which side is left" in volume.notes[0]
    np.testing.assert_allclose(volume.affine[:3, :3], np.diag([-0.9, 1.1, 1.3]), rtol=1e-6)


def test_the_affine_that_spm_keeps_beside_an_analyze_pair_is_taken(tmp_path: Path) -> None:
    affine = np.array([[0, -2.0, 0, 10], [2, 0, 0, 20], [0, 0, 2, 30], [0, 0, 0, 1]])
    nib.save(nib.Spm2AnalyzeImage(voxels("int16"), np.eye(4)), tmp_path / "a.img")
    from_one = affine.copy()
    from_one[:3, 3] -= affine[:3, :3].sum(axis=1)  # SPM counts voxels from 1
    savemat(tmp_path / "a.mat", {"mat": from_one, "M": from_one})
    np.testing.assert_allclose(read_volume(tmp_path / "a.img").affine, affine)


def test_an_analyze_file_of_several_volumes_or_without_its_other_half_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Spm2AnalyzeImage(voxels("int16", (4, 5, 6, 3)), np.eye(4)), tmp_path / "a.img")
    nib.save(nib.Spm2AnalyzeImage(voxels("int16"), np.eye(4)), tmp_path / "b.img")
    (tmp_path / "b.img").unlink()
    for name, words in (("a.hdr", "3 volumes"), ("b.hdr", "b.img is missing")):
        with pytest.raises(InputError) as error:
            read_volume(tmp_path / name)
        assert_one_line(error, name, words)
