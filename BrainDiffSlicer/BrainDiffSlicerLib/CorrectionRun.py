"""One correction, from the input node to the output nodes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import slicer
from slicer.i18n import tr as _

from BrainDiffSlicerLib.CorrectionFinding import CorrectionFinding
from BrainDiffSlicerLib.CorrectionJob import CorrectionJob
from BrainDiffSlicerLib.CorrectionOutputs import CorrectionOutputs


class CorrectionRun:
    """Turns what a job finds into outputs, where the job ends well.

    inputVolume  the volume to correct
    given        corrected volume, difference volume, quality table and disagreement map to fill; each is made where it
                 is None, or where it was removed from the scene meanwhile
    strength     0 to 1
    settings     model, device, force, disagreement, onProgress and onCancelled of ``CorrectionJob``
    onFinished   called with (CorrectionOutputs, report); onFailed with a message of one line
    """

    def __init__(
        self, inputVolume: slicer.vtkMRMLScalarVolumeNode, given: tuple[slicer.vtkMRMLNode | None, ...],
        strength: float, onFinished: Callable[[CorrectionOutputs, dict[str, Any]], None] | None = None,
        onFailed: Callable[[str], None] | None = None, **settings: Any,
    ) -> None:  # fmt: skip
        self._input, self._given, self._strength = inputVolume, given, strength
        self._onFinished, self._onFailed = onFinished, onFailed
        self._outputs: CorrectionOutputs | None = None
        self._message = _("The correction was canceled.")
        self.job = CorrectionJob(inputVolume, onFinished=self._finish, onFailed=self._fail, **settings)

    def outputs(self) -> CorrectionOutputs:
        """Wait for the end; the application goes on. Raises RuntimeError if the correction failed or was canceled."""
        self.job.waitForFinished()
        if self._outputs is None:
            raise RuntimeError(self._message)
        return self._outputs

    def _finish(self, finding: CorrectionFinding) -> None:
        given = [node if node is not None and node.GetScene() is not None else None for node in self._given]
        try:
            self._outputs = CorrectionOutputs.create(self._input, finding, self._strength, *given)
        except ValueError as error:
            self._fail(str(error))
            return
        except Exception as error:  # whatever it is, the run has ended
            logging.exception("BrainDiff: the outputs could not be filled")
            text = _("The correction of {name} could not be shown ({error}): see the error log.")
            self._fail(text.format(name=self._input.GetName(), error=" ".join(str(error).split())))
            return
        if self._onFinished:
            self._onFinished(self._outputs, finding.report)

    def _fail(self, message: str) -> None:
        self._message = message
        if self._onFailed:
            self._onFailed(message)
