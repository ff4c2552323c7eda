"""Find the motion of the head in a magnitude image alone, and undo it by the physics of the acquisition.

The pose of a phase-encode line is shared by every slice: some 6 x 200 unknowns against ten million voxels. They are
found together with the still head (``joint``, ``search``) on voxels of 3 mm. What is then taken off the scan is the
artifact that the model predicts, |A x| - x; nothing is learned, so no anatomy can be invented, and the scan keeps
its noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from BrainDiffLogic.errors import Cancelled
from BrainDiffLogic.motion.alignment import displacement, rigid_basis
from BrainDiffLogic.motion.joint import Problem
from BrainDiffLogic.motion.kspace import PE_AXES, image_of, phase_encode_axis
from BrainDiffLogic.motion.magnitude import MagnitudeScan
from BrainDiffLogic.motion.search import EVEN, Search, even_motion, search
from BrainDiffLogic.motion.trajectory import Trajectory
from BrainDiffLogic.scan import Scan
from BrainDiffLogic.volume import Volume

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

Progress = Callable[[float, str], None]


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
        rows = np.concatenate([self.trajectory.translations, self.trajectory.rotations], axis=1)
        return {**self.facts, "trajectory": np.round(rows, 4).tolist()}


@dataclass(frozen=True)
class Limits:
    """From where on a scan is believed to show motion that was found.

    cost_fall  share of F that even motion takes away, more than in still heads (Testing/Benchmarks/still_heads.py)
    agreement  correlation in the head between the artifact of the poses and what the default network takes off, from
               which the poses are acted on
    trust      how many times as much of the artifact of even motion is taken off as the network, which is timid, sees
    trust_drift  the same of drifts, of which the network sees a larger part
    """

    cost_fall: float = 0.0072
    agreement: float = 0.05
    trust: float = 5.0
    trust_drift: float = 2.0

    def trust_in(self, shape: str) -> float:
        """The trust in a hypothesis, by its name."""
        return self.trust if shape == EVEN else self.trust_drift


def estimate_motion(
    volume: Volume | Scan,
    pe_axis: str | None = None,
    *,
    seen: np.ndarray | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    progress: Progress | None = None,
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
    report_progress = progress or (lambda share, stage: None)
    report_progress(0.0, "Finding the motion")
    axes = [phase_encode_axis(scan.affine, name) for name in ([pe_axis] if pe_axis else PE_AXES)]
    axis = axes[0] if len(axes) == 1 else _likeliest_axis(scan, axes, seen, limits)
    name = pe_axis or list(PE_AXES)[axes.index(axis)]
    report_progress(AXIS_DONE, "Finding the motion")
    problem, lines = scan.problem(axis, SPACING)
    found = search(problem, cancelled)
    report_progress(SEARCH_DONE, "Finding the motion")
    hypotheses = _hypotheses(found, lines, scan.array.shape[axis])
    moved, reason = decision(found, limits)
    shape, judged = found.best.shape, {"moved": moved, "reason": reason}
    if seen is not None:
        agreements = _agreements(scan, axis, hypotheses, seen)
        shape = max(agreements, key=lambda one: agreements[one])
        judged = {"agreement": round(agreements[shape], 3)}
    poses = _laid_on_scan(problem, hypotheses[shape], lines)
    trajectory = Trajectory(poses[:, :3], poses[:, 3:], scan.centre)
    report_progress(1.0, "Finding the motion")
    facts = {"pe_axis": name, **judged, **_facts(found, trajectory), "shape": shape}
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
    poses = np.concatenate([estimate.trajectory.translations, estimate.trajectory.rotations], axis=1)
    change = np.zeros(scan.array.shape, np.float32)
    change[scan.cut(axis)] = _artifact(problem, poses, SOLVE_ROUNDS, SOLVE_ITERATIONS) * scan.scale
    return change


def noise_of(image: np.ndarray) -> float:
    """The noise's standard deviation in an image (I, J, K): the median absolute Haar detail of its finest diagonal
    band.

    Donoho and Johnstone 1994. Air that was set to 0 says nothing and is left out.
    """
    blocks = image[tuple(slice(size - size % 2) for size in image.shape)]
    for axis in range(3):
        even, odd = (np.take(blocks, range(start, blocks.shape[axis], 2), axis) for start in (0, 1))
        blocks = (even - odd) / np.float32(np.sqrt(2))
    details = np.abs(blocks[blocks != 0])
    return float(np.median(details) / 0.6745) if details.size else 0.0


def _tick(cancelled: Callable[[], bool] | None) -> Callable[[], None]:
    def tick() -> None:
        if cancelled and cancelled():
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

    return max(axes, key=score)


def _trusted(poses: np.ndarray) -> np.ndarray:
    """The poses (N, 6), the outermost ones replaced by the first and last that are believed."""
    outer = round((1 - TRUSTED) * len(poses) / 2)
    return np.pad(poses[outer : len(poses) - outer], ((outer, outer), (0, 0)), mode="edge")


def _hypotheses(found: Search, lines: slice, count: int) -> dict[str, np.ndarray]:
    """The poses (``count``, 6) of all lines by name, from those of the coarse problem, whose lines are ``lines``."""
    outside = ((lines.start, count - lines.stop), (0, 0))
    poses = {one.shape: np.pad(_trusted(one.poses), outside, mode="edge") for one in found.tried[1:]}
    time = np.arange(count) - count // 2
    slope = np.polyfit(time[lines], found.ramp, 1)[0]
    return {**poses, "drift": time[:, None] * slope}


def _agreements(
    scan: MagnitudeScan, axis: int, hypotheses: dict[str, np.ndarray], seen: np.ndarray
) -> dict[str, float]:
    """How far the artifact of each hypothesis is correlated in the head with what another method has ``seen``."""
    problem, lines = scan.problem(axis, JUDGED_SPACING)
    other, inside = _seen_on(scan, axis, JUDGED_SPACING, seen)
    found = {}
    for name, poses in hypotheses.items():
        shown = problem.centred(poses[lines])
        found[name] = correlation(_artifact(problem, shown, *JUDGED_SOLUTION)[inside], other[inside])
    return found


def _seen_on(
    scan: MagnitudeScan, axis: int, spacing: float, seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What was seen (I, J, K), on the voxels of a coarse problem, and which of those lie in the head."""
    other, head = (scan.coarse(array, axis, spacing) for array in (seen, scan.head.astype(np.float32)))
    return other, head > 0.5


