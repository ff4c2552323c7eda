"""The page of one correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from BrainDiffLogic.correction import Correction
from BrainDiffLogic.pages import render
from BrainDiffLogic.pages.slices import LETTERS, as_ras, chosen, grey, in_page, signed
from BrainDiffLogic.pictures import DIFFERENCE_SHARE, WINDOW_PERCENTILES
from BrainDiffLogic.volume import Volume

BETTER = {
    "cjv": "lower", "efc": "lower", "gradient_entropy": "lower", "snr_csf": "higher", "snr_gm": "higher",
    "snr_wm": "higher", "snr_total": "higher", "cnr": "higher", "fber": "higher", "tenengrad": "higher",
    "aes": "higher",
}  # fmt: skip
"""No-reference quality, and which way each gets better."""
LINES = ("along R", "along A", "along S", "about R", "about A", "about S")
PROVENANCE = (
    "software", "model", "model_version", "model_sha256", "family", "strength", "device", "gate", "severity_mm",
    "severity_error_mm", "changed_share", "plane", "stored_as", "seconds",
)  # fmt: skip


def scan_page(correction: Correction, stored: Volume, facts: Mapping[str, Any], shown_as: str) -> str:
    """The page: the original and what was written, slice by slice, motion, quality and provenance.

    stored    the corrected volume as it is written
    facts     the report, with "quality"
    shown_as  what the scan is called
    """
    motion = (facts.get("motion") or {}).get("trajectory")
    quality = facts["quality"]
    rows = [
        {"metric": metric, "better": better, **{when: quality[when].get(metric) for when in ("before", "after")}}
        for metric, better in BETTER.items()
    ]  # fmt: skip
    return render(
        "scan", title=shown_as, slices=_slices(correction, stored, facts), charts=_charts(motion) if motion else [],
        quality=rows, notes=[*facts["outside_domain"], *facts["notes"]], share=DIFFERENCE_SHARE,
        provenance=[(name.replace("_", " "), facts[name]) for name in PROVENANCE if facts.get(name) is not None],
    )  # fmt: skip


def _slices(correction: Correction, stored: Volume, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A picture of each layer for each slice that is shown."""
    volume = correction.finding.volume
    original, corrected = as_ras(volume), as_ras(stored)
    low, high = (float(end) for end in np.percentile(original, WINDOW_PERCENTILES))
    width = high - low if high > low else 1.0
    apart = None if correction.disagreement is None else as_ras(correction.disagreement)
    head = as_ras(volume.with_array(correction.finding.head.astype(np.uint8), kind="mask")) > 0
    found = []
    for cut in chosen(head, facts["worst_sagittal_slice"] if facts["changed_share"] else None):
        before, after = cut.of(original), cut.of(corrected)
        layers = {
            "original": grey((before - low) / width), "corrected": grey((after - low) / width),
            "difference": signed((after - before) / (DIFFERENCE_SHARE * width)),
        }  # fmt: skip
        if apart is not None:
            layers["disagreement"] = grey(cut.of(apart) / (DIFFERENCE_SHARE * width))
        pictures = {name: in_page(picture, volume, cut.plane) for name, picture in layers.items()}
        found.append({"plane": cut.plane, "number": cut.number, "letters": LETTERS[cut.plane], **pictures})
    return found


def _charts(trajectory: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Translations and rotations as lines on a canvas of 100 x 40."""
    rows = np.asarray(trajectory, dtype=float)
    across = np.linspace(0, 100, len(rows))
    charts = []
    for title, unit, part in (("Translation", "mm", slice(0, 3)), ("Rotation", "degrees", slice(3, 6))):
        limit = max(float(np.abs(rows[:, part]).max()), 0.1)
        lines = [
            {"name": name, "points": " ".join(f"{x:.2f},{y:.2f}" for x, y in zip(across, column, strict=True))}
            for name, column in zip(LINES[part], 20 - 19 * rows[:, part].T / limit, strict=True)
        ]  # fmt: skip
        charts.append({"title": title, "unit": unit, "limit": limit, "lines": lines, "count": len(rows)})
    return charts
