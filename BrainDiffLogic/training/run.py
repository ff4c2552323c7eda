"""Run supervised training: make the pairs, fit, go on after an interruption."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import find_checkpoint, load_checkpoint, read_card
from BrainDiffLogic.models.families import CONFIGURATIONS, build
from BrainDiffLogic.parallel import run_all
from BrainDiffLogic.training.configuration import HOW_TO_CORRECT, CorrectorConfiguration
from BrainDiffLogic.training.hardware import ONE_DEVICE, Hardware, check_shares
from BrainDiffLogic.training.optimisers import check_optimiser, revive
from BrainDiffLogic.training.ordered_batches import Shares
from BrainDiffLogic.training.pairs import PairCache
from BrainDiffLogic.training.progress import progress_callback, quiet
from BrainDiffLogic.training.run_folder import LAST, AtomicCheckpoints, last_checkpoint, prepare
from BrainDiffLogic.training.slices import CachedSlices, Sample, SimulatedSlices, ValidationSlices
from BrainDiffLogic.training.sources import assert_other_motion, assert_other_runs, find_sources, find_traces
from BrainDiffLogic.training.supervised import SupervisedCorrection

VALIDATION_SEEDS = 10_000
"""Added to the seed for the trajectories of validation, so that none of them is trained on."""
VALIDATION_STILL = 0.15
"""Share of still scans in validation: enough of them to see harm."""
VALIDATE_EVERY = 5
"""Epochs from one validation to the next."""


def caches(configuration: CorrectorConfiguration, data: str | Path, folder: str | Path) -> tuple[PairCache, PairCache]:
    """The training and the validation pairs of a configuration: other subjects, other trajectories."""
    training, validation = find_sources(configuration, data)
    seeds = configuration.seed, configuration.seed + VALIDATION_SEEDS
    traces = find_traces(configuration, data)
    if traces[0] is not None and traces[1] is not None:
        assert_other_runs(*traces)
    trained = PairCache(folder, training, configuration.recipe, seeds[0], traces[0])
    recipe = replace(configuration.recipe, still_share=VALIDATION_STILL)
    held_out = PairCache(folder, validation, recipe, seeds[1], traces[1])
    return trained, held_out


def make_pairs(cache: PairCache, pairs: int, jobs: int, report: Callable[[int, int], None] | None = None) -> None:
    """Simulate the pairs 0 to ``pairs`` - 1 that are missing, in ``jobs`` processes."""
    missing = sorted(set(range(pairs)) - set(cache.ready(pairs)))
    if not missing:
        return
    there = pairs - len(missing)

    def tell(share: float, _: str) -> None:
        if report:
            report(there + round(share * len(missing)), pairs)

    run_all([partial(cache.make, index) for index in missing], jobs, tell, "Simulating pairs")


def train(
    configuration: CorrectorConfiguration,
    data: str | Path,
    run: str | Path,
    *,
    cache: str | Path | None = None,
    hardware: Hardware = ONE_DEVICE,
    workers: int = 1,
    jobs: int = 1,
    initial: str | Path | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Path:
    """Train a corrector and write its weights; goes on from ``run``/last.ckpt when that is there.

    data     folder of the sources' patterns
    run      folder of checkpoints, the configuration and TensorBoard logs
    cache    folder of simulated pairs (default: ``run``/pairs); other runs of the same recipe may share it
    initial  checkpoint of the shipped kind (.safetensors) to start from
    All that is random depends on the seed and the epoch, and checkpoints lie at the ends of epochs, so a run
    that is killed and started again is the run that was not. Returns ``run``/last.ckpt, which holds the
    averaged weights. Raises InputError where the configuration, the data or the folder do not serve.
    """
    check_optimiser(configuration.optimiser)
    L.seed_everything(configuration.seed + configuration.draw, workers=True, verbose=False)
    run = Path(run)
    arguments = network_arguments(configuration)
    corrector = build(configuration.family, arguments)
    if configuration.crop % corrector.multiple:
        raise InputError(f"crop {configuration.crop} is not a multiple of {corrector.multiple}, as the network needs")
    if initial:
        load_initial(corrector, initial)
    if configuration.revive:
        revive(corrector, configuration.revive)
    if hardware.processes > 1 and not configuration.pairs:
        raise InputError("pairs simulated on the fly cannot be shared by several processes; give --pairs, a number")
    training, validation = caches(configuration, data, cache or run / "pairs")
    split = {name: _subjects(pairs) for name, pairs in (("training", training), ("held out", validation))}
    last, done = last_checkpoint(run, corrector)
    if rank_zero_only.rank == 0:
        made_from = {"pairs_of": [training.digest, validation.digest], "initial": sha256_of(initial)}
        prepare(run, {**asdict(configuration), "network": arguments, "split": split, **made_from}, HOW_TO_CORRECT)
    if last and done >= configuration.steps:
        return last
    make_pairs(validation, configuration.validation_pairs, jobs, report)
    if configuration.pairs:
        make_pairs(training, configuration.pairs, jobs, report)
        made = (training, configuration.pairs), (validation, configuration.validation_pairs)
        assert_other_motion(*([cache.facts(index)["motion"] for index in range(count)] for cache, count in made))
    slices = _Slices(configuration, training, validation, corrector.context, workers)
    with quiet():
        trainer = make_trainer(configuration, run, hardware)
        module = SupervisedCorrection(corrector, configuration)
        trainer.fit(module, datamodule=slices, ckpt_path=last, weights_only=True)
    return run / LAST


def _subjects(pairs: PairCache) -> list[str]:
    return sorted({source.subject for source in pairs.sources})


def network_arguments(configuration: CorrectorConfiguration) -> dict[str, Any]:
    """The arguments of the network of a configuration, as a card stores them."""
    if isinstance(configuration.network, dict):
        return configuration.network
    known = CONFIGURATIONS.get(configuration.family, {})
    if configuration.network not in known:
        raise InputError(
            f"network {configuration.network!r} of family {configuration.family!r} is unknown: use one of"
            f" {', '.join(known) or 'the families ' + ', '.join(CONFIGURATIONS)}, or give its arguments"
        )
    return known[configuration.network]


class _StopAfter(Callback):
    """Ends the run at a number of steps; the last epoch is shorter where they are no whole number of epochs.

    Not the trainer's ``max_steps``: a run that counts steps goes on from the end of an epoch with its last batch
    (Lightning 2.6, ``_FitLoop.restarting``), so that a resumed run would not be the run that was not interrupted.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop |= trainer.global_step >= self.steps


