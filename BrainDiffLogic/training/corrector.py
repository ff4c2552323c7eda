"""Phase 4 of BrainDiff, and the other papers' training: a corrector on pairs of a moved and a still slice.

The pairs are simulated on volumes (``train``), or lie in files (``train_on_pairs``): injected, or simulated before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.files import SHORT, digest
from BrainDiffLogic.models.checkpoints import (
    Card,
    find_checkpoint,
    load_checkpoint,
    new_card,
    read_card,
    save_checkpoint,
)
from BrainDiffLogic.models.corrector import CONFIGURATIONS, Corrector, build
from BrainDiffLogic.models.generative import load_vae
from BrainDiffLogic.motion.trajectory import stratum
from BrainDiffLogic.progress import Progress, silent
from BrainDiffLogic.training import losses
from BrainDiffLogic.training.batches import EpochBatches, Sample, evenly, in_rounds, steps_per_epoch
from BrainDiffLogic.training.configuration import (
    CORRECTING_FIELDS,
    OPTIMISERS,
    CorrectorConfiguration,
    Stage,
    chosen_arguments,
)
from BrainDiffLogic.training.fit import (
    BEST,
    LAST,
    ONE_DEVICE,
    Hardware,
    best_epoch,
    fit,
    open_run,
    read_checkpoint,
    steps_done,
    trained_state,
)
from BrainDiffLogic.training.heads import assert_other_motion, find_sources
from BrainDiffLogic.training.losses import ContrastiveLoss, GradientTerm
from BrainDiffLogic.training.optimisers import build_optimiser, check_optimiser, rate_share, revive, scheduled
from BrainDiffLogic.training.pairs import caches, make_pairs
from BrainDiffLogic.training.slice_store import PairRun, SlicePairs, store_spacing
from BrainDiffLogic.training.slices import CachedSlices, SimulatedSlices, SliceDraw, ValidationSlices

GRADIENTS_EVERY = 100
"""Steps from one log of the terms' gradients to the next; a multiple of the trainer's interval of logging."""
VALIDATE_EVERY = 5
"""Epochs from one validation on simulated pairs to the next."""
WATCHED = "validation/all"
"""The error that remains of the held-out pairs, as a share of the input's."""
VALIDATION_PAIRS = 512
"""At most so many pairs, evenly spread, are validated on."""
SHOWN = ("loss", "share_of_input_error", WATCHED)


