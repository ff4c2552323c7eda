"""The estimated motion of the input volume, before anything is corrected."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from BrainDiffSlicerLib.EstimateJob import EstimateJob

BY_ITSELF = "BrainDiff/EstimateMotion"
"""Setting of this computer: whether a volume is looked at as soon as it is selected."""
WAIT_MS = 1500
"""After a selection, so that a user who looks for a volume in the list starts nothing."""
DIRECTIONS = {"sagittal": (0, _("R"), _("L")), "coronal": (1, _("A"), _("P")), "axial": (2, _("S"), _("I"))}


class MotionPanel:
    """Runs at most one estimate at a time, and never beside a correction.

    ui     the panel's widgets by name: motionLabel, estimateButton and estimateCheckBox
    ready  says whether a process may be started now: packages are installed, and nothing else runs
    ask    installs what is missing, and raises RuntimeError if it cannot
    """

    def __init__(self, ui, ready: Callable[[], bool], ask: Callable[[], None]) -> None:
        self._ui, self._ready, self._ask = ui, ready, ask
        self._volume: slicer.vtkMRMLScalarVolumeNode | None = None
        self._job: EstimateJob | None = None
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(WAIT_MS)
        self._timer.timeout.connect(self._onSelected)
        ui.estimateCheckBox.checked = slicer.util.settingsValue(BY_ITSELF, True, converter=slicer.util.toBool)
        ui.estimateCheckBox.toggled.connect(self._onCheckBox)
        ui.estimateButton.clicked.connect(self._onButton)

    def follow(self, volume: slicer.vtkMRMLScalarVolumeNode | None) -> None:
        """Speak of this volume from now on."""
        if volume is self._volume:
            return
        self.stop()
        self._volume = volume
        self._say(_("not estimated") if volume else "")
        if volume is not None and self._ui.estimateCheckBox.checked:
            self._timer.start()

    def stop(self) -> None:
        """End what is running, and forget it: a correction starts, or the panel is closed."""
        self._timer.stop()
        if self._job:
            self._job.abandon()
            self._job = None
            self._say(_("not estimated"))

    @staticmethod
    def text(found: dict[str, Any]) -> str:
        """One line: how far, give or take, and where that shows most."""
        if found.get("severity_mm") is None:
            return _("cannot be estimated")
        text = _("{mm} +- {error} mm").format(
            mm=f"{found['severity_mm']:.1f}", error=f"{found['severity_error_mm']:.1f}"
        )
        if found.get("gate") == "returned unchanged":
            return _("{text}: below what the gate lets through").format(text=text)
        if found.get("ras_mm") and found.get("plane") in DIRECTIONS:
            axis, positive, negative = DIRECTIONS[found["plane"]]
            place = found["ras_mm"][axis]
            side = positive if place >= 0 else negative
            text = _("{text}, most at {side} {place} mm").format(text=text, side=side, place=f"{abs(place):.0f}")
        return text

    def _say(self, text: str) -> None:
        self._ui.motionLabel.text = self._ui.motionLabel.toolTip = text
        self._ui.estimateButton.enabled = self._volume is not None and self._job is None

    def _onCheckBox(self, checked: bool) -> None:
        qt.QSettings().setValue(BY_ITSELF, bool(checked))

    def _onButton(self) -> None:
        try:
            self._ask()
        except RuntimeError as error:
            self._say(str(error))
            return
        self._start()

    def _onSelected(self) -> None:
        if self._ready():
            self._start()

    def _start(self) -> None:
        if self._job or self._volume is None or self._volume.GetScene() is None:
            return
        job = EstimateJob(
            self._volume, onProgress=self._onProgress, onFinished=self._onFinished, onFailed=self._onFailed
        )
        try:
            job.start()
        except Exception as error:  # it is an extra: whatever stops it is a line, no error
            logging.info("BrainDiff: the motion could not be estimated: %s", error)
            self._say(_("cannot be estimated"))
            return
        self._job = job
        self._say(_("estimating ..."))

    def _onProgress(self, _share: float, stage: str) -> None:
        self._ui.motionLabel.text = stage or _("estimating ...")

    def _onFinished(self, found: dict[str, Any]) -> None:
        self._job = None
        self._say(self.text(found))

    def _onFailed(self, message: str) -> None:
        self._job = None
        self._say(message)
