"""Severity weights small enough for a test, whose estimate is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from BrainDiffLogic.models.checkpoints import Card, save_checkpoint
from BrainDiffLogic.models.severity import SeverityNetwork, build_severity

ARGUMENTS: dict[str, Any] = {"channels": [4, 8], "heads": 2}
CARD: Card = {
    "version": "9.8.7", "family": "severity", "arguments": ARGUMENTS,
    "input": {"spacing_mm": [0.6, 2.0], "extent_mm": 60.0}, "training": {}, "metrics": [],
    "calibration": {"raw": [0.0, 1.0, 2.0], "mm": [0.0, 2.0, 5.0], "error_mm": [0.1, 0.2, 0.7]},
    "threshold_mm": 0.5,
}  # fmt: skip


def severity_network(raw: float | None = None) -> SeverityNetwork:
    """An untrained network; with ``raw`` one that says this of every slice."""
    torch.manual_seed(7)
    network = build_severity(ARGUMENTS)
    if raw is None:
        torch.nn.init.normal_(network.head.weight)
    else:
        network.head.bias.data = torch.tensor([raw, 0.0])
    return network.eval()


def save_severity(path: Path, raw: float | None = None, **changes: Any) -> Path:
    """Weights with their card beside them; ``changes`` replace entries of the card."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(severity_network(raw).state_dict(), {**CARD, **changes}, path)
    return path
