"""The panel after a run: strength, comparison, and a saved scene."""

from __future__ import annotations

import json
import zipfile

import pytest
from panel_parts import MODULE, add_head, message, wait_until


def finish(panel, strength: float) -> None:
    """As after a correction that took 40 off every voxel above 100."""
    import slicer

    from BrainDiffSlicerLib.CorrectionFinding import CorrectionFinding
    from BrainDiffSlicerLib.CorrectionOutputs import CorrectionOutputs

    head = panel.logic.getParameterNode().inputVolume
    change = -40.0 * (slicer.util.arrayFromVolume(head) > 100).astype("f4")
    report = {"model": "tiny", "notes": ["voxels of 2.50 mm: more than the model knows"]}
    panel.onCorrectionFinished(CorrectionOutputs.create(head, CorrectionFinding(change, report), strength))


@pytest.fixture
def a_panel_with_outputs(a_panel_with_a_head):
    """The panel after a correction at full strength."""
    finish(a_panel_with_a_head, strength=1.0)
    return a_panel_with_a_head


def lowest(node) -> float:
    import slicer

    return float(slicer.util.arrayFromVolume(node).min())


def test_the_strength_slider_blends_at_once(a_panel_with_outputs):
    import slicer

    panel, parameters = a_panel_with_outputs, a_panel_with_outputs.logic.getParameterNode()
    panel.ui.strengthSlider.value = 0.5
    assert lowest(parameters.differenceVolume) == -20.0
    panel.ui.strengthSlider.value = 0.0
    original = slicer.util.arrayFromVolume(parameters.inputVolume)
    wait_until(lambda: (slicer.util.arrayFromVolume(parameters.correctedVolume) == original).all())
    panel.ui.strengthSlider.value = 1.0
    wait_until(lambda: lowest(parameters.differenceVolume) == -40.0)


def test_a_slider_that_was_moved_during_the_run_counts(a_panel_with_a_head):
    a_panel_with_a_head.ui.strengthSlider.value = 0.25
    finish(a_panel_with_a_head, strength=1.0)
    parameters = a_panel_with_a_head.logic.getParameterNode()
    assert lowest(parameters.differenceVolume) == -10.0
    assert parameters.correctedVolume.GetAttribute("BrainDiff.Strength") == "0.25"


def test_a_second_run_fills_the_same_nodes_at_the_strength_of_the_slider(a_panel_with_outputs, monkeypatch):
    panel, parameters, given = a_panel_with_outputs, a_panel_with_outputs.logic.getParameterNode(), []
    panel.ui.strengthSlider.value = 0.5

    def process(*nodes, **settings):
        given.extend([*nodes, settings["strength"], settings["model"], settings["device"], settings["force"]])
        raise RuntimeError("enough")

    monkeypatch.setattr(panel.logic, "process", process)
    panel.ui.applyButton.click()
    outputs = [parameters.correctedVolume, parameters.differenceVolume, parameters.qualityTable]
    assert given == [parameters.inputVolume, *outputs, 0.5, "tiny", "cpu", False]
    assert message(panel) == "enough"


def test_another_input_does_not_overwrite_the_outputs_of_the_first(a_panel_with_outputs):
    parameters = a_panel_with_outputs.logic.getParameterNode()
    corrected = parameters.correctedVolume
    parameters.inputVolume = add_head("T2")
    assert parameters.correctedVolume is None
    assert parameters.differenceVolume is None
    assert corrected.GetScene() is not None


def test_a_selected_volume_keeps_its_strength_until_the_slider_moves(a_panel_with_outputs):
    parameters = a_panel_with_outputs.logic.getParameterNode()
    corrected, difference = parameters.correctedVolume, parameters.differenceVolume
    parameters.strength = 0.5
    parameters.correctedVolume = None
    parameters.strength = 1.0
    parameters.correctedVolume = corrected
    assert lowest(difference) == -20.0
    parameters.strength = 0.75
    assert lowest(difference) == -30.0


def test_comparing_brings_the_layout_and_takes_it_away(a_panel_with_outputs):
    import slicer

    from BrainDiffSlicerLib.CompareLayout import CompareLayout

    panel, before = a_panel_with_outputs, slicer.app.layoutManager().layout
    panel.comparePanel.close()
    before = slicer.app.layoutManager().layout
    panel.ui.compareButton.click()
    assert slicer.app.layoutManager().layout == CompareLayout.LAYOUT_ID
    assert panel.ui.compareButton.checked
    panel.ui.orientationComboBox.currentIndex = 1
    logic = slicer.app.layoutManager().sliceWidget(CompareLayout.VIEW_NAMES[0]).sliceLogic()
    assert logic.GetSliceNode().GetOrientation() == "Axial"
    panel.ui.compareButton.click()
    assert slicer.app.layoutManager().layout == before
    assert not panel.ui.compareButton.checked


def test_blinking_and_the_worst_slice_bring_the_layout_first(a_panel_with_outputs):
    import slicer

    from BrainDiffSlicerLib.CompareLayout import CompareLayout

    panel = a_panel_with_outputs
    original = panel.logic.getParameterNode().inputVolume.GetID()
    panel.comparePanel.close()
    panel.ui.worstSliceButton.click()
    assert slicer.app.layoutManager().layout == CompareLayout.LAYOUT_ID
    panel.ui.blinkButton.click()
    middle = slicer.app.layoutManager().sliceWidget(CompareLayout.VIEW_NAMES[1]).sliceLogic()
    assert middle.GetSliceCompositeNode().GetBackgroundVolumeID() == original


