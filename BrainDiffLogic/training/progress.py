"""What a training run tells the person: a bar on a terminal, one line an epoch elsewhere, and no chatter."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import lightning as L
from lightning.pytorch.callbacks import Callback, TQDMProgressBar

HARMLESS = (
    r".*does not have many workers",
    r".*The number of training batches .* is smaller than the logging interval",
    r".*Checkpoint directory .* exists and is not empty",
    r".*Experiment logs directory .* exists",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",
    r".*[Dd]etected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`",
    r".*`IterableDataset` has `__len__` defined",
    r".*The dirpath has changed from",
)
"""Warnings that say nothing about a run: few workers are intended, the folder is that of the run to go on."""
TALKATIVE = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
"""Loggers of tips and of lists of devices."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without the trainer's tips and the known harmless warnings; other warnings are shown."""
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in HARMLESS:
            warnings.filterwarnings("ignore", message=message)
        try:
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def progress_callback(steps: int) -> Callback:
    """For a run of ``steps``: a progress bar where stderr is a terminal, else ``EpochLines``."""
    return TQDMProgressBar(refresh_rate=20) if sys.stderr.isatty() else EpochLines(steps)


class EpochLines(Callback):
    """One line on stderr at the end of each epoch: step, loss, share of the input's error, validation."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.sums: dict[str, float] = {}
        self.count = 0

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Add up what the training step logged."""
        self.count += 1
        for name in ("loss", "share_of_input_error"):
            self.sums[name] = self.sums.get(name, 0.0) + float(trainer.callback_metrics[name])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the line; validation only in an epoch that had one."""
        mean = {name: value / self.count for name, value in self.sums.items()}
        line = (
            f"epoch {trainer.current_epoch + 1}: step {trainer.global_step} of {self.steps},"
            f" loss {mean['loss']:.5f}, {mean['share_of_input_error']:.3f} of the input's error"
        )
        validated = (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
        if validated and "validation/all" in trainer.callback_metrics:
            line += f", validation {float(trainer.callback_metrics['validation/all']):.3f}"
        print(line, file=sys.stderr, flush=True)
        self.sums, self.count = {}, 0


class MeanLines(Callback):
    """One line on stderr at the end of each epoch: the means of what was logged in training, the last validation.

    epochs                of the whole run
    training, validation  names of logged values
    """

    def __init__(self, epochs: int, training: Sequence[str], validation: Sequence[str]) -> None:
        self.epochs, self.training, self.validation = epochs, training, validation
        self.sums: dict[str, list[float]] = {}

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Add up what the training step logged."""
        for name in self.training:
            if name in trainer.callback_metrics:
                total = self.sums.setdefault(name, [0.0, 0.0])
                total[0] += float(trainer.callback_metrics[name])
                total[1] += 1

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the line, once for all processes; validation only in an epoch that had one."""
        parts = [f"{name} {total / count:.4f}" for name, (total, count) in self.sums.items()]
        if (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0:
            metrics = trainer.callback_metrics
            parts += [f"{name} {float(metrics[name]):.4f}" for name in self.validation if name in metrics]
        if trainer.is_global_zero:
            line = f"epoch {trainer.current_epoch + 1} of {self.epochs}: {', '.join(parts)}"
            print(line, file=sys.stderr, flush=True)
        self.sums = {}
