"""What is seen in the view of the corrected volume: between original and corrected, or the difference on top."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _


class MiddleView:
    """The layers of one slice view.

    opacity  0 to 1; fades from the original to the corrected volume, or lets the difference be seen over it
    overlaid whether the difference lies over the corrected volume
    blinked  whether the original alone is seen, whatever the rest says

    Usage::

      view = MiddleView(sliceLogic, original, corrected, overlay)
      view.opacity = 0.5
      view.apply()
    """

    def __init__(
        self, logic: slicer.vtkMRMLSliceLogic, original: slicer.vtkMRMLScalarVolumeNode,
        corrected: slicer.vtkMRMLScalarVolumeNode, overlay: slicer.vtkMRMLScalarVolumeNode,
    ) -> None:  # fmt: skip
        self._logic = logic
        self._original, self._corrected, self._overlay = original, corrected, overlay
        self.opacity, self.overlaid, self.blinked = 1.0, False, False

    def apply(self) -> None:
        """Show it. One volume alone is the background, so that the annotations in the view name what is seen."""
        if self.blinked or (not self.overlaid and self.opacity == 0):
            self._show(_("Original"), self._original)
        elif self.overlaid:
            self._show(_("Corrected with difference"), self._corrected, self._overlay)
        elif self.opacity == 1:
            self._show(_("Corrected"), self._corrected)
        else:
            text = _("Original {share} corrected").format(share=f"{self.opacity:.0%}")
            self._show(text, self._original, self._corrected)

    def _show(
        self, label: str, background: slicer.vtkMRMLScalarVolumeNode,
        foreground: slicer.vtkMRMLScalarVolumeNode | None = None,
    ) -> None:  # fmt: skip
        composite = self._logic.GetSliceCompositeNode()
        with slicer.util.NodeModify(composite):
            composite.SetBackgroundVolumeID(background.GetID())
            composite.SetForegroundVolumeID(foreground.GetID() if foreground else None)
            composite.SetForegroundOpacity(self.opacity)
            composite.SetCompositing(composite.Add if foreground is self._overlay else composite.Alpha)
        self._logic.GetSliceNode().SetLayoutLabel(label)
