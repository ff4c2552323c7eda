"""Files that chance has damaged: each is read as a good volume or refused in one line, in little time and memory.

Cases are read in a process apart: one that dies, hangs, prints or leaves a file is a failure with the case that made
it so, and not the end of the test.
"""

from __future__ import annotations

import gzip
import os
import re
import resource
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as Late
from concurrent.futures.process import BrokenProcessPool
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from image_files import OBLIQUE, voxels
from pydicom import dcmread

from BrainDiffLogic import read_volume, write_volume
from BrainDiffLogic.commands.main import main
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.volume import Volume
from Harness.correctors import save_tiny
from Harness.dicom import save_enhanced, save_mr_series

CASES, CORRECTIONS = 520, 60
"""For each format: files that are read, and files that are corrected."""
SECONDS, MEMORY_MIB = 10.0, 300
"""What a case may take; the time is for a busy computer."""
NAMES = ("scan.nii", "scan.nii.gz", "scan.nrrd", "scan.mha", "scan.mgz", "series", "enhanced")
NUMBERS = (0, 1, -1, 2, 3, 7, 127, 128, 255, 256, 700, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, 1e308, float("nan"), float("inf"), float("-inf"))
WORDS = (
    "", "0", "1", "-1", "2", "3", "4", "nan", "inf", "1e308", "1e-308", "700", "99999", "4294967296", "none", "gzip",
    "raw", "bzip2", "ascii", "hex", "LOCAL", "LIST", "../other", "/etc/passwd", "%d", "short", "float",
    "double", "MET_DOUBLE", "block", "big", "True", "False", "(1,0,0)", "left-posterior-superior", "\xff\xfe", "\0",
    "x" * 5000,
)  # fmt: skip
TAGS = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "NumberOfFrames", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope",
    "RescaleIntercept", "SliceThickness", "SpacingBetweenSlices", "PhotometricInterpretation", "SeriesInstanceUID",
    "SOPClassUID", "ImageType", "SpecificCharacterSet", "InstanceNumber", "PixelData", "SeriesDescription",
    "EchoTime", "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence",
)  # fmt: skip
VALUES = (
    b"", b"0", b"-1", b"nan", b"inf", b"1e400", b"1\\2", b"1\\0\\0\\0\\1\\0", b"0\\0\\0", b"\0", b"\0\0", b"\1\0",
    b"\3\0", b"\xff\xff", b"\0\x80", b"\xff\xff\xff\xff", b"ISO 2022 IR 87", b"\\\\\\", b"abc\xff", b"MONOCHROME1",
    b"x" * 3000,
)  # fmt: skip

place = st.one_of(st.integers(0, 600), st.integers(0, 1 << 30))
binary = st.one_of(
    st.sampled_from(NUMBERS).flatmap(
        lambda n: st.sampled_from([(n % 2 ** (8 * s)).to_bytes(s, o) for s in (1, 2, 4) for o in ("little", "big")])
    ),
    st.sampled_from(FLOATS).map(lambda x: np.array(min(max(x, -3e38), 3e38)).astype("<f4").tobytes()),
    st.binary(min_size=1, max_size=8),
)
change = st.one_of(
    st.tuples(st.just("set"), place, binary),
    st.tuples(st.just("insert"), place, binary),
    st.tuples(st.just("cut"), place, st.integers(1, 64)),
    st.tuples(st.just("end"), place, st.none()),
    st.tuples(st.just("word"), place, st.sampled_from(WORDS)),
    st.tuples(st.just("field"), place, st.tuples(st.integers(0, 7), st.sampled_from((*NUMBERS, *FLOATS)))),
    st.tuples(st.just("tag"), st.sampled_from(TAGS), st.sampled_from(VALUES)),
)
changes = st.tuples(st.integers(0, 5), st.booleans(), st.lists(change, min_size=1, max_size=4))
"""Which file, whether its packed bytes are changed or what they hold, and how."""


