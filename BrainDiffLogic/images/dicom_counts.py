"""How many slices a DICOM series should have, by its headers and by the DICOMDIR that it was exported with."""

from __future__ import annotations

from pathlib import Path

from pydicom import Dataset

from BrainDiffLogic.images.dicom_files import Series, read_header

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
    found = [_in_directory(series, path)]
    header = read_header(series.files[0])
    if header is not None and "NumberOfFrames" not in header:
        found += [(_whole(header.get(keyword)), keyword) for keyword in COUNTS]
        found += [(_private(header, group, creator, at), name) for group, creator, at, name in PRIVATE_COUNTS]
    return max(found)


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
