"""Runs from the panel and from Python: with the real CLI module in a process of its own."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
from panel_parts import (
    MODULE,
    add_head,
    children,
    correct,
    ijk_to_ras,
    message,
    nodes,
    start,
    temporary_files,
    wait_until,
)

from Harness.correctors import save_tiny


def test_declined_dependencies_are_a_message_and_no_run(a_panel_with_a_head, monkeypatch):
    from BrainDiffSlicerLib.Dependencies import Dependencies, DependencyError

    def decline(self, onStage):
        raise DependencyError("Nothing was installed. A correction needs torch>=2.4.")

    monkeypatch.setattr(Dependencies, "ensure", decline)
    before, processes = nodes(), children()
    a_panel_with_a_head.ui.applyButton.click()
    assert message(a_panel_with_a_head) == "Nothing was installed. A correction needs torch>=2.4."
    assert not a_panel_with_a_head.runPanel.running
    assert a_panel_with_a_head.ui.applyButton.text == "Correct motion"
    assert (nodes(), children()) == (before, processes)


@pytest.mark.parametrize("plane", ["axial", "sagittal", "coronal", "oblique", "under a transform"])
def test_a_click_makes_outputs_on_the_exact_grid_of_the_input(a_panel_with_a_head, a_temporary_folder, plane):
    import slicer

    panel, parameters = a_panel_with_a_head, a_panel_with_a_head.logic.getParameterNode()
    parameters.model = "mc-net"  # the shipped weights
    parameters.force = True  # the head is a phantom
    transform = None
    if plane == "under a transform":
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    head = add_head("Anna", "oblique" if transform else plane)
    head.SetAndObserveTransformNodeID(transform.GetID() if transform else None)
    parameters.inputVolume = head
    before = slicer.util.arrayFromVolume(head).copy()

    correct(panel)

    corrected, difference = parameters.correctedVolume, parameters.differenceVolume
    assert corrected is not None, message(panel)
    assert [corrected.GetName(), difference.GetName()] == ["Anna corrected", "Anna difference"]
    for node in (corrected, difference):
        assert (ijk_to_ras(node) == ijk_to_ras(head)).all()
        assert node.GetParentTransformNode() is transform
    assert (slicer.util.arrayFromVolume(head) == before).all()
    removed = slicer.util.arrayFromVolume(difference)
    assert np.abs(removed).max() > 0
    assert (slicer.util.arrayFromVolume(corrected).astype("f8") - before == removed).all()
    assert temporary_files(a_temporary_folder) == []


def test_the_panel_lives_during_a_run_and_shows_what_was_done_after_it(a_panel_with_a_head):
    import qt

    panel, ticks, seen = a_panel_with_a_head, [], []
    timer = qt.QTimer()
    timer.timeout.connect(lambda: ticks.append(time.monotonic()))
    timer.start(20)
    start(panel)
    assert panel.ui.applyButton.text == "Cancel"
    assert not panel.ui.progressBar.isHidden()
    assert not panel.ui.inputSelector.enabled

    def ended() -> bool:
        seen.append((panel.ui.progressBar.value, panel.ui.stageLabel.text))
        return not panel.runPanel.running

    wait_until(ended)
    timer.stop()
    assert len(ticks) > 10
    assert np.diff(ticks).max() < 1.0
    shares = [share for share, _stage in seen]
    assert shares == sorted(shares)
    assert len({stage for _share, stage in seen}) > 2

    parameters = panel.logic.getParameterNode()
    first = message(panel).splitlines()[0]
    assert first.startswith("tiny 9.8.7 changed ")
    assert "% of the intensity in the head" in first
    assert first.endswith("on cpu.")
    assert panel.ui.compareButton.checked
    assert panel.ui.qualityTableView.mrmlTableNode() is parameters.qualityTable
    assert panel.ui.progressBar.isHidden()
    assert panel.ui.applyButton.text == "Correct motion"
    assert panel.ui.inputSelector.enabled
    volumes = (parameters.inputVolume, parameters.correctedVolume, parameters.differenceVolume)
    assert nodes() == {node.GetID() for node in (*volumes, parameters.qualityTable)}


def test_cancel_at_a_third_leaves_no_node_no_file_and_no_process(a_panel_with_a_head, a_temporary_folder):
    panel = a_panel_with_a_head
    parameters = panel.logic.getParameterNode()
    parameters.model, parameters.force, parameters.inputVolume = "mc-net", True, add_big_head()
    before, processes = nodes(), children()
    start(panel)
    wait_until(lambda: panel.ui.progressBar.value >= 30 or not panel.runPanel.running)
    assert panel.runPanel.running, message(panel)
    assert children() > processes
    clicked = time.monotonic()
    panel.ui.applyButton.click()
    wait_until(lambda: not panel.runPanel.running)
    assert time.monotonic() - clicked < 2.0
    assert message(panel) == "Canceled. Nothing was changed."
    wait_until(lambda: children() == processes, 2.0)
    assert nodes() == before
    assert temporary_files(a_temporary_folder) == []
    assert panel.ui.applyButton.text == "Correct motion"
    assert panel.ui.applyButton.enabled


def add_big_head():
    """A head that takes the shipped model some seconds."""
    import slicer

    head = add_head("big")
    array = np.kron(slicer.util.arrayFromVolume(head), np.ones((4, 4, 4), np.int16))
    slicer.util.updateVolumeFromArray(head, array)
    head.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.diag([1.0, 1.0, 1.0, 1.0])))
    return head


def test_a_corrupt_model_file_is_a_message(a_panel_with_a_head, tmp_path, a_temporary_folder):
    model = save_tiny(tmp_path / "corrupt.safetensors")
    model.write_bytes(model.read_bytes()[:-64])
    a_panel_with_a_head.ui.modelFileEdit.currentPath = str(model)
    before = nodes()
    correct(a_panel_with_a_head)
    assert "the weights are not those of the card" in message(a_panel_with_a_head)
    assert "\n" not in message(a_panel_with_a_head)
    assert nodes() == before
    assert temporary_files(a_temporary_folder) == []
    assert a_panel_with_a_head.ui.applyButton.enabled


def test_a_scene_closed_during_a_run_ends_it_silently(a_panel_with_a_head, a_temporary_folder):
    import slicer

    processes = children()
    start(a_panel_with_a_head)
    wait_until(lambda: children() != processes)
    slicer.mrmlScene.Clear(0)
    wait_until(lambda: children() == processes)
    time.sleep(0.3)
    slicer.app.processEvents()  # what was still on its way
    assert not a_panel_with_a_head.runPanel.running
    assert message(a_panel_with_a_head) == ""
    assert a_panel_with_a_head.ui.applyButton.text == "Correct motion"
    assert not a_panel_with_a_head.ui.applyButton.enabled
    assert nodes() == set()
    assert temporary_files(a_temporary_folder) == []


def test_a_run_goes_on_while_another_module_is_open(a_slicer, a_panel_with_a_head):
    import slicer

    panel, layout = a_panel_with_a_head, slicer.app.layoutManager().layout
    start(panel)
    a_slicer.leave_panel(panel)
    wait_until(lambda: not panel.runPanel.running)
    assert slicer.app.layoutManager().layout == layout  # who works elsewhere keeps the views
    panel.parent.isEntered = True
    panel.enter()
    assert panel.ui.correctedSelector.currentNode() is panel.logic.getParameterNode().correctedVolume
    assert panel.ui.correctedSelector.currentNode() is not None
    assert panel.ui.compareButton.enabled


def test_the_end_of_the_application_ends_the_run(a_slicer, a_panel_with_a_head):
    processes = children()
    start(a_panel_with_a_head)
    wait_until(lambda: children() != processes)
    a_slicer.close_panel(a_panel_with_a_head)
    wait_until(lambda: children() == processes)
    assert not a_panel_with_a_head.runPanel.running


@pytest.fixture
def the_imports_of_before():
    """Gives the other tests the classes that they know, after a test that imports the library anew."""
    own = ("BrainDiffSlicerLib", "BrainDiffLogic")
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] in own}
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in own]:
        del sys.modules[name]
    sys.modules.update(before)


def test_a_reload_ends_the_run_and_takes_the_library_anew(
    the_imports_of_before, a_slicer, a_panel_with_a_head, monkeypatch
):
    from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget

    def reload_as_slicer_does(panel) -> None:
        a_slicer.load_module(MODULE)
        panel.cleanup()

    monkeypatch.setattr(ScriptedLoadableModuleWidget, "onReload", reload_as_slicer_does, raising=False)
    panel, processes, library = a_panel_with_a_head, children(), sys.modules["BrainDiffSlicerLib.RunPanel"]
    start(panel)
    wait_until(lambda: children() != processes)
    panel.onReload()
    assert sys.modules["BrainDiffSlicerLib.RunPanel"] is not library
    wait_until(lambda: children() == processes)
    assert not panel.runPanel.running


def test_an_input_removed_during_the_run_is_a_message(a_panel_with_a_head):
    import slicer

    start(a_panel_with_a_head)
    slicer.mrmlScene.RemoveNode(a_panel_with_a_head.logic.getParameterNode().inputVolume)
    wait_until(lambda: not a_panel_with_a_head.runPanel.running)
    assert "was removed from the scene" in message(a_panel_with_a_head)
    assert nodes() == set()


def test_process_works_without_the_panel_and_waits(the_module, a_tiny_model, a_temporary_folder):
    outputs = the_module.BrainDiffSlicerLogic().process(add_head(), model="tiny", device="cpu", strength=0.5)
    assert outputs.strength == 0.5
    assert outputs.corrected.GetName() == "T1 corrected"
    assert temporary_files(a_temporary_folder) == []


def test_process_that_fails_raises_what_was_wrong(the_module, a_tiny_model):
    with pytest.raises(RuntimeError, match="no model 'absent'"):
        the_module.BrainDiffSlicerLogic().process(add_head(), model="absent")


def test_process_never_installs_but_names_what_is_missing(a_slicer, the_module):
    a_slicer.installer.absent = {"nibabel"}
    with pytest.raises(RuntimeError, match="missing: nibabel>=5.2"):
        the_module.BrainDiffSlicerLogic().process(add_head())


def test_the_self_test_of_the_module_passes(the_module):
    test = the_module.BrainDiffSlicerTest()
    test.messageDelay = 0
    test.runTest()
