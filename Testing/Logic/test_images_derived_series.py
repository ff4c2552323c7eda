"""What derived series are called, in DICOM and in 3D Slicer."""

from __future__ import annotations

import subprocess
import sys

import pytest

from BrainDiffLogic.images.derived_series import derived_description, derived_number, slicer_attributes


def test_a_long_description_is_cut_but_never_that_it_is_for_research() -> None:
    assert derived_description("  t1 \r\n mprage ") == "t1 mprage BrainDiff corrected (research)"
    assert derived_description("") == "BrainDiff corrected (research)"
    for part in ("corrected", "difference", "disagreement"):
        text = derived_description("x" * 64, part)
        assert len(text) == 64 and text.endswith(f"x BrainDiff {part} (research)")


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("4", 401), (12, 1201), ("0", 1), ("", 9001), (None, 9001), ("x", 9001), ("-3", 301), (2**30, 9001),
        ("inf", 9001),
    ],  # fmt: skip
)
def test_a_series_number_stands_beside_its_source(number: str | int | None, expected: int) -> None:
    assert derived_number(number) == expected and derived_number(number, "difference") == expected + 1


def test_slicers_exporter_finds_every_tag_it_asks_the_item_for() -> None:
    slicer = pytest.importorskip("slicer")
    constants = slicer.vtkMRMLSubjectHierarchyConstants
    source = {
        constants.GetDICOMSeriesModalityAttributeName(): "MR",
        constants.GetDICOMSeriesNumberAttributeName(): "4",
        constants.GetDICOMFrameOfReferenceUIDAttributeName(): "1.2.3",
    }
    found = slicer_attributes(source, "difference", name="4: t1")
    assert found[constants.GetDICOMSeriesModalityAttributeName()] == "MR"
    assert found[constants.GetDICOMSeriesNumberAttributeName()] == "402"
    assert found[constants.GetDICOMFrameOfReferenceUIDAttributeName()] == "1.2.3"
    assert found[constants.GetDICOMAttributePrefix() + "SeriesDescription"] == "t1 BrainDiff difference (research)"
    scene = slicer.vtkMRMLScene()
    hierarchy = scene.GetSubjectHierarchyNode() or slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    item = hierarchy.CreateHierarchyItem(study, "4: t1", constants.GetDICOMLevelStudy())
    for name, value in found.items():
        hierarchy.SetItemAttribute(item, name, value)
    for tag in ("Modality", "SeriesDescription", "SeriesNumber", "Manufacturer", "Model"):
        assert hierarchy.GetItemAttribute(item, constants.GetDICOMAttributePrefix() + tag)


def test_a_volume_that_came_from_elsewhere_is_an_mr_series_of_its_name() -> None:
    found = slicer_attributes({}, name="MRHead")
    assert found["DICOM.Modality"] == "MR" and found["DICOM.SeriesNumber"] == "9001"
    assert found["DICOM.SeriesDescription"] == "MRHead BrainDiff corrected (research)"
    assert "DICOM.FrameOfReferenceUID" not in found


def test_the_names_need_none_of_the_libraries_that_read_files() -> None:
    code = (
        "import sys; from BrainDiffLogic.images.derived_series import slicer_attributes\n"
        "assert not {'nibabel', 'SimpleITK', 'pydicom', 'torch'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
