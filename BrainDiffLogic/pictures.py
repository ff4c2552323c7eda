"""Pictures: clean, motion, corrected and difference side by side; a clean slice and its moved versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageColor

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.outputs import staged_output
from BrainDiffLogic.motion.trajectory import Trajectory
from BrainDiffLogic.scan import head_mask, mask_box
from BrainDiffLogic.volume import Volume, ras_axes, to_sagittal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


WINDOW_PERCENTILES = (1.0, 99.5)
"""The grey window, of the clean volume's head and the air around it."""
DIFFERENCE_SHARE = 0.2
"""The difference's colours end at plus and minus this share of the window."""
MARGIN_MM = 8.0
"""Air shown around the head."""
DIVERGING = ("#bff3ff", "#2f9bff", "#0b2a66", "#000000", "#661010", "#ff6a2f", "#ffe9a8")
"""Less than the input (blue) to more (red); no change is as black as the air."""
GREY, DARK_GREY = "#b8b8b8", "#505050"
PANEL_INCHES, PLOT_INCHES, DOTS_PER_INCH = 3.5, 2.6, 110
PANELS = ("moved", "corrected", "reference", "changed: corrected - moved", "left: corrected - reference")
"""Of a strip."""
CAPTION = (
    f"From left to right: {', '.join(PANELS)}; one grey window, the reference's; differences in its units: red more, "
    f"blue less, full colour at {100 * DIFFERENCE_SHARE:.0f} % of the window"
)
GAP = 4
"""Black columns between two panels of a strip."""


@dataclass(frozen=True)
class ShownSlice:
    """A slice as it is shown: an index into the RAS+ array, and the letters at left, right, top, bottom."""

    plane: str
    index: tuple[slice | int, ...]
    letters: str

    def of(self, array: np.ndarray) -> np.ndarray:
        """(rows, columns) for the screen, first row on top."""
        image = array[self.index].T[::-1]  # superior or anterior on top
        return image if self.letters[0] in "LP" else image[:, ::-1]

    def pixel(self, volume: Volume) -> np.ndarray:
        """(2,) height and width of a pixel in mm."""
        shown = [axis for axis, part in enumerate(self.index) if isinstance(part, slice)]
        return _spacing(volume)[shown][::-1]


