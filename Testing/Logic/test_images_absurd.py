"""Headers and files that ask for more memory than any scan needs: refused at once, in one line."""

from __future__ import annotations

import gzip
import time
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from BrainDiffLogic import read_volume
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.streams import MOST_BEHIND

MEMORY = 100e6
"""Bytes that a refusal may take, and seconds."""
SECONDS = 5.0


def refused(path: Path, *words: str) -> None:
    tracemalloc.start()
    begin = time.perf_counter()
    with pytest.raises(InputError) as caught:
        read_volume(path)
    taken, most = time.perf_counter() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    line = str(caught.value)
    assert path.name in line and "\n" not in line and all(word in line for word in words), line
    assert taken < SECONDS and most < MEMORY


def a_header(shape: tuple[int, ...], kind: type = nib.Nifti1Header) -> bytes:
    header = kind()
    header.set_data_dtype(np.float32)
    header.set_data_shape(shape)
    header["vox_offset"] = header.single_vox_offset
    return header.binaryblock + bytes(4)


@pytest.mark.parametrize("name", ["huge.nii", "huge.nii.gz"])
@pytest.mark.parametrize("shape", [(32767, 32767, 32767), (2048, 2048, 512)])
def test_more_voxels_than_a_scan_has_are_refused_at_once(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    content = a_header(shape) + bytes(1000)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    refused(path, "voxels are more than a scan has", str(shape[0]))


@pytest.mark.parametrize("name", ["short.nii", "short.nii.gz"])
def test_a_file_that_cannot_hold_its_voxels_takes_no_memory_for_them(tmp_path: Path, name: str) -> None:
    content = a_header((700, 700, 700)) + bytes(1000)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    refused(path, "incomplete")


def test_a_gzipped_file_that_goes_on_and_on_is_not_unpacked_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "bomb.nii.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(a_header((16, 16, 16)) + np.random.default_rng(0).random((16, 16, 16), np.float32).tobytes())
        for _ in range(4 * MOST_BEHIND >> 20):
            file.write(bytes(1 << 20))
    refused(path, "goes on long after its voxels end")


@pytest.mark.parametrize(("name", "field"), [("huge.nrrd", "sizes"), ("huge.mha", "DimSize")])
def test_other_formats_refuse_as_many(tmp_path: Path, name: str, field: str) -> None:
    path, sizes = tmp_path / name, "20000 20000 20000"
    nrrd = f"NRRD0004\ntype: float\ndimension: 3\nsizes: {sizes}\nencoding: raw\nendian: little\n\n"
    meta = f"ObjectType = Image\nNDims = 3\nDimSize = {sizes}\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
    path.write_bytes((nrrd if name.endswith("nrrd") else meta).encode() + bytes(1000))
    refused(path, "voxels are more than a scan has" if name.endswith("mha") else "20000")


def test_a_scan_of_usual_size_with_a_trailer_is_read(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    voxels = np.random.default_rng(0).random((16, 16, 16), np.float32)
    path.write_bytes(gzip.compress(a_header((16, 16, 16)) + voxels.tobytes() + bytes(5000)))
    assert np.array_equal(read_volume(path).array, voxels.transpose(2, 1, 0))
