"""A difference map to be seen over an image, and the legend of its colors in per cent of the gray range."""

from __future__ import annotations

import numpy as np
import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from BrainDiffSlicerLib.DifferenceColors import DifferenceColors
from BrainDiffSlicerLib.HiddenVolume import HiddenVolume
from BrainDiffSlicerLib.OutputVolume import OutputVolume


class DifferenceOverlay(VTKObservationMixin):
    """Two hidden volumes, which live as long as a difference is compared.

    overlay  the voxels of the difference, none of its own, black where nothing was changed: to be added to an image
    scale    has the window of the difference in per cent of the gray range; Slicer's color legend shows it in a view
             where it is a layer, even one of opacity 0

    Usage::

      overlay = DifferenceOverlay(differenceNode)
      composite.SetForegroundVolumeID(overlay.overlay.GetID())
      overlay.remove()
    """

    def __init__(self, difference: slicer.vtkMRMLScalarVolumeNode) -> None:
        super().__init__()
        self._difference = difference
        self.overlay = HiddenVolume.add(_("Difference"))
        self.scale = HiddenVolume.add(_("Change in % of the gray range"))
        self._follow()
        self._showScale()
        self.addObserver(difference, slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent, self._follow)

    def remove(self) -> None:
        """Take both out of the scene."""
        self.removeObservers()
        for volume in (self.overlay, self.scale):
            HiddenVolume.remove(volume)

    def showLegend(self, viewNode: slicer.vtkMRMLSliceNode) -> None:
        """Slicer's color legend, in this view alone; nothing where Slicer's Colors module is not there."""
        logic = getattr(slicer, "vtkSlicerColorLogic", None)
        if logic is None:
            return
        legend = logic.AddDefaultColorLegendDisplayNode(self.scale)
        if legend is None:
            return
        legend.SetSaveWithScene(False)
        legend.SetTitleText(_("%"))
        legend.SetLabelFormat("%+.0f")
        legend.SetNumberOfLabels(5)
        legend.SetMaxNumberOfColors(255)
        legend.SetPosition(0.97, 0.02)
        legend.SetSize(0.2, 0.26)
        for text, size in ((legend.GetLabelTextProperty(), 11), (legend.GetTitleTextProperty(), 12)):
            text.SetFontSize(size)
            text.SetColor(0.0, 0.0, 0.0)
            text.SetBackgroundColor(1.0, 1.0, 1.0)  # to be read on the white map and on the black around it
            text.SetBackgroundOpacity(1.0)
            text.SetShadow(False)
        legend.SetViewNodeIDs([viewNode.GetID()])

    def _follow(self, *_event) -> None:
        """The image may have been replaced."""
        difference, display = self._difference, self._difference.GetDisplayNode()
        with slicer.util.NodeModify(self.overlay):
            self.overlay.CopyOrientation(difference)
            self.overlay.SetAndObserveTransformNodeID(difference.GetTransformNodeID())
            self.overlay.SetAndObserveImageData(difference.GetImageData())
            if display is not None:
                table = DifferenceColors.darkTable(difference.GetScene())
                OutputVolume(self.overlay).displayWith(table.GetID(), display.GetWindow(), display.GetLevel())

    def _showScale(self) -> None:
        from BrainDiffLogic.display import WINDOW_SHARE

        slicer.util.updateVolumeFromArray(self.scale, np.zeros((2, 2, 2), np.float32))
        table = DifferenceColors.table(self._difference.GetScene())
        OutputVolume(self.scale).displayWith(table.GetID(), window=200 * WINDOW_SHARE, level=0.0)
