"""What a session answers over HTTP beside trame's own files: page, uploads, results. Its key is always asked for."""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import unquote

import trame_client.module.vue3 as client
from aiohttp import web

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.view.gate import KEY_HEADER
from BrainDiffLogic.view.page import Page
from BrainDiffLogic.view.uploads import TooLarge, check_size, receive, unpacked

TITLE = "BrainDiff"
LOADING = '<main class="loading"><h1>BrainDiff</h1><p role="status">Opening the viewer ...</p></main>'


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
    text = (Path(client.www) / "index.html").read_text(encoding="utf-8")
    text = re.sub(r"<title>.*?</title>", f"<title>{TITLE}</title>", text)
    text = re.sub(r'content="width=device-width[^"]*"', 'content="width=device-width,initial-scale=1"', text)
    text = re.sub(r"<script>\s*fetch\(.*?</script>", "", text, flags=re.DOTALL)
    return text.replace('<div id="app"></div>', f'<div id="app">{LOADING}</div>')
