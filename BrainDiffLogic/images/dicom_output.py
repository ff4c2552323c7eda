"""A volume as a DICOM series derived from the one that it was read from: same patient, study, grid and scale.

Standard attributes of the source are kept, but for those that describe its pixels; private ones, which describe the
acquisition in their makers' terms, are not. A source of one frame a file gives MR Image Storage objects (PS3.3 A.4), an
enhanced multi-frame file gives one of its own kind (A.36).
"""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path

import numpy as np
import pydicom
from pydicom import Dataset, Sequence
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from BrainDiffLogic import __version__
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.derived_series import MANUFACTURER, SOFTWARE, Part, derived_description, derived_number
from BrainDiffLogic.images.dicom_files import text_of, tolerant
from BrainDiffLogic.images.dicom_frames import Frame
from BrainDiffLogic.images.dicom_series import SeriesSource
from BrainDiffLogic.volume import Storage, Volume, rounded_to

SIXTEEN_BITS = (np.dtype(np.int16), np.dtype(np.uint16))
"""What an MR image can hold."""
STALE = (
    "IconImageSequence", "SmallestImagePixelValue", "LargestImagePixelValue", "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries", "DigitalSignaturesSequence", "MACParametersSequence", "InstanceCreatorUID",
    "PixelDataProviderURL", "ReferencedImageEvidenceSequence", "SourceImageEvidenceSequence", "ConcatenationUID",
    "InConcatenationNumber", "InConcatenationTotalNumber", "ConcatenationFrameOffsetNumber", "DerivationImageSequence",
)  # fmt: skip
"""Attributes of other pixels, or of another file."""
PADDING = ("PixelPaddingValue", "PixelPaddingRangeLimit")
OF_VALUES = (
    *PADDING, "VOILUTSequence", "WindowCenterWidthExplanation", "RealWorldValueMappingSequence", "VOILUTFunction",
)  # fmt: skip
"""Attributes that hold for the source's values and not for their differences."""
REQUIRED_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName", "Manufacturer", "PositionReferenceIndicator", "ScanOptions",
    "MRAcquisitionType", "EchoTime", "EchoTrainLength", "RepetitionTime", "PatientPosition",
    "SliceThickness",
)  # fmt: skip
"""Attributes that must be there, be it without a value (type 2 of the modules of an MR image)."""
REQUIRED = {"ScanningSequence": "RM", "SequenceVariant": "NONE", "PhotometricInterpretation": "MONOCHROME2"}
"""Attributes that must have a value, and the one that says no more than is known."""
OVERLAYS_AND_CURVES = (0x50, 0x60)
CODES = {
    "corrected": ("BD0001", "99BRAINDIFF", "Head motion correction"),
    "difference": ("113062", "DCM", "Pixel by pixel subtraction"),
    "source": ("121322", "DCM", "Source image for image processing operation"),
    "equipment": ("109102", "DCM", "Processing Equipment"),
}
LONGEST_DESCRIPTION = 1024
WINDOWED = 99.9
"""Percentile of the sizes of differences that a viewer shows in full black or white."""


@dataclass(frozen=True)
class _Derived:
    """What all files of one derived series share."""

    part: Part
    uid: str
    made: datetime
    description: str
    storage: Storage
    bits: int
    window: float


def write_series(volume: Volume, folder: Path, provenance: str = "") -> Storage:
    """Write the files of a series into a new folder; returns how the values were stored.

    volume      a magnitude ("corrected") or a difference, on the grid of the series that its storage names
    provenance  what was done, for DerivationDescription

    Slope and intercept are the source's, a difference has no intercept. Raises InputError where the volume was not read
    from DICOM, its source is gone, or its values do not fit 16 bits at the source's slope.
    """
    source = _source(volume, folder)
    part: Part = "difference" if volume.kind == "difference" else "corrected"
    stored, storage = _stored(volume, source, folder)
    window = float(np.percentile(np.abs(volume.array), WINDOWED)) if part == "difference" else 0.0
    derived = _Derived(
        part, generate_uid(), datetime.now(), provenance, storage, max(1, int(stored.max()).bit_length()), window
    )
    folder.mkdir(exist_ok=True)
    files = groupby(enumerate(source.frames), key=lambda item: item[1].file)
    with tolerant():
        for number, (file, members) in enumerate(files):
            planes = [(frame, stored[..., k]) for k, frame in members]
            _file(file, planes, derived, number).save_as(folder / f"IM{number + 1:04d}.dcm", enforce_file_format=True)
    return storage


def as_stored_in_series(volume: Volume, folder: Path) -> Volume:
    """What reading the series gives that ``write_series`` makes of a magnitude, without either."""
    source = _source(volume, folder)
    stored, storage = _stored(volume, source, folder)
    real = source.real_values(stored)
    return volume.with_array(real if volume.fill is None else volume.fill.taken_out_of(real), storage=storage)


def _source(volume: Volume, folder: Path) -> SeriesSource:
    storage = volume.storage
    if storage is None or not isinstance(storage.header, SeriesSource):
        raise InputError(f"{folder}: a DICOM series is made from one, {volume.name} is none; name a file")
    return storage.header


