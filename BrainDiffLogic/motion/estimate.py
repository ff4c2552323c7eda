"""Find the motion of the head in a magnitude image alone, and undo it by the physics of the acquisition.

The pose of a phase-encode line is shared by every slice: some 6 x 200 unknowns against ten million voxels. They are
found together with the still head (``joint``) on voxels of 3 mm: by descent for even motion, by proposals for odd
motion and for nods. The judge is the evidence or, where another method has seen an artifact, the agreement with it.
What is then taken off the scan is the artifact that the model predicts, |A x| - x; nothing in it is learned, so that no
anatomy can be invented, and the scan keeps its noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from BrainDiffLogic.errors import Cancelled
from BrainDiffLogic.metrics.sharpness import noise_of
from BrainDiffLogic.motion.fitted import LineFit
from BrainDiffLogic.motion.joint import Problem, descend, evidence, moved_by
from BrainDiffLogic.motion.kspace import PE_AXES, image_of, phase_encode_axis
from BrainDiffLogic.motion.lanes import side_by_side, stopped
from BrainDiffLogic.motion.magnitude import MagnitudeScan, tapered
from BrainDiffLogic.motion.nods import find_nods
from BrainDiffLogic.motion.odd_motion import propose
from BrainDiffLogic.motion.simulation import displacement, rigid_basis
from BrainDiffLogic.motion.trajectory import Trajectory
from BrainDiffLogic.progress import Progress, silent
from BrainDiffLogic.scan import Scan
from BrainDiffLogic.volume import Volume

EVEN_STEPS, ODD_STEPS = 5, 6
STRETCH = 1.4
STRETCHES = 3
"""Along the scale of the poses F lies in a flat valley: they are multiplied by STRETCH as long as F falls."""
EVEN = "even"
"""Shape of motion that the lines k and -k share."""
FITTED = "even and fitted"
"""Shape of even motion: the mean of the poses descended to and of those fitted to what another method has seen, which
know nothing of each other. The fitted ones alone are as often worse as better (swallows of 0.5 mm: MRE .0636 to .0653
on 2 mm voxels, the mean .0637; steps of 1.5 mm in pycortex-S1 .0448 to .0498)."""
DRIFT, DRIFT_FITTED = "drift", "drift and fitted"
"""Shapes of motion: a steady drift over all lines, and the same with the even poses of FITTED beside it."""
FITTED_AGREES, BESIDE_DRIFT = 1.25, 0.9
"""Times as much as any other hypothesis must poses agree with what they are partly fitted to; beside a drift, as the
drift alone: that a drifting head never left its straight line is what is unlikely."""
NOD = "nod"
"""Shape of motion of a few lines alone."""
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

    best      of those with motion the hypothesis of lowest evidence
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


def even_motion(problem: Problem, steps: int = EVEN_STEPS, stretches: int = STRETCHES) -> tuple[Hypothesis, Hypothesis]:
    """(no motion, symmetric poses found by descent from there and stretched)."""
    poses = np.zeros((problem.lines, 6))
    still = _solved(problem, poses, "still")
    even = Hypothesis(*descend(problem, poses, still.image, steps, only_symmetric=True), EVEN)
    return still, _stretched(problem, even, 3, only_symmetric=True, most=stretches)


def search_poses(
    problem: Problem, seen: np.ndarray | None = None, cancelled: Callable[[], bool] | None = None
) -> Search:
    """The poses of the lines of a coarse problem that explain its scan best.

    ``seen`` as for ``find_nods``, ``cancelled`` as for ``propose``.
    """
    searches: list[Callable[[], Any]] = [
        lambda: even_motion(problem),
        lambda: propose(problem.scan, problem.affine, problem.axis, problem.centre, cancelled=cancelled),
        lambda: find_nods(problem, seen),
        lambda: evidence(problem, np.zeros((problem.lines, 6))),
    ]
    (still, even), proposals, nods, doing_nothing = side_by_side(searches)
    rings, ramp = proposals[0], next(one.trajectory for one in proposals if one.shape == "ramp")

    def judged(one: Hypothesis) -> Hypothesis:
        return replace(one, evidence=evidence(problem, one.poses))

    def drift() -> Hypothesis:
        poses = moved_by(even.poses, rings.trajectory)
        image = problem.solve(poses, None, 2, 4)
        moved = Hypothesis(*descend(problem, poses, image, ODD_STEPS, over=0.7, most=1.0), rings.shape)
        return judged(_stretched(problem, moved, steps=4, only_symmetric=False))

    tasks = [lambda: judged(even)]
    if rings.score > RINGS and rings.shape in DRIFTS:
        tasks.append(drift)
    if nods.any():
        tasks.append(lambda: judged(_solved(problem, nods, NOD, 2)))
    tried = [replace(still, evidence=doing_nothing), *side_by_side(tasks)]
    best = min(tried[1:], key=lambda one: one.evidence)
    fall = (still.cost - even.cost) / still.cost
    return Search(best, tried[0], fall, rings.score, rings.shape, ramp, tuple(tried))


def _solved(problem: Problem, poses: np.ndarray, shape: str, rounds: int = 1) -> Hypothesis:
    """The hypothesis that the lines had these poses (N, 6)."""
    model = problem.model(poses)
    image = problem.solve(poses, None, rounds, 4, model)
    return Hypothesis(poses, image, problem.cost(image, model.kspace(image)), shape)


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


SPACING = 3.0
"""Voxels in mm on which the motion is searched."""
JUDGED_SPACING = 2.0
"""Voxels in mm on which what different poses would take off is compared."""
TRUSTED = 0.85
"""Share of the coarse lines whose poses are believed: at the ends of the band, where little is seen, they run away."""
MOVED_RINGS = 1.5
"""Score of rings in the spectrum that no still head of Testing/Benchmarks/still_heads.py reached (1.32)."""
TRIAL_STEPS = 2
"""Steps of descent by which the phase-encode axes are compared where the axis is not known."""
LAYING_ROUNDS = 2
SOLVE_ROUNDS, SOLVE_ITERATIONS = 2, 5
JUDGED_SOLUTION, TRIAL_SOLUTION = (2, 4), (1, 3)
AXIS_DONE, SEARCH_DONE = 0.2, 0.7
"""Shares of the whole work at which choosing the axis and the search end."""


@dataclass(frozen=True)
class MotionEstimate:
    """The motion that explains a scan best.

    trajectory  pose of each phase-encode line, in the order of the lines (that of time in a linear scan); the still
                head lies where the scan shows it
    pe_axis     "AP", "SI" or "LR"
    moved       whether the scan shows motion that the trajectory explains; ``reason``: the measure that decided
    facts       how well it explains the scan, JSON-able
    """

    trajectory: Trajectory
    pe_axis: str
    moved: bool
    reason: str
    facts: dict[str, Any] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: the facts and the trajectory, a row a line: mm along and degrees about R, A, S."""
        return {**self.facts, "trajectory": np.round(self.trajectory.rows, 4).tolist()}


