"""Original, corrected and difference beside each other, in views of their own."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from BrainDiffSlicerLib.DifferenceOverlay import DifferenceOverlay
from BrainDiffSlicerLib.LinkedViews import LinkedViews
from BrainDiffSlicerLib.MiddleView import MiddleView
from BrainDiffSlicerLib.WorstSlice import WorstSlice


class CompareLayout(LinkedViews):
    """Three linked slice views of an original, its correction and the difference, which have the same grid.

    >>> compare = CompareLayout()
    >>> compare.show(original, corrected, difference)
    True
    >>> compare.goToWorstSlice()  # mm along the normal of the views
    >>> compare.blink()           # the original, in the view of the corrected volume; once more: back
    >>> compare.reveal(0.5)       # half way between them; with overlaid=True the difference over the corrected volume
    >>> compare.restore()
    """

    LAYOUT_ID = VIEW_GROUP = 15701
    VIEW_NAMES = ("BrainDiffOriginal", "BrainDiffCorrected", "BrainDiffDifference")
    VIEW_COLORS = ("#8C8C8C", "#6EB04B", "#4A90D9")
    _middle: MiddleView | None = None
    _overlay: DifferenceOverlay | None = None

    def show(
        self, original: slicer.vtkMRMLScalarVolumeNode, corrected: slicer.vtkMRMLScalarVolumeNode,
        difference: slicer.vtkMRMLScalarVolumeNode, orientation: str = "Sagittal",
    ) -> bool:  # fmt: skip
        """Show them, see ``showVolumes``."""
        from BrainDiffLogic.display import CAPTIONS

        captions = tuple(_(caption) for caption in CAPTIONS)
        return self.showVolumes((original, corrected, difference), captions, orientation)

    def clear(self) -> None:
        """Forget the volumes and unlink them. The layout stays on the screen until ``restore``."""
        if self._middle and self.shown:
            self.reveal(1.0)
        self._middle = None
        if self._overlay:
            self._overlay.remove()
        self._overlay = None
        super().clear()

    # What can be done while it is shown; nothing happens otherwise

    def blink(self) -> None:
        """Show the original in the view of the corrected volume, or the corrected volume again; see ``blinked``."""
        if self.shown:
            self._middle.blinked = not self._middle.blinked
            self._middle.apply()

    @property
    def blinked(self) -> bool:
        """Whether the view of the corrected volume shows the original."""
        return self._middle is not None and self._middle.blinked

    def reveal(self, opacity: float, overlaid: bool = False) -> None:
        """Fade the view of the corrected volume, see ``MiddleView``; ends the blinking."""
        if self.shown:
            self._middle.opacity, self._middle.overlaid, self._middle.blinked = opacity, overlaid, False
            self._middle.apply()

    def changedSlices(self) -> list[tuple[float, float]]:
        """The slices of the present orientation that were changed most, see ``WorstSlice.ranked``."""
        logics = self._sliceLogics()
        if not logics:
            return []
        view = logics[0].GetSliceNode()
        return WorstSlice.ranked(self._volumes[2], view.GetSliceToRAS(), near=view.GetSliceOffset())

    def goToWorstSlice(self) -> float | None:
        """Scroll to the slice with the largest sum of |difference|.

        Returns its slice offset: mm along the normal of the views from the RAS origin, A in coronal, S in axial and
        minus R in Slicer's sagittal views. None, and the views stay where they are, if nothing was changed anywhere.
        """
        slices = self.changedSlices()
        if not slices:
            return None
        self.goTo(slices[0][0])
        return slices[0][0]

    def _fillLayers(self) -> None:
        """The view of the corrected volume has several looks; that of the difference has a legend."""
        original, corrected, difference = self._volumes
        _first, middle, last = self._sliceLogics()
        self._overlay = DifferenceOverlay(difference)
        self._middle = MiddleView(middle, original, corrected, self._overlay.overlay)
        composite = last.GetSliceCompositeNode()
        composite.SetForegroundVolumeID(self._overlay.scale.GetID())  # Slicer shows the legends of layers only
        composite.SetForegroundOpacity(0.0)
        self._overlay.showLegend(last.GetSliceNode())
