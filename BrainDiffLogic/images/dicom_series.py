"""A DICOM series of single-frame files as one volume, its geometry from the position of every slice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.misc import is_dicom

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.meta_nrrd import LPS_TO_RAS, quiet
from BrainDiffLogic.images.streams import understood
from BrainDiffLogic.storage import real_values
from BrainDiffLogic.volume import Storage, Volume

SERIES_UID, SOP_CLASS, DESCRIPTION = "0020|000e", "0008|0016", "0008|103e"
IMAGE_TYPE, POSITION, ORIENTATION = "0008|0008", "0020|0032", "0020|0037"
PIXEL_SIZE = "0028|0030"
BITS, SIGN, INTERCEPT, SLOPE = "0028|0100", "0028|0103", "0028|1052", "0028|1053"
SPACING_TOLERANCE = 0.05
"""Largest deviation of a slice from even spacing, as a share of the spacing (headers round positions)."""
DIRECTION_TOLERANCE = 1e-3
"""Largest difference of the direction cosines of two slices of one volume."""


META_BYTES = 1024
"""The preamble and the file meta information, which names the SOP class, lie in these first bytes."""


@dataclass(frozen=True)
class _Slice:
    name: str
    position: np.ndarray  # LPS mm
    direction: np.ndarray  # (3, 3) LPS, columns are the image's rows, columns and normal
    spacing: np.ndarray
    size: tuple[int, ...]
    rescale: tuple[str, float, float]  # stored type, slope, intercept


def read_dicom_series(path: Path) -> Volume:
    """The one series of a folder, or the series that a given file belongs to, from that file's folder.

    A folder without images stands for the one folder below it that has some. Slices are ordered by position, whatever
    the files are called; a second copy of one is passed over. Refused with InputError: no or several series,
    multi-frame, mosaic or colour files, no voxel size, slices of different size or orientation, several images at one
    position, missing slices (uneven spacing).
    """
    with understood(path, "DICOM"):
        try:
            with quiet():
                names, notes = _series_files(path)
                slices = _ordered([_slice(name, path) for name in names], path)
                slices, copies = _without_copies(slices)
                step = _slice_step(slices, path)
                image = _read_voxels([item.name for item in slices], as_float=len({s.rescale for s in slices}) > 1)
        except RuntimeError as error:
            raise InputError(f"{path}: the DICOM series cannot be read, a file is damaged; export it again") from error
    array = sitk.GetArrayFromImage(image).transpose()
    first, (stored, slope, intercept) = slices[0], slices[0].rescale
    storage = Storage(array.dtype, format="dicom")
    if array.dtype.kind == "f" and image.GetPixelID() == sitk.sitkFloat64:
        raw = np.rint((array - intercept) / slope).astype(stored)
        array, storage = real_values(raw, slope, intercept), Storage(raw.dtype, slope, intercept, "dicom")
    affine = np.eye(4)
    affine[:3, :2] = LPS_TO_RAS @ (first.direction[:, :2] * first.spacing[:2])
    affine[:3, 2], affine[:3, 3] = LPS_TO_RAS @ step, LPS_TO_RAS @ first.position
    return Volume.read(array, affine + 0.0, (*notes, *copies), storage=storage, source=str(path))


def _series_files(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The files of the series, and what is worth a note."""
    folder = path.parent if path.is_file() else path
    reader = sitk.ImageSeriesReader
    if path.is_file():
        uids = (_information(str(path)).GetMetaData(SERIES_UID).strip(),)
    else:
        uids = reader.GetGDCMSeriesIDs(str(folder))
    if not uids:
        below = _folder_below(path)
        return _series_files(below)[0], (f"read from the folder {below.relative_to(path)} below",)
    series = [reader.GetGDCMSeriesFileNames(str(folder), uid) for uid in uids]
    if len(series) > 1:
        listed = "; ".join(_describe(names) for names in series[:6]) + ("; ..." if len(series) > 6 else "")
        raise InputError(
            f"{path}: {len(series)} DICOM series ({listed}); give one file of the wanted series instead of the folder"
        )
    names = series[0] or (str(path),)
    _refuse_damaged(folder, names)
    return names, ()


def _folder_below(path: Path) -> Path:
    """The one folder somewhere below that has DICOM files."""
    below = sorted({file.parent for file in path.rglob("*") if file.is_file() and is_dicom(file)} - {path})
    if len(below) == 1:
        return below[0]
    if not below:
        raise InputError(f"{path}: no DICOM image lies in this folder; give the folder of the series' files")
    listed = ", ".join(str(folder.relative_to(path)) for folder in below[:6]) + (", ..." if len(below) > 6 else "")
    raise InputError(f"{path}: DICOM files lie in {len(below)} folders below ({listed}); give one of them")


def _refuse_damaged(folder: Path, names: tuple[str, ...]) -> None:
    """InputError if GDCM passed over a file of the series: one that carries its UID and SOP class."""
    first = _information(names[0])
    uid, sop_class = (first.GetMetaData(key).strip("\0 ").encode() for key in (SERIES_UID, SOP_CLASS))
    for file in {path for path in folder.iterdir() if path.is_file()} - {Path(name) for name in names}:
        content = file.read_bytes() if is_dicom(file) else b""
        if sop_class in content[:META_BYTES] and uid in content and _is_unreadable(file):
            raise InputError(f"{file}: this file of the DICOM series is damaged; export the series again")


