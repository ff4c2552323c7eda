"""Rigid poses of the head in RAS millimetres and degrees, and its trajectory: a pose for each phase-encode line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.spatial.transform import Rotation, Slerp

from BrainDiffLogic.errors import InputError

HEAD_RADIUS = 80.0
"""Radius in mm of the sphere that stands for the head (Jenkinson 1999, FMRIB TR99MJ1)."""
EULER_ORDER = "xyz"
"""Extrinsic: first about R (pitch), then A (roll), then S (yaw)."""


def rotation_matrices(rotations: np.ndarray) -> np.ndarray:
    """(N, 3) degrees about R, A, S to (N, 3, 3); right-handed: +pitch lifts the nose (A towards S)."""
    return Rotation.from_euler(EULER_ORDER, rotations, degrees=True).as_matrix()


def rms_displacement(translations: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """(N,) root-mean-square displacement in mm over the head's sphere of each pose from the identity.

    translations (N, 3) mm is the displacement of the rotation centre, rotations (N, 3) degrees.
    sqrt(r^2 / 5 * trace(M^T M) + t^T t) with M = R - 1 (Jenkinson 1999, eq. for the RMS deviation).
    """
    change = rotation_matrices(rotations) - np.eye(3)
    return np.sqrt(HEAD_RADIUS**2 / 5 * np.einsum("nij,nij->n", change, change) + (translations**2).sum(axis=1))


def composed_poses(
    second: tuple[np.ndarray, np.ndarray], first: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Poses (translations, rotations) of doing ``first`` and then ``second``, both about the same centre.

    Each is ((N, 3) mm, (N, 3) degrees); one of the two may have a single row. x -> R2 (R1 x + t1) + t2.
    """
    turn = Rotation.from_euler(EULER_ORDER, second[1], degrees=True)
    translations = turn.apply(first[0]) + second[0]
    rotations = (turn * Rotation.from_euler(EULER_ORDER, first[1], degrees=True)).as_euler(EULER_ORDER, degrees=True)
    return np.atleast_2d(translations), np.atleast_2d(rotations)


