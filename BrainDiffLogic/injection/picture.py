"""A clean slice, its moved versions and what was injected, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from BrainDiffLogic.pictures import DIFFERENCE_SHARE, DIVERGING, GREY, WINDOW_PERCENTILES, dark_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL_INCHES, TITLE_INCHES, CAPTION_INCHES, LABEL_INCHES = 2.0, 0.5, 0.36, 0.4


def injection_picture(
    clean: np.ndarray,
    moved: Mapping[str, Sequence[np.ndarray]],
    captions: Mapping[str, Sequence[str]],
    path: Path,
    title: str = "",
) -> None:
    """Draw a picture (.png): for each prior a row of moved versions, and below it what differs from the clean slice.

    clean     (rows, columns) in network units, rows posterior to anterior, columns inferior to superior
    moved     versions, each (rows, columns), by the name of the prior they come from: the motion prior, a control
    captions  what is written below each version, by the same names

    One grey window, the clean slice's; differences in signed colours that end at 20 % of it. Raises InputError when
    matplotlib is missing.
    """
    columns = 1 + max(len(versions) for versions in moved.values())
    height = PANEL_INCHES * clean.shape[1] / clean.shape[0]
    size = (LABEL_INCHES + columns * PANEL_INCHES, TITLE_INCHES + len(moved) * (2 * height + CAPTION_INCHES))
    figure = dark_figure(size)
    from matplotlib.colors import LinearSegmentedColormap

    low, high = (float(end) for end in np.percentile(clean, WINDOW_PERCENTILES))
    limit = DIFFERENCE_SHARE * (high - low)
    grey = {"cmap": "gray", "vmin": low, "vmax": high}
    signed = {"cmap": LinearSegmentedColormap.from_list("change", DIVERGING), "vmin": -limit, "vmax": limit}

    def panel(column: int, top: float, image: np.ndarray, colours: dict[str, Any]) -> Axes:
        left = (LABEL_INCHES + column * PANEL_INCHES) / size[0]
        bottom = 1 - (top + height) / size[1]
        axes = figure.add_axes((left, bottom, PANEL_INCHES / size[0], height / size[1]))
        axes.imshow(image.T[::-1, ::-1], aspect="auto", **colours)  # superior on top, anterior left
        axes.set_axis_off()
        return axes

    top = TITLE_INCHES
    for name, versions in moved.items():
        panel(0, top, clean, grey).set_title("clean", color="white", fontsize=10, y=0.9)
        for column, image in enumerate(versions, start=1):
            panel(column, top, image, grey)
            below = panel(column, top + height, image - clean, signed)
            below.text(0.5, -0.02, captions[name][column - 1], color=GREY, fontsize=8, ha="center", va="top",
                       transform=below.transAxes)  # fmt: skip
        middle = 1 - (top + height) / size[1]
        figure.text(0.3 * LABEL_INCHES / size[0], middle, name, color="white", fontsize=10, rotation=90, va="center")
        top += 2 * height + CAPTION_INCHES
    note = f"differences: +-{100 * DIFFERENCE_SHARE:.0f} % of the grey window, red more, blue less than clean"
    figure.text(0.5, 1 - 0.2 / size[1], title, color="white", fontsize=12, ha="center", va="center")
    figure.text(0.5, 1 - 0.4 / size[1], note, color=GREY, fontsize=9, ha="center", va="center")
    figure.savefig(path, facecolor="black")
