"""Slice views of their own beside each other, which move together."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer
import vtk
from slicer.util import VTKObservationMixin

from BrainDiffSlicerLib.WindowLevelLink import WindowLevelLink

VIEW_XML = (
    '<item><view class="vtkMRMLSliceNode" singletontag="{name}">'
    '<property name="orientation" action="default">Sagittal</property>'
    '<property name="viewgroup" action="default">{group}</property>'
    '<property name="viewcolor" action="default">{color}</property>'
    "</view></item>"
)


class LinkedViews(VTKObservationMixin):
    """A row of slice views that leave Red, Green and Yellow, and what the user had in them, alone.

    The views scroll, zoom and pan together; the first two volumes share window and level. The layout is in no menu:
    only its class shows it. It is not saved: a scene that was saved in it opens in the layout that there is, also where
    BrainDiff is not installed. A subclass names layout, views and captions.
    """

    LAYOUT_ID = 0
    """Far above Slicer's own layouts and its user layouts, which begin at 100; the group of the views, too."""
    VIEW_NAMES: tuple[str, ...] = ()
    VIEW_COLORS: tuple[str, ...] = ()
    VIEW_GROUP = 0
    ORIENTATIONS = ("Sagittal", "Axial", "Coronal")
    """The first one is the plane in which motion is corrected."""

    def __init__(self, onLeft: Callable[[], None] | None = None) -> None:
        """``onLeft`` is called without arguments when the user has chosen another layout."""
        super().__init__()
        self._onLeft = onLeft
        self._volumes: tuple[slicer.vtkMRMLScalarVolumeNode, ...] = ()
        self._windowLevel = WindowLevelLink()
        self._previousLayout = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView

    def showVolumes(
        self, volumes: tuple[slicer.vtkMRMLScalarVolumeNode, ...], captions: tuple[str, ...], orientation: str
    ) -> bool:
        """Switch to the layout and show the volumes, one a view, fitted and linked.

        False, and nothing done, where there are no views: Slicer without its main window. Raises ValueError for an
        orientation that is not one of ORIENTATIONS.
        """
        self._checkOrientation(orientation)
        layoutManager = slicer.app.layoutManager()
        if layoutManager is None:
            return False
        self.clear()
        self._switchTo(layoutManager)
        self._saveLayout(False)
        self._volumes = volumes
        self._fillViews(captions)
        self._fillLayers()
        self.setOrientation(orientation)
        self._windowLevel.link(*volumes[:2])
        self.addObserver(self._layoutNode(), vtk.vtkCommand.ModifiedEvent, self._onLayoutModified)
        return True

    def restore(self) -> None:
        """Back to the layout before; nothing happens where another layout is on the screen already."""
        self.clear()
        self._saveLayout(True)
        if self.onScreen:
            slicer.app.layoutManager().setLayout(self._previousLayout)

    def clear(self) -> None:
        """Forget the volumes and unlink them. The layout stays on the screen until ``restore``."""
        self.removeObservers()
        self._windowLevel.unlink()
        self._volumes = ()

    @property
    def shown(self) -> bool:
        """Whether volumes are compared now; False too once the user chose another layout or removed one of them."""
        return bool(self._volumes) and all(volume.GetScene() is not None for volume in self._volumes)

    @property
    def onScreen(self) -> bool:
        """Whether the views are on the screen, also those that a loaded scene brought or left without volumes."""
        layoutManager = slicer.app.layoutManager()
        return layoutManager is not None and layoutManager.layout == self.LAYOUT_ID

    def setOrientation(self, name: str) -> None:
        """Turn all views to "Sagittal", "Axial" or "Coronal", and fit them. ValueError for any other name."""
        self._checkOrientation(name)
        logics = self._sliceLogics()
        for logic in logics:
            logic.GetSliceNode().SetOrientation(name)
            logic.FitSliceToBackground()
        for logic in logics[1:]:
            self._showSameRegion(logics[0].GetSliceNode(), logic.GetSliceNode())

    def goTo(self, offset: float) -> None:
        """Scroll all views to a slice offset in mm."""
        for logic in self._sliceLogics():
            logic.GetSliceNode().SetSliceOffset(offset)

    @classmethod
    def registerLayout(cls) -> None:
        """Make the layout known to Slicer."""
        if cls._layoutNode().IsLayoutDescription(cls.LAYOUT_ID):
            return
        views = "".join(
            VIEW_XML.format(name=name, group=cls.VIEW_GROUP, color=color)
            for name, color in zip(cls.VIEW_NAMES, cls.VIEW_COLORS, strict=True)
        )
        layout = f'<layout type="horizontal" split="true">{views}</layout>'
        cls._layoutNode().AddLayoutDescription(cls.LAYOUT_ID, layout)

    def _switchTo(self, layoutManager: slicer.qMRMLLayoutManager) -> None:
        self.registerLayout()
        if layoutManager.layout != self.LAYOUT_ID:
            self._previousLayout = layoutManager.layout
        layoutManager.setLayout(self.LAYOUT_ID)
        # A scene may name the layout before it was registered; the layout manager takes it for the current one then.
        self._layoutNode().SetViewArrangement(self.LAYOUT_ID)
        # The views get their sizes, which fitting needs; no click may come in between.
        slicer.app.processEvents(qt.QEventLoop.ExcludeUserInputEvents)

    def _fillViews(self, captions: tuple[str, ...]) -> None:
        for logic, volume, caption in zip(self._sliceLogics(), self._volumes, captions, strict=True):
            view, composite = logic.GetSliceNode(), logic.GetSliceCompositeNode()
            view.SetViewGroup(self.VIEW_GROUP)  # a loaded scene may bring another one
            view.SetLayoutLabel(caption)
            for node in (view, composite):
                node.SetSaveWithScene(False)
            with slicer.util.NodeModify(composite):
                composite.SetBackgroundVolumeID(volume.GetID())
                composite.SetForegroundVolumeID(None)
                composite.SetLabelVolumeID(None)
                composite.SetLinkedControl(True)
                composite.SetHotLinkedControl(True)
                composite.SetDoPropagateVolumeSelection(False)  # a volume loaded later must not take the views
                composite.SetInteractionFlagsModifier(0)  # a volume picked in one view stays in that view

    def _fillLayers(self) -> None:
        """What a subclass shows beside the volumes."""

    def _sliceLogics(self) -> list[slicer.vtkMRMLSliceLogic]:
        """Those of the views, in the order of VIEW_NAMES; none while nothing is shown."""
        if not self.shown:
            return []
        layoutManager = slicer.app.layoutManager()
        return [layoutManager.sliceWidget(name).sliceLogic() for name in self.VIEW_NAMES]

    @staticmethod
    def _showSameRegion(leader: slicer.vtkMRMLSliceNode, follower: slicer.vtkMRMLSliceNode) -> None:
        """Same slice, center and millimeters per pixel, also where the splitter made one view wider."""
        width, height, depth = leader.GetFieldOfView()
        columns, rows = (follower.GetDimensions()[axis] / leader.GetDimensions()[axis] for axis in (0, 1))
        follower.GetSliceToRAS().DeepCopy(leader.GetSliceToRAS())
        follower.SetXYZOrigin(*leader.GetXYZOrigin())
        follower.SetFieldOfView(width * columns, height * rows, depth)
        follower.UpdateMatrices()

    def _saveLayout(self, save: bool) -> None:
        """Whether the layout node is saved; Slicer tells nobody before it saves a scene."""
        if slicer.app.layoutManager() is not None:
            self._layoutNode().SetSaveWithScene(save)

    @staticmethod
    def _layoutNode() -> slicer.vtkMRMLLayoutNode:
        return slicer.app.layoutManager().layoutLogic().GetLayoutNode()

    @classmethod
    def _checkOrientation(cls, name: str) -> None:
        if name not in cls.ORIENTATIONS:
            raise ValueError(f"no orientation {name!r}: choose one of {', '.join(cls.ORIENTATIONS)}")

    def _onLayoutModified(self, layoutNode: slicer.vtkMRMLLayoutNode, event: str) -> None:
        # Closing the scene comes here too: it resets the layout node, and the layout logic puts the layout back.
        if layoutNode.GetViewArrangement() != self.LAYOUT_ID:
            self._saveLayout(True)
            self.clear()
            if self._onLeft:
                self._onLeft()
