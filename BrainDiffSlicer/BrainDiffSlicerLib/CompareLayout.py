"""Original, corrected and difference beside each other, in views of their own."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from BrainDiffSlicerLib.WindowLevelLink import WindowLevelLink
from BrainDiffSlicerLib.WorstSlice import WorstSlice

VIEW_XML = (
    '<item><view class="vtkMRMLSliceNode" singletontag="{name}">'
    '<property name="orientation" action="default">Sagittal</property>'
    '<property name="viewgroup" action="default">{group}</property>'
    '<property name="viewcolor" action="default">{color}</property>'
    "</view></item>"
)


class CompareLayout(VTKObservationMixin):
    """Three linked slice views that leave Red, Green and Yellow, and what the user had in them, alone.

    The views scroll, zoom and pan together; original and corrected share window and level. The volumes have the same
    grid. The layout is in no menu: only this class shows it. It is not saved: a scene that was saved in it opens in the
    layout that there is, also where BrainDiff is not installed.

    >>> compare = CompareLayout()
    >>> compare.show(original, corrected, difference)
    True
    >>> compare.goToWorstSlice()  # mm along the normal of the views
    >>> compare.blink()           # the original, in the view of the corrected volume; once more: back
    >>> compare.restore()
    """

    LAYOUT_ID = 15701
    """Far above Slicer's own layouts and its user layouts, which begin at 100."""
    VIEW_NAMES = ("BrainDiffOriginal", "BrainDiffCorrected", "BrainDiffDifference")
    VIEW_COLORS = ("#8C8C8C", "#6EB04B", "#4A90D9")
    VIEW_GROUP = 15701
    ORIENTATIONS = ("Sagittal", "Axial", "Coronal")
    """The first one is the plane in which motion is corrected."""

    def __init__(self, onLeft: Callable[[], None] | None = None) -> None:
        """``onLeft`` is called without arguments when the user has chosen another layout."""
        super().__init__()
        self._onLeft = onLeft
        self._volumes: tuple[slicer.vtkMRMLScalarVolumeNode, ...] = ()
        self._windowLevel = WindowLevelLink()
        self._previousLayout = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
        self._blinked = False

    # Showing and leaving

    def show(
        self,
        original: slicer.vtkMRMLScalarVolumeNode,
        corrected: slicer.vtkMRMLScalarVolumeNode,
        difference: slicer.vtkMRMLScalarVolumeNode,
        orientation: str = "Sagittal",
    ) -> bool:
        """Switch to the layout and show the volumes, fitted and linked.

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
        self._volumes = (original, corrected, difference)
        self._fillViews()
        self.setOrientation(orientation)
        self._windowLevel.link(original, corrected)
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
        if self._blinked and self.shown:
            self._showInCorrectedView(original=False)
        self._blinked = False
        self.removeObservers()
        self._windowLevel.unlink()
        self._volumes = ()

    @property
    def shown(self) -> bool:
        """Whether volumes are compared now; False too once the user chose another layout or removed one of them."""
        return bool(self._volumes) and all(volume.GetScene() is not None for volume in self._volumes)

    @property
    def onScreen(self) -> bool:
        """Whether the three views are on the screen, also those that a loaded scene brought or left without volumes."""
        layoutManager = slicer.app.layoutManager()
        return layoutManager is not None and layoutManager.layout == self.LAYOUT_ID

    # What can be done while it is shown; nothing happens otherwise

    def setOrientation(self, name: str) -> None:
        """Turn all three views to "Sagittal", "Axial" or "Coronal", and fit them. ValueError for any other name."""
        self._checkOrientation(name)
        logics = self._sliceLogics()
        for logic in logics:
            logic.GetSliceNode().SetOrientation(name)
            logic.FitSliceToBackground()
        for logic in logics[1:]:
            self._showSameRegion(logics[0].GetSliceNode(), logic.GetSliceNode())

    def blink(self) -> None:
        """Show the original in the view of the corrected volume, or the corrected volume again; see ``blinked``."""
        if self.shown:
            self._showInCorrectedView(original=not self._blinked)

    @property
    def blinked(self) -> bool:
        """Whether the view of the corrected volume shows the original."""
        return self._blinked

    def goToWorstSlice(self) -> float | None:
        """Scroll to the slice with the largest sum of |difference|.

        Returns its slice offset: mm along the normal of the views from the RAS origin, A in coronal, S in axial and
        minus R in Slicer's sagittal views. None, and the views stay where they are, if nothing was changed anywhere.
        """
        logics = self._sliceLogics()
        if not logics:
            return None
        view = logics[0].GetSliceNode()
        offset = WorstSlice.offset(self._volumes[2], view.GetSliceToRAS(), near=view.GetSliceOffset())
        if offset is not None:
            for logic in logics:
                logic.GetSliceNode().SetSliceOffset(offset)
        return offset

    # Layout and views

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

    def _fillViews(self) -> None:
        captions = (_("Original"), _("Corrected"), _("Difference"))
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

    def _showInCorrectedView(self, original: bool) -> None:
        """Exchange the background: the annotations in the view then name the volume that is seen."""
        self._blinked = original
        name, volume = self.VIEW_NAMES[1], self._volumes[0 if original else 1]
        logic = slicer.app.layoutManager().sliceWidget(name).sliceLogic()
        logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())
        logic.GetSliceNode().SetLayoutLabel(_("Original") if original else _("Corrected"))

    def _sliceLogics(self) -> list[slicer.vtkMRMLSliceLogic]:
        """Those of the three views, in the order of VIEW_NAMES; none while nothing is shown."""
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
