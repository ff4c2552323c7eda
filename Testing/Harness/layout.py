"""Stand-in of qMRMLLayoutManager: Slicer's own layout, slice and link logics without the view widgets."""
# ruff: noqa: N801, N802, N815 - the names are Slicer's and Qt's

from __future__ import annotations

import slicer
import vtk

from Harness.pythonqt import QtCore, qt

VIEW_SIZE = (300, 300)
FOUR_UP = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView


class SliceView:
    """What ``sliceWidget(name)`` gives: the nodes and the logic of one slice view."""

    def __init__(self, logic):
        self._logic = logic

    def sliceLogic(self):
        return self._logic

    def mrmlSliceNode(self):
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self):
        return self._logic.GetSliceCompositeNode()

    def fitSliceToBackground(self) -> None:
        self._logic.FitSliceToBackground()


class LayoutManager(qt.QWidget):
    """Follows the layout node of a scene: a slice logic for every slice node, mapped while it is shown."""

    layoutChanged = QtCore.Signal(int)

    def __init__(self, application_logic):
        super().__init__()
        self._application_logic, self._logics, self._tags = application_logic, {}, []
        self._giving = False

    def start(self, scene) -> None:
        """Shows the layout of the scene, Four-Up at first."""
        self._scene, self._logics = scene, {}
        self._application_logic.SetSliceLogics(vtk.vtkCollection())
        self._application_logic.SetViewLogics(vtk.vtkCollection())
        self._layout_logic = slicer.vtkMRMLLayoutLogic()
        self._layout_logic.SetMRMLScene(scene)
        node, events = self._layout_logic.GetLayoutNode(), (scene.NodeAddedEvent, scene.NodeRemovedEvent)
        self._tags = [(scene, scene.AddObserver(event, self._on_nodes)) for event in events]
        self._tags.append((node, node.AddObserver("ModifiedEvent", self._on_layout)))
        self._shown = None
        node.SetViewArrangement(FOUR_UP)
        self._on_layout()

    def stop(self) -> None:
        """Lets go of the scene."""
        for observed, tag in self._tags:
            observed.RemoveObserver(tag)
        for logic in self._logics.values():
            logic.SetMRMLScene(None)
        self._layout_logic.SetMRMLScene(None)
        self._tags, self._logics, self._scene = [], {}, None
        self._application_logic.GetSliceLogics().RemoveAllItems()

    # As in Slicer

    def layoutLogic(self):
        return self._layout_logic

    def setLayout(self, layout_id: int) -> None:
        """Nothing for the layout that the node names already; Conventional for one that is not known."""
        node = self._layout_logic.GetLayoutNode()
        if layout_id == node.GetViewArrangement():
            return
        known = node.IsLayoutDescription(layout_id)
        node.SetViewArrangement(layout_id if known else slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView)

    layout = QtCore.Property(int, lambda self: self._layout_logic.GetLayoutNode().GetViewArrangement(), setLayout)

    def mrmlSliceLogics(self):
        return self._application_logic.GetSliceLogics()

    def sliceViewNames(self) -> tuple[str, ...]:
        return tuple(self._logics)

    def sliceWidget(self, name: str) -> SliceView | None:
        return SliceView(self._logics[name]) if name in self._logics else None

    def resetSliceViews(self) -> None:
        for logic in self._logics.values():
            logic.FitSliceToBackground()
            logic.SnapSliceOffsetToIJK()

    threeDViewCount = tableViewCount = plotViewCount = 0

    # Own

    def shown(self) -> list[str]:
        """The names of the slice views of the present layout, in its order."""
        nodes = self._layout_logic.GetViewNodes()
        present = [nodes.GetItemAsObject(i) for i in range(nodes.GetNumberOfItems())]
        return [node.GetLayoutName() for node in present if node.IsA("vtkMRMLSliceNode")]

    def _on_nodes(self, *_) -> None:
        if not self._giving:  # a slice logic adds nodes itself
            self._give_logics()

    def _on_layout(self, *_) -> None:
        self._give_logics()
        shown = self.shown()
        for name, logic in self._logics.items():
            logic.GetSliceNode().SetMappedInLayout(name in shown)
        if self.layout != self._shown:
            self._shown = self.layout
            self.layoutChanged.emit(self.layout)

    def _give_logics(self) -> None:
        self._giving = True
        try:
            self._match_logics()
        finally:
            self._giving = False

    def _match_logics(self) -> None:
        nodes = slicer.util.getNodesByClass("vtkMRMLSliceNode", self._scene)
        for name in set(self._logics) - {node.GetLayoutName() for node in nodes}:
            self.mrmlSliceLogics().RemoveItem(self._logics.pop(name))
        for node in nodes:
            if node.GetLayoutName() not in self._logics:
                self._logics[node.GetLayoutName()] = self._logic_of(node)

    def _logic_of(self, node):
        # SetSliceNode, not AddSliceNode: that one would take the node for its own and reset the orientation.
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(self._application_logic)
        logic.SetMRMLScene(self._scene)
        logic.SetSliceNode(node)
        logic.ResizeSliceNode(*VIEW_SIZE)
        self.mrmlSliceLogics().AddItem(logic)
        return logic
