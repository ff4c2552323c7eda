"""Pictures of a run in TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

COLUMNS = 6


def grid(rows: Sequence[Tensor]) -> Tensor:
    """(1, rows * W, columns * H) of stacks (N, 1, H, W), at most six columns, clipped to [0, 1].

    Sagittal slices are transposed and flipped: superior is up, anterior to the right.
    """
    lines = [torch.cat(list(row[:COLUMNS, 0].float()), dim=0) for row in rows]
    return torch.cat([line.T.flip(0) for line in lines], dim=0)[None].clamp(0, 1)


def log_grid(module: L.LightningModule, name: str, rows: Sequence[Tensor]) -> None:
    """Write the grid of ``rows`` to the run's TensorBoard, once for all processes."""
    if isinstance(module.logger, TensorBoardLogger) and module.trainer.is_global_zero:
        module.logger.experiment.add_image(name, grid(rows).cpu(), module.current_epoch + 1)
