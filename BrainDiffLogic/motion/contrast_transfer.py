"""Proposals for motion that is odd in the phase-encode line, from the rings it leaves in the power spectrum.

Where the lines k and -k of a still, real image are acquired in the poses +theta and -theta, the magnitude image has
the spectrum X(k) cos(2 pi k.t) to leading order, t the shift of the place that one looks at. As the contrast transfer
of an electron microscope does (Thon rings; Rohou & Grigorieff, J Struct Biol 2015;192:216, CTFFIND4), the cosine
leaves rings of low power where the phase passes pi/2, and the rings tell the shift. In windows small enough for a
rotation to be a shift, t = T + omega x r,

    E|Y(k)|^2 = S(k) cos^2(2 pi k.t) + n,   k.t = sum over shapes b of u_b(k_pe) k.(T_b + omega_b x r),

S the smooth spectrum of the still head there and n white noise. -theta makes the same rings: the sign is unknown, and
harmless, as it makes the same magnitude image. Even motion moves no power to first order and is left to others.

S is the exponential of a low polynomial in |k| and the direction of k, fitted anew for each hypothesis, so that a
still head's own anisotropy does not pass for rings; powers are heavy-tailed about it (a periodogram whose mean itself
scatters), so that a few strong lines of structured anatomy do not decide.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.optimize import minimize

from BrainDiffLogic.errors import Cancelled, InputError
from BrainDiffLogic.intensity import head_mask
from BrainDiffLogic.volume import ras_axes

WINDOW = 78.0
"""Edge of the Hann windows in mm: rotations of 3 degrees shift their halves by 1 mm against each other."""
WINDOWS = 3
"""Windows along each axis of the head, overlapping."""
HEAD = 0.15
"""A voxel above this share of the head's 99th percentile counts as head."""
FILLED = 0.2
"""A window needs this share of head in it."""
LOWEST = 0.05
"""Cycles/mm below which the spectrum is the window's and the head's outline, not texture."""
HIGHEST = 0.99
"""Of the Nyquist frequency of the coarsest axis."""
FLOOR = 0.15
"""The rings' minima reach this share of the smooth spectrum: rotation within a window, even motion, wandering."""
TAIL = 2.0
"""Power is S times exponential times a random scale with this many degrees of freedom: density
(1 + p / (TAIL S))^-(TAIL + 1), a Lomax distribution; infinite for a plain periodogram."""
RADIAL_POWERS = {0: (0.0, 1.0, 2.0), 2: (0.0,), 4: (0.0,)}
"""For each spherical harmonic degree the powers of |k| in log S, beside log |k| itself: anisotropy that does not
change with |k| is the head's, anisotropy that does is rings."""
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
LIMITS = {"ramp": 1.0, "step": 1.5, "curve": 2.2, "segments": 1.7}
"""Gain per thousand samples that still heads do not reach: 54 of 56 scans of 28 still heads (whole and stripped,
noise of 0 to 3 %, AP and SI, 3 mm) stay below all four, and the one far above, openms-07, was resampled and smoothed.
pytest Testing/Logic/test_motion_contrast_transfer.py -m slow -k still_heads"""
TURN = np.float32(4 * np.pi)
"""cos^2(2 pi a) turns with 4 pi a."""
UNCHANGED = np.ones((), dtype=np.float32)
"""The transfer of no motion."""


@dataclass(frozen=True)
class Proposal:
    """One hypothesis.

    trajectory  (N, 6) mm along and degrees about R, A, S, in the order of the phase-encode lines (row N // 2 is the
                zero frequency), odd about the middle; its negative is as likely
    gain        log likelihood over that of no motion, per thousand spectral samples
    shape       the course over the lines, "ramp", "step 0.25", "curve" or "segments ++-" (a sign each)
    """

    trajectory: np.ndarray
    gain: float
    shape: str

    @property
    def score(self) -> float:
        """The gain over what still heads reach with such a shape: above 1 there was motion of some kind."""
        return self.gain / LIMITS.get(self.shape.split()[0], max(LIMITS.values()))


