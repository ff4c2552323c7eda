"""Phase 4 of BrainDiff: a corrector on pairs of slices that are there, injected or simulated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, Dataset

from BrainDiffLogic import __version__
from BrainDiffLogic.digests import SHORT, digest
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import Card, save_checkpoint
from BrainDiffLogic.models.corrector import Corrector
from BrainDiffLogic.models.families import build
from BrainDiffLogic.training.configuration import HOW_TO_CORRECT, OPTIMISERS, CorrectorConfiguration
from BrainDiffLogic.training.export import how_to_correct
from BrainDiffLogic.training.generative_checkpoints import NATIVE_SPACING_MM, load_vae
from BrainDiffLogic.training.hardware import ONE_DEVICE, Hardware
from BrainDiffLogic.training.losses import ContrastiveLoss
from BrainDiffLogic.training.optimisers import check_optimiser, revive
from BrainDiffLogic.training.ordered_batches import Shares, evenly
from BrainDiffLogic.training.progress import quiet
from BrainDiffLogic.training.run import load_initial, make_trainer, network_arguments, sha256_of, started_from
from BrainDiffLogic.training.run_folder import (
    LAST,
    last_checkpoint,
    prepare,
    read_checkpoint,
    steps_done,
    trained_state,
)
from BrainDiffLogic.training.slice_pairs import SlicePairs, StackPairs
from BrainDiffLogic.training.slices import Sample
from BrainDiffLogic.training.supervised import SupervisedCorrection

BEST = "best.ckpt"
WATCHED = "validation/all"
"""The error that remains of the held-out pairs, as a share of the input's."""
VALIDATION_PAIRS = 512
"""At most so many pairs, evenly spread, are validated on."""


@dataclass(frozen=True)
class PairRun:
    """What a run on pairs starts from.

    pairs        slices of the correction split
    canvas       rows and columns of them, spacing_mm of their pixels (None: each scan's own)
    source       a word for where they come from, for the card: "injected", "simulated"
    vae          the autoencoder (.safetensors) of the loss term info_nce
    hardware     what it trains on
    """

    pairs: SlicePairs
    canvas: tuple[int, int]
    spacing_mm: float | None
    source: str
    vae: Path | None = None
    hardware: Hardware = ONE_DEVICE


def stack_run(
    folder: str | Path, spacing_mm: float | None, source: str, vae: Path | None = None,
    hardware: Hardware = ONE_DEVICE,
) -> PairRun:
    """A run on the pairs of a folder of ``stack_pairs.write_stack``."""
    pairs = StackPairs(folder)
    rows, columns = pairs[0]["clean"].shape[1:]
    return PairRun(pairs, (rows, columns), spacing_mm, source, vae, hardware)


def train_on_pairs(
    configuration: CorrectorConfiguration, start: PairRun, run: str | Path, initial: str | Path | None = None
) -> Path:
    """Train a corrector on pairs of slices; goes on from ``run``/last.ckpt when that is there.

    Ends at the steps of the stages or when the validation error has not fallen for ``patience`` epochs. Returns the
    checkpoint of the epoch with the smallest validation error (the last one where nobody is held out), averaged
    weights in it. Raises InputError where configuration, pairs, autoencoder or folder do not serve.
    """
    run = Path(run)
    check_optimiser(configuration.optimiser)
    L.seed_everything(configuration.seed + configuration.draw, workers=True, verbose=False)
    arguments = network_arguments(configuration)
    corrector = build(configuration.family, arguments)
    _check(configuration, start, corrector)
    if initial:
        load_initial(corrector, initial)
    if configuration.revive:
        revive(corrector, configuration.revive)
    training, validation = start.pairs.hold_out(configuration.validation_share)
    contrastive, vae = _contrastive(configuration, start)
    identity = {
        "pairs_of": pairs_digest(start.pairs), "contrastive": configuration.contrastive, "vae_sha256": vae,
        "initial": sha256_of(initial),
    }  # fmt: skip
    last, done = last_checkpoint(run, corrector)
    if rank_zero_only.rank == 0:
        prepare(run, {**asdict(configuration), "network": arguments, **identity}, HOW_TO_CORRECT)
    if not (last and (done >= configuration.steps or stopped_early(last))):
        with quiet():
            watchers = _watchers(configuration, run) if len(validation) else []
            trainer = make_trainer(configuration, run, start.hardware, watchers, validate_every=1)
            module = SupervisedCorrection(corrector, configuration, contrastive)
            batches = _Pairs(configuration, start.pairs, training, validation)
            trainer.fit(module, datamodule=batches, ckpt_path=last, weights_only=True)
    return run / (BEST if len(validation) else LAST)


def pairs_digest(pairs: SlicePairs) -> str:
    """A short name for what pairs are, so that a run does not go on with others."""
    return digest(pairs.facts)[:SHORT]


def stopped_early(checkpoint: Path) -> bool:
    """Whether a run ended because its validation error did not fall any more."""
    callbacks = read_checkpoint(checkpoint)["callbacks"]
    states = [state for name, state in callbacks.items() if name.startswith("EarlyStopping")]
    return any(state["wait_count"] >= state["patience"] for state in states)


