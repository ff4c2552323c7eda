"""One run of the CLI module: with a real child process, and with the states that only Slicer's own CLI logic passes."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import slicer
import slicer.util
from job_parts import Answers, CliByHand
from vtk import vtkMatrix4x4

from BrainDiffLogic.volume import Volume
from Harness.correctors import save_tiny

if TYPE_CHECKING:
    from BrainDiffSlicerLib.CorrectionJob import CorrectionJob

pytestmark = pytest.mark.usefixtures("a_slicer")
SHAPE = (5, 4, 3)  # KJI


def a_job(*arguments, **options) -> CorrectionJob:
    from BrainDiffSlicerLib.CorrectionJob import CorrectionJob

    return CorrectionJob(*arguments, **options)


def nodes() -> set[str]:
    scene = slicer.mrmlScene
    return {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}


def ijk_to_ras(volume: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    matrix = vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        slicer.app.processEvents()
        time.sleep(0.01)
    return condition()


def children_that_correct() -> list[str]:
    """Processes below this one, by their command line, that run the CLI module."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text().split("\0")
            state, parent = (process / "stat").read_text().rsplit(") ", 1)[1].split()[:2]
        except OSError:
            continue
        if int(parent) == os.getpid() and state != "Z" and any("BrainDiffCorrect" in word for word in command):
            found.append(" ".join(command))
    return found


