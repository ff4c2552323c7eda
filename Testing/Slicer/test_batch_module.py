"""The batch CLI module BrainDiffCorrect, described as Slicer reads it and run as Slicer runs it."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from argparse import Action
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from ctk_cli import CLIArgumentParser, CLIModule
from ctk_cli.module import CLIParameter

from BrainDiffLogic import __version__, read_volume, write_volume
from BrainDiffLogic.volume import Volume
from Harness.command_line import braindiff, listing
from Harness.correctors import save_tiny
from Harness.phantom import Phantom

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPT = CHECKOUT / "BrainDiffSlicer" / "BrainDiffCorrect.py"
DESCRIPTION = SCRIPT.with_suffix(".xml")
PATHS = dict.fromkeys(("image", "file", "directory"), Path)
TYPES = {**PATHS, "string": str, "string-enumeration": str, "double": float, "boolean": bool}
OBLIQUE = np.array([[1.9, 0.3, 0.1, -38], [-0.3, 1.9, 0.2, -41], [-0.1, -0.2, 2.0, -35], [0, 0, 0, 1]])


@dataclass(frozen=True)
class Run:
    """What a process of the module said and returned; ``folder`` holds scan.nii.gz and the outputs."""

    folder: Path
    status: int
    out: str
    err: str

    def values(self, name: str) -> list[str]:
        return re.findall(f"<filter-{name}>([^<]*)</filter-{name}>", self.out)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-B", "-W", "always", str(SCRIPT), *(str(argument) for argument in arguments)]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **more}


def run_module(folder: Path, *arguments: object, **more: str) -> Run:
    done = subprocess.run(
        command(*arguments), cwd=folder, env=environment(**more), capture_output=True, text=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return Run(folder, done.returncode, done.stdout, done.stderr)


def save_scan(path: Path, shape: tuple[int, int, int], affine: np.ndarray = OBLIQUE) -> Path:
    rng = np.random.default_rng(5)
    image = Phantom().image(shape, affine) + 30 + rng.normal(0, 3, shape)
    write_volume(Volume(image.clip(0, 2000).astype(np.int16), affine), path)
    return path


@pytest.fixture
def a_folder(tmp_path: Path) -> Path:
    """A small oblique int16 scan, scan.nii.gz, and a tiny model, tiny.safetensors."""
    save_scan(tmp_path / "scan.nii.gz", (36, 40, 36))
    save_tiny(tmp_path / "tiny.safetensors")
    return tmp_path


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A whole run with every output, forced: the phantom shows no motion."""
    folder = tmp_path_factory.mktemp("run")
    save_scan(folder / "scan.nii.gz", (36, 40, 36))
    save_tiny(folder / "tiny.safetensors")
    options = ["--difference", "difference.nrrd", "--report", "report.json", "--model", "./tiny.safetensors"]
    return run_module(folder, *options, "--strength", "0.5", "--device", "cpu", "--force", "scan.nii.gz", "out.nrrd")


@pytest.fixture
def a_description(caplog: pytest.LogCaptureFixture) -> CLIModule:
    """The XML as ctk-cli understands it, without complaint."""
    with caplog.at_level(logging.WARNING, "ctk_cli"):
        description = CLIModule(str(DESCRIPTION))
    complaints = [record.getMessage() for record in caplog.records]
    assert all("CTK issue #623" in complaint for complaint in complaints)  # "reference" is Slicer's own attribute
    return description


