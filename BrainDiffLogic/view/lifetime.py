"""The process of a session: started with what it shows, ended with all that it made."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from BrainDiffLogic.errors import InputError

GIGABYTE = 10**9
GRACE = 5.0
"""Seconds that a process gets to end by itself."""


@dataclass(frozen=True)
class Wish:
    """What a session is started with.

    source, corrected  paths of volumes to show, or None
    limit              bytes that an upload may have
    idle               seconds without a page after which the session ends
    """

    source: str | None = None
    corrected: str | None = None
    limit: int = GIGABYTE
    idle: int = 120


class Session:
    """A process that serves one page on a port of the loopback address, to who knows its key."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, key: str, folder: Path) -> None:
        self._process, self.key, self._folder = process, key, folder
        self.url = f"http://127.0.0.1:{port}"

    @property
    def ended(self) -> bool:
        """Whether the process has ended, of itself or not."""
        return self._process.returncode is not None

    async def end(self) -> None:
        """End the process, which removes its folder; what it leaves is removed here."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), GRACE)
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


async def start_session(wish: Wish, home: Path) -> Session:
    """A session that shows what it was asked to, with a private folder in ``home``, also for what libraries put aside.

    Key and wish go through a pipe, where no other user of the machine reads them. Raises InputError where the volumes
    cannot be read, in the words of who read them.
    """
    folder = home / secrets.token_hex(8)
    folder.mkdir(mode=0o700)
    key = secrets.token_urlsafe(24)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "BrainDiffLogic.view.session",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps({"key": key, "folder": str(folder), **asdict(wish)}).encode() + b"\n")
    line = await process.stdout.readline()
    answer: dict[str, Any] = json.loads(line or b'{"error": "the viewer could not start; see the lines above"}')
    session = Session(process, answer.get("port", 0), key, folder)
    if "error" in answer:
        await session.end()
        raise InputError(answer["error"])
    return session
