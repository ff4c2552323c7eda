"""Nods: a few lines acquired while the head has turned far, about the neck, before it comes back.

Descent from no motion does not find them. But a still head tells each line by its neighbours: a pair of lines k and -k
is left out and filled in by the prior (``joint``), and what the scan has there beyond that is compared with what the
lines of a turned head hold. To first order a magnitude shows half of the line k and half of -k, mirrored, so that one
that moved looks like the other: the pose is given to one of the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import fft

from BrainDiffLogic.motion.joint import Problem, conjugate_gradients, edge_weights, moved_by, smoothed
from BrainDiffLogic.motion.kspace import line_rows
from BrainDiffLogic.motion.presets import NECK
from BrainDiffLogic.motion.sensitivity import TINY, Sensitivity
from BrainDiffLogic.motion.trajectory import rotation_matrices

PITCHES = np.concatenate([np.arange(-36.0, -5, 3), np.arange(6.0, 37, 3)])
"""Degrees that are tried; a smaller turn is left to even motion."""
SURE = 0.2
"""Likeness from which a pair of lines is taken for nodded; still heads reach .14."""
SEEN, OUTSTANDING = 0.45, 1.3
"""The same where another method saw the artifact, times how much more of the line it takes off than of the lines
beside it, and how much more that has to be: without nods .25 was reached in ten scans, next to a nodded line .36, and
farther out than ``INNER`` .55."""
INNER = 0.6
"""Share of the lines in which such nods are looked for."""
KNOWN = 0.8
"""Share of the lines that are looked at: at the ends of the band little is seen."""
ROUNDS, ITERATIONS = 2, 6
"""Weights of the prior, and steps of conjugate gradients for each, by which lines are filled in."""
EXPLAINED = 0.12
"""Share of what a pair of lines has beyond the prior that its pose explains at least: nods explain .16 to .77 of it in
14 scans (one of 5 degrees .09), the neighbour of a nodded line and one that only looked like a nod .05 and .08."""
STEPS, LARGEST_STEP = 12, 4.0
"""Of the poses of nodded lines; mm or degrees."""
RINGS, NEIGHBOURS = 24, 4
"""Distances from the middle of a line, and neighbours on either side, of which weights are made."""
EVENLY = 0.2
"""Share of plain weights in the fit of a pose: the low frequencies, which dominate them, catch from afar."""


def find_nods(problem: Problem, seen: np.ndarray | None = None) -> np.ndarray:
    """(N, 6) poses of the lines: those of the lines that are found nodded, 0 for all others.

    seen  (I, J, K) in the problem's units: what another method takes for the artifact. What it leaves stands beside
          what the prior fills in: that prior knows little of the lines beside the middle, of which the others tell
          nothing
    """
    pairs = list(range(1, int(KNOWN * problem.lines / 2)))
    scan, corrected = problem.scan, problem.scan if seen is None else problem.scan - seen
    measured = planes(problem, fft.fftn(scan))
    filled = {pair: planes(problem, fft.fftn(filled_in(problem, [pair], scan)))[pair] for pair in pairs}
    matches, weights = _matched(problem, scan, measured, filled)
    pitches = {pair: pitch for pair, (likeness, pitch) in matches.items() if likeness > SURE}
    if seen is not None:
        left = planes(problem, fft.fftn(corrected))
        matches, weights = _matched(problem, corrected, measured, {pair: left[pair] for pair in pairs})
        outstanding = _outstanding(np.array([_share(measured[pair] - left[pair], measured[pair]) for pair in pairs]))
        for pair, (likeness, pitch) in matches.items():
            sure = outstanding[pair - 1] > max(OUTSTANDING, SEEN / max(likeness, TINY))
            # what turned farther than all that are tried looks most like the last of them
            within = pair <= INNER * problem.lines / 2 and abs(pitch) < PITCHES.max()
            if sure and within:
                pitches[pair] = pitch
    return _refined(problem, {pair: about_the_neck(pitch) for pair, pitch in pitches.items()}, weights, corrected)


def _matched(
    problem: Problem, still: np.ndarray, measured: np.ndarray, filled: dict[int, np.ndarray]
) -> tuple[dict[int, tuple[float, float]], dict[int, np.ndarray]]:
    """(the largest likeness of each pair with those of a turned head and the pitch of that, the weights of all).

    still     (I, J, K), the head that is turned
    measured  (N, A, B), the lines of the scan; ``filled``: (A, B) each, as they would be without a nod
    """
    weights = ring_weights(problem, {pair: measured[pair] - line for pair, line in filled.items()})
    lines = {pair: Line(measured[pair], line, weights[pair]) for pair, line in filled.items()}
    best = dict.fromkeys(lines, (0.0, 0.0))
    for pitch in PITCHES:
        problem.tick()
        poses = np.tile(about_the_neck(pitch), (problem.lines, 1))
        turned = planes(problem, problem.model(poses).kspace(still))
        best = {pair: max(best[pair], (line.likeness(turned[pair]), float(pitch))) for pair, line in lines.items()}
    return best, weights


def _share(part: np.ndarray, line: np.ndarray) -> float:
    """Of the energy of a line (A, B)."""
    return float(np.linalg.norm(part) / (np.linalg.norm(line) + TINY)) ** 2


def _outstanding(values: np.ndarray) -> np.ndarray:
    """Each of the values (n,) over the median of its neighbours."""
    beside = [
        np.median(np.delete(values[max(0, n - NEIGHBOURS) : n + NEIGHBOURS + 1], min(n, NEIGHBOURS)))
        for n in range(len(values))
    ]
    return values / np.maximum(beside, TINY)


def about_the_neck(pitch: float) -> np.ndarray:
    """(6,) the pose of a head that nods by ``pitch`` degrees."""
    turn = np.array([pitch, 0.0, 0.0])
    return np.concatenate([NECK - rotation_matrices(turn[None])[0] @ NECK, turn])


def filled_in(problem: Problem, pairs: list[int], start: np.ndarray) -> np.ndarray:
    """The scan (I, J, K) without its lines k and -k, k in ``pairs``, which the prior fills in, from ``start``."""
    problem.tick()
    angles = 2 * np.pi * np.outer(pairs, np.arange(problem.lines)) / problem.lines
    waves = np.linalg.qr(np.concatenate([np.cos(angles), np.sin(angles)]).T)[0].astype(np.float32)
    scan, weight = problem.scan, np.float32(problem.noise**2)

    def kept(values: np.ndarray) -> np.ndarray:
        along = np.moveaxis(values, problem.axis, -1)
        return np.moveaxis(along - (along @ waves) @ waves.T, -1, problem.axis)

    image = start + kept(scan - start)
    for _ in range(ROUNDS):
        weights = edge_weights(image)

        def normal(x: np.ndarray, weights: list = weights) -> np.ndarray:
            return smoothed(x, weights, weight, kept(x))

        left = smoothed(image, weights, -weight, kept(scan - image))
        image = conjugate_gradients(normal, left, image, weights, weight, ITERATIONS)
    return image


@dataclass(frozen=True)
class Line:
    """A line of a scan as it is, and as the prior fills it in; all (A, B), complex, in FFT order.

    weights  make what its neighbours have beyond the prior equally large at all frequencies
    """

    measured: np.ndarray
    filled: np.ndarray
    weights: np.ndarray

    def likeness(self, turned: np.ndarray) -> float:
        """Correlation of what is there beyond the prior with the line ``turned`` of a turned head.

        What of either looks like the line filled in says nothing, as the prior dims. The mean of two: the plain one,
        and with the weights.
        """
        return float(np.mean([self._likeness(turned, weights) for weights in (np.float32(1), self.weights)]))

    def _likeness(self, turned: np.ndarray, weights: np.ndarray | np.float32) -> float:
        base = weights * self.filled
        base /= np.float32(np.linalg.norm(base) + TINY)
        beyond, turned = weights * (self.measured - self.filled), weights * turned
        beyond, turned = (one - base * np.float32(np.vdot(base, one).real) for one in (beyond, turned))
        return float(np.vdot(beyond, turned).real / (np.linalg.norm(beyond) * np.linalg.norm(turned) + TINY))


def planes(problem: Problem, kspace: np.ndarray) -> np.ndarray:
    """The k-space (I, J, K) by lines: (N, A, B)."""
    return np.moveaxis(kspace, problem.axis, 0)


def ring_weights(problem: Problem, beyond: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """(A, B) a pair: 1 / the root of the median power that its neighbours have beyond the prior, at each frequency."""
    spacing = np.linalg.norm(problem.affine[:3, :3], axis=0)
    first, second = (fft.fftfreq(problem.scan.shape[d], spacing[d]) for d in range(3) if d != problem.axis)
    radius = np.hypot(first[:, None], second)
    ring = np.minimum((RINGS * radius / radius.max()).astype(int), RINGS - 1)
    size = np.maximum(np.bincount(ring.ravel(), minlength=RINGS), 1)
    pairs = sorted(beyond)
    power = np.stack(
        [np.bincount(ring.ravel(), (np.abs(beyond[pair]) ** 2).ravel(), minlength=RINGS) / size for pair in pairs]
    )
    weights = {}
    for n, pair in enumerate(pairs):
        typical = np.median(power[max(0, n - NEIGHBOURS) : n + NEIGHBOURS + 1], axis=0)
        weights[pair] = (1 / np.sqrt(np.maximum(typical, TINY))).astype(np.float32)[ring]
    return weights


def _refined(
    problem: Problem, starts: dict[int, np.ndarray], weights: dict[int, np.ndarray], corrected: np.ndarray
) -> np.ndarray:
    """(N, 6) poses that explain the pairs of lines best, from a pose (6,) for each; all others still."""
    poses = np.zeros((problem.lines, 6))
    if not starts:
        return poses
    still = filled_in(problem, sorted(starts), corrected)
    measured, filled = (planes(problem, fft.fftn(image)) for image in (problem.scan, still))
    fits = {
        pair: Fit(Line(measured[pair], filled[pair], weights[pair] / weights[pair].max() + EVENLY), start)
        for pair, start in starts.items()
    }
    rows = line_rows(problem.scan.shape, problem.affine, problem.axis)
    for _ in range(STEPS):
        problem.tick()
        for pair, fit in fits.items():
            poses[rows[pair]] = fit.trial
        there = Sensitivity(problem.model(poses), still)
        turned = planes(problem, there.signal)
        for pair, fit in fits.items():
            fit.step(turned[pair], there.changes[pair])
    for pair, fit in fits.items():
        poses[rows[pair]] = fit.pose if fit.explained > EXPLAINED else 0.0
    return poses


class Fit:
    """The pose (6,) of a line, by damped Gauss-Newton steps (Levenberg and Marquardt).

    What is there beyond the prior is explained by a share of the turned line and one of the line filled in; how large
    these are is left free.
    trial  the pose to try next; ``pose`` the best one so far
    """

    def __init__(self, line: Line, start: np.ndarray) -> None:
        self.line, self.pose, self.trial = line, start, start
        self.cost, self.damping = np.inf, 0.01

    def step(self, turned: np.ndarray, changes: np.ndarray) -> None:
        """Take up ``trial``, for which the line (A, B) and its changes with the pose (6, A, B) are given, or not."""
        shares = np.stack([self._flat(turned), self._flat(self.line.filled)], axis=1)
        share, *_ = np.linalg.lstsq(shares, self._beyond, rcond=None)
        left = self._beyond - shares @ share
        if (cost := float(left @ left)) < self.cost:
            slopes = np.stack([self._flat(share[0] * change) for change in changes], axis=1)
            own = np.linalg.qr(shares)[0]
            slopes -= own @ (own.T @ slopes)
            self.pose, self.cost, self.damping = self.trial, cost, self.damping / 5
            self._curvature, self._descent = slopes.T @ slopes, slopes.T @ left
        else:
            self.damping *= 6
        damped = self._curvature + self.damping * np.diag(np.diag(self._curvature)) + TINY * np.eye(6)
        change = np.linalg.solve(damped, self._descent)
        change *= min(1.0, LARGEST_STEP / max(np.abs(change).max(), TINY))
        self.trial = moved_by(self.pose[None], change[None])[0]

    @property
    def explained(self) -> float:
        """The share of what is there beyond the prior, and is not the line filled in, that ``pose`` explains."""
        own = self._flat(self.line.filled)
        left = self._beyond - own * (float(own @ self._beyond) / max(float(own @ own), TINY))
        return 1 - self.cost / max(float(left @ left), TINY)

    @cached_property
    def _beyond(self) -> np.ndarray:
        return self._flat(self.line.measured - self.line.filled)

    def _flat(self, values: np.ndarray) -> np.ndarray:
        weighted = (values * self.line.weights).ravel()
        return np.concatenate([weighted.real, weighted.imag]).astype(np.float64)
