"""Windows of slices: where alone a network's answer is wanted, and what of each level of a U-Net it hangs on."""

from __future__ import annotations

from torch import Tensor

Window = tuple[slice, slice]
"""Rows and columns, with a start and a stop."""


def whole(x: Tensor) -> Window:
    """All of (N, C, H, W)."""
    return slice(0, x.shape[-2]), slice(0, x.shape[-1])


def cut(x: Tensor, window: Window, origin: Window | None = None) -> Tensor:
    """A window of (N, C, H, W), which is itself the window ``origin`` of what the first counts in (default: all)."""
    rows, columns = window
    if origin is not None:
        rows, columns = (slice(w.start - o.start, w.stop - o.start) for w, o in zip(window, origin, strict=True))
    return x[..., rows, columns]


def in_cells(window: Window, cell: int, margin: int = 0) -> Window:
    """The cells of ``cell`` pixels a side that a window, ``margin`` pixels wider, touches."""
    rows, columns = (slice((side.start - margin) // cell, -(-(side.stop + margin) // cell)) for side in window)
    return rows, columns


def in_pixels(window: Window, cell: int) -> Window:
    """The pixels of a window of cells."""
    rows, columns = (slice(side.start * cell, side.stop * cell) for side in window)
    return rows, columns


def moved(window: Window, rows: int, columns: int) -> Window:
    """A window further down and to the right."""
    down, right = (slice(side.start + by, side.stop + by) for side, by in zip(window, (rows, columns), strict=True))
    return down, right


def within(window: Window, x: Tensor) -> Window:
    """What of a window lies in (N, C, H, W)."""
    rows, columns = (
        slice(max(0, side.start), min(size, side.stop)) for side, size in zip(window, x.shape[-2:], strict=True)
    )
    return rows, columns