@pytest.mark.parametrize("role", ["inputVolume", "differenceVolume"])
def test_without_one_of_the_three_volumes_there_is_nothing_to_compare(a_panel_with_outputs, role):
    import slicer

    panel, parameters = a_panel_with_outputs, a_panel_with_outputs.logic.getParameterNode()
    panel.comparePanel.close()
    slicer.mrmlScene.RemoveNode(getattr(parameters, role))
    for name in ("compareButton", "blinkButton", "worstSliceButton"):
        assert not getattr(panel.ui, name).enabled
    panel.comparePanel.show()


def test_the_way_back_stays_open_when_a_volume_is_removed_from_the_comparison(a_panel_with_outputs):
    import slicer

    from BrainDiffSlicerLib.CompareLayout import CompareLayout

    slicer.mrmlScene.RemoveNode(a_panel_with_outputs.logic.getParameterNode().differenceVolume)
    assert slicer.app.layoutManager().layout == CompareLayout.LAYOUT_ID
    a_panel_with_outputs.ui.compareButton.click()
    assert slicer.app.layoutManager().layout != CompareLayout.LAYOUT_ID


def test_another_layout_chosen_by_the_user_is_seen_on_the_button_at_once(a_panel_with_outputs):
    import slicer

    assert a_panel_with_outputs.ui.compareButton.checked
    slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpGreenSliceView)
    assert not a_panel_with_outputs.ui.compareButton.checked
    assert a_panel_with_outputs.ui.compareButton.enabled


def test_a_volume_of_the_next_scene_is_not_seen_under_the_captions_of_the_comparison(a_panel_with_outputs):
    import slicer

    manager = slicer.app.layoutManager()
    a_panel_with_outputs.comparePanel.close()
    before = manager.layout
    a_panel_with_outputs.ui.compareButton.click()
    slicer.mrmlScene.Clear(0)
    assert (manager.layout, manager.shown()) == (before, ["Red", "Green", "Yellow"])


def test_a_scene_that_was_saved_in_the_comparison_opens_where_braindiff_is_not_installed(
    a_slicer, a_panel_with_outputs, tmp_path
):
    import slicer

    from BrainDiffSlicerLib.CompareLayout import CompareLayout

    manager = slicer.app.layoutManager()
    assert manager.layout == CompareLayout.LAYOUT_ID
    a_slicer.save_scene(tmp_path / "scene.mrml")
    written = (tmp_path / "scene.mrml").read_text(encoding="utf-8")
    assert "T1 corrected" in written
    assert str(CompareLayout.LAYOUT_ID) not in written and CompareLayout.VIEW_NAMES[0] not in written
    assert manager.layout == CompareLayout.LAYOUT_ID  # whoever saves goes on looking
    a_panel_with_outputs.comparePanel.close()
    assert manager.layoutLogic().GetLayoutNode().GetSaveWithScene()


def test_slicer_without_views_starts_with_the_module(a_slicer, monkeypatch):
    import slicer

    monkeypatch.setattr(slicer.app, "layoutManager", lambda: None)
    a_slicer.load_module(MODULE)
    a_slicer.open_panel("BrainDiffSlicer")
    slicer.mrmlScene.Clear(0)


def test_the_table_has_close_rows_without_numbers(a_panel_with_outputs):
    view = a_panel_with_outputs.ui.qualityTableView
    assert view.verticalHeader().isHidden()
    assert view.rowHeight(0) < view.verticalHeader().defaultSectionSize


def test_there_is_nothing_to_compare_before_a_run(a_panel_with_a_head):
    for name in ("compareButton", "blinkButton", "worstSliceButton", "orientationComboBox"):
        assert not getattr(a_panel_with_a_head.ui, name).enabled
    assert a_panel_with_a_head.ui.qualityTableView.isHidden()


def test_a_saved_scene_brings_back_parameters_outputs_and_links(a_slicer, a_panel_with_outputs, tmp_path):
    panel, parameters = a_panel_with_outputs, a_panel_with_outputs.logic.getParameterNode()
    panel.ui.strengthSlider.value = 0.5
    panel.ui.forceCheckBox.checked = True
    a_slicer.save_scene(tmp_path / "scene.mrb")
    with zipfile.ZipFile(tmp_path / "scene.mrb") as bundle:  # to unpack it, a scene needs the application's cache
        bundle.extractall(tmp_path)
        (scene,) = [name for name in bundle.namelist() if name.endswith(".mrml")]
    a_slicer.load_scene(tmp_path / scene)

    parameters = panel.logic.getParameterNode()
    assert [parameters.model, parameters.strength, parameters.force] == ["tiny", 0.5, True]
    assert parameters.inputVolume.GetName() == "T1"
    assert panel.ui.inputSelector.currentNode() is parameters.inputVolume
    assert panel.ui.correctedSelector.currentNode().GetName() == "T1 corrected"
    assert panel.ui.strengthSlider.value == 0.5
    assert panel.ui.modelComboBox.currentText == "tiny"
    assert panel.ui.compareButton.enabled
    assert panel.ui.qualityTableView.mrmlTableNode().GetName() == "T1 quality"
    assert json.loads(parameters.correctedVolume.GetAttribute("BrainDiff.Notes"))
    assert lowest(parameters.differenceVolume) == -20.0
    panel.ui.strengthSlider.value = 1.0
    assert lowest(parameters.differenceVolume) == -40.0
    assert panel.ui.applyButton.enabled
