"""Real pairs laid onto each other: the still scan on the moved scan's grid, in its position and at its gain.

Two scans of one subject are two positions of the head and two receiver gains. Half a voxel of misregistration or 5 %
of gain alone hold PSNR below 30 dB, whatever a corrector does. The still scan, the reference, is resampled; the scan
under test never is, because interpolation smooths artifacts away and passes for correction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial.transform import Rotation

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.meta_nrrd import LPS_TO_RAS
from BrainDiffLogic.motion.trajectory import EULER_ORDER
from BrainDiffLogic.scan import head_mask
from BrainDiffLogic.volume import Volume

HISTOGRAM_BINS = 50
"""Of the joint histogram of Mattes et al., IEEE TMI 2003;22:120."""
SHRINK_MM = (4.0, 2.0, 1.0)
"""Voxels of the levels of resolution, coarse to fine; the scan's own where they are larger."""
SAMPLES = 50_000
"""Voxels of the head that a level compares; all where there are fewer."""
SAMPLING_SEED = 1
ITERATIONS = 300
FIRST_STEP_MM, LAST_STEP_MM, RELAXATION = 1.0, 1e-5, 0.85
"""Of the gradient descent; the step shrinks whenever the gradient turns round. Halving it, down to 1e-3, stops up to 2
degrees short: a head is nearly a ball, and little changes when it rolls."""
MASK_MARGIN_MM = 6.0
"""Air around the head that is compared too: its edge holds much of the position."""
GAIN_ROUNDS = 10
TUKEY = 4.685
"""Constant of Tukey's biweight (95 % efficient for Gaussian errors): voxels in ghosts get no weight."""


@dataclass(frozen=True)
class Alignment:
    """The reference of a pair where the moved scan can be compared with it voxel by voxel.

    reference  the still scan on the moved scan's grid and at its gain
    inside     (I, J, K) bool: where the still scan's field of view holds this grid; compare nowhere else
    matrix     (4, 4) rigid, RAS mm: from a point of the head in the moved scan to the same point in the still scan
    centre     (3,) RAS mm, the middle of the head in the moved scan
    gain       by which the still scan was multiplied
    similarity mutual information (Mattes) in nats before and after the registration, higher is better
    """

    reference: Volume
    inside: np.ndarray
    matrix: np.ndarray
    centre: np.ndarray
    gain: float
    similarity: tuple[float, float]

    @property
    def translation(self) -> np.ndarray:
        """(3,) mm along R, A, S by which the middle of the head lies elsewhere in the still scan."""
        return self.matrix[:3, :3] @ self.centre + self.matrix[:3, 3] - self.centre

    @property
    def rotation(self) -> np.ndarray:
        """(3,) degrees about R, A, S (pitch, roll, yaw) from the moved scan to the still one."""
        return Rotation.from_matrix(self.matrix[:3, :3]).as_euler(EULER_ORDER, degrees=True)

    def as_dict(self) -> dict[str, Any]:
        """The facts of the alignment for a JSON report."""
        return {
            "translation_mm": self.translation.tolist(),
            "rotation_deg": self.rotation.tolist(),
            "matrix_ras": self.matrix.tolist(),
            "gain": self.gain,
            "mutual_information": list(self.similarity),
            "inside": float(self.inside.mean()),
        }


def align_reference(still: Volume, moved: Volume) -> Alignment:
    """Register a still scan with a moved scan of the same subject and resample it, the reference, onto its grid.

    still, moved  magnitude volumes (any grids); values of ``moved`` are not touched
    Rigid, Mattes mutual information, three resolutions, started at the best of: scanner coordinates as they are,
    middles of the grids, centres of mass. Resampled once, with a B-spline of order 5 (sharper than cubic). The gain is
    the robust least-squares factor in the head. The same input gives the same result.
    Raises InputError where the registration fails or the scans do not overlap.
    """
    head = head_mask(moved.array)
    fixed, moving = _image(moved.array, moved), _image(still.array, still)
    margin = max(1, round(MASK_MARGIN_MM / float(moved.spacing.max())))
    mask = _image(ndimage.binary_dilation(head, iterations=margin).astype(np.uint8), moved)
    try:
        transform, similarity = _register(fixed, moving, mask, int(np.count_nonzero(head)))
    except RuntimeError as error:
        names = f"{still.name}: cannot be registered with {moved.name}"
        raise InputError(f"{names}; check that both show one head") from error
    array = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkBSpline5, 0.0)).transpose()
    whole = _image(np.ones(still.shape, dtype=np.uint8), still)
    nearest = sitk.Resample(whole, fixed, transform, sitk.sitkNearestNeighbor, 0)
    inside = sitk.GetArrayFromImage(nearest).transpose() > 0
    if not (inside & head).any():
        raise InputError(f"{still.name}: does not overlap with {moved.name}; check that both show one head")
    gain = robust_gain(array, moved.array, inside & head)
    aligned = np.where(inside, gain * array, 0).astype(np.float32)
    matrix = _ras_matrix(transform)
    centre = moved.affine[:3, :3] @ ndimage.center_of_mass(head) + moved.affine[:3, 3]
    reference = Volume(aligned, moved.affine, storage=None, source=still.source)
    return Alignment(reference, inside, matrix, centre, gain, similarity)


