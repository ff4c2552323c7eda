"""Undoing motion whose trajectory is known, from the magnitude image alone: the exact model solved for the still head.

A scan in motion is m = |A x|, A linear (``kspace.Acquisition``), x >= 0 the still head. Motion gives A x a phase, which
the magnitude has lost, and with it half of the data; that x is real gives it back. With the phase p = A x / |A x|
of the last estimate, |A x| is Re(conj(p) A x) to first order, which is linear in x: each round solves

    min |Re(conj(p) A x) - m|^2 + damping |x - x_last|^2

by conjugate gradients (Gauss-Newton with damping, Levenberg 1944). Nothing is learned, so no anatomy can be invented;
what the motion took out of the scan stays missing, and noise is amplified.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg

from BrainDiffLogic.errors import Cancelled, InputError
from BrainDiffLogic.motion.kspace import Acquisition, image_of, phase_encode_axis, spectrum_of
from BrainDiffLogic.motion.simulation import head_centre, relative_to_scan
from BrainDiffLogic.motion.trajectory import Trajectory, anchored, resampled
from BrainDiffLogic.volume import Volume

ROUNDS, ITERATIONS = 3, 6
"""Updates of the phase, and steps of conjugate gradients in each."""
DAMPING = 0.03
"""Against 1, the square of A's gain: hardly anything of the head is lost. Noise of 2 % wants 0.3."""
ACCURACY = 1e-3
"""Relative accuracy asked of finufft."""
TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Inversion:
    """A still head found from a scan in motion.

    still      on the grid of the scan
    residuals  |A x| - m before the first and after each round, as a share of m (root mean squares). Large at the end:
               a wrong trajectory, noise or an object phase. Small is no proof: a magnitude hardly tells a trajectory
               from the opposite one (lines k and -k exchanged), which leaves as little and makes the image worse
    """

    still: Volume
    residuals: tuple[float, ...]


def invert_motion(
    moved: Volume, trajectory: Trajectory, pe_axis: str = "AP", *, anchor: bool = True, rounds: int = ROUNDS,
    iterations: int = ITERATIONS, damping: float = DAMPING, progress: Callable[[float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Inversion:  # fmt: skip
    """The still head in a magnitude scan whose head followed a known trajectory.

    trajectory  poses of the head over the scan, in the order of time, the first and last with the first and last
                line along ``pe_axis`` ("AP", "SI", "LR"); resampled to their number, lines ordered as in
                ``simulate_motion``
    anchor      show the head where the scan shows it, so that the two can be compared voxel for voxel; False: in the
                pose that the trajectory calls zero
    damping     how strongly a round is held to the last estimate; more amplifies noise less and undoes less motion
    progress    called with (share done, stage); ``cancelled`` is asked between steps and raises Cancelled
    One coil, no parallel imaging, and an object without phase of its own, as ``simulate_motion`` has it by default.
    Raises InputError for a phase-encode axis of one voxel, or a damping that is not a number above 0.
    """
    if not (np.isfinite(damping) and damping > 0):
        raise InputError(f"damping must be a number above 0, got {damping}")
    axis = phase_encode_axis(moved.affine, pe_axis)
    if moved.shape[axis] < 2:
        raise InputError(f"{moved.name} has one voxel along {pe_axis}: phase encoding needs at least 2")
    floor = min(0.0, float(moved.array.min()))
    scan = moved.array.astype(np.float32) - np.float32(floor)
    centre = head_centre(scan, moved.affine) if trajectory.centre is None else np.asarray(trajectory.centre)
    poses = resampled(trajectory, moved.shape[axis])
    if anchor:
        poses = relative_to_scan(scan, moved.affine, anchored(poses), axis, centre)
    model = Acquisition(scan.shape, moved.affine, poses, axis, centre, ACCURACY)
    still, residuals, steps = scan, [], rounds * (iterations + 1)

    def report_progress(start: int, done: int = 0) -> None:
        if cancelled and cancelled():
            raise Cancelled
        if progress:
            progress((start + done) / steps, "Undoing motion")

    for start in range(0, steps, iterations + 1):
        report_progress(start)
        signal = image_of(model.kspace(still))
        size = np.abs(signal)
        residuals.append(_share(size - scan, scan))
        phase = signal / np.maximum(size, TINY)
        still = still + _solve(model, scan - size, phase, damping, iterations, partial(report_progress, start))
        still = np.maximum(still, 0)  # the magnitude of a still head
    residuals.append(_share(np.abs(image_of(model.kspace(still))) - scan, scan))
    return Inversion(moved.with_array(still + np.float32(floor)), tuple(residuals))


def _solve(
    model: Acquisition, misfit: np.ndarray, phase: np.ndarray, damping: float, iterations: int,
    report_progress: Callable[[int], None],
) -> np.ndarray:  # fmt: skip
    """One round: how x (I, J, K) float32 changes from the last estimate, which leaves a misfit of the magnitude."""
    done = 0

    def back(image: np.ndarray) -> np.ndarray:
        """The adjoint of x -> Re(conj(p) A x)."""
        values: np.ndarray = model.adjoint(spectrum_of(phase * image, True)).real
        return values

    def normal(x: np.ndarray) -> np.ndarray:
        nonlocal done
        done += 1
        report_progress(min(done, iterations))
        image = x.reshape(misfit.shape).astype(np.float32)
        projected = (np.conj(phase) * image_of(model.kspace(image), True)).real
        return (back(projected) + damping * image).ravel()

    operator = LinearOperator((misfit.size, misfit.size), matvec=normal, dtype=np.float32)
    vector, _ = cg(operator, back(misfit).ravel(), maxiter=iterations, rtol=1e-5)
    change: np.ndarray = vector.reshape(misfit.shape).astype(np.float32)
    return change


def _share(error: np.ndarray, scan: np.ndarray) -> float:
    return float(np.linalg.norm(error)) / max(float(np.linalg.norm(scan)), TINY)
