"""Files whose header, name or packing is unusual, and what is said about what they leave open."""

from __future__ import annotations

import bz2
import gzip
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from image_files import OBLIQUE, SHAPE, assert_one_line, save_nifti, voxels

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import read_volume, write_volume
from BrainDiffLogic.images.nifti import nifti_affine
from BrainDiffLogic.volume import Volume


def patched(path: Path, *patches: tuple[int, bytes]) -> Path:
    """The file with bytes replaced: (offset, new bytes)."""
    content = bytearray(path.read_bytes())
    for offset, new in patches:
        content[offset : offset + len(new)] = new
    path.write_bytes(content)
    return path


def assert_is(path: Path, array: np.ndarray, affine: np.ndarray = OBLIQUE) -> None:
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("offset", [0, 348])
def test_voxels_begin_behind_the_header_whatever_it_says(tmp_path: Path, version: int, offset: int) -> None:
    image = (nib.Nifti1Image if version == 1 else nib.Nifti2Image)(voxels("int16"), OBLIQUE)
    nib.save(image, tmp_path / "a.nii")
    place, number = (108, np.float32(offset)) if version == 1 else (168, np.int64(offset))
    assert_is(patched(tmp_path / "a.nii", (place, number.tobytes())), voxels("int16"))


def test_voxels_right_behind_the_header_are_found(tmp_path: Path) -> None:
    path = patched(save_nifti(tmp_path / "a.nii", voxels("int16")), (108, np.float32(348).tobytes()))
    content = path.read_bytes()
    path.write_bytes(content[:348] + content[352:])
    assert_is(path, voxels("int16"))


def test_what_is_gzipped_is_told_by_the_content(tmp_path: Path) -> None:
    plain = save_nifti(tmp_path / "plain.nii", voxels("int16")).read_bytes()
    (tmp_path / "zipped.nii").write_bytes(gzip.compress(plain))
    (tmp_path / "not_zipped.nii.gz").write_bytes(plain)
    for name in ("zipped.nii", "not_zipped.nii.gz"):
        assert_is(tmp_path / name, voxels("int16"))


@pytest.mark.parametrize("named", ["hdr", "img"])
@pytest.mark.parametrize("zipped", [("hdr", "img"), ("img",), ()])
def test_pairs_are_read_gzipped_or_not(tmp_path: Path, named: str, zipped: tuple[str, ...]) -> None:
    nib.save(nib.Nifti1Pair(voxels("int16"), OBLIQUE), tmp_path / "a.img")
    for part in zipped:
        (tmp_path / f"a.{part}.gz").write_bytes(gzip.compress((tmp_path / f"a.{part}").read_bytes()))
        (tmp_path / f"a.{part}").unlink()
    path = tmp_path / f"a.{named}{'.gz' if named in zipped else ''}"
    assert_is(path, voxels("int16"))
    np.testing.assert_allclose(nifti_affine(path), OBLIQUE, atol=1e-4)


def test_a_pair_without_its_voxels_names_the_missing_file(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(voxels("int16"), OBLIQUE), tmp_path / "a.img")
    (tmp_path / "a.img").unlink()
    with pytest.raises(InputError) as error:
        read_volume(tmp_path / "a.hdr")
    assert_one_line(error, "a.hdr", "a.img is missing")


def test_a_half_turn_whose_quaternion_was_rounded_is_read_and_written_sound(tmp_path: Path) -> None:
    quaternion = np.array([0.7071070, 0.7071100, 0.0], np.float32)  # squared, 5e-6 too long
    path = save_nifti(tmp_path / "a.nii", voxels("int16"), np.diag([2, 2, 2, 1]))
    patched(path, (252, np.array([1, 0], np.int16).tobytes()), (256, quaternion.tobytes()))
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine[:2, :2], [[0, 2], [2, 0]], atol=1e-4)
    np.testing.assert_allclose(volume.affine[2, 2], -2, atol=1e-4)
    write_volume(volume, tmp_path / "b.nii")
    np.testing.assert_allclose(nib.load(tmp_path / "b.nii").affine, volume.affine, atol=1e-5)


def test_dimensions_of_0_behind_the_third_count_as_1(tmp_path: Path) -> None:
    sizes = np.array([4, *SHAPE, 0, 0, 0, 0], np.int16)
    assert_is(patched(save_nifti(tmp_path / "a.nii", voxels("int16")), (40, sizes.tobytes())), voxels("int16"))