class ContrastTransfer:
    """The likelihood of odd motion given the power spectrum of a magnitude image in windows.

    image   (I, J, K), its head's 99th percentile at 1
    affine  (4, 4) IJK to RAS mm
    axis    array axis of phase encoding
    centre  (3,) rotation centre, RAS mm
    noise   its standard deviation in image units, None: not above what the corners of k-space hold
    Raises InputError where no window holds enough of a head.
    """

    def __init__(
        self, image: np.ndarray, affine: np.ndarray, axis: int, centre: np.ndarray, noise: float | None = None
    ) -> None:
        self.axis, self.lines, self.affine = axis, image.shape[axis], affine
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        limit = HIGHEST / (2 * spacing.max())
        self.size, corners = _windows(image, np.round(WINDOW / spacing).astype(int))
        self.cycles = _half_space(self.size)
        k = self.cycles @ np.linalg.inv(affine[:3, :3])
        length = np.linalg.norm(k, axis=1)
        seen = (length > LOWEST) & (length < limit)
        power, corner_power, places = _powers(image, self.size, corners, self.cycles)
        self.noise_power = np.float32(corner_power.min() if noise is None else noise**2)
        self.power = power[:, seen].astype(np.float32)
        self.cycles, self.k, self.limit = self.cycles[seen], k[seen].astype(np.float32), limit
        self.places = (places @ affine[:3, :3].T + affine[:3, 3] - centre).astype(np.float64)
        axes, signs = ras_axes(affine)
        self.row = signs[list(axes).index(axis)] * self.cycles[:, axis] * self.lines + self.lines // 2
        smooth = _smooth_basis(self.k.astype(np.float64) / limit)
        self.smooth = np.linalg.qr(smooth)[0].astype(np.float32)
        self.depth = np.float32((1 - FLOOR) / 2)
        self.covariance = np.eye(self.smooth.shape[1], dtype=np.float32) * (TAIL + 2) / TAIL
        above = np.maximum(self.power - self.noise_power, 0.03 * self.power) + 1e-12
        self.still = self._fitted(np.log(above) @ self.smooth, UNCHANGED, 15)
        self.covariance = self._covariance()
        self.still = self._fitted(self.still, UNCHANGED, 8)
        self.still_value = self._value(self.still, UNCHANGED)

    @property
    def samples(self) -> int:
        """Number of spectral samples, all windows together."""
        return int(self.power.size)

    @property
    def shares(self) -> np.ndarray:
        """(windows, Q) the signal's share of the power where nothing moves."""
        signal = np.exp(self.still @ self.smooth.T)
        return signal / (signal + self.noise_power)

    @property
    def still_score(self) -> np.ndarray:
        """(windows, Q) derivative of the log likelihood of no motion with respect to the log of the signal."""
        return self._score(self.still, UNCHANGED)

    def courses(self, basis: np.ndarray) -> np.ndarray:
        """(B, Q): the basis (N, B) at the phase-encode frequency of each spectral sample of a window."""
        rows = np.arange(self.lines)
        return np.stack([np.interp(self.row, rows, column) for column in basis.T]).astype(np.float32)

    def likelihood(self, basis: np.ndarray, coefficients: np.ndarray) -> float:
        """Log likelihood of the odd trajectory basis (N, B) @ coefficients (B, 6) over that of no motion."""
        return self.gain(self.courses(basis), coefficients)[0]

    def gain(self, courses: np.ndarray, coefficients: np.ndarray, fits: int = 2) -> tuple[float, np.ndarray]:
        """``likelihood`` for ``courses(basis)`` and its gradient (B, 6).

        The smooth spectrum is refitted by ``fits`` Fisher steps; as it is (nearly) at its best, its change adds
        nothing to the gradient.
        """
        phase = self._phase(courses, coefficients)
        transfer = self._transfer(phase)
        smooth = self._fitted(self.still, transfer, fits)
        value = self._value(smooth, transfer) - self.still_value
        slope = self._score(smooth, transfer) / transfer * (-TURN * self.depth * np.sin(TURN * phase))
        gradient = np.empty((len(courses), 6))
        for b, course in enumerate(courses):
            shift = (slope * course) @ self.k
            gradient[b, :3] = shift.sum(axis=0)
            gradient[b, 3:] = np.deg2rad(np.cross(self.places, shift).sum(axis=0))
        return value, gradient

    def line_values(self, candidates: np.ndarray, basis: np.ndarray, poses: np.ndarray) -> np.ndarray:
        """(L, P) log likelihood of the windows' lines, by their distance from the middle, in the candidates (P, 6).

        The smooth spectrum is the one fitted to the odd trajectory basis (N, B) @ poses (B, 6); none given: to each
        candidate on its own.
        """
        line = np.round(np.abs(self.cycles[:, self.axis]) * self.size[self.axis]).astype(int)
        here = self._transfer(self._phase(self.courses(basis), poses)) if len(poses) else None
        values = []
        for candidate in candidates:
            transfer = self._transfer(self._phase(np.ones((1, len(line)), dtype=np.float32), candidate))
            smooth = self._fitted(self.still, transfer if here is None else here, 3)
            values.append(np.bincount(line, self._values(smooth, transfer).sum(axis=0)))
        return np.stack(values, axis=1)

    def proposal(self, trajectory: np.ndarray, value: float, shape: str) -> Proposal:
        """A proposal whose gain is the log likelihood ``value`` per thousand samples."""
        return Proposal(trajectory, 1000 * value / self.samples, shape)

    def _transfer(self, phase: np.ndarray) -> np.ndarray:
        """cos^2 and its floor."""
        return 1 - self.depth + self.depth * np.cos(TURN * phase)

    def _phase(self, courses: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        """(windows, Q) cycles: k . t."""
        total = np.zeros(self.power.shape, dtype=np.float32)
        for course, pose in zip(courses, np.asarray(coefficients).reshape(-1, 6), strict=True):
            shift = pose[:3] + np.cross(np.deg2rad(pose[3:]), self.places)
            total += (shift.astype(np.float32) @ self.k.T) * course
        return total

    def _fitted(self, smooth: np.ndarray, transfer: np.ndarray, steps: int) -> np.ndarray:
        """(windows, S) coefficients of log S after Fisher steps."""
        for _ in range(steps):
            step = self._score(smooth, transfer) @ self.smooth
            smooth = smooth + np.clip((step[:, None] @ self.covariance)[:, 0], -20, 20)
        return smooth

    def _covariance(self) -> np.ndarray:
        """(windows, S, S) inverse Fisher information of log S where nothing moves."""
        information = np.einsum("wq,qs,qt->wst", self.shares**2, self.smooth, self.smooth, optimize=True)
        information += 0.03 * np.eye(self.smooth.shape[1], dtype=np.float32)
        return np.linalg.inv(information * TAIL / (TAIL + 2)).astype(np.float32)

    def _score(self, smooth: np.ndarray, transfer: np.ndarray) -> np.ndarray:
        """(windows, Q) derivative of the log likelihood with respect to the logarithm of the signal's power."""
        signal = np.exp(smooth @ self.smooth.T) * transfer
        mean = signal + self.noise_power
        excess = self.power / mean
        score: np.ndarray = ((TAIL + 1) * excess / (TAIL + excess) - 1) * (signal / mean)
        return score

    def _value(self, smooth: np.ndarray, transfer: np.ndarray) -> float:
        return float(self._values(smooth, transfer).sum(dtype=np.float64))

    def _values(self, smooth: np.ndarray, transfer: np.ndarray) -> np.ndarray:
        """(windows, Q) log likelihoods, but for a constant."""
        mean = np.exp(smooth @ self.smooth.T) * transfer + self.noise_power
        values: np.ndarray = -np.log(mean) - (TAIL + 1) * np.log1p(self.power / (TAIL * mean))
        return values


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
    image: np.ndarray, affine: np.ndarray, axis: int, centre: np.ndarray, noise: float | None = None,
    shapes: dict[str, np.ndarray] | None = None, seed: int = 0, cancelled: Callable[[], bool] | None = None,
) -> list[Proposal]:  # fmt: skip
    """Hypotheses of odd motion, the best of each shape, highest score first; arguments as for ``ContrastTransfer``.

    shapes     (N, B) courses over the lines by name; None: ``odd_shapes``
    cancelled  asked now and then; where it answers True, Cancelled is raised
    """
    model = ContrastTransfer(image, affine, axis, centre, noise)
    shapes = odd_shapes(model.lines) if shapes is None else shapes
    found = {name: best_poses(model, basis, seed, cancelled) for name, basis in shapes.items()}
    proposals = [model.proposal(shapes[name] @ best[0][0], best[0][1], name) for name, best in found.items()]
    if "ramp" in found:
        proposals.append(curve(model, found["ramp"][0][0]))
    steps = [pose[0] for name, best in found.items() if "step" in name for pose, _ in best]
    if steps:
        _check(cancelled)
        proposals += segments(model, np.array(steps))
    return sorted(proposals, key=lambda proposal: -proposal.score)


