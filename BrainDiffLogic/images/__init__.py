"""Reading volumes from files and writing them back on exactly the same grid.

Every reader returns a ``Volume`` whose affine maps voxel indices to RAS millimetres; files which keep LPS
(NRRD, MetaImage, DICOM) are converted by exact sign changes. Every writer stages the files beside their
destination and renames them when they are complete. The libraries that read and write a type of file are loaded with
the first such file.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.outputs import (
    SERIES,
    WRITABLE,
    check_output,
    check_suffix,
    file_suffix,
    is_dicom_file,
    is_series,
    staged_output,
)
from BrainDiffLogic.volume import OutputType, Storage, Volume, choose_storage, real_values, values_to_store

__all__ = [
    "READABLE", "SERIES", "WRITABLE", "as_stored", "check_output", "check_source", "file_suffix", "grid_notes",
    "is_dicom_file", "is_series", "read_volume", "staged_output", "write_volume",
]  # fmt: skip

NIFTI = (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz")
META_NRRD = (".nrrd", ".nhdr", ".mha", ".mhd")
PAIR = (".hdr", ".img", ".hdr.gz", ".img.gz")
MGH = (".mgz", ".mgh")
MINC = (".mnc", ".mnc2")
MGH_TYPES = tuple(np.dtype(name) for name in ("uint8", "int16", "uint16", "int32", "float32"))
"""What a FreeSurfer file can hold."""
DICOM = (".dcm", ".ima")
SHEARED = 1e-4
"""Cosine between two axes of a grid from which ITK refuses to read it from a NIfTI file."""
READABLE = NIFTI + META_NRRD + MGH + MINC + DICOM


def read_volume(path: str | PathLike[str], series: str | None = None, kind: str = "magnitude") -> Volume:
    """Read one 3D scalar image.

    path    a NIfTI-1 or NIfTI-2 file (.nii, .nii.gz, .hdr/.img), .nrrd, .nhdr, .mha, .mhd, .mgz, .mgh, MINC (.mnc),
            Analyze (.hdr/.img), a folder of DICOM files, or one file of a DICOM series (which is read from its folder)
    series  number or UID of the DICOM series in a folder with several; None: the only T1-weighted head
    kind    that of the volume; anything else than "magnitude" keeps its values, whatever they are, but for NaN, now 0

    The array is (I, J, K) with real values: unscaled integers keep their integer type, scaled integers become
    float32 where that tells all stored integers apart, else float64. ``storage`` remembers type, slope and
    intercept of the file. A NIfTI takes its affine from the sform when that has a code, else from the qform;
    a 4D file of one volume is read as that volume.

    Raises InputError, naming the file and the remedy, for anything else than one finite 3D scalar image.
    """
    path = Path(path)
    check_source(path)
    if path.is_dir():
        return _read_series(path, series, kind)
    suffix = file_suffix(path)
    if series and suffix in (*NIFTI, *MINC, *META_NRRD, *MGH):
        raise InputError(f"{path}: not DICOM, so it has no series {series}; leave --series out")
    if suffix in NIFTI:
        from BrainDiffLogic.images.nifti import is_analyze, read_nifti
        from BrainDiffLogic.images.other_formats import read_analyze

        return read_analyze(path, kind) if suffix in PAIR and is_analyze(path) else read_nifti(path, kind)
    if suffix in MINC:
        from BrainDiffLogic.images.other_formats import read_minc

        return read_minc(path, kind)
    if suffix in META_NRRD:
        from BrainDiffLogic.images.meta_nrrd import read_meta_nrrd

        return read_meta_nrrd(path, kind)
    if suffix in MGH:
        from BrainDiffLogic.images.other_formats import read_mgh

        return read_mgh(path, kind)
    if suffix in DICOM or is_dicom_file(path):
        return _read_series(path, series, kind)
    raise InputError(f"{path}: this type of file is not known; give one of {', '.join(READABLE)} or a DICOM folder")


def check_source(path: Path) -> None:
    """Refuse what is neither a file nor a folder, with the reason."""
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path}: a broken link; datalad get it, or copy it again")
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder; check the path")
    if not path.is_dir() and not path.is_file():
        raise InputError(f"{path}: this is no file that can be read twice (a pipe?); save the scan in one first")


def _read_series(path: Path, series: str | None, kind: str) -> Volume:
    from BrainDiffLogic.images.dicom_series import read_dicom_series

    return read_dicom_series(path, series, kind)


def grid_notes(volume: Volume, path: str | PathLike[str]) -> tuple[str, ...]:
    """What to know of a volume's grid in the type of file that ``path`` names, a line each."""
    axes = volume.affine[:3, :3] / volume.spacing
    if file_suffix(path) not in NIFTI or np.allclose(axes.T @ axes, np.eye(3), atol=SHEARED):
        return ()
    return ("the grid is sheared: programs built on ITK (3D Slicer, ANTs) open that as .nrrd or .mha, not as NIfTI",)


