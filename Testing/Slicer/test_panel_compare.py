"""Comparing: what the middle view shows, the keys, the list of slices, the legend, three numbers and the motion."""

from __future__ import annotations

import numpy as np
import pytest
from panel_parts import add_head, message, wait_until

from Harness.pictures import slice_view_pixels


@pytest.fixture
def a_comparison(a_panel_with_a_head):
    """The panel after a correction that took 300 off a cube in the head."""
    import slicer

    from BrainDiffSlicerLib.CorrectionFinding import CorrectionFinding
    from BrainDiffSlicerLib.CorrectionOutputs import CorrectionOutputs

    head = a_panel_with_a_head.logic.getParameterNode().inputVolume
    change = np.zeros(slicer.util.arrayFromVolume(head).shape, np.float32)
    change[14:20, 12:18, 18:22] = -60
    change[14:20, 25:30, 5:8] = 30
    quality = {"before": {"efc": 0.7, "tenengrad": 0.02, "cjv": 0.4}, "after": {"efc": 0.6, "tenengrad": 0.01}}
    report = {"model": "tiny", "quality": quality}
    outputs = CorrectionOutputs.create(head, CorrectionFinding(change, report), 1.0)
    a_panel_with_a_head.onCorrectionFinished(outputs)
    return a_panel_with_a_head


def middle():
    import slicer

    from BrainDiffSlicerLib.CompareLayout import CompareLayout

    return slicer.app.layoutManager().sliceWidget(CompareLayout.VIEW_NAMES[1]).sliceLogic()


def layers() -> tuple[str, str]:
    import slicer

    composite = middle().GetSliceCompositeNode()
    ids = composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()
    return tuple(slicer.mrmlScene.GetNodeByID(each).GetName() if each else "" for each in ids)


def press(key: str) -> None:
    import slicer

    from Harness.pythonqt import press_key

    window = slicer.util.mainWindow()
    window.show()
    window.activateWindow()
    slicer.app.processEvents()
    press_key(window, key)
    slicer.app.processEvents()


def offset() -> float:
    return middle().GetSliceNode().GetSliceOffset()


def test_the_middle_view_fades_between_original_and_corrected(a_comparison):
    ui = a_comparison.ui
    assert layers() == ("T1 corrected", "")
    ui.revealSlider.value = 40
    assert layers() == ("T1", "T1 corrected")
    assert middle().GetSliceCompositeNode().GetForegroundOpacity() == pytest.approx(0.4)
    assert middle().GetSliceNode().GetLayoutLabel() == "Original 40% corrected"
    ui.revealSlider.value = 0
    assert layers() == ("T1", "")


def test_the_difference_lies_over_the_corrected_volume_and_is_not_seen_where_nothing_changed(a_comparison):
    from BrainDiffSlicerLib.CompareLayout import CompareLayout

    a_comparison.ui.worstSliceButton.click()
    plain = slice_view_pixels(CompareLayout.VIEW_NAMES[1]).astype(int)
    a_comparison.ui.middleComboBox.currentIndex = 1
    over = slice_view_pixels(CompareLayout.VIEW_NAMES[1]).astype(int)
    colored = np.ptp(over, axis=-1) > 10
    assert 0.005 < colored.mean() < 0.2
    assert np.abs(over - plain)[~colored].max() <= 12
    assert layers() == ("T1 corrected", "Difference")
    blue = over[colored].mean(axis=0)
    assert blue[2] > blue[0]  # it was taken off
    a_comparison.logic.getParameterNode().strength = 0.0
    flat = slice_view_pixels(CompareLayout.VIEW_NAMES[1]).astype(int)
    assert (np.ptp(flat, axis=-1) > 10).sum() == 0  # the overlay follows the strength


