"""The list of the most changed slices in the panel."""

from __future__ import annotations

from slicer.i18n import tr as _

from BrainDiffSlicerLib.CompareLayout import CompareLayout

SIDES = {"Sagittal": (_("L"), _("R")), "Axial": (_("S"), _("I")), "Coronal": (_("A"), _("P"))}
"""Names of the directions in which the offset of Slicer's views grows and falls."""


class ChangedSlices:
    """Fills a combo box with the ranked slices of the layout, and scrolls to the chosen one.

    ui      the panel's widgets by name: changedSlicesComboBox, previousSliceButton and nextSliceButton
    layout  the compare layout
    """

    def __init__(self, ui, layout: CompareLayout) -> None:
        self._combo, self._layout = ui.changedSlicesComboBox, layout
        self._offsets: list[float] = []
        self._buttons = (ui.previousSliceButton, ui.nextSliceButton)
        self._combo.currentIndexChanged.connect(self._onChosen)
        ui.previousSliceButton.clicked.connect(lambda: self.step(-1))
        ui.nextSliceButton.clicked.connect(lambda: self.step(1))

    def fill(self, orientation: str) -> None:
        """List the slices of the views' orientation anew; the views stay where they are."""
        ranked = self._layout.changedSlices()
        self._offsets = [offset for offset, _share in ranked]
        wasBlocked = self._combo.blockSignals(True)
        self._combo.clear()
        for offset, share in ranked:
            side = SIDES[orientation][0 if offset >= 0 else 1]
            text = _("{side} {mm} mm, {share}")
            self._combo.addItem(text.format(side=side, mm=f"{abs(offset):.0f}", share=f"{share:.1%}"))
        self._combo.blockSignals(wasBlocked)
        for widget in (self._combo, *self._buttons):
            widget.enabled = bool(ranked)

    def clear(self) -> None:
        """List nothing."""
        self._offsets = []
        wasBlocked = self._combo.blockSignals(True)
        self._combo.clear()
        self._combo.blockSignals(wasBlocked)
        for widget in (self._combo, *self._buttons):
            widget.enabled = False

    def first(self) -> None:
        """Go to the slice that was changed most."""
        self._goTo(0)

    def step(self, steps: int) -> None:
        """Go on in the list, and round at its ends."""
        if self._offsets:
            self._goTo((self._combo.currentIndex + steps) % len(self._offsets))

    def _goTo(self, index: int) -> None:
        if not self._offsets:
            return
        wasBlocked = self._combo.blockSignals(True)
        self._combo.currentIndex = index
        self._combo.blockSignals(wasBlocked)
        self._onChosen()

    def _onChosen(self, *_index) -> None:
        if 0 <= self._combo.currentIndex < len(self._offsets):
            self._layout.goTo(self._offsets[self._combo.currentIndex])
