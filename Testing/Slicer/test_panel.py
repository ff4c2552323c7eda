"""The panel before a run: what can be chosen, and what it says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from panel_parts import MODULE, add_head

from BrainDiffLogic.models.checkpoints import DEFAULT_MODEL, find_checkpoint, read_card
from Harness.correctors import save_tiny


def test_loading_the_module_costs_nothing_heavy():
    code = (
        "import sys; from Harness.slicer_app import Slicer; before = set(sys.modules);"
        f"Slicer.instance().fresh_scene(); Slicer.instance().load_module({str(MODULE)!r});"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    folders = os.pathsep.join(str(MODULE.parents[1] / name) for name in ("Testing", "."))
    environment = {**os.environ, "PYTHONPATH": folders}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    loaded = set(done.stdout.split("\n")[-2].split())
    assert {"BrainDiffSlicer", "BrainDiffSlicerLib"} <= loaded
    assert not {"torch", "monai", "nibabel", "SimpleITK", "scipy", "skimage", "BrainDiffLogic"} & loaded


def test_correct_motion_is_disabled_with_the_reason_until_a_volume_is_selected(a_panel):
    button = a_panel.ui.applyButton
    assert not button.enabled
    assert "select a T1-weighted volume" in button.toolTip
    a_panel.logic.getParameterNode().inputVolume = add_head()
    assert button.enabled
    assert button.text == "Correct motion"


def test_the_first_volume_that_is_no_output_is_selected(a_panel):
    import slicer

    output, head = add_head("T1 corrected"), add_head("T1")
    output.SetAttribute("BrainDiff.Strength", "1.0")
    a_panel.exit()
    a_panel.logic.getParameterNode().inputVolume = None
    a_panel.enter()
    assert a_panel.ui.inputSelector.currentNode() is head
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 2


def test_only_scalar_volumes_can_be_selected(a_panel):
    import slicer

    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    head = add_head()
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colors")
    selector = a_panel.ui.inputSelector
    assert list(selector.nodeTypes) == ["vtkMRMLScalarVolumeNode"]
    assert not selector.showChildNodeTypes
    assert selector.currentNode() is head


def test_an_input_that_is_also_the_output_is_refused_before_it_is_overwritten(a_panel_with_a_head):
    parameters = a_panel_with_a_head.logic.getParameterNode()
    parameters.correctedVolume = parameters.inputVolume
    assert not a_panel_with_a_head.ui.applyButton.enabled
    assert "input and output at once" in a_panel_with_a_head.ui.applyButton.toolTip


def test_the_research_use_line_is_bold_and_above_the_button(a_panel):
    label, button = a_panel.ui.researchUseLabel, a_panel.ui.applyButton
    assert label.text == "For research use. The original stays untouched."
    assert label.font.bold()
    assert not label.isHidden()
    layout = label.parent().layout()
    assert layout.indexOf(label) < layout.indexOf(button)


def test_the_card_says_what_the_model_was_trained_on_and_how_it_compares_with_doing_nothing(a_panel):
    a_panel.logic.getParameterNode().model = "mc-net"
    card = a_panel.ui.modelCardBrowser.toPlainText()
    rows = read_card(find_checkpoint("mc-net"))["metrics"]
    nothing = next(row for row in rows if (row["severity"], row["method"]) == ("all above 1 mm", "do nothing"))
    numbers = f"{nothing['ssim']:.3f}", f"{nothing['mre']:.3f}"
    for words in ("78 subjects", "T1-weighted", "0.6 to 2.0 mm", "do nothing", "all above 1 mm", *numbers, "research"):
        assert words in card
    assert "not on this model" in card and "PMoC3D" in card


def test_the_card_counts_the_steps_of_the_runs_before_too(the_module):
    from BrainDiffSlicerLib.ModelCard import ModelCard

    before = {"steps": 30, "initial": {"name": "first", "training": {"steps": 200}}}
    card = {"name": "third", "version": "1", "input": {"spacing_mm": [1, 2]}, "metrics": []}
    card["training"] = {"steps": 4000, "pairs": 7, "initial": {"name": "second", "training": before}}
    html = ModelCard(card).html()
    assert "7 image pairs in the last of several runs, 4230 steps" in html and "mean of" not in html
    card["averaged"] = [{"name": "third"}, {"name": "second"}]
    assert "4230 steps, mean of the weights of 2 models" in ModelCard(card).html()


def test_the_card_says_which_safety_checks_failed_and_what_another_simulator_gave(the_module):
    from BrainDiffSlicerLib.ModelCard import ModelCard

    row = {"severity": "2-4", "method": "corrector", "volumes": 12, "mre": 0.148}
    card = {"name": "x", "version": "1", "input": {"spacing_mm": [1, 2]}, "metrics": [row]}
    assert "Do-no-harm" not in ModelCard(card).html() and "simulator" not in ModelCard(card).html()
    foreign = {**card, "training": {"steps": 5, "initial": "scratch"}, "safety": {"passed": 3}}
    assert "5 steps" in ModelCard(foreign).html() and "Do-no-harm" not in ModelCard(foreign).html()
    safety = {"heads": ["a", "b"], "passed": 31, "of": 32, "failed": ["3 mm: 0.7"]}
    card |= {"independent_metrics": [row], "safety": safety}
    html = ModelCard(card).html()
    assert "31 of 32 on 2 heads. Not passed: 3 mm: 0.7" in html and "2-4, other simulator" in html


def test_the_default_model_is_the_librarys_at_every_door(the_module):
    import inspect

    from BrainDiffSlicerLib.CorrectionJob import CorrectionJob

    logic = the_module.BrainDiffSlicerLogic()
    assert logic.getParameterNode().model == DEFAULT_MODEL
    for start in (logic.process, CorrectionJob.__init__):
        assert inspect.signature(start).parameters["model"].default == DEFAULT_MODEL


def test_every_model_of_this_computer_can_be_chosen(a_panel):
    combo = a_panel.ui.modelComboBox
    assert [combo.itemData(index) for index in range(combo.count)] == [
        "motion", "attention-unet", "mc-net", "rmman", "tiny", "file",
    ]  # fmt: skip
    combo.currentIndex = 1
    assert a_panel.logic.getParameterNode().model == "attention-unet"
    assert "attention-unet" in a_panel.ui.modelCardBrowser.toPlainText()


def test_a_model_that_this_computer_lacks_is_said_and_disables_the_button(a_panel_with_a_head):
    a_panel_with_a_head.logic.getParameterNode().model = "from-elsewhere"
    assert "from-elsewhere" in a_panel_with_a_head.ui.modelCardBrowser.toPlainText()
    assert "from-elsewhere" in a_panel_with_a_head.ui.applyButton.toolTip
    assert not a_panel_with_a_head.ui.applyButton.enabled
    a_panel_with_a_head.exit()
    a_panel_with_a_head.enter()
    assert a_panel_with_a_head.logic.getParameterNode().model == "from-elsewhere"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1, "name": "x"}'])
def test_a_broken_card_is_a_message_and_no_exception(a_panel_with_a_head, tmp_path, text):
    model = save_tiny(tmp_path / "other.safetensors")
    model.with_suffix(".json").write_text(text)
    a_panel_with_a_head.ui.modelFileEdit.currentPath = str(model)
    assert a_panel_with_a_head.logic.getParameterNode().model == "file"
    assert "get the model again" in a_panel_with_a_head.ui.modelCardBrowser.toPlainText()
    assert not a_panel_with_a_head.ui.applyButton.enabled
    model.with_suffix(".json").unlink()
    a_panel_with_a_head.enter()
    assert "the card of other.safetensors is missing" in a_panel_with_a_head.ui.applyButton.toolTip


def test_a_card_with_odd_entries_is_shown_as_far_as_it_goes(a_panel_with_a_head, tmp_path):
    odd = {"title": "<b>odd</b>", "training": 7, "metrics": [3, {"psnr": "high"}], "evidence": 4}
    model = save_tiny(tmp_path / "odd.safetensors", **odd)
    a_panel_with_a_head.ui.modelFileEdit.currentPath = str(model)
    assert "<b>odd</b>" in a_panel_with_a_head.ui.modelCardBrowser.toPlainText()


def test_model_file_and_device_are_remembered_on_this_computer_and_not_in_the_scene(
    a_slicer, a_panel_with_a_head, tmp_path
):
    import qt

    model = save_tiny(tmp_path / "mine.safetensors")
    a_panel_with_a_head.ui.modelFileEdit.currentPath = str(model)
    assert qt.QSettings().value("BrainDiff/Device") == "cpu"
    node = a_panel_with_a_head.logic.getParameterNode().parameterNode
    assert [name for name in node.GetParameterNames() if "mine" in node.GetParameter(name)] == []
    again = a_slicer.open_panel("BrainDiffSlicer")
    assert again.ui.modelFileEdit.currentPath == str(model)
    assert again.deviceSelector.device == "cpu"


def test_a_cleared_model_file_disables_the_button(a_panel_with_a_head, tmp_path):
    panel = a_panel_with_a_head
    panel.ui.modelFileEdit.currentPath = str(save_tiny(tmp_path / "mine.safetensors"))
    assert panel.ui.applyButton.enabled
    panel.ui.modelFileEdit.currentPath = ""
    assert "No model file is chosen" in panel.ui.applyButton.toolTip
    assert not panel.ui.applyButton.enabled


def test_cuda_is_offered_only_where_a_driver_is_and_auto_is_first(a_slicer, monkeypatch):
    from BrainDiffSlicerLib.DeviceSelector import DeviceSelector

    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert DeviceSelector.offered() == ["auto", "cpu"]
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/" + name)
    assert DeviceSelector.offered() == ["auto", "cpu", "cuda"]
