"""The harness itself: it must behave as Slicer does, or the tests of the panel mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer.util
from small_modules import write_small_cli, write_small_module

from Harness.pictures import grab, render_slice_views, slice_view_pixels
from Harness.pythonqt import qt
from Harness.slicer_python import slicers_own_folder

PANES = (("PaneA", "A", "#FF0000"), ("PaneB", "B", "#00FF00"))
VIEW = """<item><view class="vtkMRMLSliceNode" singletontag="{}"><property name="orientation" action="default">Sagittal
</property><property name="viewlabel" action="default">{}</property><property name="viewcolor" action="default">{}
</property><property name="viewgroup" action="default">7</property></view></item>""".replace("\n", "")


@pytest.fixture
def a_volume(a_slicer):
    """An oblique volume of 6 x 5 x 4 voxels."""
    array = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    geometry = np.array([[0.9, -0.3, 0.1, 4], [0.3, 0.9, 0, -7], [-0.1, 0, 1.2, 9], [0, 0, 0, 1]])
    return slicer.util.addVolumeFromArray(array, geometry, "Head")


@pytest.fixture
def a_small_panel(a_slicer, tmp_path):
    """The open panel of a module that has one parameter of each kind."""
    a_slicer.load_module(write_small_module(tmp_path))
    return a_slicer.open_panel("Small")


@pytest.fixture
def a_tiny_cli(a_slicer, tmp_path):
    """A CLI module that adds a number to a volume, fails, or never ends."""
    return a_slicer.add_cli(write_small_cli(tmp_path))


def ijk_to_ras(volume) -> np.ndarray:
    matrix = slicer.vtkMRMLVolumeNode.GetIJKToRASMatrix
    read = slicer.util.vtkMatrixFromArray(np.eye(4))
    matrix(volume, read)
    return slicer.util.arrayFromVTKMatrix(read)


def temporary_files() -> list[Path]:
    return list(Path(slicer.app.temporaryPath).iterdir())


# Qt


def test_a_qt_property_is_an_attribute_and_a_misspelt_one_is_refused(a_slicer):
    button = qt.QPushButton("Go")
    button.enabled = False
    assert (button.enabled, button.text) == (False, "Go")
    with pytest.raises(AttributeError, match="enable"):
        button.enable = True


def test_a_signal_is_connected_by_its_signature(a_slicer):
    button, heard = qt.QPushButton("Go"), []
    button.connect("clicked()", lambda: heard.append(1))
    button.click()
    assert heard == [1]
    with pytest.raises(ValueError, match="press"):
        button.connect("press()", print)


def test_settings_are_a_file_of_this_run_and_empty_for_each_test(a_slicer):
    assert "braindiff-harness" in qt.QSettings().fileName()
    assert not qt.QSettings().allKeys()
    qt.QSettings().setValue("BrainDiff/device", "cpu")
    assert slicer.util.settingsValue("BrainDiff/device", "auto") == "cpu"


def test_message_boxes_are_written_down_and_answered(a_slicer):
    slicer.util.errorDisplay("It is broken")
    a_slicer.messages.answers = [False, True]
    assert not slicer.util.confirmOkCancelDisplay("Really?")
    assert slicer.util.confirmYesNoDisplay("Sure?")
    assert a_slicer.messages.shown == ["It is broken", "Really?", "Sure?"]


def test_message_boxes_do_not_come_up_in_testing_mode(a_slicer):
    a_slicer.app.testing = True
    slicer.util.errorDisplay("It is broken")
    slicer.util.confirmOkCancelDisplay("Really?")
    assert a_slicer.messages.shown == []


def test_however_long_a_test_waits_python_keeps_its_none(a_slicer):
    for _ in range(100):
        slicer.app.processEvents()
    assert sys.getrefcount(None) > 2**31


# Panels


def test_a_node_selector_follows_the_scene(a_slicer, a_small_panel):
    selector = a_small_panel.ui.inputSelector
    assert selector.currentText == "None"
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Head")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "Numbers")
    selector.setCurrentNode(volume)
    volume.SetName("T1")
    assert (selector.currentText, selector.nodeCount(), selector.currentNodeID) == ("T1", 1, volume.GetID())
    slicer.mrmlScene.RemoveNode(volume)
    assert selector.currentNode() is None


def test_a_parameter_node_and_its_widgets_follow_each_other(a_small_panel, a_volume):
    ui, node = a_small_panel.ui, a_small_panel.node
    assert (ui.strengthSlider.value, ui.strengthSlider.maximum, ui.kindComboBox.count) == (0.5, 1.0, 2)
    node.strength, node.inputVolume, node.kind, node.force = 0.25, a_volume, "second", True
    assert ui.strengthSlider.value == 0.25 and ui.inputSelector.currentNode() is a_volume
    assert ui.kindComboBox.currentText == "second" and ui.forceCheckBox.checked
    ui.strengthSlider.value, ui.forceCheckBox.checked = 0.75, False
    ui.inputSelector.setCurrentNode(None)
    assert (node.strength, node.force, node.inputVolume) == (0.75, False, None)
    with pytest.raises(ValueError):
        node.strength = 2.0


def test_widgets_that_are_disconnected_follow_no_more(a_slicer, a_small_panel):
    a_slicer.leave_panel(a_small_panel)
    a_small_panel.node.strength = 0.25
    assert a_small_panel.ui.strengthSlider.value == 0.5


def test_a_panel_can_be_clicked_and_looks_like_one(a_slicer, a_small_panel, tmp_path):
    a_small_panel.ui.applyButton.click()
    assert a_small_panel.clicks == 1
    grab(a_small_panel.parent, tmp_path / "panel.png")
    picture = qt.QImage(str(tmp_path / "panel.png"))
    assert picture.width() == a_small_panel.parent.width
    assert len({picture.pixel(x, y) for x in range(20, 400, 5) for y in range(10, 200, 3)}) > 10


def test_parameters_volumes_and_links_come_back_from_a_saved_scene(a_slicer, a_small_panel, a_volume, tmp_path):
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "Numbers")
    table.AddColumn().SetName("value")
    table.AddEmptyRow()
    table.SetCellText(0, 0, "12")
    a_volume.SetNodeReferenceID("Test.table", table.GetID())
    a_small_panel.node.strength, a_small_panel.node.inputVolume = 0.25, a_volume
    before = slicer.util.arrayFromVolume(a_volume).copy(), ijk_to_ras(a_volume)
    a_slicer.save_scene(tmp_path / "scene.mrb")
    a_slicer.leave_panel(a_small_panel)
    a_slicer.load_scene(tmp_path / "scene.mrb")
    volume = slicer.util.getNode("Head")
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(volume), before[0])
    np.testing.assert_allclose(ijk_to_ras(volume), before[1], atol=1e-9)
    assert volume.GetNodeReference("Test.table").GetCellText(0, 0) == "12"
    again = type(a_small_panel.node)(slicer.mrmlScene.GetSingletonNode("Small", "vtkMRMLScriptedModuleNode"))
    assert (again.strength, again.inputVolume) == (0.25, volume)


# Views


def show_two_panes() -> None:
    views = "".join(VIEW.format(*pane) for pane in PANES)
    manager = slicer.app.layoutManager()
    manager.layoutLogic().GetLayoutNode().AddLayoutDescription(4242, f'<layout type="horizontal">{views}</layout>')
    manager.setLayout(4242)


def test_a_layout_makes_its_slice_views_and_leaves_the_others(a_slicer):
    manager = slicer.app.layoutManager()
    before = manager.layout
    show_two_panes()
    assert (manager.layout, manager.shown()) == (4242, ["PaneA", "PaneB"])
    assert manager.sliceWidget("PaneB").mrmlSliceNode().GetOrientation() == "Sagittal"
    assert not manager.sliceWidget("Red").mrmlSliceNode().IsMappedInLayout()
    manager.setLayout(before)
    assert manager.shown() == ["Red", "Green", "Yellow"]
    assert manager.sliceWidget("Red").mrmlSliceNode().IsMappedInLayout()


def test_a_layout_that_nobody_has_described_is_the_conventional_one(a_slicer):
    manager = slicer.app.layoutManager()
    manager.setLayout(4243)
    assert manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView


def test_linked_views_scroll_together_and_others_do_not(a_slicer, a_volume):
    show_two_panes()
    manager = slicer.app.layoutManager()
    logics = [manager.sliceWidget(name).sliceLogic() for name in ("PaneA", "PaneB", "Yellow")]
    for logic in logics:
        composite = logic.GetSliceCompositeNode()
        composite.SetBackgroundVolumeID(a_volume.GetID())
        composite.SetLinkedControl(1)
        composite.SetHotLinkedControl(1)
        logic.FitSliceToBackground()
    alone = logics[2].GetSliceOffset()
    logics[0].StartSliceNodeInteraction(slicer.vtkMRMLSliceNode.SliceToRASFlag)
    logics[0].SetSliceOffset(3.0)
    logics[0].EndSliceNodeInteraction()
    assert [logic.GetSliceOffset() for logic in logics] == [3.0, 3.0, alone]


def test_slice_views_are_drawn_side_by_side_with_their_captions(a_slicer, tmp_path):
    gradient = np.tile(np.linspace(0, 255, 20, dtype=np.float32), (20, 20, 1))
    volume = slicer.util.addVolumeFromArray(gradient, name="Head")
    volume.CreateDefaultDisplayNodes()
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    pixels = slice_view_pixels("Red")
    assert pixels.shape == (300, 300, 3) and pixels.max() > 200
    # RAS: the array's last axis runs to the right of the patient, which is the left of an axial view
    assert pixels[150, 60].mean() > pixels[150, 240].mean() + 100
    render_slice_views(("Red", "Green"), tmp_path / "views.png")
    picture = qt.QImage(str(tmp_path / "views.png"))
    assert picture.width() == 602
    assert [picture.pixelColor(x, 2).name() for x in (290, 600)] == ["#f34a33", "#6eb04b"]


# CLI modules


def states_of(cli_node) -> list[str]:
    seen = [cli_node.GetStatusString()]

    def look(*_):
        if cli_node.GetStatusString() != seen[-1]:
            seen.append(cli_node.GetStatusString())

    cli_node.AddObserver("ModifiedEvent", look)
    return seen


def run_tiny(module, volume, **parameters):
    target = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Result")
    node = slicer.cli.run(module, None, {"source": volume, "target": target, **parameters}, update_display=False)
    return node, target


def test_a_cli_module_runs_as_a_process_and_its_output_is_read(a_slicer, a_tiny_cli, a_volume):
    node, target = run_tiny(a_tiny_cli, a_volume, add=2.0, loud=True)
    states, shares = states_of(node), []
    node.AddObserver("ModifiedEvent", lambda *_: shares.append(node.GetProgress()))
    assert node.IsBusy() and target.GetImageData() is None
    a_slicer.wait_for(lambda: not node.IsBusy())
    assert states == ["Scheduled", "Running", "Completing", "Completed"]
    assert {10, 40} <= set(shares)
    np.testing.assert_array_equal(
        slicer.util.arrayFromVolume(target), slicer.util.arrayFromVolume(a_volume).astype(np.float32) + 2
    )
    np.testing.assert_allclose(ijk_to_ras(target), ijk_to_ras(a_volume), atol=1e-9)
    assert target.GetStorageNode().GetFileName() is None and temporary_files() == []


def test_the_command_line_is_built_as_slicer_builds_it(a_slicer, a_tiny_cli, a_volume):
    node, _target = run_tiny(a_tiny_cli, a_volume, loud=True)
    a_slicer.wait_for(lambda: not node.IsBusy())
    *flags, source, result = json.loads(node.GetOutputText())
    assert flags == ["--add", "1.5", "--loud"] and source.endswith(".nrrd") and result.endswith(".nrrd")


def test_a_parent_transform_does_not_travel_to_the_process(a_slicer, a_tiny_cli, a_volume):
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Moved")
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.diag([2.0, 2, 2, 1])))
    a_volume.SetAndObserveTransformNodeID(transform.GetID())
    node, target = run_tiny(a_tiny_cli, a_volume)
    a_slicer.wait_for(lambda: not node.IsBusy())
    np.testing.assert_allclose(ijk_to_ras(target), ijk_to_ras(a_volume), atol=1e-9)


def test_a_cancelled_process_is_gone_and_leaves_nothing(a_slicer, a_tiny_cli, a_volume):
    node, target = run_tiny(a_tiny_cli, a_volume, mode="hang")
    a_slicer.wait_for(lambda: node.GetProgress() == 40)
    process = a_tiny_cli.logic().runs[0].process
    states = states_of(node)
    node.Cancel()
    a_slicer.wait_for(lambda: not node.IsBusy(), seconds=1)
    assert states[-1] == "Cancelled" and process.poll() is not None
    assert target.GetImageData() is None and temporary_files() == []


def test_a_run_can_be_cancelled_before_it_starts(a_slicer, a_tiny_cli, a_volume):
    node, _target = run_tiny(a_tiny_cli, a_volume, mode="hang")
    node.Cancel()
    a_slicer.wait_for(lambda: not node.IsBusy(), seconds=1)
    assert node.GetStatusString() == "Cancelled"


def test_a_failed_process_tells_why_and_its_output_is_not_read(a_slicer, a_tiny_cli, a_volume):
    node, target = run_tiny(a_tiny_cli, a_volume, mode="fail")
    a_slicer.wait_for(lambda: not node.IsBusy())
    assert node.GetStatus() == node.CompletedWithErrors
    assert node.GetErrorText().strip() == "the volume is not good"
    assert target.GetImageData() is None and temporary_files() == []


def test_a_missing_argument_stops_the_run(a_slicer, a_tiny_cli):
    node = slicer.cli.run(a_tiny_cli, None, {}, wait_for_completion=True)
    assert (node.GetStatus(), node.GetErrorText()) == (node.Idle, 'No value assigned to "Source"')


def test_a_run_that_is_waited_for_needs_no_event_loop(a_slicer, a_tiny_cli, a_volume):
    target = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Result")
    parameters = {"source": a_volume, "target": target}
    node = slicer.cli.run(a_tiny_cli, None, parameters, wait_for_completion=True, update_display=False)
    assert node.GetStatus() == node.Completed and target.GetImageData() is not None


def test_a_scene_may_be_closed_during_a_run(a_slicer, a_tiny_cli, a_volume):
    node, _target = run_tiny(a_tiny_cli, a_volume)
    a_slicer.wait_for(lambda: node.GetProgress() == 40)
    slicer.mrmlScene.Clear(False)
    a_slicer.wait_for(lambda: not node.IsBusy())
    assert temporary_files() == []


# Installations


@pytest.fixture
def the_packaging(a_slicer):
    """slicer.packaging, which Slicer has since 5.12."""
    if not hasattr(slicer, "packaging"):
        pytest.skip("this Slicer has no slicer.packaging")
    return slicer.packaging


def test_an_installation_succeeds_is_declined_or_fails_as_the_test_says(a_slicer, the_packaging):
    a_slicer.installer.absent = {"nibabel"}
    assert not the_packaging.pip_check("nibabel") and the_packaging.pip_check("vtk>=9")
    a_slicer.messages.answers = [False]
    with pytest.raises(RuntimeError, match="declined"):
        the_packaging.pip_ensure(["nibabel>=1"], requester="test")
    a_slicer.installer.outcome = "offline"
    with pytest.raises(subprocess.CalledProcessError):
        the_packaging.pip_ensure(["nibabel>=1"], requester="test", prompt_restart=False)
    a_slicer.installer.outcome = "succeeds"
    the_packaging.pip_ensure(["nibabel>=1"], requester="test", prompt_restart=False)
    assert the_packaging.pip_check("nibabel") and a_slicer.installer.asked == [("pip_install", ["nibabel>=1"])] * 2


def test_requirements_are_read_from_a_file(the_packaging, tmp_path):
    (tmp_path / "requirements.txt").write_text("# needed\nnumpy>=1.20\n\n--prefer-binary\nmonai\n")
    read = the_packaging.load_requirements(tmp_path / "requirements.txt")
    assert [str(requirement) for requirement in read] == ["numpy>=1.20", "monai"]


# Slicer's own files


@pytest.fixture
def a_template() -> Path:
    """Slicer's template of a scripted module, beside the Base/Python folder in a source tree."""
    folder = slicers_own_folder()
    if folder is None:
        pytest.skip("BRAINDIFF_SLICER_PYTHON names no folder")
    path = folder.parents[1] / "Utilities" / "Templates" / "Modules" / "Scripted" / "TemplateKey.py"
    if not path.is_file():
        pytest.skip(f"no template at {path}")
    return path


