"""Put motion on a still T1-weighted volume."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.intensity import head_mask
from BrainDiffLogic.motion.alignment import aligned
from BrainDiffLogic.motion.kspace import ACCURACY, moved_kspace, phase_encode_axis
from BrainDiffLogic.motion.sampling import EVERY_LINE, Sampling
from BrainDiffLogic.motion.trajectory import Trajectory, anchored, resampled
from BrainDiffLogic.volume import Volume

NO_MOTION = 1e-6
"""Mean displacement in mm below which nothing is aligned: rounding of the poses."""

COARSE_FROM = 128
"""Voxels along an axis from which the head's centre is found on every second one."""


@dataclass(frozen=True)
class Simulation:
    """A scan with motion.

    moved       the moved volume, on the grid of the still one
    reference   the still volume with the same noise and sampling: what a perfect corrector would give
    trajectory  the pose of each phase-encode line as simulated (anchored, aligned), with its rotation centre
    severity    mean RMS displacement in mm from the pose at the centre of k-space
    """

    moved: Volume
    reference: Volume
    trajectory: Trajectory
    severity: float


def simulate_motion(
    volume: Volume,
    trajectory: Trajectory,
    pe_axis: str = "AP",
    *,
    noise: float = 0.0,
    seed: int = 0,
    phase: np.ndarray | None = None,
    align: bool = True,
    accuracy: float = ACCURACY,
    sampling: Sampling = EVERY_LINE,
) -> Simulation:
    """Simulate the acquisition of a 3D Cartesian scan while the head follows a trajectory.

    trajectory  resampled to the number of lines along ``pe_axis`` ("AP", "SI" or "LR", the array axis nearest
                to it) and anchored at the centre of k-space. All lines along the other two axes share the
                line's pose, as in an MPRAGE where one inversion reads a whole partition loop.
    noise       standard deviation of complex Gaussian noise in image units, added before the magnitude is taken
    phase       (I, J, K) radians: the phase of the object, which moves with it (default: none)
    align       remove the global displacement that anchoring leaves, by an offset pose
    sampling    partial Fourier, of the reference too, and parallel imaging along ``pe_axis``; lines that are not
                acquired count neither for the severity nor for the displacement
    The magnitude is taken last. Magnitudes below 0 cannot exist in the input, so an input with negative
    voxels is shifted up before and down after. One coil: a simplification, see the README.
    """
    axis = phase_encode_axis(volume.affine, pe_axis)
    if volume.shape[axis] < 2:
        raise InputError(f"{volume.name} has one voxel along {pe_axis}: phase encoding needs at least 2")
    floor = min(0.0, float(volume.array.min()))
    still = volume.array.astype(np.float32)
    if floor < 0:
        still -= np.float32(floor)
    centre = head_centre(still, volume.affine) if trajectory.centre is None else np.asarray(trajectory.centre)
    poses = anchored(resampled(trajectory, volume.shape[axis]))
    keeps = sampling.keeps(volume.shape[axis])
    severity = float(poses.displacement[keeps].mean())
    if align and severity > NO_MOTION:
        poses = aligned(still, volume.affine, poses, axis, centre, keeps=keeps)
    poses = Trajectory(poses.translations, poses.rotations, centre)

    acquired = still if phase is None else still * np.exp(1j * phase).astype(np.complex64)
    kspace = moved_kspace(acquired, volume.affine, poses, axis, centre, accuracy)
    moved = sampling.reconstructed(sampling.acquired(kspace, axis), axis)
    if not sampling.full_fourier:
        acquired = fft.ifftn(sampling.acquired(fft.fftn(acquired, workers=-1), axis), workers=-1)
    if noise > 0:
        grain = _complex_noise(volume.shape, noise, seed)
        moved, acquired = moved + grain, acquired + grain
    moved, reference = np.abs(moved), np.abs(acquired).astype(np.float32)
    return Simulation(_above(floor, moved, volume), _above(floor, reference, volume), poses, severity)


def head_centre(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """(3,) RAS mm: the middle of the head's bounding box, the default rotation centre.

    Large volumes are looked at in every second voxel along each axis: a voxel more or less does not matter here.
    """
    steps = [2 if size >= COARSE_FROM else 1 for size in array.shape]
    inside = head_mask(np.ascontiguousarray(array[tuple(slice(None, None, step) for step in steps)]))
    ends = []
    for axis, step in enumerate(steps):
        occupied = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        if len(occupied):
            ends.append(step * (occupied[0] + occupied[-1]) / 2)
        else:
            ends.append((array.shape[axis] - 1) / 2)
    return affine[:3, :3] @ np.array(ends) + affine[:3, 3]


def _complex_noise(shape: tuple[int, ...], sigma: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = np.empty(shape, dtype=np.complex64)
    noise.real = rng.standard_normal(shape, dtype=np.float32)
    noise.imag = rng.standard_normal(shape, dtype=np.float32)
    return noise * np.float32(sigma)


def _above(floor: float, magnitude: np.ndarray, volume: Volume) -> Volume:
    return volume.with_array(magnitude if floor == 0 else magnitude + np.float32(floor))
