"""The severity network, from simulated pairs to calibrated weights; a run that was stopped goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor
from torch.nn import functional

from BrainDiffLogic.data.split import assert_apart, names_subject
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import Card, new_card, save_checkpoint
from BrainDiffLogic.models.severity import FAMILY, SeverityNetwork, build_severity
from BrainDiffLogic.motion.trajectory import STRATUM_NAMES, stratum
from BrainDiffLogic.progress import Progress, silent
from BrainDiffLogic.scan import head_mask
from BrainDiffLogic.severity import aggregate, look
from BrainDiffLogic.training.batches import EpochBatches, Sample
from BrainDiffLogic.training.configuration import OPTIMISERS, CorrectorConfiguration, SeverityConfiguration
from BrainDiffLogic.training.corrector import EXTENT_MM, SPACING_MM
from BrainDiffLogic.training.fields import read_section
from BrainDiffLogic.training.fit import ONE_DEVICE, Hardware, epochs_done, fit, open_epochs, trained_state
from BrainDiffLogic.training.heads import find_sources
from BrainDiffLogic.training.optimisers import build_optimiser, check_optimiser, rate_share, scheduled
from BrainDiffLogic.training.pairs import PairCache, make_pairs
from BrainDiffLogic.training.slices import PairSlices, SeverityPairs

HUBER = 0.3
"""Error of log(1 + mm) from which on the loss is linear."""
SPREAD_WEIGHT = 0.05
SHOWN = ("loss", "error", "validation/moved", "validation/still")
LIMITS = (
    "Trained and calibrated on simulated rigid motion. Motion at the edge of k-space may be far and leave no trace in"
    " the image; it is not seen. Estimates end at the largest value of the calibration. No measure of image quality."
)

STILL_MM = 0.3
"""A scan that moved less must be returned unchanged."""
MOVED_MM = 1.0
"""A scan that moved more must be corrected."""
TRACE = 0.0067
"""Mean absolute difference to the still scan in network units: the median of the training pairs below 0.5 mm. What
leaves less, however far the head moved, need not be corrected."""
THRESHOLDS_MM = np.arange(0.2, 1.01, 0.02)
EDGE = 2
"""Slices beyond the head on either side, which the pairs hold (``training.pairs.simulate_pair``)."""
KNOTS = 24
"""At most so many steps of the calibration."""


def pairs_configuration(plan: SeverityConfiguration) -> CorrectorConfiguration:
    """The configuration of the corrector whose pairs are used."""
    return read_section(CorrectorConfiguration, plan.pairs_of)


def pair_cache(plan: SeverityConfiguration, data: str | Path, folder: str | Path) -> PairCache:
    """The training pairs of that configuration; no validation subject is among them.

    data  folder of the volumes; folder: of the simulated pairs, which other runs may share
    """
    pairs = pairs_configuration(plan)
    training, _ = find_sources(pairs, data)
    if missing := set(plan.calibration) - {source.subject for source in training}:
        raise InputError(f"{data}: calibration subject {sorted(missing)[0]!r} is not among the training subjects")
    names = {source.subject for source in training if not names_subject(Path(source.path).name)}
    assert_apart(names - set(plan.calibration), names & set(plan.calibration))
    return PairCache(folder, training, pairs.recipe, pairs.seed)


def split_pairs(plan: SeverityConfiguration, cache: PairCache, pairs: int) -> tuple[list[int], list[int]]:
    """(trained on, calibrated on): indices of those of the first ``pairs`` pairs that are there, by subject."""
    ready = cache.ready(pairs)
    held = {index for index in ready if cache.facts(index)["subject"] in plan.calibration}
    if not held or len(held) == len(ready):
        raise InputError("there are no pairs to train on or to calibrate on; change calibration or --pairs")
    return [index for index in ready if index not in held], sorted(held)


class SeverityTraining(L.LightningModule):
    """Loss, optimiser and logging of a severity ``network``."""

    def __init__(self, network: SeverityNetwork, plan: SeverityConfiguration) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.plan = plan

    def training_step(self, batch: Sample, batch_index: int) -> Tensor:
        """Huber's loss of log(1 + mm) on {"slices": (N, 2, 1, H, W), "severity": (N, 2) mm}, and of its error.

        The spread is fitted as that of a Laplace distribution, without a say in the value: with one, the first steps
        run away. Huber, not squares: motion while the edge of k-space was read may be far and leave no trace.
        """
        error, spread = self._errors(batch)
        value_loss = functional.huber_loss(error, torch.zeros_like(error), delta=HUBER)
        spread_loss = (error.detach() * torch.exp(-spread) + spread).mean()
        loss = value_loss + SPREAD_WEIGHT * spread_loss
        self.log_dict({"loss": value_loss.detach(), "error": error.mean().detach()}, prog_bar=True)
        return loss

    def validation_step(self, batch: Sample, batch_index: int) -> None:
        """Mean absolute error of log(1 + mm), of moved and of still slices, on the calibration subjects."""
        error, _ = self._errors(batch)
        moved, still = error.view(-1, 2).mean(dim=0)
        values = {"validation/moved": moved, "validation/still": still}
        self.log_dict(values, sync_dist=True, batch_size=len(error) // 2, on_epoch=True)

    def _errors(self, batch: Sample) -> tuple[Tensor, Tensor]:
        """(absolute error of log(1 + mm), logarithm of its predicted mean), each (2 N,)."""
        slices = batch["slices"].flatten(0, 1).contiguous(memory_format=torch.channels_last)
        value, spread = self.network(slices).unbind(dim=1)
        return (value - torch.log1p(batch["severity"].flatten())).abs(), spread

    def configure_optimizers(self) -> Any:
        """The plan's optimiser with its rate."""
        plan = self.plan
        optimiser = build_optimiser(plan.optimiser, self.network, [self.network.head], plan.weight_decay)
        return scheduled(optimiser, lambda n: plan.learning_rate * rate_share(n, plan.steps, plan.warmup, plan.decay))


