"""Put motion on a still T1-weighted volume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.legendre import legvander
from scipy import fft, ndimage

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.coils import CoilMaps, Receiver, complex_noise, moved_kspaces
from BrainDiffLogic.motion.kspace import ACCURACY, Acquisition, image_of, line_rows, phase_encode_axis
from BrainDiffLogic.motion.lanes import threads
from BrainDiffLogic.motion.sampling import EVERY_LINE, Sampling, in_kspace_order, line_weights
from BrainDiffLogic.motion.trajectory import Trajectory, anchored, inverse_pose, resampled, with_severity
from BrainDiffLogic.scan import head_mask, mask_box
from BrainDiffLogic.volume import Volume

ROUNDS = 2
COARSE_SPACING = 2.0
"""The offset is estimated from the low frequencies, on voxels of about this many mm: eight times cheaper."""


def aligned(
    image: np.ndarray, affine: np.ndarray, trajectory: Trajectory, axis: int, centre: np.ndarray,
    keeps: np.ndarray | None = None,
) -> Trajectory:  # fmt: skip
    """The trajectory followed by the offset pose that lays the moved image onto the still one.

    image (I, J, K) real magnitudes, one pose for each line along ``axis``, centre (3,) RAS mm; keeps (lines,) bool:
    which of the lines are acquired (default: all). Each round simulates at low resolution, estimates the rigid
    displacement by one Gauss-Newton step, and moves all poses back by it.
    """
    offset_of = _offsets(image, affine, axis, centre, keeps)
    for _ in range(ROUNDS):
        trajectory = trajectory.transformed(inverse_pose(*offset_of(trajectory)))
    return trajectory


def relative_to_scan(
    image: np.ndarray, affine: np.ndarray, trajectory: Trajectory, axis: int, centre: np.ndarray
) -> Trajectory:
    """The same motion seen from the pose in which a scan shows the head, which becomes the identity.

    As ``aligned``, but ``image`` is the scan in motion, which also stands in for the still head that is not known, and
    it is the still head that is displaced, not the scan.
    """
    offset_of = _offsets(image, affine, axis, centre)
    for _ in range(ROUNDS):
        trajectory = trajectory.relative_to(offset_of(trajectory))
    return trajectory


def _offsets(
    image: np.ndarray, affine: np.ndarray, axis: int, centre: np.ndarray, keeps: np.ndarray | None = None
) -> Callable[[Trajectory], tuple[np.ndarray, np.ndarray]]:
    """A function that tells by how many mm and degrees a trajectory displaces the image, from its low frequencies."""
    coarse, coarse_affine, lines = low_resolution(image, affine, axis)
    weights: np.ndarray | None = None
    still = coarse
    if keeps is not None and not keeps.all():
        weights = line_weights(keeps[lines], axis)
        still = np.abs(image_of(fft.fftn(coarse, workers=threads()) * weights))
    basis = rigid_basis(still, coarse_affine, centre)

    def offset_of(trajectory: Trajectory) -> tuple[np.ndarray, np.ndarray]:
        central = Trajectory(trajectory.translations[lines], trajectory.rotations[lines])
        kspace = Acquisition(coarse.shape, coarse_affine, central, axis, centre, accuracy=1e-3).kspace(coarse)
        moved = np.abs(image_of(kspace if weights is None else kspace * weights))
        offset = displacement(still, moved, basis)
        return offset[:3], offset[3:]

    return offset_of


def low_resolution(
    image: np.ndarray, affine: np.ndarray, axis: int, spacing: float = COARSE_SPACING
) -> tuple[np.ndarray, np.ndarray, slice]:
    """The image on voxels of about ``spacing`` mm where they are finer (its spectrum cropped), their affine, its
    lines.

    image (I, J, K) real, affine (4, 4) IJK to RAS mm. The slice cuts the poses of the coarse image's lines along
    ``axis`` out of those of all lines.
    """
    shape = np.array(image.shape)
    own = np.linalg.norm(affine[:3, :3], axis=0)
    small = np.minimum(shape, np.maximum(8, np.round(shape * own / spacing).astype(int)))
    spectrum = fft.fftshift(fft.fftn(fft.ifftshift(image.astype(np.complex64)), workers=threads()))
    start = shape // 2 - small // 2
    spectrum = spectrum[tuple(slice(a, a + n) for a, n in zip(start, small, strict=True))]
    coarse = fft.fftshift(fft.ifftn(fft.ifftshift(spectrum), workers=threads())).real * (small.prod() / shape.prod())
    matrix = affine[:3, :3] * (shape / small)
    coarse_affine = np.eye(4)
    coarse_affine[:3, :3] = matrix
    coarse_affine[:3, 3] = affine[:3, :3] @ (shape // 2) + affine[:3, 3] - matrix @ (small // 2)
    return coarse, coarse_affine, slice(int(start[axis]), int(start[axis] + small[axis]))


def rigid_basis(image: np.ndarray, affine: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """(8, voxels): how the image changes with 3 translations (mm), 3 rotations (degrees), gain and offset."""
    smooth = ndimage.gaussian_filter(image, 1.0)
    to_voxel = np.linalg.inv(affine[:3, :3])
    slopes = [np.gradient(smooth, axis=d) if n > 1 else np.zeros_like(smooth) for d, n in enumerate(smooth.shape)]
    gradient = np.einsum("d...,dr->r...", np.stack(slopes), to_voxel)  # per mm along R, A, S
    grid = np.indices(image.shape).reshape(3, -1)
    position = (affine[:3, :3] @ grid + affine[:3, 3:] - np.asarray(centre)[:, None]).reshape(3, *image.shape)
    # x -> x + t + w x (x - c): the image changes by -gradient . (t + w x y)
    turning = np.cross(position, gradient, axis=0) * np.deg2rad(1)  # gradient . (w x y) = w . (y x gradient)
    return np.concatenate([-gradient, -turning, smooth[None], np.ones_like(smooth)[None]]).reshape(8, -1)


def displacement(still: np.ndarray, moved: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """(6,) mm and degrees by which ``moved`` is displaced from ``still``: least squares in the basis."""
    change = ndimage.gaussian_filter(moved - still, 1.0).ravel()
    norms = np.maximum(np.linalg.norm(basis, axis=1), 1e-12)
    normal = basis @ basis.T / np.outer(norms, norms)
    solution = np.linalg.lstsq(normal, basis @ change / norms, rcond=1e-8)[0] / norms
    return solution[:6]


PHASE_DEGREE = 3
LARGEST_PHASE = 1.5
"""Radians: as the field leaves at short echo times, without wraps."""


def smooth_phase(
    shape: tuple[int, ...], seed: int | np.random.Generator = 0, largest: float = LARGEST_PHASE
) -> np.ndarray:
    """The phase that an object has of its own in a gradient-echo image: (I, J, K) float32 radians up to +-``largest``.

    A random polynomial of degree 3 along each axis.
    """
    rng = np.random.default_rng(seed)
    field = rng.normal(size=(PHASE_DEGREE + 1,) * 3) / (1 + np.indices((PHASE_DEGREE + 1,) * 3).sum(axis=0)) ** 2
    field[0, 0, 0] = 0  # a constant phase changes no magnitude
    for size in shape:
        along = legvander(np.linspace(-1, 1, size) if size > 1 else np.zeros(1), PHASE_DEGREE)
        field = np.tensordot(field, along, axes=(0, 1))
    field *= largest / max(float(np.abs(field).max()), 1e-12)
    return field.astype(np.float32)


NO_MOTION = 1e-6
"""Mean displacement in mm below which nothing is aligned: rounding of the poses."""

COARSE_FROM = 128
"""Voxels along an axis from which the head's centre is found on every second one."""


