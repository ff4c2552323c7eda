"""The one address that a browser is given: who has the token gets a session, and each page reaches its own alone.

A session is a process. Its port answers only requests that carry its key, which the gate adds; the gate knows nothing
of images. The token makes sessions; the name of a session, as long as a token, opens that session and no other.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import os
import secrets
import shutil
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from BrainDiffLogic.errors import InputError

KEY_HEADER = "X-BrainDiff-Key"
GIGABYTE = 10**9
GRACE = 5.0
"""Seconds that a process gets to end by itself."""
MOST_SESSIONS = 8
CHUNK = 1 << 16
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' blob: data:; connect-src 'self' ws: wss:; frame-ancestors 'none'; form-action 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Vue compiles its template in the browser, hence unsafe-eval."""
PASSED_ON = ("Content-Type", "Content-Length", "X-File-Name")
PASSED_BACK = ("Content-Type", "Content-Length", "Content-Disposition", "Last-Modified")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class SessionSettings:
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


async def start_session(settings: SessionSettings, home: Path) -> Session:
    """A session that shows what it was asked to, with a private folder in ``home``, also for what libraries put aside.

    Key and settings go through a pipe, where no other user of the machine reads them. Raises InputError where the
    volumes cannot be read, in the words of who read them.
    """
    folder = home / secrets.token_hex(8)
    folder.mkdir(mode=0o700)
    key = secrets.token_urlsafe(24)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "BrainDiffViewer.session",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps({"key": key, "folder": str(folder), **asdict(settings)}).encode() + b"\n")
    line = await process.stdout.readline()
    answer: dict[str, Any] = json.loads(line or b'{"error": "the viewer could not start; see the lines above"}')
    session = Session(process, answer.get("port", 0), key, folder)
    if "error" in answer:
        await session.end()
        raise InputError(answer["error"])
    return session


class Gate:
    """A web server on one address.

    start_session  starts the process of a session and waits until it can be asked
    host, port     where to listen; port 0: any free one
    """

    def __init__(self, start_session: Callable[[], Awaitable[Session]], host: str = "127.0.0.1", port: int = 0) -> None:
        self.token = secrets.token_urlsafe(24)
        self._start_session, self._host, self._port = start_session, host, port
        self._sessions: dict[str, Session] = {}
        self._waiting: list[Session] = []
        self._starting = 0
        self._client: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Gate:
        self._client = aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None))
        application = web.Application(middlewares=[self._checked])
        application.router.add_get("/", self._enter)
        application.router.add_post("/session/{name}/paraview/", self._connection)
        application.router.add_get("/session/{name}/ws", self._socket)
        application.router.add_route("*", "/session/{name}/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            raise InputError(
                f"{self._host}:{self._port}: cannot listen there ({error.strerror}); choose another"
            ) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(session.end() for session in [*self._sessions.values(), *self._waiting]))
        if self._runner:
            await self._runner.cleanup()
        if self._client:
            await self._client.close()

    @property
    def url(self) -> str:
        """What to open in a browser."""
        assert self._runner is not None
        host = "127.0.0.1" if self._host in ("0.0.0.0", "::") else self._host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._runner.addresses[0][1]}/?token={self.token}"

    def keep(self, session: Session) -> None:
        """Give a session that runs already to the next who comes."""
        self._waiting.append(session)

    # Who may come in

    @web.middleware
    async def _checked(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._check(request)
            response = await handler(request)
        except web.HTTPException as answer:
            answer.headers.update(HEADERS)
            raise
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    def _check(self, request: web.Request) -> None:
        """Refuse other names of this machine (DNS rebinding), and what pages of other origins ask."""
        try:
            name = urlsplit(f"//{request.host}").hostname or ""
        except ValueError:  # no host at all, such as "[::1"
            raise web.HTTPBadRequest(text="This request names no host.") from None
        if is_loopback(self._host) and not is_loopback(name):
            raise web.HTTPForbidden(text="This address answers only under the name that the command printed.")
        origin = request.headers.get("Origin")
        asks_more = request.method != "GET" or request.headers.get("Upgrade", "").lower() == "websocket"
        if (origin is not None or asks_more) and origin != f"{request.scheme}://{request.host}":
            raise web.HTTPForbidden(text="Only the page itself may ask for this.")

    async def _enter(self, request: web.Request) -> web.StreamResponse:
        given = request.query.get("token", "")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            raise web.HTTPForbidden(text="The token is missing or wrong: open the address that the command printed.")
        self._forget_ended()
        if len(self._sessions) + self._starting >= MOST_SESSIONS:
            raise web.HTTPServiceUnavailable(
                text=f"{MOST_SESSIONS} pages are open already: close one, and wait a minute."
            )
        name = secrets.token_hex(24)  # the client turns its address to lower case
        self._starting += 1
        try:
            self._sessions[name] = await self._next()
        except InputError as error:
            raise web.HTTPInternalServerError(text=str(error)) from error
        finally:
            self._starting -= 1
        raise web.HTTPSeeOther(f"/session/{name}/")

    async def _next(self) -> Session:
        while self._waiting:
            session = self._waiting.pop()
            if not session.ended:
                return session
        return await self._start_session()

    def _forget_ended(self) -> None:
        for name in [name for name, session in self._sessions.items() if session.ended]:
            del self._sessions[name]

    def _session(self, request: web.Request) -> Session:
        session = self._sessions.get(request.match_info["name"])
        if session is None or session.ended:
            raise web.HTTPGone(text="This session has ended: open the address that the command printed again.")
        return session

    # What is passed on

    async def _connection(self, request: web.Request) -> web.StreamResponse:
        """Where the page finds its websocket: what trame's client asks a launcher."""
        session = self._session(request)
        scheme = "wss" if request.scheme == "https" else "ws"
        path = f"/session/{request.match_info['name']}/ws"
        return web.json_response({"sessionURL": f"{scheme}://{request.host}{path}", "secret": session.key})

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        session = self._session(request)
        assert self._client is not None
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        body = request.content if request.can_read_body else None
        url = f"{session.url}/{request.match_info['path'] or 'index.html'}"
        try:
            async with self._client.request(
                request.method, url, headers={**headers, KEY_HEADER: session.key}, data=body, allow_redirects=False
            ) as answer:
                return await _answered(request, answer)
        except aiohttp.ClientConnectionError as error:
            raise web.HTTPBadGateway(text="The session does not answer: open the printed address again.") from error

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        session = self._session(request)
        assert self._client is not None
        outer = web.WebSocketResponse(max_msg_size=0, compress=False)
        await outer.prepare(request)
        url = f"{session.url}/ws".replace("http", "ws", 1)
        with suppress(aiohttp.ClientError):
            async with self._client.ws_connect(url, headers={KEY_HEADER: session.key}, max_msg_size=0) as inner:
                ways = [asyncio.create_task(_forward(*pair)) for pair in ((outer, inner), (inner, outer))]
                _, rest = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in rest:
                    way.cancel()
        await outer.close()
        return outer


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine, seen from itself alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


async def _answered(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    headers = {name: answer.headers[name] for name in PASSED_BACK if name in answer.headers}
    response = web.StreamResponse(status=answer.status, headers={**headers, **HEADERS})
    await response.prepare(request)
    async for part in answer.content.iter_chunked(CHUNK):
        await response.write(part)
    await response.write_eof()
    return response


async def _forward(source: Any, target: Any) -> None:
    """Binary messages, which are all that trame sends, from one websocket to another, until one of them closes."""
    with suppress(ConnectionError):
        async for message in source:
            if message.type is aiohttp.WSMsgType.BINARY:
                await target.send_bytes(message.data)
