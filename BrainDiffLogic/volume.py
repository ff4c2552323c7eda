"""A volume with its geometry, and its sagittal slices: taken and put back without resampling."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.fill import Fill, find_fill

KINDS = ("magnitude", "difference", "mask")
SMALLEST_RANGE, LARGEST_VALUE = 1e-12, 1e15
"""What lies beyond leaves float32 once it is squared."""


@dataclass(frozen=True)
class Storage:
    """How the voxels lie on disk: ``real value = slope * stored value + intercept``.

    ``header`` keeps what the format knows beyond array and affine, so that the output's header can repeat it.
    """

    dtype: np.dtype
    slope: float = 1.0
    intercept: float = 0.0
    format: str = "nifti1"
    header: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Volume:
    """A 3D scalar image and where it lies.

    array   (I, J, K) real voxel values in the image's own units
    affine  (4, 4) from voxel indices IJK to RAS millimetres
    kind    "magnitude" (an MR image), "difference" (signed, same units) or "mask"
    storage how it was stored in the file it came from, None for a volume made in memory
    source  the file it came from, for messages
    notes   what was noticed while it was read, a line each
    fill    voxels that carry no measurement, in which ``array`` has air; None where all were measured or ``array`` has
            them still (``without_fill``)

    Raises InputError for anything that is not one finite, non-constant 3D scalar image with a valid geometry (a
    difference or a mask may be constant).
    """

    array: np.ndarray
    affine: np.ndarray
    kind: str = "magnitude"
    storage: Storage | None = None
    source: str = ""
    notes: tuple[str, ...] = ()
    fill: Fill | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "affine", np.asarray(self.affine, dtype=np.float64))
        if self.kind not in KINDS:
            raise InputError(f"kind of volume {self.kind!r} is unknown: use one of {', '.join(KINDS)}")
        _check_array(self.array, self.name, self.kind)
        _check_affine(self.affine, self.name)

    @classmethod
    def read(cls, array: np.ndarray, affine: np.ndarray, notes: tuple[str, ...] = (), **fields: Any) -> Volume:
        """A scan from a file, ready to compute with: air where it has no measurement.

        Of another kind than "magnitude" the values stay as they are, but for NaN, which becomes 0. Raises InputError
        also for values of a scan whose squares float32 cannot hold.
        """
        if fields.get("kind", "magnitude") != "magnitude":
            return cls(np.nan_to_num(array, nan=0.0, posinf=np.inf, neginf=-np.inf), affine, notes=notes, **fields)
        fill = find_fill(array)
        if fill is not None:
            array, notes = fill.taken_out_of(array), (*notes, fill.note)
        volume = cls(array, affine, notes=notes, fill=fill, **fields)
        low, high = float(array.min()), float(array.max())
        small = high - low < SMALLEST_RANGE
        if small or max(-low, high) > LARGEST_VALUE:
            raise InputError(
                f"{volume.name}: the values, {low:.3g} to {high:.3g}, are too {'small' if small else 'large'} to"
                " compute with; scale the image so that white matter is near 1000, and try again"
            )
        return volume

    def without_fill(self) -> Volume:
        """This scan as ``read`` gives it."""
        if self.fill is not None or self.kind != "magnitude":
            return self
        return Volume.read(self.array, self.affine, self.notes, storage=self.storage, source=self.source)

    @property
    def with_fill(self) -> np.ndarray:
        """(I, J, K) the voxels as the file has them, NaN and fill values where they were."""
        return self.array if self.fill is None else self.fill.put_back_into(self.array, self.fill.values)

    @property
    def name(self) -> str:
        """What messages call this volume."""
        return self.source or "the volume"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along I, J, K."""
        i, j, k = self.array.shape
        return i, j, k

    @property
    def spacing(self) -> np.ndarray:
        """(3,) distance between voxel centres along I, J, K in mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def with_array(self, array: np.ndarray, **changes: Any) -> Volume:
        """The same geometry around other voxel values; ``changes`` replaces further fields."""
        if array.shape != self.array.shape:
            raise InputError(f"an array of shape {array.shape} does not fit the grid {self.shape} of {self.name}")
        return replace(self, array=array, **changes)


def _check_array(array: np.ndarray, name: str, kind: str) -> None:
    if array.ndim != 3:
        raise InputError(f"{name}: a 3D volume is needed, this one has shape {tuple(array.shape)}; extract one volume")
    if array.size == 0:
        raise InputError(f"{name}: the volume is empty (shape {tuple(array.shape)}); export the scan again")
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name}: voxels of type {array.dtype} are not real numbers; save the magnitude image")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        raise InputError(f"{name}: {bad} voxels are NaN or infinite; replace them (with 0, say) and try again")
    if kind == "magnitude" and array.min() == array.max():
        raise InputError(f"{name}: all voxels have the value {array.flat[0]}; this is not a scan, check the export")


def _check_affine(affine: np.ndarray, name: str) -> None:
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise InputError(f"{name}: the affine must be 4x4 and finite; repair the header's geometry")
    with np.errstate(over="ignore"):  # infinite then, and refused
        columns = np.linalg.norm(affine[:3, :3], axis=0)
    if (columns <= 0).any() or abs(np.linalg.det(affine[:3, :3] / np.where(columns > 0, columns, 1))) < 1e-4:
        raise InputError(f"{name}: the affine cannot be inverted (spacing {columns}); repair the header's geometry")


def voxels(array: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """(n,) the values of an array, in a mask or all, in the order of memory: ten times as fast where that is Fortran's.

    As files are read, it is; an array and its mask should lie in memory alike.
    """
    turned = array.T if array.flags.f_contiguous else array
    if mask is None:
        return turned.ravel()
    return turned[mask.T if turned is not array else mask]


def ras_axes(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which array axis lies nearest to each of R, A, S, and whether it runs along (+1) or against (-1) it.

    Returns (axes, signs), both (3,): ``axes[0]`` is the array axis nearest to left-right. The assignment maximises
    the summed cosine over the 6 permutations, so it is a permutation for any oblique affine.
    """
    from itertools import permutations

    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    best = max(permutations(range(3)), key=lambda p: sum(abs(directions[row, p[row]]) for row in range(3)))
    axes = np.array(best)
    signs = np.array([1 if directions[row, axes[row]] >= 0 else -1 for row in range(3)])
    return axes, signs