@dataclass(frozen=True)
class Simulation:
    """A scan with motion.

    moved       the moved volume, on the grid of the still one
    reference   the still volume with the same coils, noise and sampling: what a perfect corrector would give
    trajectory  the pose of each phase-encode line in the order of k-space, whatever the order in time, as simulated
                (anchored, aligned), with its rotation centre
    severity    mean RMS displacement in mm from the pose at the centre of k-space
    """

    moved: Volume
    reference: Volume
    trajectory: Trajectory
    severity: float


def simulate_motion(
    volume: Volume, trajectory: Trajectory, pe_axis: str = "AP", *,
    severity: float | None = None, noise: float = 0.0, seed: int = 0, phase: np.ndarray | None = None,
    align: bool = True, accuracy: float = ACCURACY, sampling: Sampling = EVERY_LINE, order: str = "linear",
    coils: np.ndarray | None = None, combine: str = "rss", receive: np.ndarray | None = None,
) -> Simulation:  # fmt: skip
    """Simulate the acquisition of a 3D Cartesian scan while the head follows a trajectory.

    trajectory  poses in the order of time, resampled to the number of lines along ``pe_axis`` ("AP", "SI" or "LR", the
                array axis nearest to it) and anchored at the pose in which the centre of k-space is acquired. All
                lines along the other two axes share the line's pose, as in an MPRAGE where one inversion reads a whole
                partition loop.
    severity    scale the motion to this mean RMS displacement in mm over the lines (default: as it is)
    noise       standard deviation of complex Gaussian noise in image units, of each coil, added after the motion and
                before the magnitude is taken
    phase       (I, J, K) radians: the phase of the object, which moves with it (default: none)
    align       remove the global displacement that anchoring leaves, by an offset pose
    sampling    partial Fourier and parallel imaging along ``pe_axis``, with coils of the reference too; lines that are
                not acquired count neither for the severity nor for the displacement. What partial Fourier leaves out
                keeps its time in the trajectory, what parallel imaging leaves out takes none
    order       in which the lines are acquired: "linear", "interleaved" or "centric" (``sampling.acquisition_order``)
    coils       (C, I, J, K) complex sensitivities on the grid of the volume, fixed while the head moves inside them,
                such as ``smooth_coils`` makes (default: one coil that receives all alike). Only their smooth part is
                simulated: polynomials, see ``motion.coils``
    combine     of the coils: "rss" (root of the sum of squares) or "adaptive" (matched filter with the maps)
    receive     (I, J, K) sensitivity of that one coil, if it does not receive all alike: fixed and smooth as ``coils``
    The magnitude is taken last. Magnitudes below 0 cannot exist in the input, so an input with negative
    voxels is shifted up before and down after.
    """
    axis = phase_encode_axis(volume.affine, pe_axis)
    sampling = sampling.along(volume.affine, axis)
    if volume.shape[axis] < 2:
        raise InputError(f"{volume.name} has one voxel along {pe_axis}: phase encoding needs at least 2")
    if receive is not None and (coils is not None or receive.shape != volume.shape):
        raise InputError(f"receive: give one value a voxel, {volume.shape}, and no coils, which have their own fields")
    receiver = None if coils is None else _receiver(coils, volume, axis, combine, sampling, noise, seed)
    floor = min(0.0, float(volume.array.min()))
    still = volume.array.astype(np.float32)
    if floor < 0:
        still -= np.float32(floor)
    skipped = np.zeros(volume.shape[axis], bool) if receiver is None else sampling.skipped(volume.shape[axis])
    keeps = sampling.keeps(volume.shape[axis])
    poses, severity = _poses_of_lines(trajectory, volume, axis, order, skipped, keeps & ~skipped, severity)
    centre = head_centre(still, volume.affine) if trajectory.centre is None else np.asarray(trajectory.centre)
    if align and severity > NO_MOTION:
        poses = aligned(still, volume.affine, poses, axis, centre, keeps=keeps)
    poses = Trajectory(poses.translations, poses.rotations, centre)

    acquired = still if phase is None else still * np.exp(1j * phase).astype(np.complex64)
    model = Acquisition(volume.shape, volume.affine, poses, axis, centre, accuracy)
    if receiver is not None:
        reference = receiver.still(acquired)
        moved = receiver.moved(acquired, model) if severity > NO_MOTION else reference
    else:
        field = None if receive is None else CoilMaps.fitted(receive[None], volume.affine)
        grain = complex_noise(acquired.shape, noise, np.random.default_rng(seed)) if noise > 0 else None
        moved, reference = _one_coil(acquired, model, field, sampling, grain)
    return Simulation(_above(floor, moved, volume), _above(floor, reference, volume), poses, severity)


