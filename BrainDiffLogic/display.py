"""How a correction is shown, whatever shows it: names, colours, windows, planes, what numbers mean. Needs numpy only.

Slicer's panel and the page in the browser both take it from here, so that one looks like the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from BrainDiffLogic.fill import find_fill

CAPTIONS = ("Original", "Corrected", "Difference")
"""The three volumes, from left to right."""
VIEW_COLORS = ("#8C8C8C", "#6EB04B", "#4A90D9")
"""Of the frames of their views."""
PLANES = ("Sagittal", "Axial", "Coronal")
"""The first one is the plane in which motion is corrected."""

COLORS = 255
"""Of a signed difference. Odd, so that one entry is the middle."""
WHITE = 1
"""Entries on each side of the middle that are white too: a view rounds zero to one of them."""
WINDOW_SHARE = 0.2
"""The window of a difference reaches from minus to plus this share of the robust maximum of the original."""
PERCENTILE = 99.0


class Metric(NamedTuple):
    """A number of ``metrics.quality.assess``: its key there, its short name, what it means."""

    key: str
    name: str
    meaning: str
    higher: bool
    """Whether more is better."""


METRICS = (
    Metric("tenengrad", "Sharpness (Tenengrad)", "Energy of the edges; noise raises it too.", higher=True),
    Metric("aes", "Edge strength (AES)", "Average steepness of the edges.", higher=True),
    Metric("gradient_entropy", "Gradient entropy", "Scatter of edges: ghosts raise it.", higher=False),
    Metric("efc", "Ghosting (EFC)", "Entropy of the whole image: ghosts raise it.", higher=False),
    Metric("fber", "Head to air energy (FBER)", "Signal in the head over that in the air.", higher=True),
    Metric("cjv", "Gray-white variation (CJV)", "Spread within both tissues over their gap.", higher=False),
    Metric("cnr", "Gray-white contrast (CNR)", "Gap between both tissues over the noise.", higher=True),
    Metric("snr_total", "SNR, mean", "Signal to noise, mean of the three tissues.", higher=True),
    Metric("snr_wm", "SNR, white matter", "Signal to noise in white matter.", higher=True),
    Metric("snr_gm", "SNR, gray matter", "Signal to noise in gray matter.", higher=True),
    Metric("snr_csf", "SNR, fluid", "Signal to noise in cerebrospinal fluid.", higher=True),
)
"""What is shown of an assessment, the most telling first. Numbers compare one head with itself, not two scanners."""
SHORT = ("tenengrad", "efc", "cjv")
"""Of these, what is shown first; the rest is folded."""
QUALITY_TITLES = ("Metric", "Before", "After (strength 1)", "What it means")
"""The columns of the table."""
QUALITY_LIMIT = "Numbers of the image alone: they cannot tell whether the anatomy is right. Look at the difference."
MISSING = "-"


class QualityRow(NamedTuple):
    """A metric before and after a correction, as text, and why it is missing where it is."""

    metric: Metric
    before: str
    after: str
    reasons: tuple[str, ...]


def quality_rows(quality: Mapping[str, Any]) -> list[QualityRow]:
    """All of ``METRICS`` of a report's entry "quality": {"before": {...}, "after": {...}}, either of which may lack."""
    sides = [quality.get(when) or {} for when in ("before", "after")]
    rows = []
    for metric in METRICS:
        values = [side.get(metric.key) for side in sides]
        reasons = dict.fromkeys((side.get("reasons") or {}).get(metric.key) for side in sides)
        before, after = (MISSING if value is None else f"{value:.4g}" for value in values)
        rows.append(QualityRow(metric, before, after, tuple(reason for reason in reasons if reason)))
    return rows


def verdict(before: str, after: str, higher: bool) -> str:
    """What two texts of a row say; ``higher``: whether more is better."""
    if MISSING in (before, after):
        return "not measured"
    if before == after:
        return "the same"
    return "better" if (float(after) > float(before)) == higher else "worse"


def difference_colors() -> np.ndarray:
    """(COLORS, 3) red, green, blue from 0 to 1: blue is less, white is unchanged, red is more."""
    steps = difference_steps()
    fade = 1 - np.abs(steps)
    return np.stack([np.where(steps > 0, 1.0, fade), fade, np.where(steps > 0, fade, 1.0)], axis=1)


def difference_steps() -> np.ndarray:
    """(COLORS,) from -1, least, over 0, unchanged, to 1, most."""
    middle = COLORS // 2
    steps = np.arange(COLORS) - middle
    return np.sign(steps) * np.maximum(0, np.abs(steps) - WHITE) / (middle - WHITE)


def half_window(original: np.ndarray) -> float:
    """Half the width of a difference's window, in units of ``original`` (any shape).

    It depends on the original only, so that the colours of every strength and model can be compared.
    """
    return WINDOW_SHARE * robust_maximum(original)


def robust_maximum(original: np.ndarray) -> float:
    """The 99th percentile of what lies above the mean: of the head, not of the air; 1 for an empty image.

    Fill values are no image.
    """
    if fill := find_fill(original):
        original = original[~fill.where]
    values = original[np.isfinite(original)]
    above = values[values > values.mean(dtype=np.float64)] if values.size else values
    if not above.size:
        return float(np.abs(values).max()) if values.any() else 1.0
    place = int((above.size - 1) * PERCENTILE / 100)
    highest = float(np.partition(above, place)[place])
    return highest if highest > 0 else float(np.abs(values).max())


def changed_slices(values: np.ndarray, first: float, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mm along the normal of a view, sum of |values|) of each of its slices.

    values  (K, J, I); NaN: not measured
    first   mm along the normal at which voxel (0, 0, 0) lies
    steps   (3,) mm along the normal from one voxel to the next along I, J and K
    The slices are spaced as the voxel axis nearest to the normal; every voxel counts for the two slices that it lies
    between, so that a volume oblique to the view is measured as it is displayed.
    """
    spacing = np.abs(steps).max()
    lowest = first + sum(min(0.0, step * (size - 1)) for step, size in zip(steps, values.shape[::-1], strict=True))
    sums = _slice_sums(values, (first - lowest) / spacing, steps / spacing)
    return lowest + spacing * np.arange(len(sums)), sums


def _slice_sums(values: np.ndarray, first: float, steps: np.ndarray) -> np.ndarray:
    """Sum of |values| (K, J, I) in each slice; ``first`` and ``steps`` (I, J, K) in slices."""
    depth, height, width = values.shape
    in_plane = first + steps[0] * np.arange(width) + steps[1] * np.arange(height)[:, np.newaxis]
    slices = int(np.ceil(np.abs(steps) @ (width - 1, height - 1, depth - 1))) + 2
    sums = np.zeros(slices + 1)
    for k in range(depth):
        weights = np.nan_to_num(np.abs(values[k], dtype=np.float64))
        below = np.clip(np.floor(in_plane + k * steps[2]), 0, slices - 1)
        share = in_plane + k * steps[2] - below
        below = below.astype(np.intp).ravel()
        sums[:-1] += np.bincount(below, (weights * (1 - share)).ravel(), slices)
        sums[1:] += np.bincount(below, (weights * share).ravel(), slices)
    return sums
