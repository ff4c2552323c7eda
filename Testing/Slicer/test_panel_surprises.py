"""Runs from the panel in which something unexpected happens: each ends with a message, and leaves nothing behind."""

from __future__ import annotations

import numpy as np
import pytest
from panel_parts import add_head, correct, ijk_to_ras, message, nodes, start, wait_until


def ready_again(panel) -> bool:
    return not panel.runPanel.running and panel.ui.applyButton.text == "Correct motion"


@pytest.mark.parametrize("announced", [True, False])
def test_voxels_that_change_while_they_are_corrected_are_noticed(a_panel_with_a_head, announced):
    import slicer

    panel, parameters = a_panel_with_a_head, a_panel_with_a_head.logic.getParameterNode()
    parameters.force = True
    before = nodes()
    start(panel)
    array = slicer.util.arrayFromVolume(parameters.inputVolume)
    array[3:9] += 50
    if announced:
        slicer.util.arrayFromVolumeModified(parameters.inputVolume)
    wait_until(lambda: not panel.runPanel.running)
    assert "T1 changed while it was corrected" in message(panel) and ready_again(panel)
    assert parameters.correctedVolume is None and nodes() == before


def test_a_label_map_is_refused_as_output(a_panel_with_a_head):
    import slicer

    panel, parameters = a_panel_with_a_head, a_panel_with_a_head.logic.getParameterNode()
    parameters.correctedVolume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "seg")
    panel.ui.applyButton.click()
    assert not panel.runPanel.running
    assert "seg holds labels" in message(panel) + panel.ui.applyButton.toolTip


def test_outputs_that_cannot_be_filled_end_the_run_with_a_message(a_panel_with_a_head, monkeypatch):
    from BrainDiffSlicerLib.QualityTable import QualityTable

    def fail(*_arguments):
        raise RuntimeError("no more\nmemory")

    monkeypatch.setattr(QualityTable, "fill", fail)
    panel, parameters = a_panel_with_a_head, a_panel_with_a_head.logic.getParameterNode()
    parameters.force = True
    before = nodes()
    correct(panel)
    assert "T1 could not be shown (no more memory)" in message(panel) and ready_again(panel)
    assert nodes() == before


def test_a_type_that_slicer_does_not_write_is_named(a_panel_with_a_head):
    import slicer

    panel, parameters = a_panel_with_a_head, a_panel_with_a_head.logic.getParameterNode()
    parameters.force = True
    head = add_head("T1")
    array = (slicer.util.arrayFromVolume(head) / 8).clip(0, 127).astype(np.int8)
    parameters.inputVolume = slicer.util.addVolumeFromArray(array, ijk_to_ras(head), "typed")
    correct(panel)
    text = message(panel)
    assert not text or ("typed" in text and "signed char" in text and "no such file" not in text)
    assert text or parameters.correctedVolume is not None


def test_a_background_of_nan_stays_nan_in_the_panel(a_panel_with_a_head):
    import slicer

    panel, parameters = a_panel_with_a_head, a_panel_with_a_head.logic.getParameterNode()
    parameters.force = True
    array = slicer.util.arrayFromVolume(parameters.inputVolume).astype(np.float32)
    outside = np.zeros(array.shape, bool)
    outside[:4] = outside[:, :, -3:] = True
    array[outside] = np.nan
    head = slicer.util.addVolumeFromArray(array, ijk_to_ras(parameters.inputVolume), "masked")
    parameters.inputVolume = head
    correct(panel)
    corrected = slicer.util.arrayFromVolume(parameters.correctedVolume)
    np.testing.assert_array_equal(np.isnan(corrected), outside)
    assert np.nanmax(np.abs(slicer.util.arrayFromVolume(parameters.differenceVolume))) > 0


def test_a_click_during_the_installation_starts_nothing_more(a_slicer, a_panel_with_a_head):
    panel, seen = a_panel_with_a_head, []
    a_slicer.installer.absent = {"torch", "nibabel"}

    def click_again() -> None:
        ui = panel.ui
        seen.append((ui.applyButton.enabled, ui.progressBar.maximum, ui.stageLabel.text, ui.inputSelector.enabled))
        ui.applyButton.click()
        panel.runPanel._onApplyButton()  # also where a shortcut or a script comes by the button

    a_slicer.installer.during = click_again
    start(panel)
    assert [how for how, _what in a_slicer.installer.asked] == ["installTorch", "pip_install"]
    assert [state[:2] for state in seen] == [(False, 0), (False, 0)] and not seen[0][3]
    assert seen[0][2].startswith("Installing PyTorch (once, about")
    assert len(a_slicer.messages.shown) == 1
    assert panel.ui.applyButton.text == "Cancel" and panel.ui.progressBar.maximum == 100
    wait_until(lambda: not panel.runPanel.running)