def to_sagittal(volume: Volume) -> np.ndarray:
    """The volume as a stack of sagittal slices (slices, rows, columns), a view without resampling.

    Slices run left to right, rows posterior to anterior, columns inferior to superior: the array axes nearest to
    R, A and S, flipped where they run the other way.
    """
    axes, signs = ras_axes(volume.affine)
    return volume.array.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]


def from_sagittal(stack: np.ndarray, volume: Volume) -> np.ndarray:
    """The exact inverse of ``to_sagittal``: a stack (slices, rows, columns) as an (I, J, K) array on volume's grid."""
    axes, signs = ras_axes(volume.affine)
    return stack[tuple(slice(None, None, sign) for sign in signs)].transpose(np.argsort(axes))


def sagittal_affine(volume: Volume) -> np.ndarray:
    """(4, 4) from the indices (slice, row, column) of ``to_sagittal`` to RAS mm."""
    axes, signs = ras_axes(volume.affine)
    affine = np.eye(4)
    affine[:3, :3] = volume.affine[:3, axes] * signs
    first = np.zeros(3)
    first[axes] = np.where(signs < 0, np.array(volume.shape)[axes] - 1, 0)
    affine[:3, 3] = volume.affine[:3, :3] @ first + volume.affine[:3, 3]
    return affine


def affine_from(affine: np.ndarray, first: Sequence[float]) -> np.ndarray:
    """The affine (4, 4) of a grid that begins at the voxel ``first`` (3,) of another one."""
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ first
    return moved


