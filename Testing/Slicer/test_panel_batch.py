"""Several volumes: one after the other, each with its result, nothing overwritten."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from panel_parts import add_head, children, message, nodes, wait_until


@pytest.fixture
def the_queue(a_panel_with_a_head):
    """The queue of a panel that corrects phantoms too."""
    a_panel_with_a_head.logic.getParameterNode().force = True
    return a_panel_with_a_head.batchPanel.queue


def run(panel) -> None:
    panel.ui.batchStartButton.click()
    wait_until(lambda: not panel.batchPanel.queue.running)


def rows(panel) -> list[list[str]]:
    table = panel.ui.batchTable
    return [[table.item(row, column).text() for column in range(4)] for row in range(table.rowCount)]


def test_all_loaded_volumes_are_corrected_into_new_nodes(a_panel_with_a_head, the_queue):
    import slicer

    add_head("T2nd", "oblique")
    before = {name: slicer.util.arrayFromVolume(slicer.util.getNode(name)).copy() for name in ("T1", "T2nd")}
    a_panel_with_a_head.ui.batchLoadedButton.click()
    run(a_panel_with_a_head)
    run(a_panel_with_a_head)  # nothing waits: nothing happens
    assert [row[:2] for row in rows(a_panel_with_a_head)] == [["T1", "done"], ["T2nd", "done"]]
    assert all(row[2] and "changed" in row[3] for row in rows(a_panel_with_a_head))
    for name, array in before.items():
        assert (slicer.util.arrayFromVolume(slicer.util.getNode(name)) == array).all()
        assert slicer.util.getNode(f"{name} corrected") and slicer.util.getNode(f"{name} difference")
    a_panel_with_a_head.ui.batchLoadedButton.click()  # the same again, but not what BrainDiff made
    assert [item.name for item in the_queue.items] == ["T1", "T2nd", "T1", "T2nd"]


def test_a_folder_gets_files_beside_it_and_none_is_overwritten(a_panel_with_a_head, the_queue, tmp_path):
    import slicer

    folder = tmp_path / "scans"
    folder.mkdir()
    slicer.util.saveNode(slicer.util.getNode("T1"), str(folder / "one.nrrd"))
    (folder / "two.nrrd").write_bytes(b"no volume")
    (folder / "notes.txt").write_text("nothing")
    before, given = nodes(), (folder / "one.nrrd").read_bytes()
    for _time in range(2):
        a_panel_with_a_head.batchPanel.addFolder(str(folder))
        run(a_panel_with_a_head)
    assert [row[1] for row in rows(a_panel_with_a_head)] == ["done", "failed"] * 2
    kinds = ("corrected", ".nrrd"), ("difference", ".nrrd"), ("report", ".json")
    names = [f"one_{part}{again}{suffix}" for part, suffix in kinds for again in ("", "_2")]
    assert sorted(file.name for file in (folder / "BrainDiff").iterdir()) == sorted(names)
    assert (folder / "one.nrrd").read_bytes() == given
    assert nodes() == before  # what a file brings leaves the scene with it
    corrected = slicer.util.arrayFromVolume(slicer.util.loadVolume(str(folder / "BrainDiff" / "one_corrected.nrrd")))
    difference = slicer.util.arrayFromVolume(slicer.util.loadVolume(str(folder / "BrainDiff" / "one_difference.nrrd")))
    original = slicer.util.arrayFromVolume(slicer.util.getNode("T1")).astype(float)
    assert np.abs(difference).max() > 0 and np.abs(corrected - original - difference).max() == 0


def test_the_settings_are_those_of_the_start(a_panel_with_a_head, the_queue, tmp_path):
    """Who looks at the first result and takes its strength back does not change the others."""
    import slicer

    panel, processes = a_panel_with_a_head, children()
    for name in ("one", "two"):
        slicer.util.saveNode(slicer.util.getNode("T1"), str(tmp_path / f"{name}.nrrd"))
    panel.batchPanel.addFolder(str(tmp_path))
    panel.ui.batchStartButton.click()
    wait_until(lambda: children() != processes)
    panel.ui.strengthSlider.value = 0.0
    wait_until(lambda: not the_queue.running)
    results = tmp_path / "BrainDiff"
    assert [json.loads((results / f"{name}_report.json").read_text())["strength"] for name in ("one", "two")] == [1, 1]
    one, two = (
        slicer.util.arrayFromVolume(slicer.util.loadVolume(str(results / f"{name}_difference.nrrd")))
        for name in ("one", "two")
    )
    assert one.any() and (one == two).all()


def test_many_that_fail_at_once_end_the_queue(a_slicer):
    from BrainDiffSlicerLib.BatchItem import BatchItem
    from BrainDiffSlicerLib.BatchQueue import BatchQueue

    a_queue = BatchQueue(lambda: None, lambda: None)
    a_queue.items = [BatchItem(f"gone {number}") for number in range(sys.getrecursionlimit())]
    a_queue.start()
    assert {item.state for item in a_queue.items} == {"failed"} and not a_queue.running


def test_each_of_the_queue_can_be_canceled(a_panel_with_a_head, the_queue):
    add_head("second")
    add_head("third")
    processes = children()
    panel = a_panel_with_a_head
    panel.ui.batchLoadedButton.click()
    panel.ui.batchStartButton.click()
    wait_until(lambda: children() != processes)
    panel.ui.batchTable.selectRow(2)
    panel.ui.batchCancelButton.click()  # one that waits
    panel.ui.batchTable.selectRow(0)
    panel.ui.batchCancelButton.click()  # the one that runs
    wait_until(lambda: not the_queue.running)
    assert [row[:2] for row in rows(panel)] == [["T1", "canceled"], ["second", "done"], ["third", "canceled"]]


def test_one_that_fails_does_not_end_the_others(a_panel_with_a_head, the_queue):
    import slicer

    slicer.util.addVolumeFromArray(np.zeros((20, 20, 20), np.int16), name="empty")
    removed = add_head("removed")
    panel = a_panel_with_a_head
    panel.ui.batchLoadedButton.click()
    slicer.mrmlScene.RemoveNode(removed)
    run(panel)
    assert [row[:2] for row in rows(panel)] == [["T1", "done"], ["empty", "failed"], ["removed", "failed"]]
    assert rows(panel)[1][3] and "removed from the scene" in rows(panel)[2][3]


def test_a_closed_scene_ends_the_queue(a_panel_with_a_head, the_queue):
    import slicer

    processes = children()
    a_panel_with_a_head.ui.batchLoadedButton.click()
    a_panel_with_a_head.ui.batchStartButton.click()
    wait_until(lambda: children() != processes)
    slicer.mrmlScene.Clear(0)
    wait_until(lambda: children() == processes)
    assert not the_queue.running and a_panel_with_a_head.ui.batchTable.rowCount == 0
    assert nodes() == set()


def test_missing_packages_end_the_start_with_a_message(a_slicer, a_panel_with_a_head, the_queue):
    a_slicer.installer.absent = {"nibabel"}
    a_slicer.messages.answers = [False]
    a_panel_with_a_head.ui.batchLoadedButton.click()
    a_panel_with_a_head.ui.batchStartButton.click()
    assert "Nothing was installed" in message(a_panel_with_a_head)
    assert [item.state for item in the_queue.items] == ["waiting"]


@pytest.mark.parametrize("name", ["gone", "file.nrrd"])
def test_a_folder_that_cannot_be_read_is_a_message(a_panel_with_a_head, the_queue, tmp_path, name):
    (tmp_path / "file.nrrd").touch()
    a_panel_with_a_head.batchPanel.addFolder(str(tmp_path / name))
    said = message(a_panel_with_a_head)
    assert str(tmp_path / name) in said and "cannot be read" in said and "\n" not in said
    assert not the_queue.items