def test_a_scene_closed_during_the_installation_is_told(a_slicer, a_panel_with_a_head):
    import slicer

    panel = a_panel_with_a_head
    a_slicer.installer.absent = {"nibabel"}
    a_slicer.installer.during = lambda: slicer.mrmlScene.Clear(0)
    panel.parent.isEntered = False
    panel.ui.applyButton.click()
    assert "closed meanwhile" in message(panel) and not panel.runPanel.running
    assert nodes() == set()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError(), KeyError("x")])
def test_a_start_that_fails_is_a_message_and_no_busy_panel(a_panel_with_a_head, monkeypatch, error):
    def fail(*_arguments, **_options):
        raise error

    monkeypatch.setattr("tempfile.mkdtemp", fail)
    panel, before = a_panel_with_a_head, nodes()
    panel.ui.applyButton.click()
    assert "could not be started" in message(panel) and ready_again(panel)
    assert nodes() == before and panel.ui.inputSelector.enabled


def test_an_end_that_nobody_foresaw_is_a_message(a_panel_with_a_head, monkeypatch, a_temporary_folder):
    from BrainDiffSlicerLib.CorrectionJob import CorrectionJob

    def fail(self):
        raise MemoryError("no 3 GB")

    monkeypatch.setattr(CorrectionJob, "_result", fail)
    panel, before = a_panel_with_a_head, nodes()
    panel.logic.getParameterNode().force = True
    correct(panel)
    assert "failed unexpectedly (MemoryError: no 3 GB)" in message(panel) and ready_again(panel)
    assert nodes() == before and not list(a_temporary_folder.iterdir())


def test_a_report_without_its_entries_still_ends_the_run(a_panel_with_a_head, monkeypatch):
    monkeypatch.setattr("json.loads", lambda text: {})
    panel = a_panel_with_a_head
    panel.logic.getParameterNode().force = True
    correct(panel)
    assert ready_again(panel) and message(panel)


def test_the_panel_says_that_another_module_runs_before_it(a_slicer, a_panel_with_a_head, tmp_path):
    import slicer
    from small_modules import a_waiting_module

    panel, other = a_panel_with_a_head, a_waiting_module(a_slicer, tmp_path)
    panel.logic.getParameterNode().force = True
    node = slicer.cli.run(other, None, {})
    wait_until(lambda: node.GetStatus() == node.Running)
    start(panel)
    wait_until(lambda: panel.ui.stageLabel.text == "Waiting for another module")
    node.Cancel()
    wait_until(lambda: not panel.runPanel.running)
    assert panel.logic.getParameterNode().correctedVolume is not None, message(panel)


def test_a_skipped_self_test_is_no_error_of_the_button(a_slicer, the_module):
    a_slicer.installer.absent = {"torch"}
    test, told = the_module.BrainDiffSlicerTest(), []
    test.delayDisplay = told.append
    test.runTest()
    assert told == ["Left out: a correction needs torch>=2.2"]


def test_a_strength_slider_that_is_drawn_blends_once_in_a_while(a_panel_with_a_head, monkeypatch):
    from BrainDiffSlicerLib.CorrectionOutputs import CorrectionOutputs

    panel, parameters = a_panel_with_a_head, a_panel_with_a_head.logic.getParameterNode()
    parameters.force = True
    correct(panel)
    blended, real = [], CorrectionOutputs.setStrength
    monkeypatch.setattr(
        CorrectionOutputs, "setStrength", lambda self, value: blended.append(value) or real(self, value)
    )
    for step in range(40):
        panel.ui.strengthSlider.value = 1 - step / 50
    wait_until(lambda: float(parameters.correctedVolume.GetAttribute("BrainDiff.Strength")) < 0.3)
    assert blended == [pytest.approx(0.98), pytest.approx(0.22)]
