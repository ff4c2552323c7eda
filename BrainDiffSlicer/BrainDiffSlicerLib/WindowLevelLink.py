"""Two volumes that are shown with the same gray values."""

from __future__ import annotations

import slicer
from slicer.util import VTKObservationMixin


class WindowLevelLink(VTKObservationMixin):
    """Keeps window, level and interpolation of two scalar volumes equal, whichever of them the user changes.

    Each volume has a display node of its own, and Slicer links views but not display nodes.

    >>> link = WindowLevelLink()
    >>> link.link(original, corrected)  # corrected now looks like original, and both follow each other
    >>> link.unlink()
    """

    def __init__(self) -> None:
        super().__init__()
        self._volumes: tuple[slicer.vtkMRMLScalarVolumeNode, ...] = ()

    def link(self, leader: slicer.vtkMRMLScalarVolumeNode, follower: slicer.vtkMRMLScalarVolumeNode) -> None:
        """Copy the display of ``leader`` to ``follower`` once, and from then on each change to the other one."""
        self.unlink()
        self._volumes = (leader, follower)
        for volume in self._volumes:
            volume.CreateDefaultDisplayNodes()
        self._copyFrom(leader)
        for volume in self._volumes:
            self.addObserver(volume, slicer.vtkMRMLDisplayableNode.DisplayModifiedEvent, self._onDisplayModified)

    def unlink(self) -> None:
        """Let both volumes go; they keep the display they have."""
        self.removeObservers()
        self._volumes = ()

    def _onDisplayModified(self, volume: slicer.vtkMRMLScalarVolumeNode, event: str) -> None:
        self._copyFrom(volume)

    def _copyFrom(self, volume: slicer.vtkMRMLScalarVolumeNode) -> None:
        other = next(node for node in self._volumes if node is not volume)
        source, target = volume.GetDisplayNode(), other.GetDisplayNode()
        if source is None or target is None or self._look(source) == self._look(target):
            return  # equal: this ends the answer of the other volume to its own change
        window, level, interpolate = self._look(source)
        with slicer.util.NodeModify(target):
            target.SetAutoWindowLevel(False)  # it would overwrite the copied values by its own
            target.SetWindowLevel(window, level)
            target.SetInterpolate(interpolate)

    @staticmethod
    def _look(display: slicer.vtkMRMLScalarVolumeDisplayNode) -> tuple[float, float, int]:
        return display.GetWindow(), display.GetLevel(), display.GetInterpolate()
