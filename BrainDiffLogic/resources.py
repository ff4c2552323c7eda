"""Where the files are that come with the library: weights, configurations, calibrations, page templates."""

from __future__ import annotations

from pathlib import Path


def resources() -> Path:
    """Their folder: beside the library in a checkout and in Slicer, inside it in a wheel."""
    library = Path(__file__).resolve().parent
    inside = library / "Resources"
    return inside if inside.is_dir() else library.parent / "Resources"
