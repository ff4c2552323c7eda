"""A scan as a network may as well be shown it: the same head, seen otherwise, has the same artifact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class View:
    """How sagittal slices are shown to a network.

    mirrored  left and right exchanged: the neighbours of a slice in reverse order
    shift     rows and columns by which the slices lie further in; the edge is repeated, at the far ends too
    """

    mirrored: bool = False
    shift: tuple[int, int] = (0, 0)


AS_IT_IS = View()


def read_views(entries: Any) -> tuple[View, ...]:
    """Views as a card or a configuration lists them: {"mirrored": bool, "shift": [rows, columns]}, both optional.

    Raises ValueError for anything else.
    """
    if not isinstance(entries, list):
        raise ValueError(f"{entries!r} is no list of views")
    return tuple(_read(entry) for entry in entries)


def _read(entry: Any) -> View:
    known = {"mirrored": False, "shift": [0, 0]}
    if not isinstance(entry, dict) or not set(entry) <= set(known):
        raise ValueError(f"{entry!r} is no view")
    mirrored, shift = ({**known, **entry}[name] for name in known)
    whole = isinstance(shift, list | tuple) and len(shift) == 2 and all(type(size) is int for size in shift)
    if not isinstance(mirrored, bool) or not whole or min(shift) < 0:
        raise ValueError(f"{entry!r} is no view")
    return View(mirrored, (shift[0], shift[1]))
