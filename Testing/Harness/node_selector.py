"""Stand-in of qMRMLNodeComboBox: the nodes of the scene in a combo box, and a menu of what can be done with them."""
# ruff: noqa: N801, N802, N815 - the names are Slicer's and Qt's

from __future__ import annotations

import slicer

from Harness.pythonqt import QtCore, offer, qt

Property = QtCore.Property
DEFAULTS = {
    "noneEnabled": False, "addEnabled": True, "removeEnabled": True, "renameEnabled": False, "editEnabled": False,
    "showHidden": False, "showChildNodeTypes": True, "selectNodeUponCreation": True,
}  # fmt: skip


def _choice(name: str, kind: object):
    def write(self, value) -> None:
        self._choices[name] = value
        self._list_again()

    return Property(kind, lambda self: self._choices[name], write)


class qMRMLNodeComboBox(qt.QWidget):
    """Lists nodes by type, keeps its choice while nodes come, go and change their names."""

    currentNodeChanged = QtCore.Signal(object)
    nodeAddedByUser = QtCore.Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._choices = DEFAULTS | {"nodeTypes": ["vtkMRMLNode"], "baseName": "", "noneDisplay": ""}
        self._scene, self._nodes, self._current = None, [], ""
        self._scene_tags, self._node_tags = [], []
        self._box = qt.QComboBox(self)
        column = qt.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self._box)
        self._box.activated.connect(self._picked)
        self._list_again()

    # Scene

    def setMRMLScene(self, scene) -> None:
        for tag in self._scene_tags:
            self._scene.RemoveObserver(tag)
        self._scene, self._scene_tags = scene, []
        if scene is not None:
            for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndImportEvent):
                self._scene_tags.append(scene.AddObserver(event, self._on_scene))
        self._list_again()

    def mrmlScene(self):
        return self._scene

    def _on_scene(self, *_) -> None:
        if not self._scene.IsBatchProcessing():
            self._list_again()

    def _on_node(self, *_) -> None:
        if [n.GetName() for n in self._nodes] != self._listed_names:
            self._list_again()

    def _fits(self, node) -> bool:
        types = self._choices["nodeTypes"]
        of_type = node.GetClassName() in types or (
            self._choices["showChildNodeTypes"] and any(node.IsA(name) for name in types)
        )
        return of_type and (self._choices["showHidden"] or not node.GetHideFromEditors())

    def _list_again(self) -> None:
        for node, tag in self._node_tags:
            node.RemoveObserver(tag)
        count = self._scene.GetNumberOfNodes() if self._scene is not None else 0
        self._nodes = [n for n in (self._scene.GetNthNode(i) for i in range(count)) if self._fits(n)]
        self._node_tags = [(n, n.AddObserver("ModifiedEvent", self._on_node)) for n in self._nodes]
        self._listed_names = [n.GetName() for n in self._nodes]
        self._fill()
        if self._current and self._current not in [n.GetID() for n in self._nodes]:
            self._choose("")
        elif not self._current and not self._choices["noneEnabled"] and self._nodes:
            self._choose(self._nodes[0].GetID())

    def _fill(self) -> None:
        self._box.clear()
        if self._choices["noneEnabled"]:
            self._box.addItem(self._choices["noneDisplay"] or "None", "")
        elif not self._nodes:
            self._box.addItem("Select a " + self._type_name(), "")
        for node in self._nodes:
            self._box.addItem(node.GetName(), node.GetID())
        for action in self._actions():
            self._box.addItem(action, action)
        self._box.setCurrentIndex(max(self._box.findData(self._current), 0))

    # User

    def _type_name(self) -> str:
        node = self._scene.CreateNodeByClass(self._choices["nodeTypes"][0]) if self._scene is not None else None
        if node is None:
            return "Node"
        node.UnRegister(None)
        return node.GetNodeTagName()

    def _actions(self) -> list[str]:
        offered = []
        if self._choices["addEnabled"]:
            offered.append(f"Create new {self._type_name()}")
        if self._choices["renameEnabled"]:
            offered.append("Rename current node")
        if self._choices["removeEnabled"]:
            offered.append("Delete current node")
        return offered

    def _picked(self, index: int) -> None:
        data = self._box.itemData(index)
        if data.startswith("Create new "):
            self.addNode()
        elif data == "Delete current node" and self.currentNode():
            self.removeCurrentNode()
        elif data != "Rename current node":
            self._choose(data)
        self._fill()

    def addNode(self, node_type: str = ""):
        name = self._choices["baseName"] or self._type_name()
        node = self._scene.AddNewNodeByClass(
            node_type or self._choices["nodeTypes"][0], self._scene.GenerateUniqueName(name)
        )
        self.nodeAddedByUser.emit(node)
        if self._choices["selectNodeUponCreation"]:
            self._choose(node.GetID())
        return node

    def removeCurrentNode(self) -> None:
        self._scene.RemoveNode(self.currentNode())

    # Choice

    def _choose(self, node_id: str) -> None:
        if node_id != self._current:
            self._current = node_id
            self._box.setCurrentIndex(max(self._box.findData(node_id), 0))
            self.currentNodeChanged.emit(self.currentNode())

    def currentNode(self):
        return self._scene.GetNodeByID(self._current) if self._scene is not None and self._current else None

    def setCurrentNode(self, node) -> None:
        self.setCurrentNodeID(node.GetID() if node is not None else "")

    def setCurrentNodeID(self, node_id: str | None) -> None:
        known = node_id in [n.GetID() for n in self._nodes]
        self._choose(node_id if known else "")

    def nodeCount(self) -> int:
        return len(self._nodes)

    currentNodeID = Property(str, lambda self: self._current, setCurrentNodeID)
    currentText = Property(str, lambda self: self._box.currentText)
    nodeTypes, baseName = _choice("nodeTypes", "QStringList"), _choice("baseName", str)
    noneEnabled, noneDisplay = _choice("noneEnabled", bool), _choice("noneDisplay", str)
    addEnabled, removeEnabled = _choice("addEnabled", bool), _choice("removeEnabled", bool)
    renameEnabled, editEnabled = _choice("renameEnabled", bool), _choice("editEnabled", bool)
    showHidden, showChildNodeTypes = _choice("showHidden", bool), _choice("showChildNodeTypes", bool)
    selectNodeUponCreation = _choice("selectNodeUponCreation", bool)


offer(slicer, qMRMLNodeComboBox)
