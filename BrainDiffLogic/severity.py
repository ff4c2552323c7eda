"""How far the head moved, in mm, from the magnitude image alone, and the gate that returns still scans unchanged."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.scan import Scan, mask_box
from BrainDiffLogic.volume import Volume

if TYPE_CHECKING:
    from BrainDiffLogic.models.severity import SeverityModel, SeverityNetwork


LARGEST_SLICES = 24
"""So many slices, evenly spread, are looked at; those between them are interpolated."""
OUTER_SHARE = 0.1
"""Of the slices of the head, on either side: too little of it to tell its motion."""
MARGIN_MM = 12.0
"""Air around the head that is looked at, as much as in training."""
BATCH = 8
QUANTILE = 0.75
"""Of the slices' values."""


@dataclass(frozen=True)
class SeverityEstimate:
    """How far the head moved, as far as the image shows it.

    volume_mm          mean RMS displacement from the pose at the centre of k-space (``Trajectory.severity``)
    slices_mm          (n,) the same as each slice of ``Scan.slices`` tells it; NaN outside the head
    expected_error_mm  mean absolute error of such an estimate on held-out subjects, simulated motion
    """

    volume_mm: float
    slices_mm: np.ndarray = field(repr=False)
    expected_error_mm: float

    @property
    def worst_slice(self) -> int:
        """The slice of ``Scan.slices`` that shows most motion."""
        return int(np.nanargmax(self.slices_mm))


def estimate_severity(
    volume: Volume | Scan, model: SeverityModel | str | os.PathLike[str] | None = None
) -> SeverityEstimate:
    """How far the head moved while ``volume`` was scanned, from the magnitude image alone.

    model  a loaded model or a .safetensors file; None: the shipped one

    Every slice is judged by a network trained on simulated motion; the volume's value is the upper quartile of its
    slices, weighted by what the network expects of each, and a monotone calibration turns it into mm. Motion at the
    edge of k-space may be far and leave no trace: it is not seen. Raises InputError where there are no weights.
    """
    from BrainDiffLogic.models.severity import SeverityModel, load_severity, shipped_weights

    chosen = model if model is not None else shipped_weights()
    if chosen is None:
        raise InputError("the weights of the severity network are missing; reinstall BrainDiff or name a file")
    loaded = chosen if isinstance(chosen, SeverityModel) else load_severity(chosen)
    scan = Scan.of(volume)
    box = mask_box(scan.head_slices, [0, *MARGIN_MM / scan.slice_spacing[1:]])  # with air around, within slices
    places, values, spreads = look(loaded.network, scan.slices[box])

    table = loaded.card["calibration"]
    raw = aggregate(values, spreads)
    slices = np.full(len(scan.slices), np.nan)
    looked_at = np.interp(values, table["raw"], table["mm"])
    every = np.arange(places[0], places[-1] + 1)
    slices[every + box[0].start] = np.interp(every, places, looked_at)
    return SeverityEstimate(
        float(np.interp(raw, table["raw"], table["mm"])), slices, float(np.interp(raw, table["raw"], table["error_mm"]))
    )


