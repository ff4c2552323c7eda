"""The one loop that every phase trains in: Lightning on a CPU, one or several GPUs or nodes.

All that is random depends on the seed, the epoch and the sample, and checkpoints lie at the ends of epochs: a run that
is killed and started again is the run that was not, and several processes learn what one learns. Normalisation over a
batch is that of the whole batch on several GPUs; on several CPU processes, where Lightning cannot share it, each one's
own.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.outputs import make_folder, write_json
from BrainDiffLogic.training.batches import EpochBatches
from BrainDiffLogic.training.configuration import EpochFitting

LAST, BEST = "last.ckpt", "best.ckpt"
CONFIGURATION = "configuration.json"
REPORTING_FIELDS = ("validate_every", "images_every", "perceptual_options")
"""Fields that may change when a run goes on: what is looked at, and where a file lies that the identity knows."""
MOST_NAMED = 4
"""Changes that a message names."""


def open_run(run: Path, network: nn.Module, content: Mapping[str, Any], free: Collection[str] = ()) -> Path | None:
    """Make the folder of a run, or check that the run in it is this one; returns the checkpoint that it goes on from.

    content  all that the run, and so its card, depends on; written into the folder, once for all processes
    free     fields that may change when a run goes on, as nothing is learned from them
    Raises InputError when the folder cannot be written, its checkpoint cannot be read or is of another network, or it
    holds a run with another field, which it names.
    """
    last = last_checkpoint(run, network)
    if rank_zero_only.rank == 0:
        _prepare(run, content, free)
    return last


def open_epochs(run: Path, network: nn.Module, plan: EpochFitting, /, **more: Any) -> Path | None:
    """``open_run`` of a training that is told in epochs.

    more  what else the run depends on
    Without a decay of the rate, which is a share of all epochs, a run may be given more of them.
    """
    free = REPORTING_FIELDS if plan.decay else (*REPORTING_FIELDS, "epochs")
    return open_run(run, network, {**asdict(plan), **more}, free)


def _prepare(run: Path, content: Mapping[str, Any], free: Collection[str]) -> None:
    file, now = run / CONFIGURATION, json.loads(json.dumps(content))
    if (run / LAST).exists():
        before = {"optimiser": "adamw", **_read_configuration(file)}  # what runs had before there was a choice
        told = (now.keys() & before.keys()) - set(free)  # an older run may not tell some fields
        changed = [change for name in sorted(told) for change in _changes(before[name], now[name], name)]
        if changed:
            more = f" and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
            what = ", another ".join(changed[:MOST_NAMED]) + more
            raise InputError(f"{run}: holds a run of another {what}; keep to its {CONFIGURATION} or give another --run")
    make_folder(run, "give another --run")
    write_json(file, now)


def _changes(before: Any, now: Any, name: str) -> Iterator[str]:
    """Where two pieces of JSON differ, with both values where they are short."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from _changes(before.get(key), now.get(key), f"{name}.{key}")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for place, pair in enumerate(zip(before, now, strict=True)):
            yield from _changes(*pair, f"{name}[{place}]")
    elif before != now:
        short = not any(isinstance(value, dict | list) for value in (before, now))
        yield f"{name} ({before}, now {now})" if short else name


