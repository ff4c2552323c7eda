"""Who is let in: the token, the address's own names and pages; a session's port, only with its key."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("trame_slicer", reason="the extra viewer is not installed")

from BrainDiffLogic.commands.main import main
from BrainDiffLogic.errors import InputError
from BrainDiffViewer.gate import KEY_HEADER, SessionSettings, is_loopback, start_session

SOCKET = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}  # fmt: skip


def status(url: str, method: str = "GET", path: str | None = None, **headers: str) -> tuple[int, str]:
    """Status and where the answer leads, or what it says."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    given = {name.replace("_", "-"): text for name, text in headers.items()}
    connection.request(method, path or f"{parts.path}?{parts.query}", headers=given)
    answer = connection.getresponse()
    found = answer.status, answer.getheader("Location") or ("" if answer.status == 101 else answer.read().decode())
    connection.close()
    return found


def test_only_who_has_the_token_and_comes_from_the_page_is_let_in(start_viewer: Callable) -> None:
    viewer = start_viewer()
    origin, port = viewer.origin, urlsplit(viewer.url).port
    assert status(viewer.url, path="/")[0] == 403
    assert "token is missing or wrong" in status(viewer.url, path="/?token=wrong")[1]
    assert status(viewer.url, Host="example.org")[0] == 403
    assert status(viewer.url, Host="[::1")[0] == 400
    assert status(viewer.url, Origin="http://example.org")[0] == 403

    code, session = status(viewer.url, Host=f"localhost:{port}")
    assert (code, session.startswith("/session/")) == (303, True)
    assert status(viewer.url, path=session)[0] == 200
    assert status(viewer.url, path="/session/other/")[0] == 410
    for method, path in (("POST", "upload"), ("POST", "paraview/"), ("GET", "ws")):
        given = SOCKET if path == "ws" else {}
        assert status(viewer.url, method, session + path, **given)[0] == 403, path
        assert status(viewer.url, method, session + path, Origin="http://evil.example", **given)[0] == 403, path
    assert status(viewer.url, "GET", session + "ws", Origin=origin, **SOCKET)[0] == 101
    assert status(viewer.url, path=session + "results.zip")[0] == 404


def test_a_session_answers_nobody_without_its_key_and_leaves_nothing(tmp_path: Path) -> None:
    async def life() -> None:
        session = await start_session(SessionSettings(idle=60), tmp_path)
        assert await asyncio.to_thread(status, session.url, path="/index.html") == (403, "Only the gate may ask.")
        for path in ("/ws", "/results.zip"):
            assert (await asyncio.to_thread(status, session.url, path=path))[0] == 403
        key = {KEY_HEADER: session.key}
        assert (await asyncio.to_thread(status, session.url, path="/index.html", **key))[0] == 200
        assert len(list(tmp_path.iterdir())) == 1
        await session.end()
        assert session.ended

    asyncio.run(life())
    assert not list(tmp_path.iterdir())


def test_a_volume_that_cannot_be_read_ends_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.nii"
    bad.write_text("no volume")
    with pytest.raises(InputError, match="bad.nii"):
        asyncio.run(start_session(SessionSettings(str(bad)), tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["bad.nii"]
    assert main(["view", str(bad), "--no-browser"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"braindiff view: {bad}: ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["--port", "70000"], "--port"), (["--upload-limit", "0"], "limit"), (["--upload-limit", "inf"], "limit")],
)
def test_bad_usage_is_refused(arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", *arguments]) == 2
    assert word in capsys.readouterr().err


def test_the_loopback_address_is_known() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1", "127.1.2.3")))
    assert not any(map(is_loopback, ("0.0.0.0", "192.168.0.1", "example.org", "")))