def _receiver(
    coils: np.ndarray, volume: Volume, axis: int, combine: str, sampling: Sampling, noise: float, seed: int
) -> Receiver:
    if np.shape(coils)[1:] != volume.shape:
        raise InputError(f"coil maps of shape {np.shape(coils)} do not fit the volume: give (coils, *{volume.shape})")
    return Receiver(CoilMaps.fitted(coils, volume.affine), axis, combine, sampling, noise, seed)


def _one_coil(
    still: np.ndarray, model: Acquisition, field: CoilMaps | None, sampling: Sampling, grain: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """(moved, reference) magnitudes (I, J, K) of the image of a still head.

    field  the map of the coil; None: it receives all alike
    grain  noise as an image, the same for both; the sampling comes after it: lines that are not acquired hold none
    """
    axis = model.axis
    if field is None:
        kspace = model.kspace(still)
    else:
        (kspace,) = moved_kspaces(still, model, field)
        still = still * next(field.values())
    if grain is not None:
        kspace, still = kspace + fft.fftn(grain, workers=threads()), still + grain
    if not sampling.full_fourier:
        still = image_of(sampling.acquired(fft.fftn(still, workers=threads()), axis))
    moved = sampling.reconstructed(sampling.acquired(kspace, axis), axis)
    return np.abs(moved), np.abs(still).astype(np.float32)


def _poses_of_lines(
    trajectory: Trajectory, volume: Volume, axis: int, order: str, skipped: np.ndarray, measured: np.ndarray,
    severity: float | None,
) -> tuple[Trajectory, float]:  # fmt: skip
    """The pose of each line, anchored and scaled, and the severity in mm; lines are in the order of the array axis.

    skipped   (N,) bool: lines that take no time
    measured  (N,) bool: lines that count for the severity
    """
    poses = resampled(in_kspace_order(trajectory, len(skipped), order, skipped), len(skipped))
    counted = np.zeros_like(measured)  # in the order of the trajectory, along the patient's axis
    counted[line_rows(volume.shape, volume.affine, axis)] = fft.ifftshift(measured)
    poses = anchored(poses if severity is None else with_severity(poses, severity, counted))
    return poses, float(poses.displacement[counted].mean())


def head_centre(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """(3,) RAS mm: the middle of the head's bounding box, the default rotation centre.

    Large volumes are looked at in every second voxel along each axis: a voxel more or less does not matter here.
    """
    steps = [2 if size >= COARSE_FROM else 1 for size in array.shape]
    inside = head_mask(np.ascontiguousarray(array[tuple(slice(None, None, step) for step in steps)]))
    middle = [step * (side.start + side.stop - 1) / 2 for step, side in zip(steps, mask_box(inside), strict=True)]
    return affine[:3, :3] @ np.array(middle) + affine[:3, 3]


def _above(floor: float, magnitude: np.ndarray, volume: Volume) -> Volume:
    return volume.with_array(magnitude if floor == 0 else magnitude + np.float32(floor))
