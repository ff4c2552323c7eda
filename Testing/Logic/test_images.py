"""Volumes to files of every format and back, on the same grid."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from image_files import (
    DTYPES,
    LPS,
    OBLIQUE,
    ORIENTATIONS,
    SHAPE,
    SUFFIXES,
    oriented,
    save_nifti,
    voxels,
)

from BrainDiffLogic.images import as_stored, read_volume, write_volume
from BrainDiffLogic.volume import Storage, Volume


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_volume_comes_back_with_the_same_bits_type_and_grid(tmp_path: Path, dtype: str, suffix: str) -> None:
    volume = Volume(voxels(dtype), OBLIQUE)
    write_volume(volume, tmp_path / f"a{suffix}")
    back = read_volume(tmp_path / f"a{suffix}")
    assert back.array.dtype == dtype
    assert back.storage is not None and back.storage.dtype == dtype
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.affine, OBLIQUE, rtol=0, atol=4e-6 if "nii" in suffix else 1e-9)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_orientation_keeps_voxels_and_affine(tmp_path: Path, suffix: str) -> None:
    for number, orientation in enumerate(ORIENTATIONS):
        affine = np.float32(oriented(orientation)).astype(float)
        volume = Volume(voxels("int16"), affine)
        path = tmp_path / f"{number}{suffix}"
        write_volume(volume, path)
        back = read_volume(path)
        np.testing.assert_array_equal(back.array, volume.array)
        np.testing.assert_allclose(back.affine, affine, rtol=0, atol=1e-6)


def test_nibabel_itk_and_this_library_agree_where_a_voxel_lies(tmp_path: Path) -> None:
    for orientation in ORIENTATIONS[::7]:
        affine = oriented(orientation)
        write_volume(Volume(voxels("int16"), affine), tmp_path / "a.nrrd")
        image = sitk.ReadImage(str(tmp_path / "a.nrrd"))
        lps = np.array(image.TransformIndexToPhysicalPoint((1, 2, 3)))
        np.testing.assert_allclose(LPS @ lps, (affine @ [1, 2, 3, 1])[:3], atol=1e-9)
        assert image.GetPixel(1, 2, 3) == voxels("int16")[1, 2, 3]
        write_volume(Volume(voxels("int16"), affine), tmp_path / "a.nii")
        np.testing.assert_allclose(nib.load(tmp_path / "a.nii").affine, affine, atol=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_sheared_grid_is_kept(tmp_path: Path, suffix: str) -> None:
    affine = OBLIQUE.copy()
    affine[:3, 2] += 0.3 * affine[:3, 1]
    write_volume(Volume(voxels("int16"), affine), tmp_path / f"a{suffix}")
    np.testing.assert_allclose(read_volume(tmp_path / f"a{suffix}").affine, affine, atol=4e-6)


@pytest.mark.parametrize("shape", [(1, 8, 9), (8, 1, 9), (8, 9, 1), (3, 512, 4)])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_thin_and_long_volumes_keep_their_shape(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    write_volume(Volume(voxels("int16", shape), OBLIQUE), tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}").array, voxels("int16", shape))


@pytest.mark.parametrize("flip", [False, True])
def test_views_in_any_memory_order_are_written_as_they_look(tmp_path: Path, flip: bool) -> None:
    array = np.ascontiguousarray(voxels("int16"))[:: -1 if flip else 1].transpose(2, 0, 1)
    for suffix in (".nii.gz", ".nrrd"):
        write_volume(Volume(array, OBLIQUE), tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}").array, array)


# NIfTI


HEADER_FIELDS = ("qform_code", "sform_code", "pixdim", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c")
HEADER_FIELDS += ("quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "descrip", "xyzt_units")


@pytest.mark.parametrize(("qform", "sform"), [(1, 1), (1, 0), (0, 2), (2, 4), (0, 0)])
def test_a_nifti_output_repeats_the_inputs_header_bit_for_bit(tmp_path: Path, qform: int, sform: int) -> None:
    path = tmp_path / "in.nii"
    image = nib.Nifti1Image(voxels("int16"), None)
    image.header.set_qform(OBLIQUE, qform)
    image.header.set_sform(OBLIQUE if sform else np.zeros((4, 4)), sform)
    image.header["descrip"] = b"TE=2.9;Time=1"
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 2.3
    nib.save(image, path)
    volume = read_volume(path)
    write_volume(volume.with_array(volume.array[::-1].astype(np.float32)), tmp_path / "out.nii.gz")
    old, new = nib.load(path), nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(new.affine, old.affine)
    for field in HEADER_FIELDS:
        assert new.header[field].tobytes() == old.header[field].tobytes(), field


def test_the_sform_is_preferred_and_the_qform_serves_where_it_has_no_code(tmp_path: Path) -> None:
    other = OBLIQUE @ np.diag([1, 1, 1, 1.0])
    other[:3, 3] += 50
    for code, expected in ((1, OBLIQUE), (0, other)):
        image = nib.Nifti1Image(voxels("int16"), None)
        image.header.set_qform(other, 1)
        image.header.set_sform(OBLIQUE, code)
        nib.save(image, tmp_path / "a.nii")
        np.testing.assert_allclose(read_volume(tmp_path / "a.nii").affine, expected, atol=2e-5)


def test_nifti2_stays_nifti2_with_its_double_precision_affine(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(voxels("uint16"), OBLIQUE), tmp_path / "in.nii.gz")
    volume = read_volume(tmp_path / "in.nii.gz")
    write_volume(volume, tmp_path / "out.nii")
    back = nib.load(tmp_path / "out.nii")
    assert isinstance(back, nib.Nifti2Image)
    np.testing.assert_array_equal(back.affine, OBLIQUE)
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), voxels("uint16"))


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_a_big_endian_nifti_reads_the_same(tmp_path: Path, dtype: str) -> None:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.dtype(dtype).newbyteorder(">"))
    nib.save(nib.Nifti1Image(voxels(dtype), OBLIQUE, header), tmp_path / "big.nii")
    assert (tmp_path / "big.nii").read_bytes()[:4] == (348).to_bytes(4, "big")
    volume = read_volume(tmp_path / "big.nii")
    np.testing.assert_array_equal(volume.array, voxels(dtype))
    assert volume.array.dtype.isnative
    write_volume(volume, tmp_path / "out.nii")
    np.testing.assert_array_equal(nib.load(tmp_path / "out.nii").affine, nib.load(tmp_path / "big.nii").affine)
    np.testing.assert_array_equal(read_volume(tmp_path / "out.nii").array, voxels(dtype))


def test_a_pair_of_header_and_image_is_read(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(voxels("int16"), OBLIQUE), tmp_path / "a.img")
    for name in ("a.img", "a.hdr"):
        volume = read_volume(tmp_path / name)
        np.testing.assert_array_equal(volume.array, voxels("int16"))
    write_volume(volume, tmp_path / "b.nii")
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii").affine, nib.load(tmp_path / "a.img").affine)


def test_a_4d_file_of_one_volume_is_that_volume(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii.gz", voxels("int16")[..., None])
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").array, voxels("int16"))
    image = sitk.JoinSeries([sitk.GetImageFromArray(voxels("int16").transpose())])
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mha").array, voxels("int16"))


# Scaled integers and the type of the output


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32"])
@pytest.mark.parametrize(("slope", "intercept"), [(0.25, 0), (1.7, -1024), (-0.3, 5), (2, 10), (1e-3, 1e4)])
def test_scaled_integers_come_back_as_the_same_integers(
    tmp_path: Path, dtype: str, slope: float, intercept: float
) -> None:
    path = save_nifti(tmp_path / "in.nii", voxels(dtype))
    raw_bytes = bytearray(path.read_bytes())
    raw_bytes[112:120] = np.array([slope, intercept], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(raw_bytes)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.array, nib.load(path).get_fdata(), rtol=1e-7, atol=1e-6 * abs(intercept))
    storage = write_volume(volume, tmp_path / "out.nii.gz")
    assert storage.dtype == dtype
    old, new = nib.load(path).dataobj, nib.load(tmp_path / "out.nii.gz").dataobj
    assert (new.slope, new.inter) == (old.slope, old.inter)
    np.testing.assert_array_equal(new.get_unscaled(), old.get_unscaled())


def test_scaled_int16_is_read_as_float32_and_int32_as_float64() -> None:
    from BrainDiffLogic.volume import real_values

    assert real_values(voxels("int16"), 0.1, 0.0).dtype == np.float32
    assert real_values(voxels("int32"), 0.1, 0.0).dtype == np.float64
    assert real_values(voxels("int16"), 1e-3, 1e6).dtype == np.float64


@pytest.mark.parametrize(
    ("stored", "values", "expected"),
    [
        ("int16", (0.0, 700.4), "int16"),
        ("uint8", (0.0, 255.4), "uint8"),
        ("uint8", (0.0, 256.0), "int16"),
        ("uint8", (-0.6, 255.0), "int16"),
        ("uint16", (0.0, 65536.0), "int32"),
        ("uint16", (-24.0, 1500.0), "int16"),
        ("int16", (-40000.0, 0.0), "int32"),
        ("int16", (0.0, 3e9), "float32"),
        ("int32", (0.0, 3e9), "float32"),
        ("float32", (0.0, 0.5), "float32"),
        ("float64", (0.0, 0.5), "float64"),
        ("float32", (0.0, 1e200), "float64"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".mha"])
def test_values_are_rounded_and_the_type_grows_instead_of_clipping(
    tmp_path: Path, stored: str, values: tuple[float, float], expected: str, suffix: str
) -> None:
    array = np.zeros(SHAPE)
    array.flat[:2] = values
    volume = Volume(array, OBLIQUE, storage=Storage(np.dtype(stored)))
    assert write_volume(volume, tmp_path / f"a{suffix}").dtype == expected
    back = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / f"a{suffix}")).transpose()
    assert back.dtype == expected
    np.testing.assert_allclose(back, array if expected[0] == "f" else np.rint(array), rtol=1e-7)


@pytest.mark.parametrize(("stored", "expected"), [("uint8", "int16"), ("uint16", "int16"), ("int16", "int16")])
def test_a_difference_is_stored_signed_and_without_intercept(tmp_path: Path, stored: str, expected: str) -> None:
    like = Volume(voxels("uint8"), OBLIQUE, storage=Storage(np.dtype(stored), 0.5, -1024.0))
    array = np.zeros(SHAPE, np.float32)
    array.flat[:2] = -12.5, 12.5
    storage = write_volume(like.with_array(array, kind="difference"), tmp_path / "d.nii.gz")
    assert (storage.dtype, storage.slope, storage.intercept) == (np.dtype(expected), 0.5, 0.0)
    np.testing.assert_array_equal(read_volume(tmp_path / "d.nii.gz").array, array)


def test_a_difference_of_zero_everywhere_is_written(tmp_path: Path) -> None:
    difference = Volume(voxels("int16"), OBLIQUE).with_array(np.zeros(SHAPE, np.float32), kind="difference")
    write_volume(difference, tmp_path / "d.nii")
    assert not np.asanyarray(nib.load(tmp_path / "d.nii").dataobj).any()


def test_a_boolean_mask_is_written_as_uint8_on_the_inputs_grid(tmp_path: Path) -> None:
    save_nifti(tmp_path / "in.nii", voxels("int16"), sform_code=4)
    volume = read_volume(tmp_path / "in.nii")
    mask = volume.with_array(volume.array > 0, kind="mask")
    write_volume(mask, tmp_path / "m.nii.gz")
    written = nib.load(tmp_path / "m.nii.gz")
    assert written.get_data_dtype() == np.uint8 and int(written.header["sform_code"]) == 4
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), volume.array > 0)


@pytest.mark.parametrize("suffix", [".nii", ".nrrd"])
def test_float32_on_request_keeps_fractions(tmp_path: Path, suffix: str) -> None:
    array = voxels("float32")
    like = Volume(voxels("int16"), OBLIQUE, storage=Storage(np.dtype("int16"), 2.0, 3.0))
    write_volume(like.with_array(array), tmp_path / f"a{suffix}", dtype="float32")
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}").array, array)


def test_a_fractional_slope_becomes_float32_where_the_format_has_none(tmp_path: Path) -> None:
    array = (voxels("int16") * np.float32(0.25)).astype(np.float32)
    volume = Volume(array, OBLIQUE, storage=Storage(np.dtype("int16"), 0.25, 0.0))
    assert write_volume(volume, tmp_path / "a.nrrd").dtype == np.float32
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nrrd").array, array)


# NRRD


@pytest.mark.parametrize(
    ("space", "signs"),
    [("left-posterior-superior", (-1, -1)), ("right-anterior-superior", (1, 1)), ("RAS", (1, 1))],
)
def test_the_space_of_a_nrrd_is_honoured(tmp_path: Path, space: str, signs: tuple[int, int]) -> None:
    header = (
        "NRRD0004\ntype: short\ndimension: 3\n"
        f"space: {space}\nsizes: 2 3 4\nspace directions: (2,0,0) (0,0,3) (0,-1.5,0)\n"
        "kinds: domain domain domain\nendian: little\nencoding: raw\nspace origin: (10,-20,30.5)\n"
    )
    array = np.arange(24, dtype="<i2").reshape((2, 3, 4), order="F")
    (tmp_path / "a.nrrd").write_bytes(header.encode() + b"\n" + array.tobytes(order="F"))
    (tmp_path / "b.nhdr").write_text(header + "data file: b.raw\n")
    (tmp_path / "b.raw").write_bytes(array.tobytes(order="F"))
    x, y = signs
    expected = [[2 * x, 0, 0, 10 * x], [0, 0, -1.5 * y, -20 * y], [0, 3, 0, 30.5], [0, 0, 0, 1]]
    for name in ("a.nrrd", "b.nhdr"):
        volume = read_volume(tmp_path / name)
        np.testing.assert_array_equal(volume.array, array)
        np.testing.assert_allclose(volume.affine, expected, atol=1e-12)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mgz"])
@pytest.mark.parametrize("stored", [Storage(np.dtype(np.int16)), Storage(np.dtype(np.int16), 0.375, -3.0)])
def test_what_a_file_will_give_back_is_known_before_it_is_written(tmp_path, suffix, stored):
    values = np.random.default_rng(3).normal(200, 50, (6, 7, 8)).astype(np.float32)
    volume = Volume(values, OBLIQUE, storage=stored)
    path = tmp_path / f"a{suffix}"
    foretold = as_stored(volume, path)
    assert write_volume(volume, path) == foretold.storage
    found = read_volume(path)
    assert found.array.dtype == foretold.array.dtype
    np.testing.assert_array_equal(found.array, foretold.array)
