"""Slices of a volume as small pictures that stand in a page."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageColor

from BrainDiffLogic.pictures import DIVERGING
from BrainDiffLogic.volume import Volume, ras_axes, to_sagittal

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


def chosen(head: np.ndarray, worst: int | None = None) -> Iterator[Slice]:
    """Slices through a head (R, A, S) bool: evenly in each plane, and the sagittal one ``worst``."""
    for axis, plane in enumerate(PLANES):
        inside = np.flatnonzero(head.any(axis=tuple({0, 1, 2} - {axis})))
        first, last = (int(inside[0]), int(inside[-1])) if len(inside) else (0, head.shape[axis] - 1)
        places = np.linspace(first, last, SHOWN + 2)[1:-1].round().astype(int).tolist()
        extra = [worst] if plane == "sagittal" and worst is not None else []
        yield from (Slice(plane, number) for number in sorted({*places, *extra}))


def as_ras(volume: Volume) -> np.ndarray:
    """The voxels in the order of the patient's axes R, A, S, float32."""
    return to_sagittal(volume).astype(np.float32)


def grey(image: np.ndarray) -> Image.Image:
    """(rows, columns) in 0 to 1."""
    return Image.fromarray((255 * np.clip(image, 0, 1)).astype(np.uint8))


def signed(image: np.ndarray) -> Image.Image:
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
