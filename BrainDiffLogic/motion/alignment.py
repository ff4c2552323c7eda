"""The pose in which a moved scan shows the head, so that the still image and the moved one lie on each other.

Anchoring a trajectory at the centre of k-space leaves a global shift and rotation of a few tenths of a voxel.
A corrector cannot know it and would learn blur from it. It is removed by simulating again with an offset
pose, never by resampling either image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import fft, ndimage

from BrainDiffLogic.motion.kspace import Acquisition, image_of
from BrainDiffLogic.motion.sampling import line_weights
from BrainDiffLogic.motion.trajectory import Trajectory, inverse_pose

ROUNDS = 2
COARSE_SPACING = 2.0
"""The offset is estimated from the low frequencies, on voxels of about this many mm: eight times cheaper."""


def aligned(
    image: np.ndarray,
    affine: np.ndarray,
    trajectory: Trajectory,
    axis: int,
    centre: np.ndarray,
    keeps: np.ndarray | None = None,
) -> Trajectory:
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
        still = np.abs(image_of(fft.fftn(coarse, workers=-1) * weights))
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
    spectrum = fft.fftshift(fft.fftn(fft.ifftshift(image.astype(np.complex64)), workers=-1))
    start = shape // 2 - small // 2
    spectrum = spectrum[tuple(slice(a, a + n) for a, n in zip(start, small, strict=True))]
    coarse = fft.fftshift(fft.ifftn(fft.ifftshift(spectrum), workers=-1)).real * (small.prod() / shape.prod())
    matrix = affine[:3, :3] * (shape / small)
    coarse_affine = np.eye(4)
    coarse_affine[:3, :3] = matrix
    coarse_affine[:3, 3] = affine[:3, :3] @ (shape // 2) + affine[:3, 3] - matrix @ (small // 2)
    return coarse, coarse_affine, slice(int(start[axis]), int(start[axis] + small[axis]))


def rigid_basis(image: np.ndarray, affine: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """(8, voxels): how the image changes with 3 translations (mm), 3 rotations (degrees), gain and offset."""
    smooth = ndimage.gaussian_filter(image, 1.0)
    to_voxel = np.linalg.inv(affine[:3, :3])
    slopes = [
        np.gradient(smooth, axis=d) if n > 1 else np.zeros_like(smooth) for d, n in enumerate(smooth.shape)
    ]
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