def dark_figure(inches: tuple[float, float], **options: Any) -> Figure:
    """An empty black figure of matplotlib, to be drawn without a screen. Raises InputError when it is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(f"drawing needs {error.name}: pip install 'braindiff[demo]'") from None
    figure = Figure(figsize=inches, dpi=DOTS_PER_INCH, facecolor="black", **options)
    FigureCanvasAgg(figure)
    return figure


def darken(axes: Axes, across: str = "", up: str = "") -> None:
    """Black axes with grey ticks, spines and labels."""
    axes.set_facecolor("black")
    axes.tick_params(colors=GREY, labelsize=9)
    for spine in axes.spines.values():
        spine.set_color(DARK_GREY)
    axes.set_xlabel(across, color=GREY, fontsize=10)
    axes.set_ylabel(up, color=GREY, fontsize=10)


def difference_picture(
    panels: Mapping[str, Volume], captions: Mapping[str, str], trajectory: Trajectory, path: Path, title: str = ""
) -> None:
    """Draw a picture (.png) of volumes on one grid.

    panels      clean, motion, corrected (one grey window, the clean volume's) and difference (kind "difference", signed
                colours), by what is written above them, in this order
    captions    what is written below a panel, by the same names
    trajectory  the motion, one pose for each phase-encode line

    Rows: the mid-sagittal slice, an axial slice, and a detail of the sagittal one around the corpus callosum, each with
    square millimetres. Raises InputError when matplotlib is missing.
    """
    clean = next(iter(panels.values()))
    shown, whole = shown_slices(clean), to_sagittal(clean)
    sizes = [np.array(each.of(whole).shape) * each.pixel(clean) for each in shown]
    heights = [PANEL_INCHES * float(height / width) for height, width in sizes]
    inches = (PANEL_INCHES * len(panels) + 1.5, sum(heights) + PLOT_INCHES + 1.0)
    figure = dark_figure(inches, layout="constrained")
    figure.suptitle(title, color="white", fontsize=13)
    parts: Any = figure.subfigures(2, 1, height_ratios=[sum(heights) + 0.7, PLOT_INCHES])
    above, below = parts
    grid = above.subplots(len(shown), len(panels), squeeze=False, height_ratios=heights)
    low, high = _window(clean)
    limit = DIFFERENCE_SHARE * (high - low)
    for column, (name, volume) in zip(grid.T, panels.items(), strict=True):
        signed, array = volume.kind == "difference", to_sagittal(volume)
        for axes, each in zip(column, shown, strict=True):
            mapped = _show(axes, each.of(array), each.pixel(clean), (-limit, limit) if signed else (low, high), signed)
            _letters(axes, each.letters)
        column[0].set_title(name, color="white", fontsize=15)
        column[-1].set_xlabel(captions.get(name, ""), color="white", fontsize=11)
        if signed:
            _colour_bar(above, column.tolist(), mapped, limit)
    for axes, each in zip(grid[:, 0], shown, strict=True):
        axes.set_ylabel(each.plane, color=GREY, fontsize=11)
    _draw_trajectory(below, trajectory)
    for part in parts:
        part.set_facecolor("black")
    figure.savefig(path, facecolor="black")


def _window(volume: Volume) -> tuple[float, float]:
    low, high = np.percentile(volume.array, WINDOW_PERCENTILES)
    return float(low), float(high if high > low else volume.array.max())


def shown_slices(volume: Volume) -> list[ShownSlice]:
    """Mid-sagittal, axial through its middle, and a detail of the sagittal one, cropped to the head."""
    inside = to_sagittal(volume.with_array(head_mask(volume.array), kind="mask"))
    spacing = _spacing(volume)
    margin = np.ceil(MARGIN_MM / spacing).astype(int)
    ends, box = [(side.start, side.stop - 1) for side in mask_box(inside)], mask_box(inside, margin)
    left_right = sum(ends[0]) // 2
    top = ends[2][1]
    axial = max(box[2].start, round(top - 76 / spacing[2]))  # 76 mm below the vertex: the ventricles
    detail = [_within(sum(ends[1]) / 2 - 5, 42 / spacing[1], inside.shape[1])]
    detail += [_within(top - 78 / spacing[2], 38 / spacing[2], inside.shape[2])]
    return [
        ShownSlice("sagittal, middle", (left_right, box[1], box[2]), "APSI"),
        ShownSlice("axial", (box[0], box[1], axial), "RLAP"),
        ShownSlice("sagittal, detail", (left_right, *detail), "APSI"),
    ]


def _within(centre: float, half: float, size: int) -> slice:
    start = int(np.clip(round(centre - half), 0, max(0, size - 1)))
    return slice(start, int(np.clip(round(centre + half), start + 1, size)))


def _spacing(volume: Volume) -> np.ndarray:
    """(3,) mm between slices, rows and columns of the sagittal stack."""
    return volume.spacing[ras_axes(volume.affine)[0]]


def _show(axes: Axes, image: np.ndarray, pixel: np.ndarray, ends: tuple[float, float], signed: bool) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("change", DIVERGING) if signed else "gray"
    axes.set(xticks=[], yticks=[], facecolor="black")
    axes.spines[:].set_visible(False)
    return axes.imshow(
        image, cmap=colours, vmin=ends[0], vmax=ends[1], aspect=float(pixel[0] / pixel[1]),
        interpolation="nearest" if signed else "bicubic",
    )  # fmt: skip


def _letters(axes: Axes, letters: str) -> None:
    """The patient's directions at left, right, top and bottom."""
    places = ((0.015, 0.5, "left", "center"), (0.985, 0.5, "right", "center"),
              (0.5, 0.985, "center", "top"), (0.5, 0.015, "center", "bottom"))  # fmt: skip
    for letter, (x, y, horizontal, vertical) in zip(letters, places, strict=True):
        axes.text(x, y, letter, transform=axes.transAxes, color="#ffd75e", fontsize=10, ha=horizontal, va=vertical)


