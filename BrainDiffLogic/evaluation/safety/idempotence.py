"""A corrected scan, corrected again, should hardly change, and not get worse."""

from __future__ import annotations

import numpy as np

from BrainDiffLogic.evaluation.methods import Method
from BrainDiffLogic.evaluation.safety.outcome import Outcome, at_most, ratio
from BrainDiffLogic.evaluation.safety.scene import STILL, Scene

CHECK = "idempotence"
LARGEST_SHARE = 0.5
"""Second change over the first: applied without end, the sum of changes then stays below twice the first."""
WORSE = 0.01
"""Relative growth of the error by the second application; what counts as worse in the tables of quality below 1 mm."""


def check_idempotence(method: Method, scene: Scene) -> list[Outcome]:
    """The second application on each moved scan: its change over the first one's, and what it does to the error."""
    outcomes = []
    for case in scene.cases:
        if case.name == STILL:
            continue
        once = method(case.plain)
        twice = method(case.plain.with_array(once))
        first, second = (_size(a - b, scene) for a, b in ((once, case.plain.array), (twice, once)))
        before, after = (_size(array - scene.still.array, scene) for array in (once, twice))
        outcomes += [
            at_most(CHECK, f"{case.name}: second change / first", ratio(second, first), LARGEST_SHARE),
            at_most(CHECK, f"{case.name}: error growth", ratio(after, before) - 1 if before else after, WORSE),
        ]
    return outcomes


def _size(difference: np.ndarray, scene: Scene) -> float:
    return float(np.abs(scene.scaled(difference)[scene.head]).mean(dtype=np.float64))