def look(network: SeverityNetwork, stack: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the network says of some slices of a head, evenly spread.

    stack  (slices, rows, columns) in network units, from the first to the last slice of the head
    Returns (places of the slices in the stack, log(1 + mm), logarithm of its expected error), each (n,).
    """
    import torch

    from BrainDiffLogic.volume import pad_to_multiple

    outer = int(OUTER_SHARE * len(stack))
    count = min(LARGEST_SLICES, len(stack) - 2 * outer)
    places = np.linspace(outer, len(stack) - 1 - outer, count).round().astype(int)
    network = network.eval().to("cpu", memory_format=torch.channels_last)  # type: ignore[call-overload]
    answers = []
    with torch.inference_mode():
        for start in range(0, len(places), BATCH):
            slices, _ = pad_to_multiple(stack[places[start : start + BATCH], None], network.multiple)
            answers.append(network(torch.from_numpy(slices).to(memory_format=torch.channels_last)).float().numpy())
    values, spreads = np.concatenate(answers).T
    return places, values, spreads


def aggregate(values: np.ndarray, spreads: np.ndarray) -> float:
    """The weighted upper quartile of the slices' values (n,); each weighs 1 / its expected error (spreads: logarithms).

    Motion does not show in every slice: on the calibration subjects the upper quartile told moved from still scans
    better than the median, and unlike the largest value it does not hang on one slice.
    """
    order = np.argsort(values)
    weights = np.cumsum(np.exp(-spreads[order]))
    return float(values[order][np.searchsorted(weights, QUANTILE * weights[-1])])


UNCHANGED, CORRECTED, FORCED, OFF = "returned unchanged", "corrected", "forced", "off"
"""Entries "gate" of a report. forced: the gate would have returned the scan unchanged; off: it was not asked."""
NO_WEIGHTS = "no motion gate: its weights are missing, so still scans are corrected too; reinstall BrainDiff"
FACTS = ("severity_mm", "severity_error_mm", "severity_worst_slice", "severity_worst_slice_mm", "gate_threshold_mm")


@dataclass(frozen=True)
class Decision:
    """What the gate says of a scan.

    gate   "returned unchanged", "corrected", "forced" or "off"
    facts  entries of the report: "gate", and "severity_mm", "severity_error_mm", "severity_worst_slice" (of
           ``Scan.slices``), "severity_worst_slice_mm", "gate_threshold_mm", all None where severity was not estimated
    notes  for the person: one line where the scan is returned unchanged, or where the gate cannot work
    """

    gate: str
    facts: dict[str, Any]
    notes: list[str]

    @property
    def correct(self) -> bool:
        """Whether the scan is corrected, as far as the gate has its way."""
        return self.gate != UNCHANGED

    def overruled(self, line: str) -> Decision:
        """The scan comes back unchanged after all, for the reason that ``line`` gives."""
        return Decision(UNCHANGED, {**self.facts, "gate": UNCHANGED}, [*self.notes, line])

    def corrected_all_the_same(self) -> Decision:
        """The scan is corrected after all."""
        return Decision(CORRECTED, {**self.facts, "gate": CORRECTED}, [])


def decide(scan: Scan, *, gate: bool, force: bool) -> Decision:
    """Whether to correct a scan: estimate its severity and compare it with the threshold on the weights' card.

    gate   False: do not ask
    force  correct below the threshold too
    """
    from BrainDiffLogic.models.severity import shipped_weights

    weights = shipped_weights() if gate else None
    if weights is None:
        return _decision(OFF, [NO_WEIGHTS] if gate else [])
    from BrainDiffLogic.models.severity import load_severity

    model = load_severity(weights)
    estimate = estimate_severity(scan, model)  # on the CPU: a second for 24 slices, whatever fills the GPU
    facts = {
        "severity_mm": round(estimate.volume_mm, 2), "severity_error_mm": round(estimate.expected_error_mm, 2),
        "severity_worst_slice": estimate.worst_slice,
        "severity_worst_slice_mm": round(float(estimate.slices_mm[estimate.worst_slice]), 2),
        "gate_threshold_mm": model.threshold_mm,
    }  # fmt: skip
    if estimate.volume_mm >= model.threshold_mm:
        return _decision(CORRECTED, [], **facts)
    if force:
        return _decision(FORCED, [], **facts)
    line = (
        f"returned unchanged: shows {estimate.volume_mm:.1f} mm of motion"
        f" (give or take {estimate.expected_error_mm:.1f} mm), below the gate's {model.threshold_mm:g} mm;"
        " correct it all the same with --force"
    )
    return _decision(UNCHANGED, [line], **facts)


def _decision(gate: str, notes: list[str], **facts: Any) -> Decision:
    return Decision(gate, {"gate": gate, **dict.fromkeys(FACTS), **facts}, notes)
