"""``braindiff batch`` on real Dask workers: everything is done or named, whatever happens to workers and program."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import psutil
import pytest
from moved_head import a_moved_scan

from BrainDiffLogic.cohort import run
from BrainDiffLogic.cohort.items import Item, find_items, prepare
from BrainDiffLogic.cohort.run import crew_size, local_crew, memory_mib, run_batch
from BrainDiffLogic.cohort.work import FAILED, BatchSettings, Outcome
from BrainDiffLogic.commands.batch import _Shown
from BrainDiffLogic.images import read_volume, write_volume
from BrainDiffLogic.volume import Volume
from Harness.batches import DeadlyItem, outputs, save_scans
from Harness.command_line import assert_refused, braindiff, child, start
from Harness.correctors import save_tiny

CHECKOUT = Path(__file__).resolve().parents[2]
VALIDATOR = shutil.which("bids-validator-deno", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def a_dataset(tmp_path: Path, a_head: Volume) -> Path:
    return save_scans(tmp_path / "bids", a_head, 4)


@pytest.fixture
def a_model(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tiny.safetensors")


def wait_for(condition: Any, seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.02)


def validator_errors(folder: Path) -> list[dict[str, Any]]:
    """What the official BIDS validator finds wrong with a dataset."""
    assert VALIDATOR is not None
    run = subprocess.run([VALIDATOR, "--format", "json", str(folder)], capture_output=True, text=True)
    found = json.loads(run.stdout)
    assert found["summary"]["subjects"], run.stdout
    return [issue for issue in found["issues"]["issues"] if issue["severity"] == "error"]


def test_scans_that_were_finished_before_do_not_count_for_the_pace(capsys: pytest.CaptureFixture[str]) -> None:
    item = Item(Path("a.nii"), "a.nii", {"sub": "a"})
    shown = _Shown(4, None, started=time.monotonic() - 60)
    for status in ("found", "found", "found", "done"):
        shown.report(Outcome(item, status))
    assert capsys.readouterr().err == "4 of 4 scans, 0 not corrected, 1.0 scans/min\n"


def test_a_line_names_a_scan_once(capsys: pytest.CaptureFixture[str]) -> None:
    item = Item(Path("a.nii"), "a.nii", {"sub": "a"})
    _Shown(2, None).report(Outcome(item, "failed", "a.nii: damaged"))
    _Shown(2, None).report(Outcome(item, "failed", "b.nii belongs to it"))
    lines = ["braindiff batch: a.nii: failed: damaged", "braindiff batch: a.nii: failed: b.nii belongs to it"]
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.skipif(VALIDATOR is None, reason="the BIDS validator is not installed: pip install bids-validator-deno")
def test_a_dataset_becomes_derivatives_that_the_bids_validator_accepts(a_dataset: Path, a_model: Path) -> None:
    out = a_dataset / "derivatives" / "braindiff"
    os.truncate(a_dataset / "sub-003" / "anat" / "sub-003_T1w.nii.gz", 3000)
    options = ["--jobs", 2, "--model", a_model, "--force"]
    run = child("batch", a_dataset, out, "participant", *options, cwd=a_dataset)
    assert run.returncode == 1 and "3 of 4 scans done (0 were already), 0 refused, 1 failed" in run.stdout, run.stderr
    lines = run.stderr.splitlines()
    assert lines[0].startswith("4 scans, 2 workers")
    assert lines[-1].startswith("4 of 4 scans, 1 not corrected, ") and "scans/min" in lines[-1]
    assert [line for line in lines if "sub-003" in line] == [
        "braindiff batch: sub-003/anat/sub-003_T1w.nii.gz: failed: cannot be read as NIfTI, it is damaged or"
        " incomplete; copy it again"
    ]
    table = [line.split("\t") for line in (out / "group_T1w.tsv").read_text().splitlines()]
    assert [line[3] for line in table] == ["status", "done", "done", "failed", "done"]
    assert validator_errors(out) == []
    (out / "sub-001" / "anat" / "sub-001_desc-moco_T1w.json").write_text("{}")
    assert validator_errors(out), "the validator looks at what it is given"


@pytest.mark.skipif(VALIDATOR is None, reason="the BIDS validator is not installed: pip install bids-validator-deno")
@pytest.mark.timeout(300)
def test_the_motion_that_is_found_lies_beside_the_corrected_scan(tmp_path: Path) -> None:
    dataset, scan = tmp_path / "bids", a_moved_scan()
    scale = 900 / float(scan.moved.array.max())
    save_scans(dataset, scan.moved, 1)
    source = dataset / "sub-001" / "anat" / "sub-001_T1w.nii.gz"
    write_volume(scan.moved.with_array((scale * scan.moved.array).astype(np.int16)), source)
    source.with_name("sub-001_T1w.json").write_text('{"PhaseEncodingDirection": "j"}')

    out = dataset / "derivatives" / "braindiff"
    run = child("batch", dataset, out, "participant", "--jobs", 1, "--force", cwd=dataset)
    assert run.returncode == 0, run.stderr

    place = out / "sub-001" / "anat"
    table = (place / "sub-001_desc-moco_motion.tsv").read_text().splitlines()
    report = json.loads((place / "sub-001_desc-moco_T1w.json").read_text())["Report"]
    assert report["model"] == "motion" and report["motion"]["pe_axis"] == "AP", "as the sidecar says"
    assert len(table) == 1 + scan.moved.shape[1] and "trajectory" not in report["motion"]
    still, both = scale * scan.reference.array, (source, place / "sub-001_desc-moco_T1w.nii.gz")
    errors = [float(np.abs(read_volume(path).array - still)[still > 0.3 * scale].mean()) for path in both]
    assert errors[1] < 0.97 * errors[0]
    assert validator_errors(out) == []


def deadly(item: Item, folder: Path, lives: int) -> DeadlyItem:
    return DeadlyItem(item.source, item.shown, item.entities, counter=folder / f"kills-{item.stem}", lives=lives)


@pytest.mark.slow
def test_a_scan_whose_worker_is_killed_is_tried_again_and_a_poisoned_one_is_named(
    a_dataset: Path, a_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third, fourth = find_items(a_dataset)
    items = [first, deadly(second, tmp_path, lives=1), deadly(third, tmp_path, lives=99), fourth]
    out = tmp_path / "out"
    prepare(out, a_dataset)
    monkeypatch.setenv("PYTHONPATH", f"{CHECKOUT}{os.pathsep}{CHECKOUT / 'Testing'}")
    seen: list[Outcome] = []
    ended = run_batch(items, out, BatchSettings(str(a_model), force=True), local_crew(2, tries=2), 2, seen.append)
    failed = {outcome.item.stem: outcome.status == FAILED for outcome in ended}
    assert failed == {"sub-001": False, "sub-002": False, "sub-003": True, "sub-004": False}
    (given_up,) = (outcome for outcome in seen if outcome.status == FAILED)
    assert "killed each of 2 times" in given_up.reason
    assert (tmp_path / "kills-sub-002").stat().st_size == 1 and (tmp_path / "kills-sub-003").stat().st_size in (3, 4)
    assert "killed" in json.loads((out / "logs" / "sub-003_T1w.json").read_text())["Reason"]
    assert not list((out / ".braindiff" / "work").iterdir()) and not (out / "sub-003").exists()


def test_a_worker_that_comes_back_too_late_for_dask_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start takes longer than a busy computer's cluster waits for it: without workers the batch would never end."""
    monkeypatch.setattr(run, "LOST_S", 0.05)
    monkeypatch.setattr(run, "LOOK_S", 1.0)
    with local_crew(1, tries=3) as client:
        before = client.submit(os.getpid, pure=False).result(timeout=60)
        os.kill(before, signal.SIGKILL)
        assert client.submit(os.getpid, pure=False).result(timeout=90) != before