class CorrectorTraining(L.LightningModule):
    """Loss, optimiser and logging of a corrector ``network``: (N, context, H, W) to (N, 1, H, W).

    contrastive  the term "info_nce" of the loss, needed where a stage has it
    """

    def __init__(
        self, network: nn.Module, configuration: CorrectorConfiguration, contrastive: ContrastiveLoss | None = None
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.configuration, self.contrastive = configuration, contrastive
        self.gradient_ssim = GradientTerm()
        self.sums: dict[str, list[float]] = {}

    def training_step(self, batch: Sample, batch_index: int) -> Tensor:
        """The stage's loss on {"moved": (N, context, H, W), "clean": (N, 1, H, W)}."""
        moved = batch["moved"].contiguous(memory_format=torch.channels_last)
        predictions = [p.float() for p in self.network.scale_predictions(moved)]
        centre = self._centre(batch)
        stage, _ = stage_at(self.configuration.stages, self.global_step)
        even = torch.ones_like(centre[:1, :, :1, :1])
        weights = losses.pair_weights(centre, batch["clean"]) if stage.balance else even
        terms = self._terms(stage, predictions, batch["clean"], centre, weights)
        for name, value in terms.items():
            self.log(f"loss/{name}", value)
        weighted = {name: stage.loss[name] * value for name, value in terms.items()}
        loss = torch.stack(list(weighted.values())).sum()
        if len(terms) > 1 and (self.global_step + 1) % GRADIENTS_EVERY == 0:
            shares = losses.gradient_shares(weighted, predictions[-1])
            self.log_dict({f"gradient_share/{name}": share for name, share in shares.items()})
        share = (predictions[-1] - batch["clean"]).abs().mean() / (centre - batch["clean"]).abs().mean()
        self.log_dict({"loss": loss, "share_of_input_error": share}, prog_bar=True)
        return loss

    def _terms(
        self, stage: Stage, predictions: list[Tensor], clean: Tensor, moved: Tensor, weights: Tensor
    ) -> dict[str, Tensor]:
        """The terms of the stage's loss whose weight is not 0."""
        compute = {
            "l1": lambda: losses.l1(predictions[-1], clean, weights),
            "tv": lambda: losses.total_variation(predictions[-1] - clean),
            "multi_scale_l2": lambda: losses.multi_scale_l2(predictions, clean, weights),
            "multi_scale_l1": lambda: losses.multi_scale_l1(predictions, clean, weights),
            "gradient_ssim": lambda: self.gradient_ssim(predictions[-1], clean),
            "frequency": lambda: losses.frequency_l1(predictions[-1], clean),
            "info_nce": lambda: self._contrast(predictions[-1], clean, moved),
        }
        return {name: compute[name]() for name, weight in stage.loss.items() if weight}

    def _contrast(self, prediction: Tensor, clean: Tensor, moved: Tensor) -> Tensor:
        if self.contrastive is None:
            raise InputError("the loss has the term info_nce, which needs an autoencoder; give --vae")
        return self.contrastive(prediction, clean, moved)

    def validation_step(self, batch: Sample, batch_index: int) -> None:
        """Absolute errors of the correction and of doing nothing, by severity stratum where it is known."""
        moved = batch["moved"].contiguous(memory_format=torch.channels_last)
        centre = self._centre(batch)
        corrected = centre - self.network(moved).float()
        errors = [(image - batch["clean"]).abs().mean(dim=(1, 2, 3)) for image in (corrected, centre)]
        known = batch["severity"].tolist() if "severity" in batch else [None] * len(centre)
        rows = zip(known, *(error.tolist() for error in errors), strict=True)
        for severity, after, before in rows:
            for key in ("all",) if severity is None else (stratum(severity) if severity else "still", "all"):
                sums = self.sums.setdefault(key, [0.0, 0.0, 0.0])
                for position, value in enumerate((after, before, 1.0)):
                    sums[position] += value

    def on_validation_epoch_end(self) -> None:
        """Log the error that remains as a share of the input's by stratum; of still scans the error, 1e-3."""
        for key, (after, before, count) in self.sums.items():
            if key == "still":
                self.log("validation/still_error_1e-3", 1e3 * after / count)
            else:
                self.log(f"validation/{key}", after / max(before, 1e-9), prog_bar=key == "all")
        self.sums.clear()

    def configure_optimizers(self) -> Any:
        """The configuration's optimiser with the learning rate of the stages."""
        configuration, heads = self.configuration, self.network.body.heads
        optimiser = build_optimiser(configuration.optimiser, self.network, heads, configuration.weight_decay)
        return scheduled(optimiser, lambda step: learning_rate(configuration.stages, step))

    def _centre(self, batch: Sample) -> Tensor:
        middle = batch["moved"].shape[1] // 2
        return batch["moved"][:, middle : middle + 1]


def stage_at(stages: list[Stage], step: int) -> tuple[Stage, int]:
    """The stage that optimiser step ``step`` belongs to, and the step within it."""
    for stage in stages[:-1]:
        if step < stage.steps:
            return stage, step
        step -= stage.steps
    return stages[-1], step


def learning_rate(stages: list[Stage], step: int) -> float:
    """Linear warm-up, constant, then linear decay to 0 in each stage."""
    stage, step = stage_at(stages, step)
    return stage.learning_rate * rate_share(step, stage.steps, stage.warmup, stage.decay)


def train(
    configuration: CorrectorConfiguration, data: str | Path, run: str | Path, *, cache: str | Path | None = None,
    hardware: Hardware = ONE_DEVICE, workers: int = 1, jobs: int = 1, initial: str | Path | None = None,
    progress: Progress = silent,
) -> Path:  # fmt: skip
    """Train a corrector on pairs simulated on volumes; goes on from ``run``/last.ckpt when that is there.

    data     folder of the sources' patterns
    run      folder of checkpoints, the configuration and TensorBoard logs
    cache    folder of simulated pairs (default: ``run``/pairs); other runs of the same recipe may share it
    workers  processes that load slices; jobs: that simulate pairs, whose ``progress`` is told
    initial  checkpoint of the shipped kind (.safetensors) to start from
    Returns ``run``/last.ckpt, which holds the averaged weights. Raises InputError where the configuration, the data or
    the folder do not serve, and AssertionError where a motion is both trained and validated on.
    """
    c, run = configuration, Path(run)
    corrector = _start(c, initial)
    if c.crop % corrector.multiple:
        raise InputError(f"crop {c.crop} is not a multiple of {corrector.multiple}, as the network needs")
    if hardware.processes > 1 and not c.pairs:
        raise InputError("pairs simulated on the fly cannot be shared by several processes; give --pairs, a number")
    training, validation = caches(c, data, cache or run / "pairs")
    split = {name: pairs.subjects for name, pairs in (("training", training), ("held out", validation))}
    last = _open(c, run, corrector, initial, split=split, pairs_of=[training.digest, validation.digest])
    if last and steps_done(last) >= c.steps:
        return last
    make_pairs(validation, c.validation_pairs, jobs, progress)
    if c.pairs:
        make_pairs(training, c.pairs, jobs, progress)
        made = (training, c.pairs), (validation, c.validation_pairs)
        assert_other_motion(*([pairs.facts(index)["motion"] for index in range(count)] for pairs, count in made))

    def epoch(number: int, count: int) -> Dataset[Sample]:
        draw = SliceDraw(count, corrector.context, c.crop, c.seed + c.draw, c.lesions, c.masked, number)
        return CachedSlices(training, c.pairs, draw) if c.pairs else SimulatedSlices(training, draw)

    held_out = ValidationSlices(validation, c.validation_pairs, corrector.context, c.crop)
    batches = EpochBatches(c, epoch, held_out, c.epoch_steps, c.steps, workers)
    return _fit(CorrectorTraining(corrector, c), batches, run, hardware, last, VALIDATE_EVERY)


def _start(configuration: CorrectorConfiguration, initial: str | Path | None) -> Corrector:
    """The network that a run begins with; its first weights depend on the seed and the draw."""
    check_optimiser(configuration.optimiser)
    L.seed_everything(configuration.seed + configuration.draw, workers=True, verbose=False)
    corrector = build(configuration.family, network_arguments(configuration))
    if initial:
        source, _ = load_checkpoint(initial)
        try:
            corrector.load_state_dict(source.state_dict())
        except RuntimeError:
            raise InputError(f"{initial}: these weights are of another network than the configuration's") from None
    if configuration.revive:
        revive(corrector, configuration.revive)
    return corrector


def _open(
    configuration: CorrectorConfiguration, run: Path, corrector: Corrector, initial: str | Path | None, **more: Any
) -> Path | None:
    sha256 = None if initial is None else str(read_card(find_checkpoint(initial))["sha256"])
    content = {**asdict(configuration), "network": network_arguments(configuration), "initial": sha256, **more}
    return open_run(run, corrector, content, CORRECTING_FIELDS)


def _fit(
    module: CorrectorTraining, batches: EpochBatches, run: Path, hardware: Hardware, last: Path | None,
    validate_every: int, watchers: Sequence[Callback] = (),
) -> Path:  # fmt: skip
    # not the trainer's max_steps: a run that counts steps goes on from the end of an epoch with its last batch
    # (Lightning 2.6, _FitLoop.restarting), so that a resumed run would not be the run that was not interrupted
    epochs = -(-module.configuration.steps // batches.steps)
    return fit(module, batches, run, hardware, epochs=epochs, last=last, shown=SHOWN, validate_every=validate_every,
               watchers=watchers)  # fmt: skip


def network_arguments(configuration: CorrectorConfiguration) -> dict[str, Any]:
    """The arguments of the network of a configuration, as a card stores them."""
    if configuration.family not in CONFIGURATIONS:
        raise InputError(f"family {configuration.family!r} is unknown: use one of {', '.join(CONFIGURATIONS)}")
    return chosen_arguments(configuration.network, CONFIGURATIONS[configuration.family])


def train_on_pairs(
    configuration: CorrectorConfiguration, start: PairRun, run: str | Path, initial: str | Path | None = None
) -> Path:
    """Train a corrector on pairs of slices; goes on from ``run``/last.ckpt when that is there.

    Ends at the steps of the stages or when the validation error has not fallen for ``patience`` epochs. Returns the
    checkpoint of the epoch with the smallest validation error (the last one where nobody is held out), averaged
    weights in it. Raises InputError where configuration, pairs, autoencoder or folder do not serve.
    """
    c, run = configuration, Path(run)
    corrector = _start(c, initial)
    _check(c, start, corrector)
    training, validation = start.pairs.hold_out(c.validation_share)
    contrastive, vae = _contrastive(c, start)
    identity = {"pairs_of": pairs_digest(start.pairs), "contrastive": c.contrastive, "vae_sha256": vae}
    last = _open(c, run, corrector, initial, **identity)
    if not (last and (steps_done(last) >= c.steps or stopped_early(last))):

        def epoch(number: int, count: int) -> Dataset[Sample]:
            return Subset(start.pairs, in_rounds(training, count, c.seed + c.draw, number))  # type: ignore[arg-type]

        held_out = Subset(start.pairs, evenly(validation, VALIDATION_PAIRS))  # type: ignore[arg-type]
        batches = EpochBatches(c, epoch, held_out, steps_per_epoch(c, len(training)), c.steps, workers=0)
        watchers = best_epoch(run, WATCHED, c.patience) if len(validation) else []
        module = CorrectorTraining(corrector, c, contrastive)
        _fit(module, batches, run, start.hardware or ONE_DEVICE, last, 1, watchers)
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


CONTRAST = "T1-weighted, without contrast agent"
SPACING_MM = (0.6, 2.0)
"""Voxel sizes that training covers: 0.8 to 1.33 mm, zoomed by 0.75 to 1.28."""
EXTENT_MM = 60.0
LIMITS = (
    "Trained and measured on simulated rigid motion of single-coil magnitude images. For research; not for primary"
    " diagnosis. What motion has destroyed in k-space, no magnitude image gives back."
)
LOG, LONGEST_CURVE = "log", 25
"""Folder of a run's log, and how many points of its curve go onto the card."""
EVIDENCE = [
    "On simulated motion of 83 subjects stacked U-Nets on magnitude images raised SSIM from 0.717 to 0.950 (Al-masni"
    " 2022).",
    "On real motion, simulation 'systematically exaggerates algorithm performance, and reference-free evaluation"
    " overrates oversmoothed deep learning outputs'; people put an image-domain U-Net far behind methods that have the"
    " raw data (PMoC3D, arXiv 2506.05975).",
    "An independent test of another magnitude-image method, JDAC, on 22 subjects (ds004332): with motion SSIM rose from"
    " 0.540 to 0.561; on still scans cortical thickness fell from 2.595 to 2.435 mm; regional thickness came no nearer"
    " to the truth than in the uncorrected scan (github.com/math-wil/jdac-motion-correction).",
]
"""Published evidence for and against correction from the magnitude image alone; none of it is about this model."""


def export_corrector(
    configuration: CorrectorConfiguration, checkpoint: Path, path: Path, data: str | Path,
    initial: str | Path | None = None,
) -> Card:  # fmt: skip
    """Write the averaged weights of a run on volumes to ``path`` (.safetensors) and their card; returns it.

    initial  the checkpoint that the run started from, whose training goes onto the card too
    The card's metrics are empty until an evaluation writes them (``Testing/Benchmarks/cards.py``).
    """
    c = configuration
    training, validation = find_sources(c, data)
    facts = {
        "data": dict(Counter(source.subject.rsplit("-", 1)[0].rsplit("_", 1)[0] for source in training)),
        "subjects": len({source.subject for source in training}),
        "held_out_subjects": sorted({source.subject for source in validation}),
        "motion": asdict(c.recipe), **({"traces": c.traces} if c.traces else {}), **_common_facts(c, checkpoint),
        **{name: getattr(c, name) for name in ("crop", "pairs", "lesions", "masked")}, "weights": f"EMA {c.ema}",
        "learning_curve": learning_curve(checkpoint.parent / LOG), **started_from(initial),
    }  # fmt: skip
    given = {"contrast": CONTRAST, "anatomy": "human head or brain", "spacing_mm": list(SPACING_MM),
             "extent_mm": EXTENT_MM}  # fmt: skip
    card = _card(c, c.family, given, facts, LIMITS) | {"evidence": EVIDENCE}
    return save_checkpoint(trained_state(checkpoint), card, path)


def export_pair_corrector(
    configuration: CorrectorConfiguration, start: PairRun, checkpoint: Path, path: Path,
    initial: str | Path | None = None,
) -> Card:  # fmt: skip
    """Write the weights of a run on pairs to ``path`` (.safetensors) and their card; as ``export_corrector``.

    The card's metrics are empty; the table of ``braindiff reproduce`` holds the numbers.
    """
    c = configuration
    training, validation = start.pairs.hold_out(c.validation_share)
    used, held = ({start.pairs.facts[n]["subject"] for n in part} for part in (training, validation))
    facts = {
        "data": f"{start.source} pairs of single slices", "slices": len(training), "subjects": len(used),
        "held_out_subjects": sorted(held), "pairs": pairs_digest(start.pairs), **_common_facts(c, checkpoint),
        "weight_decay": c.weight_decay, "patience": c.patience,
        "weights": f"EMA {c.ema}, smallest validation error" if held else f"EMA {c.ema}, last", **started_from(initial),
    }  # fmt: skip
    given = {"contrast": CONTRAST, "anatomy": "human head", "spacing_mm": store_spacing(start.spacing_mm),
             "canvas": list(start.canvas)}  # fmt: skip
    limits = (
        "Trained by `braindiff reproduce` on single slices of the user's own data. For research; not for primary"
        " diagnosis."
    )
    card = _card(c, f"{c.family} on {start.source} pairs", given, facts, limits)
    return save_checkpoint(trained_state(checkpoint), card, path)


def _card(
    configuration: CorrectorConfiguration, title: str, given: dict[str, Any], facts: dict[str, Any], limits: str
) -> Card:
    asked = {name: getattr(configuration, name) for name in CORRECTING_FIELDS}
    asked = {name: value for name, value in asked.items() if value}
    return new_card(configuration.family, title, network_arguments(configuration), given, facts, limits, **asked)


def _common_facts(configuration: CorrectorConfiguration, checkpoint: Path) -> dict[str, Any]:
    """What a card says of every corrector's training."""
    fields = {name: getattr(configuration, name) for name in ("batch", "precision", "seed")}
    optimiser, stages = OPTIMISERS[configuration.optimiser], [asdict(stage) for stage in configuration.stages]
    return {**fields, "optimiser": optimiser, "stages": stages, "steps": steps_done(checkpoint)}


def started_from(initial: str | Path | None) -> dict[str, Any]:
    """For a card's training: the checkpoint that a run started from, with all that its card says of its training."""
    if initial is None:
        return {}
    before = read_card(find_checkpoint(initial))
    return {"initial": {name: before[name] for name in ("name", "sha256", "averaged", "training") if name in before}}


def learning_curve(log: Path) -> dict[str, float]:
    """Steps to the share of the input's error that is left on validation slices, from the folder of a run's log.

    Whether it still falls at the end tells whether more computing would help. Empty where there is no such log.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(log))
    events.Reload()
    if WATCHED not in events.Tags()["scalars"]:
        return {}
    values = {point.step + 1: float(f"{point.value:.4g}") for point in events.Scalars(WATCHED)}
    steps = sorted(values)
    chosen = sorted({steps[round(place)] for place in np.linspace(0, len(steps) - 1, LONGEST_CURVE)})
    return {str(step): values[step] for step in chosen}