@dataclass(frozen=True)
class Limits:
    """From where on a scan is believed to show motion that was found.

    cost_fall  share of F that even motion takes away, more than in still heads (Testing/Benchmarks/still_heads.py)
    agreement  correlation in the head between the artifact of the poses and what the default network takes off, from
               which the poses are acted on
    sure       the same, from which they are believed
    halves     correlation of the poses fitted to what the network takes off one half of the head with those of the
               other half, from which the fitted poses are tried at all
    larger     how many times as large as the poses fitted to what the network sees those are that are tried
    least      mm that these move the head at least (root mean square), times that correlation: of less, more is
               imagined than seen
    nod_seen   agreement from which a nod is left to the network, which knows better beside the middle of k (k = 1,
               agreement .71: MRE .1439, by the network .0849, with the nod taken off first .0966)
    """

    cost_fall: float = 0.0072
    agreement: float = 0.05
    sure: float = 0.2
    halves: float = 0.2
    larger: float = 8.0
    least: float = 0.08
    nod_seen: float = 0.6

    def trust(self, agreement: float) -> float:
        """How far poses are believed, 0 to 1, whose artifact agrees with what the network takes off."""
        return float(np.clip((agreement - self.agreement) / (self.sure - self.agreement), 0, 1))


def estimate_motion(
    volume: Volume | Scan,
    pe_axis: str | None = None,
    *,
    seen: np.ndarray | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    progress: Progress = silent,
    cancelled: Callable[[], bool] | None = None,
) -> MotionEstimate:
    """The trajectory of the head that explains a magnitude image best.

    pe_axis    "AP", "SI" or "LR", the axis along which each line has a pose of its own; None: the one along which
               motion explains most of the scan and of what was seen
    seen       (I, J, K) in the volume's units: what another method, which knows nothing of poses, takes for the
               artifact. Of the hypotheses that one is chosen whose artifact agrees most with it (facts: "agreement");
               None: that of lowest evidence, and ``limits`` say whether it is believed (facts: "moved", "reason")
    progress   called with (share done, stage); ``cancelled`` is asked often and raises Cancelled
    The poses of lines beyond those believed (``TRUSTED``) are those of the first and last of them; a steady drift
    goes on beyond. Raises InputError for an unknown axis or a stack too thin to show a turning head.
    """
    scan = MagnitudeScan(volume, _tick(cancelled))
    progress(0.0, "Finding the motion")
    axes = [phase_encode_axis(scan.affine, name) for name in ([pe_axis] if pe_axis else PE_AXES)]
    axis = axes[0] if len(axes) == 1 else _likeliest_axis(scan, axes, seen, limits)
    name = pe_axis or list(PE_AXES)[axes.index(axis)]
    progress(AXIS_DONE, "Finding the motion")
    problem, lines = scan.problem(axis, SPACING)
    coarse_seen = None if seen is None else scan.coarse(seen, axis, SPACING) / scan.scale
    search = search_poses(problem, coarse_seen, cancelled)
    found = {one.shape: one.poses for one in search.tried[1:]}
    if coarse_seen is not None:
        fit = LineFit(problem, tapered(coarse_seen))  # as the problem's scan is
        halves, fitted = fit.halves_agree(), problem.centred(limits.larger * fit.poses())
        if halves >= limits.halves and halves * fit.size(fitted) >= limits.least:
            found[FITTED] = (fitted + found[EVEN]) / 2
    progress(SEARCH_DONE, "Finding the motion")
    hypotheses = _of_all_lines(found, search.ramp, lines, scan.array.shape[axis])
    moved, reason = decision(search, limits)
    shape, judged = search.best.shape, {"moved": moved, "reason": reason}
    if seen is not None:
        agreements = _agreements(scan, axis, hypotheses, seen)
        shape = _most_agreeing(agreements)
        judged = {"agreement": round(agreements[shape], 3), "halves_agree": round(halves, 3)}
    poses = hypotheses[shape]
    if shape != NOD:  # there the head lay still
        [poses] = side_by_side([lambda: _laid_on_scan(problem, hypotheses[shape], lines)])
    trajectory = Trajectory.of_rows(poses, scan.centre)
    progress(1.0, "Finding the motion")
    facts = {"pe_axis": name, **judged, **_facts(search, trajectory), "shape": shape}
    return MotionEstimate(trajectory, name, moved, reason, facts)


