"""Which volumes are refused before a correction starts, and what the user is told."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import slicer.util

pytestmark = pytest.mark.usefixtures("a_slicer")
SHAPE = (5, 4, 3)  # KJI


def problem(volume: slicer.vtkMRMLNode | None, *outputs: slicer.vtkMRMLNode | None) -> str:
    from BrainDiffSlicerLib.CorrectionInput import CorrectionInput

    return CorrectionInput(volume).problem(outputs)


def a_node(kind: str) -> slicer.vtkMRMLNode | None:
    scene, add = slicer.mrmlScene, slicer.util.addVolumeFromArray
    return {
        "nothing": lambda: None,
        "table": lambda: scene.AddNewNodeByClass("vtkMRMLTableNode", "X"),
        "empty": lambda: scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "X"),
        "labels": lambda: add(np.ones(SHAPE, np.uint8), name="X", nodeClassName="vtkMRMLLabelMapVolumeNode"),
        "color": lambda: add(np.ones((*SHAPE, 3), np.uint8), name="X", nodeClassName="vtkMRMLVectorVolumeNode"),
        "slice": lambda: add(np.ones((1, 8, 8), np.int16), name="X"),
        "volume": lambda: add(np.ones(SHAPE, np.int16), name="X"),
    }[kind]()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nothing", "No input volume is selected"),
        ("table", "X is not a volume"),
        ("empty", "X holds no image"),
        ("labels", "X holds labels"),
        ("color", "X has several values per voxel"),
        ("slice", "X is a single slice"),
    ],
)
def test_a_volume_that_cannot_be_corrected_is_refused_before_the_start(kind, message):
    from BrainDiffSlicerLib.CorrectionJob import CorrectionJob

    node = a_node(kind)
    assert problem(node).startswith(message)
    before = slicer.mrmlScene.GetNumberOfNodes()
    with pytest.raises(ValueError, match=message):
        CorrectionJob(node).start()
    assert slicer.mrmlScene.GetNumberOfNodes() == before


def test_a_3d_volume_has_no_problem():
    assert problem(a_node("volume"), None, None) == ""


def test_a_volume_cannot_be_its_own_output():
    volume = a_node("volume")
    assert "input and output at once" in problem(volume, None, volume)


def test_a_volume_cannot_be_two_outputs():
    output = a_node("volume")
    assert "two outputs" in problem(a_node("volume"), output, output)
