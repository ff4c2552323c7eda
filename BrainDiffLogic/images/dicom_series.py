"""A DICOM series as one volume: its geometry from the position of every slice, and how many slices it should have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.contrast import contrast_notes
from BrainDiffLogic.images.dicom_files import Series, find_series, read_header, tolerant
from BrainDiffLogic.images.dicom_frames import Frame, frames_of, said, spoken_of, stored_pixels
from BrainDiffLogic.images.meta_nrrd import LPS_TO_RAS
from BrainDiffLogic.images.streams import check_voxels, understood
from BrainDiffLogic.volume import Storage, Volume, real_values

COUNTS = ("ImagesInAcquisition", "NumberOfSlices", "NumberOfSeriesRelatedInstances")
PRIVATE_COUNTS = (
    (0x2001, "Philips Imaging DD 001", 0x18, "Philips' number of slices"),
    (0x0021, "GEMS_RELA_01", 0x4F, "GE's locations in acquisition"),
    (0x0025, "GEMS_SERS_01", 0x07, "GE's images in series"),
)
"""Group, creator and element of the makers' own counts."""
DICOMDIR = "DICOMDIR"
LEVELS_UP = 8
"""Folders between a DICOMDIR and the images that it lists, at most."""


def expected_slices(series: Series, path: Path) -> tuple[int, str]:
    """The largest count of the slices of a series, and what gives it; (0, "") where nothing does.

    A series of several frames a file counts its frames itself.
    """
    counts = [_in_directory(series, path)]
    header = read_header(series.files[0])
    if header is not None and "NumberOfFrames" not in header:
        counts += [(_whole(header.get(keyword)), keyword) for keyword in COUNTS]
        counts += [(_private(header, group, creator, at), name) for group, creator, at, name in PRIVATE_COUNTS]
    return max(counts)


def _whole(value: object) -> int:
    try:
        return int(str(value))
    except ValueError:
        return 0


def _private(header: Dataset, group: int, creator: str, element: int) -> int:
    try:
        value = header.private_block(group, creator)[element].value
    except KeyError:
        return 0
    if isinstance(value, bytes):  # of unknown type in implicit files: text, or a number in little endian
        text = value.decode("latin-1").strip("\0 ")
        return int(text) if text.isdigit() else int.from_bytes(value[:4], "little") if len(value) in (2, 4) else 0
    return _whole(value)


def _in_directory(series: Series, path: Path) -> tuple[int, str]:
    """The images that a DICOMDIR above the series lists of it."""
    folder = path if path.is_dir() else path.parent
    for above in (folder, *folder.resolve().parents[:LEVELS_UP]):
        listed = next((above / name for name in (DICOMDIR, DICOMDIR.lower()) if (above / name).is_file()), None)
        if listed is not None:
            return _listed(listed, series.uid), f"{listed.name} lists them"
    return 0, ""


def _listed(directory: Path, uid: str) -> int:
    header = read_header(directory)
    count, inside = 0, False
    for record in (header.get("DirectoryRecordSequence") or ()) if header is not None else ():
        kind = record.get("DirectoryRecordType")
        if kind == "SERIES":
            inside = str(record.get("SeriesInstanceUID", "")) == uid
        count += inside and kind == "IMAGE"
    return count


SPACING_TOLERANCE = 0.05
"""Largest deviation of a slice from even spacing, as a share of the spacing (headers round positions)."""
SKIPPED_TOLERANCE = 0.05
"""By how much, as a share, a step may miss a multiple of the header's and still tell of slices that are missing."""
DIRECTION_TOLERANCE = 1e-3
"""Largest difference of the direction cosines of two slices of one volume."""
TILTED = 0.5
"""By how many voxels the last slice may lie beside the first along their planes."""
APART = (
    "EchoTime", "EffectiveEchoTime", "InversionTime", "ImageType", "FrameType", "ComplexImageComponent", "FlipAngle",
    "TemporalPositionIdentifier", "TemporalPositionIndex", "AcquisitionNumber", "DiffusionBValue", "TriggerTime",
    "ContentTime", "InstanceNumber",
)  # fmt: skip
"""What may tell apart two images at one position."""


