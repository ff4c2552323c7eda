"""FreeSurfer's .mgz and .mgh, and grids that a type of file holds but other programs do not open."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from image_files import OBLIQUE, ORIENTATIONS, assert_one_line, oriented, save_nifti, voxels

from BrainDiffLogic import correct
from BrainDiffLogic.correction_files import write_correction
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import grid_notes, read_volume, write_volume
from BrainDiffLogic.volume import Volume
from Harness.correctors import CARD, tiny_corrector


@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
def test_a_file_of_freesurfer_is_read_and_written_as_it_was(tmp_path: Path, suffix: str, dtype: str) -> None:
    affine = oriented(ORIENTATIONS[29])
    image = nib.MGHImage(voxels(dtype), affine)
    image.header["tr"] = 2300
    nib.save(image, tmp_path / f"a{suffix}")
    volume = read_volume(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(volume.array, voxels(dtype), strict=True)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    assert volume.notes == ()
    write_volume(volume, tmp_path / f"b{suffix}")
    back = nib.load(tmp_path / f"b{suffix}")
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), voxels(dtype))
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-5)
    assert back.get_data_dtype().newbyteorder("=") == dtype and back.header["tr"] == 2300
    write_volume(volume, tmp_path / "c.nii")
    assert nib.load(tmp_path / "c.nii").get_data_dtype() == dtype


@pytest.mark.parametrize(("dtype", "stored"), [("float64", "float32"), ("int8", "int16"), ("uint32", "float32")])
def test_types_that_mgh_lacks_become_the_next_that_holds_them(tmp_path: Path, dtype: str, stored: str) -> None:
    write_volume(Volume(voxels(dtype), OBLIQUE), tmp_path / "a.mgz")
    back = read_volume(tmp_path / "a.mgz").array
    assert back.dtype == stored
    np.testing.assert_allclose(back, voxels(dtype), rtol=1e-6)


def test_a_scaled_scan_is_written_to_mgz_with_its_real_values(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii", voxels("int16"), scl_slope=0.5, scl_inter=3)
    write_volume(read_volume(path), tmp_path / "a.mgz")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mgz").array, read_volume(path).array)


def test_bad_files_of_freesurfer_get_one_line(tmp_path: Path) -> None:
    nib.save(nib.MGHImage(voxels("int16", (4, 5, 6, 3)), OBLIQUE), tmp_path / "4d.mgz")
    nib.save(nib.MGHImage(voxels("int16"), OBLIQUE), tmp_path / "whole.mgh")
    content = (tmp_path / "whole.mgh").read_bytes()
    (tmp_path / "half.mgh").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.mgz").write_bytes(b"this is no image")
    (tmp_path / "type.mgh").write_bytes(content[:20] + (9).to_bytes(4, "big") + content[24:])
    bad = {"4d.mgz": "3 volumes", "half.mgh": "damaged", "text.mgz": "no MGH", "type.mgh": "cannot be read as MGH"}
    for name, words in bad.items():
        with pytest.raises(InputError) as error:
            read_volume(tmp_path / name)
        assert_one_line(error, name, words)


def test_a_file_of_freesurfer_that_leaves_its_axes_open_is_noted(tmp_path: Path) -> None:
    nib.save(nib.MGHImage(voxels("int16"), OBLIQUE), tmp_path / "a.mgh")
    content = (tmp_path / "a.mgh").read_bytes()
    (tmp_path / "a.mgh").write_bytes(content[:28] + bytes(2) + content[30:])
    assert "goodRASFlag" in read_volume(tmp_path / "a.mgh").notes[0]


@pytest.mark.parametrize(("name", "noted"), [("a.nii.gz", True), ("a.nrrd", False), ("a.mgz", False)])
def test_a_sheared_grid_in_a_nifti_file_is_noted(tmp_path: Path, a_head: Volume, name: str, noted: bool) -> None:
    assert not grid_notes(a_head, name) and not grid_notes(Volume(voxels("int16"), OBLIQUE), name)
    affine = a_head.affine.copy()
    affine[:3, 2] += 0.3 * affine[:3, 1]
    result = correct(Volume(a_head.array, affine), (tiny_corrector(), CARD), force=True, device="cpu")
    facts = write_correction(result, tmp_path / name)
    assert any("sheared" in note and ".nrrd" in note for note in facts["notes"]) == noted
    np.testing.assert_allclose(read_volume(tmp_path / name).affine, affine, atol=1e-3)