def _is_unreadable(file: Path) -> bool:
    try:
        _information(str(file))
    except RuntimeError:
        return True
    return False


def _describe(names: tuple[str, ...]) -> str:
    information = _information(names[0])
    text = information.GetMetaData(DESCRIPTION).strip() if information.HasMetaDataKey(DESCRIPTION) else "unnamed"
    return f"{' '.join(text.split())}: {len(names)} files, {Path(names[0]).name}"


def _information(name: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(name)
    reader.ReadImageInformation()
    return reader


def _slice(name: str, path: Path) -> _Slice:
    reader = _information(name)
    size = reader.GetSize()
    if len(size) > 2 and max(size[2:]) > 1:
        raise InputError(
            f"{path}: {Path(name).name} is a multi-frame DICOM; convert it to .nii.gz (dcm2niix does) first"
        )
    if reader.GetNumberOfComponents() > 1:
        raise InputError(f"{path}: {Path(name).name} is a colour image; give the grey-value scan it was made from")
    if not (reader.HasMetaDataKey(POSITION) and reader.HasMetaDataKey(ORIENTATION)):
        raise InputError(f"{path}: {Path(name).name} does not say where its slice lies; export the original scan")

    def text(key: str) -> str:
        return reader.GetMetaData(key).strip("\0 ") if reader.HasMetaDataKey(key) else ""

    def number(key: str, default: float) -> float:
        try:
            return float(text(key) or default)
        except ValueError:
            tag = key.replace("|", ",")
            raise InputError(f"{name}: tag ({tag}) is no number: {text(key)!r}; export the scan again") from None

    if "MOSAIC" in text(IMAGE_TYPE).upper():
        raise InputError(f"{name}: a mosaic of many slices in one image; convert it to .nii.gz (dcm2niix does) first")
    if not text(PIXEL_SIZE):
        raise InputError(f"{name}: the voxel size is missing (PixelSpacing, tag 0028,0030); export the original scan")

    stored = f"{'int' if number(SIGN, 0) else 'uint'}{int(number(BITS, 16))}"
    rescale = (stored, number(SLOPE, 1.0), number(INTERCEPT, 0.0))
    direction = np.reshape(reader.GetDirection(), (3, 3))
    return _Slice(name, np.array(reader.GetOrigin()), direction, np.array(reader.GetSpacing()), size[:2], rescale)


def _ordered(slices: list[_Slice], path: Path) -> list[_Slice]:
    first = slices[0]
    for other in slices[1:]:
        if other.size != first.size or not np.allclose(other.spacing[:2], first.spacing[:2], rtol=1e-4):
            raise InputError(f"{path}: slices of different size or pixel spacing; keep the files of one scan only")
        if np.abs(other.direction - first.direction).max() > DIRECTION_TOLERANCE:
            raise InputError(f"{path}: slices of different orientation (a localizer?); give a 3D scan")
    return sorted(slices, key=lambda item: float(item.position @ first.direction[:, 2]))


def _slice_step(slices: list[_Slice], path: Path) -> np.ndarray:
    """(3,) LPS mm from one slice to the next; InputError unless all slices are one such step apart."""
    first = slices[0]
    if len(slices) == 1:
        return first.direction[:, 2] * first.spacing[2]
    positions = np.array([item.position for item in slices])
    gaps = np.diff(positions @ first.direction[:, 2])
    usual = float(np.median(gaps))
    if gaps.min() <= SPACING_TOLERANCE * usual or usual <= 0:
        one, other = (Path(slices[int(np.argmin(gaps)) + next_to].name).name for next_to in (0, 1))
        raise InputError(
            f"{path}: several images lie at one position (echoes, time points?), {one} and {other} for one;"
            " keep those of one volume"
        )
    if gaps.max() > 1.5 * usual:
        after, missing = Path(slices[int(np.argmax(gaps))].name).name, int(np.rint(gaps / usual - 1).sum())
        raise InputError(f"{path}: slices are missing ({missing}, the first after {after}); export the scan again")
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    even = positions[0] + np.arange(len(slices))[:, None] * step
    if np.abs(even - positions).max() > SPACING_TOLERANCE * usual:
        raise InputError(
            f"{path}: the slices are not evenly spaced ({gaps.min():.3f} to {gaps.max():.3f} mm); "
            "resample the scan to even spacing or export it again"
        )
    return step


def _without_copies(slices: list[_Slice]) -> tuple[list[_Slice], tuple[str, ...]]:
    """The slices but those that show once more what lies at the same position, and a note of them."""
    kept: list[_Slice] = []
    for item in slices:
        same_place = kept and np.allclose(item.position, kept[-1].position, atol=1e-3)
        if not (same_place and _same_voxels(item, kept[-1])):
            kept.append(item)
    left = sorted({item.name for item in slices} - {item.name for item in kept})
    if not left:
        return kept, ()
    others = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return kept, (f"passed over what another file shows already: {Path(left[0]).name}{others}",)


def _same_voxels(one: _Slice, other: _Slice) -> bool:
    first, second = (sitk.GetArrayFromImage(_read_voxels([item.name])) for item in (one, other))
    return one.rescale == other.rescale and np.array_equal(first, second)


def _read_voxels(names: list[str], as_float: bool = False) -> sitk.Image:
    """Voxels in the order of the files; as float32 where the slices were scaled differently."""
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames(names)
    if as_float:
        reader.SetOutputPixelType(sitk.sitkFloat32)
    return reader.Execute()