@dataclass(frozen=True)
class SeriesSource:
    """What a volume was read from, so that a derived series can be written: the frames in the order of the slices."""

    frames: tuple[Frame, ...]

    def real_values(self, raw: np.ndarray) -> np.ndarray:
        """(I, J, K) of stored integers, each slice by its own scale: as they are, or as float32 or float64."""
        slopes, intercepts = np.array([frame.rescale for frame in self.frames]).T
        if np.ptp(slopes) == 0 and np.ptp(intercepts) == 0:
            scaled = (slopes[0], intercepts[0]) != (1.0, 0.0)
            return real_values(raw, float(slopes[0]), float(intercepts[0])) if scaled else raw
        array = raw * slopes + intercepts
        exact = np.abs(array).max() * np.finfo(np.float32).eps < np.abs(slopes).min() / 4
        return array.astype(np.float32) if exact else array


def read_dicom_series(path: Path, wanted: str | None = None, kind: str = "magnitude") -> Volume:
    """One series as a volume: of a folder, or that of a given file (``dicom_files.find_series``).

    Frames are ordered by position, whatever the files are called; a second copy of one is passed over. Refused with
    InputError: no series or several that may be meant, mosaic or colour files, no voxel size, slices of different
    size or orientation, several images at one position, missing slices (uneven spacing, or fewer than the header
    counts), slices shifted against one another (gantry tilt).
    """
    with understood(path, "DICOM"), tolerant():
        series, notes = find_series(path, wanted)
        frames = _ordered([frame for file in series.files for frame in frames_of(file)], path)
        pixels = _Pixels()
        frames, copies = _without_copies(frames, pixels)
        step = _slice_step(frames, path)
        _check_count(series, frames, path)
        check_voxels(path, (*frames[0].size, len(frames)))
        array, storage = _voxels(frames, pixels)
    first = frames[0]
    affine = np.eye(4)
    affine[:3, :2] = LPS_TO_RAS @ (first.direction[:, :2] * first.spacing[:2])
    affine[:3, 2], affine[:3, 3] = LPS_TO_RAS @ step, LPS_TO_RAS @ first.position
    notes = (*notes, *copies, *contrast_notes(series.text("ContrastBolusAgent")))
    return Volume.read(array, affine + 0.0, notes, kind=kind, storage=storage, source=str(path))


