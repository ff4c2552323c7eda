"""What the outputs of a batch depend on, beside the scans."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from BrainDiffLogic.models.checkpoints import DEFAULT_MODEL


@dataclass(frozen=True)
class Settings:
    """How every scan of a batch is corrected; the fields are arguments of ``correction_files.correct_file``.

    device  where the network runs, which is no matter of what comes out
    """

    model: str = DEFAULT_MODEL
    strength: float = 1.0
    force: bool = False
    pe_axis: str = "auto"
    disagreement: bool = False
    device: str = "auto"

    @property
    def parameters(self) -> dict[str, Any]:
        """Those that the outputs depend on, as sidecars have them."""
        return {
            "Model": Path(self.model).stem, "Strength": self.strength, "Force": self.force,
            "PhaseEncodingAxis": self.pe_axis, "Disagreement": self.disagreement,
        }  # fmt: skip
