"""The disagreement map: a volume of its own beside the other outputs, where it is asked for."""

from __future__ import annotations

import json

import numpy as np
import pytest
import slicer
import slicer.util
from panel_parts import (
    SHAPE_KJI,
    add_head,
    axes,
    correct,
    ijk_to_ras,
    message,
    nodes,
    saved_and_loaded,
    start,
    temporary_files,
    wait_until,
)

pytestmark = pytest.mark.usefixtures("a_slicer")
REPORT = {"model": "tiny", "model_version": "9.8.7", "disagreement": {"answers": 6, "calibrated": False}}


def create(volume, apart=None, strength: float = 1.0, **given):
    """The outputs of a run that took 40 off every voxel above 100, with this disagreement map."""
    from BrainDiffSlicerLib.CorrectionFinding import CorrectionFinding
    from BrainDiffSlicerLib.CorrectionOutputs import CorrectionOutputs

    change = -40.0 * (slicer.util.arrayFromVolume(volume) > 100).astype("f4")
    return CorrectionOutputs.create(volume, CorrectionFinding(change, REPORT, apart), strength, **given)


def find(corrected):
    from BrainDiffSlicerLib.CorrectionOutputs import CorrectionOutputs

    return CorrectionOutputs.find(corrected)


def voxels(volume) -> np.ndarray:
    return slicer.util.arrayFromVolume(volume).copy()


@pytest.fixture
def a_map() -> np.ndarray:
    return np.random.default_rng(6).uniform(0, 90, SHAPE_KJI).astype(np.float32)


@pytest.fixture
def a_head_node(a_slicer):
    return add_head()


@pytest.fixture
def outputs(a_head_node, a_map):
    return create(a_head_node, a_map)


# In the scene


@pytest.mark.parametrize("plane", ["axial", "sagittal", "coronal", "oblique"])
@pytest.mark.parametrize("parented", [False, True])
def test_the_map_has_the_exact_grid_and_parent_of_the_input(plane, parented, a_map):
    volume = add_head("Anna", plane)
    if parented:
        volume.SetAndObserveTransformNodeID(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode").GetID())
    before = voxels(volume)
    made = create(volume, a_map).disagreement
    assert made.GetName() == "Anna disagreement"
    assert np.array_equal(ijk_to_ras(made), ijk_to_ras(volume)) and np.array_equal(ijk_to_ras(volume), axes(plane))
    assert made.GetTransformNodeID() == volume.GetTransformNodeID()
    assert voxels(made).dtype == np.float32 and np.array_equal(voxels(made), a_map)
    assert np.array_equal(voxels(volume), before)


def test_the_window_reaches_from_zero_to_where_that_of_the_difference_ends(outputs):
    difference, shown = outputs.difference.GetDisplayNode(), outputs.disagreement.GetDisplayNode()
    assert not shown.GetAutoWindowLevel() and not shown.GetApplyThreshold()
    assert shown.GetWindowLevelMin() == pytest.approx(0.0)
    assert shown.GetWindowLevelMax() == pytest.approx(difference.GetWindowLevelMax())


def test_the_map_is_grey_where_slicer_has_read_no_files_of_colors(outputs):
    assert outputs.disagreement.GetDisplayNode().GetColorNode().GetName() == "Grey"


def test_the_map_is_shown_in_inferno_where_slicer_has_it(a_head_node, a_map):
    inferno = slicer.vtkMRMLColorTableNode()
    inferno.SetName("Inferno")
    inferno.SetSingletonTag("FileInferno.txt")  # as Slicer's color logic does it
    inferno.SetSaveWithScene(False)
    slicer.mrmlScene.AddNode(inferno)
    assert create(a_head_node, a_map).disagreement.GetDisplayNode().GetColorNode() is inferno


def test_the_map_says_where_it_comes_from_and_that_it_is_at_full_strength(a_head_node, a_map):
    made = create(a_head_node, a_map, strength=0.5).disagreement
    facts = {key: made.GetAttribute("BrainDiff." + key) for key in ("Model", "ModelVersion", "Input", "Strength")}
    assert facts == {"Model": "tiny", "ModelVersion": "9.8.7", "Input": "T1", "Strength": "1.0"}
    assert json.loads(made.GetAttribute("BrainDiff.Disagreement")) == REPORT["disagreement"]
    assert made.GetNodeReference("BrainDiff.input") is a_head_node


def test_the_map_stands_beside_the_input(a_head_node, a_map):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "First visit")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(a_head_node), study)
    made = create(a_head_node, a_map).disagreement
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(made)) == study


