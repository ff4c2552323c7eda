"""The command line as a test calls it: in this process, or as a child."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from BrainDiffLogic.commands.main import main


def braindiff(*arguments: object) -> int:
    """The exit status of a command in this process."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


def child(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "BrainDiffLogic.commands.main", *(str(argument) for argument in arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """The command as a process that goes on, in a process group of its own as in a terminal."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "BrainDiffLogic.commands.main", *(str(argument) for argument in arguments)]
    return subprocess.Popen(
        command, cwd=cwd, text=True, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # background jobs ignore it
    )  # fmt: skip


def listing(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def assert_refused(folder: Path, capfd: pytest.CaptureFixture[str], arguments: Sequence[object], *words: str) -> None:
    before = listing(folder)
    assert braindiff(*arguments) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1 and printed.err.endswith("\n"), printed.err
    assert all(word in printed.err for word in words), printed.err
    assert listing(folder) == before