def test_the_keys_blink_and_walk_through_the_most_changed_slices(a_comparison):
    combo = a_comparison.ui.changedSlicesComboBox
    assert combo.count >= 2 and combo.itemText(0).endswith("%")
    press("W")
    worst = offset()
    press("Right")
    assert offset() != worst and combo.currentIndex == 1
    press("Left")
    assert offset() == worst and combo.currentIndex == 0
    press("B")
    assert layers()[0] == "T1"
    press("B")
    assert layers()[0] == "T1 corrected"
    a_comparison.ui.compareButton.click()  # away
    press("B")
    assert not a_comparison.ui.compareButton.checked


def test_it_blinks_by_itself_until_it_is_left(a_comparison):
    a_comparison.ui.autoBlinkButton.click()
    wait_until(lambda: layers()[0] == "T1", 5)
    wait_until(lambda: layers()[0] == "T1 corrected", 5)
    a_comparison.ui.compareButton.click()
    assert not a_comparison.ui.autoBlinkButton.checked
    assert not a_comparison.comparePanel._blinking.isActive()


def test_the_list_is_ranked_and_of_the_orientation_that_is_seen(a_comparison):
    ui = a_comparison.ui
    shares = [float(ui.changedSlicesComboBox.itemText(i).split(", ")[1].rstrip("%")) for i in range(3)]
    assert shares == sorted(shares, reverse=True)
    assert ui.changedSlicesComboBox.itemText(0)[0] in "LR"
    ui.orientationComboBox.currentIndex = 1
    assert ui.changedSlicesComboBox.itemText(0)[0] in "SI"


def test_the_difference_has_slicers_legend_in_per_cent(a_comparison):
    import slicer

    from BrainDiffSlicerLib.CompareLayout import CompareLayout

    (legend,) = slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")
    view = slicer.app.layoutManager().sliceWidget(CompareLayout.VIEW_NAMES[2]).mrmlSliceNode()
    assert legend.GetVisibility() and list(legend.GetViewNodeIDs()) == [view.GetID()]
    window = legend.GetDisplayableNode().GetDisplayNode()
    assert (window.GetWindowLevelMin(), window.GetWindowLevelMax()) == (-20, 20)
    with_legend = slice_view_pixels(CompareLayout.VIEW_NAMES[2])
    legend.SetVisibility(False)
    assert (slice_view_pixels(CompareLayout.VIEW_NAMES[2]) != with_legend).any()
    a_comparison.ui.compareButton.click()
    assert not slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 3


def test_three_numbers_have_a_direction_and_the_rest_is_folded(a_comparison):
    text = a_comparison.ui.qualityLabel.text
    assert text.count("<tr>") == 3
    assert "0.7" in text and "better" in text and "worse" in text and "not measured" in text
    assert "cannot tell whether the anatomy is right" in text
    assert a_comparison.ui.qualityCollapsibleButton.collapsed


def test_the_input_that_braindiff_made_itself_is_noticed(a_comparison):
    parameters = a_comparison.logic.getParameterNode()
    assert a_comparison.ui.noticeLabel.isHidden()
    parameters.inputVolume = parameters.correctedVolume
    assert "was made by BrainDiff itself" in a_comparison.ui.noticeLabel.text
    assert not a_comparison.ui.noticeLabel.isHidden()
    parameters.inputVolume = add_head("t1 BrainDiff corrected (research)")  # a series that comes back from the archive
    assert not a_comparison.ui.noticeLabel.isHidden()


def test_the_card_is_one_line_until_more_is_wanted(a_panel_with_a_head):
    ui = a_panel_with_a_head.ui
    a_panel_with_a_head.logic.getParameterNode().model = "mc-net"
    assert ui.modelCardLabel.text.startswith("Error 0.135 to 0.121 above 1 mm, 78 subjects")
    assert ui.modelCardBrowser.isHidden()
    ui.modelMoreButton.click()
    assert not ui.modelCardBrowser.isHidden()


def test_the_outputs_tell_slicers_exporter_what_they_are(a_comparison):
    import slicer

    parameters = a_comparison.logic.getParameterNode()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    said = []
    for node in (parameters.correctedVolume, parameters.differenceVolume):
        item = hierarchy.GetItemByDataNode(node)
        said.append([hierarchy.GetItemAttribute(item, f"DICOM.{tag}") for tag in ("Modality", "SeriesDescription")])
    assert said == [["MR", "T1 BrainDiff corrected (research)"], ["MR", "T1 BrainDiff difference (research)"]]


