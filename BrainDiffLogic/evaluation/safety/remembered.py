"""A method that is asked the same question by several checks, and answers it once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from BrainDiffLogic.evaluation.methods import Method
from BrainDiffLogic.volume import Volume


class Remembered:
    """A method that keeps its answers to ``volumes``, which are told by identity; others are computed each time."""

    def __init__(self, method: Method, volumes: Iterable[Volume]) -> None:
        self.method = method
        self._volumes = list(volumes)  # kept alive: an identity must not be given to another volume
        self._answers: dict[int, np.ndarray | None] = {id(volume): None for volume in self._volumes}

    def __call__(self, volume: Volume) -> np.ndarray:
        """The corrected voxels."""
        answer = self._answers.get(id(volume))
        if answer is None:
            answer = self.method(volume)
            if id(volume) in self._answers:
                self._answers[id(volume)] = answer
        return answer
