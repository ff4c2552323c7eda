"""How far predictions disagree: of one network on mirrored and shifted slices, and of networks of other families.

Where they disagree the answer depends on the network's accidents, and its error tends to be large; where they agree it
may be wrong all the same. The map is no probability. After Wang 2019 (test-time augmentation, Neurocomputing 338:34)
and Lakshminarayanan 2017 (ensembles, NeurIPS).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from BrainDiffLogic.models.checkpoints import PHYSICS, SUFFIX, Card, View, load_checkpoint, read_card, shipped_folder

if TYPE_CHECKING:
    from BrainDiffLogic.models.corrector import Corrector


VIEWS = (View(mirrored=True), View(shift=(5, 3)), View(mirrored=True, shift=(2, 7)))
"""Beside the stack as it is. Odd shifts move the cells of 2 x 2 pixels in which the compact networks see."""


def spread(answers: Iterable[np.ndarray]) -> np.ndarray:
    """The standard deviation over answers of one shape, voxel by voxel (one answer less in the divisor), float32.

    Welford's recurrence: the answers are never in memory together. Zeros where there are fewer than two.
    """
    mean: np.ndarray | None = None
    squares, count = np.zeros(1, np.float32), 0
    for count, answer in enumerate(answers, 1):
        if mean is None:
            mean, squares = answer.astype(np.float32), np.zeros(answer.shape, np.float32)
            continue
        step = answer - mean
        mean += step / np.float32(count)
        squares += step * (answer - mean)
    return np.sqrt(squares / np.float32(max(count - 1, 1)))


Ask = Callable[["Corrector", np.ndarray, int], np.ndarray]
"""A corrector, a stack and how often it was asked before, to the residual of the stack."""


@dataclass(frozen=True)
class Panel:
    """Who is asked: the model as it corrects, about each of ``VIEWS`` alone, and the others as they correct."""

    model: tuple[Corrector, Card]
    others: Sequence[tuple[Corrector, Card]]

    @classmethod
    def around(cls, model: tuple[Corrector, Card]) -> Panel:
        """The model and the shipped models of other families."""
        cards = {path: read_card(path) for path in sorted(shipped_folder().glob("*" + SUFFIX))}
        family = model[1]["family"]
        networks = {path: card for path, card in cards.items() if card["family"] not in (family, PHYSICS)}
        return cls(model, [load_checkpoint(path) for path in networks])

    def __len__(self) -> int:
        return 1 + len(VIEWS) + len(self.others)

    @property
    def sums(self) -> list[str]:
        """The sha256 of the weights and the views that each is asked about, the model's own first."""
        cards = [card for _, card in (self.model, *self.others)]
        return [" ".join([card["sha256"], *map(json.dumps, card.get("views", []))]) for card in cards]

    def answers(self, first: np.ndarray, stack: np.ndarray, ask: Ask) -> Iterator[np.ndarray]:
        """As many arrays of the stack's shape as the panel is long, beginning with ``first``, the model's own answer.

        stack  (slices, rows, columns) in network units
        """
        from BrainDiffLogic.models.corrector import AugmentedCorrector

        yield first
        for asked, view in enumerate(VIEWS, 1):
            yield ask(AugmentedCorrector(self.model[0], [view]).eval(), stack, asked)
        for asked, (other, _) in enumerate(self.others, 1 + len(VIEWS)):
            yield ask(other, stack, asked)


@dataclass(frozen=True)
class Calibration:
    """Which error went with which spread on validation heads, in network units.

    spread  (n,) rising; error (n,): below it lay ``share`` of the errors of voxels with this spread
    sums    of the panel it holds for
    """

    spread: Sequence[float]
    error: Sequence[float]
    share: float
    sums: Sequence[str] = field(repr=False)

    @classmethod
    def fit(cls, spread: np.ndarray, error: np.ndarray, share: float, sums: Sequence[str]) -> Calibration:
        """From the voxels (n,) of the heads of some corrected volumes; 0 at 0, never falls where the spread rises."""
        bins = 20
        edges = np.quantile(spread, np.linspace(0, 1, bins + 1))
        member = np.clip(np.searchsorted(edges, spread, side="right") - 1, 0, bins - 1)
        filled = [member == number for number in range(bins) if (member == number).any()]
        at = [float(spread[these].mean()) for these in filled]
        below = np.maximum.accumulate([float(np.quantile(error[these], share)) for these in filled])
        return cls([0.0, *at], [0.0, *below.tolist()], share, list(sums))

    @classmethod
    def of(cls, sums: Sequence[str]) -> Calibration | None:
        """The shipped one for a panel; None where there is none."""
        path = calibration_file()
        entries = json.loads(path.read_text(encoding="utf-8"))["calibrations"] if path.is_file() else []
        return next((cls(**each) for each in entries if each["sums"] == list(sums)), None)

    def __call__(self, spread: np.ndarray) -> np.ndarray:
        """The error that goes with a spread, of any shape; beyond the ends that of the end."""
        return np.interp(spread, self.spread, self.error).astype(np.float32)


def calibration_file() -> Path:
    """Where the shipped calibrations are."""
    return shipped_folder().parent / "Disagreement" / "calibration.json"


@dataclass(frozen=True)
class Provenance:
    """How a disagreement map was made; ``NOT_ASKED``: the scan comes back unchanged, the map is 0.

    answers     that were compared, 0 where nothing was corrected
    share       of the errors of validation voxels that lay below the map; None where it is the plain spread
    """

    answers: int
    share: float | None

    @property
    def facts(self) -> dict[str, Any]:
        """As the report has it."""
        return {"answers": self.answers, "calibrated": self.share is not None, "share": self.share}

    @property
    def notes(self) -> list[str]:
        """For the person, where the map is not what it usually is."""
        if not self.answers:
            return ["the disagreement map is zero: nothing was corrected"]
        plain = "the disagreement map is the plain spread of the answers: it is not calibrated for this model"
        return [] if self.share else [plain]


NOT_ASKED = Provenance(0, None)


def disagreement_map(panel: Panel, first: np.ndarray, stack: np.ndarray, ask: Ask) -> tuple[np.ndarray, Provenance]:
    """The disagreement map (slices, rows, columns) in network units.

    Calibrated, where the panel is that of the shipped models: the error below which a share of the errors lay, on
    validation heads, in voxels of this spread. Else the plain standard deviation.
    """
    apart = spread(panel.answers(first, stack, ask))
    calibration = Calibration.of(panel.sums)
    if calibration is None:
        return apart, Provenance(len(panel), None)
    return calibration(apart), Provenance(len(panel), calibration.share)