def best_poses(
    model: ContrastTransfer, basis: np.ndarray, seed: int, cancelled: Callable[[], bool] | None = None
) -> list[tuple[np.ndarray, float]]:
    """The likeliest poses (1, 6) found for a basis (N, 1) and their gains, best first."""
    courses = model.courses(basis)
    starts = coarse_poses(model, basis[:, 0], seed)
    values = []
    for start in starts:
        _check(cancelled)
        values.append(model.gain(courses, start, fits=1)[0])
    found = []
    for start in _distinct(starts[np.argsort(values)[::-1]], REFINED):
        _check(cancelled)
        found.append(refined(model, courses, start[None]))
    return sorted(found, key=lambda one: -one[1])


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
    basis, found, value = np.zeros((model.lines, 0)), np.zeros((0, 6)), 0.0
    for _ in range(2):
        candidates = np.vstack([np.zeros(6), poses, found])
        choice = _cheapest_path(model.line_values(candidates, basis, found), SWITCH)
        new_basis, start = _segment_basis(model.lines, choice, candidates)
        if not len(start):
            break
        new, new_value = refined(model, model.courses(new_basis), start)
        if new_value <= value:
            break
        basis, found, value = new_basis, _signs_aligned(new), new_value
    proposals = []
    for signs in _sign_choices(basis, found):
        name = "segments " + "".join("-" if sign < 0 else "+" for sign in signs)
        proposals.append(model.proposal(basis @ (found * signs[:, None]), value, name))
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


