"""A head as the checks see it: still and moved, with lesions implanted and without, and what is known of its truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_multiotsu

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.evaluation.safety.lesions import Lesion, implanted, place_lesions
from BrainDiffLogic.intensity import RobustScale, head_mask, robust_scale
from BrainDiffLogic.motion import preset, simulate_motion, with_severity
from BrainDiffLogic.motion.kspace import image_of, moved_kspace, phase_encode_axis
from BrainDiffLogic.motion.trajectory import Trajectory
from BrainDiffLogic.scan import Scan
from BrainDiffLogic.volume import Volume

STILL = "still"
MOTIONS = (("steps", 1.5, "AP"), ("tremor", 3.0, "SI"))
"""Preset, mean displacement in mm and phase-encode axis: a moderate and a strong motion (MR-ART's nods are 1-3 mm)."""
MARGIN = 12
"""Voxels kept around the head."""
TISSUE_PERCENTILES = (0.5, 99.5)
"""Of the inner head: vessels and fat beyond them set no limit between tissues."""
GREY_LEVEL = 1 / 256
"""Of the robust scale: what an 8-bit display cannot show. Noise counts as at least that much."""


@dataclass(frozen=True, eq=False)
class Case:
    """One scan of the head: ``plain``, and ``lesioned`` by the same lesions under the same motion."""

    name: str
    plain: Volume
    lesioned: Volume


@dataclass(frozen=True, eq=False)
class Scene:
    """One head.

    still    the scan that nothing needs to be corrected in
    cases    it, and the moved ones; the reference of each is ``still``
    lesions  those of ``Case.lesioned``
    head, inside  (I, J, K) bool: of the still scan, the second mostly brain (``Scan.inner``)
    scale    of the still scan: all numbers are on it
    noise    standard deviation of the still scan's noise on that scale
    tissue_limits  between fluid, grey and white matter on that scale
    """

    still: Volume
    cases: tuple[Case, ...]
    lesions: tuple[Lesion, ...]
    head: np.ndarray
    inside: np.ndarray
    scale: RobustScale
    noise: float
    tissue_limits: tuple[float, float]

    @property
    def tissue_step(self) -> float:
        """From grey to white matter on the scale: the contrast of an implanted lesion."""
        return tissue_step(self.scale.forward(self.still.array)[self.inside], self.tissue_limits)

    def scaled(self, array: np.ndarray) -> np.ndarray:
        """A difference of volumes on the scale, float32."""
        return array.astype(np.float32) / np.float32(self.scale.scale)


def build_scene(head: Volume, seed: int = 0) -> Scene:
    """Cut a still scan to the head, implant lesions, and move both by ``MOTIONS``; the same seed gives the same scene.

    Raises InputError where the volume shows no inside of a head with three tissues.
    """
    still = cropped(head)
    mask = head_mask(still.array)
    scale, inside = robust_scale(still.array, mask), Scan.of(still).inner
    scaled = scale.forward(still.array)
    limits = _tissue_limits(scaled[inside], still)
    step = tissue_step(scaled[inside], limits)
    lesions = place_lesions(still, scaled, inside, limits, step, np.random.default_rng(seed))
    with_lesions = implanted(still, lesions, scale.scale)
    cases = [Case(STILL, still, with_lesions)]
    cases += [_moved_case(still, with_lesions, *motion, seed + number) for number, motion in enumerate(MOTIONS)]
    noise = max(noise_of(scaled, mask), GREY_LEVEL)
    return Scene(still, tuple(cases), tuple(lesions), mask, inside, scale, noise, limits)


def cropped(volume: Volume) -> Volume:
    """The box around the head, float32, ``MARGIN`` voxels wider where the field of view allows."""
    box = ndimage.find_objects(head_mask(volume.array).astype(np.uint8))[0]
    start = np.array([max(0, side.start - MARGIN) for side in box])
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ start
    cut = tuple(slice(first, side.stop + MARGIN) for first, side in zip(start, box, strict=True))
    return Volume(np.ascontiguousarray(volume.array[cut], dtype=np.float32), affine, source=volume.source)


def noise_of(array: np.ndarray, mask: np.ndarray) -> float:
    """Standard deviation of the noise inside ``mask``: MAD of the 3D diagonal Haar details (Donoho, 1994), scaled."""
    even = tuple(slice(size // 2 * 2) for size in array.shape)
    detail, whole = array[even].astype(np.float32), mask[even]
    for axis in range(3):
        first, second = (np.take(detail, range(start, detail.shape[axis], 2), axis) for start in (0, 1))
        detail = (first - second) / np.float32(np.sqrt(2))
        whole = np.take(whole, range(0, whole.shape[axis], 2), axis) & np.take(
            whole, range(1, whole.shape[axis], 2), axis
        )
    found = np.abs(detail[whole])
    return float(np.median(found)) / 0.6745 if found.size else 0.0


def tissue_step(values: np.ndarray, limits: tuple[float, float]) -> float:
    """The gap between the medians of the brightest and the middle class."""
    return float(
        np.median(values[values > limits[1]]) - np.median(values[(values > limits[0]) & (values <= limits[1])])
    )


def _tissue_limits(values: np.ndarray, volume: Volume) -> tuple[float, float]:
    low, high = np.percentile(values, TISSUE_PERCENTILES)
    try:
        first, second = threshold_multiotsu(np.clip(values, low, high), classes=3)
    except ValueError:
        raise InputError(f"{volume.name}: no three tissues inside the head; give a T1-weighted head") from None
    return float(first), float(second)


def _moved_case(still: Volume, with_lesions: Volume, kind: str, severity: float, pe_axis: str, seed: int) -> Case:
    lines = still.shape[phase_encode_axis(still.affine, pe_axis)]
    simulation = simulate_motion(still, with_severity(preset(kind, lines, seed), severity), pe_axis)
    plain, lesioned = (_moved(volume, simulation.trajectory, pe_axis) for volume in (still, with_lesions))
    return Case(f"{kind} {severity:g} mm {pe_axis}", plain, lesioned)


def _moved(volume: Volume, poses: Trajectory, pe_axis: str) -> Volume:
    """Moved by poses as they are: ``simulate_motion`` would align them to each image anew."""
    assert poses.centre is not None
    axis, floor = phase_encode_axis(volume.affine, pe_axis), np.float32(min(0.0, float(volume.array.min())))
    kspace = moved_kspace(volume.array - floor, volume.affine, poses, axis, poses.centre)
    return volume.with_array(np.abs(image_of(kspace)) + floor)
