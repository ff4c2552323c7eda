"""What comes at a bad moment, or is no model: told in a page without a browser."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("trame_slicer", reason="the extra viewer is not installed")

from aiohttp import web
from trame.app import get_server

from BrainDiffLogic import Volume
from BrainDiffViewer import gate as gates
from BrainDiffViewer.gate import Gate
from BrainDiffViewer.page import Page


@pytest.fixture
def a_page(tmp_path: Path) -> Iterator[Page]:
    """A page that shows a volume of noise."""
    page = Page(get_server(f"races-{tmp_path.name}", client_type="vue3"), tmp_path, 10**6)
    noise = np.random.default_rng(0).random((12, 13, 14), dtype=np.float32)
    page.open(tmp_path / "first.nii", "first.nii", Volume(noise, np.eye(4)))
    yield page


def test_what_came_of_a_volume_is_not_shown_on_the_next(a_page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    monkeypatch.setattr(a_page, "_show", shown.append)

    class Done:
        """A job whose result was on its way when it was cancelled."""

        async def result(self, _: Any) -> str:
            return "result"

    late, own = Done(), Done()
    a_page._job = own
    asyncio.run(a_page._finish(late))
    assert shown == []
    asyncio.run(a_page._finish(own))
    assert shown == ["result"]


def test_a_page_takes_models_by_name_alone(a_page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(a_page, "_start", started.append)
    for model in (str(tmp_path / "own.safetensors"), "../other"):
        a_page._on_model(model)
        assert a_page._state.card == f"There is no model {model!r}."
        a_page._state.model = model
        a_page.correct()
    assert started == []
    a_page._state.model = "mc-net"
    a_page.correct()
    assert len(started) == 1


def test_pages_that_are_still_starting_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "MOST_SESSIONS", 2)

    async def life() -> list[int]:
        import aiohttp

        wanted = asyncio.Event()

        async def slow() -> Any:
            await wanted.wait()
            return Started()

        async def status(client: aiohttp.ClientSession, url: str) -> int:
            async with client.get(url, allow_redirects=False) as answer:
                if answer.status == web.HTTPServiceUnavailable.status_code:
                    wanted.set()
                return answer.status

        async with Gate(slow) as gate, aiohttp.ClientSession() as client:
            return await asyncio.wait_for(asyncio.gather(*(status(client, gate.url) for _ in range(3))), 20)

    assert sorted(asyncio.run(life())) == [303, 303, 503]


class Started:
    """A session without a process."""

    ended = False

    async def end(self) -> None:
        """Nothing to end."""
