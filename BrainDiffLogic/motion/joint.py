"""Poses and still head found together from a magnitude scan: maximum a posteriori under sparse gradients.

    F(poses, x) = |m (|A(poses) x| - y)|^2 + sd^2 sum log(1 + (grad x / EDGE)^2)

y is the scan, x >= 0 the still head, A the exact model (``kspace``), m 1 where the scan was seen (0 outside of a
mask that was laid on it after it was scanned). Gradients of heads are heavy-tailed; the logarithm is minimised by
iteratively reweighted least squares (Green 1984), poses and image by one Gauss-Newton step in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg

from BrainDiffLogic.motion import rigid
from BrainDiffLogic.motion.kspace import Acquisition, image_of, spectrum_of
from BrainDiffLogic.motion.sensitivity import TINY, Sensitivity
from BrainDiffLogic.motion.trajectory import Trajectory

EDGE = 0.02
"""A gradient a voxel below this share of the head's 99th percentile is noise, above it an edge."""
FLOOR_NOISE = 0.012
"""What the model leaves unexplained at least, as a share of the head's 99th percentile."""
ACCURACY = 1e-3


def gradients(image: np.ndarray) -> list[np.ndarray]:
    """Forward differences of (I, J, K) along its axes, 0 at the far ends: a neck that is cut is no edge."""
    parts = []
    for axis in range(3):
        part = np.zeros_like(image)
        ahead, here = _ends(axis)
        np.subtract(image[ahead], image[here], out=part[here])
        parts.append(part)
    return parts


def gradients_adjoint(parts: list[np.ndarray]) -> np.ndarray:
    """The adjoint of ``gradients``."""
    total = np.zeros_like(parts[0])
    for axis, part in enumerate(parts):
        ahead, here = _ends(axis)
        total[ahead] += part[here]
        total[here] -= part[here]
    return total


