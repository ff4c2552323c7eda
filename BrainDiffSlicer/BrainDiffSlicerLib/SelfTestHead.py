"""The head that the module's self-test corrects."""

from __future__ import annotations

import numpy as np
import slicer

SHAPE_KJI = (44, 48, 40)
SHELLS = (((20, 22, 18), 600.0), ((18, 20, 16), 100.0), ((17, 19, 15), 500.0), ((9, 12, 8), 800.0))
"""Half-axes in voxels along K, J and I, and the value inside; the later lie in the earlier ones."""


class SelfTestHead:
    """Ellipsoids with a ghost, as motion leaves it: int16, 2 mm, turned about the long axis of the body."""

    @staticmethod
    def addToScene(name: str = "BrainDiff self-test") -> slicer.vtkMRMLScalarVolumeNode:
        """A new volume node with the head."""
        node = slicer.util.addVolumeFromArray(SelfTestHead.array(), name=name)
        ijkToRas = np.diag([2.0, 2.0, 2.0, 1.0])
        ijkToRas[:2, :2] = [[1.92, -0.56], [0.56, 1.92]]
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijkToRas))
        return node

    @staticmethod
    def array() -> np.ndarray:
        """The head as an array, KJI."""
        k, j, i = (axis - size // 2 for axis, size in zip(np.indices(SHAPE_KJI), SHAPE_KJI, strict=True))
        head = np.zeros(SHAPE_KJI)
        for (high, deep, wide), value in SHELLS:
            head[(k / high) ** 2 + (j / deep) ** 2 + (i / wide) ** 2 < 1] = value
        return (0.85 * head + 0.15 * np.roll(head, 5, axis=1)).astype(np.int16)
