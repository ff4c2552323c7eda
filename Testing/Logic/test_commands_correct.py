"""``braindiff correct``, and what every command refuses, as a user meets it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from BrainDiffLogic import read_volume, write_volume
from BrainDiffLogic.volume import Volume
from Harness.command_line import assert_refused, braindiff, child, listing
from Harness.correctors import save_tiny

pytestmark = pytest.mark.usefixtures("own_models")


def test_correct_writes_all_it_was_asked_for(a_scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = a_scan.parent
    out, difference, report = folder / "out.nii.gz", folder / "diff.nii.gz", folder / "report.json"
    assert braindiff("correct", a_scan, out, "--difference", difference, "--report", report) == 0
    given, corrected, change = read_volume(a_scan), read_volume(out), read_volume(difference)
    assert corrected.array.dtype == np.int16
    np.testing.assert_array_equal(corrected.affine, given.affine)
    np.testing.assert_array_equal(corrected.array.astype(int) - given.array, change.array)
    assert change.array.any()
    facts = json.loads(report.read_text())
    assert facts["outputs"]["corrected"] == str(out) and set(facts["quality"]) == {"before", "after"}
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1
    assert "% of the head's intensity changed" in printed.out and str(out) in printed.out
    assert printed.err.splitlines()[-1] == "Done: 100 %"


def test_correct_runs_as_a_process_of_its_own(a_scan: Path) -> None:
    options = ("--device", "cpu", "--strength", "0.5", "--force")  # a phantom shows no motion
    done = child("correct", "scan.nii.gz", "out.nrrd", *options, cwd=a_scan.parent)
    assert done.returncode == 0, done.stderr
    stages = [line.split(":")[0] for line in done.stderr.splitlines()]
    assert [stage for stage in stages if stage != "braindiff correct"][-2:] == ["Writing", "Done"]
    assert read_volume(a_scan.parent / "out.nrrd").shape == read_volume(a_scan).shape


def test_strength_0_writes_the_inputs_voxels(a_scan: Path) -> None:
    out = a_scan.parent / "out.nii.gz"
    assert braindiff("correct", a_scan, out, "--strength", "0") == 0
    np.testing.assert_array_equal(nib.load(out).dataobj, nib.load(a_scan).dataobj)


def test_float32_is_written_on_request(a_scan: Path) -> None:
    assert braindiff("correct", a_scan, a_scan.parent / "out.nii", "--dtype", "float32") == 0
    assert nib.load(a_scan.parent / "out.nii").get_data_dtype() == np.float32


def test_outside_the_domain_is_said(a_scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = read_volume(a_scan)
    write_volume(Volume(volume.array, volume.affine @ np.diag([2, 1, 1, 1])), a_scan.parent / "thick.nii")
    assert braindiff("correct", a_scan.parent / "thick.nii", a_scan.parent / "out.nii") == 0
    assert "4.00 mm along left-right" in capsys.readouterr().err.splitlines()[-1]


def test_far_outside_the_domain_needs_force(a_scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = read_volume(a_scan)
    write_volume(Volume(volume.array, volume.affine @ np.diag([3, 1, 3, 1])), a_scan.parent / "thick.nii")
    before = listing(a_scan.parent)
    arguments = ("correct", a_scan.parent / "thick.nii", a_scan.parent / "out.nii")
    assert braindiff(*arguments) == 2
    refused = capsys.readouterr().err
    assert refused.count("\n") == 1 and "thick.nii" in refused and "--force" in refused
    assert listing(a_scan.parent) == before
    assert braindiff(*arguments, "--force") == 0


def test_overwrite_replaces_an_existing_output(a_scan: Path) -> None:
    out = a_scan.parent / "out.nii.gz"
    out.write_text("old")
    assert braindiff("correct", a_scan, out) == 2 and out.read_text() == "old"
    assert braindiff("correct", a_scan, out, "--overwrite") == 0 and read_volume(out).array.any()


def test_an_interrupted_correction_leaves_nothing(
    a_scan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from BrainDiffLogic import inference

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inference, "_residual_of", interrupted)
    before = listing(a_scan.parent)
    assert braindiff("correct", a_scan, a_scan.parent / "out.nii.gz") == 1
    assert "nothing was written" in capsys.readouterr().err
    assert listing(a_scan.parent) == before


# Bad input: the makers below return the arguments of a command that must be refused, and what the line names


def save_array(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine, dtype=array.dtype), path)
    return path


def with_values(path: Path, *values: float) -> Path:
    array = np.random.default_rng(0).random((64, 64, 64), dtype=np.float32)
    array.flat[: len(values)] = values
    return save_array(path, array)


def without_inverse(path: Path) -> Path:
    save_array(path, np.random.default_rng(0).random((64, 64, 64), dtype=np.float32))
    data = bytearray(path.read_bytes())
    data[296:312] = bytes(16)  # srow_y of the sform
    path.write_bytes(data)
    return path


def bad_inputs(folder: Path) -> dict[str, tuple[Path, str]]:
    random = np.random.default_rng(0).integers(0, 99, (8, 8, 8, 3)).astype(np.uint8)
    (folder / "empty").mkdir()
    (folder / "text.nii").write_text("this is no image")
    (folder / "scan.docx").write_text("nor is this")
    truncated = with_values(folder / "truncated.nii")
    truncated.write_bytes(truncated.read_bytes()[:5000])
    sitk.WriteImage(sitk.GetImageFromArray(random, isVector=True), str(folder / "colour.nrrd"))
    return {
        "missing": (folder / "missing.nii", "no such file"),
        "no image": (folder / "text.nii", "damaged"),
        "truncated": (truncated, "damaged"),
        "another type": (folder / "scan.docx", "not known"),
        "no DICOM": (folder / "empty", "DICOM"),
        "4D": (save_array(folder / "4d.nii", random), "4D"),
        "colour": (folder / "colour.nrrd", "colour"),
        "2D": (save_array(folder / "2d.nii", random[..., 0, 0]), "2D"),
        "constant": (save_array(folder / "constant.nii", np.ones((8, 8, 8), np.int16)), "value 1"),
        "NaN": (with_values(folder / "nan.nii", np.nan, np.nan, np.inf), "3 voxels"),
        "no inverse": (without_inverse(folder / "flat.nii"), "inverted"),
    }


BAD_INPUTS = ("missing", "no image", "truncated", "another type", "no DICOM", "4D", "colour", "2D", "constant")
BAD_INPUTS += ("NaN", "no inverse")


@pytest.mark.parametrize("kind", BAD_INPUTS)
@pytest.mark.parametrize("command", ["correct", "simulate", "quality"])
def test_bad_input_is_refused_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str, kind: str
) -> None:
    path, words = bad_inputs(tmp_path)[kind]
    output = [] if command == "quality" else [tmp_path / "out.nii.gz"]
    assert_refused(tmp_path, capfd, [command, path, *output], path.name, words)


@pytest.mark.parametrize("kind", ["4D", "no inverse"])
def test_bad_input_is_refused_in_one_line_by_the_real_command(tmp_path: Path, kind: str) -> None:
    path, words = bad_inputs(tmp_path)[kind]
    before = listing(tmp_path)
    done = child("correct", path, "out.nii.gz", "--difference", "d.nii.gz", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and path.name in done.stderr and words in done.stderr
    assert listing(tmp_path) == before


BAD_OUTPUTS: dict[str, tuple[list[str], str]] = {
    "input is output": (["scan.nii.gz", "--overwrite"], "replace the input"),
    "input by another name": (["link.nii.gz", "--overwrite"], "replace the input"),
    "existing": (["old.nii.gz"], "--overwrite"),
    "missing folder": (["nowhere/out.nii.gz"], "does not exist"),
    "a folder": (["folder.nii.gz"], "is a folder"),
    "another type": (["out.jpg"], "not known"),
    "report is no json": (["out.nii.gz", "--report", "report.txt"], "report.txt"),
    "difference is output": (["out.nii.gz", "--difference", "./out.nii.gz"], "two outputs"),
    "difference is input": (["out.nii.gz", "--difference", "scan.nii.gz", "--overwrite"], "replace the input"),
    "strength": (["out.nii.gz", "--strength", "1.5"], "strength 1.5"),
    "strength is no number": (["out.nii.gz", "--strength", "half"], "--strength"),
    "device": (["out.nii.gz", "--device", "tpu"], "--device"),
    "model": (["out.nii.gz", "--model", "gpt"], "'gpt'; available: mc-net"),
    "model file": (["out.nii.gz", "--model", "none.safetensors"], "none.safetensors"),
    "model is an image": (["out.nii.gz", "--model", "./old.nii.gz"], "old"),
    "report is the card": (["out.nii.gz", "--report", "model.json", "--model", "model.safetensors", "--overwrite"],
                           "replace the input"),
    "nothing": ([], "OUT"),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(BAD_OUTPUTS))
def test_bad_outputs_and_options_are_refused_in_one_line(
    a_scan: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = a_scan.parent
    monkeypatch.chdir(folder)
    (folder / "link.nii.gz").symlink_to(a_scan)
    (folder / "old.nii.gz").write_text("old")
    (folder / "folder.nii.gz").mkdir()
    save_tiny(folder / "model.safetensors")
    options, words = BAD_OUTPUTS[kind]
    assert_refused(folder, capfd, ["correct", "scan.nii.gz", *options], words)


def test_a_tampered_model_is_refused_in_one_line(a_scan: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = save_tiny(a_scan.parent / "model.safetensors")
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)
    arguments = ["correct", a_scan, a_scan.parent / "out.nii.gz", "--model", model]
    assert_refused(a_scan.parent, capfd, arguments, "model.safetensors", "sha256")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_refused(a_scan: Path, capfd: pytest.CaptureFixture[str]) -> None:
    locked = a_scan.parent / "locked"
    locked.mkdir(mode=0o500)
    assert_refused(a_scan.parent, capfd, ["correct", a_scan, locked / "out.nii"], "cannot be written")