def robust_gain(reference: np.ndarray, image: np.ndarray, mask: np.ndarray) -> float:
    """The factor that brings ``reference`` to the gain of ``image`` in ``mask`` (arrays of one shape).

    Least squares of image - gain * reference, reweighted by Tukey's biweight, from the ratio of the medians on.
    Raises InputError where the reference holds nothing there.
    """
    x, y = reference[mask].astype(np.float64), image[mask].astype(np.float64)
    middle = float(np.median(x)) if x.size else 0.0
    if middle <= 0:
        raise InputError("the still scan is empty where the moved scan shows the head; check that both show one head")
    gain = float(np.median(y)) / middle
    for _ in range(GAIN_ROUNDS):
        error = y - gain * x
        width = TUKEY * 1.4826 * float(np.median(np.abs(error - np.median(error))))
        if width == 0:
            break
        weight = np.clip(1 - (error / width) ** 2, 0, None) ** 2
        if (total := float(weight @ x**2)) == 0:
            break
        gain = float(weight @ (x * y)) / total
    return gain


def _register(
    fixed: sitk.Image, moving: sitk.Image, mask: sitk.Image, voxels: int
) -> tuple[sitk.Euler3DTransform, tuple[float, float]]:
    """The rigid transform from fixed to moving points (LPS mm), and the similarity before and after."""
    factors = {max(1, round(size / min(fixed.GetSpacing()))) for size in SHRINK_MM}
    shrink = sorted(factors, reverse=True)
    shares = [min(1.0, SAMPLES * factor**3 / voxels) for factor in shrink]
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
    method.SetMetricFixedMask(mask)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetMetricSamplingPercentage(shares[-1], SAMPLING_SEED)
    starts = _starts(fixed, moving)
    similarities = [_similarity(method, fixed, moving, start) for start in starts]
    transform = starts[int(np.argmax(similarities))]
    method.SetShrinkFactorsPerLevel(shrink)
    method.SetSmoothingSigmasPerLevel([(factor - 1) / 2 for factor in shrink])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetMetricSamplingPercentagePerLevel(shares, SAMPLING_SEED)
    method.SetOptimizerAsRegularStepGradientDescent(FIRST_STEP_MM, LAST_STEP_MM, ITERATIONS, RELAXATION, 1e-10)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed, moving)
    after = -float(method.GetMetricValue())
    return transform, (similarities[0], after)


def _starts(fixed: sitk.Image, moving: sitk.Image) -> list[sitk.Euler3DTransform]:
    """As the scanner says, the middles of the grids on each other, the centres of mass on each other."""
    modes = sitk.CenteredTransformInitializerFilter.GEOMETRY, sitk.CenteredTransformInitializerFilter.MOMENTS
    centred = [sitk.CenteredTransformInitializer(fixed, moving, sitk.Euler3DTransform(), mode) for mode in modes]
    moved = [sitk.Euler3DTransform(start) for start in centred]
    return [sitk.Euler3DTransform(moved[-1].GetCenter()), *moved]


def _similarity(
    method: sitk.ImageRegistrationMethod, fixed: sitk.Image, moving: sitk.Image, transform: sitk.Euler3DTransform
) -> float:
    """Mutual information in nats at a transform; minus infinity where the images do not overlap."""
    method.SetInitialTransform(transform, inPlace=False)
    try:
        return -float(method.MetricEvaluate(fixed, moving))
    except RuntimeError:
        return -np.inf


def _image(array: np.ndarray, volume: Volume) -> sitk.Image:
    """Voxels (I, J, K) on the volume's grid, in LPS; floats and wide integers as float32."""
    wanted = array if array.dtype == np.uint8 else array.astype(np.float32)
    image = sitk.GetImageFromArray(wanted.transpose())
    lps = LPS_TO_RAS @ volume.affine[:3]
    image.SetOrigin(lps[:, 3].tolist())
    image.SetSpacing(volume.spacing.tolist())
    image.SetDirection((lps[:, :3] / volume.spacing).ravel().tolist())
    return image


def _ras_matrix(transform: sitk.Euler3DTransform) -> np.ndarray:
    turn, centre = np.reshape(transform.GetMatrix(), (3, 3)), np.array(transform.GetCenter())
    matrix = np.eye(4)
    matrix[:3, :3] = LPS_TO_RAS @ turn @ LPS_TO_RAS
    matrix[:3, 3] = LPS_TO_RAS @ (centre - turn @ centre + np.array(transform.GetTranslation()))
    return matrix
