"""DICOM series as scanners write them, made with pydicom from an array, to read and to correct."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, Sequence, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

LPS = np.diag([-1.0, -1.0, 1.0])
PATIENT = {
    "PatientName": "Test^Head", "PatientID": "T1", "PatientBirthDate": "19700101", "PatientSex": "F",
    "StudyDate": "20260102", "StudyTime": "101500", "StudyID": "S1", "AccessionNumber": "A1",
    "ReferringPhysicianName": "Nobody^Test", "StudyDescription": "Head", "Manufacturer": "Maker",
    "ManufacturerModelName": "Tesla3", "MagneticFieldStrength": "3", "SoftwareVersions": "V1",
    "PatientPosition": "HFS", "PositionReferenceIndicator": "", "BodyPartExamined": "HEAD",
}  # fmt: skip
T1 = {
    "SeriesDescription": "t1_mprage_sag", "ProtocolName": "t1_mprage_sag", "SeriesNumber": 4,
    "SeriesDate": "20260102", "SeriesTime": "101700", "AcquisitionDate": "20260102", "AcquisitionTime": "101700",
    "ContentDate": "20260102", "ContentTime": "101800", "AcquisitionNumber": 1,
    "ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM"], "Modality": "MR",
    "ScanningSequence": ["GR", "IR"], "SequenceVariant": "SP", "ScanOptions": "", "MRAcquisitionType": "3D",
    "EchoTime": "2.98", "RepetitionTime": "2300", "InversionTime": "900", "FlipAngle": "9", "EchoTrainLength": 1,
    "WindowCenter": "400", "WindowWidth": "900",
}  # fmt: skip


def save_mr_series(
    folder: Path,
    array: np.ndarray,
    affine: np.ndarray,
    tags: Mapping[str, Any] | None = None,
    skip: tuple[int, ...] = (),
    name: Callable[[int], str] = "I{:03d}".format,
    change: Callable[[Dataset, int], None] | None = None,
    implicit: bool = False,
) -> list[Path]:
    """One MR Image Storage file a slice, without extension, numbered against their positions; returns the files.

    array   (I, J, K) stored integers
    affine  (4, 4) IJK to RAS mm, right-handed in the order columns, rows, slices
    change  called with the dataset and k before it is saved
    """
    folder.mkdir(parents=True, exist_ok=True)
    common = {"StudyInstanceUID": "1.2.3.4", "SeriesInstanceUID": generate_uid(), "FrameOfReferenceUID": "1.2.3.9"}
    files = []
    for k in (k for k in range(array.shape[2]) if k not in skip):
        data = _dataset(MRImageStorage, array[:, :, k].T, {**PATIENT, **T1, **common, **(tags or {})}, implicit)
        data.InstanceNumber = array.shape[2] - k
        for keyword, value in _plane(affine, k).items():
            setattr(data, keyword, value)
        if change is not None:
            change(data, k)
        files.append(folder / name(k))
        data.save_as(files[-1], enforce_file_format=True)
    return files


def save_enhanced(file: Path, array: np.ndarray, affine: np.ndarray, order: list[int] | None = None) -> Path:
    """One Enhanced MR file; its frames in ``order`` (default: against their positions)."""
    slices = list(reversed(range(array.shape[2]))) if order is None else order
    rescale = {"RescaleSlope": "2", "RescaleIntercept": "-10", "RescaleType": "US"}
    tags = {**PATIENT, **T1, "StudyInstanceUID": "1.2.3.4", "SeriesInstanceUID": generate_uid()}
    for keyword in ("WindowCenter", "WindowWidth", "ScanningSequence", "SequenceVariant", "EchoTime", "RepetitionTime"):
        tags.pop(keyword)
    data = _dataset(EnhancedMRImageStorage, np.stack([array[:, :, k].T for k in slices]), tags, False)
    data.FrameOfReferenceUID, data.NumberOfFrames, data.InstanceNumber = "1.2.3.9", len(slices), 1
    data.ImageType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
    shared = Dataset()
    frame_type = {"FrameType": ["ORIGINAL", "PRIMARY", "M", "NONE"]}
    for name, values in {
        "PixelMeasures": {key: _plane(affine, 0)[key] for key in ("PixelSpacing", "SliceThickness")},
        "PlaneOrientation": {"ImageOrientationPatient": _plane(affine, 0)["ImageOrientationPatient"]},
        "PixelValueTransformation": rescale, "MRImageFrameType": frame_type,
        "FrameVOILUT": {"WindowCenter": "400", "WindowWidth": "900"},
    }.items():  # fmt: skip
        setattr(shared, f"{name}Sequence", Sequence([_item(values)]))
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for index, k in enumerate(slices):
        group = Dataset()
        position = {"ImagePositionPatient": _plane(affine, k)["ImagePositionPatient"]}
        group.PlanePositionSequence = Sequence([_item(position)])
        group.FrameContentSequence = Sequence([_item({"StackID": "1", "InStackPositionNumber": index + 1})])
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence = Sequence(groups)
    file.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(file, enforce_file_format=True)
    return file


def big_endian(file: Path) -> None:
    """Rewrite a file in explicit big endian."""
    data = dcmread(file)
    data.PixelData = data.pixel_array.astype(">i2").tobytes()
    data.walk(lambda dataset, element: None)  # decodes every value
    data.set_original_encoding(is_implicit_vr=False, is_little_endian=False, character_encoding=None)
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    data.save_as(file)


def _item(values: Mapping[str, Any]) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _plane(affine: np.ndarray, k: int) -> dict[str, Any]:
    spacing, lps = np.linalg.norm(affine[:3, :3], axis=0), LPS @ affine[:3]
    return {
        "ImagePositionPatient": [f"{x:.9g}" for x in lps @ [0, 0, k, 1]],
        "ImageOrientationPatient": [f"{x:.9g}" for x in (lps[:, :2] / spacing[:2]).T.ravel()],
        "PixelSpacing": [f"{spacing[1]:.9g}", f"{spacing[0]:.9g}"], "SliceThickness": f"{spacing[2]:.9g}",
    }  # fmt: skip


def _dataset(sop_class: str, pixels: np.ndarray, tags: Mapping[str, Any], implicit: bool) -> Dataset:
    data = _item(tags)
    data.SOPClassUID, data.SOPInstanceUID = sop_class, generate_uid()
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape[-2:]
    data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(pixels.dtype.kind == "i")
    data.PixelData = np.ascontiguousarray(pixels).tobytes()
    data["PixelData"].VR = "OW"
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return data
