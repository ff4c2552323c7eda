"""The motion over the scan, moment by moment, and what of a correction goes back to a moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from BrainDiffLogic.motion.kspace import phase_encode_axis
from BrainDiffLogic.motion.trajectory import Trajectory
from BrainDiffLogic.volume import Volume

MOST = 5
APART = 0.05
"""Share of the scan that lies between two moments that are named."""
WIDTH = 0.02
"""Share of the lines, around a moment, that go back to it."""


@dataclass(frozen=True)
class Moment:
    """One phase-encode line, where the head was displaced most around it.

    line   index, in the order of the lines
    time   share of the scan, 0 to 1, in a scan that takes the lines in order
    mm     mean displacement of the head
    """

    line: int
    time: float
    mm: float


@dataclass(frozen=True)
class MotionCurve:
    """The motion that a report holds.

    displacement  (N,) mm of each phase-encode line
    moments       the most moved ones, the largest first
    """

    displacement: np.ndarray
    moments: list[Moment]
    pe_axis: str

    @classmethod
    def of(cls, motion: dict[str, Any] | None) -> MotionCurve | None:
        """From entry "motion" of a report; None where no motion was found."""
        if not motion or not motion.get("trajectory"):
            return None
        rows = np.asarray(motion["trajectory"], dtype=np.float64)
        displacement = Trajectory(rows[:, :3], rows[:, 3:], np.zeros(3)).displacement
        return cls(displacement, most_moved(displacement), str(motion["pe_axis"]))


def most_moved(displacement: np.ndarray) -> list[Moment]:
    """The lines of largest displacement (N,), the largest first, no two of them close to each other.

    Not those at either end that share one value: there a motion that was found only goes on as it was last seen.
    """
    count, left = len(displacement), displacement.astype(np.float64).copy()
    changes = np.flatnonzero(np.diff(left))
    if changes.size:
        left[: changes[0] + 1] = left[changes[-1] + 1 :] = 0
    moments: list[Moment] = []
    while len(moments) < MOST and left.max(initial=0) > 0:
        line = int(left.argmax())
        moments.append(Moment(line, line / max(count - 1, 1), float(displacement[line])))
        left[max(0, line - round(APART * count)) : line + round(APART * count) + 1] = 0
    return moments


def part_of_moment(change: np.ndarray, volume: Volume, pe_axis: str, line: int) -> np.ndarray:
    """(I, J, K) float32: what of a change goes back to the lines measured around ``line``.

    The change's spectrum along the phase-encode axis, of the lines within ``WIDTH``, and of those opposite, which the
    magnitude of an image does not tell apart. The line in the middle of the scan is the middle of k-space.
    """
    axis = phase_encode_axis(volume.affine, pe_axis)
    count = change.shape[axis]
    away = abs(line - count // 2)
    half = max(1, round(WIDTH * count / 2))
    spectrum = np.fft.rfft(change.astype(np.float32), axis=axis)
    kept = np.abs(np.arange(spectrum.shape[axis]) - away) <= half
    spectrum *= kept.reshape([-1 if one == axis else 1 for one in range(3)])
    return np.fft.irfft(spectrum, count, axis=axis).astype(np.float32)
