"""Rigid poses of the head in RAS millimetres and degrees, and how far one pose lies from another."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

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
    return np.sqrt(
        HEAD_RADIUS**2 / 5 * np.einsum("nij,nij->n", change, change) + (translations**2).sum(axis=1)
    )


def compose(
    second: tuple[np.ndarray, np.ndarray], first: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Poses (translations, rotations) of doing ``first`` and then ``second``, both about the same centre.

    Each is ((N, 3) mm, (N, 3) degrees); one of the two may have a single row. x -> R2 (R1 x + t1) + t2.
    """
    turn = Rotation.from_euler(EULER_ORDER, second[1], degrees=True)
    translations = turn.apply(first[0]) + second[0]
    rotations = (turn * Rotation.from_euler(EULER_ORDER, first[1], degrees=True)).as_euler(
        EULER_ORDER, degrees=True
    )
    return np.atleast_2d(translations), np.atleast_2d(rotations)


def inverse(translations: np.ndarray, rotations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of each pose, (N, 3) mm and (N, 3) degrees about the same centre."""
    back = Rotation.from_euler(EULER_ORDER, rotations, degrees=True).inv()
    return -back.apply(translations), back.as_euler(EULER_ORDER, degrees=True)


def scaled_rotations(rotations: np.ndarray, factor: float) -> np.ndarray:
    """(N, 3) degrees, each rotation's angle times ``factor`` about its own axis (matrix logarithm)."""
    vectors = Rotation.from_euler(EULER_ORDER, rotations, degrees=True).as_rotvec()
    return Rotation.from_rotvec(factor * vectors).as_euler(EULER_ORDER, degrees=True)