def refined(
    model: ContrastTransfer, courses: np.ndarray, start: np.ndarray, iterations: int = 40
) -> tuple[np.ndarray, float]:
    """The local maximum near the coefficients ``start`` (B, 6), and its gain."""

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = model.gain(courses, flat.reshape(start.shape))
        return -value / 100, -gradient.ravel() / 100

    result = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": iterations, "ftol": 1e-5})
    return result.x.reshape(start.shape), -100 * float(result.fun)


def coarse_poses(model: ContrastTransfer, course: np.ndarray, seed: int) -> np.ndarray:
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

    rng = np.random.default_rng(seed)
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
    if cancelled is not None and cancelled():
        raise Cancelled("the search for motion was cancelled")


def _windows(image: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """Size (3,) of the windows in voxels, and their first voxels: WINDOWS along each axis over the head."""
    inside = head_mask(image)
    starts = []
    size = size.copy()
    for axis in range(3):
        held = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        first, end = (int(held[0]), int(held[-1]) + 1) if len(held) else (0, image.shape[axis])
        size[axis] = min(size[axis], end - first)
        starts.append(np.round(np.linspace(first, end - size[axis], WINDOWS)).astype(int))
    return size, [(int(a), int(b), int(c)) for a in starts[0] for b in starts[1] for c in starts[2]]


def _half_space(size: np.ndarray) -> np.ndarray:
    """(Q, 3) cycles/voxel of one of each pair +-k of a window's frequencies, without the Nyquist planes."""
    along = [np.fft.fftfreq(n) for n in size]
    cycles = np.stack(np.meshgrid(*along, indexing="ij"), axis=-1).reshape(-1, 3)
    tiny = 1e-9
    i, j, k = cycles.T
    half = (i > tiny) | ((np.abs(i) < tiny) & ((j > tiny) | ((np.abs(j) < tiny) & (k > tiny))))
    return cycles[half & (np.abs(cycles).max(axis=1) < 0.5 - tiny)]


def _powers(
    image: np.ndarray, size: np.ndarray, starts: Sequence[tuple[int, ...]], cycles: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Power (windows, Q) at ``cycles`` such that white noise has its variance, that in the corners of k-space
    (windows,), and where each window's energy lies (windows, 3) in voxels; windows with enough head only.
    """
    taper = _hann(size)
    total, energy = taper.sum(), (taper**2).sum()
    at = tuple((np.round(cycles * size).astype(int) % size).T)
    edge = np.abs(cycles).min(axis=1) > 0.35
    powers, places = [], []
    for start in starts:
        block = image[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))].astype(np.float64)
        if (taper * (block > HEAD)).sum() < FILLED * total:
            continue
        block = (block - (block * taper).sum() / total) * taper
        powers.append((np.abs(np.fft.fftn(block)) ** 2)[at] / energy)
        places.append(np.array(start) + ndimage.center_of_mass(block**2))
    if not powers:
        raise InputError("no window of the image holds enough of a head: pass a head whose 99th percentile is 1")
    power = np.array(powers)
    return power, power[:, edge].mean(axis=1), np.array(places)


def _hann(size: np.ndarray) -> np.ndarray:
    i, j, k = (np.hanning(n + 2)[1:-1] for n in size)
    window: np.ndarray = i[:, None, None] * j[None, :, None] * k[None, None, :]
    return window


def _smooth_basis(k: np.ndarray) -> np.ndarray:
    """(Q, S) even, smooth functions of k (Q, 3): harmonics of degree 0, 2, 4 times powers of |k|, and log |k|."""
    r = np.linalg.norm(k, axis=1)
    x, y, z = (k / r[:, None]).T
    harmonics = {
        0: [np.ones_like(r)],
        2: [x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1],
        4: [
            x**4 - 6 * x * x * y * y + y**4, x * y * (x * x - y * y), x * z * (x * x - 3 * y * y),
            y * z * (3 * x * x - y * y), (x * x - y * y) * (7 * z * z - 1), x * y * (7 * z * z - 1),
            x * z * (7 * z * z - 3), y * z * (7 * z * z - 3), 35 * z**4 - 30 * z * z + 3,
        ],
    }  # fmt: skip
    columns = [np.log(r)]
    for degree, powers in RADIAL_POWERS.items():
        columns += [r**power * harmonic for power in powers for harmonic in harmonics[degree]]
    return np.stack(columns, axis=1)
