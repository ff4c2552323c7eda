"""The two views of a reader study."""

from __future__ import annotations

from BrainDiffSlicerLib.LinkedViews import LinkedViews


class PairViews(LinkedViews):
    """Two linked slice views without names."""

    LAYOUT_ID = VIEW_GROUP = 15702
    VIEW_NAMES = ("BrainDiffLeft", "BrainDiffRight")
    VIEW_COLORS = ("#8C8C8C", "#8C8C8C")

    def scroll(self, slices: int) -> None:
        """Go so many slices on."""
        for logic in self._sliceLogics():
            logic.SetSliceOffset(logic.GetSliceOffset() + slices * logic.GetLowestVolumeSliceSpacing()[2])

    def turn(self) -> None:
        """The next orientation."""
        logics = self._sliceLogics()
        if logics:
            shown = self.ORIENTATIONS.index(logics[0].GetSliceNode().GetOrientation())
            self.setOrientation(self.ORIENTATIONS[(shown + 1) % len(self.ORIENTATIONS)])