def _read_configuration(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        raise InputError(f"{file}: not the configuration of a run; restore it, or give another --run") from None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a checkpoint of a run holds: tensors and plain values; anything else in it is refused, never executed."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return content


def last_checkpoint(run: Path, network: nn.Module) -> Path | None:
    """The checkpoint that a run goes on from; None for a new run.

    Raises InputError when it cannot be read, or its weights are not of ``network``.
    """
    path = run / LAST
    if not path.exists():
        return None
    try:
        state, _ = trained_state(path), steps_done(path)
    except Exception:  # whatever unpickling a foreign or damaged file raises
        raise InputError(f"{path}: not a checkpoint of a run; delete it to start the run again") from None
    expected = network.state_dict()
    if {name: value.shape for name, value in state.items()} != {name: v.shape for name, v in expected.items()}:
        raise InputError(f"{path}: the run is of another network than the configuration's; give another --run")
    return path


def trained_state(checkpoint: str | Path) -> dict[str, torch.Tensor]:
    """The averaged weights of the network in a checkpoint of ``train``, by the network's own names."""
    state = read_checkpoint(checkpoint)["state_dict"]
    return {
        name.removeprefix("network."): value.float().contiguous()
        for name, value in state.items()
        if name.startswith("network.")
    }


def steps_done(checkpoint: str | Path) -> int:
    """The optimiser steps behind a checkpoint of ``train``."""
    return int(read_checkpoint(checkpoint)["global_step"])


def epochs_done(checkpoint: str | Path) -> int:
    """The whole epochs behind a checkpoint."""
    return int(read_checkpoint(checkpoint)["epoch"]) + 1


HARMLESS = (
    r".*does not have many workers",
    r".*The number of training batches .* is smaller than the logging interval",
    r".*Checkpoint directory .* exists and is not empty",
    r".*Experiment logs directory .* exists",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",
    r".*[Dd]etected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`",
    r".*`IterableDataset` has `__len__` defined",
    r".*The dirpath has changed from",
    r".*Total length of .* across ranks is zero",
)
"""Warnings that say nothing about a run: few workers are intended, the folder is that of the run to go on, and nobody
may be held out."""
CHATTY_LOGGERS = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
"""Loggers of tips and of lists of devices."""
UNUSED_ALLOWED = "ddp_find_unused_parameters_true"
"""A step of the autoencoder leaves the discriminator without gradients, and the other way round."""
COLUMNS = 6
"""Of a grid of pictures."""


@dataclass(frozen=True)
class Hardware:
    """Lightning's own arguments; torchrun and SLURM are Lightning's too.

    accelerator  "auto", "cpu", "gpu", "cuda" or "mps"
    devices      processes on this machine, one a device; num_nodes: machines
    strategy     "auto": one device, or DDP
    """

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"

    @property
    def processes(self) -> int:
        """On all machines."""
        return self.devices * self.num_nodes

    @property
    def several_gpus(self) -> bool:
        """Whether the processes are on GPUs: there they can share what normalises a batch."""
        gpus = self.accelerator in ("gpu", "cuda") or (self.accelerator == "auto" and torch.cuda.is_available())
        return self.processes > 1 and gpus


ONE_DEVICE = Hardware()
"""The default: the best device that is here."""


def fit(
    module: L.LightningModule, batches: EpochBatches, run: Path, hardware: Hardware, *, epochs: int,
    last: Path | None, shown: Sequence[str], validate_every: int = 1, watchers: Sequence[Callback] = (),
) -> Path:  # fmt: skip
    """Train for ``epochs``, from the checkpoint ``last`` on where there is one.

    batches   and their plan: batch, moving average, clipping, precision
    shown     logged values for the line of each epoch
    watchers  further callbacks, before those that every run has
    Returns ``run``/last.ckpt, which holds the averaged weights. Raises InputError where the machine has no such
    ``hardware``, or a batch cannot be shared: what is learned depends on the batch alone.
    """
    plan, parts = batches.plan, hardware.processes * batches.plan.accumulate
    if plan.batch % parts:
        raise InputError(
            f"batch {plan.batch} cannot be shared by {hardware.processes} processes in {plan.accumulate} parts; make it"
            f" a multiple of {parts}"
        )
    callbacks = [
        *watchers,
        ModelCheckpoint(run, filename=Path(LAST).stem, save_top_k=1, monitor=None, every_n_epochs=1,
                        save_on_train_epoch_end=True, enable_version_counter=False),
        progress_callback(epochs, shown),
    ]  # fmt: skip
    if plan.ema:  # Lightning swaps the averages in where it validates and writes checkpoints
        callbacks.append(EMAWeightAveraging(decay=plan.ema))
    manual = not module.automatic_optimization  # such a module accumulates and clips by itself
    with without_chatter():
        try:
            trainer = L.Trainer(
                accelerator=hardware.accelerator, devices=hardware.devices, num_nodes=hardware.num_nodes,
                strategy=_strategy(module, hardware), sync_batchnorm=hardware.several_gpus, precision=plan.precision,
                max_epochs=epochs, limit_train_batches=batches.steps * plan.accumulate,
                accumulate_grad_batches=1 if manual else plan.accumulate,
                gradient_clip_val=None if manual else plan.clip or None, check_val_every_n_epoch=validate_every,
                num_sanity_val_steps=0, reload_dataloaders_every_n_epochs=1, use_distributed_sampler=False,
                plugins=[AtomicCheckpoints()], callbacks=callbacks, default_root_dir=run,
                logger=TensorBoardLogger(run, name="", version="log"), log_every_n_steps=20,
                enable_model_summary=False, enable_progress_bar=sys.stderr.isatty(),
            )  # fmt: skip
        except MisconfigurationException as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"--device {hardware.accelerator}: {reason}; give --device auto or cpu") from None
        except ValueError as error:
            raise InputError(f"--strategy {hardware.strategy}: {str(error).splitlines()[0]}") from None
        trainer.fit(module, datamodule=batches, ckpt_path=last, weights_only=True)  # no code of a checkpoint runs
    return run / LAST


