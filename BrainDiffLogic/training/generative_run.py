"""Running phases 1 and 2: on a CPU, one or several GPUs or nodes; a run that was interrupted goes on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.training.autoencoder_phase import AutoencoderTraining
from BrainDiffLogic.training.configuration import GenerativeConfiguration
from BrainDiffLogic.training.diffusion_phase import DiffusionTraining
from BrainDiffLogic.training.hardware import Hardware, check_shares
from BrainDiffLogic.training.ordered_batches import OrderedBatches
from BrainDiffLogic.training.progress import MeanLines, quiet
from BrainDiffLogic.training.run_folder import LAST, AtomicCheckpoints, epochs_done, last_checkpoint, prepare

FREE = ("validate_every", "images_every", "perceptual_options")
"""Fields that may change when a run goes on: what is looked at, and where a file lies that the identity knows."""
UNUSED_ALLOWED = "ddp_find_unused_parameters_true"
"""A step of the autoencoder leaves the discriminator without gradients, and the other way round."""


def start(run: Path, phase: str, plan: GenerativeConfiguration, arguments: dict[str, Any], **identity: Any) -> None:
    """Write the configuration into the run's folder, once for all processes.

    identity  what else the run depends on
    Raises InputError when the folder holds a run of another configuration or identity. Without a decay of the rate,
    which is a share of all epochs, a run may be given more of them.
    """
    content = {**asdict(plan), "phase": phase, "network": arguments, **identity}
    if rank_zero_only.rank == 0:
        prepare(run, content, FREE if plan.decay else (*FREE, "epochs"))


def finished(run: Path, network: Any, plan: GenerativeConfiguration) -> tuple[Path | None, bool]:
    """The checkpoint to go on from, if any, and whether all epochs are behind it."""
    last, _ = last_checkpoint(run, network)
    return last, last is not None and epochs_done(last) >= plan.epochs


def fit(
    module: AutoencoderTraining | DiffusionTraining, batches: OrderedBatches, run: Path, last: Path | None,
    hardware: Hardware, lines: tuple[Sequence[str], Sequence[str]],
) -> Path:
    """Train; returns ``run``/last.ckpt, which holds the averaged weights.

    lines  names of logged values for the line of each epoch: of training, of validation
    All that is random depends on the seed, the epoch and the sample, and checkpoints lie at the ends of epochs: a run
    that is killed and started again is the run that was not, and several processes learn what one learns (normalisation
    over a batch is that of the whole batch on several GPUs, on several CPU processes each one's own).
    """
    plan = module.plan
    L.seed_everything(plan.seed, workers=True, verbose=False)
    with quiet():
        trainer = _trainer(module, run, hardware, lines)
        check_shares(plan.batch, trainer.world_size, plan.accumulate)
        trainer.fit(module, datamodule=batches, ckpt_path=last, weights_only=True)
    return run / LAST


def _trainer(
    module: AutoencoderTraining | DiffusionTraining, run: Path, hardware: Hardware,
    lines: tuple[Sequence[str], Sequence[str]],
) -> L.Trainer:  # fmt: skip
    plan = module.plan
    manual = not module.automatic_optimization  # such a module accumulates and clips by itself
    callbacks: list[Callback] = [
        ModelCheckpoint(run, filename="last", save_top_k=1, monitor=None, every_n_epochs=1,
                        save_on_train_epoch_end=True, enable_version_counter=False),
        TQDMProgressBar(refresh_rate=20) if sys.stderr.isatty() else MeanLines(plan.epochs, *lines),
    ]  # fmt: skip
    if plan.ema:
        callbacks.append(EMAWeightAveraging(decay=plan.ema))
    try:
        return L.Trainer(
            accelerator=hardware.accelerator, devices=hardware.devices, num_nodes=hardware.num_nodes,
            strategy=_strategy(module, hardware), sync_batchnorm=hardware.several_gpus,
            precision=plan.precision, plugins=[AtomicCheckpoints()], max_epochs=plan.epochs,
            accumulate_grad_batches=1 if manual else plan.accumulate,
            gradient_clip_val=None if manual else plan.clip or None, check_val_every_n_epoch=plan.validate_every,
            num_sanity_val_steps=0, reload_dataloaders_every_n_epochs=1, use_distributed_sampler=False,
            callbacks=callbacks, logger=TensorBoardLogger(run, name="", version="log"), log_every_n_steps=20,
            default_root_dir=run, enable_model_summary=False, enable_progress_bar=sys.stderr.isatty(),
        )  # fmt: skip
    except MisconfigurationException as error:
        raise InputError(f"this machine cannot run that ({str(error).splitlines()[0]}); change --device") from None
    except ValueError as error:
        raise InputError(f"--strategy {hardware.strategy}: {str(error).splitlines()[0]}") from None


def _strategy(module: AutoencoderTraining | DiffusionTraining, hardware: Hardware) -> str:
    several = hardware.processes > 1
    judged = getattr(module, "discriminator", None) is not None
    return UNUSED_ALLOWED if hardware.strategy in ("auto", "ddp") and several and judged else hardware.strategy