def _stored(volume: Volume, source: SeriesSource, folder: Path) -> tuple[np.ndarray, Storage]:
    """(I, J, K) integers to store; each slice by its own frame's slope and intercept."""
    slopes, intercepts = np.array([frame.rescale for frame in source.frames]).T
    difference = volume.kind == "difference"
    if difference:
        intercepts = np.zeros_like(intercepts)
    steps = (volume.with_fill if volume.kind == "magnitude" else volume.array) - intercepts
    steps = np.rint(steps / slopes)
    low, high = float(steps.min()), float(steps.max())
    own = volume.storage.dtype if volume.storage is not None and volume.storage.dtype in SIXTEEN_BITS else None
    types = SIXTEEN_BITS if difference or own is None else (own, *SIXTEEN_BITS)
    shift = 0.0
    fitting = [dtype for dtype in types if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max]
    if not fitting and difference and high - low <= np.iinfo(np.uint16).max and np.ptp(slopes) == 0:
        fitting, shift = [np.dtype(np.uint16)], low
    if not fitting:
        raise InputError(f"{folder}: the values do not fit the 16 bits of an MR image in DICOM; name a .nii.gz file")
    intercept = float(intercepts[0] + shift * slopes[0])
    return rounded_to(steps - shift, fitting[0]), Storage(fitting[0], float(slopes[0]), intercept, "dicom", source)


def _file(file: Path, planes: list[tuple[Frame, np.ndarray]], derived: _Derived, number: int) -> Dataset:
    """The derived counterpart of one file of the source, with the stored values (columns, rows) of its frames."""
    try:
        data = pydicom.dcmread(file, stop_before_pixels=True, force=True)
    except OSError as error:
        raise InputError(f"{file}: cannot be read any more ({error.strerror}); leave the input in place") from error
    frames = int(data.get("NumberOfFrames") or 1)
    if frames != len(planes):
        raise InputError(f"{file}: {len(planes)} of {frames} frames make the volume; name a .nii.gz file as output")
    data.remove_private_tags()
    _drop_stale(data, derived)
    reference = _reference(data)
    if "PerFrameFunctionalGroupsSequence" in data:
        data.SourceImageEvidenceSequence = Sequence([_evidence(data)])
    _set_series(data, derived)
    _set_instance(data, derived, number)
    if "PerFrameFunctionalGroupsSequence" in data:
        _set_functional_groups(data, derived, reference)
    else:
        _set_single(data, derived, reference)
    by_index = sorted(planes, key=lambda plane: plane[0].index)
    _set_pixels(data, np.stack([values.T for _, values in by_index]), derived)
    if data.original_encoding[1] is False:  # values in big endian are decoded, or they stay as they are
        data.walk(lambda dataset, element: None)
        data.set_original_encoding(False, True, data.original_character_set)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return data


def _drop_stale(data: Dataset, derived: _Derived) -> None:
    stale = STALE + (OF_VALUES if derived.part == "difference" else ())
    if bool(int(data.get("PixelRepresentation") or 0)) != (derived.storage.dtype.kind == "i"):
        stale += PADDING
    for places in _every_dataset(data):
        for keyword in stale:
            if keyword in places:
                del places[keyword]
    for tag in list(data.keys()):
        if tag.group >> 8 in OVERLAYS_AND_CURVES or tag.element == 0:
            del data[tag]


def _every_dataset(data: Dataset) -> Iterator[Dataset]:
    """The dataset and its functional groups."""
    yield data
    for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        yield from data.get(name) or ()


