"""Tissue volumes by one fixed classifier, before and after correction: what a segmentation downstream would see."""

from __future__ import annotations

import numpy as np

from BrainDiffLogic.evaluation.methods import Method
from BrainDiffLogic.evaluation.safety.outcome import Outcome, at_most
from BrainDiffLogic.evaluation.safety.scene import STILL, Scene

CHECK = "tissue volumes"
TISSUES = ("fluid", "grey", "white")
LARGEST_LOSS = 0.007
"""By how much a correction may take a tissue's volume further from the still scan's than motion has: see clean_scan."""


def tissue_volumes(scaled: np.ndarray, scene: Scene) -> dict[str, float]:
    """Litres of each tissue inside the head, by the still scan's limits; ``scaled`` (I, J, K) is on its scale."""
    classes = np.digitize(scaled[scene.inside], scene.tissue_limits)
    voxel = abs(float(np.linalg.det(scene.still.affine[:3, :3]))) / 1e6
    return {name: voxel * float(np.count_nonzero(classes == number)) for number, name in enumerate(TISSUES)}


def check_tissue_volumes(method: Method, scene: Scene) -> list[Outcome]:
    """How much further from the still scan's volumes a correction takes those of each moved scan."""
    truth = tissue_volumes(scene.scale.forward(scene.still.array), scene)
    outcomes = []
    for case in scene.cases:
        if case.name == STILL:
            continue
        errors = [
            {
                name: litres / truth[name] - 1
                for name, litres in tissue_volumes(scene.scale.forward(array), scene).items()
            }
            for array in (case.plain.array, method(case.plain))
        ]
        moved, corrected = errors
        worse = max(abs(corrected[name]) - abs(moved[name]) for name in TISSUES)
        note = ", ".join(f"{name} {100 * moved[name]:+.1f} -> {100 * corrected[name]:+.1f} %" for name in TISSUES)
        outcomes.append(at_most(CHECK, case.name, worse, LARGEST_LOSS, "", f"moved -> corrected: {note}"))
    return outcomes
