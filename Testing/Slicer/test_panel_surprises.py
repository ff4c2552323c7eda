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
