"""Stand-in of slicer.app.coreIOManager(): scenes and volumes to files and back, by Slicer's own storage nodes."""
# ruff: noqa: N801, N802, N815 - the names are Slicer's and Qt's

from __future__ import annotations

from pathlib import Path

import slicer


class CoreIOManager:
    """Saves and loads ``SceneFile`` (.mrb, .mrml) and ``VolumeFile``."""

    def fileWriterFileType(self, node) -> str:
        return "VolumeFile" if node.IsA("vtkMRMLVolumeNode") else "NodeFile"

    def saveNodes(self, file_type: str, properties: dict, messages=None) -> bool:
        path = Path(properties["fileName"])
        if file_type == "SceneFile":
            return self._save_scene(path)
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        node.AddDefaultStorageNode(str(path))
        node.GetStorageNode().SetFileName(str(path))
        return bool(node.GetStorageNode().WriteData(node))

    @staticmethod
    def _save_scene(path: Path) -> bool:
        if path.suffix == ".mrb":
            return bool(slicer.mrmlScene.WriteToMRB(str(path)))
        slicer.mrmlScene.SetURL(str(path))
        return bool(slicer.mrmlScene.Commit(str(path)))

    def loadNodes(self, file_type: str, properties: dict, loaded=None, messages=None) -> bool:
        path = str(properties["fileName"])
        if file_type == "SceneFile" and path.endswith(".mrb"):
            return bool(slicer.mrmlScene.ReadFromMRB(path, properties.get("clear", False)))
        if file_type == "SceneFile":
            slicer.mrmlScene.SetURL(path)
            return bool(slicer.mrmlScene.Connect() if properties.get("clear", False) else slicer.mrmlScene.Import())
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", Path(path).name.split(".")[0])
        node.AddDefaultStorageNode(path)
        if not node.GetStorageNode().ReadData(node):
            slicer.mrmlScene.RemoveNode(node)
            return False
        node.CreateDefaultDisplayNodes()
        if loaded is not None:
            loaded.AddItem(node)
        return True
