"""NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd) files through ITK, which keeps geometry in LPS."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.outputs import DATA, HEADER_BYTES, META, files_read
from BrainDiffLogic.images.streams import check_voxels, understood
from BrainDiffLogic.volume import Storage, Volume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
LONGEST_FIELD = 900
"""Bytes of a line of a NRRD header; of 1,024 ITK dies where it cannot follow them and says why."""
MOST_AXES = 10
"""Of a MetaImage; of more ITK dies."""
AXES_LINE = re.compile(r"^[ \t]*NDims[ \t]*[=:]?[ \t]*(.*?)[ \t\r]*$", re.IGNORECASE | re.MULTILINE)
NUMBERED = re.compile(r"[^%\s]*%0?[1-9]?[diu][^%\s]*[ \t]+\d+[ \t]+\d+([ \t]+[1-9]\d*)?([ \t]+[1-9])?")
"""Names of data files with a number, the first, the last and the step; ITK takes any text with % for a format of C's
printf, and so reads or writes memory that is not its own."""
PART, ZLIB_OR_GZIP = 1 << 20, 47
"""Bytes that are unpacked at a time, and zlib's word for either format."""
LARGEST = 1e9
"""mm, and of numbers that tell directions."""
SIZES = ("spacings", "space directions", "elementspacing", "elementsize")
AXES = ("space", "transformmatrix", "rotation", "orientation")
"""Fields of a NRRD or MetaImage header that tell the voxels' size, and how the axes lie in the patient."""
UNITS = ("space units", "units", "distanceunits")
"""Fields of a NRRD (of the space, or of each axis) and of a MetaImage."""
MILLIMETRES = ("mm", "millimeter", "millimeters", "millimetre", "millimetres", "", "?", "none")
"""Or nothing said."""
PATIENT_SPACES = (
    "left-posterior-superior", "right-anterior-superior", "left-anterior-superior", "lps", "ras", "las",
    "left-posterior-superior-time", "right-anterior-superior-time", "left-anterior-superior-time", "lpst", "rast",
    "last",
)  # fmt: skip
"""Of a NRRD."""
NO_SIZE = "the header gives no voxel size: 1 mm is taken"
NO_AXES = (
    "the header does not say how the axes lie in the patient: the array's axes are taken to run to the left, the back"
    " and the top"
)
LEFT_ANTERIOR_SUPERIOR = ("left-anterior-superior", "left-anterior-superior-time", "las", "last")
_redirection = threading.Lock()


