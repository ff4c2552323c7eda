"""The process of one session: a trame server on the loopback address, which answers only who has its key.

``gate.start_session`` starts it and writes the settings to its stdin; one line of JSON on stdout answers, with the port
or with what was wrong with the volumes. When stdin closes, the process ends, and its folder goes with it.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from aiohttp import web

from BrainDiffLogic.errors import InputError
from BrainDiffViewer.files import TooLarge, check_size, receive, unpacked
from BrainDiffViewer.gate import KEY_HEADER

if TYPE_CHECKING:
    from BrainDiffLogic.volume import Volume
    from BrainDiffViewer.page import Page

TITLE = "BrainDiff"
LOADING = '<main class="loading"><h1>BrainDiff</h1><p role="status">Opening the viewer ...</p></main>'


def main() -> int:
    """The process's whole life; returns the exit status."""
    settings = json.loads(sys.stdin.readline())
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print would be taken for an answer
    folder = Path(settings["folder"])
    threading.Thread(target=_end_with_stdin, args=(folder,), daemon=True).start()
    try:
        _serve(settings, folder, answer)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _end_with_stdin(folder: Path) -> None:
    """The gate is gone, or wants the session to end."""
    import multiprocessing

    sys.stdin.read()
    for job in multiprocessing.active_children():
        job.terminate()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _serve(settings: dict[str, Any], folder: Path, answer: Any) -> None:
    def say(**facts: Any) -> None:
        answer.write(json.dumps(facts) + "\n")
        answer.flush()

    try:
        volume = _read(settings["source"], settings["corrected"])  # before what takes seconds to load
        from trame.app import get_server

        from BrainDiffViewer.page import Page

        server = get_server("braindiff", client_type="vue3")
        page = Page(server, folder, settings["limit"])
        if volume is not None:
            page.open(Path(settings["source"]), settings["source"], volume, settings["corrected"])
    except InputError as error:
        say(error=str(error))
        return
    server.controller.on_server_bind.add(lambda site: add_routes(site.app, page, settings["key"]))
    server.controller.on_server_ready.add(lambda **_: say(port=server.port))
    sys.argv[1:] = [f"--authKey={settings['key']}"]  # of this process's memory, not of its command line
    server.start(
        port=0, host="127.0.0.1", open_browser=False, show_connection_info=False, disable_logging=True,
        timeout=settings["idle"], thread=True,
    )  # fmt: skip


def _read(source: str | None, corrected: str | None) -> Volume | None:
    """The volume to show. Raises InputError where it or the corrected one cannot be read, or their grids differ."""
    from BrainDiffLogic.images import read_volume
    from BrainDiffLogic.metrics.quality import check_same_grid

    if source is None:
        return None
    volume = read_volume(source)
    if corrected is not None:
        check_same_grid(read_volume(corrected), volume)
    return volume


def add_routes(application: web.Application, page: Page, key: str) -> None:
    """Before the server starts: its own routes come after these."""

    @web.middleware
    async def with_key(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if not hmac.compare_digest(request.headers.get(KEY_HEADER, "").encode(), key.encode()):
            raise web.HTTPForbidden(text="Only the gate may ask.")
        return await handler(request)

    async def upload(request: web.Request) -> web.Response:
        name = unquote(request.headers.get("X-File-Name", "scan"))
        try:
            check_size(name, request.content_length or 0, page.limit)
            path = await receive(request.content.iter_chunked(1 << 18), name, page.folder, page.limit)
            await page.open_upload(path, name, lambda: unpacked(path, page.limit))
        except InputError as error:
            page.say_error(error)
            return web.Response(status=413 if isinstance(error, TooLarge) else 422, text=page.in_words(error))
        return web.Response(text="")

    async def results(_: web.Request) -> web.StreamResponse:
        path = await page.results()
        if path is None:
            raise web.HTTPNotFound(text="There is no correction yet.")
        return web.FileResponse(path, headers={"Content-Disposition": f'attachment; filename="{path.name}"'})

    async def index(_: web.Request) -> web.Response:
        return web.Response(text=index_page(), content_type="text/html")

    application.middlewares.append(with_key)
    application.router.add_post("/upload", upload)
    application.router.add_get("/results.zip", results)
    application.router.add_get("/index.html", index)


def index_page() -> str:
    """trame's page with this project's name, without its ban on zooming and its loading picture."""
    import trame_client.module.vue3 as client

    text = (Path(client.www) / "index.html").read_text(encoding="utf-8")
    text = re.sub(r"<title>.*?</title>", f"<title>{TITLE}</title>", text)
    text = re.sub(r'content="width=device-width[^"]*"', 'content="width=device-width,initial-scale=1"', text)
    text = re.sub(r"<script>\s*fetch\(.*?</script>", "", text, flags=re.DOTALL)
    return text.replace('<div id="app"></div>', f'<div id="app">{LOADING}</div>')


if __name__ == "__main__":
    sys.exit(main())
