"""Writing voxels, geometry and display of an output volume node."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
import vtk.util.numpy_support


class OutputVolume:
    """A scalar volume node that takes over voxels of its own and the grid of another volume."""

    def __init__(self, volume: slicer.vtkMRMLScalarVolumeNode) -> None:
        self.volume = volume

    def fill(self, array: np.ndarray, like: slicer.vtkMRMLScalarVolumeNode) -> None:
        """New voxels (KJI) on the grid of ``like``: its IJK-to-RAS matrix, entry by entry, and parent transform.

        The image data that the node had is dropped, never written to.
        """
        with slicer.util.NodeModify(self.volume):
            self.volume.SetAndObserveTransformNodeID(like.GetTransformNodeID())
            self.volume.CopyOrientation(like)
            self._replaceImage(array)

    def setVoxels(self, array: np.ndarray) -> None:
        """New voxels (KJI); in place where size and type stay."""
        current = slicer.util.arrayFromVolume(self.volume) if self.volume.GetImageData() else None
        with slicer.util.NodeModify(self.volume):
            if current is None or current.shape != array.shape or current.dtype != array.dtype:
                self._replaceImage(array)
            else:
                np.copyto(current, array)
                self.volume.GetImageData().GetPointData().GetScalars().Modified()
                self._announce()

    def displayLike(self, original: slicer.vtkMRMLScalarVolumeNode) -> None:
        """Window, level, threshold, colors and interpolation of ``original``; the defaults if it is not displayed."""
        self.volume.CreateDefaultDisplayNodes()
        source, display = original.GetScalarVolumeDisplayNode(), self.volume.GetScalarVolumeDisplayNode()
        with slicer.util.NodeModify(display):
            if source is None:
                display.SetAutoWindowLevel(True)
                return
            display.SetAutoWindowLevel(False)
            display.SetWindowLevel(source.GetWindow(), source.GetLevel())
            display.SetAutoThreshold(source.GetAutoThreshold())
            display.SetThreshold(source.GetLowerThreshold(), source.GetUpperThreshold())
            display.SetApplyThreshold(source.GetApplyThreshold())
            display.SetInterpolate(source.GetInterpolate())
            display.SetAndObserveColorNodeID(source.GetColorNodeID())

    def displayWith(self, colorNodeID: str, window: float, level: float) -> None:
        """These colors in a fixed window, nothing hidden."""
        self.volume.CreateDefaultDisplayNodes()
        display = self.volume.GetDisplayNode()
        with slicer.util.NodeModify(display):
            display.SetAutoWindowLevel(False)
            display.SetWindowLevel(window, level)
            display.SetAutoThreshold(False)
            display.SetApplyThreshold(False)
            display.SetAndObserveColorNodeID(colorNodeID)

    def _replaceImage(self, array: np.ndarray) -> None:
        image = vtk.vtkImageData()
        image.SetDimensions(*reversed(array.shape))
        image.AllocateScalars(vtk.util.numpy_support.get_vtk_array_type(array.dtype), 1)
        scalars = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
        np.copyto(scalars.reshape(array.shape), array)
        self.volume.SetAndObserveImageData(image)
        self._announce()

    def _announce(self) -> None:
        self.volume.StorableModified()
        self.volume.Modified()
        self.volume.InvokeCustomModifiedEvent(slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent)
