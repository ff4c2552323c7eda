"""``braindiff view``: a scan and its correction in a browser, in Slicer's own slice views."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import webbrowser
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.progress import say

if TYPE_CHECKING:
    from BrainDiffViewer.gate import SessionSettings

LOOPBACK, UPLOAD_GB = "127.0.0.1", 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``braindiff view``."""
    add = parser.add_argument
    add("input", metavar="IN", nargs="?", help="volume or DICOM folder to show (default: wait for an upload)")
    add("corrected", metavar="CORRECTED", nargs="?", help="a corrected volume on its grid, to compare")
    add("--host", default=LOOPBACK, metavar="ADDRESS",
        help=f"address to serve on (default: {LOOPBACK}, this machine alone)")  # fmt: skip
    add("--port", type=int, default=0, help="port to serve on (default: any free one)")
    add("--no-browser", action="store_true", help="only print the address, do not open it")
    add("--upload-limit", type=float, default=UPLOAD_GB, metavar="GB",
        help=f"largest file that the page takes (default: {UPLOAD_GB:g})")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl+C."""
    serve(args.input, args.corrected, args.host, args.port, args.upload_limit, browser=not args.no_browser)
    return 0


def require_viewer() -> None:
    """Raises InputError where the extra ``viewer`` is not installed."""
    missing = [name for name in ("BrainDiffViewer", "trame_slicer", "trame_rca", "aiohttp") if find_spec(name) is None]
    if missing:
        raise InputError(f"the viewer needs {', '.join(missing)}: pip install 'braindiff[viewer]'")


def serve(
    source: str | None = None, corrected: str | None = None, host: str = LOOPBACK, port: int = 0,
    upload_gb: float = UPLOAD_GB, browser: bool = True,
) -> None:  # fmt: skip
    """Serve the page, with these volumes or empty, until Ctrl+C. Raises InputError where that cannot be done."""
    require_viewer()
    if not 0 <= port < 2**16:
        raise InputError(f"--port {port}: a port is a number from 0 to 65535")
    if not 0 < upload_gb < inf:
        raise InputError(f"--upload-limit {upload_gb:g}: give a finite number above 0")
    from BrainDiffViewer.gate import GIGABYTE, SessionSettings

    settings = SessionSettings(source, corrected, int(upload_gb * GIGABYTE))
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(settings, host, port, browser))


async def _serve(settings: SessionSettings, host: str, port: int, browser: bool) -> None:
    from BrainDiffViewer.gate import Gate, is_loopback, start_session

    with tempfile.TemporaryDirectory(prefix="braindiff-view-") as home:
        start = partial(start_session, settings, Path(home))
        async with Gate(start, host, port) as gate:
            gate.keep(await start())
            if not is_loopback(host):
                say(
                    f"braindiff view: warning: {host} can be reached from other machines, unencrypted; whoever has the"
                    " address below can send scans to this one and have them corrected"
                )
            print(f"open {gate.url}\nstop with Ctrl+C", flush=True)
            if browser:
                await asyncio.to_thread(webbrowser.open, gate.url)
            await asyncio.Event().wait()
