"""What the tests of the panel and its outputs share: heads to correct, and what a run may leave behind."""

from __future__ import annotations

import os
import time
import zipfile
from pathlib import Path

import numpy as np

MODULE = Path(__file__).resolve().parents[2] / "BrainDiffSlicer" / "BrainDiffSlicer.py"
SHAPE_KJI = (36, 40, 32)
SPACING = 2.0
TOO_LONG = 60.0
"""Seconds after which a run that should have ended is given up."""


def axes(name: str) -> np.ndarray:
    """IJK to RAS of a volume of ``SPACING`` mm that was acquired in this plane."""
    matrix = np.eye(4)
    columns = {
        "axial": ([-1, 0, 0], [0, -1, 0], [0, 0, 1]),
        "sagittal": ([0, -1, 0], [0, 0, -1], [1, 0, 0]),
        "coronal": ([-1, 0, 0], [0, 0, -1], [0, 1, 0]),
        "oblique": ([0.96, 0.28, 0], [-0.224, 0.768, 0.6], [0.168, -0.576, 0.8]),
    }[name]
    matrix[:3, :3] = SPACING * np.array(columns).T
    matrix[:3, 3] = (11.25, -7.5, 3.125)
    return matrix


def add_head(name: str = "T1", plane: str = "axial"):
    """A volume node with a head of two ellipsoids, some noise, int16."""
    import slicer

    grid = np.indices(SHAPE_KJI) - np.array(SHAPE_KJI).reshape(3, 1, 1, 1) / 2
    size = np.array(SHAPE_KJI).reshape(3, 1, 1, 1) / 2 - 2
    head = 700.0 * (((grid / size) ** 2).sum(axis=0) < 1) - 300.0 * (((grid / size * 1.4) ** 2).sum(axis=0) < 1)
    head += np.random.default_rng(5).normal(0, 10, SHAPE_KJI)
    node = slicer.util.addVolumeFromArray(np.abs(head).astype(np.int16), name=name)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(axes(plane)))
    node.CreateDefaultDisplayNodes()
    return node


def ijk_to_ras(node) -> np.ndarray:
    import slicer
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def nodes() -> set[str]:
    """The nodes that a user could see or save, by ID."""
    import slicer

    found = (slicer.mrmlScene.GetNthNode(index) for index in range(slicer.mrmlScene.GetNumberOfNodes()))
    kinds = ("vtkMRMLVolumeNode", "vtkMRMLTableNode", "vtkMRMLCommandLineModuleNode")
    return {node.GetID() for node in found if any(node.IsA(kind) for kind in kinds) and not _is_of_a_view(node)}


def _is_of_a_view(node) -> bool:
    """Layers that only the comparison sees, and that go with it; what a run leaves is no such node."""
    return node.GetHideFromEditors() and not node.GetSaveWithScene() and node.GetName() != "BrainDiff run"


def wait_until(condition, seconds: float = TOO_LONG) -> None:
    """Let the application go on until it is so."""
    import slicer

    end = time.monotonic() + seconds
    slicer.app.processEvents()
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.005)
        slicer.app.processEvents()


def children() -> set[int]:
    """The processes that this one has started and that still live."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended meanwhile
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.add(int(folder.name))
    return found


def temporary_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def saved_and_loaded(folder: Path) -> None:
    """Through an .mrb, unpacked here: to unpack one itself, the scene wants a cache that the application has."""
    import slicer

    assert slicer.mrmlScene.WriteToMRB(str(folder / "scene.mrb"))
    slicer.mrmlScene.Clear()
    with zipfile.ZipFile(folder / "scene.mrb") as bundle:
        bundle.extractall(folder)
        (scene,) = [name for name in bundle.namelist() if name.endswith(".mrml")]
    slicer.mrmlScene.SetURL(str(folder / scene))
    assert slicer.mrmlScene.Connect()


def message(panel) -> str:
    return "" if panel.ui.messageLabel.isHidden() else panel.ui.messageLabel.text


def start(panel) -> None:
    panel.ui.applyButton.click()
    assert panel.runPanel.running, message(panel)


def correct(panel) -> None:
    start(panel)
    wait_until(lambda: not panel.runPanel.running)
