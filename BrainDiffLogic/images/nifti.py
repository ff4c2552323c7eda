"""NIfTI-1 and NIfTI-2 files: single (.nii, .nii.gz) and, to read, pairs (.hdr/.img)."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.fileholders import FileHolder
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.stored_values import real_values
from BrainDiffLogic.volume import Storage, Volume

FORMS = ("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
GEOMETRY = ("pixdim", *FORMS, "sform_code", "srow_x", "srow_y", "srow_z")
SCAN = ("xyzt_units", "descrip", "aux_file", "dim_info", "toffset", "slice_code", "slice_duration")
EXTRAS = (*SCAN, "slice_start", "slice_end")
DISPLAY = ("cal_min", "cal_max", "intent_code", "intent_name", "intent_p1", "intent_p2", "intent_p3")
"""Header fields that an output repeats: on the same grid, always, and for an image of the input's kind."""
SCANNER = 1
"""Code of an sform or qform in scanner coordinates."""
DAMAGED = (EOFError, zlib.error, HeaderDataError, ImageFileError, WrapStructError)
UNREADABLE = (*DAMAGED, OSError, ValueError, MemoryError, OverflowError)


def read_nifti(path: Path) -> Volume:
    """One 3D scalar volume from a NIfTI file of either byte order; InputError for anything else."""
    try:
        with LoggingOutputSuppressor(), _opened(path) as image:
            header = image.header
            _check_header(header, path)
            stored = cast(ArrayProxy, image.dataobj)
            slope, intercept = float(stored.slope), float(stored.inter)
            raw = stored.get_unscaled()
            affine = header.get_best_affine()
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as NIfTI, it is damaged or incomplete; copy it again") from error
    raw = raw.reshape(raw.shape[:3], order="F")
    raw = raw.astype(np.float64 if raw.dtype.itemsize > 8 else raw.dtype.newbyteorder("="), copy=False)
    array = raw if (slope, intercept) == (1.0, 0.0) else real_values(raw, slope, intercept)
    if raw.dtype.kind == "f":
        slope, intercept = 1.0, 0.0
    version = "nifti2" if isinstance(header, nib.Nifti2Header) else "nifti1"
    storage = Storage(raw.dtype if raw.dtype.kind in "iu" else array.dtype, slope, intercept, version, header)
    return Volume(array, affine, storage=storage, source=str(path))


def write_nifti(stored: np.ndarray, volume: Volume, storage: Storage, path: Path) -> None:
    """Write stored voxels with the slope and header of ``storage``; NIfTI-2 where the input was NIfTI-2."""
    image_class = nib.Nifti2Image if storage.format == "nifti2" else nib.Nifti1Image
    header = image_class.header_class()
    header.set_data_shape(stored.shape)
    header.set_data_dtype(stored.dtype)
    header.set_xyzt_units("mm")
    old = storage.header if isinstance(storage.header, nib.Nifti1Header) else None
    if old is not None:
        for name in EXTRAS + (DISPLAY if volume.kind == "magnitude" else ()):
            header[name] = old[name]
    if old is not None and np.array_equal(old.get_best_affine(), volume.affine):
        for name in GEOMETRY:
            header[name] = old[name]
    else:
        _set_geometry(header, volume.affine)
    image = image_class(stored, None, header)
    image.header.set_slope_inter(storage.slope, storage.intercept)
    with LoggingOutputSuppressor():
        image.to_filename(path)


def _set_geometry(header: nib.Nifti1Header, affine: np.ndarray) -> None:
    header.set_sform(affine, code=SCANNER)
    header.set_qform(affine, code=SCANNER)
    if not np.allclose(header.get_qform(), affine, atol=1e-3):  # a quaternion cannot hold shears
        header["qform_code"] = 0


@contextmanager
def _opened(path: Path) -> Iterator[nib.Nifti1Pair]:
    """The image over its open file; on leaving, the rest of a .gz is read so that its checksum is
    verified."""
    if path.suffix.lower() in (".hdr", ".img"):
        pair = nib.load(path, mmap=False)
        if not isinstance(pair, nib.Nifti1Pair):
            raise InputError(f"{path}: Analyze 7.5 does not say which side is left; convert the scan to .nii.gz")
        yield pair
        return
    with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as file:
        stream = cast(io.BufferedIOBase, file)
        size = stream.read(4)
        stream.seek(0)
        wide = 540 in (int.from_bytes(size, "little"), int.from_bytes(size, "big"))
        image_class = nib.Nifti2Image if wide else nib.Nifti1Image
        yield image_class.from_file_map({"image": FileHolder(fileobj=stream)}, mmap=False)
        while path.suffix.lower() == ".gz" and stream.read(1 << 20):
            pass


def _check_header(header: nib.Nifti1Header, path: Path) -> None:
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    if 0 in shape:
        raise InputError(f"{path}: the volume is empty (shape {shape}); export the scan again")
    if len(shape) < 3:
        raise InputError(f"{path}: a 2D image of shape {shape}; give the whole 3D volume")
    if len(shape) == 4 and shape[3] > 1:
        raise InputError(f"{path}: a 4D file of {shape[3]} volumes; extract one of them and give that")
    if max(shape[4:], default=1) > 1:
        raise InputError(f"{path}: an image of shape {shape} with several values a voxel; extract one 3D volume")
    if dtype.fields is not None:
        raise InputError(f"{path}: a colour image; give the grey-value scan it was made from")
    if dtype.kind not in "iuf":
        raise InputError(f"{path}: voxels of type {dtype} are not real numbers; save the magnitude image")
    if int(header["xyzt_units"]) & 7 in (1, 3):
        unit = header.get_xyzt_units()[0]
        raise InputError(f"{path}: the header gives lengths in {unit}s; convert the geometry and xyzt_units to mm")