def inverse_pose(translations: np.ndarray, rotations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of each pose, (N, 3) mm and (N, 3) degrees about the same centre."""
    back = Rotation.from_euler(EULER_ORDER, rotations, degrees=True).inv()
    return -back.apply(translations), back.as_euler(EULER_ORDER, degrees=True)


STRATA = (0.5, 1.0, 2.0, 4.0)
"""Limits in mm of mean RMS displacement between the severity strata."""
SEVERITY_DIGITS = 4
"""Of a severity in mm that is compared with a limit: motion scaled to 1 mm comes out as 0.9999999996."""
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
                raise InputError(f"{name} of a trajectory must be (N >= 2, 3), got {rows.shape}; one row a time point")
            if not np.isfinite(rows).all():
                raise InputError(f"{name} of a trajectory hold NaN or infinite values; repair the trace")
        if len(self.translations) != len(self.rotations):
            raise InputError(
                f"a trajectory has {len(self.translations)} translations but {len(self.rotations)} rotations;"
                " give one of each per time point"
            )

    @classmethod
    def of_rows(cls, rows: np.ndarray, centre: np.ndarray | None = None) -> Trajectory:
        """From poses (N, 6): mm along R, A, S, then degrees about them."""
        return cls(rows[:, :3], rows[:, 3:], centre)

    @property
    def rows(self) -> np.ndarray:
        """(N, 6) mm along and degrees about R, A, S."""
        return np.hstack([self.translations, self.rotations])

    def __len__(self) -> int:
        return len(self.translations)

    @property
    def displacement(self) -> np.ndarray:
        """(N,) RMS displacement in mm of each pose from the still head (Jenkinson 1999)."""
        return rms_displacement(self.translations, self.rotations)

    @property
    def severity(self) -> float:
        """Mean RMS displacement in mm over the lines, from the pose at the centre of k-space."""
        return float(anchored(self).displacement.mean())

    def transformed(self, pose: tuple[np.ndarray, np.ndarray]) -> Trajectory:
        """Every pose followed by ``pose`` ((3,) mm, (3,) degrees about the same centre)."""
        translations, rotations = composed_poses(pose, (self.translations, self.rotations))
        return Trajectory(translations, rotations, self.centre)

    def relative_to(self, pose: tuple[np.ndarray, np.ndarray]) -> Trajectory:
        """The same motion seen from ``pose`` ((3,) mm, (3,) degrees), which becomes the identity."""
        translations, rotations = composed_poses((self.translations, self.rotations), inverse_pose(*pose))
        return Trajectory(translations, rotations, self.centre)


def anchored(trajectory: Trajectory) -> Trajectory:
    """The same motion seen from the pose at the centre of k-space (row N // 2), which becomes the identity.

    The image is mostly made of the central lines, so this removes most of the global displacement between the
    still image and the moved one (MC-Net, "offset such that the k-space center remained in the origin"); not
    all of it, see ``motion.simulation.aligned``.
    """
    middle = len(trajectory) // 2
    return trajectory.relative_to((trajectory.translations[middle], trajectory.rotations[middle]))


def resampled(trajectory: Trajectory, lines: int) -> Trajectory:
    """The trajectory at ``lines`` even times: translations linearly, rotations along great circles."""
    if len(trajectory) == lines:
        return trajectory
    return sampled(trajectory, np.linspace(0, 1, len(trajectory)), np.linspace(0, 1, lines))


def sampled(trajectory: Trajectory, times: np.ndarray, new_times: np.ndarray) -> Trajectory:
    """The trajectory, recorded at ``times`` (increasing), at other times between the first and last."""
    translations = np.stack([np.interp(new_times, times, column) for column in trajectory.translations.T], axis=1)
    turns = Rotation.from_euler(EULER_ORDER, trajectory.rotations, degrees=True)
    rotations = Slerp(times, turns)(new_times).as_euler(EULER_ORDER, degrees=True)
    return Trajectory(translations, rotations, trajectory.centre)


def scaled(trajectory: Trajectory, factor: float) -> Trajectory:
    """Translations and rotation angles multiplied by ``factor``."""
    vectors = Rotation.from_euler(
        EULER_ORDER, trajectory.rotations, degrees=True
    ).as_rotvec()  # each about its own axis
    rotations = Rotation.from_rotvec(factor * vectors).as_euler(EULER_ORDER, degrees=True)
    return Trajectory(factor * trajectory.translations, rotations, trajectory.centre)


def with_severity(trajectory: Trajectory, severity: float, measured: np.ndarray | None = None) -> Trajectory:
    """The trajectory, anchored at the centre of k-space and scaled to a mean RMS displacement of ``severity`` mm.

    measured  (N,) bool: the rows that count for the mean (default: all)
    Raises InputError when it holds no motion, or when no scaling reaches the severity.
    """
    if severity < 0:
        raise InputError(f"severity {severity} mm is negative; give the mean displacement in mm, 0 or more")
    still, counted = anchored(trajectory), slice(None) if measured is None else measured
    if severity == 0:
        return scaled(still, 0.0)
    unscaled = float(still.displacement[counted].mean())
    if unscaled < 1e-6:
        raise InputError("the trajectory holds no motion, so it cannot be scaled to a severity; choose another trace")

    def excess(factor: float) -> float:
        return float(scaled(still, factor).displacement[counted].mean()) - severity

    upper = severity / unscaled
    while excess(upper) < 0:
        upper *= 1.5
        if np.abs(still.rotations).max() * upper > 180:
            raise InputError(f"no scaling of this trajectory reaches {severity} mm; choose a smaller severity")
    return anchored(scaled(still, brentq(excess, 0.0, upper, xtol=1e-6 * upper)))


def stratum(severity: float) -> str:
    """The name of the severity stratum of a mean RMS displacement in mm, which scaling reaches but for rounding."""
    return STRATUM_NAMES[int(np.searchsorted(STRATA, round(severity, SEVERITY_DIGITS), side="right"))]
