"""The Compare group of the panel, and the strength at which the outputs are shown."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer

from BrainDiffSlicerLib.ChangedSlices import ChangedSlices
from BrainDiffSlicerLib.CompareKeys import CompareKeys
from BrainDiffSlicerLib.CompareLayout import CompareLayout
from BrainDiffSlicerLib.CorrectionOutputs import CorrectionOutputs
from BrainDiffSlicerLib.QualitySummary import QualitySummary
from BrainDiffSlicerLib.SeriesExport import SeriesExport

BLENDING_MS = 120
"""A slider that is drawn asks for many strengths: after one is shown, the last of so many milliseconds is the next."""
BLINK_MS = 600
OVERLAY_PERCENT = 70.0
"""How much of the difference is seen over the corrected volume at first."""
NEED_VOLUMES = (
    "blinkButton", "autoBlinkButton", "worstSliceButton", "orientationComboBox", "middleComboBox", "revealSlider",
    "exportButton",
)  # fmt: skip


class ComparePanel:
    """Connects the Compare group's widgets with the compare layout.

    ui   the panel's widgets by name
    say  shows a message of one line to the user
    """

    def __init__(self, ui, say: Callable[[str], None]) -> None:
        self._ui, self._say = ui, say
        self._layout = CompareLayout(onLeft=self._onLeft)
        self._slices = ChangedSlices(ui, self._layout)
        self._keys = CompareKeys({
            "B": self._onBlinkButton, "W": self._onWorstSliceButton,
            "Left": lambda: self._slices.step(-1), "Right": lambda: self._slices.step(1),
        })  # fmt: skip
        self._outputs: CorrectionOutputs | None = None
        self._strength: float | None = None
        self._late = False
        self._timer, self._blinking = qt.QTimer(), qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(BLENDING_MS)
        self._timer.timeout.connect(self._blend)
        self._blinking.setInterval(BLINK_MS)
        self._blinking.timeout.connect(self._layout.blink)
        ui.compareButton.clicked.connect(self._onCompareButton)
        ui.orientationComboBox.currentIndexChanged.connect(self._onOrientationChanged)
        ui.blinkButton.clicked.connect(self._onBlinkButton)
        ui.autoBlinkButton.toggled.connect(self._onAutoBlink)
        ui.worstSliceButton.clicked.connect(self._onWorstSliceButton)
        ui.middleComboBox.currentIndexChanged.connect(self._onMiddleChanged)
        ui.revealSlider.valueChanged.connect(self._reveal)
        ui.exportButton.clicked.connect(self._onExportButton)
        ui.qualityTableView.verticalHeader().hide()
        self.setOutputs(None)

    def follow(self, corrected: slicer.vtkMRMLScalarVolumeNode | None, strength: float) -> None:
        """Compare what ``corrected`` came from, and blend it anew if the strength was changed.

        Selecting a volume changes nothing in it: only a strength that moves afterwards does.
        """
        if corrected is not (self._outputs.corrected if self._outputs else None):
            self.setOutputs(CorrectionOutputs.find(corrected))
        elif self._outputs and strength != self._strength:
            self._strength, self._late = strength, True
            if not self._timer.isActive():
                self._blend()
        self._strength = strength
        self.refresh()  # one of the volumes may have been removed

    def _blend(self) -> None:
        if not self._late or self._outputs is None:
            return
        self._late = False
        try:
            self._outputs.setStrength(self._strength)
        except ValueError as error:
            self._say(str(error))
        self._timer.start()

    def setOutputs(self, outputs: CorrectionOutputs | None) -> None:
        """Compare these from now on; without outputs there is nothing to compare."""
        self._timer.stop()
        self._late = False
        self._outputs = outputs
        self._strength = outputs.strength if outputs else None
        self._showTable(outputs.table if outputs else None)
        if self._layout.shown:
            self.show()
        self.refresh()

    def show(self) -> None:
        """Show original, corrected and difference beside each other."""
        if self._comparable:
            outputs = self._outputs
            if self._layout.show(outputs.input, outputs.corrected, outputs.difference, self._orientation):
                self._slices.fill(self._orientation)
                self._reveal()
        self.refresh()

    def refresh(self) -> None:
        """Let the buttons say what is so: the user may have chosen another layout."""
        self._ui.compareButton.checked = self._layout.shown
        self._ui.compareButton.enabled = self._comparable or self._layout.onScreen
        for name in NEED_VOLUMES:
            getattr(self._ui, name).enabled = self._comparable
        if not self._layout.shown:
            self._slices.clear()
            self._ui.autoBlinkButton.checked = False
        self._keys.enable(self._layout.shown)

    def close(self) -> None:
        """Bring back the layout that was there before."""
        self._layout.restore()
        self.refresh()

    def clear(self) -> None:
        """Forget all nodes: the scene or the application is being closed."""
        self._layout.clear()
        self.setOutputs(None)

    def remove(self) -> None:
        """The panel goes: nothing may call back any more."""
        self.clear()
        self._keys.remove()

    def _onLeft(self) -> None:
        self.refresh()

    def _showTable(self, table: slicer.vtkMRMLTableNode | None) -> None:
        view = self._ui.qualityTableView
        view.setMRMLTableNode(table)  # makes the columns fit, too
        view.resizeRowsToContents()
        self._ui.qualityCollapsibleButton.visible = table is not None
        self._ui.qualityLabel.text = QualitySummary.html(table)
        self._ui.qualityLabel.visible = bool(self._ui.qualityLabel.text)

    @property
    def _comparable(self) -> bool:
        outputs = self._outputs
        volumes = (outputs.input, outputs.corrected, outputs.difference) if outputs else (None,)
        return all(volume is not None and volume.GetScene() is not None for volume in volumes)

    @property
    def _orientation(self) -> str:
        # by index: the texts of the combo box may be translated
        return CompareLayout.ORIENTATIONS[self._ui.orientationComboBox.currentIndex]

    def _onCompareButton(self) -> None:
        if self._layout.shown or not self._comparable:
            self.close()
        else:
            self.show()

    def _onOrientationChanged(self) -> None:
        if self._layout.shown:
            self._layout.setOrientation(self._orientation)
            self._slices.fill(self._orientation)

    def _onMiddleChanged(self) -> None:
        overlaid = self._ui.middleComboBox.currentIndex == 1
        wasBlocked = self._ui.revealSlider.blockSignals(True)
        self._ui.revealSlider.value = OVERLAY_PERCENT if overlaid else 100.0
        self._ui.revealSlider.blockSignals(wasBlocked)
        self._showFirst()
        self._reveal()

    def _reveal(self, *_value) -> None:
        overlaid = self._ui.middleComboBox.currentIndex == 1
        self._layout.reveal(self._ui.revealSlider.value / 100, overlaid)

    def _onBlinkButton(self) -> None:
        self._showFirst()
        self._layout.blink()

    def _onAutoBlink(self, checked: bool) -> None:
        if checked:
            self._showFirst()
            self._blinking.start()
            return
        self._blinking.stop()
        if self._layout.blinked:
            self._layout.blink()

    def _onWorstSliceButton(self) -> None:
        self._showFirst()
        self._slices.first()

    def _onExportButton(self) -> None:
        message = SeriesExport.show(self._outputs.corrected)
        if message:
            self._say(message)

    def _showFirst(self) -> None:
        if not self._layout.shown:
            self.show()
