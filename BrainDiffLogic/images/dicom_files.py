"""The DICOM series in a folder, however it was exported, and which of them is the T1-weighted head."""

from __future__ import annotations

import logging
import re
import struct
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pydicom
from pydicom import Dataset, config
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import MediaStorageDirectoryStorage

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.files import folders_below
from BrainDiffLogic.images.contrast import is_agent, speaks_of_contrast
from BrainDiffLogic.images.outputs import starts_as_dicom

LISTED = 6
"""Series that a message names."""
T1 = re.compile(r"t1|mp2?rage|spgr|bravo|tfl|tfe|vibe|ir.?fspgr", re.IGNORECASE)
NOT_T1 = re.compile(
    r"t2|flair|dwi|dti|diff|adc|trace|ep2d|bold|fmri|swi|swan|tof|angio|mra\b|asl|perf|field.?map|b0|b1|loc|scout"
    r"|survey|\bpd|pd_|map\b|phase|mosaic",
    re.IGNORECASE,
)
HEAD = re.compile(r"head|brain|skull|neuro|kopf|cerebr|^$", re.IGNORECASE)
UNREADABLE = (
    InvalidDicomError, BytesLengthException, EOFError, ValueError, KeyError, TypeError, NotImplementedError,
    AttributeError, struct.error,
)  # fmt: skip
"""What pydicom raises of a damaged file, or of one tag of it."""
SLICE_SUFFIXES = ("", ".dcm", ".ima")
SHORTEST_SLICE = 512
"""Bytes of a file that can be a slice."""
FEWEST_SLICES = 16
"""Of a head in a scan that can be corrected; a localizer has fewer."""
LONGEST_TE, LONGEST_TR, SHORTEST_TI, LONGEST_TI = 25.0, 900.0, 400.0, 1400.0
"""Echo, repetition and inversion times in ms of T1 weighting: short TE, with a short TR or an inversion of tissue."""
DERIVED_NAME = re.compile(r"BrainDiff \w+ \(research\)$")
"""How the description of a series that BrainDiff wrote ends."""
GROUPING = (
    "SOPClassUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "ProtocolName", "Modality", "ImageType",
    "NumberOfFrames", "Rows", "BodyPartExamined", "EchoTime", "RepetitionTime", "InversionTime", "ContrastBolusAgent",
    "SpecificCharacterSet",
)  # fmt: skip


_settings = threading.RLock()


@dataclass(frozen=True)
class Series:
    """The files of one series, and the header of one of them."""

    uid: str
    files: tuple[Path, ...]
    slices: int
    header: Dataset

    def text(self, keyword: str) -> str:
        """What the header says (``text_of``)."""
        return text_of(self.header, keyword)

    @property
    def number(self) -> str:
        """SeriesNumber, "" where there is none."""
        return self.text("SeriesNumber")

    @property
    def description(self) -> str:
        """What the scanner's user called it."""
        return self.text("SeriesDescription") or self.text("ProtocolName") or "unnamed"

    def __str__(self) -> str:
        return f'{self.number or self.uid} "{self.description}" ({self.slices} slices)'

    @cached_property
    def is_t1_head(self) -> bool:
        """Whether the header speaks of a T1-weighted MR scan of a head."""
        if self.text("Modality") not in ("MR", "") or self.slices < FEWEST_SLICES:
            return False
        named = f"{self.text('SeriesDescription')} {self.text('ProtocolName')}"
        if not HEAD.search(self.text("BodyPartExamined")) or NOT_T1.search(named):
            return False
        return bool(T1.search(named)) or self._has_t1_times()

    def _has_t1_times(self) -> bool:
        try:
            te, tr = float(self.text("EchoTime")), float(self.text("RepetitionTime"))
            ti = float(self.text("InversionTime") or 0)
        except ValueError:
            return False
        return 0 < te < LONGEST_TE and (0 < tr < LONGEST_TR or SHORTEST_TI <= ti <= LONGEST_TI)

    @property
    def is_first_choice(self) -> bool:
        """Whether it comes from the scanner as it is, and no contrast agent is spoken of."""
        derived = self.text("ImageType").upper().startswith("DERIVED")
        given = is_agent(self.text("ContrastBolusAgent")) or speaks_of_contrast(self.text("SeriesDescription"))
        return not derived and not given


def text_of(header: Dataset, keyword: str) -> str:
    """What a header says, as one line; "" where it says nothing, or what cannot be read."""
    with tolerant():
        try:
            value = header.get(keyword, "")
        except UNREADABLE:
            return ""
    parts = [value] if isinstance(value, str) or not isinstance(value, Iterable) else value
    return " ".join(" ".join(str(part) for part in parts if part is not None).replace("\0", "").split())