def _check(configuration: CorrectorConfiguration, start: PairRun, corrector: Corrector) -> None:
    if configuration.data != "pairs":
        raise InputError("the configuration is for volumes; give one with data: pairs, such as braindiff")
    if corrector.context != 1:
        raise InputError(f"the network takes {corrector.context} slices, pairs have single ones; give context: 1")
    if any(size % corrector.multiple for size in start.canvas):
        raise InputError(f"slices of {start.canvas} are no multiples of {corrector.multiple}, as the network needs")


def _contrastive(configuration: CorrectorConfiguration, start: PairRun) -> tuple[ContrastiveLoss | None, str | None]:
    """The loss term info_nce and the sha256 of its autoencoder; none where no stage has the term."""
    if not configuration.contrastive:
        return None, None
    if start.vae is None:
        raise InputError("the loss has the term info_nce, which needs the autoencoder of phase 1; give --vae")
    autoencoder, card = load_vae(start.vae, frozen=True)
    return ContrastiveLoss(autoencoder), card["sha256"]


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


def _watchers(configuration: CorrectorConfiguration, run: Path) -> list[Callback]:
    best = BestCheckpoint(
        run, filename="best", monitor=WATCHED, mode="min", save_top_k=1, save_on_train_epoch_end=False,
        enable_version_counter=False,
    )  # fmt: skip
    if not configuration.patience:
        return [best]
    return [best, EarlyStopping(WATCHED, patience=configuration.patience, mode="min", check_on_train_epoch_end=False)]


class _Taken(Dataset[Sample]):
    """Pairs in a given order."""

    def __init__(self, pairs: SlicePairs, order: Sequence[int] | np.ndarray) -> None:
        self.pairs, self.order = pairs, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> Sample:
        return self.pairs[int(self.order[position])]


class _Pairs(L.LightningDataModule):
    """Loaders whose content depends on the seed and the epoch alone, rebuilt at each."""

    def __init__(
        self, configuration: CorrectorConfiguration, pairs: SlicePairs, training: np.ndarray, validation: np.ndarray
    ) -> None:
        super().__init__()
        self.configuration, self.pairs, self.training = configuration, pairs, training
        self.validation = evenly(validation, VALIDATION_PAIRS) if len(validation) else validation
        self.steps = configuration.epoch_steps or max(1, len(training) // configuration.batch)

    def train_dataloader(self) -> DataLoader[Sample]:
        """One random order of the training pairs after the other, as many as the epoch's steps take."""
        c = self.configuration
        done, epoch = (self.trainer.global_step, self.trainer.current_epoch) if self.trainer else (0, 0)
        count = c.batch * min(self.steps, c.steps - done)
        rng = np.random.default_rng([c.seed + c.draw, epoch])
        rounds = [rng.permutation(self.training) for _ in range(-(-count // len(self.training)))]
        taken = _Taken(self.pairs, np.concatenate(rounds)[:count])
        return DataLoader(taken, batch_sampler=Shares.of(self.trainer, count, c.batch, c.accumulate))

    def val_dataloader(self) -> DataLoader[Sample]:
        """The held-out pairs, always the same; every process measures all of them."""
        return DataLoader(_Taken(self.pairs, self.validation), self.configuration.batch)


def export_pair_corrector(
    configuration: CorrectorConfiguration, start: PairRun, checkpoint: Path, path: Path,
    initial: str | Path | None = None,
) -> Card:
    """Write the weights of a run's checkpoint to ``path`` (.safetensors) and their card; returns the card.

    initial  the checkpoint that the run started from, whose training goes onto the card too
    The card's metrics are empty; the table of ``braindiff reproduce`` holds the numbers.
    """
    training, validation = start.pairs.hold_out(configuration.validation_share)
    used, held = ({start.pairs.facts[n]["subject"] for n in part} for part in (training, validation))
    facts: dict[str, Any] = {
        "data": f"{start.source} pairs of single slices", "slices": len(training), "subjects": len(used),
        "held_out_subjects": sorted(held), "pairs": pairs_digest(start.pairs),
        "optimiser": OPTIMISERS[configuration.optimiser],
        **{name: getattr(configuration, name) for name in ("batch", "weight_decay", "precision", "seed", "patience")},
        "stages": [asdict(stage) for stage in configuration.stages], "steps": steps_done(checkpoint),
        "weights": f"EMA {configuration.ema}, smallest validation error" if held else f"EMA {configuration.ema}, last",
        **started_from(initial),
    }  # fmt: skip
    spacing = [start.spacing_mm] * 2 if start.spacing_mm else list(NATIVE_SPACING_MM)
    card: Card = {
        "title": f"BrainDiff {configuration.family} on {start.source} pairs", "version": __version__,
        "family": configuration.family, "arguments": network_arguments(configuration), **how_to_correct(configuration),
        "input": {
            "contrast": "T1-weighted, without contrast agent", "plane": "sagittal", "anatomy": "human head",
            "spacing_mm": spacing, "canvas": list(start.canvas),
            "scaling": "volume floor to 0, 99th percentile inside the head to 1",
        },
        "training": facts, "limits": "Trained by `braindiff reproduce` on single slices of the user's own data. For "
        "research; not for primary diagnosis.", "metrics": [], "licence": "Apache-2.0",
    }  # fmt: skip
    return save_checkpoint(trained_state(checkpoint), card, path)
