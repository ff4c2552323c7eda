"""Files that a browser sends: refused where they are too much or mean harm, before anything of them is used."""

from __future__ import annotations

import asyncio
import stat
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

pytest.importorskip("trame_slicer", reason="the extra viewer is not installed")

from BrainDiffLogic.errors import InputError
from BrainDiffViewer.files import TooLarge, receive, safe_name, unpacked

MEGABYTE = 10**6
DICOM = b"\0" * 128 + b"DICM" + b"\1" * 100


async def parts(*blocks: bytes) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block


def packed(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_what_comes_lies_under_the_end_of_its_name(tmp_path: Path) -> None:
    path = asyncio.run(receive(parts(b"ab", b"c"), "../../etc/pass wd.nii.gz", tmp_path, MEGABYTE))
    assert path.read_bytes() == b"abc"
    assert path.name == "pass_wd.nii.gz"
    assert path.parent.parent == tmp_path
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_more_bytes_than_allowed_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match=r"^head\.nii: larger than the 5 bytes"):
        asyncio.run(receive(parts(b"abc", b"def"), "head.nii", tmp_path, 5))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "safe"),
    [("C:\\scans\\a.nii", "a.nii"), ("..", "scan"), (".nii", "nii"), ("a\n\"b'.mgz", "a__b_.mgz"), ("", "scan")],
)
def test_a_name_becomes_harmless(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_the_dicom_files_of_an_archive_get_numbers_for_names(tmp_path: Path) -> None:
    path = packed(tmp_path / "s.zip", **{"a/1": DICOM, "a/readme.txt": b"text", "b/c/2": DICOM + b"2"})
    folder = unpacked(path, MEGABYTE)
    assert sorted(file.name for file in folder.iterdir()) == ["00000.dcm", "00002.dcm"]
    assert (folder / "00002.dcm").read_bytes() == DICOM + b"2"


@pytest.mark.parametrize("name", ["../1", "a/../../1", "/etc/1", "..\\1", "C:/1"])
def test_an_archive_that_names_a_place_outside_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="outside of the archive"):
        unpacked(packed(tmp_path / "s.zip", **{name: DICOM}), MEGABYTE)
    assert not list((tmp_path / "dicom").iterdir())


def test_an_archive_with_a_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="holds a link"):
        unpacked(tmp_path / "s.zip", MEGABYTE)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    bomb = packed(tmp_path / "s.zip", bomb=DICOM + bytes(20 * MEGABYTE))
    assert bomb.stat().st_size < MEGABYTE / 10
    with pytest.raises(TooLarge, match="unpacks to 20"):
        unpacked(bomb, 1000 * MEGABYTE)
    with pytest.raises(TooLarge, match="unpacks to 20"):
        unpacked(Path(bomb).rename(tmp_path / "again.zip"), MEGABYTE) if not (tmp_path / "dicom").rmdir() else None


def test_an_archive_that_lies_about_sizes_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "s.zip", one=DICOM + bytes(3 * MEGABYTE))
    content = path.read_bytes()
    size = (len(DICOM) + 3 * MEGABYTE).to_bytes(4, "little")
    path.write_bytes(content.replace(size, (1000).to_bytes(4, "little")))
    with pytest.raises(InputError, match="damaged"):
        unpacked(path, MEGABYTE)


@pytest.mark.parametrize(("content", "message"), [(b"no archive", "damaged"), (None, "holds no DICOM file")])
def test_what_is_no_archive_of_a_series_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = packed(tmp_path / "s.zip", text=b"text")
    if content:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        unpacked(path, MEGABYTE)