def test_export_opens_slicers_dialog_for_the_corrected_volume(a_comparison, monkeypatch):
    import slicer

    opened = []

    class Dialog:
        def setMRMLScene(self, scene) -> None:  # noqa: N802 - Slicer's name
            opened.append(scene)

        def execDialog(self, item) -> bool:  # noqa: N802 - Slicer's name
            opened.append(item)
            return True

    a_comparison.ui.exportButton.click()
    assert "DICOM module" in message(a_comparison)  # the harness has none
    monkeypatch.setattr(slicer, "qSlicerDICOMExportDialog", Dialog, raising=False)
    a_comparison.ui.exportButton.click()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    corrected = a_comparison.logic.getParameterNode().correctedVolume
    assert opened == [slicer.mrmlScene, hierarchy.GetItemByDataNode(corrected)]


def test_the_motion_is_estimated_before_anything_is_corrected(a_panel_with_a_head):
    ui = a_panel_with_a_head.ui
    assert ui.motionLabel.text == "not estimated"
    ui.estimateButton.click()
    assert not ui.estimateButton.enabled
    wait_until(lambda: "mm" in ui.motionLabel.text or "cannot" in ui.motionLabel.text)
    assert ui.estimateButton.enabled
    assert a_panel_with_a_head.logic.getParameterNode().correctedVolume is None


def test_a_correction_ends_the_estimate(a_panel_with_a_head):
    panel = a_panel_with_a_head
    panel.logic.getParameterNode().force = True
    panel.ui.estimateButton.click()
    panel.ui.applyButton.click()
    assert panel.ui.motionLabel.text == "not estimated"
    wait_until(lambda: not panel.runPanel.running)
    assert panel.logic.getParameterNode().correctedVolume is not None


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ({"gate": "corrected", "plane": "sagittal", "ras_mm": [-31, 0, 0]}, "2.3 +- 0.7 mm, most at L 31 mm"),
        ({"gate": "corrected", "plane": "axial", "ras_mm": [0, 0, 12.4]}, "2.3 +- 0.7 mm, most at S 12 mm"),
        ({"gate": "returned unchanged", "ras_mm": None}, "2.3 +- 0.7 mm: below what the gate lets through"),
        ({"severity_mm": None}, "cannot be estimated"),
    ],
)
def test_the_line_says_how_far_and_where(the_module, found, line):
    from BrainDiffSlicerLib.MotionPanel import MotionPanel

    assert MotionPanel.text({"severity_mm": 2.34, "severity_error_mm": 0.7, **found}) == line


def test_the_cli_module_tells_the_motion_and_a_point_in_the_slice_that_shows_most(a_slicer, tmp_path):
    import json
    import subprocess
    import sys

    from panel_parts import MODULE

    from BrainDiffLogic import read_volume, write_volume
    from BrainDiffLogic.volume import Volume
    from Harness.phantom import Phantom

    affine = np.array([[0, 0, 2, -40], [-2, 0, 0, 60], [0, -2, 0, 50], [0, 0, 0, 1.0]])
    write_volume(Volume(Phantom().image((40, 48, 36), affine), affine), tmp_path / "scan.nrrd")
    script = MODULE.with_name("BrainDiffEstimate.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path / "scan.nrrd", tmp_path / "report.json"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert found["severity_mm"] >= 0 and found["plane"] == "sagittal"
    volume = read_volume(tmp_path / "scan.nrrd")
    ijk = np.linalg.inv(volume.affine) @ [*found["ras_mm"], 1.0]
    assert all(0 <= at < size for at, size in zip(ijk[:3], volume.shape, strict=True))
    bad = subprocess.run([sys.executable, script, "none.nrrd", "x.json"], capture_output=True, text=True)
    assert bad.returncode == 2 and bad.stderr.startswith("BrainDiffEstimate: none.nrrd")
