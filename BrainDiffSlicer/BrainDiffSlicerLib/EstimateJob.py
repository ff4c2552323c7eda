"""One run of the CLI module BrainDiffEstimate in its own process."""

from __future__ import annotations

import json
from typing import Any

from BrainDiffSlicerLib.CliJob import CliJob


class EstimateJob(CliJob):
    """Estimates the motion in a volume in the background and hands a dict to ``onFinished``.

    Its entries: severity_mm, severity_error_mm, gate ("returned unchanged" or "corrected"), plane, ras_mm: a point in
    the slice that shows most motion. All may be None.
    """

    MODULE = "BrainDiffEstimate"

    def _settings(self) -> dict[str, Any]:
        return {}

    def _result(self) -> dict[str, Any]:
        return json.loads(self._reportFile.read_text(encoding="utf-8"))
