"""Poses of the lines fitted to an artifact that another method has seen.

A network that corrects slices knows nothing of poses, but what it takes off holds them: line by line it is, to first
order, the change that the line's pose makes. Each line is weighted by its own spectrum. Without that, the lowest
frequencies of a line, where the network sees least, decide (tremor of 1.5 mm: the correlation with the true poses is
.15 without and .69 with the weights; descent from no motion, which knows no network, comes to .18).
"""

from __future__ import annotations

import numpy as np
from scipy import fft
from scipy.special import expit

from BrainDiffLogic.motion.joint import Problem, symmetric
from BrainDiffLogic.motion.kspace import line_rows
from BrainDiffLogic.motion.nods import planes, ring_weights
from BrainDiffLogic.motion.sensitivity import Sensitivity

RIDGE = 0.03
"""Share of a line's own curvature that holds its pose to 0."""
SMOOTH = 0.1
"""Weight of the squared differences between neighbouring lines, as a share of the median line's curvature."""
UNITS = np.array([1, 1, 1, 0.7, 0.7, 0.7])
"""mm that a head moves on the mean when its pose changes by 1 mm or degree."""
BLEND = 1.5
"""Voxels over which one half of the head goes over into the other."""


class LineFit:
    """Even poses of the lines whose change of the still head is what was seen, in the least-squares sense.

    seen  (I, J, K) in the problem's units; the still head is taken for the scan without it
    """

    def __init__(self, problem: Problem, seen: np.ndarray) -> None:
        problem.tick()
        self.problem, self.seen = problem, seen
        lines = problem.lines
        there = Sensitivity(problem.model(np.zeros((lines, 6))), problem.scan - seen)
        scan = planes(problem, fft.fftn(problem.scan))
        weights = ring_weights(problem, {pair: scan[pair] for pair in range(lines // 2 + 1)})
        rows = line_rows(problem.scan.shape, problem.affine, problem.axis)
        self._changes = {
            pair: (weight**2 * there.changes[pair].conj(), sorted({int(rows[pair]), int(rows[-pair])}))
            for pair, weight in weights.items()
        }
        curvature = np.zeros((lines, 6, 6))
        for pair, (changes, both) in self._changes.items():
            curvature[both] = np.tensordot(changes, there.changes[pair], ((1, 2), (1, 2))).real
        each = np.einsum("naa->n", curvature) / 6
        curvature += RIDGE * each[:, None, None] * np.eye(6)
        differences = np.diff(np.eye(lines), axis=0)
        self._system = SMOOTH * float(np.median(each)) * np.kron(differences.T @ differences, np.diag(UNITS**2))
        for row, block in enumerate(curvature):
            self._system[6 * row : 6 * row + 6, 6 * row : 6 * row + 6] += block

    def poses(self, part: np.ndarray | float = 1.0) -> np.ndarray:
        """(N, 6), fitted to a part of what was seen: times ``part``, which broadcasts to (I, J, K).

        A network takes off a part of an artifact, so that these poses are too small by as much.
        """
        change = planes(self.problem, fft.fftn(self.seen * part))
        slope = np.zeros((self.problem.lines, 6))
        for pair, (changes, both) in self._changes.items():
            slope[both] = np.tensordot(changes, change[pair], 2).real
        return symmetric(np.linalg.solve(self._system, slope.ravel()).reshape(-1, 6))

    def halves_agree(self) -> float:
        """How far the poses fitted to one half of the head are correlated with those of the other, -1 to 1.

        The mean over the two axes across phase encoding. A pose is the whole head's; what a network takes off that no
        motion made is not.
        """
        scan = self.problem.scan
        agree = []
        for axis in (d for d in range(3) if d != self.problem.axis):
            mass = scan.sum(axis=tuple(d for d in range(3) if d != axis), dtype=np.float64)
            places = np.arange(scan.shape[axis])
            one = expit((places - places @ mass / mass.sum()) / BLEND).astype(np.float32)
            one = one.reshape([-1 if d == axis else 1 for d in range(3)])
            agree.append(self._likeness(self.poses(one), self.poses(1 - one)))
        return float(np.mean(agree))

    def size(self, poses: np.ndarray) -> float:
        """The root mean square of poses (N, 6) in mm that a head moves on the mean, weighted by the lines' energy."""
        return float(np.linalg.norm(self._weighted(poses)))

    def _likeness(self, a: np.ndarray, b: np.ndarray) -> float:
        """The correlation of two sets of poses (N, 6), weighted by the energy of the lines."""
        a, b = self._weighted(a), self._weighted(b)
        size = np.linalg.norm(a) * np.linalg.norm(b)
        return float(np.vdot(a, b) / size) if size else 0.0

    def _weighted(self, poses: np.ndarray) -> np.ndarray:
        return np.sqrt(self.problem.energy)[:, None] * UNITS * self.problem.centred(poses)
