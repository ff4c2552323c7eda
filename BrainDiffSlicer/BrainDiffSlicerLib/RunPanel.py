"""The button that starts and stops a correction, its progress, and what the user is told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from BrainDiffSlicerLib.CorrectionJob import CorrectionJob
from BrainDiffSlicerLib.CorrectionOutputs import CorrectionOutputs

LOCKED_WHILE_RUNNING = (
    "inputSelector", "modelComboBox", "modelFileEdit", "correctedSelector", "differenceSelector", "deviceComboBox",
    "forceCheckBox", "disagreementCheckBox", "estimateButton",
)  # fmt: skip


class RunPanel:
    """Runs one correction at a time; busy from the click on, as an installation may come first, which handles events.

    ui          the panel's widgets by name: applyButton, progressBar, stageLabel, messageLabel and LOCKED_WHILE_RUNNING
    start       starts a correction and returns its job; takes ``onStage`` for what it does before, and the callbacks
                onProgress, onFinished, onFailed and onCancelled of ``BrainDiffSlicerLogic.process``, and raises if it
                cannot
    onFinished  called with the CorrectionOutputs
    """

    def __init__(
        self, ui, start: Callable[..., CorrectionJob], onFinished: Callable[[CorrectionOutputs], None]
    ) -> None:
        self._ui, self._start, self._onOutputs = ui, start, onFinished
        self._job: CorrectionJob | None = None
        self._preparing = False
        self._problem = ""
        ui.applyButton.clicked.connect(self._onApplyButton)

    @property
    def running(self) -> bool:
        """Whether a correction is running, or about to."""
        return self._preparing or self._job is not None

    def setProblem(self, problem: str) -> None:
        """Tell why there can be no correction now, in one line; empty if there can."""
        self._problem = problem
        self._update()

    def say(self, message: str) -> None:
        """Show a message under the button; an empty one hides it."""
        self._ui.messageLabel.text = message
        self._ui.messageLabel.visible = bool(message)

    def abandon(self) -> None:
        """Stop what is running and hear no more of it."""
        if self._job:
            self._job.abandon()
            self._job = None
        self._update()

    def _onApplyButton(self) -> None:
        if self._preparing:
            return
        if self._job:
            self._ui.applyButton.enabled = False
            self._ui.stageLabel.text = _("Canceling")
            self._job.cancel()
            return
        self.say("")
        self._onProgress(0.0, _("Starting"))
        self._preparing = True
        self._update()
        try:
            job = self._start(
                onStage=lambda stage: self._onProgress(0.0, stage),
                onProgress=self._onProgress,
                onFinished=self._onFinished,
                onFailed=self._onFailed,
                onCancelled=self._onCancelled,
            )
            self._job = job if job.running else None
        except (ValueError, RuntimeError) as error:
            self.say(str(error))
        except Exception as error:  # no room for files, no more processes
            logging.exception("BrainDiff: the correction could not be started")
            self.say(_("The correction could not be started: {error}").format(error=" ".join(str(error).split())))
        finally:
            self._preparing = False
            self._update()

    def _onProgress(self, share: float, stage: str) -> None:
        self._ui.progressBar.value = int(100 * share)
        self._ui.stageLabel.text = stage

    def _onFinished(self, outputs: CorrectionOutputs, report: dict[str, Any]) -> None:
        self._ended("\n".join([self._summary(report), *outputs.notes]))
        self._onOutputs(outputs)

    def _onFailed(self, message: str) -> None:
        self._ended(message)

    def _onCancelled(self) -> None:
        self._ended(_("Canceled. Nothing was changed."))

    def _ended(self, message: str) -> None:
        self._job = None
        self.say(message)
        self._update()

    def _update(self) -> None:
        running = self.running
        self._ui.applyButton.text = _("Cancel") if self._job else _("Correct motion")
        ready = self._problem or _("Make a corrected volume; the input is kept")
        self._ui.applyButton.toolTip = _("Stop the correction") if running else ready
        self._ui.applyButton.enabled = bool(self._job) or not (self._preparing or self._problem)
        self._ui.progressBar.maximum = 0 if self._preparing else 100  # 0: it takes time, nobody knows how much
        self._ui.progressBar.visible = self._ui.stageLabel.visible = running
        for name in LOCKED_WHILE_RUNNING:
            getattr(self._ui, name).enabled = not running

    @staticmethod
    def _summary(report: dict[str, Any]) -> str:
        text = _("{model} {version} changed {share} of the intensity in the head, in {seconds} s on {device}.")
        return text.format(
            model=report.get("model"),
            version=report.get("model_version"),
            share=f"{report.get('changed_share') or 0.0:.1%}",
            seconds=f"{report.get('seconds') or 0.0:.1f}",
            device=report.get("device"),
        )
