"""How long until the first picture, and how many pictures a second while scrolling.

python -m pytest --capture=no --override-ini="python_files=bench_*.py" Testing/View
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from BrainDiffLogic.commands.demo import find_head

SECONDS = 5.0
PICTURE_BYTES = 2000
"""Messages of more bytes are pictures."""
VIEWS = 3


@pytest.mark.parametrize("width", [1280, 800])
def test_first_picture_and_scrolling(
    start_viewer: Callable, open_page: Callable, a_browser: object, width: int
) -> None:
    started = time.perf_counter()
    viewer = start_viewer(find_head())
    ready = time.perf_counter() - started
    page = open_page(viewer.url, width)
    pane = page.locator(".pane").first
    while np.asarray(Image.open(io.BytesIO(pane.screenshot())).convert("L"))[40:-60].std() < 20:
        pass
    first = time.perf_counter() - started
    page.wait_for_timeout(2000)

    pictures: list[int] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda data: pictures.append(len(data))))
    page.reload()
    page.wait_for_selector(".pane img")
    page.wait_for_timeout(2000)
    box = pane.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    pictures.clear()
    begin = time.perf_counter()
    turns = 0
    while time.perf_counter() - begin < SECONDS:
        page.mouse.wheel(0, 120 if turns // 60 % 2 else -120)
        page.wait_for_timeout(10)
        turns += 1
    rate = sum(size > PICTURE_BYTES for size in pictures) / VIEWS / (time.perf_counter() - begin)
    size = f"{box['width']:.0f} x {box['height']:.0f} pixels a view"
    print(f"\n{width} wide: address {ready:.1f} s, first picture {first:.1f} s, {rate:.1f} pictures a second, {size}")
    assert rate > 5