def altered(content: bytes, how: str, where: Any, what: Any) -> bytes:
    """The file with one change; unchanged where the change is for another format."""
    if how == "tag":
        return tagged(content, where, what)
    at = where % max(len(content), 1)
    if how == "set":
        return content[:at] + what + content[at + len(what) :]
    if how == "insert":
        return content[:at] + what + content[at:]
    if how == "cut":
        return content[:at] + content[at + what :]
    if how == "end":
        return content[:at]
    if how == "field":
        return with_field(content, where, *what)
    words = [match.span() for match in re.finditer(rb"[^\s=:,()]+", content[:600])]
    start, end = words[where % len(words)] if words else (0, 0)
    return content[:start] + what.encode("latin-1") + content[end:]


def with_field(content: bytes, where: int, index: int, value: float) -> bytes:
    """A NIfTI with another value in one of its header's fields."""
    if content[:4] != (348).to_bytes(4, "little") or len(content) < 348:
        return content
    header = np.frombuffer(content[:348], nib.Nifti1Header.template_dtype).copy()
    name = header.dtype.names[where % len(header.dtype.names)]
    cells = header[name].reshape(-1)
    if cells.dtype.kind in "iuf":
        with np.errstate(all="ignore"):
            cells[index % cells.size] = np.array(value).astype(cells.dtype)
        header[name] = cells.reshape(header[name].shape)
    return header.tobytes() + content[348:]


def tagged(content: bytes, keyword: str, value: bytes) -> bytes:
    """A DICOM file with these bytes as the value of a tag; without the tag where they are none."""
    if content[128:132] != b"DICM":
        return content
    try:
        data = dcmread(BytesIO(content))
        if not value or keyword.endswith("Sequence"):
            del data[keyword]
        else:
            element = data.get_item(keyword)
            data[keyword] = element._replace(value=value, length=len(value))
        buffer = BytesIO()
        data.save_as(buffer)
        return buffer.getvalue()
    except Exception:  # noqa: BLE001 - an earlier change has made it no DICOM file, or pydicom does not write it
        return content


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """For each name the files of a good scan."""
    made = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp("original")
        if name == "series":
            save_mr_series(folder, voxels("int16", (8, 7, 6)), OBLIQUE)
        elif name == "enhanced":
            save_enhanced(folder / "scan.dcm", voxels("int16", (8, 7, 6)), OBLIQUE)
        else:
            write_volume(Volume(voxels("float32" if name == "scan.mha" else "int16"), OBLIQUE), folder / name)
        made[name] = files_of(folder)
    return made


def damaged(files: dict[str, bytes], which: int, packed: bool, how: list[tuple[str, Any, Any]]) -> dict[str, bytes]:
    name = sorted(files)[which % len(files)]
    content = files[name]
    zipped = content[:2] == b"\x1f\x8b" and not packed
    content = gzip.decompress(content) if zipped else content
    for one in how:
        content = altered(content, *one)
    return {**files, name: gzip.compress(content, 1) if zipped else content}


