"""The process of one session: a trame server on the loopback address, which answers only who has its key.

``lifetime.start_session`` starts it and writes the wish to its stdin; one line of JSON on stdout answers, with the port
or with what was wrong with the volumes. When stdin closes, the process ends, and its folder goes with it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from BrainDiffLogic.volume import Volume


def main() -> int:
    """The process's whole life; returns the exit status."""
    wish = json.loads(sys.stdin.readline())
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print would be taken for an answer
    folder = Path(wish["folder"])
    threading.Thread(target=_end_with_stdin, args=(folder,), daemon=True).start()
    try:
        _serve(wish, folder, answer)
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


def _serve(wish: dict[str, Any], folder: Path, answer: Any) -> None:
    from BrainDiffLogic.errors import InputError

    def say(**facts: Any) -> None:
        answer.write(json.dumps(facts) + "\n")
        answer.flush()

    try:
        volume = _read(wish["source"], wish["corrected"])  # before what takes seconds to load
        from trame.app import get_server

        from BrainDiffLogic.view.page import Page
        from BrainDiffLogic.view.routes import add_routes

        server = get_server("braindiff", client_type="vue3")
        page = Page(server, folder, wish["limit"])
        if volume is not None:
            page.open(Path(wish["source"]), wish["source"], volume, wish["corrected"])
    except InputError as error:
        say(error=str(error))
        return
    server.controller.on_server_bind.add(lambda web: add_routes(web.app, page, wish["key"]))
    server.controller.on_server_ready.add(lambda **_: say(port=server.port))
    sys.argv[1:] = [f"--authKey={wish['key']}"]  # of this process's memory, not of its command line
    server.start(
        port=0, host="127.0.0.1", open_browser=False, show_connection_info=False, disable_logging=True,
        timeout=wish["idle"], thread=True,
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


if __name__ == "__main__":
    sys.exit(main())