class _Pixels:
    """The stored values of frames; of a file with many, all are kept until another file is asked for."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._frames = np.empty((0, 0, 0))

    def of(self, frame: Frame) -> np.ndarray:
        """(columns, rows) of one frame."""
        if frame.file != self._file:
            self._file, self._frames = frame.file, stored_pixels(frame.file)
        if frame.index >= len(self._frames) or self._frames.shape[:0:-1] != frame.size:
            raise InputError(f"{frame.file}: this file of the DICOM series is damaged; export the series again")
        return self._frames[frame.index].T


def _voxels(frames: list[Frame], pixels: _Pixels) -> tuple[np.ndarray, Storage]:
    """(I, J, K) real values, and how they were stored."""
    planes = [pixels.of(frame) for frame in frames]
    raw = np.stack(planes, axis=-1)
    source = SeriesSource(tuple(frames))
    array = source.real_values(raw)
    if len({frame.rescale for frame in frames}) > 1:
        return array, Storage(array.dtype, format="dicom", header=source)
    return array, Storage(raw.dtype, *frames[0].rescale, "dicom", source)


def _ordered(frames: list[Frame], path: Path) -> list[Frame]:
    first = frames[0]
    for other in frames[1:]:
        if other.size != first.size or not np.allclose(other.spacing[:2], first.spacing[:2], rtol=1e-4):
            raise InputError(f"{path}: slices of different size or pixel spacing; keep the files of one scan only")
        if np.abs(other.direction - first.direction).max() > DIRECTION_TOLERANCE:
            raise InputError(f"{path}: slices of different orientation (a localizer?); give a 3D scan")
    return sorted(frames, key=lambda frame: float(frame.position @ first.direction[:, 2]))


def _slice_step(frames: list[Frame], path: Path) -> np.ndarray:
    """(3,) LPS mm from one slice to the next; InputError unless all slices are one such step apart."""
    first = frames[0]
    if len(frames) == 1:
        return first.direction[:, 2] * first.spacing[2]
    positions = np.array([frame.position for frame in frames])
    gaps = np.diff(positions @ first.direction[:, 2])
    usual = float(np.median(gaps))
    if gaps.min() <= SPACING_TOLERANCE * usual or usual <= 0:
        at = int(np.argmin(gaps))
        raise InputError(f"{path}: several images lie at one position, {_told_apart(*frames[at : at + 2])}")
    if gaps.max() > 1.5 * usual:
        after, missing = frames[int(np.argmax(gaps))], int(np.rint(gaps / usual - 1).sum())
        where = f"{missing}, the first after {_name(after)}"
        raise InputError(f"{path}: slices are missing ({where}); export the scan again")
    step = (positions[-1] - positions[0]) / (len(frames) - 1)
    even = positions[0] + np.arange(len(frames))[:, None] * step
    if np.abs((even - positions) @ first.direction[:, 2]).max() > SPACING_TOLERANCE * usual:
        raise InputError(
            f"{path}: the slices are not evenly spaced ({gaps.min():.3f} to {gaps.max():.3f} mm); "
            "resample the scan to even spacing or export it again"
        )
    _check_tilt(positions, first, path)
    _check_skipped(first, float(np.linalg.norm(step)), path)
    return step


def _check_skipped(first: Frame, step: float, path: Path) -> None:
    """Refuse slices at twice, thrice, ... the distance that the header gives: those between are missing.

    A 3D acquisition has no gaps, so that without SpacingBetweenSlices the thickness is the distance. Of a 2D one some
    scanners give the gap instead of the distance.
    """
    header = read_header(first.file)
    if header is None:
        return
    places = spoken_of(header, first.index)
    between, thickness = (_length(places, keyword) for keyword in ("SpacingBetweenSlices", "SliceThickness"))
    volumetric = _text(places, "MRAcquisitionType") == "3D"
    if not volumetric and between < thickness and np.isclose(between + thickness, step, rtol=SKIPPED_TOLERANCE):
        return
    wanted = between or (thickness if volumetric else 0.0)
    times = round(step / wanted) if wanted else 0
    if times >= 2 and np.isclose(step, times * wanted, rtol=SKIPPED_TOLERANCE):
        raise InputError(
            f"{path}: slices are missing (they lie {step:.4g} mm apart, {times} times the {wanted:.4g} mm that the"
            " header gives); export the scan again"
        )


def _text(places: list[Dataset], keyword: str) -> str:
    try:
        return str(said(places, keyword))
    except ValueError:
        return ""


def _length(places: list[Dataset], keyword: str) -> float:
    """In mm; 0 where a header gives none."""
    try:
        length = abs(float(_text(places, keyword)))
    except ValueError:
        return 0.0
    return length if np.isfinite(length) else 0.0


def _check_tilt(positions: np.ndarray, first: Frame, path: Path) -> None:
    """Refuse slices that are shifted along their own planes: their stack is no box but leans."""
    beside = (positions - positions[0]) @ (first.direction[:, :2] / first.spacing[:2])
    if np.abs(beside).max() <= TILTED:
        return
    along = (positions - positions[0]) @ first.direction[:, 2]
    shift = np.linalg.norm(beside[-1] * first.spacing[:2])
    angle = np.degrees(np.arctan2(shift, along[-1]))
    raise InputError(
        f"{path}: the slices are shifted against one another, by {shift:.1f} mm from first to last (gantry tilt of"
        f" {angle:.1f} degrees?); resample the scan to a straight grid (dcm2niix does) first"
    )


def _told_apart(one: Frame, other: Frame) -> str:
    """What the headers of two images at one position say differently."""
    spoken = [spoken_of(header, frame.index) for frame in (one, other) if (header := read_header(frame.file))]
    for keyword in APART:
        values = [str(said(places, keyword)) for places in spoken]
        if len(set(values)) > 1:
            told = f" ({keyword} {' and '.join(values)})"
            break
    else:
        told = ""
    return f"{_name(one)} and {_name(other)} for one{told}; keep those of one volume"


def _name(frame: Frame) -> str:
    return frame.file.name if frame.index == 0 else f"frame {frame.index + 1} of {frame.file.name}"


def _check_count(series: Series, frames: list[Frame], path: Path) -> None:
    """Refuse a scan whose last slices are missing, which even spacing cannot show, as far as something counts them."""
    expected, said_by = expected_slices(series, path)
    if expected > len(frames) and (expected % len(frames) or len(frames) == 1):
        raise InputError(
            f"{path}: slices are missing, {len(frames)} of {expected} are there ({said_by}); export the scan again"
        )


def _without_copies(frames: list[Frame], pixels: _Pixels) -> tuple[list[Frame], tuple[str, ...]]:
    """The frames but those that show once more what lies at the same position, and a note of them."""
    kept: list[Frame] = []
    left = []
    for frame in frames:
        twin = kept[-1] if kept and np.allclose(frame.position, kept[-1].position, atol=1e-3) else None
        if twin is None or frame.rescale != twin.rescale or not np.array_equal(pixels.of(frame), pixels.of(twin)):
            kept.append(frame)
        else:
            left.append(frame)
    if not left:
        return kept, ()
    others = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return kept, (f"passed over what another file shows already: {_name(left[0])}{others}",)
