"""DICOM as people get it: exports with several series, folders in folders, other syntaxes, missing slices."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from image_files import LPS, OBLIQUE, STORED_INT16, assert_one_line, save_series, voxels
from pydicom import Dataset
from pydicom.fileset import FileSet

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import read_volume
from Harness.dicom import big_endian, save_enhanced, save_mr_series

GRID = OBLIQUE if np.linalg.det(LPS @ OBLIQUE[:3, :3]) > 0 else OBLIQUE @ np.diag([1, 1, -1, 1])
SLICES, STEP = 20, 1.3


def array(slices: int = SLICES, dtype: str = "int16") -> np.ndarray:
    return voxels(dtype, (5, 6, slices))


def assert_is(path: Path, expected: np.ndarray, **choice: Any) -> None:
    volume = read_volume(path, **choice)
    np.testing.assert_array_equal(volume.array, expected)
    np.testing.assert_allclose(volume.affine, GRID, atol=1e-5)


# Several series


def a_study(folder: Path, *tags: dict[str, Any], slices: int = SLICES) -> None:
    for number, own in enumerate(tags):
        described = {"SeriesNumber": number + 1, "ProtocolName": "", **own}
        save_mr_series(folder, array(slices) + number, GRID, described, name=lambda k, n=number: f"s{n}_{k}")


LOCALIZER = {"SeriesDescription": "localizer"}
FLAIR = {"SeriesDescription": "t2_flair", "EchoTime": "120", "InversionTime": "2500"}
MPRAGE = {"SeriesDescription": "sag mprage"}
NAMELESS = {"SeriesDescription": "Ser 3"}


@pytest.mark.parametrize(
    "head", [MPRAGE, NAMELESS, {"SeriesDescription": "t1 spgr", "EchoTime": "", "SeriesNumber": 7}]
)
def test_the_only_t1_head_of_a_study_is_taken_and_noted(tmp_path: Path, head: dict[str, Any]) -> None:
    a_study(tmp_path, LOCALIZER, FLAIR, head)
    assert_is(tmp_path, array() + 2)
    (note,) = read_volume(tmp_path).notes
    assert "of 3 series the only T1-weighted head" in note and head["SeriesDescription"] in note
    assert f"({SLICES} slices)" in note


@pytest.mark.parametrize(
    "other",
    [
        {"SeriesDescription": "t1 mprage gd"},
        {"SeriesDescription": "t1 mprage", "ContrastBolusAgent": "Gadovist"},
        {"SeriesDescription": "t1 mprage MPR cor", "ImageType": ["DERIVED", "SECONDARY", "MPR"]},
        {"SeriesDescription": "t1 mprage BrainDiff corrected (research)", "ImageType": ["DERIVED", "SECONDARY", "M"]},
        {"SeriesDescription": "t1 knee", "BodyPartExamined": "KNEE"},
    ],
)
def test_the_scan_as_it_was_measured_comes_before_what_contrast_or_a_computer_changed(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    a_study(tmp_path, other, MPRAGE)
    assert_is(tmp_path, array() + 1)


@pytest.mark.parametrize(
    "name", ["t1 mprage pre contrast", "t1 mprage precontrast", "t1_mprage_without_gd", "t1_space"]
)
def test_a_scan_that_says_that_it_has_no_contrast_agent_is_taken(tmp_path: Path, name: str) -> None:
    a_study(tmp_path, {"SeriesDescription": "t1 mprage post contrast"}, {"SeriesDescription": name})
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.array, array() + 1)
    assert not [note for note in volume.notes if "contrast agent" in note]


@pytest.mark.parametrize(("agent", "noted"), [("Gadovist", True), ("NONE", False), ("No contrast", False), ("", False)])
def test_a_contrast_agent_is_noted(tmp_path: Path, agent: str, noted: bool) -> None:
    a_study(tmp_path, {**MPRAGE, "ContrastBolusAgent": agent})
    notes = read_volume(tmp_path).notes
    expected = "made with a contrast agent (Gadovist), which the shipped models have not seen"
    assert notes == ((expected,) if noted else ())


@pytest.mark.parametrize("second", [{"SeriesDescription": "t1 repeat"}, {"SeriesDescription": "mprage"}])
def test_two_t1_heads_are_listed_and_chosen_by_number_or_uid(tmp_path: Path, second: dict[str, Any]) -> None:
    a_study(tmp_path, MPRAGE, second, LOCALIZER)
    with pytest.raises(InputError) as error:
        read_volume(tmp_path)
    listed = ('1 "sag mprage" (20 slices)', f'2 "{second["SeriesDescription"]}" (20 slices)', '3 "localizer"')
    assert_one_line(error, "3 DICOM series, 2 may be T1-weighted heads", *listed, "--series NUMBER")
    assert_is(tmp_path, array() + 1, series="2")
    uid = pydicom.dcmread(tmp_path / "s0_0").SeriesInstanceUID
    assert_is(tmp_path, array(), series=uid)
    assert_is(tmp_path / "s1_3", array() + 1)
    assert_is(tmp_path / "s1_3", array() + 2, series="3")


def test_a_number_that_no_series_or_several_have_is_refused(tmp_path: Path) -> None:
    a_study(tmp_path, MPRAGE, {**FLAIR, "SeriesNumber": 1})
    for wanted, words in (("5", "no series has the number or UID 5"), ("1", "2 series have the number 1")):
        with pytest.raises(InputError) as error:
            read_volume(tmp_path, wanted)
        assert_one_line(error, words)


def test_without_a_t1_head_the_series_are_listed(tmp_path: Path) -> None:
    a_study(tmp_path, LOCALIZER, FLAIR)
    with pytest.raises(InputError) as error:
        read_volume(tmp_path)
    assert_one_line(error, "none is plainly a T1-weighted head", '"t2_flair"')


# Folders, names and syntaxes


def test_an_export_spread_over_folders_is_one_series(tmp_path: Path) -> None:
    files = save_mr_series(tmp_path / "in", array(), GRID)
    (tmp_path / "in" / "README").write_text("exported by a PACS")
    for number, file in enumerate(files):
        folder = tmp_path / "cd" / "DICOM" / f"P{number // 8}" / "S1"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / f"IM{number % 8:05d}")
    assert_is(tmp_path / "cd", array())
    assert_is(tmp_path / "in", array())


def a_cd(folder: Path) -> Path:
    """A CD with a DICOMDIR; returns its folder."""
    disc = FileSet()
    for file in save_mr_series(folder / "in", array(), GRID):
        disc.add(file)
    disc.write(folder / "cd")
    return folder / "cd"


def test_a_cd_is_read_by_its_folder_and_by_its_dicomdir(tmp_path: Path) -> None:
    disc = a_cd(tmp_path)
    assert_is(disc, array())
    assert_is(disc / "DICOMDIR", array())


def test_a_file_that_the_dicomdir_lists_and_the_cd_lacks_is_missed(tmp_path: Path) -> None:
    disc = a_cd(tmp_path)
    last = max((file for file in disc.rglob("*") if file.is_file() and file.name != "DICOMDIR"), key=_height)
    last.unlink()
    with pytest.raises(InputError) as error:
        read_volume(disc)
    assert_one_line(error, "slices are missing, 19 of 20 are there", "DICOMDIR")


def _height(file: Path) -> float:
    data = pydicom.dcmread(file)
    return float(np.dot(data.ImagePositionPatient, np.cross(*np.split(np.array(data.ImageOrientationPatient), 2))))


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000", "RLE"])
@pytest.mark.parametrize("dtype", ["int16", "uint16"])
def test_compressed_syntaxes_give_the_same_values(tmp_path: Path, compressor: str, dtype: str) -> None:
    values = voxels(dtype, (64, 48, 3))  # GDCM's encoder of JPEG 2000 crashes on smaller slices
    files = save_series(tmp_path / "a", values, GRID, compressor=compressor)
    assert pydicom.dcmread(files[0]).file_meta.TransferSyntaxUID.is_compressed
    assert_is(tmp_path / "a", values)


def test_a_compressed_series_keeps_stored_integers_and_scale(tmp_path: Path) -> None:
    tags = {"0028|1053": "0.25", "0028|1052": "-100"} | STORED_INT16
    real = voxels("int16", (64, 48, 3)) * 0.25 - 100
    save_series(tmp_path / "a", real, GRID, tags=tags, compressor="JPEG2000")
    volume = read_volume(tmp_path / "a")
    np.testing.assert_array_equal(volume.array, real)
    assert volume.storage is not None
    assert (volume.storage.dtype, volume.storage.slope, volume.storage.intercept) == (np.int16, 0.25, -100)


def without_preamble(file: Path) -> None:
    file.write_bytes(file.read_bytes()[132:])


def bare(file: Path) -> None:
    data = pydicom.dcmread(file)
    data.file_meta, data.preamble = pydicom.dataset.FileMetaDataset(), None
    pydicom.dcmwrite(file, data, implicit_vr=True, little_endian=True, enforce_file_format=False)


@pytest.mark.parametrize("change", [big_endian, without_preamble, bare])
def test_files_of_other_byte_orders_and_without_a_preamble_are_read(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    for file in save_mr_series(tmp_path / "a", array(4), GRID):
        change(file)
    assert_is(tmp_path / "a", array(4))


@pytest.mark.parametrize("high", [11, 15])
def test_only_the_bits_that_are_stored_count(tmp_path: Path, high: int) -> None:
    """Twelve bits of sixteen, with an overlay in the others."""
    values = np.random.default_rng(0).integers(-2048, 2048, (5, 6, 4)).astype(np.int16)

    def twelve(data: Dataset, k: int) -> None:
        data.BitsStored, data.HighBit = 12, high
        shifted = (values[:, :, k].T.astype(np.uint16) & 0xFFF) << (high - 11)
        data.PixelData = (shifted | (0x5000 if high == 11 else 0x5)).astype(np.uint16).tobytes()

    save_mr_series(tmp_path / "a", values, GRID, change=twelve)
    assert_is(tmp_path / "a", values)


def a_table(data: Dataset, k: int) -> None:
    data.ModalityLUTSequence = [pydicom.Dataset()]
    data.ModalityLUTSequence[0].ModalityLUTType = "US"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (a_table, "Modality LUT"),
        (lambda data, k: setattr(data, "RescaleSlope", "0"), "(0028,1053), Rescale Slope, is 0"),
        (lambda data, k: setattr(data, "PixelSpacing", ["2", "-2"]), "(0028,0030), Pixel Spacing, is not above 0"),
        (lambda data, k: setattr(data, "ImagePositionPatient", ["1", "2"]), "does not hold 3 numbers"),
        (lambda data, k: data.pop("ImageOrientationPatient"), "does not say where its slice lies"),
        (lambda data, k: setattr(data, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "no two unit vectors"),
    ],
)
def test_a_tag_that_makes_no_sense_is_named(
    tmp_path: Path, change: Callable[[Dataset, int], object], words: str
) -> None:
    save_mr_series(tmp_path / "a", array(4), GRID, change=change)
    with pytest.raises(InputError) as error:
        read_volume(tmp_path / "a")
    assert_one_line(error, "I000", words)


def test_what_lies_beside_a_series_is_passed_over_and_empty_slices_are_noted(tmp_path: Path) -> None:
    files = save_mr_series(tmp_path / "a", array(), GRID)
    report = pydicom.dcmread(files[0])
    for keyword in ("Rows", "Columns", "PixelData"):
        del report[keyword]
    report.SOPClassUID, report.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.3.4.5"
    report.save_as(tmp_path / "a" / "report.dcm")
    (tmp_path / "a" / "Thumbs.db").write_bytes(bytes(5000))
    (tmp_path / "a" / "._I001").write_bytes(b"\0\5\x16\7" + bytes(300))
    assert_is(tmp_path / "a", array())
    assert read_volume(tmp_path / "a").notes == ()
    files[-1].write_bytes(b"")
    assert "I019, which holds next to nothing" in read_volume(tmp_path / "a").notes[0]


def test_what_breaks_the_rules_but_is_understood_leaves_no_line_on_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    files = save_mr_series(tmp_path / "a", array(4), GRID, {"SpecificCharacterSet": "ISO_IR 100"})
    for file in files:
        file.write_bytes(
            file.read_bytes().replace(b"ISO_IR 100", b"NONSENSE  ").replace(b"t1_mprage_sag ", b"t1 K\xf6pfe      ")
        )
    recwarn.clear()
    assert_is(tmp_path / "a", array(4))
    assert capfd.readouterr() == ("", "") and not list(recwarn)


# Enhanced multi-frame


@pytest.mark.parametrize("order", [None, [3, 0, 5, 1, 4, 2]])
def test_an_enhanced_file_is_a_volume_whatever_the_order_of_its_frames(tmp_path: Path, order: list[int] | None) -> None:
    file = save_enhanced(tmp_path / "a" / "multi", array(6, "uint16"), GRID, order)
    for path in (file, file.parent):
        assert_is(path, array(6, "uint16") * 2.0 - 10)


def changed(file: Path, change: Callable[[Dataset], None]) -> Path:
    data = pydicom.dcmread(file)
    change(data)
    data.save_as(file)
    return file


def test_frames_with_scales_of_their_own_keep_their_values(tmp_path: Path) -> None:
    def rescale(data: Dataset) -> None:
        for index, group in enumerate(data.PerFrameFunctionalGroupsSequence):
            group.PixelValueTransformationSequence = [pydicom.Dataset()]
            scale = group.PixelValueTransformationSequence[0]
            scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = str(1 + index), "-10", "US"

    changed(save_enhanced(tmp_path / "multi", array(6, "uint16"), GRID, list(range(6))), rescale)
    assert_is(tmp_path / "multi", array(6, "uint16") * np.arange(1.0, 7.0) - 10)


def test_frames_without_a_place_and_frames_of_two_echoes_are_refused(tmp_path: Path) -> None:
    file = changed(
        save_enhanced(tmp_path / "none", array(6, "uint16"), GRID),
        lambda data: data.pop("PerFrameFunctionalGroupsSequence"),
    )
    with pytest.raises(InputError) as error:
        read_volume(file)
    assert_one_line(error, "6 frames that do not say where they lie")

    def echoes(data: Dataset) -> None:
        for index, group in enumerate(data.PerFrameFunctionalGroupsSequence):
            group.MREchoSequence = [pydicom.Dataset()]
            group.MREchoSequence[0].EffectiveEchoTime = 2.5 if index < 3 else 4.9
            place = data.PerFrameFunctionalGroupsSequence[index % 3].PlanePositionSequence
            group.PlanePositionSequence = place

    with pytest.raises(InputError) as error:
        read_volume(changed(save_enhanced(tmp_path / "two" / "a", array(6, "uint16"), GRID), echoes))
    assert_one_line(error, "several images lie at one position", "EffectiveEchoTime 2.5 and 4.9")


# Missing slices, and slices that lean


def gives(**tags: Any) -> Callable[[Dataset, int], object]:
    return lambda data, k: [setattr(data, keyword, value) for keyword, value in tags.items()]


def philips(data: Dataset, k: int) -> None:
    data.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x18, "SL", SLICES)


def ge(data: Dataset, k: int) -> None:
    data.private_block(0x0021, "GEMS_RELA_01", create=True).add_new(0x4F, "SS", SLICES)


COUNTS = [gives(ImagesInAcquisition=SLICES), gives(NumberOfSlices=SLICES), philips, ge]


@pytest.mark.parametrize("end", [0, SLICES - 1])
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("implicit", [True, False])
def test_a_slice_missing_at_an_end_is_missed_where_something_counts(
    tmp_path: Path, end: int, count: Callable[[Dataset, int], None], implicit: bool
) -> None:
    save_mr_series(tmp_path / "whole", array(), GRID, change=count, implicit=implicit)
    assert_is(tmp_path / "whole", array())
    save_mr_series(tmp_path / "part", array(), GRID, change=count, skip=(end,), implicit=implicit)
    with pytest.raises(InputError) as error:
        read_volume(tmp_path / "part")
    assert_one_line(error, "slices are missing, 19 of 20 are there", "export the scan again")


def test_a_count_of_two_echoes_or_of_nothing_misses_no_slice(tmp_path: Path) -> None:
    for number, count in enumerate((2 * SLICES, 0, "")):
        save_mr_series(tmp_path / str(number), array(), GRID, change=gives(ImagesInAcquisition=count))
        assert_is(tmp_path / str(number), array())


@pytest.mark.parametrize(("shift", "refused"), [(0.3, True), (0.01, False)])
def test_slices_that_lean_are_refused_with_the_angle(tmp_path: Path, shift: float, refused: bool) -> None:
    tilted = GRID.copy()
    tilted[:3, 2] += shift * GRID[:3, 1]

    def as_scanned(data: Dataset, k: int) -> None:
        data.ImagePositionPatient = [f"{x:.9g}" for x in LPS @ (tilted @ [0, 0, k, 1])[:3]]

    save_mr_series(tmp_path / "a", array(), GRID, change=as_scanned)
    if not refused:
        np.testing.assert_allclose(read_volume(tmp_path / "a").affine, tilted, atol=1e-5)
        return
    with pytest.raises(InputError) as error:
        read_volume(tmp_path / "a")
    angle = np.degrees(np.arctan(shift * 1.1 / 1.3))
    assert_one_line(error, f"gantry tilt of {angle:.1f} degrees", "straight grid")


@pytest.mark.parametrize("every", [2, 3])
@pytest.mark.parametrize(
    "tags",
    [{}, {"SpacingBetweenSlices": STEP}, {"MRAcquisitionType": "2D", "SpacingBetweenSlices": STEP},
     {"SliceThickness": 2 * STEP, "SpacingBetweenSlices": STEP}, {"SpacingBetweenSlices": 0}],
)  # fmt: skip
def test_every_second_or_third_slice_alone_is_refused(tmp_path: Path, tags: dict[str, Any], every: int) -> None:
    lost = tuple(k for k in range(SLICES) if k % every)
    save_mr_series(tmp_path, array(), GRID, change=gives(**tags), skip=lost)
    with pytest.raises(InputError) as error:
        read_volume(tmp_path)
    assert_one_line(error, "slices are missing", f"{every} times")


@pytest.mark.parametrize(
    "tags",
    [{"MRAcquisitionType": "2D", "SliceThickness": STEP / 2},
     {"MRAcquisitionType": "2D", "SliceThickness": 1.1, "SpacingBetweenSlices": 0.2},
     {"SliceThickness": STEP / 2, "SpacingBetweenSlices": STEP}, {"SliceThickness": 2 * STEP},
     {"SliceThickness": 0.87}, {"SliceThickness": 0}, {"SliceThickness": ""}],
)  # fmt: skip
def test_gaps_that_were_meant_and_slices_that_overlap_are_read(tmp_path: Path, tags: dict[str, Any]) -> None:
    save_mr_series(tmp_path, array(), GRID, change=gives(**tags))
    assert_is(tmp_path, array())
