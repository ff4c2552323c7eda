"""A viewer that runs as a person starts it, and a browser to look at it with."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from BrainDiffLogic import Volume, read_volume, write_volume

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = os.environ.get("BRAINDIFF_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    f"--{flag}"
    for flag in (
        "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync",
    )
]  # fmt: skip
WAIT_MS = 60_000


@dataclass(frozen=True)
class Viewer:
    """A running ``braindiff view``: the address that it printed, and its process."""

    url: str
    process: subprocess.Popen[str]
    temporary: Path

    @property
    def origin(self) -> str:
        return self.url.split("/?")[0]


@pytest.fixture(autouse=True)
def _same_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that a test starts take the code from where the test does."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))


@pytest.fixture(scope="session")
def a_small_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real head with motion, on voxels of 2 mm."""
    from BrainDiffLogic.commands.demo import find_head, simulated
    from BrainDiffLogic.errors import InputError

    try:
        head = read_volume(find_head())
    except InputError as error:
        pytest.skip(str(error))
    half = [size // 2 for size in head.shape]
    cut = head.array[tuple(slice(2 * size) for size in half)].astype(np.float32)
    array = cut.reshape(*(n for size in half for n in (size, 2))).mean((1, 3, 5))
    affine = head.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [0.5, 0.5, 0.5]
    affine[:3, :3] *= 2
    room_above = Volume(np.pad(array, ((0, 0), (0, 0), (0, 6))), affine)
    path = tmp_path_factory.mktemp("heads") / "small.nii.gz"
    write_volume(simulated(room_above).moved, path)
    return path


@pytest.fixture
def start_viewer(tmp_path: Path) -> Iterator[Callable[..., Viewer]]:
    """Starts ``braindiff view`` with arguments; it is stopped, as by Ctrl+C, when the test ends."""
    pytest.importorskip("trame_slicer", reason="the extra viewer is not installed")
    started: list[Viewer] = []
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    def start(*arguments: object) -> Viewer:
        command = [sys.executable, "-m", "BrainDiffLogic.commands.main", "view", *map(str, arguments), "--no-browser"]
        heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores it
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(temporary)}, preexec_fn=heeded
        )
        found = re.search(r"http\S+", process.stdout.readline())
        assert found, "the viewer printed no address"
        started.append(Viewer(found[0], process, temporary))
        return started[-1]

    yield start
    for viewer in started:
        viewer.process.send_signal(signal.SIGINT)
        assert viewer.process.wait(30) == 0
        viewer.process.stdout.close()
    assert not list(temporary.iterdir()), "a temporary folder was left"


@pytest.fixture(scope="module")
def a_browser() -> Iterator[Browser]:
    """Headless chromium; its event loop goes with the module."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium here; name one in BRAINDIFF_CHROMIUM")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(a_browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens an address in a window of its own, and waits for the page; no script in it may fail."""
    failures: list[str] = []
    contexts = []

    def open_address(url: str, width: int = 1280, height: int = 800) -> Page:
        contexts.append(a_browser.new_context(viewport={"width": width, "height": height}))
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(url)
        page.wait_for_selector("#file", state="attached")
        return page

    yield open_address
    for context in contexts:
        context.close()
    assert not failures
