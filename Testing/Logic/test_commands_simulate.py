"""``braindiff simulate`` as on a scanner: coils, sampling, orders of the lines, recorded motion, the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from BrainDiffLogic import read_volume
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion import traces
from BrainDiffLogic.motion.traces import read_trajectory
from Harness.command_line import assert_refused, braindiff
from Harness.trace_sets import save_traces


def simulated(scan: Path, *options: object) -> np.ndarray:
    out = scan.parent / "moved.nii"
    assert braindiff("simulate", scan, out, "--overwrite", *options) == 0
    return read_volume(out).array.astype(float)


def test_a_scan_as_on_a_scanner_comes_with_its_reference(a_scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    still = a_scan.parent / "still.nii.gz"
    options = ["--coils", 6, "--combine", "adaptive", "--reduction", 2, "--partial-fourier", 0.8, "--phase"]
    options += ["--order", "centric", "--noise", 4, "--preset", "drift", "--severity", 1.5, "--reference", still]
    moved = simulated(a_scan, *options, "--save-trajectory", a_scan.parent / "t.csv")
    text = capsys.readouterr().out
    said = ["centric order", "6 coils (adaptive)", "reduction 2", "partial Fourier 0.8", "object phase", "still.nii.gz"]
    assert all(words in text for words in said)
    assert text.count("\n") == 1
    reference, scan = read_volume(still), read_volume(a_scan)
    assert reference.array.dtype == scan.array.dtype
    np.testing.assert_array_equal(reference.affine, scan.affine)
    head = scan.array > 100
    near, far = (np.abs(image - scan.array)[head].mean() for image in (reference.array.astype(float), moved))
    assert near < far
    poses = read_trajectory(a_scan.parent / "t.csv")
    assert len(poses) == scan.shape[1]


def test_without_motion_the_reference_is_the_scan(a_scan: Path) -> None:
    still = a_scan.parent / "still.nii"
    options = ["--severity", 0, "--coils", 4, "--reduction", 2, "--noise", 5, "--reference", still]
    np.testing.assert_array_equal(simulated(a_scan, *options), read_volume(still).array)
    assert np.abs(read_volume(still).array.astype(float) - read_volume(a_scan).array).max() > 5


@pytest.mark.parametrize(
    "options",
    [["--coils", 4], ["--coils", 4, "--combine", "adaptive"], ["--coils", 4, "--reduction", 2], ["--phase"],
     ["--order", "interleaved"], ["--order", "centric"], ["--partial-fourier", 0.7]],
    ids=str,
)  # fmt: skip
def test_every_option_changes_the_scan(a_scan: Path, options: list[object]) -> None:
    motion = ["--preset", "tremor", "--severity", 1.5, "--seed", 2]
    assert np.abs(simulated(a_scan, *motion, *options) - simulated(a_scan, *motion)).mean() > 0.5


def test_the_defaults_are_one_coil_and_every_line(a_scan: Path) -> None:
    motion = ["--preset", "steps", "--seed", 3]
    spelled = ["--coils", 1, "--reduction", 1, "--partial-fourier", 1, "--order", "linear"]
    np.testing.assert_array_equal(simulated(a_scan, *motion, *spelled), simulated(a_scan, *motion))


@pytest.mark.parametrize("of", ["folder", "file"])
def test_a_recorded_run_is_drawn_by_the_seed(a_scan: Path, capsys: pytest.CaptureFixture[str], of: str) -> None:
    file = save_traces(a_scan.parent / "traces" / "lab.npz", runs=6)
    where = file if of == "file" else file.parent
    first, again = (simulated(a_scan, "--trace-set", where, "--severity", 1, "--seed", 1) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert "recorded run lab/sub-" in capsys.readouterr().out
    others = [simulated(a_scan, "--trace-set", where, "--severity", 1, "--seed", seed) for seed in (2, 3)]
    assert any(not np.array_equal(first, other) for other in others)


def test_the_help_says_in_which_units_and_when_noise_enters(capsys: pytest.CaptureFixture[str]) -> None:
    assert braindiff("simulate", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "entering after the motion, in image units" in text
    assert all(option in text for option in ("--coils", "--combine", "--reduction", "--trace-set", "--reference"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--coils", "0"], "--coils 0"),
        (["--coils", "65"], "1 to 64"),
        (["--coils", "many"], "--coils"),
        (["--reduction", "2"], "--coils 4 or more"),
        (["--reduction", "5", "--coils", "8"], "--reduction"),
        (["--combine", "rss"], "--coils 2 or more"),
        (["--combine", "sum", "--coils", "2"], "--combine"),
        (["--partial-fourier", "0.5"], "--partial-fourier 0.5"),
        (["--partial-fourier", "nan"], "--partial-fourier nan"),
        (["--order", "spiral"], "--order"),
        (["--trace-set", "none"], "none"),
        (["--trace-set", "scan.nii.gz"], "give a .npz"),
        (["--trace-set", "lab.npz", "--preset", "nod"], "not allowed"),
        (["--trace-set", "lab.npz", "--reference", "lab.npz"], "lab.npz"),
        (["--reference", "out.nii"], "two outputs"),
        (["--reference", "scan.nii.gz", "--overwrite"], "replace the input"),
        (["--reference", "still.txt"], "still.txt"),
    ],
    ids=str,
)
def test_a_scan_that_cannot_be_is_refused_in_one_line(
    a_scan: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: list[str], words: str
) -> None:
    monkeypatch.chdir(a_scan.parent)
    save_traces(Path("lab.npz"), runs=2)
    assert_refused(a_scan.parent, capfd, ["simulate", "scan.nii.gz", "out.nii", *options], words)


def test_when_one_output_cannot_be_written_none_is(
    a_scan: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise InputError("no space left")

    monkeypatch.setattr(traces, "write_trajectory", full)
    out, still, poses = (a_scan.parent / name for name in ("o.nii", "still.nii", "t.csv"))
    arguments = ["simulate", a_scan, out, "--reference", still, "--save-trajectory", poses]
    assert_refused(a_scan.parent, capfd, arguments, "no space left")