def be_heard(path: str) -> None:
    """What the process prints, from Python or from C, goes to a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)


def attempt(folder: Path, name: str) -> str:
    """Read a scan: "good", "refused", or what is wrong with how it went."""
    scan = folder / name
    try:
        volume = read_volume(scan)
    except InputError as error:
        line = str(error)
        return "refused" if "\n" not in line and str(folder) in line and len(line) < 1000 else f"no clear line: {line}"
    good = volume.array.ndim == 3 and volume.array.dtype.kind in "iuf" and np.isfinite(volume.array).all()
    placed = np.isfinite(volume.affine).all() and np.linalg.det(volume.affine[:3, :3]) != 0
    return "good" if good and placed and volume.array.size else "no good volume"


def attempt_correction(folder: Path, name: str, model: str) -> str:
    """Correct a scan with strength 0 through the command: as ``attempt``, and no output where it is refused."""
    scan, out = folder / name, folder / "out" / "corrected.nii.gz"
    out.parent.mkdir()
    options = ["--model", model, "--strength", "0", "--force", "--report", str(out.parent / "report.json")]
    status = main(["correct", str(scan), str(out), *options])
    left = sorted(file.name for file in out.parent.iterdir())
    if status == 2:
        return "refused" if not left else f"refused, but there are {left}"
    if status or left != ["corrected.nii.gz", "report.json"]:
        return f"exit status {status}, and there are {left}"
    return "good" if read_volume(out).array.shape == read_volume(scan).array.shape else "another shape"


def case(files: dict[str, bytes], name: str, heard: str, model: str | None = None) -> str:
    """One case in this process, with what it printed, left behind, and took."""
    before = os.path.getsize(heard)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tempfile.tempdir = str(folder / "temporary")
        try:
            scan = folder / ("series" if name in ("series", "enhanced") else "")
            for needed in (scan, folder / "temporary"):
                needed.mkdir(exist_ok=True)
            for file, content in files.items():
                (scan / file).write_bytes(content)
            shown = "series" if name in ("series", "enhanced") else name
            ended = attempt_correction(folder, shown, model) if model else attempt(folder, shown)
        except BaseException:  # noqa: BLE001 - this is what is looked for
            return f"traceback: {traceback.format_exc()}"
        finally:
            tempfile.tempdir = None
        if list((folder / "temporary").iterdir()) or sorted(files) != [file.name for file in sorted(scan.iterdir())
                                                                      if file.is_file()]:  # fmt: skip
            return "a file is left"
    printed = Path(heard).read_bytes()[before:].decode("latin-1")
    lines = 1 if model and ended == "refused" else None if model else 0
    if "Traceback" in printed or "Warning" in printed or (lines is not None and printed.count("\n") != lines):
        return f"printed: {printed}"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) >> 10
    return ended if grown < MEMORY_MIB else f"took {grown} MiB"


class Reader:
    """A process that reads cases; another one when it has died or hangs."""

    def __init__(self, heard: Path) -> None:
        self._heard, self._pool = heard, None
        heard.touch()

    def read(self, *arguments: object) -> str:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, get_context("spawn"), be_heard, (str(self._heard),))
            self._pool.submit(os.getpid).result()
        try:
            files, name, *rest = arguments
            return self._pool.submit(case, files, name, str(self._heard), *rest).result(SECONDS)
        except (BrokenProcessPool, Late) as error:
            ended = "hung" if isinstance(error, Late) else "the process died"
            self.close()
            return ended

    def close(self) -> None:
        if self._pool is not None:
            for process in list((self._pool._processes or {}).values()):
                process.kill()
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


@pytest.fixture(scope="module")
def a_reader(tmp_path_factory: pytest.TempPathFactory, originals: dict[str, dict[str, bytes]]) -> Iterator[Reader]:
    """It has read every format, so that the libraries are loaded before time and memory are counted."""
    reader = Reader(tmp_path_factory.mktemp("heard") / "lines")
    os.environ["PYTHONWARNINGS"] = "always"
    for name in NAMES:
        reader.read(originals[name], name)
    yield reader
    reader.close()
    del os.environ["PYTHONWARNINGS"]


def fuzzed(cases: int, reader: Reader, files: dict[str, bytes], name: str, *rest: str) -> None:
    """So many damaged copies; every one must end well, and some in each way."""
    ended: Counter[str] = Counter()
    failed: dict[str, Any] = {}

    @settings(
        max_examples=cases, deadline=None, derandomize=True, phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(changes)
    def one(how: tuple[int, bool, list[tuple[str, Any, Any]]]) -> None:
        became = reader.read(damaged(files, *how), name, *rest)
        ended[became.partition(":")[0]] += 1
        if became not in ("good", "refused"):
            failed.setdefault(became.strip()[-160:], (became, how))

    one()
    print(f"\n{name}{' corrected' * bool(rest)}: {sum(ended.values())} cases, {dict(ended)}")
    assert not failed, "\n\n".join(f"{how}\n{became}" for became, how in list(failed.values())[:12])
    assert min(ended["good"], ended["refused"]) > cases // 100 and sum(ended.values()) >= cases * 0.9


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_read_well_or_refused(
    name: str, a_reader: Reader, originals: dict[str, dict[str, bytes]]
) -> None:
    assert a_reader.read(originals[name], name) == "good"
    fuzzed(CASES, a_reader, originals[name], name)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_corrected_or_leaves_nothing(
    name: str, a_reader: Reader, originals: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    model = str(save_tiny(tmp_path / "tiny.safetensors"))
    assert a_reader.read(originals[name], name, model) == "good"
    fuzzed(CORRECTIONS, a_reader, originals[name], name, model)
