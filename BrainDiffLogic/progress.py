"""How far long work is: one kind of callback for all of the library."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[float, str], None]
"""Called with the share done, 0 to 1, and the name of the stage."""


def silent(share: float, stage: str) -> None:
    """The progress of work that nobody watches."""


def part_of(progress: Progress, begin: float, share: float, name: str = "") -> Progress:
    """That of a part which begins at ``begin`` and is ``share`` of the whole; ``name`` goes before its stages."""
    return lambda done, stage: progress(begin + share * done, f"{name}, {stage}" if name else stage)
