"""Lesions that are there must stay: implanted before the motion, looked for after the correction.

The lesion is the difference of two corrected scans, with it and without, so that nothing else counts; its share is the
amplitude of the implanted shape in it. Motion itself weakens a lesion: a correction is held against what the moved scan
still shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from BrainDiffLogic.evaluation.methods import Method
from BrainDiffLogic.evaluation.safety.lesions import Lesion
from BrainDiffLogic.evaluation.safety.outcome import Outcome, at_least, at_most
from BrainDiffLogic.evaluation.safety.scene import Case, Scene

CHECK = "implanted lesions"
LEAST_KEPT = 0.9
"""Mean share of the moved scan's lesion contrast (issue 5). A lesion that gains does not make up for one that loses."""
DELETED = 0.5
"""A lesion that keeps less of its contrast than this is gone for a reader."""
VISIBLE = 0.2
"""A lesion of which the moved scan shows less of the truth than this was lost before any correction."""
SMALL_MM = 3.0


@dataclass(frozen=True)
class Found:
    """A lesion's share of the truth in the moved scan and in the corrected one."""

    lesion: Lesion
    moved: float
    corrected: float

    @property
    def kept(self) -> float:
        """Of what the moved scan shows."""
        return self.corrected / self.moved


def check_implanted_lesions(method: Method, scene: Scene) -> list[Outcome]:
    """On each scan: the mean share of contrast that is kept, and the number of lesions that are deleted."""
    outcomes = []
    for case in scene.cases:
        found = find_lesions(method, scene, case)
        seen = [each for each in found if each.moved >= VISIBLE]
        deleted = [each for each in seen if each.kept < DELETED]
        outcomes += [
            at_least(CHECK, f"{case.name}: contrast kept", _kept(seen), LEAST_KEPT, "", _note(found, seen)),
            at_most(CHECK, f"{case.name}: deleted", len(deleted), 0, "lesions", _names(deleted)),
        ]
    return outcomes


def find_lesions(method: Method, scene: Scene, case: Case) -> list[Found]:
    """Every lesion of the scene in one case."""
    moved = scene.scaled(case.lesioned.array - case.plain.array)
    corrected = scene.scaled(method(case.lesioned) - method(case.plain))
    return [Found(lesion, lesion.share_in(moved), lesion.share_in(corrected)) for lesion in scene.lesions]


def _kept(found: list[Found]) -> float:
    return float(np.mean([min(1.0, each.kept) for each in found])) if found else float("nan")


def _note(found: list[Found], seen: list[Found]) -> str:
    groups = {
        "bright": [each for each in seen if each.lesion.contrast > 0],
        "dark": [each for each in seen if each.lesion.contrast < 0],
        f"up to {SMALL_MM:g} mm": [each for each in seen if each.lesion.diameter <= SMALL_MM],
        "larger": [each for each in seen if each.lesion.diameter > SMALL_MM],
    }
    parts = [f"{name} {_kept(group):.2f}" for name, group in groups.items() if group]
    truth = [float(np.mean([getattr(each, name) for each in found])) for name in ("moved", "corrected")]
    count = f"{len(seen)} of {len(found)} lesions seen in the moved scan"
    return f"{', '.join(parts)}; of the truth {truth[0]:.2f} before, {truth[1]:.2f} after; {count}"


def _names(deleted: list[Found]) -> str:
    return ", ".join(
        f"{each.lesion.diameter:g} mm {'bright' if each.lesion.contrast > 0 else 'dark'} in {each.lesion.tissue}"
        for each in deleted
    )
