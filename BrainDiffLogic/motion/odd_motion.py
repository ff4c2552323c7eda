"""Proposals for odd motion: the shapes over the lines, and the poses, that explain the rings in a power spectrum best.

A coarse search over maps of the local shift gives starting poses, which climb the likelihood of ``contrast_transfer``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from scipy import ndimage
from scipy.optimize import minimize

from BrainDiffLogic.errors import Cancelled
from BrainDiffLogic.motion.contrast_transfer import TAIL, ContrastTransfer, Proposal
from BrainDiffLogic.motion.lanes import stopped

REACH = 7.0
"""Largest local shift in mm that the coarse search looks at."""
SAMPLES = 40_000
"""Poses whose coarse likelihood is looked up, and"""
CLIMBERS, TRIALS, CLIMB = 200, 25, (0.4, 0.25, 0.15, 0.1)
"""the number of the best of these that climb on by random steps, steps tried at a time, and sizes in mm or degrees."""
STARTS, REFINED, APART = 60, 5, 0.4
"""Best of those whose likelihood is computed, how many of the best of these are refined, and how far in mm or degrees
these lie apart."""
MODULATION = 0.9
"""Of log power by the rings, about zero, as the coarse search takes it: half of the logarithm's range."""
SWITCH = 20.0
"""Nats that a change of pose must gain."""
FLIPPED = 3
"""Segments whose sign against the largest one's is tried both ways."""


def odd_shapes(lines: int) -> dict[str, np.ndarray]:
    """(N, 1) courses over the lines, odd about row N // 2: a ramp, and steps at some distance from the middle."""
    k = _positions(lines)
    shapes = {"ramp": k}
    for start in (0.0, 0.25, 0.5):
        shapes[f"step {start:g}"] = np.sign(k) * (np.abs(k) >= start)
    shapes["step back 0.4"] = np.sign(k) * (np.abs(k) < 0.4)
    return {name: course[:, None] for name, course in shapes.items()}