@pytest.mark.parametrize("behind", [b"\0" * 512, b"junk" * 9])
def test_what_follows_a_gzipped_file_is_passed_over_as_gunzip_does(tmp_path: Path, behind: bytes) -> None:
    plain = save_nifti(tmp_path / "plain.nii", voxels("int16")).read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(plain[:600]) + gzip.compress(plain[600:]) + behind)
    assert_is(tmp_path / "a.nii.gz", voxels("int16"))


@pytest.mark.parametrize(
    ("name", "sidecar", "agent"),
    [
        ("sub-1_ce-gad_T1w", "", "gad"), ("sub-1_T1w", '{"ContrastBolusIngredient": "GADOLINIUM"}', "GADOLINIUM"),
        ("sub-1_T1w", '{"ContrastBolusIngredient": "none"}', ""), ("sub-1_acq-ce_T1w", "", ""), ("sub-1_T1w", "[", ""),
    ],
)  # fmt: skip
def test_a_contrast_agent_that_name_or_sidecar_tell_is_noted(
    tmp_path: Path, name: str, sidecar: str, agent: str
) -> None:
    path = save_nifti(tmp_path / f"{name}.nii", voxels("int16"))
    if sidecar:
        path.with_suffix(".json").write_text(sidecar)
    expected = f"made with a contrast agent ({agent}), which the shipped models have not seen"
    assert read_volume(path).notes == ((expected,) if agent else ())


def test_a_pipe_is_refused_before_it_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii")
    with pytest.raises(InputError) as error:
        read_volume(tmp_path / "a.nii")
    assert_one_line(error, "a.nii", "pipe")


@pytest.mark.parametrize(("moved", "noted"), [(0.2, False), (3.0, True)])
def test_forms_that_disagree_are_noted(tmp_path: Path, moved: float, noted: bool) -> None:
    image = nib.Nifti1Image(voxels("int16"), OBLIQUE)
    other = OBLIQUE.copy()
    other[1, 3] += moved
    image.set_sform(OBLIQUE, 1)
    image.set_qform(other, 1)
    nib.save(image, tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-4)
    assert any("sform and qform" in note for note in volume.notes) == noted


TRUE_REASONS = {
    "quaternion": (((252, np.array([1, 0], np.int16).tobytes()), (256, np.float32(1.5).tobytes())), "quaternion"),
    "type": (((70, np.int16(1).tobytes()),), "data code 1 not supported"),
    "Analyze": (((344, bytes(4)),), "Analyze"),
    "half a pair": (((344, b"ni1\0"),), "a pair"),
}


@pytest.mark.parametrize("case", TRUE_REASONS)
def test_a_whole_file_is_not_called_damaged(tmp_path: Path, case: str) -> None:
    patches, words = TRUE_REASONS[case]
    with pytest.raises(InputError) as error:
        read_volume(patched(save_nifti(tmp_path / "a.nii", voxels("int16")), *patches))
    assert_one_line(error, "a.nii", words)
    assert "damaged" not in str(error.value)


def test_what_the_libraries_say_of_a_header_stays_off_stderr(tmp_path: Path) -> None:
    odd = patched(save_nifti(tmp_path / "odd.nii", voxels("int16")), (80, np.float32(-0.9).tobytes()))
    (tmp_path / "no.nii").write_bytes(np.int32(348).tobytes() + bytes(600))
    lines = ["from BrainDiffLogic.images import read_volume", f"read_volume({str(odd)!r})"]
    lines += [f"try: read_volume({str(tmp_path / 'no.nii')!r})", "except ValueError as error: print(error)"]
    checkout = Path(__file__).resolve().parents[2]
    child = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=checkout, capture_output=True, text=True)
    assert (child.returncode, child.stderr, child.stdout.count("\n")) == (0, "", 1), child.stderr


def nrrd(path: Path, *lines: str) -> Path:
    """A NRRD of 2 x 3 x 4 voxels with these lines in its header."""
    fixed = ("NRRD0005", "type: short", "dimension: 3", "sizes: 2 3 4", "endian: little", "encoding: raw")
    content = "\n".join((*fixed, *lines)).encode() + b"\n\n" + np.arange(24, dtype="<i2").tobytes()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("space", ["left-anterior-superior", "LAS"])
def test_a_left_anterior_superior_nrrd_lies_where_it_says(tmp_path: Path, space: str) -> None:
    directions = "space directions: (-2,0.1,0) (0,2,0) (0,0,2)"
    volume = read_volume(nrrd(tmp_path / "a.nrrd", f"space: {space}", directions, "space origin: (10,-20,30)"))
    np.testing.assert_array_equal(volume.affine, [[2, 0, 0, -10], [0.1, 2, 0, -20], [0, 0, 2, 30], [0, 0, 0, 1]])
    assert volume.array[1, 2, 3] == 23 and not volume.notes


