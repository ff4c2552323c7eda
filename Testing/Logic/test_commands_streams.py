"""What a command does when it is stopped by a signal, and when stdout or stderr cannot take what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from BrainDiffLogic import read_volume
from BrainDiffLogic.commands import main as command_line
from Harness.command_line import braindiff, listing

ROOT = Path(__file__).resolve().parents[2]
STUCK = """
import sys, time
from BrainDiffLogic import correction_files
from BrainDiffLogic.commands.main import main

def write(*arguments, **options):
    written(*arguments, **options)
    sys.stdout.write("written\\n")  # at once, line end and all: both files are written side by side
    sys.stdout.flush()
    time.sleep(2)

written, correction_files.write_volume = correction_files.write_volume, write
sys.exit(main(sys.argv[1:]))
"""


def start(code: list[str], arguments: list[object], folder: Path, **options: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    return subprocess.Popen(
        [sys.executable, *code, *map(str, arguments)], cwd=folder, env=environment, text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_stopped_command_leaves_nothing_behind(a_scan: Path, name: str) -> None:
    before = listing(a_scan.parent)
    options = ["--model", "mc-net", "--difference", "d.nii.gz", "--strength", "0", "--device", "cpu", "--force"]
    number = getattr(signal, name)
    heeded = partial(signal.signal, number, signal.SIG_DFL)  # nohup has it ignored, by everything that it starts
    process = start(["-c", STUCK], ["correct", a_scan, "o.nii.gz", *options], a_scan.parent, preexec_fn=heeded)
    assert process.stdout is not None and process.stdout.readline() == "written\n"
    assert len(listing(a_scan.parent)) > len(before)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1 and errors.splitlines()[-1].endswith("stopped; nothing was written")
    assert "Traceback" not in errors and listing(a_scan.parent) == before


def test_a_command_in_this_process_leaves_the_signals_as_they_were(a_scan: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert braindiff("simulate", a_scan, a_scan.parent / "o.nii.gz", "--severity", "0") == 0
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("command", ["correct", "simulate"])
def test_a_path_that_stdout_cannot_encode_is_written_with_escapes(a_scan: Path, command: str) -> None:
    scan = a_scan.rename(a_scan.with_name("\u982d.nii.gz"))
    options = ["--model", "mc-net", "--strength", "0", "--force", "--device", "cpu"] if command == "correct" else []
    arguments = ["-m", command_line.__name__, command]
    process = start(arguments, [scan, "\u51fa.nii.gz", *options], a_scan.parent, env={"PYTHONIOENCODING": "cp1252"})
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "\\u51fa.nii.gz" in printed and "Traceback" not in errors
    assert read_volume(a_scan.parent / "\u51fa.nii.gz").array.any()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(("command", "status"), [("simulate", 0), ("quality", 1)])
def test_a_full_stdout_is_one_line_and_no_traceback(a_scan: Path, command: str, status: int) -> None:
    with open("/dev/full", "w") as full:
        outputs = [] if command == "quality" else ["o.nii.gz"]
        process = start(["-m", command_line.__name__, command], [a_scan, *outputs], a_scan.parent, stdout=full)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == status and errors.count("\n") == 1 and "cannot be written" in errors


def test_nobody_reads_what_is_printed(a_scan: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    options = ["--model", "mc-net", "--strength", "0", "--force", "--device", "cpu"]
    arguments = ["-m", command_line.__name__, "correct"]
    pipes = {"stdout": writing, "stderr": writing}
    process = start(arguments, [a_scan, "o.nii.gz", *options], a_scan.parent, **pipes)
    os.close(writing)
    assert process.wait(timeout=60) == 0
    assert read_volume(a_scan.parent / "o.nii.gz").array.any()