@pytest.fixture
def a_script() -> ModuleType:
    """The script as a module, not run."""
    spec = importlib.util.spec_from_file_location("BrainDiffCorrect", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.fixture
def the_actions(a_script: ModuleType) -> list[Action]:
    """What the script's argparse accepts, but for --help and --xml."""
    return [action for action in a_script.makeParser()._actions if action.dest not in ("help", "xml")]


# The description


def described(parameter: CLIParameter) -> dict[str, Any]:
    return {
        "type": TYPES[parameter.typ],
        "default": parameter.default,
        "choices": parameter.elements,
    }


def accepted(action: Action) -> dict[str, Any]:
    switch = action.nargs == 0
    return {
        "type": bool if switch else action.type or str,
        "default": action.default,
        "choices": None if action.choices is None else list(action.choices),
    }


def test_description_and_script_agree_flag_by_flag(a_description: CLIModule, the_actions: list[Action]) -> None:
    _, options, returned = a_description.classifyParameters()
    assert returned == []
    assert {option.longflag: described(option) for option in options} == {
        action.option_strings[0]: accepted(action) for action in the_actions if action.option_strings
    }


def test_description_and_script_agree_on_the_positional_arguments(
    a_description: CLIModule, the_actions: list[Action]
) -> None:
    arguments, _, _ = a_description.classifyParameters()
    assert [(argument.typ, argument.channel) for argument in arguments] == [("image", "input"), ("image", "output")]
    assert [argument.index for argument in arguments] == [0, 1]
    assert [action.dest for action in the_actions if not action.option_strings] == ["input", "output"]


def test_one_command_line_means_the_same_to_both(a_script: ModuleType) -> None:
    line = ["--difference", "d.nrrd", "--report", "r.json", "--model", "m", "--strength", "0.25", "--device", "cpu"]
    line += ["--dtype", "float32", "--disagreement", "e.nrrd"]  # without switches, which ctk-cli wants a value for
    line += ["in.nrrd", "out.nrrd"]
    ours = vars(a_script.makeParser().parse_args(line))
    theirs = vars(CLIArgumentParser(str(DESCRIPTION)).parse_args(line))
    names = {name: f"{name}Volume" for name in ("input", "output", "difference", "disagreement")}
    names["pe_axis"] = "peAxis"
    del ours["xml"]
    assert {names.get(name, name): str(value) for name, value in ours.items()} == {
        name: str(value) for name, value in theirs.items()
    }


def test_the_description_is_complete(a_description: CLIModule) -> None:
    assert a_description.version == __version__
    assert a_description.category == "Filtering"
    for text in ("title", "description", "documentation_url", "license", "contributor", "acknowledgements"):
        assert getattr(a_description, text), text
    assert [(group.label, group.advanced) for group in a_description] == [
        ("IO", False), ("Correction", False), ("Advanced", True)
    ]  # fmt: skip
    assert all(parameter.label and parameter.description for parameter in a_description.parameters())
    assert DESCRIPTION.read_bytes().isascii()


def test_outputs_refer_to_the_input_volume_and_the_strength_is_limited(a_description: CLIModule) -> None:
    by_name = {parameter.name: parameter for parameter in a_description.parameters()}
    assert {name for name, one in by_name.items() if one.reference == "inputVolume"} == {
        "outputVolume", "differenceVolume", "disagreementVolume"
    }  # fmt: skip
    assert by_name["report"].fileExtensions == [".json"] and by_name["report"].channel == "output"
    limits = by_name["strength"].constraints
    assert (float(limits.minimum), float(limits.maximum)) == (0, 1)


def test_the_script_is_taken_for_a_module_by_its_first_line() -> None:
    assert SCRIPT.read_bytes().startswith(b"#!/usr/bin/env python-real\n")


def test_the_script_prints_its_description_on_request(tmp_path: Path) -> None:
    run = run_module(tmp_path, "--xml")
    assert (run.status, run.err) == (0, "")
    assert run.out.strip() == DESCRIPTION.read_text().strip()


# A run


def test_a_run_says_nothing_on_stderr(a_run: Run) -> None:
    assert (a_run.status, a_run.err) == (0, "")


def test_progress_goes_from_0_to_1_and_never_back(a_run: Run) -> None:
    shares = [float(share) for share in a_run.values("progress")]
    assert shares == sorted(shares) and len(shares) > 5
    assert (shares[0], shares[-1]) == (0, 1)


def test_progress_within_a_stage_never_goes_back(a_run: Run) -> None:
    stages: dict[str, list[float]] = {}
    for name, share in re.findall(r"<filter-(comment|stage-progress)>([^<]*)<", a_run.out):
        if name == "comment":
            current = stages.setdefault(share, [])
        else:
            current.append(float(share))
    assert all(shares == sorted(shares) and min(shares, default=0) >= 0 for shares in stages.values())
    assert len(stages["Correcting"]) > 1 and stages["Correcting"][-1] == 1


def test_the_stages_and_then_the_notes_are_named(a_run: Run) -> None:
    stages = a_run.values("comment")
    notes = json.loads((a_run.folder / "report.json").read_text())["outside_domain"]
    assert stages[:4] == ["Starting", "Reading", "Loading the model", "Correcting"]
    assert notes and stages[-len(notes) - 1 :] == ["Done", *notes]


def test_what_slicer_leaves_of_the_output_is_one_line_a_stage(a_run: Run) -> None:
    text = a_run.out
    for name in ("progress", "stage-progress", "name", "comment", "time", "start", "end"):  # in Slicer's order
        text = re.sub(rf"<filter-{name}>[^<]*</filter-{name}>\s*", "", text)
    assert text.splitlines() == a_run.values("comment")


def test_the_outputs_are_on_the_grid_of_the_input(a_run: Run) -> None:
    scan = read_volume(a_run.folder / "scan.nii.gz")
    out, difference = read_volume(a_run.folder / "out.nrrd"), read_volume(a_run.folder / "difference.nrrd")
    for volume in (out, difference):
        assert volume.shape == scan.shape
        np.testing.assert_allclose(volume.affine, scan.affine, rtol=0, atol=1e-5)
    assert out.array.dtype == np.int16
    np.testing.assert_array_equal(out.array.astype(float) - scan.array, difference.array)
    assert difference.array.any()


def test_the_voxels_are_those_of_braindiff_correct(a_run: Run, tmp_path: Path) -> None:
    scan, model = a_run.folder / "scan.nii.gz", a_run.folder / "tiny.safetensors"
    options = ["--model", model, "--strength", "0.5", "--device", "cpu", "--force"]
    assert braindiff("correct", scan, tmp_path / "out.nrrd", *options) == 0
    np.testing.assert_array_equal(
        read_volume(tmp_path / "out.nrrd").array, read_volume(a_run.folder / "out.nrrd").array
    )


def test_nothing_is_left_beside_the_outputs(a_run: Run) -> None:
    assert set(listing(a_run.folder)) == {
        "scan.nii.gz", "tiny.safetensors", "tiny.json", "out.nrrd", "difference.nrrd", "report.json"
    }  # fmt: skip


# Failures

REFUSED: dict[str, tuple[list[str], str]] = {
    "missing file": (["none.nii.gz", "out.nii.gz"], "none.nii.gz"),
    "unknown model": (["--model", "gpt", "scan.nii.gz", "out.nii.gz"], "'gpt'"),
    "existing output": (["scan.nii.gz", "old.nii.gz"], "--overwrite"),
    "strength": (["--strength", "2", "scan.nii.gz", "out.nii.gz"], "strength 2"),
    "no output": (["scan.nii.gz"], "OUT"),
    "unknown flag": (["--fast", "scan.nii.gz", "out.nii.gz"], "--fast"),
    "half a flag": (["--over", "scan.nii.gz", "out.nii.gz"], "--over"),
}


@pytest.mark.parametrize("kind", list(REFUSED))
def test_bad_input_is_refused_in_one_line(a_folder: Path, kind: str) -> None:
    (a_folder / "old.nii.gz").write_text("old")
    before = listing(a_folder)
    arguments, words = REFUSED[kind]
    run = run_module(a_folder, *arguments)
    assert run.status == 2
    assert run.err.startswith("BrainDiffCorrect: ") and run.err.count("\n") == 1 and words in run.err, run.err
    assert "Traceback" not in run.out
    assert listing(a_folder) == before


def with_broken_package(folder: Path, name: str, error: str) -> str:
    """A folder for PYTHONPATH in which importing the package fails."""
    (folder / "broken").mkdir()
    (folder / "broken" / f"{name}.py").write_text(f"raise {error}\n")
    return os.pathsep.join([str(folder / "broken"), str(CHECKOUT)])


def test_a_missing_package_is_named_in_one_line(a_folder: Path) -> None:
    path = with_broken_package(a_folder, "nibabel", "ModuleNotFoundError(name='nibabel')")
    run = run_module(a_folder, "scan.nii.gz", "out.nii.gz", PYTHONPATH=path)
    assert run.status == 1 and run.err.count("\n") == 1
    assert "the Python package nibabel is missing" in run.err


def test_an_unexpected_failure_is_one_line_on_stderr_and_explained_on_stdout(a_folder: Path) -> None:
    path = with_broken_package(a_folder, "nibabel", "RuntimeError('first line\\nsecond line')")
    run = run_module(a_folder, "scan.nii.gz", "out.nii.gz", PYTHONPATH=path)
    assert run.status == 1
    assert run.err == "BrainDiffCorrect: unexpected RuntimeError: first line second line\n"
    assert "Traceback" in run.out and "nibabel.py" in run.out


KILLED = [(how, stage) for how in ("SIGKILL", "SIGTERM") for stage in ("Correcting", "Measuring and writing")]
"""Slicer cancels by the first."""


@pytest.mark.skipif(os.name == "nt", reason="Windows has one way to end a process, and no way to react to it")
@pytest.mark.parametrize(("how", "stage"), KILLED)
def test_a_run_that_is_killed_leaves_nothing(tmp_path: Path, how: str, stage: str) -> None:
    save_scan(tmp_path / "scan.nii", (128, 120, 120), np.diag([1.5, 1.5, 1.5, 1]))  # seconds of work
    before = listing(tmp_path)
    (tmp_path / "unfinished").mkdir()
    options = ["--model", "mc-net", "--report", "report.json", "--difference", "difference.nii.gz", "--force"]
    line = command(*options, "--staging", "unfinished", "scan.nii", "out.nii.gz")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    with subprocess.Popen(line, cwd=tmp_path, env=environment(), text=True, **pipes) as child:
        assert child.stdout is not None and child.stderr is not None
        reached = next((said for said in child.stdout if f"<filter-comment>{stage}<" in said), None)
        assert reached, child.stderr.read()
        assert next(child.stdout) == stage + "\n"  # live: it has just begun
        child.send_signal(getattr(signal, how))
        assert "Done" not in child.stdout.read()
        message = child.stderr.read()
    assert child.returncode == (1 if how == "SIGTERM" else -signal.SIGKILL)
    assert message == ("BrainDiffCorrect: stopped; nothing was written\n" if how == "SIGTERM" else "")
    if how == "SIGTERM":
        (tmp_path / "unfinished").rmdir()  # empty
    else:
        shutil.rmtree(tmp_path / "unfinished")
    assert listing(tmp_path) == before
