"""Correctors small enough for a test: untrained, but real networks in real checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from BrainDiffLogic.models.checkpoints import Card, save_checkpoint
from BrainDiffLogic.models.corrector import Corrector, build

FAMILY = "attention-unet"
ARGUMENTS: dict[str, Any] = {"design": "residual", "channels": [4, 8], "context": 3, "shuffle": 2, "gain": 0.02}
CARD: Card = {
    "version": "9.8.7", "family": FAMILY, "arguments": {**ARGUMENTS, "zero_init": False},
    "input": {"spacing_mm": [0.6, 2.0], "extent_mm": 60.0}, "training": {}, "metrics": [],
    "name": "tiny", "sha256": "0" * 64,
}  # fmt: skip


def tiny_corrector(zero: bool = False) -> Corrector:
    """A network of some thousand weights with random output, or with the output zero."""
    torch.manual_seed(3)
    return build(FAMILY, {**ARGUMENTS, "zero_init": zero}).eval()


def save_tiny(path: Path, **changes: Any) -> Path:
    """A checkpoint with its card beside it; ``changes`` replace entries of the card."""
    save_checkpoint(tiny_corrector().state_dict(), {**CARD, **changes}, path)
    return path
