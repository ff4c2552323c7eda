"""MC-Net's Fig. 5: SSIM against the magnitude of the motion, before and after correction."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.outputs import staged_output
from BrainDiffLogic.papers.measures import Measured
from BrainDiffLogic.pictures import DOTS_PER_INCH, GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS, PICTURE = "magnitude.csv", "magnitude.png"
CAPTION = (
    "magnitude: standard deviation over the points of a trace, mean over the parameters that move (translation along A"
    " and S in mm, pitch in degrees); a point is the mean over the slices of one test scan and trace"
)
SIZE_INCHES, BINS = (13.0, 4.6), 6
BEFORE, AFTER, OTHER = "#ff6a2f", "#2f9bff", "#7fe07f"

Point = dict[str, Any]


def magnitude(facts: Mapping[str, Any]) -> float:
    """Of a pair: the mean standard deviation, in mm and degrees alike, of its in-plane parameters that move."""
    deviations = np.array([facts["sd_deg"][0], *facts["sd_mm"][1:]])
    moving = deviations[deviations > 0]
    return float(moving.mean()) if moving.size else 0.0


def magnitude_points(name: str, pairs: Sequence[Mapping[str, Any]], measured: Measured) -> list[Point]:
    """The points of a set: mean SSIM of every method over the slices of each scan and trace, by magnitude.

    pairs  the facts of the pairs in the order in which they were measured
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for number, facts in enumerate(pairs):
        groups.setdefault((facts["scan"], facts["trace"]), []).append(number)
    points = []
    for (scan, trace), numbers in groups.items():
        facts = pairs[numbers[0]]
        ssim = {f"ssim {m}": float(np.mean([v["ssim"][n] for n in numbers])) for m, v in measured.values.items()}
        points.append({
            "set": name, "subject": facts["subject"], "scan": scan, "trace": trace, "slices": len(numbers),
            "magnitude": magnitude(facts), "severity_mm": facts["severity_mm"], **ssim,
        })  # fmt: skip
    return sorted(points, key=lambda point: point["magnitude"])


def write_points(points: Sequence[Point], path: Path) -> None:
    """Write the points of all sets as CSV."""
    with staged_output(path) as staged, open(staged, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(points[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(points)


def magnitude_picture(points: Sequence[Point], method: str, before: str, titles: Mapping[str, str], path: Path) -> None:
    """Draw a picture (.png): for each set SSIM before and after ``method``, then what all sets are after it.

    titles  name of a set: what is written above it
    Raises InputError when matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(f"drawing needs {error.name}: pip install 'braindiff[demo]'") from None
    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, facecolor="black")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, len(titles) + 1, sharey=True))
    for (name, title), axes in zip(titles.items(), panels, strict=False):
        own = [point for point in points if point["set"] == name]
        _draw(axes, own, before, BEFORE, "before")
        _draw(axes, own, method, AFTER, f"after {method}")
        _dress(axes, title)
    for (name, title), colour in zip(titles.items(), (AFTER, OTHER), strict=False):
        _draw(panels[-1], [point for point in points if point["set"] == name], method, colour, title)
    _dress(panels[-1], f"after {method}")
    panels[0].set_ylabel("SSIM", color=GREY)
    figure.text(0.5, 0.02, CAPTION, color=GREY, fontsize=8, ha="center")
    figure.subplots_adjust(left=0.06, right=0.98, bottom=0.2, top=0.9, wspace=0.08)
    with staged_output(path) as staged:
        figure.savefig(staged, facecolor="black")


def _draw(axes: Axes, points: Sequence[Point], method: str, colour: str, label: str) -> None:
    """The points, and a line through the means of groups of equal number."""
    across = np.array([point["magnitude"] for point in points])
    up = np.array([point[f"ssim {method}"] for point in points])
    axes.plot(across, up, ".", color=colour, alpha=0.5, markersize=5)
    groups = np.array_split(np.arange(len(points)), min(BINS, len(points)))
    axes.plot([across[g].mean() for g in groups], [up[g].mean() for g in groups], color=colour, label=label)


def _dress(axes: Axes, title: str) -> None:
    axes.set_facecolor("black")
    axes.set_title(title, color="white", fontsize=11)
    axes.set_xlabel("motion magnitude (mm or degrees)", color=GREY)
    axes.tick_params(colors=GREY)
    for spine in axes.spines.values():
        spine.set_color(GREY)
    axes.legend(facecolor="black", edgecolor=GREY, labelcolor="white", fontsize=8)
