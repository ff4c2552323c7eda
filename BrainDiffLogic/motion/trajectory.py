"""The head's trajectory during a scan: one rigid pose for each phase-encode line, and how severe it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.spatial.transform import Rotation, Slerp

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion import rigid

STRATA = (0.5, 1.0, 2.0, 4.0)
"""Limits in mm of mean RMS displacement between the severity strata."""
STRATUM_NAMES = ("<0.5", "0.5-1", "1-2", "2-4", ">4")


@dataclass(frozen=True)
class Trajectory:
    """Poses of the head over the scan, in the order of time.

    translations  (N, 3) mm along R, A, S: where the rotation centre has moved to
    rotations     (N, 3) degrees about the R, A, S axes through the rotation centre (pitch, roll, yaw)
    centre        (3,) rotation centre in RAS mm; None: the centre of the head, found by the simulation
    A point x of the still head is at R (x - centre) + centre + t while row n is acquired.

    Raises InputError when the rows are not N >= 2 finite 6-DOF poses.
    """

    translations: np.ndarray
    rotations: np.ndarray
    centre: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("translations", "rotations"):
            rows = np.asarray(getattr(self, name), dtype=np.float64)
            object.__setattr__(self, name, rows)
            if rows.ndim != 2 or rows.shape[1] != 3 or len(rows) < 2:
                raise InputError(
                    f"{name} of a trajectory must be (N >= 2, 3), got {rows.shape}; one row a time point"
                )
            if not np.isfinite(rows).all():
                raise InputError(f"{name} of a trajectory hold NaN or infinite values; repair the trace")
        if len(self.translations) != len(self.rotations):
            raise InputError(
                f"a trajectory has {len(self.translations)} translations but {len(self.rotations)} rotations;"
                " give one of each per time point"
            )

    def __len__(self) -> int:
        return len(self.translations)

    @property
    def displacement(self) -> np.ndarray:
        """(N,) RMS displacement in mm of each pose from the still head (Jenkinson 1999)."""
        return rigid.rms_displacement(self.translations, self.rotations)

    @property
    def severity(self) -> float:
        """Mean RMS displacement in mm over the lines, from the pose at the centre of k-space."""
        return float(anchored(self).displacement.mean())

    def transformed(self, pose: tuple[np.ndarray, np.ndarray]) -> Trajectory:
        """Every pose followed by ``pose`` ((3,) mm, (3,) degrees about the same centre)."""
        translations, rotations = rigid.compose(pose, (self.translations, self.rotations))
        return Trajectory(translations, rotations, self.centre)

    def seen_from(self, pose: tuple[np.ndarray, np.ndarray]) -> Trajectory:
        """The same motion seen from ``pose`` ((3,) mm, (3,) degrees), which becomes the identity."""
        translations, rotations = rigid.compose((self.translations, self.rotations), rigid.inverse(*pose))
        return Trajectory(translations, rotations, self.centre)


def anchored(trajectory: Trajectory) -> Trajectory:
    """The same motion seen from the pose at the centre of k-space (row N // 2), which becomes the identity.

    The image is mostly made of the central lines, so this removes most of the global displacement between the
    still image and the moved one (MC-Net, "offset such that the k-space center remained in the origin"); not
    all of it, see ``BrainDiffLogic.motion.alignment``.
    """
    middle = len(trajectory) // 2
    return trajectory.seen_from((trajectory.translations[middle], trajectory.rotations[middle]))


def resampled(trajectory: Trajectory, lines: int) -> Trajectory:
    """The trajectory at ``lines`` even times: translations linearly, rotations along great circles."""
    if len(trajectory) == lines:
        return trajectory
    return sampled(trajectory, np.linspace(0, 1, len(trajectory)), np.linspace(0, 1, lines))


def sampled(trajectory: Trajectory, times: np.ndarray, new_times: np.ndarray) -> Trajectory:
    """The trajectory, recorded at ``times`` (increasing), at other times between the first and last."""
    translations = np.stack(
        [np.interp(new_times, times, column) for column in trajectory.translations.T], axis=1
    )
    turns = Rotation.from_euler(rigid.EULER_ORDER, trajectory.rotations, degrees=True)
    rotations = Slerp(times, turns)(new_times).as_euler(rigid.EULER_ORDER, degrees=True)
    return Trajectory(translations, rotations, trajectory.centre)


def scaled(trajectory: Trajectory, factor: float) -> Trajectory:
    """Translations and rotation angles multiplied by ``factor``."""
    rotations = rigid.scaled_rotations(trajectory.rotations, factor)
    return Trajectory(factor * trajectory.translations, rotations, trajectory.centre)


def with_severity(trajectory: Trajectory, severity: float) -> Trajectory:
    """The trajectory, anchored at the centre of k-space and scaled to a mean RMS displacement of ``severity``
    mm.

    Raises InputError when it holds no motion, or when no scaling reaches the severity.
    """
    if severity < 0:
        raise InputError(f"severity {severity} mm is negative; give the mean displacement in mm, 0 or more")
    still = anchored(trajectory)
    if severity == 0:
        return scaled(still, 0.0)
    if still.severity < 1e-6:
        raise InputError(
            "the trajectory holds no motion, so it cannot be scaled to a severity; choose another trace"
        )

    def excess(factor: float) -> float:
        return scaled(still, factor).severity - severity

    upper = severity / still.severity
    while excess(upper) < 0:
        upper *= 1.5
        if np.abs(still.rotations).max() * upper > 180:
            raise InputError(
                f"no scaling of this trajectory reaches {severity} mm; choose a smaller severity"
            )
    return anchored(scaled(still, brentq(excess, 0.0, upper, xtol=1e-6 * upper)))


def stratum(severity: float) -> str:
    """The name of the severity stratum of a mean RMS displacement in mm."""
    return STRATUM_NAMES[int(np.searchsorted(STRATA, severity, side="right"))]
