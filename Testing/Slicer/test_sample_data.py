"""The data sets of the Sample Data module: registered with checksums, never downloaded here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[2] / "BrainDiffSlicer" / "BrainDiffSlicer.py"


@pytest.fixture
def the_data_sets(a_slicer) -> list[dict]:
    """What the Sample Data module offers after Slicer has started with the module."""
    from SampleData import SampleDataLogic

    a_slicer.load_module(MODULE)
    return SampleDataLogic.registered


def test_the_moved_head_and_its_clean_twin_are_offered(the_data_sets):
    assert [source["category"] for source in the_data_sets] == ["BrainDiff", "BrainDiff"]
    assert [source["sampleName"] for source in the_data_sets] == [
        "BrainDiff: T1 with simulated motion",
        "BrainDiff: the same head without motion",
    ]
    assert [source["nodeNames"] for source in the_data_sets] == ["BrainDiff-T1-motion", "BrainDiff-T1-clean"]


def test_every_download_is_a_release_file_with_its_own_sha256(the_data_sets):
    folder = "https://github.com/BrainDiff/SlicerBrainDiff/releases/download/SampleData/"
    for source in the_data_sets:
        assert re.fullmatch(r"SHA256:[0-9a-f]{64}", source["checksums"])
        assert source["uris"] == folder + source["fileNames"]
        assert source["fileNames"] == source["nodeNames"] + ".nrrd"
    assert len({source["checksums"] for source in the_data_sets}) == 2


def test_every_data_set_has_a_thumbnail_of_the_size_that_slicer_shows(the_data_sets):
    import qt

    for source in the_data_sets:
        picture = qt.QImage(source["thumbnailFileName"])
        assert 200 <= picture.width() <= 300
        assert 200 <= picture.height() <= 300
