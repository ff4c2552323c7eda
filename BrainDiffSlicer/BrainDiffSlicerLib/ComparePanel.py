"""The Compare group of the panel, and the strength at which the outputs are shown."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer

from BrainDiffSlicerLib.CompareLayout import CompareLayout
from BrainDiffSlicerLib.CorrectionOutputs import CorrectionOutputs

BLENDING_MS = 120
"""A slider that is drawn asks for many strengths: after one is shown, the last of so many milliseconds is the next."""


class ComparePanel:
    """Connects the Compare group's widgets with the compare layout.

    ui   the panel's widgets by name: compareButton, orientationComboBox, blinkButton, worstSliceButton and
         qualityTableView
    say  shows a message of one line to the user
    """

    def __init__(self, ui, say: Callable[[str], None]) -> None:
        self._ui, self._say = ui, say
        self._layout = CompareLayout(onLeft=self.refresh)
        self._outputs: CorrectionOutputs | None = None
        self._strength: float | None = None
        self._late = False
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(BLENDING_MS)
        self._timer.timeout.connect(self._blend)
        ui.compareButton.clicked.connect(self._onCompareButton)
        ui.orientationComboBox.currentIndexChanged.connect(self._onOrientationChanged)
        ui.blinkButton.clicked.connect(self._onBlinkButton)
        ui.worstSliceButton.clicked.connect(self._onWorstSliceButton)
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
            self._layout.show(outputs.input, outputs.corrected, outputs.difference, self._orientation)
        self.refresh()

    def refresh(self) -> None:
        """Let the buttons say what is so: the user may have chosen another layout."""
        self._ui.compareButton.checked = self._layout.shown
        self._ui.compareButton.enabled = self._comparable or self._layout.onScreen
        for name in ("blinkButton", "worstSliceButton", "orientationComboBox"):
            getattr(self._ui, name).enabled = self._comparable

    def close(self) -> None:
        """Bring back the layout that was there before."""
        self._layout.restore()
        self.refresh()

    def clear(self) -> None:
        """Forget all nodes: the scene or the application is being closed."""
        self._layout.clear()
        self.setOutputs(None)

    def _showTable(self, table: slicer.vtkMRMLTableNode | None) -> None:
        view = self._ui.qualityTableView
        view.setMRMLTableNode(table)  # makes the columns fit, too
        view.resizeRowsToContents()
        view.visible = table is not None

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

    def _onBlinkButton(self) -> None:
        self._showFirst()
        self._layout.blink()

    def _onWorstSliceButton(self) -> None:
        self._showFirst()
        self._layout.goToWorstSlice()

    def _showFirst(self) -> None:
        if not self._layout.shown:
            self.show()