def artifact(
    volume: Volume | Scan,
    estimate: MotionEstimate,
    *,
    cancelled: Callable[[], bool] | None = None,
) -> np.ndarray:
    """(I, J, K) float32 in the volume's units: what the motion added to the image, |A x| - x with x the still head.

    0 outside the box of the head. The scan minus this is the corrected scan, with the noise that it had.
    """
    scan = MagnitudeScan(volume, _tick(cancelled))
    axis = phase_encode_axis(scan.affine, estimate.pe_axis)
    problem, _ = scan.problem(axis)
    problem = replace(problem, noise=max(problem.noise, noise_of(problem.scan)))
    change, cut, scale = np.zeros(scan.array.shape, np.float32), scan.cut(axis), scan.scale
    del scan  # its array is not needed while memory is dearest
    change[cut] = _artifact(problem, estimate.trajectory.rows, SOLVE_ROUNDS, SOLVE_ITERATIONS)
    return np.multiply(change, scale, out=change)


def _tick(cancelled: Callable[[], bool] | None) -> Callable[[], None]:
    def tick() -> None:
        if stopped() or (cancelled and cancelled()):
            raise Cancelled

    return tick


def _likeliest_axis(scan: MagnitudeScan, axes: list[int], seen: np.ndarray | None, limits: Limits) -> int:
    """The phase-encode axis along which a few steps of even motion explain most of the scan, and of what was seen.

    A fall of F as large as the limit counts as much as full agreement.
    """

    def score(axis: int) -> float:
        problem, _ = scan.problem(axis, SPACING)
        still, even = even_motion(problem, TRIAL_STEPS, stretches=0)
        explained = (still.cost - even.cost) / still.cost / limits.cost_fall
        if seen is None:
            return explained
        other, inside = _seen_on(scan, axis, SPACING, seen)
        return explained + correlation(_artifact(problem, even.poses, *TRIAL_SOLUTION)[inside], other[inside])

    scores = side_by_side([partial(score, axis) for axis in axes])
    return axes[int(np.argmax(scores))]


def _trusted(poses: np.ndarray) -> np.ndarray:
    """The poses (N, 6), the outermost ones replaced by the first and last that are believed."""
    outer = round((1 - TRUSTED) * len(poses) / 2)
    return np.pad(poses[outer : len(poses) - outer], ((outer, outer), (0, 0)), mode="edge")


def _of_all_lines(found: dict[str, np.ndarray], ramp: np.ndarray, lines: slice, count: int) -> dict[str, np.ndarray]:
    """The poses (``count``, 6) of all lines by name, from those found of the coarse problem, whose lines are ``lines``.

    Beside these, a steady drift that goes on as does the ``ramp`` (N, 6).
    """
    outside = ((lines.start, count - lines.stop), (0, 0))
    poses = {shape: np.pad(_trusted(one), outside, mode="edge") for shape, one in found.items()}
    time = np.arange(count) - count // 2
    drift = time[:, None] * np.polyfit(time[lines], ramp, 1)[0]
    poses[DRIFT] = drift
    if FITTED in poses:
        poses[DRIFT_FITTED] = moved_by(drift, poses[FITTED])
    return poses


