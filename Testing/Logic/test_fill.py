"""Voxels without a measurement: air to whoever computes, unchanged in what is written."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from image_files import assert_one_line, save_nifti

from BrainDiffLogic import correct, read_volume, write_volume
from BrainDiffLogic.correction_files import write_correction
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.fill import find_fill
from BrainDiffLogic.metrics.quality import assess
from BrainDiffLogic.volume import Volume
from Harness.correctors import CARD, tiny_corrector

MODEL = (tiny_corrector(), CARD)


@pytest.fixture
def a_noisy_head(a_head: Volume) -> Volume:
    """Magnitudes with noise in the air, stored as int16."""
    rng = np.random.default_rng(2)
    noise = 5 * (rng.normal(size=a_head.shape) + 1j * rng.normal(size=a_head.shape))
    return a_head.with_array(np.rint(np.abs(a_head.array + noise)).astype(np.int16))


def unmeasured(shape: tuple[int, int, int]) -> np.ndarray:
    """(I, J, K) bool: some slices at both ends, and a corner."""
    where = np.zeros(shape, bool)
    where[:2] = where[-2:] = where[:, :, :2] = where[:, -6:, -6:] = True
    return where


def filled(volume: Volume, value: float, dtype: str | None = None) -> Volume:
    array = volume.array.astype(dtype or volume.array.dtype)
    array[unmeasured(volume.shape)] = value
    return volume.with_array(array)


FILLS = [("int16", -32768), ("int16", -2000), ("int16", -1024)]
FILLS += [("uint16", 65535), ("float32", -3.4e38), ("float64", 1e36)]


@pytest.mark.parametrize(("dtype", "value"), FILLS)
def test_a_scan_with_fill_is_corrected_as_the_scan_without(
    tmp_path: Path, a_noisy_head: Volume, dtype: str, value: float
) -> None:
    plain = correct(a_noisy_head, MODEL, force=True, device="cpu")
    scan = filled(a_noisy_head, value, dtype)
    save_nifti(tmp_path / "in.nii.gz", scan.array, scan.affine)
    result = correct(tmp_path / "in.nii.gz", MODEL, force=True, device="cpu")
    facts = write_correction(result, tmp_path / "out.nii.gz", tmp_path / "d.nii.gz", tmp_path / "r.json")
    given, out, change = (np.asanyarray(nib.load(tmp_path / f"{n}.nii.gz").dataobj) for n in ("in", "out", "d"))
    where = unmeasured(scan.shape)
    assert out.dtype == dtype and (out[where] == given[where]).all() and not change[where].any()
    np.testing.assert_array_equal(np.subtract(out, given, dtype=np.float64), change)
    expected = plain.difference.array[8:-8, 8:-8, 8:-8]
    found = result.difference.array[8:-8, 8:-8, 8:-8]
    assert np.abs(found - expected).mean() < 0.05 * np.abs(expected).mean()
    assert any(f"{value:g}" in note and "no measurement" in note for note in facts["notes"])
    assert json.loads((tmp_path / "r.json").read_text())["quality"]["after"]["tenengrad"] > 0


def test_a_scan_in_memory_keeps_its_fill_too(a_noisy_head: Volume) -> None:
    scan = filled(a_noisy_head, -32768)
    result = correct(scan, MODEL, force=True, device="cpu")
    where = unmeasured(scan.shape)
    assert (result.corrected.array[where] == -32768).all() and not result.difference.array[where].any()
    assert result.difference.array[~where].any() and "-32768" in result.report["notes"][0]


@pytest.mark.parametrize("value", [-32768, 65535])
def test_a_few_fill_voxels_change_nothing_else(a_noisy_head: Volume, value: int) -> None:
    plain = correct(a_noisy_head, MODEL, force=True, device="cpu")
    array = a_noisy_head.array.astype(np.int32)
    array[0, 0, :5] = value
    result = correct(a_noisy_head.with_array(array), MODEL, force=True, device="cpu")
    np.testing.assert_array_equal(result.finding.head, plain.finding.head)
    np.testing.assert_allclose(result.difference.array[4:], plain.difference.array[4:], atol=1)
    assert (result.corrected.array[0, 0, :5] == value).all()


def test_fill_that_was_interpolated_at_its_edge_is_fill(a_noisy_head: Volume) -> None:
    array = filled(a_noisy_head, -32768).array.astype(np.float32)
    array[2] = (array[1] + array[3]) / 2
    found = find_fill(array)
    assert found is not None and found.where[:3].all() and not found.where[4:-4, 4:-8, 4:-8].any()


@pytest.mark.parametrize("gain", [1.0, -1.0, 0.5])
@pytest.mark.parametrize("offset", [0.0, -300.0, 1e4])
def test_what_is_measured_is_no_fill(a_head: Volume, a_noisy_head: Volume, gain: float, offset: float) -> None:
    masked = np.where(a_head.array > 0, a_noisy_head.array, 0)
    for array in (a_noisy_head.array, masked, a_head.array, a_noisy_head.array - a_head.array):
        assert find_fill((gain * array + offset).astype(np.float32)) is None


def test_a_background_of_nan_is_air_and_stays_nan(tmp_path: Path, a_head: Volume, a_noisy_head: Volume) -> None:
    outside = a_head.array == 0
    zeros = correct(a_noisy_head.with_array(np.where(outside, 0, a_noisy_head.array)), MODEL, force=True, device="cpu")
    save_nifti(tmp_path / "in.nii", np.where(outside, np.nan, a_noisy_head.array).astype(np.float32), a_head.affine)
    result = correct(tmp_path / "in.nii", MODEL, force=True, device="cpu")
    np.testing.assert_allclose(result.difference.array, zeros.difference.array * ~outside, atol=0.01)
    facts = write_correction(result, tmp_path / "out.nrrd", tmp_path / "d.nii")
    assert any("NaN" in note for note in facts["notes"]) and facts["stored_as"] == "float32"
    for name, reading in (("out.nrrd", read_volume), ("d.nii", read_volume)):
        np.testing.assert_array_equal(np.isnan(reading(tmp_path / name).with_fill), outside)
    corrected, change = read_volume(tmp_path / "out.nrrd").with_fill, nib.load(tmp_path / "d.nii").get_fdata()
    np.testing.assert_array_equal(corrected - read_volume(tmp_path / "in.nii").with_fill, change.astype(np.float32))


def test_nan_within_a_head_alone_is_refused(tmp_path: Path, a_head: Volume) -> None:
    array = a_head.array.copy()
    array[20:23, 20:24, 20] = np.nan
    with pytest.raises(InputError) as error:
        read_volume(save_nifti(tmp_path / "in.nii", array, a_head.affine))
    assert_one_line(error, "in.nii", "12 voxels are NaN")


def test_fill_is_read_and_written_back_as_it_was(tmp_path: Path, a_noisy_head: Volume) -> None:
    scan = filled(a_noisy_head, -1024)
    save_nifti(tmp_path / "in.nii", scan.array, scan.affine, scl_slope=0.5, scl_inter=-3)
    volume = read_volume(tmp_path / "in.nii")
    assert volume.array.min() >= -3 and len(volume.notes) == 1
    for name in ("a.nii", "a.mha"):
        write_volume(volume, tmp_path / name)
        np.testing.assert_array_equal(read_volume(tmp_path / name).with_fill, volume.with_fill)
    assert assess(volume).as_dict() == assess(volume.with_array(volume.array)).as_dict()


@pytest.mark.parametrize("factor", [1e60, 3e35, 1e-20])
def test_values_that_leave_single_precision_are_refused(tmp_path: Path, a_noisy_head: Volume, factor: float) -> None:
    array = (a_noisy_head.array * factor).astype(np.float32 if factor == 3e35 else np.float64)
    with pytest.raises(InputError) as error:
        read_volume(save_nifti(tmp_path / "in.nii", array, a_noisy_head.affine))
    assert_one_line(error, "in.nii", "too small" if factor < 1 else "too large", "scale the image")
    with pytest.raises(InputError, match="to compute with"):
        correct(a_noisy_head.with_array(array), MODEL, force=True, device="cpu")


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_corrected_magnitude_stays_above_the_lowest_value_and_keeps_its_type(
    tmp_path: Path, a_noisy_head: Volume, dtype: str
) -> None:
    scan = a_noisy_head.with_array(np.rint(a_noisy_head.array / 4).clip(0, 255).astype(dtype))
    write_volume(scan, tmp_path / "in.nii.gz")
    result = correct(tmp_path / "in.nii.gz", MODEL, force=True, device="cpu")
    assert result.finding.change.min() < 0 and result.corrected.array.min() == scan.array.min()
    facts = write_correction(result, tmp_path / "out.nii.gz", tmp_path / "d.nii.gz")
    assert facts["stored_as"] == dtype
    change = read_volume(tmp_path / "out.nii.gz").array.astype(int) - scan.array
    np.testing.assert_array_equal(change, np.asanyarray(nib.load(tmp_path / "d.nii.gz").dataobj))


@pytest.mark.parametrize(("gain", "offset"), [(1, -300), (1, 1e4), (0.5, -100)])
def test_the_share_that_changed_does_not_depend_on_the_units(a_noisy_head: Volume, gain: float, offset: float) -> None:
    plain, other = (
        correct(a_noisy_head.with_array(array.astype(np.float32)), MODEL, force=True, device="cpu").report
        for array in (a_noisy_head.array, gain * a_noisy_head.array + offset)
    )
    assert plain["changed_share"] > 0
    assert other["changed_share"] == pytest.approx(plain["changed_share"], rel=0.02)


def test_quality_does_not_see_the_fill_of_a_volume_in_memory(tmp_path: Path, a_noisy_head: Volume) -> None:
    scan = filled(a_noisy_head, -32768)
    save_nifti(tmp_path / "in.nii", scan.array, scan.affine)
    in_memory, from_file = (assess(volume).as_dict() for volume in (scan, read_volume(tmp_path / "in.nii")))
    assert in_memory.pop("reasons") == from_file.pop("reasons")
    assert in_memory == pytest.approx(from_file, rel=1e-9)  # sums in another order, where the file lies otherwise
    assert in_memory["tenengrad"] < 10 * assess(a_noisy_head).tenengrad
