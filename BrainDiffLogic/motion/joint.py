"""Poses and still head found together from a magnitude scan: maximum a posteriori under sparse gradients.

    F(poses, x) = |m (|A(poses) x| - y)|^2 + sd^2 sum log(1 + (grad x / EDGE)^2)

y is the scan, x >= 0 the still head, A the exact model (``kspace``), m 1 where the scan was seen (0 outside of a
mask that was laid on it after it was scanned). Gradients of heads are heavy-tailed; the logarithm is minimised by
iteratively reweighted least squares (Green 1984), poses and image by one Gauss-Newton step in both.

How well poses explain the scan, the still head integrated out, says the Laplace approximation of the evidence:

    G(poses) = min_x F(poses, x) + sd^2 log det(B^T B + sd^2 Q),   B = Re(conj(phase) A)

Q is the curvature of the prior at a fixed image. F alone rewards poses under which much of the head is left free; the
determinant pays for that (MacKay 1992). It is found by Lanczos quadrature (Ubaru, Chen and Saad 2017) with one random
vector, the same for all poses, so that differences between poses hardly depend on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg
from scipy.spatial.transform import Rotation

from BrainDiffLogic.motion.kspace import Acquisition, image_of, spectrum_of
from BrainDiffLogic.motion.lanes import in_slabs
from BrainDiffLogic.motion.sensitivity import TINY, Sensitivity, polar
from BrainDiffLogic.motion.trajectory import EULER_ORDER, Trajectory

EDGE = 0.02
"""A gradient a voxel below this share of the head's 99th percentile is noise, above it an edge."""
FLOOR_NOISE = 0.012
"""What the model leaves unexplained at least, as a share of the head's 99th percentile."""
ACCURACY = 1e-3
LEFT = 1e-4
"""Share of the image below which the misfit ends conjugate gradients."""
SLOW, JOINT_ITERATIONS = 1e-4, 20
"""Of ``descend``: share of F that a step takes away at least, and steps of conjugate gradients for each."""


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
    weights = [np.empty_like(image) for _ in range(3)]

    def fill(slab: slice) -> None:
        for weight, part in zip(weights, gradients(image[slab.start : slab.stop + 1]), strict=True):
            weight[slab] = 1 / (part[: slab.stop - slab.start] ** 2 + np.float32(EDGE**2))

    in_slabs(fill, image.shape)
    return weights


@dataclass
class Problem:
    """A scan to explain, on one grid.

    scan    (I, J, K) float32, the head's 99th percentile at 1
    affine  (4, 4) IJK to RAS mm; axis: the array axis of phase encoding; centre (3,) RAS mm of rotation
    noise   standard deviation that is left unexplained
    seen    (I, J, K) float32, 1 where the scan was seen, 0 where a mask was laid on it; None: everywhere
    tick    called before each solution; may raise to stop
    """

    scan: np.ndarray
    affine: np.ndarray
    axis: int
    centre: np.ndarray
    noise: float = FLOOR_NOISE
    seen: np.ndarray | None = None
    tick: Callable[[], None] = lambda: None

    @cached_property
    def energy(self) -> np.ndarray:
        """(N,): each line's share of the image's gradient energy."""
        sensitivity = Sensitivity(self.model(np.zeros((self.lines, 6))), self.scan)
        energy = np.einsum("naa->n", sensitivity.blocks[:, :3, :3])
        return energy / energy.sum()

    @property
    def lines(self) -> int:
        """The number of phase-encode lines."""
        return int(self.scan.shape[self.axis])

    def model(self, poses: np.ndarray) -> Acquisition:
        """The acquisition in poses (N, 6): mm, degrees about R, A, S in the order of ``rigid``."""
        return Acquisition(self.scan.shape, self.affine, Trajectory.of_rows(poses), self.axis, self.centre, ACCURACY)

    def masked(self, image: np.ndarray) -> np.ndarray:
        """The image where the scan was seen, 0 elsewhere."""
        return image if self.seen is None else image * self.seen

    def penalty(self, image: np.ndarray) -> float:
        """The prior's part of F."""

        def size(slab: slice) -> float:
            parts = gradients(image[slab.start : slab.stop + 1])
            return sum(float(np.log1p((p[: slab.stop - slab.start] / EDGE) ** 2).sum(dtype=np.float64)) for p in parts)

        return self.noise**2 * sum(in_slabs(size, image.shape))

    def cost(self, image: np.ndarray, signal: np.ndarray) -> float:
        """F at a still head (I, J, K) and the k-space that it has under the poses."""
        misfit = self.masked(np.abs(image_of(signal)) - self.scan).astype(np.float64)
        return float((misfit**2).sum()) + self.penalty(image)

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
        image = np.array(self.scan if start is None else start)
        weight = np.float32(self.noise**2)
        for _ in range(rounds):
            magnitude, phase = polar(image_of(model.kspace(image), True))
            weights = edge_weights(image)

            def back(values: np.ndarray, phase: np.ndarray = phase) -> np.ndarray:
                kept: np.ndarray = model.adjoint(spectrum_of(product(phase, self.masked(values)), True))
                return kept.real

            def normal(x: np.ndarray, phase: np.ndarray = phase, weights: list = weights) -> np.ndarray:
                seen = back(projected(phase, image_of(model.kspace(x), True)))
                return smoothed(x, weights, weight, seen)

            # |A x| is what the linear model gives at the last image, so that its misfit needs no transform of its own
            left = smoothed(image, weights, -weight, back(self.scan - magnitude))
            del magnitude
            image = conjugate_gradients(normal, left, image, weights, weight, iterations)
            image = self.masked(np.maximum(image, 0, out=image))
        return image


