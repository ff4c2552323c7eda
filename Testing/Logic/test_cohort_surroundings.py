"""Where a batch or a correction writes: full and read-only disks, and names of patients that must not get there."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from BrainDiffLogic.cohort.items import find_items, prepare
from BrainDiffLogic.cohort.work import DONE, FAILED, BatchSettings, work_on
from BrainDiffLogic.volume import Volume
from Harness.batches import save_scans
from Harness.command_line import braindiff
from Harness.dicom import PATIENT, save_mr_series

pytestmark = pytest.mark.usefixtures("own_models")
Disk = Callable[[str], Path]
PRIVATE = {
    **PATIENT, "PatientName": "Mustermann^Erika", "PatientID": "PID0815", "PatientBirthDate": "19640812",
    "AccessionNumber": "ACC4711", "ReferringPhysicianName": "Sauerbruch^Ferdinand", "InstitutionName": "Klinikum Nord",
    "OtherPatientIDs": "OID2342", "PatientAddress": "Heidestrasse 17",
}  # fmt: skip
SECRETS = (
    "Mustermann", "Erika", "PID0815", "19640812", "1964-08-12", "ACC4711", "Sauerbruch", "Klinikum", "OID2342",
    "Heidestrasse",
)  # fmt: skip


@pytest.fixture
def a_disk(tmp_path: Path) -> Iterator[Disk]:
    """Mounts a small disk in memory with the given options, and takes it off."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = []

    def mount(options: str) -> Path:
        run = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True)
        if run.returncode:
            pytest.skip("only root can mount a disk here")
        mounted.append(place)
        return place

    yield mount
    for one in mounted:
        subprocess.run(["umount", "--lazy", str(one)], check=True)


def all_outputs(folder: Path) -> list[object]:
    return ["--difference", folder / "difference.nii.gz", "--report", folder / "report.json",
            "--html", folder / "page.html"]  # fmt: skip


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.skipif(os.name != "posix", reason="mounts are of Unix")
@pytest.mark.parametrize(("options", "words"), [("size=64k", "No space left"), ("ro", "cannot be written")])
def test_a_correction_onto_a_full_or_read_only_disk_is_one_line_and_leaves_nothing(
    a_disk: Disk, a_scan: Path, capfd: pytest.CaptureFixture[str], options: str, words: str
) -> None:
    disk = a_disk(options)
    assert braindiff("correct", a_scan, disk / "out.nii.gz", *all_outputs(disk), "--force") == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("braindiff")]
    assert len(lines) == 1 and words in lines[0] and str(disk) in lines[0], lines
    assert list(disk.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="mounts are of Unix")
def test_a_batch_onto_a_full_disk_names_the_scan_and_leaves_nothing_half_done(
    a_disk: Disk, tmp_path: Path, a_head: Volume, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset, disk = save_scans(tmp_path / "bids", a_head, 1), a_disk("size=128k")
    assert braindiff("batch", dataset, disk / "out", "participant", "--jobs", 1, "--force") == 1
    told = capfd.readouterr().err
    assert "sub-001" in told and "No space left" in told and "Traceback" not in told, told
    assert not {name for name in files_in(disk) if name.endswith((".nii.gz", ".html")) or "/.braindiff-" in name}


@pytest.mark.skipif(os.name != "posix", reason="mounts are of Unix")
def test_a_batch_onto_a_read_only_disk_begins_nothing(
    a_disk: Disk, tmp_path: Path, a_head: Volume, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset, disk = save_scans(tmp_path / "bids", a_head, 1), a_disk("ro")
    assert braindiff("batch", dataset, disk / "out", "participant", "--jobs", 1) == 2
    assert capfd.readouterr().err.count("\n") == 1


def test_nothing_of_a_patient_gets_into_what_is_written(
    tmp_path: Path, a_head: Volume, capfd: pytest.CaptureFixture[str]
) -> None:
    noisy = (a_head.array + 20 + np.random.default_rng(1).normal(0, 4, a_head.shape)).clip(0, 2000).astype(np.int16)
    save_mr_series(tmp_path / "dicom" / "s1" / "t1", noisy, np.diag([-1, -1, 1, 1.0]) @ a_head.affine, PRIVATE)
    save_mr_series(tmp_path / "dicom" / "s2" / "t1", noisy[:, :, :20], a_head.affine, PRIVATE, change=coloured)
    one, out = tmp_path / "one", tmp_path / "out"
    one.mkdir()
    given = b"".join(path.read_bytes() for path in (tmp_path / "dicom" / "s1" / "t1").iterdir())
    assert sum(secret.encode() in given for secret in SECRETS) == len(SECRETS) - 1, "all but the spelling of the date"
    assert braindiff("correct", tmp_path / "dicom" / "s1" / "t1", one / "out.nii.gz", *all_outputs(one), "--force") == 0
    prepare(out, tmp_path / "dicom")
    outcomes = [work_on(item, out, BatchSettings(force=True)) for item in find_items(tmp_path / "dicom")]
    assert [outcome.status for outcome in outcomes] == [DONE, FAILED]
    assert braindiff("batch", tmp_path / "dicom", out, "group") == 0
    printed = "".join((*capfd.readouterr(), *(outcome.reason for outcome in outcomes)))
    written = [path for folder in (one, out) for path in folder.rglob("*") if path.is_file()]
    assert {".json", ".html", ".tsv", ".gz"} <= {path.suffix for path in written}
    assert any("logs" in path.parts for path in written) and any("reports" in path.parts for path in written)
    for path in written:
        content = unpacked(path)
        found = [secret for secret in SECRETS if secret.encode() in content or secret in path.as_posix()]
        assert not found, (path, found)
    assert not [secret for secret in SECRETS if secret in printed]


def coloured(data: Dataset, _: int) -> None:
    data.SamplesPerPixel = 3


def unpacked(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
