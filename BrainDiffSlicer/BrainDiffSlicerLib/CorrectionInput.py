"""The volume that is to be corrected, checked before any work is done."""

from __future__ import annotations

from collections.abc import Iterable

import slicer
from slicer.i18n import tr as _


class CorrectionInput:
    """A volume node, and why it cannot be corrected, if so.

    Usage::

      problem = CorrectionInput(volumeNode).problem(outputs=[correctedNode])
      if problem:
        applyButton.toolTip = problem
    """

    def __init__(self, volume: slicer.vtkMRMLScalarVolumeNode | None) -> None:
        self.volume = volume

    def problem(self, outputs: Iterable[slicer.vtkMRMLNode | None] = ()) -> str:
        """What is wrong and what to do, in one line; empty if the volume can be corrected into ``outputs``."""
        if self.volume is None:
            return _("No input volume is selected: select a T1-weighted volume.")
        return self._kindProblem() or self._imageProblem() or self._outputProblem(outputs)

    def notice(self) -> str:
        """What to know before the volume is corrected, in one line; empty if there is nothing."""
        if self.volume is None:
            return ""
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.volume.GetScene())
        series = hierarchy.GetItemName(hierarchy.GetItemByDataNode(self.volume)) if hierarchy else ""
        own = self.volume.GetAttribute("BrainDiff.Strength") is not None
        if own or any("braindiff" in str(text).lower() for text in (series, self.volume.GetName())):
            return self._say(_("{name} was made by BrainDiff itself: correct the original instead."))
        return ""

    @classmethod
    def first(cls) -> slicer.vtkMRMLScalarVolumeNode | None:
        """The first volume of the scene that can be corrected and is not itself an output of BrainDiff."""
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
            own = node.GetAttribute("BrainDiff.Strength") is not None
            if not own and not node.GetHideFromEditors() and not cls(node).problem():
                return node
        return None

    def check(self, outputs: Iterable[slicer.vtkMRMLNode | None] = ()) -> None:
        """Raise ValueError with the ``problem``, if there is one."""
        problem = self.problem(outputs)
        if problem:
            raise ValueError(problem)

    def _kindProblem(self) -> str:
        if not self.volume.IsA("vtkMRMLScalarVolumeNode"):
            return self._say(_("{name} is not a volume: select a T1-weighted volume."))
        if self.volume.IsA("vtkMRMLLabelMapVolumeNode"):
            return self._say(_("{name} holds labels, not an image: select the T1-weighted volume itself."))
        return ""

    def _imageProblem(self) -> str:
        image = self.volume.GetImageData()
        if image is None or not image.GetPointData().GetScalars():
            return self._say(_("{name} holds no image: load its data or select another volume."))
        if image.GetNumberOfScalarComponents() != 1:
            return self._say(_("{name} has several values per voxel (color, vector or 4D): extract one 3D volume."))
        if min(image.GetDimensions()) < 2:
            return self._say(_("{name} is a single slice: select the whole 3D volume."))
        return ""

    def _outputProblem(self, outputs: Iterable[slicer.vtkMRMLNode | None]) -> str:
        outputs = list(outputs)
        chosen = [node.GetID() for node in outputs if node is not None]
        if self.volume.GetID() in chosen:
            return self._say(_("{name} is input and output at once: choose another output, the original is kept."))
        if len(set(chosen)) < len(chosen):
            return _("One volume is selected for two outputs: choose a volume of its own for each.")
        for node in outputs:
            if node is not None and node.IsA("vtkMRMLLabelMapVolumeNode"):
                text = _("{name} holds labels and cannot take an image: choose another output.")
                return text.format(name=node.GetName())
        return ""

    def _say(self, text: str) -> str:
        return text.format(name=self.volume.GetName())