def product(phase: np.ndarray, values: np.ndarray) -> np.ndarray:
    """phase * values (I, J, K), complex."""
    result = np.empty_like(phase)
    in_slabs(lambda slab: np.multiply(phase[slab], values[slab], out=result[slab]), phase.shape)
    return result


def projected(phase: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Re(conj(phase) moved), (I, J, K) real."""
    result = np.empty(phase.shape, phase.real.dtype)

    def part(slab: slice) -> None:
        result[slab] = (np.conj(phase[slab]) * moved[slab]).real

    in_slabs(part, phase.shape)
    return result


def smoothed(image: np.ndarray, weights: list[np.ndarray], factor: np.float32, onto: np.ndarray) -> np.ndarray:
    """``onto`` + ``factor`` times the prior's curvature, with ``edge_weights``, times an image (I, J, K) float32."""
    result = np.empty_like(image)

    def part(slab: slice) -> None:
        first = max(slab.start - 1, 0)
        wide, own = slice(first, slab.stop + 1), slice(slab.start - first, slab.stop - first)
        parts = [w[wide] * part for w, part in zip(weights, gradients(image[wide]), strict=True)]
        result[slab] = onto[slab] + factor * gradients_adjoint(parts)[own]

    in_slabs(part, image.shape)
    return result


def conjugate_gradients(
    normal: Callable[[np.ndarray], np.ndarray], left: np.ndarray, x: np.ndarray, weights: list[np.ndarray],
    weight: np.float32, iterations: int,
) -> np.ndarray:  # fmt: skip
    """``x`` (I, J, K) float32 after ``iterations`` steps, in place, preconditioned by the diagonal of the prior.

    normal  the operator
    left    what the operator leaves of the right side at ``x``; used up
    weights, weight  ``edge_weights``, and the noise's variance
    """
    r, p = left, np.zeros_like(left)
    least, last = LEFT**2 * _dot(x, x), 0.0

    def conditioned(slab: slice) -> np.ndarray:
        return r[slab] / (1 + 2 * weight * (weights[0][slab] + weights[1][slab] + weights[2][slab]))

    for _ in range(iterations):
        if _dot(r, r) < least:
            break
        rho = sum(in_slabs(lambda slab: _dot_of(r[slab], conditioned(slab)), x.shape))
        beta = np.float32(rho / last if last else 0.0)

        def turn(slab: slice, beta: np.float32 = beta) -> None:
            p[slab] = conditioned(slab) + beta * p[slab]

        in_slabs(turn, x.shape)
        q = normal(p)
        alpha = np.float32(rho / _dot(p, q))

        def go(slab: slice, alpha: np.float32 = alpha, q: np.ndarray = q) -> None:
            x[slab] += alpha * p[slab]
            r[slab] -= alpha * q[slab]

        in_slabs(go, x.shape)
        last = rho
    return x


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    """The sum of a * b (I, J, K) in float64, the same on any number of threads."""
    return sum(in_slabs(lambda slab: _dot_of(a[slab], b[slab]), a.shape))


def _dot_of(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum(dtype=np.float64))


STEP_WEIGHT, SIZE_WEIGHT = 0.01, 2e-4
"""Of the prior of poses over time: of the squared differences between neighbours and of the squared poses, both against
the median line's curvature."""


def pose_prior(poses: np.ndarray) -> np.ndarray:
    """The gradient of the prior of poses (N, 6) over time."""
    difference = np.diff(poses, axis=0)
    total = np.zeros_like(poses)
    total[:-1] -= difference
    total[1:] += difference
    return STEP_WEIGHT * total + SIZE_WEIGHT * poses


def mirror(lines: int) -> np.ndarray:
    """(N,) for the row of each line k that of -k; the rows of k = 0 and of the highest frequency are their own."""
    return (2 * (lines // 2) - np.arange(lines)) % lines


def symmetric(poses: np.ndarray) -> np.ndarray:
    """(pose of k + pose of -k) / 2: what acts on a magnitude to first order."""
    return 0.5 * (poses + poses[mirror(len(poses))])


def moved_by(poses: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Poses (N, 6) followed by small ones (N, 6; rotation vectors in degrees)."""
    turn = Rotation.from_rotvec(change[:, 3:], degrees=True)
    turned = turn * Rotation.from_euler(EULER_ORDER, poses[:, 3:], degrees=True)
    return np.concatenate([poses[:, :3] + change[:, :3], turned.as_euler(EULER_ORDER, degrees=True)], axis=1)


def descend(
    problem: Problem, poses: np.ndarray, image: np.ndarray, steps: int, *, only_symmetric: bool = False,
    over: float = 2.0, most: float = 6.0,
) -> tuple[np.ndarray, np.ndarray, float]:  # fmt: skip
    """Gauss-Newton steps in poses (N, 6) and image, kept where F falls; (poses, image, F).

    over, most  how many times the step is taken, and the most while F falls: even motion bears over-relaxing,
                odd motion, which curves F beyond Gauss and Newton, wants less than 1
    Two steps in which F falls by a share below ``SLOW`` end the descent.
    """
    model = problem.model(poses)
    signal = model.kspace(image)
    cost, sensitivity, failures, slow = problem.cost(image, signal), None, 0, 0
    for _ in range(steps):
        if sensitivity is None:
            sensitivity = Sensitivity(model, image, signal)
            change, delta = _joint_step(problem, sensitivity, poses, image, only_symmetric)
        trial = moved_by(poses, over * change)
        if only_symmetric:
            trial = symmetric(trial)
        trial = problem.centred(trial)
        trial_model = problem.model(trial)
        solved = problem.solve(trial, np.maximum(image + delta, 0), 1, 3, trial_model)
        trial_signal = trial_model.kspace(solved)
        trial_cost = problem.cost(solved, trial_signal)
        if trial_cost < cost:
            slow = slow + 1 if cost - trial_cost < SLOW * cost else 0
            model, signal = trial_model, trial_signal
            poses, image, cost, sensitivity, failures = trial, solved, trial_cost, None, 0
            over = min(1.4 * over, most)
            if slow == 2:
                break
        else:
            failures, over = failures + 1, max(over / 3, 0.5)
            if failures == 3:
                break
    return poses, image, cost


def _joint_step(
    problem: Problem, sensitivity: Sensitivity, poses: np.ndarray, image: np.ndarray, only_symmetric: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(change of the poses, change of the image): the Gauss-Newton step, A taken for 1 on the image's change."""
    misfit = problem.masked(problem.scan - sensitivity.magnitude)
    weights, weight = edge_weights(image), np.float32(problem.noise**2)
    blocks = sensitivity.blocks
    scale = float(np.median(np.einsum("naa->n", blocks))) / 6
    project = symmetric if only_symmetric else (lambda p: p)
    inverse = np.linalg.inv(0.3 * blocks + scale * (2 * STEP_WEIGHT + SIZE_WEIGHT + 1e-4) * np.eye(6))
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
        prior = scale * pose_prior(change)
        return join(smoothed(part, weights, weight, error), sensitivity.adjoint(error) + prior)

    def precondition(flat: np.ndarray) -> np.ndarray:
        part, change = split(flat)
        return join(part / diagonal, np.einsum("nab,nb->na", inverse, change))

    prior = scale * pose_prior(poses)
    wanted = join(smoothed(image, weights, -weight, misfit), sensitivity.adjoint(misfit) - prior)
    total = size + 6 * lines
    vector, _ = cg(
        LinearOperator((total, total), matvec=normal, dtype=np.float64), wanted, maxiter=JOINT_ITERATIONS, rtol=1e-3,
        M=LinearOperator((total, total), matvec=precondition, dtype=np.float64),
    )  # fmt: skip
    part, change = split(vector)
    return change, part


EVIDENCE_ROUNDS, EVIDENCE_ITERATIONS = 4, 6
"""Every image starts cold, from the scan, and is solved as far: warm starts would favour the poses they come from."""
LANCZOS_STEPS = 12


def evidence(problem: Problem, poses: np.ndarray) -> float:
    """G at poses (N, 6); lower is better. G's zero is arbitrary, one for a problem."""
    model = problem.model(poses)
    image = problem.solve(poses, None, EVIDENCE_ROUNDS, EVIDENCE_ITERATIONS, model)
    signal = model.kspace(image)
    cost = problem.cost(image, signal)
    phase = polar(image_of(signal, True))[1]
    weights, weight = edge_weights(problem.scan), np.float32(problem.noise**2)

    def curvature(x: np.ndarray) -> np.ndarray:
        seen = problem.masked(projected(phase, image_of(model.kspace(x), True)))
        return smoothed(x, weights, weight, model.adjoint(spectrum_of(product(phase, seen), True)).real)

    return cost + problem.noise**2 * log_determinant(curvature, problem.scan.shape)


def log_determinant(operator: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]) -> float:
    """log det of a symmetric positive operator on arrays of ``shape``, by Lanczos quadrature with one random vector."""
    vector = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), size=shape)
    vector /= np.float32(np.sqrt(vector.size))
    last, length = np.zeros_like(vector), 0.0
    diagonal, beside = [], []
    for _ in range(LANCZOS_STEPS):
        image = operator(vector) - np.float32(length) * last
        diagonal.append(float(np.vdot(image, vector)))
        image -= np.float32(diagonal[-1]) * vector
        length = float(np.linalg.norm(image))
        beside.append(length)
        last, vector = vector, image / np.float32(max(length, TINY))
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1))
    return float(last.size * (vectors[0] ** 2 * np.log(np.maximum(values, 1e-8))).sum())