def train_severity(
    plan: SeverityConfiguration, data: str | Path, run: str | Path, hardware: Hardware = ONE_DEVICE, *,
    cache: str | Path | None = None, pairs: int | None = None, jobs: int = 1,
    progress: Progress = silent,
) -> Path:  # fmt: skip
    """Train the severity network; goes on from ``run``/last.ckpt when that is there.

    data   folder of the volumes that the corrector's configuration (``plan.pairs_of``) names
    cache  folder of simulated pairs (default: ``run``/pairs), which runs of correctors may share
    pairs  how many of them instead of that configuration's number; those that are missing are simulated
    Returns ``run``/last.ckpt, which holds the averaged weights, for ``export_severity``. Raises InputError where the
    configuration, the data or the folder do not serve.
    """
    run = Path(run)
    check_optimiser(plan.optimiser)
    L.seed_everything(plan.seed, workers=True, verbose=False)
    network = build_severity(plan.network)
    if plan.crop % network.multiple:
        raise InputError(f"crop {plan.crop} is not a multiple of {network.multiple}, as the network needs")
    simulated = pair_cache(plan, data, cache or run / "pairs")
    count = pairs_configuration(plan).pairs if pairs is None else pairs
    last = open_epochs(run, network, plan, phase="severity", network=plan.network, cache=simulated.digest, pairs=count)
    if last and epochs_done(last) >= plan.epochs:
        return last
    make_pairs(simulated, count, jobs, progress)
    training, held_out = (PairSlices(simulated, part) for part in split_pairs(plan, simulated, count))

    def epoch(number: int, samples: int) -> SeverityPairs:
        return SeverityPairs(training, samples, plan.crop, plan.seed, plan.variation, number)

    validation = SeverityPairs(held_out, len(held_out), plan.crop, plan.seed, None)
    batches = EpochBatches(plan, epoch, validation, plan.epoch_steps)
    return fit(SeverityTraining(network, plan), batches, run, hardware, epochs=plan.epochs, last=last, shown=SHOWN,
               validate_every=plan.validate_every)  # fmt: skip


def export_severity(
    plan: SeverityConfiguration, checkpoint: Path, path: Path, data: str | Path, *,
    cache: str | Path | None = None, pairs: int | None = None,
) -> Card:  # fmt: skip
    """Calibrate a run's averaged weights, write them to ``path`` (.safetensors) and their card; returns the card.

    data, cache, pairs  as in ``train_severity``
    Calibration and threshold come from the pairs of the calibration subjects, both volumes of each.
    """
    network = build_severity(plan.network).eval()
    network.load_state_dict(trained_state(checkpoint))
    simulated = pair_cache(plan, data, cache or checkpoint.parent / "pairs")
    count = pairs_configuration(plan).pairs if pairs is None else pairs
    training, held_out = split_pairs(plan, simulated, count)
    rows = judge_pairs(network, simulated, held_out)
    table = calibrate(rows)
    estimates, severities = in_mm(rows, table), np.array([row.severity for row in rows])
    traces = left_trace(rows)
    threshold = best_threshold(estimates, severities, traces)
    told = {name: value for name, value in asdict(plan).items() if name not in ("network", "calibration")}
    facts = {
        **told, "optimiser": OPTIMISERS[plan.optimiser], "epochs_done": epochs_done(checkpoint), "pairs": len(training),
        "subjects": len({simulated.facts(index)["subject"] for index in training}),
        "calibration_pairs": len(held_out), "calibration_subjects": sorted(plan.calibration),
    }  # fmt: skip
    given = {"anatomy": "human head or brain", "spacing_mm": list(SPACING_MM), "extent_mm": EXTENT_MM}
    card = new_card(
        FAMILY, "severity of motion", plan.network, given, facts, LIMITS, calibration=table, threshold_mm=threshold,
        output="mean RMS displacement in mm from the pose at the centre of k-space",
        gate=gate_errors(estimates, severities, traces, threshold),
    ) | {"metrics": strata_table(estimates, severities, threshold)}  # fmt: skip
    return save_checkpoint(trained_state(checkpoint), card, path)


@dataclass(frozen=True)
class Judged:
    """One volume: what the network said of it (see ``aggregate``), and how far the head had moved, in mm."""

    raw: float
    severity: float
    facts: dict[str, Any]


