"""Pairs of a moved and a clean slice that lie in files: what injection and simulation leave, and a corrector learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from BrainDiffLogic.data.split import hold_out


class SlicePairs(Dataset[dict[str, Tensor]]):
    """Pairs {"moved", "clean"}, each (1, rows, columns) float32 in network units, read from memory maps.

    facts   of each pair, what is known of it: at least "subject"
    places  of each pair: the .npy file, and the indices of the moved and of the clean slice in it
    """

    def __init__(self) -> None:
        self.facts: list[dict[str, Any]] = []
        self.places: list[tuple[Path, tuple[int, int], tuple[int, int]]] = []

    @property
    def subjects(self) -> list[str]:
        """Sorted, each once."""
        return sorted({facts["subject"] for facts in self.facts})

    def hold_out(self, share: float) -> tuple[np.ndarray, np.ndarray]:
        """(training, validation): indices of the pairs, by subject, see ``data.split.hold_out``."""
        return hold_out([facts["subject"] for facts in self.facts], share)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        path, moved, clean = self.places[index]
        images = np.load(path, mmap_mode="r")
        found = {"moved": images[moved], "clean": images[clean]}
        return {name: torch.from_numpy(image[None].astype(np.float32)) for name, image in found.items()}
