"""Where along a view's normal a difference is largest, and where it is next."""

from __future__ import annotations

import numpy as np
import slicer
import vtk

APART_MM = 6.0
"""Neighbors of a slice that is in the list already show the same again."""


class WorstSlice:
    """Finds the slices of a view that hold the largest sums of absolute values of a volume."""

    @staticmethod
    def offset(volume: slicer.vtkMRMLScalarVolumeNode, sliceToRAS: vtk.vtkMatrix4x4, near: float) -> float | None:
        """The offset of the first of ``ranked``; None where the volume is empty or zero everywhere."""
        ranked = WorstSlice.ranked(volume, sliceToRAS, near, count=1)
        return ranked[0][0] if ranked else None

    @staticmethod
    def ranked(
        volume: slicer.vtkMRMLScalarVolumeNode, sliceToRAS: vtk.vtkMatrix4x4, near: float, count: int = 10
    ) -> list[tuple[float, float]]:
        """The ``count`` slices with most, APART_MM from each other: (offset, share of all that was changed).

        The offset is mm along the view's normal, from the RAS origin of the world.

        The slices are those that the view with the axes ``sliceToRAS`` shows, spaced as the voxel axis nearest to its
        normal; every voxel counts for the two slices it lies between, so a volume that is oblique to the view is
        measured as it is displayed. Parent transforms are respected; of one that is not linear, its linear part at
        the center of the volume. Of equally bad slices the one nearest to the offset ``near`` in mm comes first. Empty
        where the volume is empty or zero everywhere.
        """
        from BrainDiffLogic.display import changed_slices

        if volume.GetImageData() is None:
            return []
        values = slicer.util.arrayFromVolume(volume)
        first, steps = WorstSlice._alongNormal(volume, sliceToRAS)
        offsets, sums = changed_slices(values, first, steps)
        found: list[tuple[float, float]] = []
        for index in np.lexsort((np.abs(offsets - near), -sums)):
            if sums[index] > 0 and all(abs(offsets[index] - other) >= APART_MM for other, _share in found):
                found.append((float(offsets[index]), float(sums[index] / sums.sum())))
            if len(found) == count:
                break
        return found

    @staticmethod
    def _alongNormal(volume: slicer.vtkMRMLScalarVolumeNode, sliceToRAS: vtk.vtkMatrix4x4) -> tuple[float, np.ndarray]:
        """Place of voxel (0, 0, 0) along the view's normal in mm, and the steps of the axes I, J and K along it."""
        ijkToRAS, toWorld = vtk.vtkMatrix4x4(), vtk.vtkGeneralTransform()
        volume.GetIJKToRASMatrix(ijkToRAS)
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(volume.GetParentTransformNode(), None, toWorld)
        normal = np.array([sliceToRAS.GetElement(row, 2) for row in range(3)])
        normal /= np.linalg.norm(normal)

        def place(ijk: np.ndarray) -> float:
            return float(normal @ toWorld.TransformPoint(ijkToRAS.MultiplyPoint((*ijk, 1.0))[:3]))

        center = (np.array(volume.GetImageData().GetDimensions()) - 1) / 2
        steps = np.array([place(center + axis) - place(center) for axis in np.eye(3)])
        return place(center) - float(steps @ center), steps
