"""How much motion a scan shows, in mm, from the magnitude image alone; and the gate that leaves still scans alone."""

from __future__ import annotations

from BrainDiffLogic.severity.estimate import SeverityEstimate, estimate_severity

__all__ = ["SeverityEstimate", "estimate_severity"]