def _strategy(module: L.LightningModule, hardware: Hardware) -> str:
    judged = getattr(module, "discriminator", None) is not None
    several = hardware.processes > 1 and hardware.strategy in ("auto", "ddp")
    return UNUSED_ALLOWED if judged and several else hardware.strategy


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place, then moves it: a run killed meanwhile keeps the one before.

    Lightning writes into the system's folder for temporary files first; where that is another disk, the move is a copy,
    which a kill leaves half done.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``, whole or not at all."""
        partial = f"{path}.part"
        with open(partial, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)


class BestCheckpoint(ModelCheckpoint):
    """Remembers the best epoch also where the run's folder has moved since, which Lightning 2.6 does not."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state with its files where they are now."""
        here = Path(str(self.dirpath))

        def moved(path: str) -> str:
            return str(here / Path(path).name) if path else path

        named = ("best_model_path", "kth_best_model_path", "last_model_path")
        paths = {name: moved(state_dict[name]) for name in named}
        models = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": models, "dirpath": self.dirpath})


def best_epoch(run: Path, watched: str, patience: int) -> list[Callback]:
    """Callbacks that keep ``BEST``, the epoch in which the logged value ``watched`` is smallest.

    patience  epochs without a smaller one after which the run ends; 0: it goes on
    """
    best = BestCheckpoint(
        run, filename=Path(BEST).stem, monitor=watched, mode="min", save_top_k=1, save_on_train_epoch_end=False,
        enable_version_counter=False,
    )  # fmt: skip
    if not patience:
        return [best]
    return [best, EarlyStopping(watched, patience=patience, mode="min", check_on_train_epoch_end=False)]


@contextmanager
def without_chatter() -> Iterator[None]:
    """Without the trainer's tips and the known harmless warnings; other warnings are shown."""
    loggers = [logging.getLogger(name) for name in CHATTY_LOGGERS]
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


def progress_callback(epochs: int, shown: Sequence[str]) -> Callback:
    """For a run of ``epochs``: a progress bar where stderr is a terminal, else ``EpochLines``."""
    return TQDMProgressBar(refresh_rate=20) if sys.stderr.isatty() else EpochLines(epochs, shown)


class EpochLines(Callback):
    """One line on stderr at the end of each epoch: means of what was logged in training, the last validation, and the
    share of the time between the first step and the last in which the next batch was waited for.

    epochs  of the whole run
    shown   names of logged values; those of validation begin with "validation/"
    """

    def __init__(self, epochs: int, shown: Sequence[str]) -> None:
        self.epochs, self.shown = epochs, shown
        self.values: dict[str, list[float]] = {}
        self.begun: float | None = None
        self.ended = self.waited = 0.0

    def on_train_batch_start(self, *_: object) -> None:
        """Note how long the batch took to come."""
        now = time.monotonic()
        if self.begun is None:
            self.begun, self.waited = now, 0.0
        else:
            self.waited += now - self.ended

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Keep what the training step logged."""
        self.ended = time.monotonic()
        for name in self.shown:
            if name in trainer.callback_metrics and not name.startswith("validation/"):
                self.values.setdefault(name, []).append(float(trainer.callback_metrics[name]))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the line, once for all processes; validation only in an epoch that had one."""
        parts = [f"{name} {sum(values) / len(values):.4f}" for name, values in self.values.items()]
        if (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0:
            logged = {name: value for name, value in trainer.callback_metrics.items() if name in self.shown}
            parts += [f"{name} {float(value):.4f}" for name, value in logged.items() if name.startswith("validation/")]
        if self.begun is not None and self.waited:
            parts.append(f"waiting for data {self.waited / (self.ended - self.begun):.0%}")
        if trainer.is_global_zero:
            line = f"epoch {trainer.current_epoch + 1} of {self.epochs}: {', '.join(parts)}"
            print(line, file=sys.stderr, flush=True)
        self.values, self.begun = {}, None


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
