"""Real image files that the tests of reading and writing make."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.orientations import inv_ornt_aff

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import write_volume
from BrainDiffLogic.volume import Volume

SHAPE = (5, 6, 7)
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
DTYPES = ("uint8", "int16", "uint16", "int32", "float32", "float64")
ORIENTATIONS = [
    np.column_stack([axes, flips])
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, -0.2, 0.3) @ np.diag([0.9, 1.1, 1.3]), [-81.25, 12.5, 30.1]
)
LPS = np.diag([-1.0, -1.0, 1.0])


def voxels(dtype: str, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Random voxels over the whole range of an integer type."""
    rng = np.random.default_rng(1)
    if np.dtype(dtype).kind == "f":
        return rng.normal(300, 100, shape).astype(dtype)
    limits = np.iinfo(dtype)
    array = rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    array.flat[0], array.flat[1] = limits.min, limits.max
    return array


def oriented(orientation: np.ndarray, affine: np.ndarray = OBLIQUE) -> np.ndarray:
    """The affine of the array after its axes were permuted and flipped."""
    return affine @ inv_ornt_aff(orientation, SHAPE)


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray = OBLIQUE, **fields: object) -> Path:
    """A NIfTI-1 made with nibabel alone; ``fields`` are set in its header."""
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def assert_one_line(error: pytest.ExceptionInfo[InputError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def save_series(
    folder: Path,
    array: np.ndarray,
    affine: np.ndarray = OBLIQUE,
    uid: str = "1.2.3.4.1",
    tags: dict[str, str] | None = None,
    skip: tuple[int, ...] = (),
    compressor: str = "",
) -> list[Path]:
    """The slices of ``array`` as DICOM files in random order of names; returns the files by slice."""
    folder.mkdir(exist_ok=True)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    lps = LPS @ affine[:3]
    direction = lps[:, :3] / spacing
    names = [f"IM{number:04d}.dcm" for number in range(array.shape[2])]
    random.Random(3).shuffle(names)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetUseCompression(bool(compressor))
    writer.SetCompressor(compressor)
    for k, name in enumerate(names):
        if k in skip:
            continue
        image = sitk.GetImageFromArray(array[:, :, k : k + 1].transpose())
        image.SetSpacing([*spacing[:2], spacing[2]])
        image.SetOrigin((lps @ [0, 0, k, 1]).tolist())
        image.SetDirection(direction.ravel().tolist())
        position = "\\".join(f"{x:.10g}" for x in lps @ [0, 0, k, 1])
        cosines = "\\".join(f"{x:.12f}" for x in direction[:, :2].T.ravel())
        own = {"0008|0060": "MR", "0020|000e": uid, "0020|000d": "1.2.3.4", "0008|103e": f"t1 {uid[-1]}"}
        own |= {"0008|0018": f"{uid}.{k}", "0020|0032": position, "0020|0037": cosines, "0020|0013": str(k)}
        for key, value in (own | (tags or {})).items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / name))
        writer.Execute(image)
    return [folder / name for k, name in enumerate(names) if k not in skip]


STORED_INT16 = {"0028|0100": "16", "0028|0101": "16", "0028|0102": "15", "0028|0103": "1"}


def a_file(folder: Path, name: str = "in.nii.gz") -> Path:
    write_volume(Volume(voxels("int16"), OBLIQUE), folder / name)
    return folder / name


def truncated(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write_volume(Volume(voxels("int16", (20, 20, 20)), OBLIQUE), folder / name)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        return folder / name

    return make
