"""The compare layout in a real MRML scene, with pixels rendered off-screen."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk

from BrainDiffLogic.display import PLANES, VIEW_COLORS
from Harness.comparison import (
    backgrounds,
    captions,
    go_to_worst_slice,
    pixel_at,
    scroll_by_hand,
    scroll_to,
    slice_logics,
    slice_nodes,
    three_volumes_of,
)
from Harness.pictures import slice_view_pixels

SHAPE = (24, 28, 26)  # K, J, I
SLICE_STATE = ("GetOrientation", "GetSliceOffset", "GetFieldOfView", "GetXYZOrigin", "GetViewGroup", "GetLayoutLabel")
COMPOSITE_STATE = (
    "GetBackgroundVolumeID", "GetForegroundVolumeID", "GetForegroundOpacity", "GetLinkedControl",
    "GetHotLinkedControl", "GetDoPropagateVolumeSelection",
)  # fmt: skip


@pytest.fixture
def a_compare_layout(a_slicer):
    from BrainDiffSlicerLib.CompareLayout import CompareLayout

    compare = CompareLayout()
    yield compare
    compare.restore()


@pytest.fixture
def three_volumes(a_slicer):
    """Original, corrected and difference of a box; the correction took 100 away around I 8, added it around I 16."""
    original = np.zeros(SHAPE, dtype=np.float32)
    original[4:20, 4:24, 4:22] = 500.0
    change = np.zeros(SHAPE, dtype=np.float32)
    change[8:16, 8:16, 7:10] = -100.0
    change[8:16, 8:16, 15:18] = 100.0
    return three_volumes_of(original, change)


def _pixels(compare) -> list[np.ndarray]:
    return [slice_view_pixels(name).astype(int) for name in compare.VIEW_NAMES]


def _state_of_the_usual_views() -> dict:
    state = {}
    for name in ("Red", "Green", "Yellow"):
        for kind, getters in (("vtkMRMLSliceNode", SLICE_STATE), ("vtkMRMLSliceCompositeNode", COMPOSITE_STATE)):
            node = slicer.mrmlScene.GetSingletonNode(name, kind)
            state.update({(name, getter): getattr(node, getter)() for getter in getters})
    return state


# The views


def test_three_views_of_its_own_show_original_corrected_and_difference(a_compare_layout, three_volumes):
    assert a_compare_layout.show(*three_volumes)

    assert a_compare_layout.shown
    assert slicer.app.layoutManager().layout == a_compare_layout.LAYOUT_ID
    assert [view.GetLayoutName() for view in slice_nodes(a_compare_layout)] == list(a_compare_layout.VIEW_NAMES)
    assert {view.GetViewGroup() for view in slice_nodes(a_compare_layout)} == {a_compare_layout.VIEW_GROUP}
    assert {view.GetOrientation() for view in slice_nodes(a_compare_layout)} == {"Sagittal"}
    assert backgrounds(a_compare_layout) == ["T1", "T1 corrected", "T1 difference"]
    assert captions(a_compare_layout) == ["Original", "Corrected", "Difference"]
    for logic in slice_logics(a_compare_layout):
        assert logic.GetSliceCompositeNode().GetLinkedControl()
        assert logic.GetSliceCompositeNode().GetHotLinkedControl()


def test_what_an_older_scene_left_in_the_views_is_put_right(a_compare_layout, three_volumes):
    a_compare_layout.show(*three_volumes)
    a_compare_layout.restore()
    for logic in slice_logics(a_compare_layout):
        logic.GetSliceNode().SetViewGroup(0)
        logic.GetSliceCompositeNode().SetForegroundVolumeID(three_volumes[2].GetID())
        logic.GetSliceCompositeNode().SetLabelVolumeID(three_volumes[2].GetID())
    a_compare_layout.show(*three_volumes)
    for logic, alone in zip(slice_logics(a_compare_layout), (True, True, False), strict=True):
        assert logic.GetSliceNode().GetViewGroup() == a_compare_layout.VIEW_GROUP
        composite = logic.GetSliceCompositeNode()  # the legend of the difference hangs on an invisible layer
        assert composite.GetForegroundVolumeID() is None if alone else composite.GetForegroundOpacity() == 0
        assert logic.GetSliceCompositeNode().GetLabelVolumeID() is None


def test_the_layout_in_the_layout_node_names_only_its_own_views(a_compare_layout, three_volumes):
    a_compare_layout.show(*three_volumes)
    shown = slicer.app.layoutManager().layoutLogic().GetViewNodes()
    names = [shown.GetItemAsObject(index).GetLayoutName() for index in range(shown.GetNumberOfItems())]
    assert names == list(a_compare_layout.VIEW_NAMES)


def test_red_green_and_yellow_are_as_before(a_compare_layout, three_volumes):
    other = slicer.util.addVolumeFromArray(np.ones(SHAPE, dtype=np.float32), name="Other")
    slicer.util.setSliceViewerLayers(background=other)
    red = slicer.app.layoutManager().sliceWidget("Red").sliceLogic()
    red.FitSliceToBackground()
    red.GetSliceNode().SetOrientation("Coronal")
    red.SetSliceOffset(7.0)
    before = _state_of_the_usual_views()

    a_compare_layout.show(*three_volumes)
    a_compare_layout.setOrientation("Coronal")
    scroll_by_hand(slice_logics(a_compare_layout)[0], 20.0)
    a_compare_layout.blink()
    a_compare_layout.goToWorstSlice()
    assert _state_of_the_usual_views() == before

    a_compare_layout.restore()
    assert _state_of_the_usual_views() == before
    assert before["Red", "GetBackgroundVolumeID"] == other.GetID()


def test_scrolling_in_red_does_not_move_the_compare_views(a_compare_layout, three_volumes):
    a_compare_layout.show(*three_volumes, orientation="Axial")
    before = [view.GetSliceOffset() for view in slice_nodes(a_compare_layout)]
    red = slicer.app.layoutManager().sliceWidget("Red").sliceLogic()
    red.GetSliceCompositeNode().SetLinkedControl(1)
    red.GetSliceCompositeNode().SetHotLinkedControl(1)
    scroll_by_hand(red, 31.0)
    assert [view.GetSliceOffset() for view in slice_nodes(a_compare_layout)] == before


def test_a_volume_loaded_later_does_not_take_the_views(a_compare_layout, three_volumes, a_slicer):
    a_compare_layout.show(*three_volumes)
    loaded = slicer.util.addVolumeFromArray(np.ones(SHAPE, dtype=np.float32), name="Loaded")
    composites = [logic.GetSliceCompositeNode() for logic in slice_logics(a_compare_layout)]
    logic = slice_logics(a_compare_layout)[0].GetMRMLApplicationLogic()
    logic.GetSelectionNode().SetActiveVolumeID(loaded.GetID())
    logic.PropagateVolumeSelection()
    assert loaded.GetID() not in [composite.GetBackgroundVolumeID() for composite in composites]
    red = slicer.mrmlScene.GetSingletonNode("Red", "vtkMRMLSliceCompositeNode")
    assert red is None or red.GetBackgroundVolumeID() == loaded.GetID()


def test_a_volume_picked_in_one_view_stays_in_that_view(a_compare_layout, three_volumes):
    a_compare_layout.show(*three_volumes)
    logic = slice_logics(a_compare_layout)[0]
    flag = slicer.vtkMRMLSliceCompositeNode.BackgroundVolumeFlag
    logic.StartSliceCompositeNodeInteraction(flag)
    logic.GetSliceCompositeNode().SetBackgroundVolumeID(three_volumes[2].GetID())
    logic.EndSliceCompositeNodeInteraction()
    assert backgrounds(a_compare_layout) == ["T1 difference", "T1 corrected", "T1 difference"]


def test_there_is_no_comparison_without_a_layout_manager(a_compare_layout, three_volumes, monkeypatch):
    with monkeypatch.context() as without:
        without.setattr(slicer.app, "layoutManager", lambda: None)
        assert a_compare_layout.show(*three_volumes) is False
        assert not a_compare_layout.shown
        assert a_compare_layout.goToWorstSlice() is None
        a_compare_layout.blink()
        a_compare_layout.setOrientation("Axial")
        a_compare_layout.restore()
        a_compare_layout.clear()


# Linked views


def test_planes_and_colors_are_those_of_the_library(a_compare_layout):
    assert a_compare_layout.ORIENTATIONS == PLANES
    assert a_compare_layout.VIEW_COLORS == VIEW_COLORS


def test_the_views_show_the_same_region(a_compare_layout, three_volumes):
    for name in a_compare_layout.ORIENTATIONS:
        a_compare_layout.show(*three_volumes, orientation=name)
        first, *others = slice_nodes(a_compare_layout)
        assert first.GetOrientation() == name
        for view in others:
            assert view.GetSliceOffset() == first.GetSliceOffset()
            assert view.GetFieldOfView() == pytest.approx(first.GetFieldOfView())
            assert view.GetXYZOrigin() == first.GetXYZOrigin()


def test_a_wider_view_has_the_same_millimeters_per_pixel(a_compare_layout, three_volumes):
    a_compare_layout.show(*three_volumes)
    slice_logics(a_compare_layout)[2].ResizeSliceNode(301, 240)
    a_compare_layout.setOrientation("Coronal")
    pixel = [view.GetFieldOfView()[0] / view.GetDimensions()[0] for view in slice_nodes(a_compare_layout)]
    line = [view.GetFieldOfView()[1] / view.GetDimensions()[1] for view in slice_nodes(a_compare_layout)]
    assert pixel == pytest.approx([pixel[0]] * 3)
    assert line == pytest.approx([pixel[0]] * 3)


def test_scrolling_one_view_scrolls_all(a_compare_layout, three_volumes):
    a_compare_layout.show(*three_volumes)
    scroll_by_hand(slice_logics(a_compare_layout)[1], 32.0)
    assert [view.GetSliceOffset() for view in slice_nodes(a_compare_layout)] == pytest.approx([32.0] * 3)


def test_zooming_and_panning_one_view_changes_all(a_compare_layout, three_volumes):
    a_compare_layout.show(*three_volumes)
    logic = slice_logics(a_compare_layout)[2]
    node = logic.GetSliceNode()
    logic.StartSliceNodeInteraction(node.FieldOfViewFlag | node.XYZOriginFlag)
    width, height, depth = node.GetFieldOfView()
    node.SetFieldOfView(width / 2, height / 2, depth)
    node.SetXYZOrigin(3.0, -4.0, 0.0)
    logic.EndSliceNodeInteraction()
    for view in slice_nodes(a_compare_layout):
        assert view.GetFieldOfView()[:2] == pytest.approx((width / 2, height / 2))
        assert view.GetXYZOrigin()[:2] == pytest.approx((3.0, -4.0))


def test_an_unknown_orientation_is_refused(a_compare_layout, three_volumes):
    with pytest.raises(ValueError, match="Oblique.*Sagittal"):
        a_compare_layout.show(*three_volumes, orientation="Oblique")
    assert slicer.app.layoutManager().layout != a_compare_layout.LAYOUT_ID


# Pixels


def test_difference_pane_is_white_at_zero_and_symmetric(a_compare_layout, three_volumes):
    a_compare_layout.show(*three_volumes, orientation="Axial")
    difference = slice_logics(a_compare_layout)[2]
    difference.GetSliceNode().SetSliceOffset(24.0)  # K 12
    assert pixel_at(difference, (24.0, 24.0, 24.0)) == pytest.approx([255, 255, 255], abs=1)
    less, more = pixel_at(difference, (16.0, 24.0, 24.0)), pixel_at(difference, (32.0, 24.0, 24.0))
    assert less[2] == more[0] == 255
    assert less[0] == pytest.approx(more[2], abs=4)
    assert less[0] < 10  # -100 is the end of the window: a fifth of 500


def test_three_panes_show_the_same_slice_of_three_volumes(a_compare_layout, three_volumes):
    a_compare_layout.show(*three_volumes)
    scroll_to(a_compare_layout, 16.0)  # I 8, where 100 was taken away
    inside, gray = (16.0, 24.0, 24.0), []
    for logic in slice_logics(a_compare_layout)[:2]:
        red, green, blue = pixel_at(logic, inside)
        assert red == green == blue
        gray.append(int(red))
    assert gray == pytest.approx([127, 102], abs=3)  # 500 and 400 in a window from 0 to 1000


def test_blinking_exchanges_the_corrected_pane_and_back(a_compare_layout, three_volumes):
    a_compare_layout.show(*three_volumes)
    a_compare_layout.goToWorstSlice()
    original, corrected, difference = _pixels(a_compare_layout)
    assert np.abs(original - corrected).max() > 10

    a_compare_layout.blink()
    during = _pixels(a_compare_layout)
    assert a_compare_layout.blinked
    assert captions(a_compare_layout) == ["Original", "Original", "Difference"]
    assert np.array_equal(during[0], original)
    assert np.array_equal(during[1], original)
    assert np.array_equal(during[2], difference)

    a_compare_layout.blink()
    assert not a_compare_layout.blinked
    assert captions(a_compare_layout) == ["Original", "Corrected", "Difference"]
    assert np.array_equal(_pixels(a_compare_layout)[1], corrected)


def test_showing_again_ends_blinking(a_compare_layout, three_volumes):
    a_compare_layout.show(*three_volumes)
    a_compare_layout.blink()
    a_compare_layout.show(*three_volumes)
    assert not a_compare_layout.blinked
    assert backgrounds(a_compare_layout) == ["T1", "T1 corrected", "T1 difference"]
    assert captions(a_compare_layout) == ["Original", "Corrected", "Difference"]


# Leaving and coming back


def test_the_previous_layout_comes_back(a_compare_layout, three_volumes):
    slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpGreenSliceView)
    a_compare_layout.show(*three_volumes)
    a_compare_layout.show(*three_volumes)  # showing twice does not make the compare layout the previous one
    a_compare_layout.restore()
    assert slicer.app.layoutManager().layout == slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpGreenSliceView
    assert not a_compare_layout.shown


def test_restoring_without_having_shown_anything_changes_nothing(a_compare_layout):
    slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
    a_compare_layout.restore()
    assert slicer.app.layoutManager().layout == slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView


def test_a_layout_chosen_by_the_user_ends_the_comparison_and_stays(a_compare_layout, three_volumes):
    a_compare_layout.show(*three_volumes)
    a_compare_layout.blink()
    slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpYellowSliceView)
    assert not a_compare_layout.shown
    assert not a_compare_layout.blinked
    three_volumes[0].GetDisplayNode().SetWindowLevel(77.0, 33.0)
    assert three_volumes[1].GetDisplayNode().GetWindow() == 1000.0
    a_compare_layout.restore()
    assert slicer.app.layoutManager().layout == slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpYellowSliceView


def test_closing_the_scene_while_shown_is_safe_and_it_can_be_shown_again(a_compare_layout, three_volumes):
    slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpGreenSliceView)
    a_compare_layout.show(*three_volumes)
    a_compare_layout.blink()
    slicer.mrmlScene.Clear(0)
    assert not a_compare_layout.shown
    assert not a_compare_layout.blinked
    a_compare_layout.clear()
    a_compare_layout.blink()
    assert a_compare_layout.goToWorstSlice() is None

    change = np.zeros(SHAPE, dtype=np.float32)
    change[:, :, 5] = 1.0
    assert a_compare_layout.show(*three_volumes_of(np.ones(SHAPE, dtype=np.float32), change))
    assert backgrounds(a_compare_layout) == ["T1", "T1 corrected", "T1 difference"]
    assert captions(a_compare_layout) == ["Original", "Corrected", "Difference"]
    assert {view.GetViewGroup() for view in slice_nodes(a_compare_layout)} == {a_compare_layout.VIEW_GROUP}
    assert go_to_worst_slice(a_compare_layout) == pytest.approx(10.0)
    a_compare_layout.restore()
    assert slicer.app.layoutManager().layout != a_compare_layout.LAYOUT_ID


def test_a_volume_removed_while_shown_ends_the_comparison(a_compare_layout, three_volumes):
    a_compare_layout.show(*three_volumes)
    a_compare_layout.blink()
    slicer.mrmlScene.RemoveNode(three_volumes[1])
    assert not a_compare_layout.shown
    a_compare_layout.blink()
    three_volumes[0].GetDisplayNode().SetWindowLevel(77.0, 33.0)
    assert a_compare_layout.goToWorstSlice() is None
    a_compare_layout.restore()
    assert slicer.app.layoutManager().layout != a_compare_layout.LAYOUT_ID


def test_a_scene_that_names_the_layout_before_it_is_known_can_be_compared(a_compare_layout, three_volumes):
    layout_node = slicer.app.layoutManager().layoutLogic().GetLayoutNode()
    if layout_node.IsLayoutDescription(a_compare_layout.LAYOUT_ID):
        layout_node.SetLayoutDescription(a_compare_layout.LAYOUT_ID, "")
    layout_node.SetViewArrangement(a_compare_layout.LAYOUT_ID)  # warns, as Slicer does
    a_compare_layout.show(*three_volumes)
    assert a_compare_layout.VIEW_NAMES[0] in layout_node.GetCurrentLayoutDescription()
    a_compare_layout.restore()
    assert slicer.app.layoutManager().layout == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView


# Window and level


def test_window_and_level_go_both_ways_between_original_and_corrected(a_compare_layout, three_volumes):
    original, corrected, difference = (volume.GetDisplayNode() for volume in three_volumes)
    shown_difference = difference.GetWindow(), difference.GetLevel()
    corrected.SetWindowLevel(10.0, 5.0)
    a_compare_layout.show(*three_volumes)
    assert (corrected.GetWindow(), corrected.GetLevel()) == (1000.0, 500.0)  # the original leads

    corrected.SetWindowLevel(300.0, 150.0)
    assert (original.GetWindow(), original.GetLevel()) == (300.0, 150.0)
    original.SetWindowLevel(400.0, 250.0)
    original.SetInterpolate(0)
    assert (corrected.GetWindow(), corrected.GetLevel(), corrected.GetInterpolate()) == (400.0, 250.0, 0)
    assert (difference.GetWindow(), difference.GetLevel()) == shown_difference
    assert difference.GetInterpolate() == 1


def test_one_change_of_the_window_is_copied_once(a_compare_layout, three_volumes):
    a_compare_layout.show(*three_volumes)
    counts = [0, 0]

    def counter(index):
        def count(*_):
            counts[index] += 1

        return count

    for index in (0, 1):
        three_volumes[index].GetDisplayNode().AddObserver(vtk.vtkCommand.ModifiedEvent, counter(index))
    three_volumes[0].GetDisplayNode().SetWindowLevel(300.0, 150.0)
    assert counts == [1, 1]


def test_an_automatic_window_of_the_original_is_kept_and_copied_as_values(a_compare_layout, three_volumes):
    original, corrected = (volume.GetDisplayNode() for volume in three_volumes[:2])
    original.SetAutoWindowLevel(True)
    corrected.SetAutoWindowLevel(True)
    a_compare_layout.show(*three_volumes)
    assert original.GetAutoWindowLevel()
    assert not corrected.GetAutoWindowLevel()
    assert (corrected.GetWindow(), corrected.GetLevel()) == (original.GetWindow(), original.GetLevel())


def test_window_and_level_are_free_after_leaving(a_compare_layout, three_volumes):
    a_compare_layout.show(*three_volumes)
    a_compare_layout.restore()
    three_volumes[0].GetDisplayNode().SetWindowLevel(77.0, 33.0)
    assert three_volumes[1].GetDisplayNode().GetWindow() == 1000.0