def pad_to_multiple(stack: np.ndarray, multiple: int) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Pad rows and columns (the last two axes) with zeros, evenly on both sides, to multiples of ``multiple``.

    Returns the padded stack and the slices that cut the original out of it again.
    """
    pads, cut = [(0, 0)] * (stack.ndim - 2), [slice(None)] * (stack.ndim - 2)
    for size in stack.shape[-2:]:
        extra = -size % multiple
        pads.append((extra // 2, extra - extra // 2))
        cut.append(slice(extra // 2, extra // 2 + size))
    return np.pad(stack, pads), tuple(cut)


OutputType = Literal["input", "float32"]
WIDER_INTEGERS = (np.dtype(np.int16), np.dtype(np.int32))
FLOAT32 = np.dtype(np.float32)


def real_values(raw: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """``slope * raw + intercept``, computed in float64 slice by slice, as the narrowest sufficient float type.

    float32 serves when its spacing at the largest value is below a quarter of the slope, so that rounding finds every
    stored integer again; else float64. Raw floats keep at least their precision.
    """
    ends = slope * np.array([raw.min(), raw.max()], dtype=np.float64) + intercept
    step = abs(slope) if raw.dtype.kind in "iu" else np.inf
    enough = np.abs(ends).max() * np.finfo(np.float32).eps < step / 4
    dtype = FLOAT32 if enough and raw.dtype != np.float64 else np.dtype(np.float64)
    real = np.empty(raw.shape, dtype, order="F")
    for k in range(raw.shape[-1]):
        real[..., k] = raw[..., k].astype(np.float64) * slope + intercept
    return real


def choose_storage(
    volume: Volume, dtype: OutputType, can_scale: bool, types: Collection[np.dtype] | None = None
) -> Storage:
    """How ``volume`` is stored in an output; its ``storage`` is that of the input.

    Integers stay integers at the input's slope and intercept: the input's type where all values fit after rounding,
    else int16, else int32, else float32. A difference has no intercept and a signed type. Floats keep their type. A
    mask is stored as it is. ``types`` are those that the format has, float32 among them (default: all). Formats without
    slope (``can_scale`` False) keep integers only when slope and intercept are whole numbers, so that the real values
    are integers, and take float32 otherwise.
    """
    if dtype not in ("input", "float32"):
        raise InputError(f"output type {dtype!r} is unknown: use 'input' or 'float32'")
    own = Storage(np.dtype(np.uint8) if volume.array.dtype == bool else volume.array.dtype)
    like = volume.storage or own
    wanted = replace(like, dtype=own.dtype, slope=1.0, intercept=0.0) if volume.kind == "mask" else like
    as_float = replace(like, dtype=FLOAT32, slope=1.0, intercept=0.0)
    if dtype == "float32":
        return as_float
    if volume.kind == "difference":
        wanted = replace(wanted, intercept=0.0)
    if wanted.dtype.kind == "f":
        if types is not None:
            return as_float
        wide = wanted.dtype.itemsize > 4 or not _fits(volume.array, as_float)
        return replace(as_float, dtype=np.dtype(np.float64)) if wide else as_float
    if not can_scale:
        if not (float(wanted.slope).is_integer() and float(wanted.intercept).is_integer()):
            return as_float
        wanted = replace(wanted, slope=1.0, intercept=0.0)
    candidates = (replace(wanted, dtype=d) for d in _integer_types(wanted.dtype, volume.kind == "difference"))
    fitting = (storage for storage in candidates if types is None or storage.dtype in types)
    return next((storage for storage in fitting if _fits(volume.array, storage)), as_float)


def narrowest_type(array: np.ndarray, dtype: np.dtype) -> np.dtype:
    """``dtype``, float or integer, where the values fit after rounding, else int16, int32 or float32."""
    if dtype.kind == "f":
        return dtype
    fitting = (d for d in _integer_types(dtype, signed=False) if _fits(array, Storage(d)))
    return next(fitting, FLOAT32)


def rounded_to(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The values as ``dtype``, rounded to nearest for an integer type."""
    return (np.rint(array) if dtype.kind in "iu" and array.dtype.kind == "f" else array).astype(dtype, copy=False)


