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

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.optimize import minimize

from BrainDiffLogic.errors import Cancelled
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
RADIAL_POWERS = {0: (0.0, 1.0, 2.0), 2: (0.0, 1.0), 4: (0.0,)}
"""For each spherical harmonic degree the powers of |k| in log S, beside log |k| itself."""
REACH = 7.0
"""Largest local shift in mm that the coarse search looks at."""
SAMPLES = 50_000
"""Poses whose coarse likelihood is looked up."""
STARTS = 60
"""Best of those whose likelihood is computed, and
``REFINED`` the number of the best of these that are refined."""
REFINED = 4
LIMIT = 5.0
"""Gain per thousand samples above which a proposal is more than what still heads show; provisional."""

UNCHANGED = np.ones((), dtype=np.float32)
"""The transfer of no motion."""


@dataclass(frozen=True)
class Proposal:
    """One hypothesis.

    trajectory  (N, 6) mm along and degrees about R, A, S, in the order of the phase-encode lines (row N // 2 is the
                zero frequency), odd about the middle; its negative is as likely
    gain        log likelihood over that of no motion, per thousand spectral samples
    shape       the course over the lines
    """

    trajectory: np.ndarray
    gain: float
    shape: str


class ContrastTransfer:
    """The likelihood of odd motion given the power spectrum of a magnitude image in windows.

    image   (I, J, K), its head's 99th percentile at 1
    affine  (4, 4) IJK to RAS mm
    axis    array axis of phase encoding
    centre  (3,) rotation centre, RAS mm
    noise   its standard deviation in image units, None: not above what the corners of k-space hold
    """

    def __init__(
        self, image: np.ndarray, affine: np.ndarray, axis: int, centre: np.ndarray, noise: float | None = None,
        *, window: float = WINDOW, windows: int = WINDOWS, floor: float = FLOOR, tail: float = TAIL,
        lowest: float = LOWEST, highest: float | None = None, radial: dict[int, tuple[float, ...]] | None = None,
    ) -> None:  # fmt: skip
        self.axis, self.lines, self.tail, self.affine = axis, image.shape[axis], tail, affine
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        limit = HIGHEST / (2 * spacing.max()) if highest is None else highest
        self.size, corners = _windows(image, np.round(window / spacing).astype(int), windows)
        self.cycles = _half_space(self.size)
        k = self.cycles @ np.linalg.inv(affine[:3, :3])
        length = np.linalg.norm(k, axis=1)
        seen = (length > lowest) & (length < limit)
        power, corner_power, places = _powers(image, self.size, corners, self.cycles)
        noise_power = float(corner_power.min()) if noise is None else noise**2
        self.power = power[:, seen].astype(np.float32)
        self.cycles, self.k, self.limit = self.cycles[seen], k[seen].astype(np.float32), limit
        self.places = (places @ affine[:3, :3].T + affine[:3, 3] - centre).astype(np.float64)
        axes, signs = ras_axes(affine)
        self.row = signs[list(axes).index(axis)] * self.cycles[:, axis] * self.lines + self.lines // 2
        smooth = _smooth_basis(self.k.astype(np.float64) / limit, RADIAL_POWERS if radial is None else radial)
        self.smooth = np.linalg.qr(smooth)[0].astype(np.float32)
        still = self._fitted(np.log(self.power + 1e-12) @ self.smooth, UNCHANGED, 15)
        share = np.clip(1 - noise_power / np.exp(still @ self.smooth.T), 0, 1)
        self.half_depth = (0.5 * (1 - floor) * 2 * share / (1 + share)).astype(np.float32)
        self.still = self._fitted(still, UNCHANGED, 5)
        self.still_value = self._value(self.still, UNCHANGED)

    @property
    def samples(self) -> int:
        """Number of spectral samples, all windows together."""
        return int(self.power.size)

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
        turn = np.float32(4 * np.pi)
        angle = turn * self._phase(courses, coefficients)
        transfer = 1 - self.half_depth + self.half_depth * np.cos(angle)
        smooth = self._fitted(self.still, transfer, fits)
        value = self._value(smooth, transfer) - self.still_value
        slope = self._score(smooth, transfer) / transfer * (-turn * self.half_depth * np.sin(angle))
        gradient = np.empty((len(courses), 6))
        for b, course in enumerate(courses):
            shift = (slope * course) @ self.k
            gradient[b, :3] = shift.sum(axis=0)
            gradient[b, 3:] = np.deg2rad(np.cross(self.places, shift).sum(axis=0))
        return value, gradient

    def _phase(self, courses: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        """(windows, Q) cycles: k . t."""
        total = np.zeros(self.power.shape, dtype=np.float32)
        for course, pose in zip(courses, np.asarray(coefficients).reshape(-1, 6), strict=True):
            shift = pose[:3] + np.cross(np.deg2rad(pose[3:]), self.places)
            total += (shift.astype(np.float32) @ self.k.T) * course
        return total

    def _fitted(self, smooth: np.ndarray, transfer: np.ndarray, steps: int) -> np.ndarray:
        """(windows, S) coefficients of log S after Fisher steps."""
        information = self.tail / (self.tail + 2)
        for _ in range(steps):
            smooth = smooth + np.clip(self._score(smooth, transfer) @ self.smooth / information, -20, 20)
        return smooth

    def _score(self, smooth: np.ndarray, transfer: np.ndarray) -> np.ndarray:
        """(windows, Q) derivative of the log likelihood with respect to log power."""
        excess = self.power / (np.exp(smooth @ self.smooth.T) * transfer)
        score: np.ndarray = (self.tail + 1) * excess / (self.tail + excess) - 1
        return score

    def _value(self, smooth: np.ndarray, transfer: np.ndarray) -> float:
        log_mean = smooth @ self.smooth.T + np.log(transfer)
        excess = self.power * np.exp(-log_mean)
        return -float((log_mean + (self.tail + 1) * np.log1p(excess / self.tail)).sum(dtype=np.float64))


def odd_shapes(lines: int) -> dict[str, np.ndarray]:
    """(N, 1) courses over the lines, odd about row N // 2: a ramp, and steps at some distance from the middle."""
    k = (np.arange(lines) - lines // 2) / (lines / 2)
    shapes = {"ramp": k}
    for start in (0.0, 0.2, 0.4):
        shapes[f"step {start:g}"] = np.sign(k) * (np.abs(k) >= start)
    shapes["middle 0.3"] = np.sign(k) * (np.abs(k) < 0.3)
    return {name: course[:, None] for name, course in shapes.items()}


def propose(
    image: np.ndarray, affine: np.ndarray, axis: int, centre: np.ndarray, noise: float | None = None,
    shapes: dict[str, np.ndarray] | None = None, seed: int = 0, cancelled: Callable[[], bool] | None = None,
) -> list[Proposal]:  # fmt: skip
    """Hypotheses of odd motion, the best of each shape, best first; arguments as for ``ContrastTransfer``.

    shapes     (N, B) courses over the lines by name; None: ``odd_shapes``
    cancelled  asked now and then; where it answers True, Cancelled is raised
    """
    model = ContrastTransfer(image, affine, axis, centre, noise)
    found = []
    for name, basis in (odd_shapes(model.lines) if shapes is None else shapes).items():
        pose, value = best_pose(model, basis, seed, cancelled)
        found.append(Proposal(basis @ pose, 1000 * value / model.samples, name))
    return sorted(found, key=lambda proposal: -proposal.gain)


def best_pose(
    model: ContrastTransfer, basis: np.ndarray, seed: int, cancelled: Callable[[], bool] | None
) -> tuple[np.ndarray, float]:
    """The most likely pose (1, 6) for a basis (N, 1), and its gain."""
    courses = model.courses(basis)
    starts = coarse_poses(model, basis[:, 0], seed)
    values = []
    for start in starts:
        _check(cancelled)
        values.append(model.gain(courses, start, fits=1)[0])
    best = (np.zeros((1, 6)), 0.0)
    for start in starts[np.argsort(values)[::-1][:REFINED]]:
        _check(cancelled)
        found = refined(model, courses, start[None])
        best = max(best, found, key=lambda one: one[1])
    return best


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
    rng = np.random.default_rng(seed)
    poses = rng.normal(size=(SAMPLES, 6))
    poses *= rng.uniform(0.5, 6, (SAMPLES, 1)) / np.linalg.norm(poses, axis=1, keepdims=True)
    to_voxels = np.linalg.inv(model.affine[:3, :3])
    total = np.zeros(SAMPLES)
    middle = (np.array(maps.shape[1:]) - 1) / 2
    for values, place in zip(maps, model.places, strict=True):
        shifts = poses[:, :3] + np.cross(np.deg2rad(poses[:, 3:]), place)
        at = (shifts @ to_voxels.T / step + middle).T
        total += ndimage.map_coordinates(values, at, order=1, mode="nearest")
    return poses[np.argsort(total)[::-1][:STARTS]]


def coarse_maps(model: ContrastTransfer, course: np.ndarray) -> tuple[np.ndarray, float]:
    """(windows, A, B, C) approximate gains over local shifts of -REACH to REACH along I, J, K; their step in voxels."""
    depth = 0.7
    information = model.tail / (model.tail + 2)
    spacing = float(np.linalg.norm(model.affine[:3, :3], axis=0).max())
    step = 0.08 / model.limit / spacing
    count = 2 * int(np.ceil(REACH / spacing / step)) + 1
    to_maps = _ShiftTransform(model, course, step, count)
    weights = 2 * depth * model.half_depth / (1 - model.half_depth)
    weights = weights.mean(axis=0)
    energy = 0.5 * ((weights**2).sum() + to_maps(weights**2, harmonic=2))
    for column in model.smooth.T:
        energy -= to_maps(weights * column) ** 2
    score = model._score(model.still, UNCHANGED)
    maps = np.stack([to_maps(weights * one) - 0.5 * information * energy for one in score])
    return maps, step


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


def _windows(image: np.ndarray, size: np.ndarray, count: int) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """Size (3,) of the windows in voxels, and their first voxels: ``count`` along each axis over the head."""
    inside = image > HEAD
    starts = []
    size = size.copy()
    for axis in range(3):
        held = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        first, end = (int(held[0]), int(held[-1]) + 1) if len(held) else (0, image.shape[axis])
        size[axis] = min(size[axis], end - first)
        starts.append(np.round(np.linspace(first, end - size[axis], count)).astype(int))
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
    power = np.array(powers)
    return power, power[:, edge].mean(axis=1), np.array(places)


def _hann(size: np.ndarray) -> np.ndarray:
    i, j, k = (np.hanning(n + 2)[1:-1] for n in size)
    window: np.ndarray = i[:, None, None] * j[None, :, None] * k[None, None, :]
    return window


def _smooth_basis(k: np.ndarray, radial: dict[int, tuple[float, ...]]) -> np.ndarray:
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
    for degree, powers in radial.items():
        columns += [r**power * harmonic for power in powers for harmonic in harmonics[degree]]
    return np.stack(columns, axis=1)
