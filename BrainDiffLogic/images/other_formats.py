"""Other files that nibabel knows: FreeSurfer's .mgh and .mgz; to read only, MINC, and Analyze 7.5 as SPM writes it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.freesurfer.mghformat import MGHError, MGHHeader
from nibabel.minc1 import MincError, MincImageArrayProxy
from nibabel.spatialimages import SpatialImage

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.meta_nrrd import MILLIMETRES
from BrainDiffLogic.images.streams import check_length, check_voxels, is_gzipped, opened, understood, write_image
from BrainDiffLogic.volume import Storage, Volume, real_values

VERSION = b"\0\0\0\1"
HEADER_BYTES = 284
SCAN = ("tr", "flip_angle", "te", "ti", "fov")
"""Header fields that an output repeats."""
NO_AXES = (
    "the header does not say how large the voxels are and how the axes lie in the patient (goodRASFlag is 0): 1 mm,"
    " and FreeSurfer's coronal slices are taken"
)


def read_mgh(path: Path, kind: str) -> Volume:
    """One 3D scalar volume; InputError for anything else."""
    with understood(path, "MGH"), opened(path) as stream:
        start = stream.read(HEADER_BYTES)
        stream.seek(0)
        if start[:4] != VERSION:
            raise InputError(f"{path}: this is no MGH file, or it is damaged; copy it again")
        if len(start) < HEADER_BYTES:
            raise InputError(f"{path}: cannot be read as MGH, its header is incomplete; copy it again")
        try:
            header = MGHHeader.from_fileobj(stream)
        except (MGHError, KeyError) as error:
            raise InputError(f"{path}: cannot be read as MGH: {error}; convert it with mri_convert") from error
        shape = header.get_data_shape()
        if len(shape) > 3 and shape[3] > 1:
            raise InputError(f"{path}: a 4D file of {shape[3]} volumes; extract one of them and give that")
        check_voxels(path, shape)
        check_length(path, "MGH", int(np.prod(shape)) * header.get_data_dtype().itemsize)
        raw = ArrayProxy(stream, header, mmap=False).get_unscaled()
    array = raw.reshape(raw.shape[:3], order="F").astype(raw.dtype.newbyteorder("="), copy=False)
    notes = () if int.from_bytes(start[28:30], "big") else (NO_AXES,)
    storage = Storage(array.dtype, format="mgh", header=header)
    with np.errstate(over="ignore", invalid="ignore"):  # Volume says what is wrong with the affine
        affine = header.get_affine()
    return Volume.read(array, affine, notes, kind=kind, storage=storage, source=str(path))


def write_mgh(stored: np.ndarray, volume: Volume, storage: Storage, path: Path) -> None:
    """Write stored voxels on the volume's grid; .mgz compressed."""
    image = nib.MGHImage(stored, volume.affine)
    if isinstance(storage.header, MGHHeader):
        for name in SCAN:
            image.header[name] = storage.header[name]
    write_image(image, path)


HDF5 = b"\x89HDF"
SIDE = (
    "Analyze 7.5 does not say which side is left: the first axis is taken to run to the left, as SPM does; other"
    " programs may take it otherwise"
)


def read_minc(path: Path, kind: str) -> Volume:
    """One 3D volume of a MINC 1 file, or of a MINC 2 file where h5py is installed; InputError for anything else."""
    with path.open("rb") as file:
        newer = file.read(4) == HDF5
    if is_gzipped(path):
        raise InputError(f"{path}: this MINC file is gzipped; unpack it first")
    with understood(path, "MINC"):
        try:
            image = (nib.Minc2Image if newer else nib.Minc1Image).from_filename(path)
        except ImportError as error:
            raise InputError(f"{path}: MINC 2 needs h5py; install it (pip install h5py) or convert the scan") from error
        except (MincError, TypeError, AttributeError, KeyError) as error:
            raise InputError(f"{path}: this is no MINC image, or it is damaged; copy it again") from error
        _check_shape(path, image)
        _check_units(path, image)
        array = np.asarray(image.dataobj)
    array = array.reshape(array.shape[-3:])
    own = image.get_data_dtype().newbyteorder("=")
    whole = own.kind in "iu" and own.itemsize <= 4 and bool(np.all(array == np.rint(array)))
    array = array.astype(own if whole and _within(array, own) else np.float32)
    storage = Storage(array.dtype, format="minc")
    return Volume.read(array, image.affine, kind=kind, storage=storage, source=str(path))


def _check_units(path: Path, image: nib.Minc1Image) -> None:
    """Refuse steps that are not in mm, which nibabel takes for mm."""
    for axis in cast(MincImageArrayProxy, image.dataobj).minc_file._dims:
        unit = getattr(axis, "units", b"mm")
        unit = (unit if isinstance(unit, str) else bytes(unit).decode("latin-1")).strip("\0 ")
        if unit.lower() not in MILLIMETRES:
            raise InputError(f"{path}: the header gives lengths in {unit}; convert the geometry and units to mm")


def _within(array: np.ndarray, dtype: np.dtype) -> bool:
    limits = np.iinfo(dtype)
    return bool(limits.min <= array.min() and array.max() <= limits.max)


def read_analyze(path: Path, kind: str) -> Volume:
    """One 3D volume of a pair .hdr and .img, and SPM's .mat with its affine where there is one."""
    with understood(path, "Analyze"):
        image = nib.Spm2AnalyzeImage.from_filename(path)
        _check_shape(path, image)
        proxy = cast(ArrayProxy, image.dataobj)
        raw = np.array(proxy.get_unscaled())  # in memory, not in the file
        slope, intercept = float(proxy.slope), float(proxy.inter)
    raw = raw.reshape(raw.shape[:3], order="F").astype(raw.dtype.newbyteorder("="), copy=False)
    array = raw if (slope, intercept) == (1.0, 0.0) else real_values(raw, slope, intercept)
    if raw.dtype.kind == "f":
        slope, intercept = 1.0, 0.0
    storage = Storage(raw.dtype if raw.dtype.kind in "iu" else array.dtype, slope, intercept, "analyze")
    return Volume.read(array, image.affine, (SIDE,), kind=kind, storage=storage, source=str(path))


def _check_shape(path: Path, image: SpatialImage) -> None:
    shape = image.shape
    one = shape[:3] if isinstance(image, nib.AnalyzeImage) else shape[-3:]
    volumes = int(np.prod(shape)) // max(1, int(np.prod(one)))
    if len(shape) < 3:
        raise InputError(f"{path}: a 2D image of shape {shape}; give the whole 3D volume")
    if volumes > 1:
        raise InputError(f"{path}: a 4D file of {volumes} volumes; extract one of them and give that")
    check_voxels(path, shape)
