"""What the tests of a run share: its callbacks, and a CLI module that the test moves by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import slicer
import slicer.util


class Answers:
    """The callbacks of a job, which write down what they are told."""

    def __init__(self) -> None:
        self.progress: list[tuple[float, str]] = []
        self.ends: list[tuple] = []
        self.during_progress: Callable[[float], None] = lambda share: None

    def callbacks(self) -> dict:
        return {
            "onProgress": self._on_progress,
            "onFinished": lambda finding: self.ends.append(("finished", finding)),
            "onFailed": lambda message: self.ends.append(("failed", message)),
            "onCancelled": lambda: self.ends.append(("cancelled",)),
        }

    def _on_progress(self, share: float, stage: str) -> None:
        self.progress.append((share, stage))
        self.during_progress(share)


class CliByHand:
    """Stands in for ``slicer.cli``: the run stands still, and the test moves its real node from state to state."""

    def __init__(self) -> None:
        self.node = None
        self.parameters: dict = {}

    def run(self, module, node, parameters, **_options):
        self.node, self.parameters = slicer.vtkMRMLCommandLineModuleNode(), parameters
        slicer.mrmlScene.AddNode(self.node)
        self.node.SetStatus(self.node.Scheduled)
        return self.node

    def move_to(self, state: str) -> None:
        """As Slicer's worker thread does it: the state is set silently, the event comes from the main thread."""
        self.node.SetStatus(getattr(self.node, state), False)
        self.node.Modified()
        slicer.app.processEvents()

    def write_result(self, change: np.ndarray, report: dict, disagreement: np.ndarray | None = None) -> None:
        """The outputs as Slicer reads them; there is a disagreement map only if one is given."""
        self._fill("differenceVolume", change)
        if disagreement is not None:
            self._fill("disagreementVolume", disagreement)
        Path(self.parameters["report"]).write_text(json.dumps(report), encoding="utf-8")

    def _fill(self, name: str, array: np.ndarray) -> None:
        slicer.util.updateVolumeFromArray(self.parameters[name], array)
        self.parameters[name].CreateDefaultDisplayNodes()