class _Slices(L.LightningDataModule):
    """Loaders whose content depends on the epoch, rebuilt at each."""

    def __init__(
        self,
        configuration: CorrectorConfiguration,
        training: PairCache,
        validation: PairCache,
        context: int,
        workers: int,
    ) -> None:
        super().__init__()
        self.configuration, self.pairs, self.held_out = configuration, training, validation
        self.context, self.workers = context, workers

    def train_dataloader(self) -> DataLoader[Sample]:
        c = self.configuration
        steps = min(c.epoch_steps, c.steps - self.trainer.global_step) if self.trainer else c.epoch_steps
        samples = c.batch * steps
        what = samples, self.context, c.crop, c.seed + c.draw, c.lesions, c.masked
        dataset: CachedSlices | SimulatedSlices
        dataset = CachedSlices(self.pairs, c.pairs, *what) if c.pairs else SimulatedSlices(self.pairs, *what)
        dataset.epoch = self.trainer.current_epoch if self.trainer else 0
        if isinstance(dataset, CachedSlices):
            shares = Shares.of(self.trainer, samples, c.batch, c.accumulate)
            return DataLoader(dataset, batch_sampler=shares, num_workers=self.workers)
        return DataLoader(dataset, c.batch // c.accumulate, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader[Sample]:
        c = self.configuration
        dataset = ValidationSlices(self.held_out, c.validation_pairs, self.context, c.crop)
        return DataLoader(dataset, c.batch, num_workers=0)


def make_trainer(
    configuration: CorrectorConfiguration, run: Path, hardware: Hardware, more: Sequence[Callback] = (),
    validate_every: int = VALIDATE_EVERY,
) -> L.Trainer:  # fmt: skip
    """The trainer of a run, with ``more`` callbacks before those that every run has.

    Normalisation over the batch is that of the whole batch on several GPUs; on several CPU processes it is each one's
    own, which Lightning cannot share there. Raises InputError where the machine has no such ``hardware``, or the batch
    cannot be shared.
    """
    check_shares(configuration.batch, hardware.processes, configuration.accumulate)
    callbacks: list[Callback] = [
        *more,
        ModelCheckpoint(run, filename="last", save_top_k=1, monitor=None, every_n_epochs=1,
                        save_on_train_epoch_end=True, enable_version_counter=False),
        _StopAfter(configuration.steps),
        progress_callback(configuration.steps),
    ]  # fmt: skip
    if configuration.ema:
        callbacks.append(EMAWeightAveraging(decay=configuration.ema))
    try:
        return L.Trainer(
            accelerator=hardware.accelerator, devices=hardware.devices, num_nodes=hardware.num_nodes,
            strategy=hardware.strategy, precision=configuration.precision, use_distributed_sampler=False,
            sync_batchnorm=hardware.several_gpus,
            plugins=[AtomicCheckpoints()], max_epochs=-1, gradient_clip_val=configuration.clip,
            limit_train_batches=configuration.epoch_steps * configuration.accumulate or None,
            accumulate_grad_batches=configuration.accumulate, check_val_every_n_epoch=validate_every,
            num_sanity_val_steps=0, reload_dataloaders_every_n_epochs=1, callbacks=callbacks,
            logger=TensorBoardLogger(run, name="", version="log"), log_every_n_steps=20, default_root_dir=run,
            enable_model_summary=False, enable_progress_bar=sys.stderr.isatty(),
        )  # fmt: skip
    except MisconfigurationException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {hardware.accelerator}: {reason}; give --device auto or cpu") from None
    except ValueError as error:
        raise InputError(f"--strategy {hardware.strategy}: {str(error).splitlines()[0]}") from None


def started_from(initial: str | Path | None) -> dict[str, Any]:
    """For a card's training: the checkpoint that a run started from, with all that its card says of its training."""
    if initial is None:
        return {}
    before = read_card(find_checkpoint(initial))
    return {"initial": {name: before[name] for name in ("name", "sha256", "averaged", "training") if name in before}}


def sha256_of(initial: str | Path | None) -> str | None:
    """Of the weights that a run started from."""
    return None if initial is None else str(read_card(find_checkpoint(initial))["sha256"])


def load_initial(corrector: torch.nn.Module, path: str | Path) -> None:
    """Start from the weights of a checkpoint (.safetensors); InputError where they are of another network."""
    source, _ = load_checkpoint(path)
    try:
        corrector.load_state_dict(source.state_dict())
    except RuntimeError:
        raise InputError(f"{path}: these weights are of another network than the configuration's") from None
