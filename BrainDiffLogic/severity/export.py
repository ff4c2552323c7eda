"""From a training run to the severity weights on disk: calibrated, with a threshold and a card."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from BrainDiffLogic import __version__
from BrainDiffLogic.models.checkpoints import Card, save_checkpoint
from BrainDiffLogic.severity import calibration
from BrainDiffLogic.severity.configuration import pair_cache, pairs_configuration, split_pairs
from BrainDiffLogic.severity.network import build_severity
from BrainDiffLogic.severity.weights import FAMILY
from BrainDiffLogic.training.configuration import OPTIMISERS, SeverityConfiguration
from BrainDiffLogic.training.export import EXTENT_MM, SPACING_MM
from BrainDiffLogic.training.run_folder import epochs_done, trained_state

LIMITS = (
    "Trained and calibrated on simulated rigid motion. Motion at the edge of k-space may be far and leave no trace in"
    " the image; it is not seen. Estimates end at the largest value of the calibration. No measure of image quality."
)


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
    rows = calibration.judge_pairs(network, simulated, held_out)
    table = calibration.calibrate(rows)
    estimates, severities = calibration.in_mm(rows, table), np.array([row.severity for row in rows])
    traces = calibration.left_trace(rows)
    threshold = calibration.best_threshold(estimates, severities, traces)
    card: dict[str, Any] = {
        "title": "BrainDiff severity of motion", "version": __version__, "family": FAMILY,
        "arguments": plan.network,
        "input": {
            "contrast": "T1-weighted", "plane": "sagittal", "anatomy": "human head or brain",
            "spacing_mm": list(SPACING_MM), "extent_mm": EXTENT_MM,
            "scaling": "volume floor to 0, 99th percentile inside the head to 1",
        },
        "output": "mean RMS displacement in mm from the pose at the centre of k-space",
        "calibration": table, "threshold_mm": threshold,
        "gate": calibration.gate_errors(estimates, severities, traces, threshold),
        "training": {
            **{name: value for name, value in asdict(plan).items() if name not in ("network", "calibration")},
            "optimiser": OPTIMISERS[plan.optimiser], "epochs_done": epochs_done(checkpoint), "pairs": len(training),
            "subjects": len({simulated.facts(index)["subject"] for index in training}),
            "calibration_pairs": len(held_out), "calibration_subjects": sorted(plan.calibration),
        },
        "metrics": calibration.table(estimates, severities, threshold),
        "limits": LIMITS, "licence": "Apache-2.0",
    }  # fmt: skip
    return save_checkpoint(trained_state(checkpoint), card, path)