def _artifact(problem: Problem, poses: np.ndarray, rounds: int, iterations: int) -> np.ndarray:
    """What poses (N, 6) add to the image, |A x| - x with x the still head that is solved for them."""
    model = problem.model(poses)
    still = problem.solve(poses, None, rounds, iterations, model)
    return problem.masked(np.abs(image_of(model.kspace(still))) - still)


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
        seen = Trajectory(every[:, :3], every[:, 3:]).seen_from((offset[:3], offset[3:]))
        every = np.concatenate([seen.translations, seen.rotations], axis=1)
    return every


def decision(found: Search, limits: Limits) -> tuple[bool, str]:
    """Whether a search explains the scan, and why, in words.

    Rings in the spectrum and the evidence tell that a head moved, not that these poses are its own (pycortex-S1, drift
    of 2 mm: the evidence fell by 5 %, the poses were wrong), so that they alone are not acted on.
    """
    fall = f"the misfit falls by {found.cost_fall:.2%}"
    if found.cost_fall >= limits.cost_fall:
        return True, fall
    if found.rings > MOVED_RINGS:
        return False, f"the head moved (rings in the spectrum), but how was not found: {fall}, as in a still head"
    return False, f"no motion explains this scan: {fall}, as in a still head"


def _facts(found: Search, trajectory: Trajectory) -> dict[str, Any]:
    return {
        "mean_displacement_mm": round(float(trajectory.displacement.mean()), 3),
        "largest_displacement_mm": round(float(trajectory.displacement.max()), 3),
        "cost_still": round(found.still.cost, 3), "cost": round(found.best.cost, 3),
        "evidence_still": round(found.still.evidence, 3), "evidence": round(found.best.evidence, 3),
        "cost_fall": round(found.cost_fall, 5), "evidence_fall": round(found.evidence_fall, 5),
        "rings": round(found.rings, 2), "rings_shape": found.rings_shape,
    }  # fmt: skip