def test_slicers_template_module_runs_unmodified(a_slicer, a_template, a_volume, tmp_path):
    write_small_cli(tmp_path, "ThresholdScalarVolume")
    description = tmp_path / "ThresholdScalarVolume.xml"
    renamed = description.read_text().replace(">source<", ">InputVolume<").replace(">target<", ">OutputVolume<")
    description.write_text(renamed)
    a_slicer.add_cli(tmp_path / "ThresholdScalarVolume.py")
    a_slicer.load_module(a_template)
    panel = a_slicer.open_panel("TemplateKey")
    assert panel.ui.inputSelector.currentNode() is a_volume and not panel.ui.applyButton.enabled
    output = panel.ui.outputSelector.addNode()
    assert panel.ui.applyButton.enabled
    panel.ui.applyButton.click()
    assert output.GetImageData() is not None and a_slicer.messages.shown == []
    slicer.mrmlScene.Clear(False)
    assert not panel.ui.applyButton.enabled


@pytest.mark.parametrize("name", ["i18n", "ScriptedLoadableModule", "parameterNodeWrapper", "cli", "packaging"])
def test_slicers_own_files_are_used_where_the_variable_names_them(a_slicer, name):
    folder = slicers_own_folder()
    if folder is not None and name == "packaging" and not (folder / "slicer" / "packaging.py").is_file():
        assert not hasattr(slicer, "packaging")
    else:
        own = folder is not None and Path(getattr(slicer, name).__file__).is_relative_to(folder)
        assert own == (folder is not None)
