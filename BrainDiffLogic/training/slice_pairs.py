"""Pairs of a moved and a clean slice in files: what injection and simulation leave, and a corrector learns.

Simulated pairs lie on a canvas, one file a scan, made once, read as memory maps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from BrainDiffLogic.data.split import hold_out
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import staged_output
from BrainDiffLogic.intensity import robust_scale
from BrainDiffLogic.training.slice_store import LARGEST, SAME_SPACING, on_canvas
from BrainDiffLogic.volume import Volume, sagittal_affine, to_sagittal

if TYPE_CHECKING:
    from BrainDiffLogic.training.fit import Hardware


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


FORMAT = 1
SAME_PLACE_MM = 1e-2
"""Affines of a scan and of its reference that differ by less are one grid: headers store float32."""


def pair_slices(
    moved: Volume, reference: Volume, slices: Sequence[int], canvas: tuple[int, int], spacing_mm: float | None
) -> np.ndarray:
    """(2, M, rows, columns) float16: sagittal slices of a moved scan and of its reference on a canvas.

    slices  indices in ``to_sagittal`` of the moved scan
    canvas, spacing_mm  as in ``slice_store.build_store``
    Both are in the network units of the moved scan, which is all that a corrector ever sees. Raises InputError where
    the two do not share a grid.
    """
    if moved.shape != reference.shape or not np.allclose(moved.affine, reference.affine, atol=SAME_PLACE_MM):
        raise InputError(f"{reference.name}: not on the grid of {moved.name}; align the two first")
    scale = robust_scale(moved.array)
    native = np.linalg.norm(sagittal_affine(moved)[:3, 1:3], axis=0)
    zoom = np.ones(2) if spacing_mm is None else spacing_mm / native
    if np.allclose(zoom, 1, rtol=SAME_SPACING):
        zoom = np.ones(2)
    pair = [
        np.stack([on_canvas(scale.forward(stack[k]), canvas, zoom) for k in slices])
        for stack in (to_sagittal(moved), to_sagittal(reference))
    ]
    return np.clip(np.stack(pair), -LARGEST, LARGEST).astype(np.float16)


def write_stack(folder: Path, name: str, stacks: np.ndarray, facts: Mapping[str, Any]) -> None:
    """Add the slices (2, M, rows, columns) of one pair of scans; the .json comes last: a pair is whole or absent.

    facts  "subject", "scan" and "slices" (M indices), and whatever else is known
    """
    folder.mkdir(parents=True, exist_ok=True)
    with staged_output(folder / f"{name}.json") as staged:
        np.save(staged.with_suffix(".npy"), stacks)
        content = {"format": FORMAT, **facts}
        staged.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")


def has_stack(folder: Path, name: str) -> bool:
    """Whether this pair of scans is there."""
    return (folder / f"{name}.json").is_file()


class StackPairs(SlicePairs):
    """The pairs of slices in a folder of ``write_stack``; the facts of each are those of its scan and "slice".

    Raises InputError where the folder holds no pair, or a damaged one.

        pairs = StackPairs("run/physics")
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        for path in sorted(Path(folder).glob("*.json")):
            try:
                scan = json.loads(path.read_text(encoding="utf-8"))
                slices, _, _ = scan.pop("slices"), scan["subject"], scan["scan"]
            except (OSError, ValueError, KeyError, AttributeError):
                raise InputError(f"{path}: damaged; delete it and make the pairs again") from None
            self.facts += [{**scan, "slice": k} for k in slices]
            self.places += [(path.with_suffix(".npy"), (0, row), (1, row)) for row in range(len(slices))]
        if not self.places:
            raise InputError(f"{folder}: there are no pairs of slices here; make them first")


@dataclass(frozen=True)
class PairRun:
    """What a run on pairs starts from.

    pairs        slices of the correction split
    canvas       rows and columns of them, spacing_mm of their pixels (None: each scan's own)
    source       a word for where they come from, for the card: "injected", "simulated"
    vae          the autoencoder (.safetensors) of the loss term info_nce
    hardware     what it trains on; None: the best device that is here
    """

    pairs: SlicePairs
    canvas: tuple[int, int]
    spacing_mm: float | None
    source: str
    vae: Path | None = None
    hardware: Hardware | None = None


def stack_run(
    folder: str | Path, spacing_mm: float | None, source: str, vae: Path | None = None,
    hardware: Hardware | None = None,
) -> PairRun:
    """A run on the pairs of a folder of ``stack_pairs.write_stack``."""
    pairs = StackPairs(folder)
    rows, columns = pairs[0]["clean"].shape[1:]
    return PairRun(pairs, (rows, columns), spacing_mm, source, vae, hardware)