def _ends(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """All but the first, and all but the last voxels along an axis."""
    ahead, here = ([slice(None)] * 3 for _ in range(2))
    ahead[axis], here[axis] = slice(1, None), slice(None, -1)
    return tuple(ahead), tuple(here)


def edge_weights(image: np.ndarray) -> list[np.ndarray]:
    """1 / (grad^2 + EDGE^2): the weights with which the penalty's majoriser at ``image`` is quadratic."""
    return [1 / (part**2 + np.float32(EDGE**2)) for part in gradients(image)]


@dataclass
class Problem:
    """A scan to explain, on one grid.

    scan    (I, J, K) float32, the head's 99th percentile at 1
    affine  (4, 4) IJK to RAS mm; axis: the array axis of phase encoding; centre (3,) RAS mm of rotation
    noise   standard deviation that is left unexplained
    seen    (I, J, K) float32, 1 where the scan was seen, 0 where a mask was laid on it; None: everywhere
    tick    called before each solution; may raise to stop
    energy  (N,) made here: each line's share of the image's gradient energy
    """

    scan: np.ndarray
    affine: np.ndarray
    axis: int
    centre: np.ndarray
    noise: float = FLOOR_NOISE
    seen: np.ndarray | None = None
    tick: Callable[[], None] = lambda: None
    energy: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        still = self.model(np.zeros((self.lines, 6)))
        sensitivity = Sensitivity(still, self.scan)
        energy = np.einsum("naa->n", sensitivity.blocks[:, :3, :3])
        self.energy = energy / energy.sum()

    @property
    def lines(self) -> int:
        """The number of phase-encode lines."""
        return int(self.scan.shape[self.axis])

    def model(self, poses: np.ndarray) -> Acquisition:
        """The acquisition in poses (N, 6): mm, degrees about R, A, S in the order of ``rigid``."""
        trajectory = Trajectory(poses[:, :3], poses[:, 3:])
        return Acquisition(self.scan.shape, self.affine, trajectory, self.axis, self.centre, ACCURACY)

    def masked(self, image: np.ndarray) -> np.ndarray:
        """The image where the scan was seen, 0 elsewhere."""
        return image if self.seen is None else image * self.seen

    def penalty(self, image: np.ndarray) -> float:
        """The prior's part of F."""
        size = sum(float(np.log1p((part / EDGE) ** 2).sum(dtype=np.float64)) for part in gradients(image))
        return self.noise**2 * size

    def cost(self, poses: np.ndarray, image: np.ndarray, model: Acquisition | None = None) -> float:
        """F at poses (N, 6) and a still head (I, J, K)."""
        moved = np.abs(image_of((model or self.model(poses)).kspace(image)))
        return float((self.masked(moved - self.scan).astype(np.float64) ** 2).sum()) + self.penalty(image)

    def centred(self, poses: np.ndarray) -> np.ndarray:
        """The poses without their mean, weighted by the energy of the lines: the gauge is fixed where the scan lies."""
        return poses - self.energy @ poses

    def solve(
        self, poses: np.ndarray, start: np.ndarray | None = None, rounds: int = 1, iterations: int = 4,
        model: Acquisition | None = None,
    ) -> np.ndarray:  # fmt: skip
        """The still head x >= 0 at fixed poses: phase and weights from the last image, then conjugate gradients."""
        self.tick()
        model = model or self.model(poses)
        image = self.scan if start is None else start
        weight = self.noise**2
        for _ in range(rounds):
            moved = image_of(model.kspace(image))
            phase = moved / np.maximum(np.abs(moved), TINY)
            weights = edge_weights(image)

            def back(values: np.ndarray, phase: np.ndarray = phase) -> np.ndarray:
                kept: np.ndarray = model.adjoint(spectrum_of(phase * self.masked(values))).real
                return kept

            def normal(flat: np.ndarray, phase: np.ndarray = phase, weights: list = weights) -> np.ndarray:
                x = flat.reshape(self.scan.shape).astype(np.float32)
                seen = back((np.conj(phase) * image_of(model.kspace(x))).real)
                return (seen + weight * smoothed(x, weights)).ravel()

            scale = np.asarray(1 + 2 * weight * sum(weights)).ravel()
            wanted = back(self.scan)
            image = _conjugate_gradients(normal, wanted, image, scale, iterations)
            image = self.masked(np.maximum(image, 0))
        return image


def smoothed(image: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """The prior's curvature, with ``edge_weights``, times an image (I, J, K)."""
    return gradients_adjoint([w * part for w, part in zip(weights, gradients(image), strict=True)])


def _conjugate_gradients(normal, wanted, start, scale, iterations) -> np.ndarray:  # type: ignore[no-untyped-def]
    size = wanted.size
    operator = LinearOperator((size, size), matvec=normal, dtype=np.float32)
    preconditioner = LinearOperator((size, size), matvec=lambda v: v / scale, dtype=np.float32)
    found, _ = cg(operator, wanted.ravel(), x0=start.ravel(), M=preconditioner, maxiter=iterations, rtol=1e-4)
    solution: np.ndarray = found.reshape(wanted.shape).astype(np.float32)
    return solution


@dataclass(frozen=True)
class Smoothness:
    """The prior of poses over time.

    step   weight of the squared differences between neighbours; size: of the squared poses; both against the median
           line's curvature. jump: differences far above it (mm, degrees) are taken for sudden steps and count little
    """

    step: float = 0.01
    size: float = 2e-4
    jump: float = 0.0

    def apply(self, poses: np.ndarray, around: np.ndarray) -> np.ndarray:
        """The gradient's linear part on poses (N, 6), with the jumps of the poses ``around`` which they lie."""
        difference = np.diff(poses, axis=0)
        if self.jump:
            size = np.linalg.norm(np.diff(around, axis=0), axis=1)
            difference = difference / (1 + (size / self.jump) ** 2)[:, None]
        total = np.zeros_like(poses)
        total[:-1] -= difference
        total[1:] += difference
        return self.step * total + self.size * poses


SMOOTH = Smoothness()


def mirror(lines: int) -> np.ndarray:
    """(N,) for the row of each line k that of -k; the rows of k = 0 and of the highest frequency are their own."""
    return (2 * (lines // 2) - np.arange(lines)) % lines


def symmetric(poses: np.ndarray) -> np.ndarray:
    """(pose of k + pose of -k) / 2: what acts on a magnitude to first order."""
    return 0.5 * (poses + poses[mirror(len(poses))])


def moved_by(poses: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Poses (N, 6) followed by small ones (N, 6; rotation vectors in degrees)."""
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_rotvec(change[:, 3:], degrees=True)
    turned = turn * Rotation.from_euler(rigid.EULER_ORDER, poses[:, 3:], degrees=True)
    return np.concatenate([poses[:, :3] + change[:, :3], turned.as_euler(rigid.EULER_ORDER, degrees=True)], axis=1)


def descend(
    problem: Problem, poses: np.ndarray, image: np.ndarray, steps: int, *, only_symmetric: bool = False,
    smoothness: Smoothness = SMOOTH, over: float = 2.0, most: float = 6.0, inner: int = 20, tol: float = 1e-4,
) -> tuple[np.ndarray, np.ndarray, float]:  # fmt: skip
    """Gauss-Newton steps in poses (N, 6) and image, kept where F falls; (poses, image, F).

    over, most  how many times the step is taken, and the most while F falls: even motion bears over-relaxing,
                odd motion, which curves F beyond Gauss and Newton, wants less than 1
    inner       steps of conjugate gradients for each; tol: two steps in which F falls by a smaller share end the
    descent
    """
    cost, sensitivity, failures, slow = problem.cost(poses, image), None, 0, 0
    for _ in range(steps):
        if sensitivity is None:
            sensitivity = Sensitivity(problem.model(poses), image)
            change, delta = _joint_step(problem, sensitivity, poses, image, smoothness, only_symmetric, inner)
        trial = moved_by(poses, over * change)
        if only_symmetric:
            trial = symmetric(trial)
        trial = problem.centred(trial)
        model = problem.model(trial)
        solved = problem.solve(trial, np.maximum(image + delta, 0), 1, 3, model)
        found = problem.cost(trial, solved, model)
        if found < cost:
            slow = slow + 1 if cost - found < tol * cost else 0
            poses, image, cost, sensitivity, failures = trial, solved, found, None, 0
            over = min(1.4 * over, most)
            if slow == 2:
                break
        else:
            failures, over = failures + 1, max(over / 3, 0.5)
            if failures == 3:
                break
    return poses, image, cost


def _joint_step(
    problem: Problem, sensitivity: Sensitivity, poses: np.ndarray, image: np.ndarray, smoothness: Smoothness,
    only_symmetric: bool, iterations: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(change of the poses, change of the image): the Gauss-Newton step, A taken for 1 on the image's change."""
    misfit = problem.masked(problem.scan - sensitivity.magnitude)
    weights, weight = edge_weights(image), np.float32(problem.noise**2)
    blocks = sensitivity.blocks
    scale = float(np.median(np.einsum("naa->n", blocks))) / 6
    project = symmetric if only_symmetric else (lambda p: p)
    inverse = np.linalg.inv(0.3 * blocks + scale * (2 * smoothness.step + smoothness.size + 1e-4) * np.eye(6))
    if only_symmetric:
        inverse = 0.5 * (inverse + inverse[mirror(len(poses))])
    size, shape, lines = image.size, image.shape, len(poses)
    diagonal = 1 + 2 * weight * sum(weights)

    def split(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return flat[:size].reshape(shape).astype(np.float32), project(flat[size:].reshape(lines, 6))

    def join(part: np.ndarray, change: np.ndarray) -> np.ndarray:
        return np.concatenate([part.ravel(), project(change).ravel()])

    def normal(flat: np.ndarray) -> np.ndarray:
        part, change = split(flat)
        error = problem.masked(sensitivity.forward(change) + part)
        prior = scale * smoothness.apply(change, poses)
        return join(error + weight * smoothed(part, weights), sensitivity.adjoint(error) + prior)

    def precondition(flat: np.ndarray) -> np.ndarray:
        part, change = split(flat)
        return join(part / diagonal, np.einsum("nab,nb->na", inverse, change))

    prior = scale * smoothness.apply(poses, poses)
    wanted = join(misfit - weight * smoothed(image, weights), sensitivity.adjoint(misfit) - prior)
    total = size + 6 * lines
    found, _ = cg(
        LinearOperator((total, total), matvec=normal, dtype=np.float64), wanted, maxiter=iterations, rtol=1e-3,
        M=LinearOperator((total, total), matvec=precondition, dtype=np.float64),
    )  # fmt: skip
    part, change = split(found)
    return change, part

