"""``braindiff synthesize`` as a user calls it."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from BrainDiffLogic.commands import synthesize
from BrainDiffLogic.pictures import injection_picture
from BrainDiffLogic.training.injected_pairs import InjectedPairs
from Harness.command_line import assert_refused, braindiff
from Harness.tiny_prior import save_prior, write_store

Call = list[object]


@pytest.fixture(scope="module")
def a_call(tmp_path_factory: pytest.TempPathFactory) -> Call:
    """The arguments of a small job but for its outputs."""
    folder = tmp_path_factory.mktemp("inputs")
    vae, ldm = save_prior(folder, write_store(folder / "store"))
    return ["synthesize", "--store", folder / "store", "--vae", vae, "--ldm", ldm, "--device", "cpu", "--variants", 2]


def plan(out: Path) -> dict:
    return json.loads((out / "job.json").read_text())["plan"]


def test_it_writes_pairs_says_how_many_were_rejected_and_goes_on(
    a_call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = [*a_call, "--out", tmp_path / "out", "--steps", 2, "--signal", 1, 1]
    assert braindiff(*call) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("6 clean slices, 12 moved versions, 0.0 % rejected for drifted anatomy; written: ")
    assert "Injecting motion: 100 %" in printed.err
    assert len(InjectedPairs(tmp_path / "out")) == 12
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert braindiff(*call) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == times


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {"mode": "transplant", "signal": [0.9, 0.5], "steps": 25}),
        (["--paper"], {"mode": "decode", "signal": None, "steps": None}),
        (["--paper", "--mode", "transplant", "--steps", "10"], {"mode": "transplant", "signal": None, "steps": 10}),
        (["--steps", "full", "--signal", "0.8", "0.6", "--seed", "4"],
         {"mode": "transplant", "signal": [0.8, 0.6], "steps": None, "seed": 4}),
    ],
)  # fmt: skip
def test_the_options_make_the_plan(a_call: Call, options: list[str], expected: dict) -> None:
    parser = argparse.ArgumentParser()
    synthesize.add_arguments(parser)
    made = synthesize.plan_of(parser.parse_args([str(part) for part in (*a_call[1:], "--out", "x", *options)]))
    found = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(made).items()}
    assert found == {"variants": 2, "seed": 0, **expected}


def test_the_picture_shows_the_versions(a_call: Call, tmp_path: Path) -> None:
    from matplotlib.image import imread

    picture = tmp_path / "shown.png"
    options = ["--steps", 1, "--signal", 1, 1, "--picture", picture]
    assert braindiff(*a_call, "--out", tmp_path / "out", *options) == 0
    rgb = imread(picture)[..., :3]
    # 3 columns and two rows of 2 x 3 inches (32 x 48 pixels) beside and below the labels
    assert rgb.shape[:2] == (pytest.approx(110 * (0.5 + 6 + 0.36), abs=2), pytest.approx(110 * (0.4 + 6), abs=2))
    # nothing was injected: the row of differences is black, the one above it is not
    assert rgb[110 * 4 : 110 * 6, 110 * 3 :].max() < 0.3 < rgb[110:300, 110 * 3 :].max()


def test_a_control_is_drawn_below_the_motion_prior(tmp_path: Path) -> None:
    from matplotlib.image import imread

    clean = np.zeros((32, 48), dtype=np.float32)
    clean[8:24, 8:40] = 1
    moved = clean.copy()
    moved[4:6] += 0.12  # posterior; shown on the right
    versions = {"motion prior": [moved], "clean prior": [clean]}
    injection_picture(clean, versions, {name: ["one"] for name in versions}, tmp_path / "two.png")
    rgb = imread(tmp_path / "two.png")[..., :3]
    rows, columns = 110 * 3, 110 * 2
    tops = [round(110 * (0.5 + row * 6.36 + 3)) for row in range(2)]
    motion, control = (rgb[top : top + rows, 44 + columns :] for top in tops)
    red = motion[..., 0] - motion[..., 2]
    assert red[:, columns // 2 :].max() > 0.4 > red[:, : columns // 2].max()
    assert control[20:-40].max() < 0.3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", "0"], ("--steps", "full")), (["--steps", "many"], ("--steps", "full")),
        (["--variants", "0"], ("variants 0",)), (["--signal", "1.5", "0.5"], ("signal",)),
        (["--paper", "--signal", "0.9", "0.5"], ("--signal and --paper",)), (["--seed", "-1"], ("seed -1",)),
        (["--batch", "0"], ("--batch 0",)), (["--picture", "F.jpg"], ("F.jpg", ".png")),
        (["--store", "nowhere"], ("nowhere",)), (["--vae", "nowhere.safetensors"], ("nowhere.safetensors",)),
        (["--ldm", "nowhere.safetensors"], ("nowhere.safetensors",)), (["--mode", "paste"], ("--mode",)),
    ],
)  # fmt: skip
def test_bad_usage_is_refused_in_one_line(
    a_call: Call, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str], words: tuple[str, ...]
) -> None:
    assert_refused(tmp_path, capfd, [*a_call, "--out", tmp_path / "out", *options], *words)


def test_an_ldm_of_another_vae_is_refused(a_call: Call, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    card = Path(str(a_call[6])).with_suffix(".json")
    content = json.loads(card.read_text())
    for name in ("ldm.safetensors", "ldm.json"):
        (tmp_path / name).write_bytes(card.with_name(name).read_bytes())
    (tmp_path / "ldm.json").write_text(json.dumps({**content, "vae": {"name": "other", "sha256": "0" * 64}}))
    options = ["--ldm", tmp_path / "ldm.safetensors", "--out", tmp_path / "out"]
    assert_refused(tmp_path, capfd, [*a_call, *options], "another autoencoder", "other")


def test_a_folder_of_another_job_is_refused(a_call: Call, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call = [*a_call, "--out", tmp_path / "out", "--steps", 1]
    assert braindiff(*call) == 0
    capfd.readouterr()
    assert_refused(tmp_path, capfd, [*call, "--seed", 3], "out", "another plan")
