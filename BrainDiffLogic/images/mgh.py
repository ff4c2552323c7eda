"""FreeSurfer's .mgh and .mgz through nibabel."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.freesurfer.mghformat import MGHError, MGHHeader

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.streams import check_length, check_voxels, opened, understood, write_image
from BrainDiffLogic.volume import Storage, Volume

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