def write_volume(
    volume: Volume, path: str | PathLike[str], dtype: OutputType = "input", provenance: str = ""
) -> Storage:
    """Write a volume to .nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd, .mgz or .mgh, replacing what is there; returns
    how it was stored.

    dtype  "input": the type of the volume's storage where the values fit, else the next wider one
           (``choose_storage``; values are rounded to the nearest integer and never clipped); "float32"
    provenance  what was done, in words, for the headers of a DICOM series

    NIfTI goes to NIfTI with the same codes, units and description, bit-equal geometry included. A folder takes a
    DICOM series, derived from the one that the volume was read from (``dicom_output``). The file or folder appears
    atomically; after a failure nothing is left behind. Of a header with detached data (.nhdr, .mhd) the data are
    renamed into place first, the header last.

    Raises InputError when the extension is unknown or the folder cannot be written.
    """
    path = Path(path)
    if is_series(path):
        return _write_series(volume, path, dtype, provenance)
    storage = _storage_in(path, volume, dtype)
    stored = values_to_store(volume.array, storage)
    if volume.fill is not None and volume.kind != "mask":
        values = volume.fill.values[:, None]
        if volume.kind == "difference":
            values = values - values  # NaN stays NaN
        stored = volume.fill.put_back_into(stored, values_to_store(values, storage)[:, 0])
    with staged_output(path) as staged:
        _write(stored, volume, storage, staged)
    return storage


def as_stored(volume: Volume, path: str | PathLike[str], dtype: OutputType = "input") -> Volume:
    """What ``read_volume`` gives of the file that ``write_volume`` makes of the same arguments, without either."""
    if is_series(path):
        from BrainDiffLogic.images.dicom_output import as_stored_in_series

        return as_stored_in_series(volume, Path(path))
    storage = _storage_in(Path(path), volume, dtype)
    stored = values_to_store(volume.array, storage)
    if (storage.slope, storage.intercept) != (1.0, 0.0):
        stored = real_values(stored, storage.slope, storage.intercept)
    return volume.with_array(stored, storage=storage)


def _storage_in(path: Path, volume: Volume, dtype: OutputType) -> Storage:
    suffix = file_suffix(path)
    check_suffix(path)
    types = MGH_TYPES if suffix in MGH else None
    return choose_storage(volume, dtype, can_scale=suffix in NIFTI, types=types)


def _write_series(volume: Volume, path: Path, dtype: OutputType, provenance: str) -> Storage:
    from BrainDiffLogic.images.dicom_output import write_series

    if dtype == "float32":
        raise InputError(f"{path}: a DICOM series of MR images holds integers; leave --dtype away or name a file")
    with staged_output(path) as staged:
        return write_series(volume, staged, provenance)


def _write(stored: np.ndarray, volume: Volume, storage: Storage, path: Path) -> None:
    suffix = file_suffix(path)
    if suffix in MGH:
        from BrainDiffLogic.images.other_formats import write_mgh

        write_mgh(stored, volume, storage, path)
    elif suffix in NIFTI:
        from BrainDiffLogic.images.nifti import write_nifti

        write_nifti(stored, volume, storage, path)
    else:
        from BrainDiffLogic.images.meta_nrrd import write_meta_nrrd

        write_meta_nrrd(stored, volume, path)
