"""What a run of the CLI module found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class CorrectionFinding:
    """Arrays on the grid of the input, in its units, KJI as ``slicer.util.arrayFromVolume`` has them.

    change        what to add to the input at strength 1, float
    report        of the CLI module: model, notes, quality before and after
    disagreement  how far predictions lie apart at strength 1, >= 0; None where it was not asked for
    """

    change: np.ndarray
    report: dict[str, Any]
    disagreement: np.ndarray | None = None
