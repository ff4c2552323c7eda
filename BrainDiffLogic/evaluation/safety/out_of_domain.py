"""What a method does with an image it was not made for: refuse it, say so, or leave it nearly as it is."""

from __future__ import annotations

import numpy as np

from BrainDiffLogic.errors import Refused
from BrainDiffLogic.evaluation.methods import Ensemble, Method, ModelMethod
from BrainDiffLogic.evaluation.safety.other_inputs import other_inputs
from BrainDiffLogic.evaluation.safety.outcome import Outcome
from BrainDiffLogic.evaluation.safety.remembered import Remembered
from BrainDiffLogic.evaluation.safety.scene import Scene
from BrainDiffLogic.intensity import head_mask, robust_scale
from BrainDiffLogic.models.domain import judge
from BrainDiffLogic.volume import Volume

CHECK = "out of domain"
ITSELF = "the head itself"
NEARLY_UNCHANGED = 0.005
"""Mean change in the foreground over the mean signal there: invisible in an 8-bit display (one grey level: 0.004)."""


def check_out_of_domain(method: Method, scene: Scene) -> list[Outcome]:
    """Each of ``other_inputs``: the relative change, passed also where the method refuses or flags the image.

    What a model says is what ``correction.correct`` would report: it raises Refused, and ``domain.judge`` gives
    its notes. A stripped brain is within the domain of a model whose card names brains. Last the head itself, which is
    within: a sentence that is said of it, too, is no flag for the others.
    """
    usual = notes_of(method, scene.still)
    others = [_outcome(method, name, volume, usual) for name, volume in other_inputs(scene).items()]
    return [*others, _of_the_head_itself(method, scene, usual)]


def _of_the_head_itself(method: Method, scene: Scene, notes: list[str]) -> Outcome:
    try:
        method(scene.still)
    except Refused as error:
        return Outcome(CHECK, ITSELF, 1.0, 0.0, False, "", f"refused: {error}")
    said = f"flagged: {'; '.join(notes)}" if notes else "neither refused nor flagged"
    return Outcome(CHECK, ITSELF, float(len(notes)), 0.0, not notes, "", said)


def notes_of(method: Method, volume: Volume) -> list[str]:
    """What the models of a method would note about a volume; other methods note nothing."""
    if isinstance(method, Remembered):
        return notes_of(method.method, volume)
    if isinstance(method, Ensemble):
        return list(dict.fromkeys(note for member in method.members for note in notes_of(member, volume)))
    return judge(volume, method.model[1]).notes if isinstance(method, ModelMethod) else []


def _outcome(method: Method, name: str, volume: Volume, usual: list[str]) -> Outcome:
    try:
        change = _change(volume, method(volume))
    except Refused as error:
        return Outcome(CHECK, name, 0.0, NEARLY_UNCHANGED, True, "", f"refused: {error}")
    notes = [note for note in notes_of(method, volume) if note not in usual]
    if notes:
        return Outcome(CHECK, name, change, NEARLY_UNCHANGED, True, "", f"flagged: {'; '.join(notes)}")
    if change <= NEARLY_UNCHANGED:
        return Outcome(CHECK, name, change, NEARLY_UNCHANGED, True, "", "left as it is")
    return Outcome(CHECK, name, change, NEARLY_UNCHANGED, False, "", "changed without a word")


def _change(volume: Volume, result: np.ndarray) -> float:
    head, floor = head_mask(volume.array), robust_scale(volume.array).offset
    signal = float(np.abs(volume.array[head] - floor).mean(dtype=np.float64))
    return float(np.abs(result - volume.array)[head].mean(dtype=np.float64)) / signal