def test_workers_have_no_web_page(recwarn: pytest.WarningsRecorder) -> None:
    with local_crew(1, tries=1) as client:
        info = client.scheduler_info()
        servers = [info["services"], *(worker["services"] for worker in info["workers"].values())]
        assert len(servers) == 2
        for port, place in product((one["dashboard"] for one in servers), ("health", "metrics", "json/counts.json")):
            with pytest.raises(HTTPError, match="404"):
                urlopen(f"http://127.0.0.1:{port}/{place}")  # noqa: S310
        assert info["services"]["dashboard"] != 8787
    assert not [warning for warning in recwarn if "8787" in str(warning.message)]


def test_a_worker_has_room_for_the_largest_scan(tmp_path: Path, a_dataset: Path) -> None:
    sources = [item.source for item in find_items(a_dataset)]
    assert 600 < memory_mib(sources, "mc-net") < memory_mib(sources, "motion") < 640
    assert memory_mib([], "motion") == 600
    free = psutil.virtual_memory().available / (1 << 20)
    assert crew_size(8, 100, round(free / 2.5)) == 2 and crew_size(8, 100, round(free * 9)) == 1
    assert crew_size(8, 3, 1) == 3 and crew_size(None, 100, 1) >= 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--jobs", "0"], ["--jobs 0"]),
        (["--tries", "0"], ["--tries 0"]),
        (["--strength", "2"], ["strength 2"]),
        (["--model", "none-such"], ["none-such"]),
        (["--participant-label", "77"], ["sub-77"]),
        (["group"], ["no such folder", "participant"]),
        (["--jobs", "1", "--dask", "tcp://127.0.0.1:1"], ["--dask", "not allowed"]),
    ],
)
def test_bad_usage_is_one_line(
    a_dataset: Path, tmp_path: Path, options: list[str], words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert_refused(tmp_path, capfd, ["batch", a_dataset, tmp_path / "out", *options], *words)


def test_a_folder_that_holds_something_else_is_refused(
    a_dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert_refused(tmp_path, capfd, ["batch", a_dataset, a_dataset], "among the scans")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    assert_refused(tmp_path, capfd, ["batch", a_dataset, tmp_path / "other"], "holds something else")


def test_the_group_level_needs_no_workers(a_dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    prepare(out, a_dataset)
    assert_refused(tmp_path, capfd, ["batch", a_dataset, out, "group"], "no scan was corrected there")
    assert_refused(tmp_path, capfd, ["batch", tmp_path / "bdis", out, "group"], "bdis", "no such folder")
    (out / "logs").mkdir()
    told = {"Name": "sub-01_T1w", "Scan": "sub-01/anat/sub-01_T1w.nii", "Status": "failed", "Reason": "damaged"}
    (out / "logs" / "sub-01_T1w.json").write_text(json.dumps(told))
    assert braindiff("batch", a_dataset, out, "group") == 0
    assert "damaged" in (out / "group_T1w.tsv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_a_stopped_batch_leaves_no_half_file_and_goes_on(
    a_dataset: Path, a_model: Path, tmp_path: Path, how: str
) -> None:
    out = tmp_path / "out"
    arguments = ["batch", a_dataset, out, "participant", "--jobs", 2, "--model", a_model, "--force"]
    process = start(*arguments, cwd=tmp_path)
    wait_for(lambda: list(out.glob(".braindiff/work/*")))
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and err.splitlines()[-1] == "braindiff batch: stopped; run it again to go on", err
    assert not list(out.glob(".braindiff/work/*")) and not list(out.rglob(".braindiff-*"))
    for image in out.rglob("*.nii.gz"):
        assert image.with_name(image.name.partition("_desc-")[0] + "_desc-moco_T1w.json").exists()
    assert child(*arguments, cwd=tmp_path).returncode == 0
    assert len(outputs(out)) == 8


@pytest.mark.slow
def test_two_batches_into_one_folder_share_the_work(a_dataset: Path, a_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["batch", a_dataset, out, "participant", "--jobs", 1, "--model", a_model, "--force"]
    both = [start(*arguments, cwd=tmp_path) for _ in range(2)]
    printed = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    already = [int(text.partition("(")[2].partition(" ")[0]) for text, _ in printed]
    assert sum(already) == 4, "each scan was corrected once"
    assert child(*arguments[:3], "group", cwd=tmp_path).returncode == 0
    alone = tmp_path / "alone"
    assert child("batch", a_dataset, alone, *arguments[3:], cwd=tmp_path).returncode == 0
    assert outputs(alone) == outputs(out)


@pytest.mark.slow
def test_a_scheduler_elsewhere_is_used_and_left_running(a_dataset: Path, a_model: Path, tmp_path: Path) -> None:
    with local_crew(1, tries=3) as client:
        address = client.scheduler.address
        assert address.startswith("tls://"), "nobody else on this computer can send work to the workers"
    from distributed import Client, LocalCluster

    with LocalCluster(1, threads_per_worker=2, dashboard_address=None, silence_logs=60) as cluster:
        (tmp_path / "list.csv").write_text("path\nbids/sub-001/anat/sub-001_T1w.nii.gz\n")
        options = ["--dask", cluster.scheduler_address, "--model", a_model.name, "--force"]
        for given, out, scans in ((a_dataset.name, "out", 4), ("list.csv", "out of a list", 1)):
            run = child("batch", given, out, "participant", *options, cwd=tmp_path)
            assert run.returncode == 0, "the workers are in another folder: " + run.stderr
            assert len(outputs(tmp_path / out)) == 2 * scans
        with Client(cluster.scheduler_address) as again:
            assert again.submit(len, "abc").result() == 3
    assert child("batch", a_dataset, "out", "--dask", "tcp://127.0.0.1:9", cwd=tmp_path).returncode == 2
