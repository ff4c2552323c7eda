"""``braindiff simulate-cohort``: an MR-ART-shaped dataset out of a folder of still scans."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from BrainDiffLogic.commands import simulate_cohort as command
from BrainDiffLogic.data.bids import find_scans, pairs
from BrainDiffLogic.data.split import bids_label
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import read_volume, write_volume
from BrainDiffLogic.motion.presets import draw_trajectory, draw_up_to
from BrainDiffLogic.motion.traces import read_trajectory
from BrainDiffLogic.volume import Volume
from Harness.changed_files import change_a_byte
from Harness.command_line import assert_refused, braindiff


@pytest.fixture
def still_scans(tmp_path: Path, a_head: Volume) -> Path:
    """Two heads of every second voxel, as int16 .nii.gz and float32 .nii."""
    folder = tmp_path / "still"
    folder.mkdir()
    affine = a_head.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    coarse = Volume(a_head.array[::2, ::2, ::2], affine)
    write_volume(coarse.with_array(coarse.array.astype(np.int16)), folder / "ds1-01_T1w.nii.gz")
    write_volume(coarse, folder / "other.nii")
    (folder / "readme.txt").write_text("not a scan")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def voxels(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: read_volume(path).array for path in sorted(folder.glob("sub-*/anat/*.nii.gz"))}


def test_a_cohort_is_shaped_like_mr_art(still_scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = still_scans.parent / "bids"
    assert braindiff("simulate-cohort", still_scans, out) == 0
    assert "2 subjects" in capsys.readouterr().out
    scans = find_scans(out)
    found = [(scan.subject, scan.level, scan.score, scan.group) for scan in sorted(scans, key=lambda scan: scan.score)]
    levels = [("standard", 1, "clean"), ("headmotion1", 2, "motion"), ("headmotion2", 3, "motion")]
    assert found == [(subject, *level) for level in levels for subject in ("ds101", "other")]
    assert len(pairs(scans)) == 4
    assert (out / "participants.tsv").read_text().split() == ["participant_id", "sub-ds101", "sub-other"]
    assert "simulated" in (out / "derivatives" / "scores.tsv").read_text().splitlines()[0]
    assert json.loads((out / "dataset_description.json").read_text())["BIDSVersion"]


def test_the_standard_scan_is_the_still_one_and_the_others_are_moved_as_their_sidecars_say(still_scans: Path) -> None:
    out = still_scans.parent / "bids"
    assert braindiff("simulate-cohort", still_scans, out, "--severity", 0.8, 1.6, "--levels", "steps", "nod10") == 0
    still = read_volume(still_scans / "ds1-01_T1w.nii.gz")
    anat = out / "sub-ds101" / "anat"
    standard = read_volume(anat / "sub-ds101_acq-standard_T1w.nii.gz")
    np.testing.assert_array_equal(standard.array, still.array)
    np.testing.assert_array_equal(standard.affine, still.affine)
    for level, severity, preset in ((1, 0.8, "steps"), (2, 1.6, "nod10")):
        moved = read_volume(anat / f"sub-ds101_acq-headmotion{level}_T1w.nii.gz")
        facts = json.loads((anat / f"sub-ds101_acq-headmotion{level}_T1w.json").read_text())
        assert moved.array.dtype == np.int16 and not np.array_equal(moved.array, still.array)
        assert facts["MotionSimulated"] and facts["MotionLevel"] == preset
        assert facts["MotionSeverityMillimetres"] == pytest.approx(severity, rel=1e-3)
        assert read_trajectory(out / facts["Trajectory"]).severity == pytest.approx(severity, rel=0.02)


def test_a_stopped_run_goes_on_and_ends_with_the_same_cohort(
    still_scans: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, stopped = still_scans.parent / "whole", still_scans.parent / "stopped"
    assert braindiff("simulate-cohort", still_scans, whole) == 0
    simulate = command.simulate_motion
    calls = []

    def killed(*arguments: object, **named: object) -> object:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return simulate(*arguments, **named)

    monkeypatch.setattr(command, "simulate_motion", killed)
    assert braindiff("simulate-cohort", still_scans, stopped) == 1
    assert "stopped; run it again to go on" in capsys.readouterr().err
    assert [folder.name for folder in stopped.glob("*sub-*")] == ["sub-ds101"]
    (stopped / ".part-other").mkdir()  # what kill -9 leaves
    assert braindiff("simulate-cohort", still_scans, stopped) == 0
    assert len(calls) == 4 + 2  # the finished subject was left as it is
    assert sorted(content(stopped)) == sorted(content(whole))
    for name, array in voxels(whole).items():
        np.testing.assert_array_equal(voxels(stopped)[name], array)


def test_the_motion_of_a_subject_depends_on_its_name_and_the_seed(still_scans: Path) -> None:
    folders = [still_scans.parent / name for name in ("alone", "both", "other_seed")]
    for folder, options in zip(folders, (("--pattern", "ds1*"), (), ("--seed", 1)), strict=True):
        assert braindiff("simulate-cohort", still_scans, folder, "--levels", "nod5", *options) == 0
    alone, both, other_seed = (voxels(folder) for folder in folders)
    name = "sub-ds101_acq-headmotion1_T1w.nii.gz"
    assert len(alone) == 2 and len(both) == 4
    np.testing.assert_array_equal(alone[name], both[name])
    assert not np.array_equal(other_seed[name], both[name])


def test_several_processes_make_the_same_cohort(still_scans: Path) -> None:
    one, two = still_scans.parent / "one", still_scans.parent / "two"
    assert braindiff("simulate-cohort", still_scans, one, "--levels", "drift") == 0
    assert braindiff("simulate-cohort", still_scans, two, "--levels", "drift", "--jobs", 2) == 0
    arrays = voxels(two)
    assert len(arrays) == 4
    for name, array in voxels(one).items():
        np.testing.assert_allclose(arrays[name], array, atol=1)


def test_nods_are_as_many_as_the_level_says() -> None:
    for nods in (5, 10):
        trajectory = draw_trajectory(f"nod{nods}", 400, None, [1, 2, 3])
        nodding = trajectory.rotations[:, 0] > 4
        assert np.count_nonzero(np.diff(nodding.astype(int)) == 1) == nods


def test_no_head_turns_too_far_in_its_coil() -> None:
    for seed in range(5):
        assert np.abs(draw_trajectory("swallow3", 200, 2.0, [seed]).rotations).max() <= 25
    with pytest.raises(InputError, match="more than 25 degrees"):
        draw_trajectory("nod5", 200, 40.0, [1])


def test_a_severity_that_was_drawn_too_large_comes_down_until_a_head_can_turn_so_far() -> None:
    lower = draw_up_to("nod5", 200, 40.0, [1])
    assert 1 < lower.severity < 40 and np.abs(lower.rotations).max() <= 25
    same = draw_up_to("nod5", 200, 1.0, [1])
    assert same.severity == pytest.approx(1.0, rel=1e-3)
    with pytest.raises(InputError, match="wobble"):
        draw_up_to("wobble", 200, 2.0, [1])


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("ds000011-01_T1w.nii.gz", "ds00001101"),
        ("sub-07_ses-2_T1w.nii", "07"),
        ("sub-07.mha", "07"),
        ("A b.c.nrrd", "Abc"),
        ("sub-a-b_T1w.nii", "subab"),
        ("1.2.840.7", "128407"),
    ],
)
def test_a_name_makes_a_subject_of_letters_and_digits(name: str, subject: str) -> None:
    assert bids_label(name) == subject


def test_two_scans_of_one_subject_are_refused(still_scans: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (still_scans / "DS101.nii").write_bytes((still_scans / "other.nii").read_bytes())
    arguments = ["simulate-cohort", still_scans, still_scans.parent / "bids"]
    assert_refused(still_scans.parent, capfd, arguments, "DS101.nii", "ds1-01_T1w.nii.gz", "would both be sub-")


def test_two_visits_of_one_person_are_refused(still_scans: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for visit in (1, 2):
        (still_scans / f"OAS1_0001_MR{visit}.nii").write_bytes((still_scans / "other.nii").read_bytes())
    arguments = ["simulate-cohort", still_scans, still_scans.parent / "bids"]
    words = ["OAS1_0001_MR1.nii", "OAS1_0001_MR2.nii", "one person, OAS1_0001", "--pattern"]
    assert_refused(still_scans.parent, capfd, arguments, *words)


def test_names_that_give_the_subject_are_believed(still_scans: Path) -> None:
    for number in (1, 2):
        (still_scans / f"sub-A{number}_T1w.nii").write_bytes((still_scans / "other.nii").read_bytes())
    assert {"A1", "A2"} < set(command.find_stills(still_scans, "*", still_scans / "bids"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--levels", "nod0"], ["--levels nod0"]),
        (["--levels", "drift3"], ["--levels drift3", "write drift"]),
        (["--levels", "jump"], ["--levels jump", "tremor"]),
        (["--severity", "1", "2", "3"], ["--severity", "3 numbers for 2 levels"]),
        (["--severity", "-1"], ["--severity -1"]),
        (["--seed", "-1"], ["--seed -1"]),
        (["--jobs", "0"], ["--jobs 0"]),
        (["--pattern", "*.mha"], ["no volume fits --pattern '*.mha'", "'**/*_T1w.nii.gz' goes into folders"]),
        (["--pattern", ""], ["--pattern ''"]),
    ],
)
def test_bad_options_are_refused(
    still_scans: Path, capfd: pytest.CaptureFixture[str], options: list[str], words: list[str]
) -> None:
    arguments = ["simulate-cohort", still_scans, still_scans.parent / "bids", *options]
    assert_refused(still_scans.parent, capfd, arguments, *words)


def test_folders_that_hold_something_else_are_refused(still_scans: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = still_scans.parent / "bids"
    assert_refused(still_scans.parent, capfd, ["simulate-cohort", still_scans, still_scans], "among the scans")
    assert_refused(still_scans.parent, capfd, ["simulate-cohort", out, still_scans], "no such folder")
    (still_scans.parent / "full").mkdir()
    (still_scans.parent / "full" / "thesis.txt").write_text("mine")
    arguments = ["simulate-cohort", still_scans, still_scans.parent / "full"]
    assert_refused(still_scans.parent, capfd, arguments, "not an empty folder")


def test_a_cohort_of_other_motion_or_another_scan_is_not_mixed_in(
    still_scans: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["simulate-cohort", still_scans, still_scans.parent / "bids", "--levels", "drift"]
    assert braindiff(*arguments) == 0
    capfd.readouterr()
    assert_refused(still_scans.parent, capfd, [*arguments, "--seed", 1], "other levels, severity, axis or seed")
    path = still_scans / "other.nii"
    change_a_byte(path)
    assert_refused(still_scans.parent, capfd, arguments, "other.nii", "made from another other.nii")
    change_a_byte(path)
    assert braindiff(*arguments) == 0
    capfd.readouterr()
    path.rename(still_scans / "o-t-h-e-r.nii")
    assert_refused(still_scans.parent, capfd, arguments, "o-t-h-e-r.nii", "made from another other.nii")


def test_a_scan_that_cannot_be_read_leaves_the_finished_subjects(
    still_scans: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (still_scans / "z.nii.gz").write_bytes(b"not a volume")
    out = still_scans.parent / "bids"
    assert braindiff("simulate-cohort", still_scans, out, "--levels", "drift") == 2
    assert "z.nii.gz" in capfd.readouterr().err
    assert sorted(path.name for path in out.iterdir() if "part" in path.name or "sub" in path.name) == [
        "sub-ds101", "sub-other",
    ]  # fmt: skip
