"""The data sets of the Sample Data module: registered with checksums, never downloaded here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[2] / "BrainDiffSlicer" / "BrainDiffSlicer.py"


@pytest.fixture
def the_manifest() -> dict:
    return json.loads((MODULE.parents[1] / "Resources" / "SampleData.json").read_text(encoding="utf-8"))


def offered(a_slicer, monkeypatch, home: Path, manifest: dict) -> list[dict]:
    """What the Sample Data module offers after Slicer has started with the module, whose folder is ``home``."""
    from SampleData import SampleDataLogic

    a_slicer.load_module(MODULE)
    from BrainDiffSlicerLib import SampleDataSets

    SampleDataLogic.registered.clear()
    (home / "Resources").mkdir(exist_ok=True)
    (home / "Resources" / "SampleData.json").write_text(json.dumps(manifest), encoding="utf-8")
    (home / "Resources" / "Icons").symlink_to(MODULE.parents[1] / "Resources" / "Icons")
    monkeypatch.setattr(SampleDataSets, "resourcePath", lambda name: str(home / "Resources" / name))
    SampleDataSets.SampleDataSets.register()
    return SampleDataLogic.registered


@pytest.fixture
def the_data_sets(a_slicer, monkeypatch, tmp_path, the_manifest) -> list[dict]:
    """What is offered once the files can be downloaded."""
    return offered(a_slicer, monkeypatch, tmp_path, {**the_manifest, "released": True})


def test_what_cannot_be_fetched_is_not_offered(a_slicer, monkeypatch, tmp_path, the_manifest):
    (tmp_path / "sample-data").mkdir()
    file = tmp_path / "sample-data" / "BrainDiff-T1-clean.nrrd"
    file.write_bytes(b"made here")
    sources = offered(a_slicer, monkeypatch, tmp_path, {**the_manifest, "released": False})
    assert [source["uris"] for source in sources] == [file.as_uri()]


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
