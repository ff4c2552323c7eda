"""A correction as one picture: clean | motion | corrected | difference, and the motion below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.intensity import head_mask
from BrainDiffLogic.motion.trajectory import Trajectory
from BrainDiffLogic.volume import Volume, ras_axes, to_sagittal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WINDOW_PERCENTILES = (1.0, 99.5)
"""The grey window, of the clean volume's head and the air around it."""
DIFFERENCE_SHARE = 0.2
"""The difference's colours end at plus and minus this share of the window."""
MARGIN_MM = 8.0
"""Air shown around the head."""
DIVERGING = ("#bff3ff", "#2f9bff", "#0b2a66", "#000000", "#661010", "#ff6a2f", "#ffe9a8")
"""Less than the input (blue) to more (red); no change is as black as the air."""
GREY = "#b8b8b8"
PANEL_INCHES, DOTS_PER_INCH = 3.5, 110


@dataclass(frozen=True)
class View:
    """A slice as it is shown: an index into the RAS+ array, and the letters at left, right, top, bottom."""

    plane: str
    index: tuple[slice | int, ...]
    letters: str

    def of(self, array: np.ndarray) -> np.ndarray:
        """(rows, columns) for the screen, first row on top."""
        image = array[self.index].T[::-1]  # superior or anterior on top
        return image if self.letters[0] in "LP" else image[:, ::-1]


def difference_picture(
    panels: Mapping[str, Volume],
    captions: Mapping[str, str],
    trajectory: Trajectory,
    path: Path,
    title: str = "",
) -> None:
    """Draw a picture (.png) of volumes on one grid.

    panels      clean, motion, corrected (one grey window, the clean volume's) and difference (kind
                "difference", signed colours), by what is written above them, in this order
    captions    what is written below a panel, by the same names
    trajectory  the motion, one pose for each phase-encode line

    Rows: the mid-sagittal slice, an axial slice, and a detail of the sagittal one around the corpus callosum,
    each with square millimetres. Raises InputError when matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(f"drawing needs {error.name}: pip install 'braindiff[demo]'") from None

    clean = next(iter(panels.values()))
    views = _views(clean)
    layout = _Layout.of([height / width for height, width in (_extent(view, clean) for view in views)], len(panels))
    figure = Figure(figsize=layout.size, dpi=DOTS_PER_INCH, facecolor="black")
    FigureCanvasAgg(figure)
    low, high = _window(clean)
    limit = DIFFERENCE_SHARE * (high - low)
    for column, (name, volume) in enumerate(panels.items()):
        signed, array = volume.kind == "difference", to_sagittal(volume)
        ends = (-limit, limit) if signed else (low, high)
        for row, view in enumerate(views):
            axes = figure.add_axes(layout.panel(row, column))
            mapped = _show(axes, view, clean, array, ends, signed)
            _letters(axes, view.letters)
            if column == 0:
                axes.set_ylabel(view.plane, color=GREY, fontsize=11)
        figure.text(*layout.above(column), name, color="white", fontsize=15, ha="center", va="bottom")
        figure.text(*layout.below(column), captions.get(name, ""), color="white", fontsize=11, ha="center", va="top")
        if signed:
            _colour_bar(figure, layout.beside(column), mapped, limit)
    _draw_trajectory(figure, layout, trajectory)
    figure.text(0.5, 1 - 0.3 / layout.size[1], title, color="white", fontsize=13, ha="center", va="center")
    figure.savefig(path, facecolor="black")


@dataclass(frozen=True)
class _Layout:
    """Where things go on the figure: ``size`` in inches; rows from the top, all else in shares of the figure."""

    size: tuple[float, float]
    heights: list[float]
    columns: int

    LEFT, RIGHT, TOP, BELOW, GAP, PLOT, BOTTOM = 0.65, 1.2, 0.95, 0.75, 0.08, 1.7, 0.6

    @classmethod
    def of(cls, ratios: Sequence[float], columns: int) -> _Layout:
        """For rows of these ratios of height to width."""
        heights = [PANEL_INCHES * ratio for ratio in ratios]
        width = cls.LEFT + columns * (PANEL_INCHES + cls.GAP) + cls.RIGHT
        rest = cls.TOP + cls.BELOW + cls.PLOT + cls.BOTTOM
        return cls((width, rest + sum(heights) + cls.GAP * (len(heights) - 1)), heights, columns)

    def panel(self, row: int, column: int) -> tuple[float, float, float, float]:
        """(left, bottom, width, height) of a panel."""
        top = self.TOP + sum(self.heights[:row]) + self.GAP * row
        return self._box(self._left(column), top, PANEL_INCHES, self.heights[row])

    def above(self, column: int) -> tuple[float, float]:
        """The middle of the line above a column."""
        x, y, width, height = self.panel(0, column)
        return x + width / 2, y + height + 0.1 / self.size[1]

    def below(self, column: int) -> tuple[float, float]:
        """The middle of the line below a column."""
        x, y, width, _ = self.panel(len(self.heights) - 1, column)
        return x + width / 2, y - 0.1 / self.size[1]

    def beside(self, column: int) -> tuple[float, float, float, float]:
        """The box of a colour bar, right of the first row of a column."""
        return self._box(self._left(column + 1) + 0.05, self.TOP, 0.15, self.heights[0])

    def plot(self, number: int, count: int) -> tuple[float, float, float, float]:
        """The box of one of ``count`` plots in the last row."""
        gap = 0.7
        width = (self._left(self.columns) - self.LEFT - gap * (count - 1)) / count
        top = self.size[1] - self.PLOT - self.BOTTOM
        return self._box(self.LEFT + number * (width + gap), top, width, self.PLOT)

    def _left(self, column: int) -> float:
        return self.LEFT + column * (PANEL_INCHES + self.GAP)

    def _box(self, left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
        full_width, full_height = self.size
        return left / full_width, 1 - (top + height) / full_height, width / full_width, height / full_height


def _window(volume: Volume) -> tuple[float, float]:
    low, high = np.percentile(volume.array, WINDOW_PERCENTILES)
    return float(low), float(high if high > low else volume.array.max())


def _views(volume: Volume) -> list[View]:
    """Mid-sagittal, axial through its middle, and a detail of the sagittal one, cropped to the head."""
    inside = to_sagittal(volume.with_array(head_mask(volume.array), kind="mask"))
    margin = np.ceil(MARGIN_MM / _spacing(volume)).astype(int)
    ends = [np.flatnonzero(inside.any(axis=tuple(o for o in range(3) if o != d)))[[0, -1]] for d in range(3)]
    box = [
        slice(max(0, int(first - m)), min(size, int(last + m) + 1))
        for (first, last), m, size in zip(ends, margin, inside.shape, strict=True)
    ]
    left_right = int(ends[0].sum()) // 2
    top = int(ends[2][1])
    axial = max(box[2].start, round(top - 76 / _spacing(volume)[2]))  # 76 mm below the vertex: the ventricles
    detail = [_within(ends[1].mean() - 5, 42 / _spacing(volume)[1], inside.shape[1])]
    detail += [_within(top - 78 / _spacing(volume)[2], 38 / _spacing(volume)[2], inside.shape[2])]
    return [
        View("sagittal, middle", (left_right, box[1], box[2]), "APSI"),
        View("axial", (box[0], box[1], axial), "RLAP"),
        View("sagittal, detail", (left_right, *detail), "APSI"),
    ]


def _within(centre: float, half: float, size: int) -> slice:
    start = int(np.clip(round(centre - half), 0, max(0, size - 1)))
    return slice(start, int(np.clip(round(centre + half), start + 1, size)))


def _spacing(volume: Volume) -> np.ndarray:
    """(3,) mm between slices, rows and columns of the sagittal stack."""
    return volume.spacing[ras_axes(volume.affine)[0]]


def _shown_axes(view: View) -> tuple[int, int]:
    first, second = (d for d, part in enumerate(view.index) if isinstance(part, slice))
    return first, second


def _extent(view: View, volume: Volume) -> tuple[float, float]:
    """Height and width in mm."""
    across, up = _shown_axes(view)
    columns, rows = view.of(to_sagittal(volume)).shape[::-1]
    return rows * _spacing(volume)[up], columns * _spacing(volume)[across]


def _show(
    axes: Axes, view: View, clean: Volume, array: np.ndarray, limits: tuple[float, float], signed: bool
) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    across, up = _shown_axes(view)
    spacing = _spacing(clean)
    colours = LinearSegmentedColormap.from_list("change", DIVERGING) if signed else "gray"
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor("black")
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes.imshow(
        view.of(array), cmap=colours, vmin=limits[0], vmax=limits[1],
        aspect=float(spacing[up] / spacing[across]), interpolation="nearest" if signed else "bicubic",
    )  # fmt: skip


def _letters(axes: Axes, letters: str) -> None:
    """The patient's directions at left, right, top and bottom."""
    places = ((0.015, 0.5, "left", "center"), (0.985, 0.5, "right", "center"),
              (0.5, 0.985, "center", "top"), (0.5, 0.015, "center", "bottom"))  # fmt: skip
    for letter, (x, y, horizontal, vertical) in zip(letters, places, strict=True):
        axes.text(
            x, y, letter, transform=axes.transAxes, color="#ffd75e", fontsize=10, ha=horizontal, va=vertical
        )


