"""The search for the poses that explain a scan: descent for even motion, proposals for odd motion, evidence as the
judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from BrainDiffLogic.motion.evidence import evidence
from BrainDiffLogic.motion.joint import Problem, descend, moved_by
from BrainDiffLogic.motion.odd_motion import propose

EVEN_STEPS, ODD_STEPS = 5, 6
STRETCH = 1.4
STRETCHES = 3
"""Along the scale of the poses F lies in a flat valley: they are multiplied by STRETCH as long as F falls."""
EVEN = "even"
"""Shape of motion that the lines k and -k share."""
DRIFTS = ("ramp", "curve")
"""Shapes of odd motion that are believed. Sudden steps and segments of the same score are often wrong, and then F and G
fall as far as for the truth (tremor of 1 mm: MRE .049 to .064), so they tell that the head moved, not how."""
RINGS = 5.0
"""Score (``odd_motion``) from which odd motion is taken up; still heads reach 1.3."""


@dataclass(frozen=True)
class Hypothesis:
    """Poses (N, 6) of a problem's lines, the still head (I, J, K) under them, F, and G where it was asked."""

    poses: np.ndarray
    image: np.ndarray = field(repr=False)
    cost: float
    shape: str
    evidence: float = np.inf


@dataclass(frozen=True)
class Search:
    """What a search found.

    best      the hypothesis of lowest evidence
    still     the hypothesis of no motion
    cost_fall share of F that even motion takes away
    rings     the best score of odd motion in the power spectrum, and its shape
    ramp      (N, 6) the steady drift that explains the power spectrum best
    tried     every hypothesis
    """

    best: Hypothesis
    still: Hypothesis
    cost_fall: float
    rings: float
    rings_shape: str
    ramp: np.ndarray = field(repr=False)
    tried: tuple[Hypothesis, ...]

    @property
    def evidence_fall(self) -> float:
        """Share of the evidence that the motion takes away."""
        return (self.still.evidence - self.best.evidence) / self.still.evidence


def even_motion(
    problem: Problem, steps: int = EVEN_STEPS, stretches: int = STRETCHES
) -> tuple[Hypothesis, Hypothesis]:
    """(no motion, symmetric poses found by descent from there and stretched)."""
    poses = np.zeros((problem.lines, 6))
    image = problem.solve(poses)
    still = Hypothesis(poses, image, problem.cost(poses, image), "still")
    even = Hypothesis(*descend(problem, poses, image, steps, only_symmetric=True), EVEN)
    return still, _stretched(problem, even, 3, only_symmetric=True, most=stretches)


def search(problem: Problem, cancelled: Callable[[], bool] | None = None) -> Search:
    """The poses of the lines of a coarse problem that explain its scan best; ``cancelled`` as for ``propose``."""
    still, even = even_motion(problem)
    tried = [still, even]
    proposals = propose(problem.scan, problem.affine, problem.axis, problem.centre, cancelled=cancelled)
    rings, ramp = proposals[0], next(one.trajectory for one in proposals if one.shape == "ramp")
    if rings.score > RINGS and rings.shape in DRIFTS:
        poses = moved_by(even.poses, rings.trajectory)
        image = problem.solve(poses, None, 2, 4)
        moved = Hypothesis(*descend(problem, poses, image, ODD_STEPS, over=0.7, most=1.0), rings.shape)
        tried.append(_stretched(problem, moved, steps=4, only_symmetric=False))
    tried = [replace(one, evidence=evidence(problem, one.poses)[0]) for one in tried]
    best = min(tried[1:], key=lambda one: one.evidence)
    fall = (still.cost - even.cost) / still.cost
    return Search(best, tried[0], fall, rings.score, rings.shape, ramp, tuple(tried))


def _stretched(
    problem: Problem, one: Hypothesis, steps: int, only_symmetric: bool, most: int = STRETCHES
) -> Hypothesis:
    over = 1.0 if only_symmetric else 0.7
    for _ in range(most):
        poses = STRETCH * one.poses
        image = problem.solve(poses, one.image, 2, 4)
        poses, image, cost = descend(problem, poses, image, steps, only_symmetric=only_symmetric, over=over, most=1.5)
        if cost >= one.cost:
            break
        one = Hypothesis(poses, image, cost, one.shape)
    return one
