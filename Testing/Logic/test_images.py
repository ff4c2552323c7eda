"""Files of every format to volumes and back, on the same grid, and what is refused."""

from __future__ import annotations

import gzip
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.orientations import inv_ornt_aff

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import check_output, nifti, read_volume, staged_output, write_volume
from BrainDiffLogic.volume import Storage, Volume

SHAPE = (5, 6, 7)
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
DTYPES = ("uint8", "int16", "uint16", "int32", "float32", "float64")
ORIENTATIONS = [
    np.column_stack([axes, flips])
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, -0.2, 0.3) @ np.diag([0.9, 1.1, 1.3]), [-81.25, 12.5, 30.1]
)
LPS = np.diag([-1.0, -1.0, 1.0])


def voxels(dtype: str, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Random voxels over the whole range of an integer type."""
    rng = np.random.default_rng(1)
    if np.dtype(dtype).kind == "f":
        return rng.normal(300, 100, shape).astype(dtype)
    limits = np.iinfo(dtype)
    array = rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    array.flat[0], array.flat[1] = limits.min, limits.max
    return array


def oriented(orientation: np.ndarray, affine: np.ndarray = OBLIQUE) -> np.ndarray:
    """The affine of the array after its axes were permuted and flipped."""
    return affine @ inv_ornt_aff(orientation, SHAPE)


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray = OBLIQUE, **fields: object) -> Path:
    """A NIfTI-1 made with nibabel alone; ``fields`` are set in its header."""
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def assert_one_line(error: pytest.ExceptionInfo[InputError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


# Round trips


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_volume_comes_back_with_the_same_bits_type_and_grid(
    tmp_path: Path, dtype: str, suffix: str
) -> None:
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
    write_volume(
        volume.with_array(volume.array[::-1].astype(np.float32)), tmp_path / "out.nii.gz", like=volume
    )
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
    np.testing.assert_array_equal(
        nib.load(tmp_path / "out.nii").affine, nib.load(tmp_path / "big.nii").affine
    )
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
    np.testing.assert_allclose(
        volume.array, nib.load(path).get_fdata(), rtol=1e-7, atol=1e-6 * abs(intercept)
    )
    storage = write_volume(volume, tmp_path / "out.nii.gz")
    assert storage.dtype == dtype
    old, new = nib.load(path).dataobj, nib.load(tmp_path / "out.nii.gz").dataobj
    assert (new.slope, new.inter) == (old.slope, old.inter)
    np.testing.assert_array_equal(new.get_unscaled(), old.get_unscaled())


def test_scaled_int16_is_read_as_float32_and_int32_as_float64() -> None:
    from BrainDiffLogic.images.stored_values import real_values

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
    back = read_volume(tmp_path / f"a{suffix}").array
    assert back.dtype == expected
    np.testing.assert_allclose(back, array if expected[0] == "f" else np.rint(array), rtol=1e-7)


@pytest.mark.parametrize(
    ("stored", "expected"), [("uint8", "int16"), ("uint16", "int32"), ("int16", "int16")]
)
def test_a_difference_is_stored_signed_and_without_intercept(
    tmp_path: Path, stored: str, expected: str
) -> None:
    like = Volume(voxels("uint8"), OBLIQUE, storage=Storage(np.dtype(stored), 0.5, -1024.0))
    array = np.zeros(SHAPE, np.float32)
    array.flat[:2] = -12.5, 12.5
    difference = Volume(array, OBLIQUE, kind="difference")
    storage = write_volume(difference, tmp_path / "d.nii.gz", like=like)
    assert (storage.dtype, storage.slope, storage.intercept) == (np.dtype(expected), 0.5, 0.0)
    np.testing.assert_array_equal(read_volume(tmp_path / "d.nii.gz").array, array)


def test_a_difference_of_zero_everywhere_is_written(tmp_path: Path) -> None:
    difference = Volume(np.zeros(SHAPE, np.float32), OBLIQUE, kind="difference")
    write_volume(difference, tmp_path / "d.nii", like=Volume(voxels("int16"), OBLIQUE))
    assert not np.asanyarray(nib.load(tmp_path / "d.nii").dataobj).any()


def test_a_boolean_mask_is_written_as_uint8_on_the_inputs_grid(tmp_path: Path) -> None:
    save_nifti(tmp_path / "in.nii", voxels("int16"), sform_code=4)
    volume = read_volume(tmp_path / "in.nii")
    mask = volume.with_array(volume.array > 0, kind="mask")
    write_volume(mask, tmp_path / "m.nii.gz", like=volume)
    written = nib.load(tmp_path / "m.nii.gz")
    assert written.get_data_dtype() == np.uint8 and int(written.header["sform_code"]) == 4
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), volume.array > 0)


@pytest.mark.parametrize("suffix", [".nii", ".nrrd"])
def test_float32_on_request_keeps_fractions(tmp_path: Path, suffix: str) -> None:
    array = voxels("float32")
    like = Volume(voxels("int16"), OBLIQUE, storage=Storage(np.dtype("int16"), 2.0, 3.0))
    write_volume(like.with_array(array), tmp_path / f"a{suffix}", like=like, dtype="float32")
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


# What is refused


def nifti_of(array: np.ndarray) -> Callable[[Path], Path]:
    return lambda folder: save_nifti(folder / "bad.nii.gz", array)


def itk_of(array: np.ndarray, name: str, vector: bool = False) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(folder / name))
        return folder / name

    return make


def truncated(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write_volume(Volume(voxels("int16", (20, 20, 20)), OBLIQUE), folder / name)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
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
    zeros = np.zeros(4, "f4")
    return save_nifti(folder / "bad.nii", voxels("int16"), sform_code=1, srow_y=zeros)


def colour(folder: Path) -> Path:
    dtype = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, dtype), OBLIQUE), folder / "bad.nii.gz")
    return folder / "bad.nii.gz"


def analyze(folder: Path) -> Path:
    nib.save(nib.AnalyzeImage(voxels("int16"), np.eye(4)), folder / "bad.img")
    return folder / "bad.img"


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
    "analyze": (analyze, "Analyze"),
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
    code = f"from BrainDiffLogic.images import read_volume\nread_volume({str(path)!r})"
    checkout = Path(__file__).resolve().parents[2]
    child = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True)
    assert child.returncode == 1 and child.stdout == ""
    assert "MetaImage" not in child.stderr and child.stderr.strip().splitlines()[-1].startswith(
        "BrainDiffLogic."
    )


# Outputs


def a_file(folder: Path, name: str = "in.nii.gz") -> Path:
    write_volume(Volume(voxels("int16"), OBLIQUE), folder / name)
    return folder / name


@pytest.mark.parametrize("name", ["out.docx", "out", "out.gz", "out.hdr", "out.dcm"])
def test_an_output_of_unknown_type_is_refused(tmp_path: Path, name: str) -> None:
    for call in (
        lambda: check_output(tmp_path / name),
        lambda: write_volume(Volume(voxels("int16"), OBLIQUE), tmp_path / name),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert_one_line(error, name, ".nii.gz")
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


def test_an_output_must_not_replace_the_data_file_of_an_input(tmp_path: Path) -> None:
    path = a_file(tmp_path, "in.nhdr")
    (tmp_path / "in.raw.gz").rename(tmp_path / "in.zraw")
    path.write_text(path.read_text().replace("in.raw.gz", "in.zraw"))
    with pytest.raises(InputError, match="would replace the input"):
        check_output(tmp_path / "in.mhd", [path], overwrite=True)


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


def test_a_failed_write_leaves_the_old_file_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


# DICOM


def save_series(
    folder: Path,
    array: np.ndarray,
    affine: np.ndarray = OBLIQUE,
    uid: str = "1.2.3.4.1",
    tags: dict[str, str] | None = None,
    skip: tuple[int, ...] = (),
) -> list[Path]:
    """The slices of ``array`` as DICOM files in random order of names; returns the files by slice."""
    folder.mkdir(exist_ok=True)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    lps = LPS @ affine[:3]
    direction = lps[:, :3] / spacing
    names = [f"IM{number:04d}.dcm" for number in range(array.shape[2])]
    random.Random(3).shuffle(names)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, name in enumerate(names):
        if k in skip:
            continue
        image = sitk.GetImageFromArray(array[:, :, k : k + 1].transpose())
        image.SetSpacing([*spacing[:2], spacing[2]])
        image.SetOrigin((lps @ [0, 0, k, 1]).tolist())
        image.SetDirection(direction.ravel().tolist())
        position = "\\".join(f"{x:.10g}" for x in lps @ [0, 0, k, 1])
        cosines = "\\".join(f"{x:.12f}" for x in direction[:, :2].T.ravel())
        own = {"0008|0060": "MR", "0020|000e": uid, "0020|000d": "1.2.3.4", "0008|103e": f"t1 {uid[-1]}"}
        own |= {"0008|0018": f"{uid}.{k}", "0020|0032": position, "0020|0037": cosines, "0020|0013": str(k)}
        for key, value in (own | (tags or {})).items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / name))
        writer.Execute(image)
    return [folder / name for k, name in enumerate(names) if k not in skip]


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
    save_series(tmp_path / "series", real, tags={"0028|1053": "0.25", "0028|1052": "-100"})
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
        files = save_series(tmp_path / f"s{k}", piece, tags={"0028|1053": "0.5", "0028|1052": "0"})
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
    assert_one_line(error, str(folder), "2 DICOM series", "t1 7: 7 files", "t1 8: 7 files", "one file")
    np.testing.assert_array_equal(read_volume(files[2]).array, voxels("int16"))
    np.testing.assert_array_equal(read_volume(folder / "first3").array, voxels("uint16"))


@pytest.mark.parametrize(
    ("tags", "skip", "words"),
    [
        ({}, (3,), "1 slices seem to be missing"),
        ({}, (2, 3), "2 slices seem to be missing"),
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
    for shape, turn, words in (
        (SHAPE, ORIENTATIONS[20], "orientation"),
        ((5, 5, 7), ORIENTATIONS[0], "size"),
    ):
        folder = tmp_path / words
        files = save_series(folder, voxels("int16"))
        other = save_series(tmp_path / "other", voxels("int16", shape), oriented(turn))
        other[3].replace(files[3])
        with pytest.raises(InputError, match=f"different {words}"):
            read_volume(folder)


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
    assert_one_line(error, "series", "export it again")
    assert capfd.readouterr() == ("", "")


def test_a_colour_dicom_is_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(voxels("uint8", (1, 5, 6, 3)), isVector=True)
    image.SetMetaData("0020|000e", "1.2.9")
    sitk.WriteImage(image, str(tmp_path / "a.dcm"))
    with pytest.raises(InputError, match="colour"):
        read_volume(tmp_path / "a.dcm")