def _colour_bar(figure: Figure, box: tuple[float, float, float, float], mapped: Any, limit: float) -> None:
    side = figure.add_axes(box)
    bar = figure.colorbar(mapped, cax=side, ticks=[-limit, -limit / 2, 0, limit / 2, limit])
    share = 100 * DIFFERENCE_SHARE
    bar.ax.set_yticklabels([f"{share * part:+.0f} %" if part else "0" for part in (-1, -0.5, 0, 0.5, 1)])
    bar.ax.tick_params(colors=GREY, labelsize=9)
    bar.outline.set_edgecolor("#404040")
    bar.set_label("share of the grey window", color=GREY, fontsize=9)


def _draw_trajectory(figure: Figure, layout: _Layout, trajectory: Trajectory) -> None:
    rows: Sequence[tuple[np.ndarray, str, tuple[str, ...]]] = (
        (trajectory.translations, "translation (mm)", ("to R", "to A", "to S")),
        (trajectory.rotations, "rotation (degrees)", ("about R: pitch", "about A: roll", "about S: yaw")),
    )
    for number, (values, label, names) in enumerate(rows):
        axes = figure.add_axes(layout.plot(number, len(rows)))
        axes.set_facecolor("black")
        for line, name, colour in zip(values.T, names, ("#ff6b6b", "#7bd88f", "#6bb3ff"), strict=True):
            axes.plot(line, color=colour, linewidth=1.3, label=name)
        axes.axvline(len(trajectory) // 2, color="#707070", linewidth=0.8, linestyle=":")
        axes.set_ylabel(label, color=GREY, fontsize=10)
        axes.set_xlabel("phase-encode line (dotted: centre of k-space)", color=GREY, fontsize=10)
        axes.tick_params(colors=GREY, labelsize=9)
        for spine in axes.spines.values():
            spine.set_color("#505050")
        axes.margins(x=0, y=0.18)
        axes.legend(loc="upper left", fontsize=9, framealpha=0.6, facecolor="black", edgecolor="none",
                    labelcolor=GREY, ncols=3)  # fmt: skip
