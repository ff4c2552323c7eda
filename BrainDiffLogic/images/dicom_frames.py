"""What a DICOM file, of one frame or many, says of the place, size and scale of each frame, and its stored values."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom import Dataset
from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.tag import Tag
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.dicom_files import UNREADABLE, read_header, tolerant
from BrainDiffLogic.images.meta_nrrd import quiet

PIXELS = (
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation",
)  # fmt: skip
"""What tells a decoder how to read the pixels."""

SHOWN = 60
"""Characters of a wrong value that a message shows."""


@dataclass(frozen=True)
class Frame:
    """One slice of a series.

    index      among the frames of its file, from 0
    position   (3,) LPS mm, centre of the first voxel
    direction  (3, 3) LPS, columns are the image's rows, columns and normal
    spacing    (3,) mm between columns, rows and, as far as the header says so, slices
    size       columns, rows
    rescale    slope, intercept
    """

    file: Path
    index: int
    position: np.ndarray
    direction: np.ndarray
    spacing: np.ndarray
    size: tuple[int, int]
    rescale: tuple[float, float]


def frames_of(file: Path) -> Iterator[Frame]:
    """The frames of a file; InputError, naming the file and the tag, where it shows no grey slices with a place."""
    header = read_header(file)
    if header is None or "Rows" not in header or "Columns" not in header:
        raise _damaged(file)
    with tolerant():
        try:
            samples, number = int(header.get("SamplesPerPixel") or 1), int(header.get("NumberOfFrames") or 1)
            palette = "PALETTE" in str(header.get("PhotometricInterpretation", ""))
            groups = len(header.get("PerFrameFunctionalGroupsSequence", ()))
        except UNREADABLE as error:
            raise _damaged(file) from error
        if samples > 1 or palette:
            raise InputError(f"{file}: a colour image; give the grey-value scan it was made from")
        if number > 1 and groups != number:
            raise InputError(f"{file}: {number} frames that do not say where they lie; export the original scan")
        for index in range(number):
            yield _frame(file, index, spoken_of(header, index))


def _damaged(file: Path) -> InputError:
    return InputError(f"{file}: this file of the DICOM series is damaged; export the series again")


def spoken_of(header: Dataset, index: int) -> list[Dataset]:
    """What speaks of a frame, the nearest first: its functional groups, the shared ones, the file as a whole."""
    items = []
    for name, item in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        groups = header.get(name) or []
        if item < len(groups):
            items += [element.value[0] for element in groups[item] if element.VR == "SQ" and element.value]
    return [*items, header]


def said(places: list[Dataset], keyword: str) -> Any:
    """The value of a tag where it is first given; None where it is not, or empty."""
    for place in places:
        if keyword in place:
            try:
                value = place[keyword].value
            except UNREADABLE as error:
                raise _no_number(keyword, str(place.get_item(keyword).value)) from error
            if value not in (None, "") and not (isinstance(value, bytes) and not value.strip(b"\0 ")):
                return value
    return None


def _no_number(keyword: str, value: str) -> ValueError:
    return ValueError(f"tag {_named(keyword)} is no number: {value[:SHOWN]!r}")


def _named(keyword: str) -> str:
    tag = Tag(tag_for_keyword(keyword) or 0)
    return f"({tag.group:04x},{tag.element:04x}), {dictionary_description(tag)},"


def _numbers(places: list[Dataset], keyword: str, count: int, default: float | None = None) -> np.ndarray | None:
    """(count,) float64 of a tag; None where it is absent without a default. ValueError says which tag is wrong."""
    value = said(places, keyword)
    if value is None:
        return None if default is None else np.full(count, default)
    try:
        numbers = np.array([float(part) for part in (value if count > 1 else [value])])
    except (ValueError, TypeError) as error:
        raise _no_number(keyword, str(value)) from error
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ValueError(f"tag {_named(keyword)} does not hold {count} numbers: {str(value)[:SHOWN]}")
    return numbers


def _above_0(places: list[Dataset], keyword: str) -> int:
    numbers = _numbers(places, keyword, 1)
    if numbers is None or numbers[0] < 1:
        raise ValueError(f"tag {_named(keyword)} is not above 0")
    return int(numbers[0])


def _frame(file: Path, index: int, places: list[Dataset]) -> Frame:
    try:
        if "MOSAIC" in str(said(places, "ImageType") or "").upper():
            raise InputError(
                f"{file}: a mosaic of many slices in one image; convert it to .nii.gz (dcm2niix does) first"
            )
        if said(places, "ModalityLUTSequence"):
            raise InputError(f"{file}: its values go through a table (Modality LUT); export the original scan")
        position, cosines = _numbers(places, "ImagePositionPatient", 3), _numbers(places, "ImageOrientationPatient", 6)
        if position is None or cosines is None:
            raise InputError(f"{file}: does not say where its slice lies; export the original scan")
        size = (_above_0(places, "Columns"), _above_0(places, "Rows"))
        return Frame(file, index, position, _direction(cosines), _spacing(file, places), size, _rescale(places))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{file}: {error}; export the scan again") from error


def _direction(cosines: np.ndarray) -> np.ndarray:
    rows, columns = cosines[:3], cosines[3:]
    normal = np.cross(rows, columns)
    if not 0.99 < float(np.linalg.norm(normal)) < 1.01:
        raise ValueError(f"tag {_named('ImageOrientationPatient')} holds no two unit vectors at a right angle")
    return np.column_stack([rows, columns, normal / np.linalg.norm(normal)])


def _spacing(file: Path, places: list[Dataset]) -> np.ndarray:
    pixels = _numbers(places, "PixelSpacing", 2)
    if pixels is None:
        raise InputError(f"{file}: the voxel size is missing (PixelSpacing, tag 0028,0030); export the original scan")
    if pixels.min() <= 0:
        raise ValueError(f"tag {_named('PixelSpacing')} is not above 0: {pixels[0]:g}\\{pixels[1]:g}")
    between = _numbers(places, "SpacingBetweenSlices", 1)
    if between is None or between[0] == 0:
        between = _numbers(places, "SliceThickness", 1, default=1.0)
    return np.array([pixels[1], pixels[0], abs(float(between[0])) if between is not None else 1.0])


def _rescale(places: list[Dataset]) -> tuple[float, float]:
    slope, intercept = _numbers(places, "RescaleSlope", 1, 1.0), _numbers(places, "RescaleIntercept", 1, 0.0)
    if slope is None or intercept is None or slope[0] == 0:
        raise ValueError(f"tag {_named('RescaleSlope')} is 0")
    return float(slope[0]), float(intercept[0])


def stored_pixels(file: Path) -> np.ndarray:
    """(frames, rows, columns) of the stored integers of a file, decompressed; InputError for damaged pixels."""
    with tolerant():
        try:
            data = pydicom.dcmread(file, force=True)
            if "TransferSyntaxUID" not in data.file_meta:  # a bare data set
                implicit, little = data.original_encoding
                native_syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
                data.file_meta.TransferSyntaxUID = native_syntax if little else ExplicitVRBigEndian
            syntax = data.file_meta.TransferSyntaxUID
            native = not syntax.is_encapsulated or syntax == RLELossless
            pixels = _decoded(data) if native else _decompressed(data)
        except (*UNREADABLE, RuntimeError, OSError) as error:
            raise _damaged(file) from error
    return pixels.reshape(-1, *pixels.shape[-2:])


def _decoded(data: Dataset) -> np.ndarray:
    """The stored values through pydicom, without the bits around them, which may hold an overlay."""
    allocated, stored = int(data.BitsAllocated), int(data.get("BitsStored") or data.BitsAllocated)
    above = allocated - 1 - int(data.get("HighBit") or stored - 1)
    data.BitsStored, data.HighBit = allocated, allocated - 1
    pixels = np.asarray(data.pixel_array)
    return (pixels << above) >> (allocated - stored) if stored < allocated else pixels


def _decompressed(data: Dataset) -> np.ndarray:
    """The stored values through GDCM, which knows every JPEG; from a copy without rescale, so that it applies none."""
    bare = Dataset()
    for keyword in PIXELS:
        if keyword in data:
            bare[keyword] = data[keyword]
    bare["PixelData"] = data["PixelData"]
    bare.SOPClassUID, bare.SOPInstanceUID, bare.Modality = SecondaryCaptureImageStorage, generate_uid(), "OT"
    bare.file_meta = pydicom.dataset.FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = data.file_meta.TransferSyntaxUID
    with tempfile.TemporaryDirectory() as folder, quiet():
        bare.save_as(Path(folder) / "a.dcm", enforce_file_format=True)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(Path(folder) / "a.dcm"))
        return sitk.GetArrayFromImage(reader.Execute())
