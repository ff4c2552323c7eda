"""BrainDiff: correction of head motion in T1-weighted brain MRI, from the magnitude image alone."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["Volume", "correct", "correct_file", "read_volume", "write_volume"]

_HOMES = {
    "Volume": "volume",
    "correct": "correction",
    "correct_file": "correction_files",
    "read_volume": "images",
    "write_volume": "images",
}


def __getattr__(name: str) -> Any:
    """Load the main names on first use, so that importing the package costs nothing."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"BrainDiffLogic.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
