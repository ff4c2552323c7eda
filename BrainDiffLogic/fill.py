"""Voxels that carry no measurement: NaN, and fill values (-32768, -1024, 65535, ...) that lie apart from the image.

They stand where a reconstruction circle, gradient unwarping, resampling or a mask left nothing. Whoever computes with
a volume gets air there; what stood there is put back when the volume is written.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEAST_NAN = 0.01
"""Share of a volume from which NaN is taken for its background; less, or none at its border, is a defect."""
LARGEST = (32767.0, 65535.0, 2147483647.0)
"""Values above an image that are fill; so is all from HUGE on."""
HUGE = 1e30
MANY = 1e-3
"""Share of a volume from which a value far below the others is fill although interpolation has left some between."""
SOME = 10
"""Voxels of one negative value from which, in an image without another one, it is fill."""
SAMPLE = 200_000


@dataclass(frozen=True)
class Fill:
    """What is not measured in a volume.

    where   (I, J, K) bool
    values  (n,) what stood there, in the order of ``array[where]``
    air     what stands there instead
    """

    where: np.ndarray
    values: np.ndarray
    air: float

    @property
    def note(self) -> str:
        """What happened, for the person."""
        size = f"{self.values.size} voxels ({100 * self.where.mean():.2g} %)"
        finite = self.values[~np.isnan(self.values)]
        kinds = ["NaN"] if finite.size < self.values.size else []
        if finite.size:
            low, high = finite.min(), finite.max()
            kinds.append(f"{low:g}" if low == high else f"{low:g} to {high:g}")
        return f"{size} of the value {' and '.join(kinds)} carry no measurement: taken for air, left as they are"

    def taken_out_of(self, array: np.ndarray) -> np.ndarray:
        """The array with air in their place."""
        return np.where(self.where, array.dtype.type(self.air), array)

    def put_back_into(self, array: np.ndarray, values: np.ndarray) -> np.ndarray:
        """A copy of the array with ``values`` (n,) in their place."""
        filled = array.copy(order="K")
        filled[self.where] = values
        return filled


def find_fill(array: np.ndarray) -> Fill | None:
    """What of an array (I, J, K) is no measurement; None where all is."""
    if array.ndim != 3 or array.size == 0 or array.dtype.kind not in "iuf":
        return None
    where = _nan_background(array)
    while (value := _value_apart(array, where)) is not None:
        where = value if where is None else where | value
    if where is None:
        return None
    dark, bright = _spread(array[~where])
    air = 0.0 if 0 <= dark <= bright - dark else dark  # a magnitude image's units begin with its air
    return Fill(where, array[where], float(np.rint(air)) if array.dtype.kind in "iu" else air)


def _nan_background(array: np.ndarray) -> np.ndarray | None:
    if array.dtype.kind != "f" or not np.isnan(array.flat[:: max(1, array.size // SAMPLE)]).any():
        return None
    where = np.isnan(array)
    ends = (np.take(where, (0, -1), axis=axis) for axis in range(3))
    return where if LEAST_NAN <= where.mean() < 1 and any(end.any() for end in ends) else None


def _value_apart(array: np.ndarray, known: np.ndarray | None) -> np.ndarray | None:
    """(I, J, K) bool: the voxels at the lowest or highest value where it lies apart from all others."""
    values = array.ravel(order="K") if known is None else array[~known]
    for below in (True, False):
        end = values.min() if below else values.max()
        if not np.isfinite(end) or not (end < 0 if below else end in LARGEST or end >= HUGE):
            continue
        rest = values[values != end]
        if rest.size == 0:
            return None
        dark, bright = _spread(rest)
        lowest, highest = float(rest.min()), float(rest.max())
        spread, gap = bright - dark, lowest - float(end) if below else float(end) - highest
        count = values.size - rest.size
        if below and dark - float(end) > spread > 0 and count >= MANY * array.size:
            return array < dark - spread if known is None else (array < dark - spread) & ~known
        if gap > highest - lowest > 0 or (below and lowest >= 0 and gap > spread / 10 and count >= SOME):
            return array == end
    return None


def _spread(values: np.ndarray) -> tuple[float, float]:
    """The values that 5 % and 95 % lie below, of a sample."""
    dark, bright = np.percentile(values[:: values.size // SAMPLE | 1].astype(np.float64), (5, 95))
    return float(dark), float(bright)
