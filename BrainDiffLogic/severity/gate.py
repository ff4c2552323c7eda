"""The motion gate: a scan that shows no motion is returned unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from BrainDiffLogic.scan import Scan

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
        """Whether the corrector is asked."""
        return self.gate != UNCHANGED

    def overruled(self, line: str) -> Decision:
        """The scan comes back unchanged after all, for the reason that ``line`` gives."""
        return Decision(UNCHANGED, {**self.facts, "gate": UNCHANGED}, [*self.notes, line])


def decide(scan: Scan, *, gate: bool, force: bool) -> Decision:
    """Whether to correct a scan: estimate its severity and compare it with the threshold on the weights' card.

    gate   False: do not ask
    force  correct below the threshold too
    """
    from BrainDiffLogic.severity.network import shipped_weights

    weights = shipped_weights() if gate else None
    if weights is None:
        return _decision(OFF, [NO_WEIGHTS] if gate else [])
    from BrainDiffLogic.severity.estimate import estimate_severity
    from BrainDiffLogic.severity.network import load_severity

    model = load_severity(weights)
    found = estimate_severity(scan, model)  # on the CPU: a second for 24 slices, whatever fills the GPU
    facts = {
        "severity_mm": round(found.volume_mm, 2), "severity_error_mm": round(found.expected_error_mm, 2),
        "severity_worst_slice": found.worst_slice,
        "severity_worst_slice_mm": round(float(found.slices_mm[found.worst_slice]), 2),
        "gate_threshold_mm": model.threshold_mm,
    }  # fmt: skip
    if found.volume_mm >= model.threshold_mm:
        return _decision(CORRECTED, [], **facts)
    if force:
        return _decision(FORCED, [], **facts)
    line = (
        f"returned unchanged: shows {found.volume_mm:.1f} mm of motion (give or take {found.expected_error_mm:.1f} mm),"
        f" below the gate's {model.threshold_mm:g} mm; correct it all the same with --force"
    )
    return _decision(UNCHANGED, [line], **facts)


def _decision(gate: str, notes: list[str], **facts: Any) -> Decision:
    return Decision(gate, {"gate": gate, **dict.fromkeys(FACTS), **facts}, notes)