@pytest.fixture
def a_temp_folder(a_slicer, tmp_path, monkeypatch) -> Path:
    """The only folder for temporary files, so that what stays behind is seen."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(a_slicer.app, "temporaryPath", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def answers() -> Answers:
    return Answers()


# With a real child process


@pytest.fixture
def a_head_node(a_slicer, a_head: Volume) -> slicer.vtkMRMLScalarVolumeNode:
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ a_head.affine
    return slicer.util.addVolumeFromArray(np.ascontiguousarray(a_head.array.T), matrix, "Head")


@pytest.fixture
def a_tiny_model(tmp_path) -> str:
    return str(save_tiny(tmp_path / "tiny.safetensors"))


def test_the_change_of_a_run_is_that_of_the_library(a_head_node, a_tiny_model, a_temp_folder, answers):
    from BrainDiffLogic import correct

    before = nodes()
    job = a_job(a_head_node, model=a_tiny_model, device="cpu", force=True, **answers.callbacks())
    job.start()
    assert job.running
    job.waitForFinished()
    ((kind, finding),) = answers.ends
    change, report = finding.change, finding.report
    assert kind == "finished" and report["model"] == "tiny" and set(report["quality"]) == {"before", "after"}
    assert finding.disagreement is None and "disagreement" not in report
    array = slicer.util.arrayFromVolume(a_head_node)
    volume = Volume(array.T, ijk_to_ras(a_head_node))
    expected = correct(volume, a_tiny_model, device="cpu", force=True).difference.array.T
    assert change.dtype == np.float32 and change.shape == array.shape
    assert np.abs(expected).max() > 0 and np.allclose(change, expected, atol=1e-3)
    shares = [share for share, _ in answers.progress]
    assert shares == sorted(shares) and max(shares) > 0.2
    assert any(stage for _, stage in answers.progress)
    assert nodes() == before and not list(a_temp_folder.iterdir())


def test_a_corrupt_model_file_is_a_message(a_head_node, a_tiny_model, a_temp_folder, answers):
    Path(a_tiny_model).write_bytes(b"no weights")
    before = nodes()
    job = a_job(a_head_node, model=a_tiny_model, **answers.callbacks())
    job.start()
    job.waitForFinished()
    ((kind, message),) = answers.ends
    assert kind == "failed" and message.startswith(a_tiny_model) and "get the model again" in message
    assert nodes() == before and not list(a_temp_folder.iterdir())


def test_a_cancelled_run_leaves_no_node_no_file_and_no_process(a_head_node, a_tiny_model, a_temp_folder, answers):
    before, asked = nodes(), []

    def cancel_at_30_percent(share: float) -> None:
        if share >= 0.3 and not asked:
            asked.append(time.monotonic())
            job.cancel()

    answers.during_progress = cancel_at_30_percent
    job = a_job(a_head_node, model=a_tiny_model, **answers.callbacks())
    job.start()
    assert wait_until(lambda: bool(children_that_correct()), 5)
    job.waitForFinished()
    assert asked and time.monotonic() - asked[0] < 1
    assert answers.ends == [("cancelled",)]
    assert nodes() == before and not children_that_correct() and not list(a_temp_folder.iterdir())


def test_closing_the_scene_ends_the_run_silently(a_head_node, a_tiny_model, a_temp_folder, answers):
    job = a_job(a_head_node, model=a_tiny_model, **answers.callbacks())
    job.start()
    assert wait_until(lambda: bool(children_that_correct()), 5)
    slicer.mrmlScene.Clear()
    assert not job.running
    assert wait_until(lambda: not children_that_correct() and not list(a_temp_folder.iterdir()), 5)
    assert not answers.ends and not slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLVolumeNode")


# With the states of Slicer's CLI logic, set by hand on a real CLI node


@pytest.fixture
def a_cli(a_slicer, monkeypatch) -> CliByHand:
    cli = CliByHand()
    monkeypatch.setattr(slicer.cli, "run", cli.run)
    return cli


@pytest.fixture
def a_volume_node(a_slicer) -> slicer.vtkMRMLScalarVolumeNode:
    return slicer.util.addVolumeFromArray(np.ones(SHAPE, np.int16), name="T1")


@pytest.fixture
def a_started_job(a_cli, a_volume_node, a_temp_folder, answers) -> Iterator[CorrectionJob]:
    job = a_job(a_volume_node, **answers.callbacks())
    job.start()
    yield job
    job.abandon()
    a_cli.move_to("Cancelled")


def test_the_temporary_nodes_are_hidden_and_not_saved(a_started_job, a_cli):
    for node in (a_cli.node, a_cli.parameters["outputVolume"], a_cli.parameters["differenceVolume"]):
        assert node.GetHideFromEditors() and not node.GetSaveWithScene()


def test_the_run_is_at_full_strength_in_float(a_started_job, a_cli, a_volume_node):
    wanted = {"inputVolume": a_volume_node, "strength": 1.0, "dtype": "float32", "device": "auto", "force": False}
    assert wanted.items() <= a_cli.parameters.items()
    assert "disagreementVolume" not in a_cli.parameters  # it would take three times as long


def test_a_result_is_handed_over_once_and_everything_is_tidied_up_before(a_cli, a_volume_node, a_temp_folder):
    before, seen = nodes(), []

    def on_finished(finding):
        seen.append((finding, nodes() == before, list(a_temp_folder.iterdir()), job.running))

    job = a_job(a_volume_node, disagreement=True, onFinished=on_finished)
    job.start()
    a_cli.move_to("Running")
    assert a_cli.parameters["disagreementVolume"].GetHideFromEditors()
    a_cli.write_result(np.full(SHAPE, 2.5), {"model": "x"}, np.full(SHAPE, 0.5))
    a_cli.move_to("Completing")
    assert not seen
    for _ in range(3):
        a_cli.move_to("Completed")
    ((finding, tidy, files, running),) = seen
    for array, value in ((finding.change, 2.5), (finding.disagreement, 0.5)):
        assert np.array_equal(array, np.full(SHAPE, value)) and array.dtype == np.float32
    assert finding.report == {"model": "x"}
    assert tidy and not files and not running
    assert not a_cli.node.HasObserver("ModifiedEvent")


def test_the_stage_is_read_from_the_tags(a_started_job, a_cli, answers):
    a_cli.node.SetOutputText(
        "<filter-comment>Loading</filter-comment>\n<filter-progress>0.1</filter-progress>\n"
        "<filter-comment>Correcting</filter-comment>\n<filter-progress>0.4</filter-progress>\n",
        False,
    )
    a_cli.move_to("Running")
    assert answers.progress[-1] == (0.0, "Correcting")


def test_the_stage_is_read_from_plain_lines_where_slicer_removed_the_tags(a_started_job, a_cli, answers):
    assert a_cli.node.IsContinuousOutputUpdate()
    a_cli.node.SetOutputText("<filter-start></filter-start>\nLoading\nCorrecting\n\n", False)
    a_cli.move_to("Running")
    assert answers.progress[-1][1] == "Correcting"


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        ("warning\nBrainDiffCorrect: no such model\n\n", "no such model"),
        ("braindiff correct: error: no such model", "no such model"),
        ("BrainDiffCorrect.py: /tmp/Slicer-u/abc_vtkMRMLScalarVolumeNodeB.nrrd: too flat", "T1: too flat"),
        ("BrainDiffCorrect: C:\\Temp\\abc.nrrd: too flat", "T1: too flat"),
        ("/models/mine.safetensors: not a model card", "/models/mine.safetensors: not a model card"),
        ("", "The correction of T1 ended without a message: see the error log."),
    ],
)
def test_a_failure_is_told_in_one_line(a_started_job, a_cli, answers, stderr, message):
    a_cli.move_to("Running")
    a_cli.node.SetErrorText(stderr, False)
    a_cli.move_to("CompletedWithErrors")
    assert answers.ends == [("failed", message)]


def test_a_run_that_slicer_could_not_launch_has_failed(a_started_job, a_cli, answers):
    a_cli.node.SetErrorText('No value assigned to "Input"', False)
    a_cli.move_to("Idle")
    assert answers.ends == [("failed", 'No value assigned to "Input"')]


@pytest.mark.parametrize("result", ["none", "report", "size"])
def test_a_result_that_cannot_be_read_is_a_failure(a_started_job, a_cli, answers, a_temp_folder, result):
    a_cli.move_to("Running")
    if result != "none":
        a_cli.write_result(np.zeros(SHAPE if result == "report" else (2, 2, 2)), {})
    if result == "report":
        Path(a_cli.parameters["report"]).write_text("{", encoding="utf-8")
    a_cli.move_to("Completed")
    assert answers.ends == [("failed", "The result for T1 could not be read: check the space for temporary files.")]
    assert not list(a_temp_folder.iterdir())


@pytest.mark.parametrize("disagreement", [None, np.zeros((2, 2, 2))], ids=["none", "size"])
def test_a_disagreement_map_that_cannot_be_read_is_a_failure(
    a_cli, a_volume_node, a_temp_folder, answers, disagreement
):
    a_job(a_volume_node, disagreement=True, **answers.callbacks()).start()
    a_cli.move_to("Running")
    a_cli.write_result(np.zeros(SHAPE), {}, disagreement)
    a_cli.move_to("Completed")
    assert answers.ends == [("failed", "The result for T1 could not be read: check the space for temporary files.")]


def test_a_cancel_while_slicer_writes_the_input_is_not_lost(a_started_job, a_cli, answers):
    before_running = nodes()
    a_started_job.cancel()
    assert wait_until(lambda: not a_started_job.running, 1)
    assert answers.ends == [("cancelled",)]
    assert nodes() == before_running  # Slicer's thread may hold them
    a_cli.move_to("Running")  # the thread sets this without a look at what was asked
    assert a_cli.node.GetStatus() == a_cli.node.Cancelling
    a_cli.move_to("Cancelled")
    assert answers.ends == [("cancelled",)]
    assert a_cli.node.GetID() not in nodes() and not a_cli.node.HasObserver("ModifiedEvent")


def test_a_cancel_while_slicer_reads_the_result_waits_for_it(a_started_job, a_cli, answers):
    a_cli.move_to("Running")
    a_cli.write_result(np.zeros(SHAPE), {})
    a_cli.move_to("Completing")
    a_started_job.cancel()
    slicer.app.processEvents()
    assert a_cli.parameters["differenceVolume"].GetID() in nodes()  # Slicer crashes if it is missing when it is read
    a_cli.move_to("Completed")
    assert answers.ends == [("cancelled",)]


def test_an_abandoned_run_is_stopped_and_tells_nothing(a_started_job, a_cli, answers, a_temp_folder):
    a_cli.move_to("Running")
    told = len(answers.progress)
    a_started_job.abandon()
    assert not a_started_job.running and a_cli.node.GetStatus() == a_cli.node.Cancelling
    assert not list(a_temp_folder.iterdir())
    a_cli.move_to("Cancelled")
    assert not answers.ends and len(answers.progress) == told
    assert not slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLCommandLineModuleNode")
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1


@pytest.mark.parametrize("state", ["Scheduled", "Running", "Completing"])
@pytest.mark.parametrize("end", ["Cancelled", "Completed", "CompletedWithErrors"])
def test_a_run_may_end_after_its_scene_was_closed(a_started_job, a_cli, answers, state, end):
    a_cli.move_to(state)
    slicer.mrmlScene.Clear()
    a_cli.move_to(end)
    assert not a_started_job.running and not answers.ends
    assert not a_cli.node.HasObserver("ModifiedEvent")


def test_a_run_whose_input_is_removed_is_stopped(a_started_job, a_cli, a_volume_node, answers):
    a_cli.move_to("Running")
    slicer.mrmlScene.RemoveNode(a_volume_node)
    a_cli.move_to("Running")
    assert a_cli.node.GetStatus() == a_cli.node.Cancelling
    a_cli.move_to("Cancelled")
    assert answers.ends == [("failed", "T1 was removed from the scene: its correction was stopped.")]


def test_an_error_in_a_callback_leaves_nothing_behind(a_cli, a_volume_node, a_temp_folder, monkeypatch):
    def fail(*_arguments):
        raise RuntimeError("in the panel")

    before = nodes()
    job = a_job(a_volume_node, onFinished=fail)
    job.start()
    a_cli.move_to("Running")
    a_cli.write_result(np.zeros(SHAPE), {})
    a_cli.node.SetStatus(a_cli.node.Completed, False)
    with pytest.raises(RuntimeError, match="in the panel"):
        job._finish()
    assert nodes() == before and not list(a_temp_folder.iterdir()) and not job.running
    assert not a_cli.node.HasObserver("ModifiedEvent")


def test_a_job_is_started_once_only(a_started_job):
    with pytest.raises(RuntimeError, match="started before"):
        a_started_job.start()


def test_a_missing_cli_module_is_explained(a_volume_node, a_temp_folder, monkeypatch):
    monkeypatch.delattr(slicer.modules, "braindiffcorrect")
    with pytest.raises(RuntimeError, match="reinstall the BrainDiff extension"):
        a_job(a_volume_node).start()
    assert not list(a_temp_folder.iterdir())


def test_a_run_that_cannot_start_leaves_nothing_behind(a_volume_node, a_temp_folder, monkeypatch):
    def fail(*_arguments, **_options):
        raise OSError("no more processes")

    monkeypatch.setattr(slicer.cli, "run", fail)
    before, job = nodes(), a_job(a_volume_node)
    with pytest.raises(OSError, match="no more processes"):
        job.start()
    assert nodes() == before and not list(a_temp_folder.iterdir()) and not job.running