def test_another_strength_leaves_the_map_as_it_is(outputs, a_map):
    events = []
    outputs.disagreement.AddObserver("ModifiedEvent", lambda *_: events.append("modified"))
    outputs.setStrength(0.25)
    assert outputs.corrected.GetAttribute("BrainDiff.Strength") == "0.25"
    assert np.array_equal(voxels(outputs.disagreement), a_map) and not events


def test_the_map_is_found_again_in_a_saved_scene(outputs, a_map, tmp_path):
    window = outputs.disagreement.GetDisplayNode().GetWindowLevelMax()
    saved_and_loaded(tmp_path)
    found = find(slicer.mrmlScene.GetFirstNodeByName("T1 corrected"))
    assert found.disagreement.GetName() == "T1 disagreement"
    assert np.array_equal(voxels(found.disagreement), a_map)
    assert np.allclose(ijk_to_ras(found.disagreement), axes("axial"), atol=1e-6)
    display = found.disagreement.GetDisplayNode()
    assert display.GetWindowLevelMax() == pytest.approx(window) and display.GetColorNode().GetName() == "Grey"
    found.setStrength(0.5)
    assert np.array_equal(voxels(found.disagreement), a_map)


def test_there_is_no_map_where_none_was_asked_for(a_head_node):
    outputs = create(a_head_node)
    assert outputs.disagreement is None and find(outputs.corrected).disagreement is None
    assert nodes() == {node.GetID() for node in (a_head_node, outputs.corrected, outputs.difference, outputs.table)}


def test_a_later_run_without_a_map_lets_the_old_one_go_and_leaves_it_alone(outputs, a_head_node, a_map):
    old = outputs.disagreement
    again = create(a_head_node, corrected=outputs.corrected, difference=outputs.difference, table=outputs.table)
    assert again.corrected is outputs.corrected
    assert again.disagreement is None and find(again.corrected).disagreement is None
    assert old.GetScene() is not None and np.array_equal(voxels(old), a_map)
    assert old.GetAttribute("BrainDiff.Model") == "tiny"


def test_a_given_map_is_filled_anew(outputs, a_head_node, a_map):
    given = {name: getattr(outputs, name) for name in ("corrected", "difference", "table", "disagreement")}
    before = nodes()
    again = create(a_head_node, 2 * a_map, **given)
    assert again.disagreement is outputs.disagreement and nodes() == before
    assert np.array_equal(voxels(again.disagreement), 2 * a_map)


def test_an_old_map_that_becomes_a_difference_is_not_taken_for_a_map(outputs, a_head_node):
    again = create(a_head_node, corrected=outputs.corrected, difference=outputs.disagreement)
    assert again.difference.GetAttribute("BrainDiff.Disagreement") is None
    assert find(again.corrected).disagreement is None


@pytest.mark.parametrize("role", ["input", "difference"])
def test_the_map_never_replaces_another_volume(outputs, a_head_node, a_map, role):
    before, scene = voxels(getattr(outputs, role)), nodes()
    with pytest.raises(ValueError, match="input and output at once|two outputs"):
        create(a_head_node, a_map, difference=outputs.difference, disagreement=getattr(outputs, role))
    assert nodes() == scene and np.array_equal(voxels(getattr(outputs, role)), before)


def test_a_map_that_was_removed_is_not_found(outputs):
    slicer.mrmlScene.RemoveNode(outputs.disagreement)
    assert find(outputs.corrected).disagreement is None


# From Python, with the CLI module in a process of its own


