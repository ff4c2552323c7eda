"""A slice before and after, beside the still scan, as one picture without labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from BrainDiffLogic.images.outputs import staged_output
from BrainDiffLogic.pictures import DIFFERENCE_SHARE, DIVERGING, WINDOW_PERCENTILES
from BrainDiffLogic.volume import Volume, ras_axes, to_sagittal

PANELS = ("moved", "corrected", "reference", "changed: corrected - moved", "left: corrected - reference")
CAPTION = (
    f"From left to right: {', '.join(PANELS)}; one grey window, the reference's; differences in its units: red more, "
    f"blue less, full colour at {100 * DIFFERENCE_SHARE:.0f} % of the window"
)
GAP = 4
"""Black columns between two panels."""


def write_strip(path: Path, moved: Volume, corrected: Volume, reference: Volume, number: int) -> None:
    """Write a .png with ``PANELS`` side by side, of one sagittal slice of three volumes on one grid.

    number  which slice of ``to_sagittal``. Superior is on top, anterior on the left, millimetres are square.
    """
    low, high = (float(end) for end in np.percentile(reference.array, WINDOW_PERCENTILES))
    width = high - low if high > low else 1.0
    x, y, z = (to_sagittal(volume)[number].astype(np.float32) for volume in (moved, corrected, reference))
    panels = [_grey((image - low) / width) for image in (x, y, z)]
    panels += [_signed(difference / (DIFFERENCE_SHARE * width)) for difference in (y - x, y - z)]
    spacing = reference.spacing[ras_axes(reference.affine)[0]][1:]
    upright = [_upright(panel, spacing) for panel in panels]
    columns, rows = upright[0].size
    strip = Image.new("RGB", (len(upright) * (columns + GAP) - GAP, rows))
    for place, panel in enumerate(upright):
        strip.paste(panel, (place * (columns + GAP), 0))
    with staged_output(path) as staged:
        strip.save(staged, optimize=True)


def _grey(image: np.ndarray) -> np.ndarray:
    """(rows, columns) in 0 to 1 as (rows, columns, 3) uint8."""
    return np.repeat((255 * np.clip(image, 0, 1)).astype(np.uint8)[..., None], 3, axis=-1)


def _signed(image: np.ndarray) -> np.ndarray:
    """(rows, columns) in -1 to 1 as (rows, columns, 3) uint8, in the colours of the demo's difference."""
    colours = np.array([ImageColor.getrgb(colour) for colour in DIVERGING], dtype=float)
    ends = np.linspace(-1, 1, len(colours))
    return np.stack([np.interp(image, ends, channel) for channel in colours.T], axis=-1).astype(np.uint8)


def _upright(panel: np.ndarray, spacing: np.ndarray) -> Image.Image:
    """A slice (posterior to anterior, inferior to superior) as it is looked at; spacing (2,) mm along the two."""
    image = Image.fromarray(np.ascontiguousarray(panel.swapaxes(0, 1)[::-1, ::-1]))
    height, width = np.round(np.array(image.size)[::-1] * spacing[::-1] / spacing.min()).astype(int)
    return image.resize((int(width), int(height)), Image.Resampling.BILINEAR)
