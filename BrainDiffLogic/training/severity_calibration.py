"""From what the network says to mm, an error in mm and a threshold; on subjects it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from BrainDiffLogic.intensity import head_mask
from BrainDiffLogic.motion.trajectory import STRATUM_NAMES, stratum
from BrainDiffLogic.severity.estimate import aggregate, look
from BrainDiffLogic.severity.network import SeverityNetwork
from BrainDiffLogic.training.pairs import PairCache

STILL_MM = 0.3
"""A scan that moved less must be returned unchanged."""
MOVED_MM = 1.0
"""A scan that moved more must be corrected."""
TRACE = 0.0067
"""Mean absolute difference to the still scan in network units: the median of the training pairs below 0.5 mm. What
leaves less, however far the head moved, need not be corrected."""
THRESHOLDS_MM = np.arange(0.2, 1.01, 0.02)
EDGE = 2
"""Slices beyond the head on either side, which the pairs hold (``training.pairs.simulate_pair``)."""
KNOTS = 24
"""At most so many steps of the calibration."""


@dataclass(frozen=True)
class Judged:
    """One volume: what the network said of it (see ``aggregate``), and how far the head had moved, in mm."""

    raw: float
    severity: float
    facts: dict[str, Any]


def judge_pairs(network: SeverityNetwork, cache: PairCache, pairs: Sequence[int]) -> list[Judged]:
    """Both volumes of each pair, the moved and the still one; stripped brains without the air around them."""
    rows = []
    for index in pairs:
        facts = cache.facts(index)
        for stack, severity in zip(cache.stacks(index), (facts["severity"], 0.0), strict=True):
            stack = np.ascontiguousarray(stack[EDGE : len(stack) - EDGE], dtype=np.float32)
            if facts["kind"] == "brain":
                stack *= head_mask(stack)
            _, values, spreads = look(network, stack)
            rows.append(Judged(aggregate(values, spreads), severity, facts))
    return rows


def calibrate(rows: Sequence[Judged]) -> dict[str, list[float]]:
    """A card's calibration: "raw", increasing, and for each the "mm" it means and their mean error "error_mm".

    Isotonic regression of medians of groups alike in raw: of means, the few far motions that leave no trace would make
    every still scan one of half a millimetre.
    """
    raw = np.array([row.raw for row in rows])
    order = np.argsort(raw, kind="stable")
    raw, severity = raw[order], np.array([row.severity for row in rows])[order]
    groups = np.array_split(np.arange(len(raw)), min(KNOTS, len(raw)))
    places = np.array([raw[group].mean() for group in groups])
    mm = isotonic_regression([np.median(severity[group]) for group in groups]).x
    error = np.abs(np.interp(raw, places, mm) - severity)
    errors = isotonic_regression([error[group].mean() for group in groups]).x
    table = {"raw": places, "mm": mm, "error_mm": errors}
    return {name: [round(float(value), 5) for value in column] for name, column in table.items()}


def in_mm(rows: Sequence[Judged], calibration: dict[str, list[float]]) -> np.ndarray:
    """(n,) the estimates in mm."""
    return np.interp([row.raw for row in rows], calibration["raw"], calibration["mm"])


def wrong(estimates: np.ndarray, severities: np.ndarray, threshold: float) -> np.ndarray:
    """(n,) bool: still or below 0.3 mm but corrected, or above 1 mm but returned unchanged."""
    corrected = estimates >= threshold
    return ((severities < STILL_MM) & corrected) | ((severities > MOVED_MM) & ~corrected)


def left_trace(rows: Sequence[Judged]) -> np.ndarray:
    """(n,) bool: whether what the motion did to the image is more than ``TRACE``."""
    return np.array([row.severity > 0 and row.facts["error"] > TRACE for row in rows])


def best_threshold(estimates: np.ndarray, severities: np.ndarray, traces: np.ndarray) -> float:
    """The threshold in mm with the fewest wrong decisions, the two kinds weighed alike; the middle of equals.

    traces  ``left_trace``: motion above 1 mm counts where it left one
    """
    still, moved = severities < STILL_MM, (severities > MOVED_MM) & traces
    counts = max(1, still.sum()), max(1, moved.sum())
    shares = np.array([
        (estimates[still] >= limit).sum() / counts[0] + (estimates[moved] < limit).sum() / counts[1]
        for limit in THRESHOLDS_MM
    ])  # fmt: skip
    best = np.flatnonzero(shares <= shares.min() + 1e-9)
    return round(float(THRESHOLDS_MM[best[len(best) // 2]]), 2)


def gate_errors(estimates: np.ndarray, severities: np.ndarray, traces: np.ndarray, threshold: float) -> dict[str, Any]:
    """A card's "gate": how many decisions are wrong, and how many of those where motion above 1 mm left a trace."""
    judged = (severities < STILL_MM) | (severities > MOVED_MM)
    seen = (severities < STILL_MM) | ((severities > MOVED_MM) & traces)
    mistakes = wrong(estimates, severities, threshold)
    return {
        "wrong": round(float(mistakes[judged].mean()), 3), "volumes": int(judged.sum()),
        "wrong_where_seen": round(float(mistakes[seen].mean()), 3), "volumes_seen": int(seen.sum()),
        "means": f"wrong: below {STILL_MM} mm corrected, or above {MOVED_MM} mm returned unchanged; seen: without those"
        f" above {MOVED_MM} mm that differ from the still scan by less than {TRACE} of white matter on average",
    }  # fmt: skip


def table(estimates: np.ndarray, severities: np.ndarray, threshold: float) -> list[dict[str, Any]]:
    """Rows of a card's metrics by severity stratum: volumes, mean estimate, mean absolute error, share corrected."""
    names = np.array(["still" if severity == 0 else stratum(severity) for severity in severities])
    rows = []
    for name in ("still", *STRATUM_NAMES):
        chosen = names == name
        if chosen.any():
            own, truth = estimates[chosen], severities[chosen]
            rows.append({
                "severity": name, "method": "severity", "volumes": int(chosen.sum()),
                "mean_mm": round(float(own.mean()), 3), "true_mm": round(float(truth.mean()), 3),
                "error_mm": round(float(np.abs(own - truth).mean()), 3),
                "corrected": round(float((own >= threshold).mean()), 3),
            })  # fmt: skip
    return rows