def read_meta_nrrd(path: Path, kind: str) -> Volume:
    """One 3D scalar volume; InputError for anything else."""
    with understood(path, "an image"):
        header = _header(path)
        fields = header_fields(header)
        _check_lines(path)
        _check_data_names(path, header)
        if path.suffix.lower() in META:
            _check_meta(path, header, fields)
        _check_units(path, fields)
        try:
            with quiet():
                reader = sitk.ImageFileReader()
                reader.SetFileName(str(path))
                if path.suffix.lower() in META:
                    reader.SetImageIO("MetaImageIO")  # which ITK does not find for an extension in upper case
                reader.ReadImageInformation()
                size = reader.GetSize()
                check_voxels(path, size)
                _check_information(reader, path)
                if path.suffix.lower() in META and _is_packed(fields):
                    voxel = sitk.Image([1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
                    _check_packed(path, header, int(np.prod(size)) * voxel)
                if len(size) > 3:
                    reader.SetExtractSize((*size[:3], *([0] * (len(size) - 3))))
                image = reader.Execute()
        except RuntimeError as error:
            raise InputError(f"{path}: {_unread_because(path, fields) or _reason(str(error))}") from error
    affine = affine_from_lps(image.GetOrigin(), image.GetSpacing(), image.GetDirection())
    if fields.get("space", "").lower() in LEFT_ANTERIOR_SUPERIOR:
        affine = _affine_from_las(fields)
    array = sitk.GetArrayFromImage(image).transpose()
    storage = Storage(array.dtype, format="nrrd" if path.suffix.lower() in (".nrrd", ".nhdr") else "meta")
    return Volume.read(array, affine, kind=kind, storage=storage, source=str(path), notes=_notes(fields))


def _header(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(HEADER_BYTES).decode("latin-1")


def header_fields(header: str) -> dict[str, str]:
    """What the text header of a NRRD or MetaImage file says, by its fields in lower case."""
    fields: dict[str, str] = {}
    for line in header.splitlines():
        name, _, value = line.replace("=", ":", 1).partition(":")
        if not line or name.strip().lower() == "elementdatafile":
            break
        fields[name.strip().lower()] = value.lstrip("=").strip()
    return fields


def _check_lines(path: Path) -> None:
    """Refuse a NRRD with a field that ITK dies of; comments, pairs of key and value, and the title may be long."""
    if path.suffix.lower() not in (".nrrd", ".nhdr"):
        return
    with path.open("rb") as file:
        for line in iter(file.readline, b""):
            if not line.strip():
                return
            free = line.startswith((b"#", b"content:")) or b":=" in line
            if len(line) > LONGEST_FIELD and not free:
                raise InputError(f"{path}: a line of the header has {len(line)} characters (damaged?); copy it again")


def _check_data_names(path: Path, header: str) -> None:
    """Refuse data files that no pattern names."""
    named = DATA.search(header)
    if named and "%" in named[1] and not NUMBERED.fullmatch(named[1]):
        raise InputError(f"{path}: {named[1][:40]!r} does not name numbered data files; repair the header")


def _check_meta(path: Path, header: str, fields: dict[str, str]) -> None:
    """Refuse a MetaImage that ITK dies of, never comes back from, or reads wrong without a word.

    That is: another number of axes than it can have (of several, any of them), a direction of 1e308, and voxels packed
    in the header's own file whose packed size is not told.
    """
    for axes in AXES_LINE.findall(header):
        if not (axes.isdecimal() and 1 <= int(axes) <= MOST_AXES):
            raise InputError(f"{path}: NDims of the header is {axes[:20]!r}; repair it, or copy the file again")
    for name in (*SIZES, *AXES):
        for word in fields.get(name, "").split():
            if not abs(_number(word)) <= LARGEST:
                raise InputError(f"{path}: {word[:20]} in {name}; repair the header's geometry")
    named = DATA.search(header)
    if _is_packed(fields) and named and named[1] == "LOCAL" and not _number(fields.get("compresseddatasize", "0")) > 0:
        raise InputError(f"{path}: the header does not tell CompressedDataSize; save it again, or copy it again")


def _is_packed(fields: dict[str, str]) -> bool:
    return fields.get("compresseddata", "").lower()[:1] in ("t", "1")


def _check_packed(path: Path, header: str, size: int) -> None:
    """Refuse a MetaImage whose packed voxels do not unpack to ``size`` bytes: ITK passes over the damage in silence."""
    named = DATA.search(header)
    if named is None or named[1].split()[:1] in (["LIST"], []) or "%" in named[1]:
        return
    here = named[1] == "LOCAL"
    data = path if here else path.parent / named[1]
    if not os.path.lexists(data):  # reading says so
        return
    unpacking, found = zlib.decompressobj(ZLIB_OR_GZIP), 0
    with data.open("rb") as file:
        file.seek(header.index("\n", named.end()) + 1 if here else 0)
        try:
            while not unpacking.eof and found <= size and (part := unpacking.unconsumed_tail or file.read(PART)):
                found += len(unpacking.decompress(part, PART))
        except zlib.error:
            found = -1
    if found != size or not unpacking.eof:
        raise InputError(f"{path}: its packed voxels are damaged or incomplete; copy it again")


def _number(word: str) -> float:
    """The number, 0 for another word, which ITK takes for 0, too."""
    try:
        return float(word)
    except ValueError:
        return 0.0


def _check_units(path: Path, fields: dict[str, str]) -> None:
    """Refuse lengths that are not in mm, which ITK takes for mm."""
    for name in UNITS:
        text = fields.get(name, "")
        units = [unit.strip() for unit in re.findall(r'"([^"]*)"', text) or text.split()]
        other = [unit for unit in units[:3] if unit.lower() not in MILLIMETRES]
        if other:
            raise InputError(f"{path}: the header gives lengths in {other[0]}; convert the geometry and {name} to mm")


def _notes(fields: dict[str, str]) -> tuple[str, ...]:
    sized = any("nan" not in fields.get(name, "nan").lower() for name in SIZES)
    lie = any(name in fields for name in AXES[1:]) or fields.get("space", "").lower() in PATIENT_SPACES
    return tuple(note for missing, note in ((not sized, NO_SIZE), (not lie, NO_AXES)) if missing)


def _affine_from_las(fields: dict[str, str]) -> np.ndarray:
    """(4, 4) to RAS mm of a NRRD in left-anterior-superior, which ITK before 5.4.3 mirrors (its issue 5207)."""
    text = fields["space directions"] + fields.get("space origin", "(0,0,0)")
    vectors = [[float(number) for number in vector.split(",")] for vector in re.findall(r"\(([^)]*)\)", text)]
    affine = np.eye(4)
    affine[:3] = np.transpose([vector[:3] for vector in (*vectors[:3], vectors[-1])])
    affine[0] *= -1
    return affine + 0.0


def _unread_because(path: Path, fields: dict[str, str]) -> str:
    """What of the header ITK cannot follow: an encoding it does not know, a data file that is not there."""
    encoding = fields.get("encoding", "").lower()
    if encoding in ("bzip2", "bz2"):
        return "its voxels are packed with bzip2; save it with gzip encoding"
    missing = [file for file in files_read(path)[1:] if not file.exists()]
    return f"its data file {missing[0].name} is missing; copy both" if missing else ""


def _reason(message: str) -> str:
    if any(word in message for word in ("determinant", "pacing", "space direction")):
        return "the affine cannot be inverted; repair the header's geometry"
    if "memory" in message.lower() or "allocat" in message.lower():
        return "the memory does not hold it; close other programs or crop the volume"
    return "cannot be read, it is damaged or incomplete; copy it again (a .nhdr or .mhd with its data file)"


def write_meta_nrrd(stored: np.ndarray, volume: Volume, path: Path) -> None:
    """Write voxels (I, J, K) on the volume's grid, compressed without loss."""
    image = sitk.GetImageFromArray(stored.transpose())
    lps = LPS_TO_RAS @ volume.affine[:3]
    image.SetOrigin((lps[:, 3] + 0.0).tolist())
    image.SetSpacing(volume.spacing.tolist())
    image.SetDirection((lps[:, :3] / volume.spacing + 0.0).ravel().tolist())
    with quiet():
        try:
            sitk.WriteImage(image, str(path), useCompression=True)
        except RuntimeError as error:
            raise OSError("the image library could not write it") from error


def affine_from_lps(origin: Sequence[float], spacing: Sequence[float], direction: Sequence[float]) -> np.ndarray:
    """(4, 4) IJK to RAS mm from ITK's origin, spacing and row-major direction cosines in LPS mm."""
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ (np.reshape(direction, (3, 3)) * np.asarray(spacing))
    affine[:3, 3] = LPS_TO_RAS @ np.asarray(origin)
    return affine + 0.0


@contextmanager
def quiet() -> Iterator[None]:
    """Send what ITK's C and C++ libraries print on stdout and stderr to nowhere; errors still raise.

    The redirection is of the whole process, for the duration of one call.
    """
    with _redirection:
        saved = []
        with suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
            sys.stderr.flush()
        for descriptor in (1, 2):
            with suppress(OSError):
                saved.append((descriptor, os.dup(descriptor)))
        sink = os.open(os.devnull, os.O_WRONLY)
        try:
            for descriptor, _ in saved:
                os.dup2(sink, descriptor)
            yield
        finally:
            if os.name == "posix":
                ctypes.CDLL(None).fflush(None)
            os.close(sink)
            for descriptor, copy in saved:
                os.dup2(copy, descriptor)
                os.close(copy)


def _check_information(reader: sitk.ImageFileReader, path: Path) -> None:
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    pixel = sitk.GetPixelIDValueAsString(reader.GetPixelIDValue())
    if "complex" in pixel:
        raise InputError(f"{path}: voxels of type {pixel} are not real numbers; save the magnitude image")
    if components > 1:
        raise InputError(f"{path}: {components} values a voxel (colour, vectors or 4D); extract one 3D volume")
    if len(size) < 3:
        raise InputError(f"{path}: a 2D image of shape {size}; give the whole 3D volume")
    if max(size[3:], default=1) > 1:
        raise InputError(f"{path}: a 4D file of {int(np.prod(size[3:]))} volumes; extract one of them and give that")