def _agreements(
    scan: MagnitudeScan, axis: int, hypotheses: dict[str, np.ndarray], seen: np.ndarray
) -> dict[str, float]:
    """How far the artifact of each hypothesis is correlated in the head with what another method has ``seen``."""
    problem, lines = scan.problem(axis, JUDGED_SPACING)
    other, inside = _seen_on(scan, axis, JUDGED_SPACING, seen)

    def agreement(name: str) -> float:
        poses = hypotheses[name][lines]
        shown = poses if name == NOD else problem.centred(poses)  # but for nods the head lay still
        return correlation(_artifact(problem, shown, *JUDGED_SOLUTION)[inside], other[inside])

    agreements = side_by_side([partial(agreement, name) for name in hypotheses])
    return dict(zip(hypotheses, agreements, strict=True))


def _most_agreeing(agreements: dict[str, float]) -> str:
    """The name of the hypothesis that is taken; poses that were fitted must agree by more than the others."""
    fitted = [name for name in (FITTED, DRIFT_FITTED) if name in agreements]
    plain = [name for name in agreements if name not in fitted]
    if fitted:
        best = max(fitted, key=lambda name: agreements[name])
        times = dict.fromkeys(plain, FITTED_AGREES)
        if best == DRIFT_FITTED:
            times[DRIFT] = BESIDE_DRIFT
        if all(agreements[best] > times[name] * agreements[name] for name in plain):
            return best
    return max(plain, key=lambda name: agreements[name])


def _seen_on(scan: MagnitudeScan, axis: int, spacing: float, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What was seen (I, J, K), on the voxels of a coarse problem, and which of those lie in the head."""
    other, head = (scan.coarse(array, axis, spacing) for array in (seen, scan.head.astype(np.float32)))
    return other, head > 0.5


def _artifact(problem: Problem, poses: np.ndarray, rounds: int, iterations: int) -> np.ndarray:
    """What poses (N, 6) add to the image, |A x| - x with x the still head that is solved for them."""
    model = problem.model(poses)
    still = problem.solve(poses, None, rounds, iterations, model)
    return problem.masked(np.abs(image_of(model.kspace(still), True)) - still)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of the values of two images, 0 where one of them is constant."""
    spread = float(a.std()) * float(b.std())
    return float(np.mean((a - a.mean()) * (b - b.mean()))) / spread if spread > 0 else 0.0


def _laid_on_scan(problem: Problem, every: np.ndarray, lines: slice) -> np.ndarray:
    """The same motion (all lines, 6), seen from where the scan shows the head; ``lines``: those of the problem."""
    for _ in range(LAYING_ROUNDS):
        poses = every[lines]
        still = problem.solve(poses, None, 2)
        offset = displacement(still, problem.scan, rigid_basis(still, problem.affine, problem.centre))
        every = Trajectory.of_rows(every).relative_to((offset[:3], offset[3:])).rows
    return every


def decision(search: Search, limits: Limits) -> tuple[bool, str]:
    """Whether a search explains the scan, and why, in words.

    Rings in the spectrum and the evidence tell that a head moved, not that these poses are its own (pycortex-S1, drift
    of 2 mm: the evidence fell by 5 %, the poses were wrong), so that they alone are not acted on.
    """
    fall = f"the misfit falls by {search.cost_fall:.2%}"
    if search.best.shape == NOD:
        return True, f"the head nodded while {np.any(search.best.poses, axis=1).sum()} of the lines were acquired"
    if search.cost_fall >= limits.cost_fall:
        return True, fall
    if search.rings > MOVED_RINGS:
        return False, f"the head moved (rings in the spectrum), but how was not found: {fall}, as in a still head"
    return False, f"no motion explains this scan: {fall}, as in a still head"


def _facts(search: Search, trajectory: Trajectory) -> dict[str, Any]:
    return {
        "mean_displacement_mm": round(float(trajectory.displacement.mean()), 3),
        "largest_displacement_mm": round(float(trajectory.displacement.max()), 3),
        "cost_still": round(search.still.cost, 3), "cost": round(search.best.cost, 3),
        "evidence_still": round(search.still.evidence, 3), "evidence": round(search.best.evidence, 3),
        "cost_fall": round(search.cost_fall, 5), "evidence_fall": round(search.evidence_fall, 5),
        "rings": round(search.rings, 2), "rings_shape": search.rings_shape,
    }  # fmt: skip
