"""Train the severity network from simulated pairs; a run that was interrupted goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lightning as L

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.severity.configuration import pair_cache, pairs_configuration, split_pairs
from BrainDiffLogic.severity.network import build_severity
from BrainDiffLogic.severity.training import SeverityBatches, SeverityTraining
from BrainDiffLogic.training.configuration import SeverityConfiguration
from BrainDiffLogic.training.generative_run import finished, fit, start
from BrainDiffLogic.training.hardware import Hardware
from BrainDiffLogic.training.optimisers import check_optimiser
from BrainDiffLogic.training.run import make_pairs

LINES = ("loss", "error"), ("validation/moved", "validation/still")


def train_severity(
    plan: SeverityConfiguration,
    data: str | Path,
    run: str | Path,
    hardware: Hardware | None = None,
    *,
    cache: str | Path | None = None,
    pairs: int | None = None,
    jobs: int = 1,
    report: Callable[[int, int], None] | None = None,
) -> Path:
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
    last, done = finished(run, network, plan)  # type: ignore[arg-type]
    start(run, "severity", plan, plan.network, cache=simulated.digest, pairs=count)  # type: ignore[arg-type]
    if last and done:
        return last
    make_pairs(simulated, count, jobs, report)
    batches = SeverityBatches(plan, simulated, *split_pairs(plan, simulated, count))
    module = SeverityTraining(network, plan)
    return fit(module, batches, run, last, hardware or Hardware(), LINES)
