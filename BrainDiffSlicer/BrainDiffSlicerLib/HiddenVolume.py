"""Volumes that only views see: not in the lists, not in the subject hierarchy, not saved."""

from __future__ import annotations

import slicer


class HiddenVolume:
    """Makes and removes such volumes with their display nodes."""

    @staticmethod
    def add(name: str) -> slicer.vtkMRMLScalarVolumeNode:
        """A new volume without an image."""
        node = slicer.vtkMRMLScalarVolumeNode()
        node.SetName(name)
        node.SetHideFromEditors(True)  # before it is added: the subject hierarchy looks only then
        node.SetSaveWithScene(False)
        return slicer.mrmlScene.AddNode(node)

    @staticmethod
    def remove(volume: slicer.vtkMRMLScalarVolumeNode | None) -> None:
        """Take it out of the scene with its display and storage nodes, where it still is."""
        if volume is None:
            return
        displays = [volume.GetNthDisplayNode(index) for index in range(volume.GetNumberOfDisplayNodes())]
        for node in (*displays, volume.GetStorageNode(), volume):
            if node is not None and slicer.mrmlScene.IsNodePresent(node):
                slicer.mrmlScene.RemoveNode(node)
