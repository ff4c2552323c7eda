"""How well a trajectory explains a scan, the still head integrated out: the Laplace approximation of the evidence.

    G(poses) = min_x F(poses, x) + sd^2 log det(B^T B + sd^2 Q),   B = Re(conj(phase) A)

Q is the curvature of the prior at a fixed image. F alone rewards poses under which much of the head is left free; the
determinant pays for that (MacKay 1992). It is found by Lanczos quadrature (Ubaru, Chen and Saad 2017) with one random
vector, the same for all poses, so that differences between poses hardly depend on it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from BrainDiffLogic.motion.joint import Problem, edge_weights, smoothed
from BrainDiffLogic.motion.kspace import image_of, spectrum_of
from BrainDiffLogic.motion.sensitivity import TINY

ROUNDS, ITERATIONS = 4, 6
"""Every image starts cold, from the scan, and is solved as far: warm starts would favour the poses they come from."""
LANCZOS_STEPS = 12


def evidence(problem: Problem, poses: np.ndarray, rounds: int = ROUNDS) -> tuple[float, float, np.ndarray]:
    """(G, F, still head) at poses (N, 6); lower is better. G's zero is arbitrary, one for a problem."""
    model = problem.model(poses)
    image = problem.solve(poses, None, rounds, ITERATIONS, model)
    cost = problem.cost(poses, image, model)
    moved = image_of(model.kspace(image))
    phase = moved / np.maximum(np.abs(moved), TINY)
    weights, weight = edge_weights(problem.scan), np.float32(problem.noise**2)

    def curvature(x: np.ndarray) -> np.ndarray:
        seen = problem.masked((np.conj(phase) * image_of(model.kspace(x))).real)
        back: np.ndarray = model.adjoint(spectrum_of(phase * seen)).real
        return back + weight * smoothed(x, weights)

    return cost + problem.noise**2 * log_determinant(curvature, problem.scan.shape), cost, image


def log_determinant(operator: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], seed: int = 0) -> float:
    """log det of a symmetric positive operator on arrays of ``shape``, by Lanczos quadrature with one random vector."""
    vector = np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), size=shape)
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
