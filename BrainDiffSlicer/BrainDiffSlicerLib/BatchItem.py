"""One volume in the queue of the panel: what it is, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer

WAITING, RUNNING, DONE, UNCHANGED, FAILED, CANCELED = "waiting", "running", "done", "unchanged", "failed", "canceled"


@dataclass
class BatchItem:
    """A volume of the scene, or a file that is loaded when its turn comes.

    name    what the table calls it
    volume  the node; None for a file that is not loaded
    file    the file; None for a volume of the scene
    state   one of the words above
    told    what there is to say: progress, the result or the reason, in one line
    report  of the run, once it is done
    """

    name: str
    volume: slicer.vtkMRMLScalarVolumeNode | None = None
    file: Path | None = None
    state: str = WAITING
    told: str = ""
    report: dict[str, Any] | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state not in (WAITING, RUNNING)