def _colour_bar(figure: SubFigure, axes: list[Axes], mapped: Any, limit: float) -> None:
    bar = figure.colorbar(mapped, ax=axes, shrink=0.3, anchor=(0, 1), ticks=[-limit, -limit / 2, 0, limit / 2, limit])
    share = 100 * DIFFERENCE_SHARE
    bar.ax.set_yticklabels([f"{share * part:+.0f} %" if part else "0" for part in (-1, -0.5, 0, 0.5, 1)])
    darken(bar.ax)
    bar.set_label("share of the grey window", color=GREY, fontsize=9)


def _draw_trajectory(figure: SubFigure, trajectory: Trajectory) -> None:
    rows = (
        (trajectory.translations, "translation (mm)", ("to R", "to A", "to S")),
        (trajectory.rotations, "rotation (degrees)", ("about R: pitch", "about A: roll", "about S: yaw")),
    )
    for axes, (values, label, names) in zip(figure.subplots(1, len(rows)), rows, strict=True):
        darken(axes, "phase-encode line (dotted: centre of k-space)", label)
        for line, name, colour in zip(values.T, names, ("#ff6b6b", "#7bd88f", "#6bb3ff"), strict=True):
            axes.plot(line, color=colour, linewidth=1.3, label=name)
        axes.axvline(len(trajectory) // 2, color="#707070", linewidth=0.8, linestyle=":")
        axes.margins(x=0, y=0.18)
        axes.legend(loc="upper left", fontsize=9, framealpha=0.6, facecolor="black", edgecolor="none",
                    labelcolor=GREY, ncols=3)  # fmt: skip


def write_strip(path: Path, moved: Volume, corrected: Volume, reference: Volume, number: int) -> None:
    """Write a .png with ``PANELS`` side by side, of one sagittal slice of three volumes on one grid.

    number  which slice of ``to_sagittal``. Superior is on top, anterior on the left, millimetres are square.
    """
    low, high = (float(end) for end in np.percentile(reference.array, WINDOW_PERCENTILES))
    width = high - low if high > low else 1.0
    x, y, z = (to_sagittal(volume)[number].astype(np.float32) for volume in (moved, corrected, reference))
    panels = [_grey((image - low) / width) for image in (x, y, z)]
    panels += [_signed(difference / (DIFFERENCE_SHARE * width)) for difference in (y - x, y - z)]
    spacing = _spacing(reference)[1:]
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


VERSION_INCHES, TITLE_INCHES, CAPTION_INCHES, LABEL_INCHES = 2.0, 0.5, 0.36, 0.4


def injection_picture(
    clean: np.ndarray, moved: Mapping[str, Sequence[np.ndarray]], captions: Mapping[str, Sequence[str]], path: Path,
    title: str = "",
) -> None:  # fmt: skip
    """Draw a picture (.png): for each prior a row of moved versions, and below it what differs from the clean slice.

    clean     (rows, columns) in network units, rows posterior to anterior, columns inferior to superior
    moved     versions, each (rows, columns), by the name of the prior they come from: the motion prior, a control
    captions  what is written below each version, by the same names

    One grey window, the clean slice's; differences in signed colours that end at 20 % of it. Raises InputError when
    matplotlib is missing.
    """
    columns = 1 + max(len(versions) for versions in moved.values())
    height = VERSION_INCHES * clean.shape[1] / clean.shape[0]
    size = (LABEL_INCHES + columns * VERSION_INCHES, TITLE_INCHES + len(moved) * (2 * height + CAPTION_INCHES))
    figure = dark_figure(size)
    from matplotlib.colors import LinearSegmentedColormap

    low, high = (float(end) for end in np.percentile(clean, WINDOW_PERCENTILES))
    limit = DIFFERENCE_SHARE * (high - low)
    grey = {"cmap": "gray", "vmin": low, "vmax": high}
    signed = {"cmap": LinearSegmentedColormap.from_list("change", DIVERGING), "vmin": -limit, "vmax": limit}

    def panel(column: int, top: float, image: np.ndarray, colours: dict[str, Any]) -> Axes:
        left = (LABEL_INCHES + column * VERSION_INCHES) / size[0]
        bottom = 1 - (top + height) / size[1]
        axes = figure.add_axes((left, bottom, VERSION_INCHES / size[0], height / size[1]))
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
