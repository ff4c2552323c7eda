"""The whole walk of a user with a real head and the shipped weights, as pictures, and what must be seen on them.

``make screenshots`` writes the pictures to Resources/Screenshots; otherwise they go to a temporary folder.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from Harness.pictures import AROUND, SCREEN, fit, render_slice_views, render_window, slice_view_pixels

MODULE = Path(__file__).resolve().parents[2] / "BrainDiffSlicer" / "BrainDiffSlicer.py"
TARGET = "BRAINDIFF_SCREENSHOTS"
"""Environment variable that names the folder of the pictures."""
VIEW = (300, 330)
TOO_LONG = 900.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def a_moved_head():
    """Colin27 with the demo's motion, as the sample data have it: (KJI int16, IJK to RAS)."""
    from BrainDiffLogic.commands.demo import find_head, simulated, with_air_above
    from BrainDiffLogic.errors import InputError
    from BrainDiffLogic.images import read_volume

    try:
        clean = with_air_above(read_volume(find_head()))
    except InputError as error:
        pytest.skip(str(error))
    moved = simulated(clean).moved
    return np.rint(moved.array).astype(np.int16).transpose(2, 1, 0), moved.affine


@pytest.fixture
def a_picture_folder(tmp_path: Path) -> Path:
    return Path(os.environ.get(TARGET) or tmp_path)


def add_volume(array: np.ndarray, affine: np.ndarray):
    import slicer

    node = slicer.util.addVolumeFromArray(array, name="T1 with motion")
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(0)
    node.GetDisplayNode().SetWindowLevelMinMax(0, float(np.percentile(array, 99.5)))
    return node


def wait_until(condition) -> None:
    import slicer

    end = time.monotonic() + TOO_LONG
    while not condition():
        assert time.monotonic() < end, "it took too long"
        slicer.app.processEvents()
        time.sleep(0.005)


def shown() -> list[str]:
    import slicer

    return slicer.app.layoutManager().shown()


def test_a_user_corrects_a_real_head_and_compares(a_slicer, a_moved_head, a_picture_folder):
    import slicer

    a_slicer.load_module(MODULE)
    panel = a_slicer.open_panel("BrainDiffSlicer")
    head = add_volume(*a_moved_head)
    panel.logic.getParameterNode().inputVolume = head
    slicer.util.setSliceViewerLayers(background=head)
    wait_until(lambda: "+-" in panel.ui.motionLabel.text)
    assert "most at" in panel.ui.motionLabel.text
    render_window(panel.parent, shown(), a_picture_folder / "panel-idle.png")

    panel.ui.applyButton.click()
    wait_until(lambda: panel.ui.progressBar.value >= 30)
    assert panel.ui.applyButton.text == "Cancel"
    render_window(panel.parent, shown(), a_picture_folder / "panel-running.png")
    wait_until(lambda: not panel.runPanel.running)
    panel.ui.worstSliceButton.click()
    render_window(panel.parent, shown(), a_picture_folder / "panel-finished.png")
    assert visible(panel, "applyButton") and visible(panel, "worstSliceButton"), "a user must scroll to them"

    names = shown()
    logics = [slicer.app.layoutManager().sliceWidget(name).sliceLogic() for name in names]
    for logic in logics:
        fit(logic, *VIEW)
    render_slice_views(names, a_picture_folder / "compare.png")
    check_the_three_views(names, logics)

    panel.ui.middleComboBox.currentIndex = 1
    render_slice_views(names, a_picture_folder / "overlay.png")
    corrected, overlaid = slice_view_pixels(names[1]).astype(float), head_colors(names[1])
    assert overlaid > 0.01, "the difference is not seen over the corrected volume"
    assert np.ptp(corrected[:20, :20], axis=-1).max() < 40, "where nothing was changed, the map must be transparent"


def test_a_reader_rates_a_pair(a_slicer, a_moved_head, a_picture_folder, tmp_path):
    import slicer

    from BrainDiffLogic import correct_file

    a_slicer.load_module(MODULE)
    qt_settings_without_estimates()
    panel = a_slicer.open_panel("BrainDiffSlicer")
    head = add_volume(*a_moved_head)
    assert slicer.util.saveNode(head, str(tmp_path / "original.nrrd"), {})
    correct_file(tmp_path / "original.nrrd", tmp_path / "corrected.nrrd")
    slicer.mrmlScene.RemoveNode(head)
    (tmp_path / "pairs.csv").write_text(
        "name,original,corrected\nhead,original.nrrd,corrected.nrrd\n", encoding="utf-8"
    )
    panel.ui.compareCollapsibleButton.collapsed = True
    panel.ui.studyCollapsibleButton.collapsed = False
    panel.ui.studyListEdit.currentPath, panel.ui.studyReaderEdit.text = str(tmp_path / "pairs.csv"), "anna"
    panel.ui.studyStartButton.click()
    panel.ui.studyListEdit.currentPath = "pairs.csv"
    names = shown()
    render_window(panel.parent, names, a_picture_folder / "reader-study.png")
    left, right = (slice_view_pixels(name).astype(float) for name in names)
    assert np.abs(left - right).mean() > 1, "a reader must see two images"
    assert "Pair 1 of 1" in panel.ui.studyMessageLabel.text and visible(panel, "studyMessageLabel")


def qt_settings_without_estimates() -> None:
    import qt

    qt.QSettings().setValue("BrainDiff/EstimateMotion", False)


def visible(panel, name: str) -> bool:
    """Whether a widget lies in the part of the panel that a screen of 768 lines shows."""
    import qt

    widget = getattr(panel.ui, name)
    return widget.mapTo(panel.parent, qt.QPoint(0, widget.height)).y() <= SCREEN[1] - sum(AROUND)


def head_colors(name: str) -> float:
    """The share of colored pixels in a view."""
    return float((np.ptp(slice_view_pixels(name).astype(float), axis=-1) > 40).mean())


def check_the_three_views(names, logics) -> None:
    original, corrected, difference = (slice_view_pixels(name).astype(float) for name in names)
    assert len({round(logic.GetSliceOffset(), 3) for logic in logics}) == 1, "the panes show different slices"
    assert original.std() > 20 and corrected.std() > 20, "a pane is empty"
    assert np.abs(original - corrected).mean() > 1, "nothing was corrected"
    assert np.ptp(original, axis=-1).max() == 0 and np.ptp(difference, axis=-1).max() > 60, "only the map has colors"
    air = difference[:20, :20]
    assert np.ptp(air, axis=-1).mean() < 40, "the map is not centered on a neutral color"
    red, blue = difference[..., 0] - difference[..., 2] > 40, difference[..., 2] - difference[..., 0] > 40
    assert min(red.sum(), blue.sum()) > 500, "the map has one sign only"
