"""What a correction leaves in the scene, on the real MRML scene and nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import slicer
import slicer.util
from hypothesis import given
from hypothesis import strategies as st
from panel_parts import saved_and_loaded
from vtk import vtkMatrix4x4
from vtk.util.numpy_support import vtk_to_numpy

from BrainDiffLogic.display import METRICS, half_window
from BrainDiffLogic.metrics.quality import Assessment

if TYPE_CHECKING:
    from BrainDiffSlicerLib.CorrectionOutputs import CorrectionOutputs

pytestmark = pytest.mark.usefixtures("a_slicer")

SHAPE = (9, 8, 7)  # KJI
NASTY = 'a; b: "c" & <d>\nsecond line \u00b5'


def oblique() -> np.ndarray:
    turned, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    return turned * [0.7, 1.1, 1.3]


AXES = {
    "axial": np.diag([-1.0, -1.1, 1.2]),
    "sagittal": np.array([[0, 0, 1.2], [-0.9, 0, 0], [0, -1.1, 0]]),
    "coronal": np.array([[-0.8, 0, 0], [0, 0, 1.3], [0, -1.0, 0]]),
    "oblique": oblique(),
}


def create(volume: slicer.vtkMRMLNode, change: np.ndarray, report: dict, *arguments, **options) -> CorrectionOutputs:
    from BrainDiffSlicerLib.CorrectionFinding import CorrectionFinding
    from BrainDiffSlicerLib.CorrectionOutputs import CorrectionOutputs

    return CorrectionOutputs.create(volume, CorrectionFinding(change, report), *arguments, **options)


def find(corrected: slicer.vtkMRMLNode | None) -> CorrectionOutputs | None:
    from BrainDiffSlicerLib.CorrectionOutputs import CorrectionOutputs

    return CorrectionOutputs.find(corrected)


def a_matrix(axes: str = "oblique") -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = AXES[axes], [12.3, -4.56, 7.89]
    return matrix


def a_volume_with(array: np.ndarray, axes: str = "oblique", name: str = "T1") -> slicer.vtkMRMLScalarVolumeNode:
    return slicer.util.addVolumeFromArray(array, a_matrix(axes), name)


def an_image(dtype: str = "int16") -> np.ndarray:
    return np.random.default_rng(2).uniform(20, 900, SHAPE).astype(dtype)


def ijk_to_ras(volume: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    matrix = vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def voxels(volume: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    return slicer.util.arrayFromVolume(volume).copy()


def node_count() -> int:
    return slicer.mrmlScene.GetNumberOfNodes()


@pytest.fixture
def a_change() -> np.ndarray:
    return np.random.default_rng(3).normal(0, 20, SHAPE).astype(np.float32)


@pytest.fixture
def a_volume_node(a_slicer) -> slicer.vtkMRMLScalarVolumeNode:
    return a_volume_with(an_image())


@pytest.fixture
def a_report() -> dict:
    numbers = {metric.key: 0.5 for metric in METRICS}
    return {
        "software": "BrainDiff 1.2.3", "model": "tiny", "model_version": "9.8.7", "model_sha256": "ab" * 32,
        "device": "cpu", "seconds": 1.5, "outside_domain": ["voxels of 3 mm"], "notes": [NASTY],
        "quality": {
            "before": {**numbers, "tenengrad": 0.01234567, "efc": None, "reasons": {"efc": "no air background"}},
            "after": {**numbers, "tenengrad": 0.02, "reasons": {}},
        },
    }  # fmt: skip


@pytest.fixture
def outputs(a_volume_node, a_change, a_report) -> CorrectionOutputs:
    return create(a_volume_node, a_change, a_report, 1.0)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("parented", [False, True])
def test_outputs_have_the_exact_matrix_and_parent_of_the_input(axes, parented, a_change, a_report):
    volume = a_volume_with(an_image(), axes)
    if parented:
        bent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode")
        volume.SetAndObserveTransformNodeID(bent.GetID())
    outputs = create(volume, a_change, a_report, 1.0)
    for node in (outputs.corrected, outputs.difference):
        assert np.array_equal(ijk_to_ras(node), ijk_to_ras(volume))
        assert node.GetTransformNodeID() == volume.GetTransformNodeID()
    assert parented == (volume.GetTransformNodeID() is not None)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_the_difference_is_corrected_minus_original_voxel_by_voxel(dtype, strength, a_change, a_report):
    original = (np.random.default_rng(4).uniform(80, 170, SHAPE)).astype(dtype)
    volume = a_volume_with(original)
    outputs = create(volume, a_change, a_report, strength)
    corrected, difference = voxels(outputs.corrected), voxels(outputs.difference)
    assert np.array_equal(corrected.astype(np.float64) - original, difference.astype(np.float64))
    assert difference.dtype == np.float32
    assert np.abs(difference - strength * a_change).max() <= (0.501 if corrected.dtype.kind in "iu" else 1e-3)
    assert corrected.dtype == original.dtype
    assert np.array_equal(voxels(volume), original)


def test_corrected_becomes_wider_where_the_values_do_not_fit(a_change, a_report):
    original = np.full(SHAPE, 250, np.uint8)
    outputs = create(a_volume_with(original), a_change, a_report, 1.0)
    assert voxels(outputs.corrected).dtype == np.int16
    outputs.setStrength(0.0)
    assert np.array_equal(voxels(outputs.corrected), original) and voxels(outputs.corrected).dtype == np.uint8
    outputs.setStrength(1.0)
    assert np.array_equal(voxels(outputs.corrected), np.rint(250 + a_change))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_the_strength_does_not_remember_the_one_before(dtype):
    change = np.random.default_rng(5).normal(0, 90, SHAPE).astype(np.float32)
    volume = a_volume_with(an_image(dtype))
    moved, direct = (create(volume, change, {}, 1.0) for _ in range(2))

    @given(first=st.floats(0, 1), second=st.floats(0, 1))
    def check(first: float, second: float) -> None:
        moved.setStrength(first)
        moved.setStrength(second)
        direct.setStrength(second)
        for one, other in ((moved.corrected, direct.corrected), (moved.difference, direct.difference)):
            assert voxels(one).dtype == voxels(other).dtype and np.array_equal(voxels(one), voxels(other))
        assert moved.strength == direct.strength == second

    check()


def test_setting_the_strength_changes_voxels_and_attribute_in_one_event(outputs):
    events = []
    outputs.corrected.AddObserver("ModifiedEvent", lambda *_: events.append(outputs.strength))
    outputs.setStrength(0.25)
    assert events == [0.25]
    assert outputs.difference.GetAttribute("BrainDiff.Strength") == "0.25"


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_outside_0_to_1_is_refused_and_changes_nothing(outputs, strength):
    before = voxels(outputs.corrected)
    with pytest.raises(ValueError, match="strength"):
        outputs.setStrength(strength)
    assert np.array_equal(voxels(outputs.corrected), before) and outputs.strength == 1.0


def test_outputs_have_voxels_of_their_own(outputs, a_volume_node):
    outputs.setStrength(0.0)
    for node in (outputs.corrected, outputs.difference):
        slicer.util.arrayFromVolume(node)[:] = -7
    assert np.array_equal(voxels(a_volume_node), an_image())


def test_new_outputs_are_named_after_the_input_and_do_not_clash(outputs, a_volume_node, a_change, a_report):
    assert [node.GetName() for node in (outputs.corrected, outputs.difference, outputs.table)] == [
        "T1 corrected", "T1 difference", "T1 quality",
    ]  # fmt: skip
    again = create(a_volume_node, a_change, a_report, 1.0)
    names = {node.GetName() for node in (outputs.corrected, again.corrected)}
    assert len(names) == 2 and again.corrected is not outputs.corrected


def test_given_outputs_of_another_size_are_overwritten(a_volume_node, a_change, a_report):
    old = np.full((3, 4, 5), 7, np.uint8)
    corrected, difference = a_volume_with(old, "axial", "mine"), a_volume_with(old, "axial", "my difference")
    shift = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    corrected.SetAndObserveTransformNodeID(shift.GetID())
    corrected.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    corrected.GetDisplayNode().SetApplyThreshold(True)
    held = corrected.GetImageData()
    outputs = create(a_volume_node, a_change, a_report, 1.0, corrected, difference)
    assert outputs.corrected is corrected and corrected.GetName() == "mine"
    assert voxels(corrected).shape == voxels(difference).shape == SHAPE
    assert np.array_equal(ijk_to_ras(corrected), ijk_to_ras(a_volume_node))
    assert corrected.GetTransformNodeID() is None
    assert corrected.GetAttribute("DICOM.instanceUIDs") is None
    assert not corrected.GetDisplayNode().GetApplyThreshold()
    assert np.array_equal(vtk_to_numpy(held.GetPointData().GetScalars()), old.ravel())  # as an undo would need it


@pytest.mark.parametrize("role", ["corrected", "difference"])
def test_the_input_is_refused_as_an_output(a_volume_node, a_change, a_report, role):
    before = node_count()
    with pytest.raises(ValueError, match="T1 is input and output at once"):
        create(a_volume_node, a_change, a_report, 1.0, **{role: a_volume_node})
    assert node_count() == before and np.array_equal(voxels(a_volume_node), an_image())


def test_one_volume_is_refused_for_two_outputs(a_volume_node, a_change, a_report):
    other = a_volume_with(an_image(), name="other")
    with pytest.raises(ValueError, match="two outputs"):
        create(a_volume_node, a_change, a_report, 1.0, corrected=other, difference=other)


def test_a_change_of_another_size_is_refused_and_makes_no_node(a_volume_node, a_report):
    before = node_count()
    with pytest.raises(ValueError, match="T1 has another size"):
        create(a_volume_node, np.zeros((2, 3, 4), np.float32), a_report, 1.0)
    assert node_count() == before


def test_corrected_is_shown_in_the_window_of_the_input(a_volume_node, a_change, a_report):
    a_volume_node.GetDisplayNode().SetAutoWindowLevel(False)
    a_volume_node.GetDisplayNode().SetWindowLevel(321.0, 123.0)
    display = create(a_volume_node, a_change, a_report, 1.0).corrected.GetDisplayNode()
    assert (display.GetWindow(), display.GetLevel(), display.GetAutoWindowLevel()) == (321.0, 123.0, False)


def test_an_input_that_is_not_displayed_is_corrected_too(a_volume_node, a_change, a_report):
    slicer.mrmlScene.RemoveNode(a_volume_node.GetDisplayNode())
    outputs = create(a_volume_node, a_change, a_report, 1.0)
    assert outputs.corrected.GetDisplayNode().GetAutoWindowLevel()


def test_the_window_of_the_difference_is_a_fifth_of_the_robust_maximum_each_way(a_change, a_report):
    head = np.zeros(SHAPE, np.float32)
    head[:, :, 3:] = np.linspace(500, 600, head[:, :, 3:].size).reshape(9, 8, 4)
    head[0, 0, 6] = 3000  # one bright vessel must not decide
    outputs = create(a_volume_with(head), a_change, a_report, 1.0)
    display = outputs.difference.GetDisplayNode()
    assert display.GetLevel() == 0 and not display.GetAutoWindowLevel()
    assert display.GetWindow() == pytest.approx(0.4 * 600, rel=0.02)
    outputs.setStrength(0.3)
    assert display.GetWindow() == pytest.approx(0.4 * 600, rel=0.02)


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0, np.nan])
def test_an_image_of_one_value_still_has_a_window(value):
    assert half_window(np.full(SHAPE, value, np.float32)) > 0


@pytest.mark.parametrize("fill", [-32768.0, 65535.0, np.nan])
def test_fill_values_do_not_widen_the_window(fill: float):
    image = np.random.default_rng(1).uniform(0, 500, (20, 24, 22)).astype(np.float32)
    filled = image.copy()
    filled[:3] = fill
    assert half_window(filled) == pytest.approx(half_window(image), rel=0.05)


def test_the_colors_are_white_at_zero_and_symmetric(outputs):
    table = outputs.difference.GetDisplayNode().GetColorNode()
    rgb = []
    for index in range(table.GetNumberOfColors()):
        color = [0.0] * 4
        table.GetColor(index, color)
        rgb.append(color[:3])
    rgb = np.array(rgb)
    assert np.allclose(rgb[len(rgb) // 2], 1)
    assert np.allclose(rgb, rgb[::-1, ::-1], atol=1 / 255)  # red and blue change places
    assert np.allclose(rgb[-1], [1, 0, 0]) and np.allclose(rgb[0], [0, 0, 1])


def test_all_differences_of_a_scene_share_one_color_table(outputs, a_volume_node, a_change, a_report):
    again = create(a_volume_node, a_change, a_report, 1.0)
    ids = {node.difference.GetDisplayNode().GetColorNodeID() for node in (outputs, again)}
    assert len(ids) == 1


def test_outputs_stand_beside_the_input_in_its_study(a_volume_node, a_change, a_report):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    subject = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Somebody")
    study = hierarchy.CreateStudyItem(subject, "First visit")
    item = hierarchy.GetItemByDataNode(a_volume_node) or hierarchy.CreateItem(study, a_volume_node)
    hierarchy.SetItemParent(item, study)
    outputs = create(a_volume_node, a_change, a_report, 1.0)
    for node in (outputs.corrected, outputs.difference, outputs.table):
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study


def test_outputs_of_an_input_without_item_stand_at_the_top(outputs):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(outputs.corrected)
    assert item and hierarchy.GetItemParent(item) == hierarchy.GetSceneItemID()


def test_outputs_say_where_they_come_from(outputs):
    for node in (outputs.corrected, outputs.difference, outputs.table):
        facts = {key: node.GetAttribute("BrainDiff." + key) for key in ("Model", "ModelVersion", "Device", "Input")}
        assert facts == {"Model": "tiny", "ModelVersion": "9.8.7", "Device": "cpu", "Input": "T1"}
        assert node.GetAttribute("BrainDiff.ModelSHA256") == "ab" * 32
        assert node.GetAttribute("BrainDiff.Date").endswith("+00:00")
    assert outputs.notes == ["voxels of 3 mm", NASTY]


def test_the_quality_table_explains_each_number_and_why_one_is_missing(outputs):
    table = outputs.table.GetTable()
    rows = [[table.GetValue(row, column).ToString() for column in range(4)] for row in range(table.GetNumberOfRows())]
    by_name = {row[0]: row for row in rows}
    assert table.GetColumnName(2) == "After (strength 1)"
    assert by_name["Sharpness (Tenengrad)"][1:3] == ["0.01235", "0.02"]
    assert by_name["Ghosting (EFC)"][1:3] == ["-", "0.5"]
    assert "Not measured: no air background." in by_name["Ghosting (EFC)"][3]
    assert all("is better" in row[3] for row in rows)
    assert outputs.table.GetLocked()


def test_the_quality_table_shows_all_that_the_library_measures():
    measured = set(Assessment.__dataclass_fields__) - {"reasons"}
    assert {metric.key for metric in METRICS} == measured
    lower = {metric.key for metric in METRICS if not metric.higher}
    assert lower == {"cjv", "efc", "gradient_entropy"}  # as the docstring of Assessment says


def test_a_report_without_quality_gives_a_table_of_dashes(a_volume_node, a_change):
    table = create(a_volume_node, a_change, {}, 1.0).table.GetTable()
    assert {table.GetValue(row, 1).ToString() for row in range(table.GetNumberOfRows())} == {"-"}


def test_a_correction_is_found_again_in_a_saved_scene(outputs, a_volume_node, tmp_path):
    outputs.setStrength(0.5)
    corrected, colors = voxels(outputs.corrected), outputs.difference.GetDisplayNode().GetColorNode().GetName()
    matrix = ijk_to_ras(a_volume_node)
    saved_and_loaded(tmp_path)
    found = find(slicer.mrmlScene.GetFirstNodeByName("T1 corrected"))
    assert found.input.GetName() == "T1" and found.difference.GetName() == "T1 difference"
    assert found.table.GetTable().GetValue(0, 0).ToString() == "Sharpness (Tenengrad)"
    assert found.strength == 0.5 and found.notes == ["voxels of 3 mm", NASTY]
    assert np.array_equal(voxels(found.corrected), corrected)
    assert np.allclose(ijk_to_ras(found.corrected), matrix, atol=1e-6)
    display = found.difference.GetDisplayNode()
    assert display.GetColorNode().GetName() == colors and display.GetColorNode().GetNumberOfColors() == 255
    color = [0.0] * 4
    display.GetColorNode().GetColor(0, color)
    assert np.allclose(color[:3], [0, 0, 1])


def test_the_strength_can_be_changed_in_a_loaded_scene(outputs, a_change, tmp_path):
    outputs.setStrength(0.5)
    saved_and_loaded(tmp_path)
    found = find(slicer.mrmlScene.GetFirstNodeByName("T1 corrected"))
    found.setStrength(1.0)
    assert np.abs(voxels(found.difference) - a_change).max() <= 1.51  # two roundings, one of them doubled
    found.setStrength(0.0)
    assert np.array_equal(voxels(found.corrected), an_image())


def test_a_volume_that_was_not_corrected_here_is_not_found(a_volume_node):
    assert find(a_volume_node) is None
    assert find(None) is None


@pytest.mark.parametrize("missing", ["input", "difference", "strength"])
def test_without_original_difference_or_strength_the_change_is_not_known(outputs, missing):
    if missing == "strength":
        outputs.setStrength(0.0)
    else:
        slicer.mrmlScene.RemoveNode(getattr(outputs, missing))
    found = find(outputs.corrected)
    assert found.change is None
    with pytest.raises(ValueError, match="T1 corrected cannot be changed any more"):
        found.setStrength(0.5)
