"""One run of the CLI module BrainDiffCorrect in its own process, from the scene and back."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import slicer

from BrainDiffSlicerLib.CliJob import CliJob
from BrainDiffSlicerLib.CorrectionFinding import CorrectionFinding


class CorrectionJob(CliJob):
    """Corrects a volume in the background and hands a ``CorrectionFinding`` to ``onFinished``, its arrays float32.

    The finding has the disagreement map if that was asked for.

    Usage::

      job = CorrectionJob(volumeNode, onFinished=lambda finding: ...)
      job.start()
    """

    MODULE = "BrainDiffCorrect"

    def __init__(
        self, inputVolume: slicer.vtkMRMLScalarVolumeNode, model: str = "motion", device: str = "auto",
        force: bool = False, disagreement: bool = False, **callbacks: Callable[..., None] | None,
    ) -> None:  # fmt: skip
        super().__init__(inputVolume, **callbacks)
        self._chosen = {"model": str(model), "device": device, "force": force}
        self._disagreement = disagreement

    def _settings(self) -> dict[str, Any]:
        return {
            **self._chosen,
            "staging": str(self._folder),  # removed with the folder, also when the process is killed while it writes
            "strength": 1.0,
            "dtype": "float32",
            "overwrite": True,  # the files are Slicer's own temporary ones
        }

    def _wanted(self) -> tuple[str, ...]:
        return ("outputVolume", "differenceVolume", *(["disagreementVolume"] if self._disagreement else []))

    def _result(self) -> CorrectionFinding:
        change, report = self._readArray("differenceVolume"), json.loads(self._reportFile.read_text(encoding="utf-8"))
        finding = CorrectionFinding(
            change, report, self._readArray("disagreementVolume") if self._disagreement else None
        )
        seconds, device = (report.get(key) for key in ("seconds", "device"))
        logging.info("BrainDiff: corrected %s in %s s on %s", self.inputVolume.GetName(), seconds, device)
        return finding

    def _readArray(self, name: str) -> np.ndarray:
        """The voxels of an output, float32 KJI, in memory of their own, 0 where the input has no measurement.

        Raises ValueError if they do not fit.
        """
        node = self._outputs[name]
        if node.GetImageData() is None or self.inputVolume.GetImageData() is None:
            raise ValueError(f"there is no {name}")
        array = np.array(slicer.util.arrayFromVolume(node), dtype=np.float32)
        expected = slicer.util.arrayFromVolume(self.inputVolume).shape
        if array.shape != expected:
            raise ValueError(f"{name} has the shape {array.shape}, the input {expected}")
        return np.nan_to_num(array, copy=False)