def twice_gzipped(folder: Path) -> Path:
    plain = save_nifti(folder / "plain.nii", voxels("int16")).read_bytes()
    (folder / "a.nii.gz").write_bytes(gzip.compress(gzip.compress(plain)))
    return folder / "a.nii.gz"


def with_bzip2(folder: Path) -> Path:
    path = nrrd(folder / "a.nrrd", "space: LPS", "space directions: (1,0,0) (0,1,0) (0,0,1)", "space origin: (0,0,0)")
    header, _, raw = path.read_bytes().partition(b"\n\n")
    path.write_bytes(header.replace(b"encoding: raw", b"encoding: bzip2") + b"\n\n" + bz2.compress(raw))
    return path


def without_data(folder: Path) -> Path:
    lines = (
        "ObjectType = Image",
        "NDims = 3",
        "DimSize = 2 3 4",
        "ElementType = MET_SHORT",
        "ElementDataFile = away.raw",
    )
    (folder / "a.mhd").write_bytes("\r\n".join((*lines, "")).encode())
    return folder / "a.mhd"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (twice_gzipped, "gzipped twice"),
        (with_bzip2, "packed with bzip2"),
        (without_data, "data file away.raw is missing"),
    ],
)
def test_the_reason_is_said_where_a_file_is_whole_but_cannot_be_read(
    tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    with pytest.raises(InputError) as error:
        read_volume(make(tmp_path))
    assert_one_line(error, words)
    assert "damaged" not in str(error.value)


def save_uncoded(folder: Path) -> Path:
    path = save_nifti(folder / "a.nii", voxels("int16"))
    return patched(path, (252, bytes(4)))


def save_sizeless(folder: Path) -> Path:
    return patched(save_uncoded(folder), (80, bytes(12)))


def save_plain_mha(folder: Path) -> Path:
    sizes = " ".join(map(str, SHAPE))
    header = f"ObjectType = Image\nNDims = 3\nDimSize = {sizes}\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (folder / "a.mha").write_bytes(header.encode() + voxels("int16").tobytes(order="F"))
    return folder / "a.mha"


NOTED = {
    "NIfTI without form codes": (save_uncoded, "left, the front and the top", "voxel size"),
    "NIfTI without sizes": (save_sizeless, "1 mm is taken", None),
    "NRRD without space": (lambda f: nrrd(f / "a.nrrd", "spacings: 2 2 2"), "left, the back and the top", "voxel size"),
    "NRRD in the scanner's space": (
        lambda f: nrrd(f / "a.nrrd", "space: scanner-xyz", "space directions: (2,0,0) (0,2,0) (0,0,2)"),
        "left, the back and the top",
        "voxel size",
    ),
    "NRRD without sizes": (lambda f: nrrd(f / "a.nrrd"), "1 mm is taken", None),
    "MetaImage without sizes": (save_plain_mha, "1 mm is taken", None),
}


@pytest.mark.parametrize("case", NOTED)
def test_what_a_header_leaves_open_is_noted(tmp_path: Path, case: str) -> None:
    make, words, absent = NOTED[case]
    notes = " ".join(read_volume(make(tmp_path)).notes)
    assert words in notes and (absent is None or absent not in notes)


SPACED = ("space: LPS", "space directions: (1,0,0) (0,1,0) (0,0,1)", "space origin: (0,0,0)")


@pytest.mark.parametrize("unit", ["m", "cm", "um", "inch"])
@pytest.mark.parametrize("field", ["space units", "units"])
def test_a_nrrd_that_is_not_in_mm_is_refused(tmp_path: Path, field: str, unit: str) -> None:
    quoted = " ".join([f'"{unit}"'] * 3)
    lines = (*SPACED, f"{field}: {quoted}") if field == "space units" else ("spacings: 1 1 1", f"{field}: {quoted}")
    with pytest.raises(InputError) as error:
        read_volume(nrrd(tmp_path / "a.nrrd", *lines))
    assert_one_line(error, "a.nrrd", f"lengths in {unit}", "to mm")


@pytest.mark.parametrize("units", ['"mm" "mm" "mm"', '"" "" ""', '"Millimeters" "mm" "mm"'])
def test_a_nrrd_in_mm_or_without_units_is_read(tmp_path: Path, units: str) -> None:
    assert read_volume(nrrd(tmp_path / "a.nrrd", *SPACED, f"space units: {units}")).spacing.tolist() == [1, 1, 1]


def test_a_metaimage_that_is_not_in_mm_is_refused(tmp_path: Path) -> None:
    for unit in ("mm", "um"):
        path = tmp_path / f"{unit}.mha"
        write_volume(Volume(voxels("int16"), np.eye(4)), path)
        path.write_bytes(path.read_bytes().replace(b"NDims = 3\n", f"NDims = 3\nDistanceUnits = {unit}\n".encode()))
    read_volume(tmp_path / "mm.mha")
    with pytest.raises(InputError) as error:
        read_volume(path)
    assert_one_line(error, "um.mha", "lengths in um", "to mm")


@pytest.mark.parametrize("axes", ["-1", "0", "11", "100", "4294967296", "1e308", "", "3\nNDims = 700"])
def test_a_metaimage_of_a_number_of_axes_that_itk_dies_of_is_refused(tmp_path: Path, axes: str) -> None:
    path = tmp_path / "a.mha"
    write_volume(Volume(voxels("int16"), np.eye(4)), path)
    path.write_bytes(path.read_bytes().replace(b"NDims = 3\n", f"NDims = {axes}\n".encode()))
    with pytest.raises(InputError) as error:
        read_volume(path)
    assert_one_line(error, "a.mha", "NDims")


@pytest.mark.parametrize(
    ("line", "instead", "words"),
    [
        (b"TransformMatrix = .*", b"TransformMatrix = 1 0 0 0 1 0 1e308 0 1", ("1e308", "geometry")),
        (b"ElementSpacing = .*", b"ElementSpacing = 1 1e308 1", ("1e308", "geometry")),
        (b"CompressedDataSize = .*\n", b"", ("CompressedDataSize",)),
        (b"CompressedDataSize = .*", b"CompressedDataSize = 0", ("CompressedDataSize",)),
    ],
)
def test_a_metaimage_that_itk_loops_over_or_reads_wrong_is_refused(
    tmp_path: Path, line: bytes, instead: bytes, words: tuple[str, ...]
) -> None:
    path = tmp_path / "a.mha"
    write_volume(Volume(voxels("int16"), np.eye(4)), path)
    read_volume(path)
    path.write_bytes(re.sub(line, instead, path.read_bytes(), count=1))
    with pytest.raises(InputError) as error:
        read_volume(path)
    assert_one_line(error, "a.mha", *words)


@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
@pytest.mark.parametrize("place", [0.2, 0.5, 0.9])
def test_a_metaimage_whose_packed_voxels_are_damaged_is_refused(tmp_path: Path, name: str, place: float) -> None:
    path = tmp_path / name
    write_volume(Volume(np.random.default_rng(0).random((9, 8, 7), np.float32), np.eye(4)), path)
    assert read_volume(path).shape == (9, 8, 7)
    data = path if name == "a.mha" else tmp_path / "a.zraw"
    content = bytearray(data.read_bytes())
    begin = content.find(b"LOCAL\n") + 6 if name == "a.mha" else 0
    content[begin + int(place * (len(content) - begin))] ^= 0xFF
    data.write_bytes(bytes(content))
    with pytest.raises(InputError) as error:
        read_volume(path)
    assert_one_line(error, name, "packed voxels")


@pytest.mark.parametrize(
    "names", ["%s%s%s%s 1 3 1", "s%n.raw 1 3 1", "s%d.raw 1 4 0", "s%d%d.raw 1 4 1", "s%9999d.raw 1 4 1"]
)
@pytest.mark.parametrize("name", ["a.mhd", "a.nhdr"])
def test_numbered_data_files_without_a_pattern_of_names_are_refused(tmp_path: Path, name: str, names: str) -> None:
    meta = "ObjectType = Image\nNDims = 3\nDimSize = 5 6 4\nElementType = MET_UCHAR\nElementDataFile = "
    nrrd = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 5 6 4\nencoding: raw\ndata file: "
    path = tmp_path / name
    for number in range(1, 5):
        (tmp_path / f"s{number}.raw").write_bytes(bytes(range(30)))
    header = nrrd if name.endswith("nhdr") else meta
    path.write_text(f"{header}s%d.raw 1 4 1\n")
    assert read_volume(path).shape == (5, 6, 4)
    path.write_text(f"{header}{names}\n")
    with pytest.raises(InputError) as error:
        read_volume(path)
    assert_one_line(error, name, names[:2])


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".nhdr", ".mha", ".mhd"])
def test_a_header_that_says_all_needs_no_note(tmp_path: Path, suffix: str) -> None:
    write_volume(read_volume(save_nifti(tmp_path / "a.nii", voxels("int16"))), tmp_path / f"b{suffix}")
    assert read_volume(tmp_path / f"b{suffix}").notes == ()
    sitk.WriteImage(sitk.GetImageFromArray(voxels("int16")), str(tmp_path / f"c{suffix}"))
    assert read_volume(tmp_path / f"c{suffix}").notes == ()
