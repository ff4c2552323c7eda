"""Pages that are looked at in a browser: each one file with its style, script and pictures, which needs no network."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image, ImageColor

from BrainDiffLogic import __version__
from BrainDiffLogic.correction import Correction
from BrainDiffLogic.display import METRICS
from BrainDiffLogic.files import resources
from BrainDiffLogic.pictures import DIFFERENCE_SHARE, DIVERGING, WINDOW_PERCENTILES
from BrainDiffLogic.scan import mask_box
from BrainDiffLogic.volume import Volume, ras_axes, to_sagittal


def render(template: str, **values: Any) -> str:
    """A page from Resources/Pages/TEMPLATE.html.jinja; whatever text the values hold is escaped."""
    environment = Environment(
        loader=FileSystemLoader(resources() / "Pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(f"{template}.html.jinja").render(version=__version__, **values)


PLANES = ("sagittal", "coronal", "axial")
LETTERS = {"sagittal": "APSI", "coronal": "RLSI", "axial": "RLAP"}
"""What lies at left, right, top and bottom: anterior, or the patient's right, on the left of the picture."""
SHOWN = 5
"""Slices of each plane, evenly through the head."""


@dataclass(frozen=True)
class Slice:
    """One slice of a plane: which axis of a RAS array, and where."""

    plane: str
    number: int

    def of(self, array: np.ndarray) -> np.ndarray:
        """(rows, columns) of a RAS array (R, A, S), as the picture has them."""
        image = np.take(array, self.number, axis=PLANES.index(self.plane))
        return image.T[::-1, ::-1]


def slices_through(head: np.ndarray, worst: int | None = None) -> Iterator[Slice]:
    """Slices through a head (R, A, S) bool: evenly in each plane, and the sagittal one ``worst``."""
    for plane, side in zip(PLANES, mask_box(head), strict=True):
        places = np.linspace(side.start, side.stop - 1, SHOWN + 2)[1:-1].round().astype(int).tolist()
        extra = [worst] if plane == "sagittal" and worst is not None else []
        yield from (Slice(plane, number) for number in sorted({*places, *extra}))


def as_ras(volume: Volume) -> np.ndarray:
    """The voxels in the order of the patient's axes R, A, S, float32."""
    return to_sagittal(volume).astype(np.float32)


def grey_picture(image: np.ndarray) -> Image.Image:
    """(rows, columns) in 0 to 1."""
    return Image.fromarray((255 * np.clip(image, 0, 1)).astype(np.uint8))


def signed_picture(image: np.ndarray) -> Image.Image:
    """(rows, columns) in -1 to 1, blue less and orange more, in 255 colours."""
    ends = np.linspace(-1, 1, len(DIVERGING))
    colours = np.array([ImageColor.getrgb(colour) for colour in DIVERGING], dtype=float)
    palette = np.stack([np.interp(np.linspace(-1, 1, 255), ends, channel) for channel in colours.T], axis=-1)
    picture = Image.fromarray((127 + 127 * np.clip(image, -1, 1)).round().astype(np.uint8)).convert("P")
    picture.putpalette(palette.astype(np.uint8).ravel().tolist())
    return picture


def in_page(picture: Image.Image, volume: Volume, plane: str) -> str:
    """The picture with square millimetres, as the source of an <img>."""
    spacing = np.delete(volume.spacing[ras_axes(volume.affine)[0]], PLANES.index(plane))
    width, height = np.round(np.array(picture.size) * spacing / spacing.min()).astype(int).tolist()
    smooth = Image.Resampling.NEAREST if picture.mode == "P" else Image.Resampling.BILINEAR
    content = BytesIO()
    picture.resize((max(1, width), max(1, height)), smooth).save(content, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode("ascii")


BETTER = {metric.key: "higher" if metric.higher else "lower" for metric in METRICS}
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
    panels = []
    for cut in slices_through(head, facts["worst_sagittal_slice"] if facts["changed_share"] else None):
        before, after = cut.of(original), cut.of(corrected)
        layers = {
            "original": grey_picture((before - low) / width), "corrected": grey_picture((after - low) / width),
            "difference": signed_picture((after - before) / (DIFFERENCE_SHARE * width)),
        }  # fmt: skip
        if apart is not None:
            layers["disagreement"] = grey_picture(cut.of(apart) / (DIFFERENCE_SHARE * width))
        pictures = {name: in_page(picture, volume, cut.plane) for name, picture in layers.items()}
        panels.append({"plane": cut.plane, "number": cut.number, "letters": LETTERS[cut.plane], **pictures})
    return panels


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