def _reference(data: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = data.SOPClassUID
    reference.ReferencedSOPInstanceUID = data.get("SOPInstanceUID", "")
    reference.PurposeOfReferenceCodeSequence = Sequence([_code("source")])
    return reference


def _evidence(data: Dataset) -> Dataset:
    """Study, series and instance of the source, as an enhanced image lists what it refers to."""
    instance, series, study = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    series.SeriesInstanceUID, series.ReferencedSOPSequence = data.SeriesInstanceUID, Sequence([instance])
    study.StudyInstanceUID, study.ReferencedSeriesSequence = data.StudyInstanceUID, Sequence([series])
    return study


def _code(name: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = CODES[name]
    return code


def _set_series(data: Dataset, derived: _Derived) -> None:
    named = text_of(data, "SeriesDescription") or text_of(data, "ProtocolName")
    data.SeriesDescription = derived_description(named, derived.part)
    data.SeriesNumber = derived_number(text_of(data, "SeriesNumber"), derived.part)
    data.SeriesInstanceUID = derived.uid
    data.SeriesDate, data.SeriesTime = derived.made.strftime("%Y%m%d"), derived.made.strftime("%H%M%S")
    data.Modality = "MR"
    if not data.get("StudyInstanceUID"):
        data.StudyInstanceUID = generate_uid(entropy_srcs=[derived.uid, "study"])
    if not data.get("FrameOfReferenceUID"):
        data.FrameOfReferenceUID = generate_uid(entropy_srcs=[derived.uid, "frame of reference"])
    data.ContributingEquipmentSequence = Sequence([*data.get("ContributingEquipmentSequence", ()), _equipment(derived)])


def _equipment(derived: _Derived) -> Dataset:
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = Sequence([_code("equipment")])
    equipment.Manufacturer, equipment.ManufacturerModelName = MANUFACTURER, SOFTWARE
    equipment.SoftwareVersions = __version__
    equipment.ContributionDateTime = derived.made.strftime("%Y%m%d%H%M%S")
    equipment.ContributionDescription = "For research, not for primary diagnosis"
    return equipment


def _set_instance(data: Dataset, derived: _Derived, number: int) -> None:
    data.SOPInstanceUID = generate_uid()
    data.InstanceNumber = number + 1
    for event in ("InstanceCreation", "Content"):
        setattr(data, f"{event}Date", derived.made.strftime("%Y%m%d"))
        setattr(data, f"{event}Time", derived.made.strftime("%H%M%S"))


def _set_single(data: Dataset, derived: _Derived, reference: Dataset) -> None:
    data.SOPClassUID = MRImageStorage
    kind = _beyond_two(data.get("ImageType")) if derived.part == "corrected" else ["OTHER"]
    data.ImageType = ["DERIVED", "SECONDARY", *kind]
    data.SourceImageSequence = Sequence([reference])
    data.DerivationDescription = derived.description[:LONGEST_DESCRIPTION]
    data.DerivationCodeSequence = Sequence([_code(derived.part)])
    for keyword in REQUIRED_EMPTY:
        if keyword not in data:
            setattr(data, keyword, None)
    for keyword, value in REQUIRED.items():
        if not data.get(keyword):
            setattr(data, keyword, value)
    scaled = (derived.storage.slope, derived.storage.intercept) != (1.0, 0.0)
    if scaled or "RescaleSlope" in data or "RescaleIntercept" in data:
        _set_rescale(data, derived)
    if derived.part == "difference":
        _set_window(data, derived)


def _beyond_two(image_type: object) -> list[str]:
    """The values of ImageType from the third on."""
    own = [str(value) for value in image_type][2:] if isinstance(image_type, MutableSequence) else []
    return own or ["OTHER"]


def _set_rescale(data: Dataset, derived: _Derived) -> None:
    """A corrected image keeps the source's own tags; those of a difference have the source's slope."""
    data.RescaleSlope = data.get("RescaleSlope") or 1
    if derived.part == "difference":
        data.RescaleIntercept = _decimal(derived.storage.intercept)
    else:
        data.RescaleIntercept = data.get("RescaleIntercept") or 0
    data.RescaleType = data.get("RescaleType") or "US"


def _decimal(value: float) -> str:
    return f"{value:.10g}"


def _set_window(data: Dataset, derived: _Derived) -> None:
    data.WindowCenter, data.WindowWidth = 0, _decimal(max(2 * derived.window, derived.storage.slope, 1))


def _set_functional_groups(data: Dataset, derived: _Derived, reference: Dataset) -> None:
    """What an enhanced image says a frame: type, derivation, source, and of a difference scale and window."""
    data.ImageType = _enhanced_type(data.get("ImageType"), derived)
    data.pop("MRAcquisitionType", None)  # which only an original enhanced image may have
    for group in _every_dataset(data):
        for frame_type in group.get("MRImageFrameTypeSequence") or ():
            frame_type.FrameType = _enhanced_type(frame_type.get("FrameType"), derived)
        if derived.part == "difference":
            for item in group.get("PixelValueTransformationSequence") or ():
                _set_rescale(item, derived)
            for item in group.get("FrameVOILUTSequence") or ():
                _set_window(item, derived)
    for index, group in enumerate(data.PerFrameFunctionalGroupsSequence):
        frame = Dataset()
        frame.update(reference)
        frame.ReferencedFrameNumber = index + 1
        derivation = Dataset()
        derivation.DerivationDescription = derived.description[:LONGEST_DESCRIPTION]
        derivation.DerivationCodeSequence = Sequence([_code(derived.part)])
        derivation.SourceImageSequence = Sequence([frame])
        group.DerivationImageSequence = Sequence([derivation])


def _enhanced_type(image_type: object, derived: _Derived) -> list[str]:
    done = "SUBTRACTION" if derived.part == "difference" else "NONE"
    return ["DERIVED", "PRIMARY", _beyond_two(image_type)[0], done]  # of an enhanced image SECONDARY is not allowed


def _set_pixels(data: Dataset, stored: np.ndarray, derived: _Derived) -> None:
    """The stored values (frames, rows, columns); with the source's number of bits where they fit it."""
    signed = stored.dtype.kind == "i"
    before = int(data.get("BitsStored") or 16)
    kept = not signed and derived.part == "corrected" and derived.bits <= before <= 16
    data.SamplesPerPixel, data.BitsAllocated, data.BitsStored = 1, 16, before if kept else 16
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(signed)
    data.Rows, data.Columns = stored.shape[1:]
    data.PixelData = np.ascontiguousarray(stored, dtype="<i2" if signed else "<u2").tobytes()
    data["PixelData"].VR = "OW"