def values_to_store(array: np.ndarray, storage: Storage) -> np.ndarray:
    """The values to store for real values ``array`` (I, J, K): scaled back, rounded to nearest for an integer type."""
    if array.dtype == storage.dtype and storage.slope == 1 and storage.intercept == 0:
        return array
    stored = np.empty(array.shape, storage.dtype, order="F")
    for k in range(array.shape[-1]):
        values = array[..., k]
        if storage.slope != 1 or storage.intercept != 0:
            values = (values.astype(np.float64) - storage.intercept) / storage.slope
        stored[..., k] = rounded_to(values, storage.dtype)
    return stored


def _integer_types(dtype: np.dtype, signed: bool) -> list[np.dtype]:
    own = [] if signed and dtype.kind == "u" else [dtype]
    return own + [other for other in WIDER_INTEGERS if other != dtype and other.itemsize >= dtype.itemsize]


def _fits(array: np.ndarray, storage: Storage) -> bool:
    ends = (np.array([array.min(), array.max()], dtype=np.float64) - storage.intercept) / storage.slope
    if storage.dtype.kind == "f":
        return bool(np.abs(ends).max() <= np.finfo(storage.dtype).max)
    limits = np.iinfo(storage.dtype)
    return bool(np.rint(ends.min()) >= limits.min and np.rint(ends.max()) <= limits.max)


def check_strength(strength: float) -> None:
    """Raises InputError unless 0 <= strength <= 1."""
    if not 0 <= strength <= 1:
        raise InputError(f"strength {strength} is outside 0 to 1; 1 removes all that the model finds")


def blend(original: np.ndarray, change: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """(corrected, difference): original + strength * change, and what that differs from the original by.

    original  any shape, any real type; at strength 0 it is returned itself
    change    same shape, float: what to add at strength 1
    Both results have the type that numpy gives to original + change. Raises InputError for a strength outside 0 to 1.
    """
    check_strength(strength)
    if strength == 0:
        return original, np.zeros(original.shape, change.dtype)
    corrected = original + np.float32(strength) * change
    np.copyto(corrected, original, where=change == 0)  # a zero keeps its sign
    return corrected, corrected - original


def blend_as_stored(original: np.ndarray, change: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """As ``blend``, with the corrected array in the original's type where its values fit after rounding.

    Integers widen to int16, int32 or float32 where they must; nothing is clipped. The difference is float32, or float64
    where that is needed: corrected - original, exactly, of the stored values.
    """
    corrected, difference = blend(original, change, strength)
    if strength == 0:
        return original, difference
    stored = rounded_to(corrected, narrowest_type(corrected, original.dtype))
    exact = np.result_type(stored.dtype, original.dtype, np.float32)
    return stored, np.subtract(stored, original, dtype=exact)


SUBSAMPLES = 3
"""Points a voxel along each axis at which the shape is sampled: small ellipsoids fill voxels in part."""


def soft_ellipsoid(
    place: np.ndarray, axes: np.ndarray, edge: float, spacing: np.ndarray, shape: Sequence[int]
) -> tuple[tuple[slice, ...], np.ndarray]:
    """The box around an ellipsoid on a 3D grid, and what it fills of the box's voxels, 0 to 1, float32.

    place  its centre, in voxels, which may lie outside the grid; axes: semi-axes in mm along the grid's axes
    edge   mm over which it falls from 1 to 0 along its shortest axis, half of it outside
    The box is empty where the ellipsoid does not reach the grid.
    """
    reach = np.ceil(axes * (1 + edge / (2 * axes.min())) / spacing).astype(int) + 1
    middle = np.rint(place).astype(int)
    start = np.clip(middle - reach, 0, shape)
    stop = np.clip(middle + reach + 1, start, shape)
    steps = (np.arange(SUBSAMPLES) + 0.5) / SUBSAMPLES - 0.5
    lines = [((np.arange(start[d], stop[d])[:, None] + steps).ravel() - place[d]) * spacing[d] for d in range(3)]
    radius = np.sqrt(sum((line / axis) ** 2 for line, axis in zip(np.ix_(*lines), axes, strict=True)))
    filled = np.clip((1 - radius) * float(axes.min()) / edge + 0.5, 0, 1)
    blocks = [n for size in stop - start for n in (size, SUBSAMPLES)]
    box = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    return box, filled.reshape(blocks).mean(axis=(1, 3, 5)).astype(np.float32)