def _positions(lines: int) -> np.ndarray:
    """(N,) the lines' place from -1 to 1, 0 at row N // 2."""
    return (np.arange(lines) - lines // 2) / (lines / 2)


def propose(
    image: np.ndarray, affine: np.ndarray, axis: int, centre: np.ndarray, cancelled: Callable[[], bool] | None = None
) -> list[Proposal]:
    """Hypotheses of odd motion, the best of each shape, highest score first; arguments as for ``ContrastTransfer``.

    cancelled  asked now and then; where it answers True, Cancelled is raised
    """
    model = ContrastTransfer(image, affine, axis, centre)
    shapes = odd_shapes(model.lines)
    best_of = {name: best_poses(model, basis, cancelled) for name, basis in shapes.items()}
    proposals = [model.proposal(shapes[name] @ best[0][0], best[0][1], name) for name, best in best_of.items()]
    proposals.append(curve(model, best_of["ramp"][0][0]))
    _check(cancelled)
    proposals += segments(model, np.array([p[0] for name, best in best_of.items() if "step" in name for p, _ in best]))
    return sorted(proposals, key=lambda proposal: -proposal.score)


def best_poses(
    model: ContrastTransfer, basis: np.ndarray, cancelled: Callable[[], bool] | None = None
) -> list[tuple[np.ndarray, float]]:
    """The likeliest poses (1, 6) found for a basis (N, 1) and their gains, best first."""
    courses = model.courses(basis)
    starts = coarse_poses(model, basis[:, 0])
    values = []
    for start in starts:
        _check(cancelled)
        values.append(model.gain(courses, start, fits=1)[0])
    optima = []
    for start in _distinct(starts[np.argsort(values)[::-1]], REFINED):
        _check(cancelled)
        optima.append(refined(model, courses, start[None]))
    return sorted(optima, key=lambda one: -one[1])


def curve(model: ContrastTransfer, ramp: np.ndarray) -> Proposal:
    """The best ramp (1, 6) bent: odd polynomials of the line instead."""
    k = _positions(model.lines)
    basis = np.stack([k, (5 * k**3 - 3 * k) / 2, (63 * k**5 - 70 * k**3 + 15 * k) / 8], axis=1)
    poses, value = refined(model, model.courses(basis), np.vstack([ramp, np.zeros((2, 6))]))
    return model.proposal(basis @ poses, value, "curve")


def segments(model: ContrastTransfer, poses: np.ndarray) -> list[Proposal]:
    """Poses that stay for a while: the distances |k| from the middle cut into segments of one pose each.

    poses  (P, 6) candidates. Dynamic programming gives each line a candidate or none, SWITCH nats a change; the poses
    are refined together, and both once more with the refined ones among the candidates. Each segment has a sign of
    its own that the spectrum does not tell: one proposal for each choice, the one that changes least from segment to
    segment first, the signs of the largest FLIPPED segments being tried.
    """
    basis, segment_poses, value = np.zeros((model.lines, 0)), np.zeros((0, 6)), 0.0
    for _ in range(2):
        candidates = np.vstack([np.zeros(6), poses, segment_poses])
        choice = _cheapest_path(model.line_values(candidates, basis, segment_poses), SWITCH)
        new_basis, start = _segment_basis(model.lines, choice, candidates)
        if not len(start):
            break
        new, new_value = refined(model, model.courses(new_basis), start)
        if new_value <= value:
            break
        basis, segment_poses, value = new_basis, _signs_aligned(new), new_value
    proposals = []
    for signs in _sign_choices(basis, segment_poses):
        name = "segments " + "".join("-" if sign < 0 else "+" for sign in signs)
        proposals.append(model.proposal(basis @ (segment_poses * signs[:, None]), value, name))
    return proposals


def _sign_choices(basis: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """(V, B) of 1 and -1: flips of the largest segments but one, none first; their common sign does not matter."""
    count = len(poses)
    if count == 0:
        return np.ones((1, 0))
    size = np.abs(basis).sum(axis=0) * np.linalg.norm(poses, axis=1)
    flipped = np.argsort(size)[::-1][1 : FLIPPED + 1]
    signs = np.ones((2 ** len(flipped), count))
    signs[:, flipped] = list(itertools.product((1, -1), repeat=len(flipped)))
    return signs


def _cheapest_path(values: np.ndarray, switch: float) -> np.ndarray:
    """(L,) the candidate of each line: the largest sum of values (L, P) less ``switch`` a change (Viterbi)."""
    total, back = values[0], []
    for line in values[1:]:
        stay = total >= total.max() - switch
        back.append(np.where(stay, np.arange(len(total)), total.argmax()))
        total = np.maximum(total, total.max() - switch) + line
    path = [int(total.argmax())]
    for before in reversed(back):
        path.append(int(before[path[-1]]))
    return np.array(path[::-1])


def _segment_basis(lines: int, choice: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, B) odd courses, one a segment in which a candidate other than the first is chosen, and their poses (B, 6)."""
    k = _positions(lines)
    ends = np.flatnonzero(np.diff(choice)) + 1
    limits = (np.concatenate([[0], ends, [len(choice)]]) - 0.5) / (len(choice) - 0.5)
    limits[0], limits[-1] = 0, np.inf
    chosen = choice[np.concatenate([[0], ends])]
    moved = np.flatnonzero(chosen)
    basis = [np.sign(k) * ((np.abs(k) >= limits[b]) & (np.abs(k) < limits[b + 1])) for b in moved]
    return np.stack(basis, axis=1) if basis else np.zeros((lines, 0)), candidates[chosen[moved]]


def _signs_aligned(poses: np.ndarray) -> np.ndarray:
    """The poses (B, 6) with signs such that each points as the one before does."""
    aligned = poses.copy()
    for before, pose in zip(aligned[:-1], aligned[1:], strict=True):
        if before @ pose < 0:
            pose *= -1
    return aligned


def _distinct(poses: np.ndarray, count: int) -> np.ndarray:
    """The first ``count`` of the poses (P, 6) that differ by APART in some direction, whatever their sign."""
    kept = poses[:1]
    for pose in poses[1:]:
        apart = min(np.abs(kept - pose).max(axis=1).min(), np.abs(kept + pose).max(axis=1).min())
        if apart > APART and len(kept) < count:
            kept = np.vstack([kept, pose])
    return kept


def refined(model: ContrastTransfer, courses: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, float]:
    """The local maximum near the coefficients ``start`` (B, 6), and its gain."""

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = model.gain(courses, flat.reshape(start.shape))
        return -value / 100, -gradient.ravel() / 100

    result = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 40, "ftol": 1e-5})
    return result.x.reshape(start.shape), -100 * float(result.fun)


def coarse_poses(model: ContrastTransfer, course: np.ndarray) -> np.ndarray:
    """(STARTS, 6) promising poses for a course (N,).

    For small modulation the gain of a window is a quadratic function of cos(4 pi k.t), and its sums over the spectrum
    are Fourier transforms along the three axes: maps over the local shift t. A pose is looked up in the maps of all
    windows.
    """
    maps, step = coarse_maps(model, course)
    to_maps = np.linalg.inv(model.affine[:3, :3]).T / step
    middle = (np.array(maps.shape[1:]) - 1) / 2

    def gains(poses: np.ndarray) -> np.ndarray:
        total = np.zeros(len(poses))
        for values, place in zip(maps, model.places, strict=True):
            shifts = poses[:, :3] + np.cross(np.deg2rad(poses[:, 3:]), place)
            total += ndimage.map_coordinates(values, (shifts @ to_maps + middle).T, order=1, mode="nearest")
        return total

    rng = np.random.default_rng(0)
    poses = rng.normal(size=(SAMPLES, 6))
    poses *= rng.uniform(0.5, 6, (SAMPLES, 1)) / np.linalg.norm(poses, axis=1, keepdims=True)
    poses = poses[np.argsort(gains(poses))[::-1][:CLIMBERS]]
    for spread in CLIMB:
        tried = poses[:, None] + spread * rng.normal(size=(CLIMBERS, TRIALS, 6))
        tried[:, 0] = poses
        best = gains(tried.reshape(-1, 6)).reshape(CLIMBERS, TRIALS)
        poses = tried[np.arange(CLIMBERS), best.argmax(axis=1)]
    return poses[np.argsort(best.max(axis=1))[::-1][:STARTS]]


def coarse_maps(model: ContrastTransfer, course: np.ndarray) -> tuple[np.ndarray, float]:
    """(windows, A, B, C) approximate gains over local shifts of -REACH to REACH along I, J, K; their step in voxels."""
    information = TAIL / (TAIL + 2)
    spacing = float(np.linalg.norm(model.affine[:3, :3], axis=0).max())
    step = 0.08 / model.limit / spacing
    count = 2 * int(np.ceil(REACH / spacing / step)) + 1
    to_maps = _ShiftTransform(model, course, step, count)
    shares = model.shares**2
    typical = shares.mean(axis=0)
    energy = 0.5 * (typical.sum() + to_maps(typical, harmonic=2))
    for column in np.linalg.qr(np.sqrt(typical)[:, None] * model.smooth)[0].T:
        energy -= to_maps(np.sqrt(typical) * column) ** 2
    energy *= 0.5 * information * MODULATION**2 / typical.sum()
    maps = [
        MODULATION * to_maps(score) - share.sum() * energy
        for score, share in zip(model.still_score, shares, strict=True)
    ]
    return np.stack(maps), step


class _ShiftTransform:
    """Sums over the spectrum of weights (Q,) times cos(4 pi h u f.tau), on a grid of shifts tau in voxels."""

    def __init__(self, model: ContrastTransfer, course: np.ndarray, step: float, count: int) -> None:
        self.axis, self.shifts = model.axis, step * (np.arange(count) - count // 2)
        self.others = [axis for axis in range(3) if axis != model.axis]
        self.index, self.frequency = [], []
        for axis in (model.axis, *self.others):
            values, index = np.unique(np.round(model.cycles[:, axis], 9), return_inverse=True)
            self.frequency.append(values)
            self.index.append(index)
        rows = np.zeros(len(self.frequency[0]))
        rows[self.index[0]] = model.row
        self.course = np.interp(rows, np.arange(model.lines), course)

    def __call__(self, weights: np.ndarray, harmonic: int = 1) -> np.ndarray:
        grid = np.zeros([len(f) for f in self.frequency], dtype=np.complex64)
        grid[tuple(self.index)] = weights
        total = np.zeros([len(self.shifts)] * 3, dtype=np.float32)
        for plane, own, course in zip(grid, self.frequency[0], self.course, strict=True):
            along, first, second = (
                np.exp(4j * np.pi * harmonic * course * np.outer(self.shifts, f)).astype(np.complex64)
                for f in (np.array([own]), self.frequency[1], self.frequency[2])
            )
            both = first @ plane @ second.T
            total += along.real[:, :, None] * both.real - along.imag[:, :, None] * both.imag
        return np.moveaxis(total, 0, self.axis)


def _check(cancelled: Callable[[], bool] | None) -> None:
    if stopped() or (cancelled is not None and cancelled()):
        raise Cancelled("the search for motion was cancelled")