def test_the_map_of_a_run_is_that_of_the_library(the_module, a_tiny_model, a_temporary_folder):
    from BrainDiffLogic import correct as library_correct
    from BrainDiffLogic.volume import Volume

    head = add_head("T1", "oblique")
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    head.SetAndObserveTransformNodeID(transform.GetID())
    before = voxels(head)
    given = slicer.util.addVolumeFromArray(np.zeros((2, 3, 4)), name="mine")
    outputs = the_module.BrainDiffSlicerLogic().process(
        head, model="tiny", device="cpu", force=True, disagreement=True, disagreementVolume=given
    )
    assert outputs.disagreement is given and find(outputs.corrected).disagreement is given
    assert np.array_equal(ijk_to_ras(given), ijk_to_ras(head)) and given.GetParentTransformNode() is transform
    assert np.array_equal(voxels(head), before)
    volume = Volume(before.T, ijk_to_ras(head))
    expected = library_correct(volume, "tiny", device="cpu", force=True, disagreement=True)
    assert voxels(given).min() >= 0 and voxels(given).max() > 0
    assert np.allclose(voxels(given), expected.disagreement.array.T, atol=1e-2)
    facts = json.loads(given.GetAttribute("BrainDiff.Disagreement"))
    assert facts == expected.report["disagreement"] and facts["answers"] > 1
    volumes = (head, outputs.corrected, outputs.difference, outputs.table, given)
    assert nodes() == {node.GetID() for node in volumes} and temporary_files(a_temporary_folder) == []


def test_process_refuses_a_map_that_is_the_input_before_it_starts(the_module, a_tiny_model, a_head_node):
    with pytest.raises(ValueError, match="T1 is input and output at once"):
        the_module.BrainDiffSlicerLogic().process(
            a_head_node, model="tiny", disagreement=True, disagreementVolume=a_head_node
        )


# In the panel


def test_the_box_asks_for_a_map_and_is_locked_while_one_is_made(a_panel_with_a_head):
    panel = a_panel_with_a_head
    box, parameters = panel.ui.disagreementCheckBox, panel.logic.getParameterNode()
    assert not box.checked and not parameters.disagreement
    assert "no probability" in box.toolTip and "three times as long" in box.toolTip
    box.checked = True
    parameters.force = True  # the head is a phantom
    assert parameters.disagreement
    start(panel)
    assert not box.enabled
    wait_until(lambda: not panel.runPanel.running)
    assert box.enabled
    made = find(parameters.correctedVolume).disagreement
    assert made is not None, message(panel)
    assert made.GetName() == "T1 disagreement" and voxels(made).max() > 0

    box.checked = False
    correct(panel)
    assert find(parameters.correctedVolume).disagreement is None
    assert made.GetScene() is not None


def test_a_second_run_fills_the_same_map(a_panel_with_a_head, a_map, monkeypatch):
    panel, asked = a_panel_with_a_head, []
    parameters = panel.logic.getParameterNode()
    outputs = create(parameters.inputVolume, a_map)
    panel.onCorrectionFinished(outputs)

    def process(*_nodes, disagreement, disagreementVolume, **_settings):
        asked.append((disagreement, disagreementVolume))
        raise RuntimeError("enough")

    monkeypatch.setattr(panel.logic, "process", process)
    panel.ui.applyButton.click()
    panel.ui.disagreementCheckBox.checked = True
    panel.ui.applyButton.click()
    assert asked == [(False, outputs.disagreement), (True, outputs.disagreement)]


def test_a_map_is_not_selected_as_the_input_of_the_next_run(a_panel_with_a_head, a_map):
    panel, parameters = a_panel_with_a_head, a_panel_with_a_head.logic.getParameterNode()
    outputs = create(parameters.inputVolume, a_map)
    slicer.mrmlScene.RemoveNode(outputs.input)
    panel.exit()
    panel.enter()
    assert parameters.inputVolume is None


def test_a_saved_scene_remembers_that_a_map_is_wanted(a_slicer, a_panel, tmp_path):
    a_panel.ui.disagreementCheckBox.checked = True
    saved_and_loaded(tmp_path)
    assert a_panel.logic.getParameterNode().disagreement