def judge_pairs(network: SeverityNetwork, cache: PairCache, pairs: Sequence[int]) -> list[Judged]:
    """Both volumes of each pair, the moved and the still one; stripped brains without the air around them."""
    rows = []
    for index in pairs:
        facts = cache.facts(index)
        for stack, severity in zip(cache.stacks(index), (facts["severity"], 0.0), strict=True):
            stack = np.ascontiguousarray(stack[EDGE : len(stack) - EDGE], dtype=np.float32)
            if facts["kind"] == "brain":
                stack *= head_mask(stack)
            _, values, spreads = look(network, stack)
            rows.append(Judged(aggregate(values, spreads), severity, facts))
    return rows


def calibrate(rows: Sequence[Judged]) -> dict[str, list[float]]:
    """A card's calibration: "raw", increasing, and for each the "mm" it means and their mean error "error_mm".

    Isotonic regression of medians of groups alike in raw: of means, the few far motions that leave no trace would make
    every still scan one of half a millimetre.
    """
    raw = np.array([row.raw for row in rows])
    order = np.argsort(raw, kind="stable")
    raw, severity = raw[order], np.array([row.severity for row in rows])[order]
    groups = np.array_split(np.arange(len(raw)), min(KNOTS, len(raw)))
    places = np.array([raw[group].mean() for group in groups])
    mm = isotonic_regression([np.median(severity[group]) for group in groups]).x
    error = np.abs(np.interp(raw, places, mm) - severity)
    errors = isotonic_regression([error[group].mean() for group in groups]).x
    table = {"raw": places, "mm": mm, "error_mm": errors}
    return {name: [round(float(value), 5) for value in column] for name, column in table.items()}


def in_mm(rows: Sequence[Judged], calibration: dict[str, list[float]]) -> np.ndarray:
    """(n,) the estimates in mm."""
    return np.interp([row.raw for row in rows], calibration["raw"], calibration["mm"])


def wrong(estimates: np.ndarray, severities: np.ndarray, threshold: float) -> np.ndarray:
    """(n,) bool: still or below 0.3 mm but corrected, or above 1 mm but returned unchanged."""
    corrected = estimates >= threshold
    return ((severities < STILL_MM) & corrected) | ((severities > MOVED_MM) & ~corrected)


def left_trace(rows: Sequence[Judged]) -> np.ndarray:
    """(n,) bool: whether what the motion did to the image is more than ``TRACE``."""
    return np.array([row.severity > 0 and row.facts["error"] > TRACE for row in rows])


def best_threshold(estimates: np.ndarray, severities: np.ndarray, traces: np.ndarray) -> float:
    """The threshold in mm with the fewest wrong decisions, the two kinds weighed alike; the middle of equals.

    traces  ``left_trace``: motion above 1 mm counts where it left one
    """
    still, moved = severities < STILL_MM, (severities > MOVED_MM) & traces
    counts = max(1, still.sum()), max(1, moved.sum())
    shares = np.array([
        (estimates[still] >= limit).sum() / counts[0] + (estimates[moved] < limit).sum() / counts[1]
        for limit in THRESHOLDS_MM
    ])  # fmt: skip
    best = np.flatnonzero(shares <= shares.min() + 1e-9)
    return round(float(THRESHOLDS_MM[best[len(best) // 2]]), 2)


def gate_errors(estimates: np.ndarray, severities: np.ndarray, traces: np.ndarray, threshold: float) -> dict[str, Any]:
    """A card's "gate": how many decisions are wrong, and how many of those where motion above 1 mm left a trace."""
    judged = (severities < STILL_MM) | (severities > MOVED_MM)
    seen = (severities < STILL_MM) | ((severities > MOVED_MM) & traces)
    mistakes = wrong(estimates, severities, threshold)
    return {
        "wrong": round(float(mistakes[judged].mean()), 3), "volumes": int(judged.sum()),
        "wrong_where_seen": round(float(mistakes[seen].mean()), 3), "volumes_seen": int(seen.sum()),
        "means": f"wrong: below {STILL_MM} mm corrected, or above {MOVED_MM} mm returned unchanged; seen: without those"
        f" above {MOVED_MM} mm that differ from the still scan by less than {TRACE} of white matter on average",
    }  # fmt: skip


def strata_table(estimates: np.ndarray, severities: np.ndarray, threshold: float) -> list[dict[str, Any]]:
    """Rows of a card's metrics by severity stratum: volumes, mean estimate, mean absolute error, share corrected."""
    names = np.array(["still" if severity == 0 else stratum(severity) for severity in severities])
    rows = []
    for name in ("still", *STRATUM_NAMES):
        chosen = names == name
        if chosen.any():
            own, truth = estimates[chosen], severities[chosen]
            rows.append({
                "severity": name, "method": "severity", "volumes": int(chosen.sum()),
                "mean_mm": round(float(own.mean()), 3), "true_mm": round(float(truth.mean()), 3),
                "error_mm": round(float(np.abs(own - truth).mean()), 3),
                "corrected": round(float((own >= threshold).mean()), 3),
            })  # fmt: skip
    return rows
