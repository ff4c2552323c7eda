"""Draws the icons of the extension and of its module: a head, ghosted by motion on the left, clear on the right.

python Testing/Harness/draw_icons.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ICONS = Path(__file__).resolve().parents[2] / "Resources" / "Icons"
SIZE, FINE = 128, 8
BACKGROUND, LINE = (20, 34, 54), (255, 200, 60)
GHOSTS = [(-20, 0.14), (-10, 0.22), (0, 0.42), (10, 0.22), (20, 0.14)]
"""Shifts in pixels of the icon, and how strongly the head shows there."""
PARTS = [
    ((24, 16, 104, 114), 190),  # scalp
    ((31, 23, 97, 107), 40),  # skull
    ((36, 28, 92, 102), 130),  # gray matter
    ((45, 38, 62, 92), 235),  # white matter, left
    ((66, 38, 83, 92), 235),  # white matter, right
    ((54, 52, 62, 78), 40),  # ventricle, left
    ((66, 52, 74, 78), 40),  # ventricle, right
]
"""Ellipses of an axial slice, nose up: box in pixels of the icon, and gray value."""


def head() -> np.ndarray:
    """(y, x) values 0 to 1 of a head without motion, FINE times finer than the icon."""
    image = Image.new("L", (SIZE * FINE, SIZE * FINE))
    draw = ImageDraw.Draw(image)
    draw.polygon([(FINE * x, FINE * y) for x, y in ((55, 19), (64, 7), (73, 19))], fill=190)  # nose
    for box, value in PARTS:
        draw.ellipse([FINE * edge for edge in box], fill=value)
    return np.asarray(image, dtype=float) / 255


def shifted(image: np.ndarray, rows: int) -> np.ndarray:
    """The image moved down; what leaves it does not come back at the top."""
    edge = abs(rows)
    return np.pad(image, ((edge, edge), (0, 0)))[edge - rows :][: len(image)]


def icon() -> Image.Image:
    """The left half as a moving head looks, the right half as a still one, and a line between them."""
    clear = head()
    ghosted = np.clip(sum(share * shifted(clear, FINE * shift) for shift, share in GHOSTS), 0, 1)
    left = np.arange(SIZE * FINE) < SIZE * FINE // 2
    gray = np.where(left, ghosted, clear)[..., None]
    picture = np.array(BACKGROUND) * (1 - gray) + 255 * gray
    picture[:, np.abs(np.arange(SIZE * FINE) - SIZE * FINE / 2) < 1.5 * FINE] = LINE
    image = Image.fromarray(picture.round().astype(np.uint8)).convert("RGBA")
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, *image.size), radius=FINE * 20, fill=255)
    image.putalpha(mask)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    ICONS.mkdir(exist_ok=True)
    for name in ("BrainDiff", "BrainDiffSlicer"):
        icon().save(ICONS / f"{name}.png", optimize=True)