def find_series(path: Path, wanted: str | None = None) -> tuple[Series, tuple[str, ...]]:
    """The series that a file belongs to, or the one of a folder, and notes on how it was chosen.

    A folder that has no images itself stands for all that lies below it, as PACS and CDs (DICOMDIR) export. Of several
    series ``wanted``, a series number or UID, chooses; else the only T1-weighted head. InputError where no or several
    are left.
    """
    if path.is_file():
        header = read_header(path)
        if header is None:
            raise InputError(f"{path}: this is no DICOM file, or it is damaged; export it again")
        if header.file_meta.get("MediaStorageSOPClassUID") != MediaStorageDirectoryStorage:
            present = list(grouped(path.parent.iterdir()))
            own = [one for one in present if path in one.files] or [Series("", (path,), 1, header)]
            return _named(present, wanted, path) if wanted else (own[0], ())
        path = path.parent
    below = (file for _, files in folders_below(path) for file in files)
    present = list(grouped(path.iterdir())) or list(grouped(below))
    if not present:
        raise InputError(f"{path}: no DICOM image lies in this folder; give the folder of the series' files")
    chosen, notes = _named(present, wanted, path) if wanted else _chosen(present, path)
    folders = {file.parent for file in chosen.files}
    if len(folders) == 1 and folders != {path}:
        notes = (f"read from the folder {next(iter(folders)).relative_to(path)} below", *notes)
    return chosen, (*notes, *_too_short(folders))


def _too_short(folders: set[Path]) -> tuple[str, ...]:
    """A note of files beside a series that may be slices of which a copy kept nothing."""
    files = (file for folder in folders for file in sorted(folder.iterdir()) if not file.name.startswith("."))
    short = [
        file.name for file in files
        if file.suffix.lower() in SLICE_SUFFIXES and file.is_file() and file.stat().st_size < SHORTEST_SLICE
    ]  # fmt: skip
    if not short:
        return ()
    others = f" and {len(short) - 1} more" if len(short) > 1 else ""
    return (
        f"passed over {short[0]}{others}, which holds next to nothing: if that is a slice, export the series again",
    )


def grouped(files: Iterable[Path]) -> Iterator[Series]:
    """The image series among files, in the order of their numbers."""
    headers: dict[str, list[tuple[Path, Dataset]]] = {}
    for file in sorted(file for file in files if file.is_file()):
        header = read_header(file, GROUPING)
        if header is not None and "SOPClassUID" in header:
            headers.setdefault(text_of(header, "SeriesInstanceUID"), []).append((file, header))
    series = [_series(uid, members) for uid, members in headers.items()]
    yield from sorted((one for one in series if one.slices), key=lambda one: (len(one.number), one.number, one.uid))


def _series(uid: str, members: list[tuple[Path, Dataset]]) -> Series:
    """The images among the members; of another member's kind without an image (a damaged one) also the file."""
    images = [header for _, header in members if "Rows" in header]
    kinds = {text_of(header, "SOPClassUID") for header in images}
    files = tuple(file for file, header in members if text_of(header, "SOPClassUID") in kinds)
    return Series(uid, files, sum(_frames(header) for header in images), images[0] if images else members[0][1])


def read_header(file: Path, tags: tuple[str, ...] | None = None) -> Dataset | None:
    """All that a DICOM file says before its pixels; None for a file of another type, or one that is beyond reading."""
    if not starts_as_dicom(file):
        return None
    with tolerant():
        try:
            wanted = list(tags) if tags else None
            return pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=wanted)
        except UNREADABLE:
            return None


def is_derived_series(folder: Path) -> bool:
    """Whether a folder holds nothing but the files of series that BrainDiff wrote."""
    for file in folder.iterdir():
        header = read_header(file, ("SeriesDescription",)) if file.is_file() else None
        if header is None or not DERIVED_NAME.search(text_of(header, "SeriesDescription")):
            return False
    return True


@contextmanager
def tolerant() -> Iterator[None]:
    """pydicom reads what breaks the rules without a word; one thread at a time, as its settings are the process's."""
    with _settings:
        mode, level = config.settings.reading_validation_mode, config.logger.level
        config.settings.reading_validation_mode = config.IGNORE
        config.logger.setLevel(logging.CRITICAL)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            config.settings.reading_validation_mode = mode
            config.logger.setLevel(level)


def _frames(header: Dataset) -> int:
    try:
        return max(1, int(header.get("NumberOfFrames") or 1))
    except (ValueError, TypeError):
        return 1


def _listed(series: list[Series]) -> str:
    return "; ".join(map(str, series[:LISTED])) + ("; ..." if len(series) > LISTED else "")


def _named(present: list[Series], wanted: str, path: Path) -> tuple[Series, tuple[str, ...]]:
    same = [one for one in present if wanted in (one.uid, one.number) or wanted == one.number.lstrip("0")]
    if len(same) == 1:
        return same[0], ()
    if not same:
        raise InputError(f"{path}: no series has the number or UID {wanted}; there are {_listed(present)}")
    uids = ", ".join(one.uid for one in same[:LISTED])
    raise InputError(f"{path}: {len(same)} series have the number {wanted}; name one by its UID: {uids}")


def _chosen(present: list[Series], path: Path) -> tuple[Series, tuple[str, ...]]:
    if len(present) == 1:
        return present[0], ()
    heads = [one for one in present if one.is_t1_head]
    left = [one for one in heads if one.is_first_choice] if len(heads) > 1 else heads
    if len(left) == 1:
        return left[0], (f"of {len(present)} series the only T1-weighted head was taken: {left[0]}",)
    several = f"{len(left or heads)} may be T1-weighted heads" if heads else "none is plainly a T1-weighted head"
    raise InputError(
        f"{path}: {len(present)} DICOM series, {several}: {_listed(present)}; give a file of the one you mean"
        " (braindiff correct also takes --series NUMBER)"
    )
