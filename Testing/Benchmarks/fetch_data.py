"""Bring the volumes that the models were trained and measured on from the places where they were published.

    python Testing/Benchmarks/fetch_data.py ../shared/data [--only 't1_head/*'] [--list] [--mirror URL]

Makes the folders that the commands of the documentation read (t1_head, t1_brain, labels, mr_art). fetch_data.tsv names
each file with its source, checksum and licence, fetch_data_slices.tsv the slices of the two DICOM series. A file gets
its name only when its bytes are what their publisher named and, where the table knows them, its voxels are the ones
that the shipped weights saw. What is there already is checked and stays. Exits with 1 where something could not be
brought, after one line for each such file; the same command goes on with the rest.

    --only    patterns of files, all without it
    --list    show what would be brought, with source and licence, and bring nothing
    --mirror  ask URL/HOST/PATH in place of https://HOST/PATH
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import http.client
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from nibabel.filebasedimages import ImageFileError

TABLE = Path(__file__).with_suffix(".tsv")
SLICES = TABLE.with_name("fetch_data_slices.tsv")
BLOCK = 2**20
TIMEOUT = 60.0
MARGIN = 4
"""Voxels that stay around a brain that is cropped."""


class FetchError(Exception):
    """Says in one line what did not come, and why."""


@dataclass(frozen=True)
class Source:
    """A published file: ``checksum`` is ``md5:``, ``sha256:`` or ``git:`` (the id of a git blob) and its digest."""

    url: str
    size: int
    checksum: str


@dataclass(frozen=True)
class Entry:
    """A file of the data folder.

    sources  what it is made of: one file, or the slices of a DICOM series
    made     how: "" the file as it is, "member NAME" of an archive, else steps of ``convert``
    voxels   sha256 of its voxels in the order of the file (``digest_of_voxels``); "" where unknown
    """

    file: str
    sources: tuple[Source, ...]
    made: str
    voxels: str
    licence: str


def read_table(table: Path = TABLE, slices: Path = SLICES) -> list[Entry]:
    """The entries of a table; its sources that end in "/" are folders whose files ``slices`` lists."""
    parts: dict[str, list[Source]] = {}
    if slices.exists():
        for row in _rows(slices):
            parts.setdefault(row["folder"], []).append(
                Source(row["folder"] + row["name"], int(row["bytes"]), row["checksum"])
            )
    entries = []
    for row in _rows(table):
        single = Source(row["url"], int(row["bytes"] or 0), row["checksum"])
        sources = tuple(parts[row["url"]]) if row["url"].endswith("/") else (single,)
        entries.append(Entry(row["file"], sources, row["made"], row["voxels"], row["licence"]))
    return entries


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def digest_of(path: Path, kind: str) -> str:
    """The digest of a file's bytes, of a kind that ``Source.checksum`` names."""
    if kind == "git":
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def digest_of_voxels(path: Path) -> str:
    """sha256 of a volume's stored voxels as little-endian int16, the first axis fastest."""
    array = np.asanyarray(nib.load(path).dataobj)
    return hashlib.sha256(array.astype("<i2").tobytes(order="F")).hexdigest()


def download(source: Source, path: Path, mirror: str | None = None) -> None:
    """Write a published file to ``path``; raises FetchError where it does not arrive or is another."""
    url = f"{mirror.rstrip('/')}/{source.url.split('://', 1)[1]}" if mirror else source.url
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, path.open("wb") as stream:
            while (block := answer.read(BLOCK)) and stream.tell() <= source.size:
                stream.write(block)
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(f"{url}: {error}") from error
    if (size := path.stat().st_size) != source.size:
        raise FetchError(f"{url}: {'more' if size > source.size else size} bytes came, {source.size} were published")
    kind, published = source.checksum.split(":")
    if (found := digest_of(path, kind)) != published:
        raise FetchError(f"{url}: its {kind} checksum is {found}, published was {published}")


def convert(entry: Entry, downloaded: Path) -> nib.Nifti1Image:
    """The volume of an entry, by the words of ``made`` one after another.

    dicom  the slices of the folder as one volume     halve    means of 2 x 2 pixels of the first two axes
    ras    the nearest axes to right, anterior, superior     white=V  0 to V onto 0 to 255, rounded, as uint8
    crop   the box of what is not zero, and MARGIN voxels
    """
    steps = entry.made.split()
    if "dicom" in steps:
        image = _stacked(downloaded)
    else:
        (path,) = downloaded.iterdir()
        image = nib.load(path)
    image = nib.as_closest_canonical(image) if "ras" in steps else image
    array, affine = np.asanyarray(image.dataobj), image.affine
    for step in steps:
        if step == "halve":
            array, affine = _halved(array, affine)
        elif step.startswith("white="):
            array = np.clip(np.rint(array.astype(np.float32) / np.float32(step[6:]) * np.float32(255)), 0, 255).astype(
                np.uint8
            )
        elif step == "crop":
            array, affine = _cropped(array, affine)
    return nib.Nifti1Image(array, affine)


def _stacked(folder: Path) -> nib.Nifti1Image:
    """Slices at even distances from the first to the last: the published series of fnndsc-adi lacks one."""
    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    across, down = np.reshape(slices[0].ImageOrientationPatient, (2, 3)).astype(float)
    slices.sort(key=lambda one: np.cross(across, down) @ np.array(one.ImagePositionPatient, float))
    first, last = (np.array(one.ImagePositionPatient, float) for one in (slices[0], slices[-1]))
    below, beside = map(float, slices[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3] = np.stack([across * beside, down * below, (last - first) / (len(slices) - 1), first], axis=1)
    affine[:2] *= -1  # LPS to RAS
    return nib.Nifti1Image(np.stack([one.pixel_array.T for one in slices], axis=-1).astype(np.int16), affine)


def _halved(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second, third = array.shape
    means = array.reshape(first // 2, 2, second // 2, 2, third).mean(axis=(1, 3))
    return np.rint(means).astype(np.int16), affine @ np.array(
        [[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 1, 0], [0, 0, 0, 1]]
    )


def _cropped(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inside = np.argwhere(array)
    low = np.maximum(inside.min(axis=0) - MARGIN, 0)
    high = inside.max(axis=0) + 1 + MARGIN
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ low
    return array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], moved


def is_there(entry: Entry, path: Path) -> bool:
    """Whether the data folder holds the file; raises FetchError where another one has its name."""
    if not path.exists():
        return False
    (source, *_) = entry.sources
    kind, published = source.checksum.split(":")
    if not entry.made and digest_of(path, kind) == published:
        return True
    if entry.made and not entry.voxels:
        return True
    if not entry.voxels or _voxels_or_none(path) != entry.voxels:
        raise FetchError(f"{path}: is there, and is not what was published; move it away")
    return True


def _voxels_or_none(path: Path) -> str | None:
    try:
        return digest_of_voxels(path)
    except (OSError, EOFError, ImageFileError):
        return None


def bring(entry: Entry, out: Path, mirror: str | None = None) -> bool:
    """Make the file of an entry below ``out``; False where it was there. Raises FetchError, and leaves nothing then."""
    final = out / entry.file
    if is_there(entry, final):
        return False
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=out) as folder:
        made = _made(entry, Path(folder), final.name, mirror)
        if entry.voxels and digest_of_voxels(made) != entry.voxels:
            raise FetchError(f"{final}: what came gives other voxels than the training saw")
        made.replace(final)
    return True


def _made(entry: Entry, folder: Path, name: str, mirror: str | None) -> Path:
    parts = folder / "parts"
    parts.mkdir()
    for source in entry.sources:
        download(source, parts / source.url.rsplit("/", 1)[1], mirror)
    if not entry.made:
        return next(parts.iterdir())
    if entry.made.startswith("member "):
        with tarfile.open(next(parts.iterdir())) as archive, (folder / name).open("wb") as stream:
            stream.write(archive.extractfile(entry.made.removeprefix("member ")).read())  # type: ignore[union-attr]
        return folder / name
    try:
        nib.save(convert(entry, parts), folder / name)
    except (pydicom.errors.InvalidDicomError, ImageFileError, OSError) as error:
        raise FetchError(f"{entry.file}: {error}") from error
    return folder / name


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--mirror", metavar="URL")
    parser.add_argument("--table", type=Path, default=TABLE, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    entries = [e for e in read_table(options.table) if any(fnmatch(e.file, pattern) for pattern in options.only)]
    if not entries:
        parser.error(f"nothing in {options.table.name} is called {' or '.join(options.only)}")
    if options.list:
        for entry in entries:
            size = sum(source.size for source in entry.sources) / 1e6
            print(entry.file, f"{size:.1f} MB", entry.licence, entry.sources[0].url, sep="\t")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for entry in entries:
        try:
            print(f"{entry.file}: {'brought' if bring(entry, options.out, options.mirror) else 'there'}", flush=True)
        except FetchError as error:
            failed += 1
            print(f"not brought: {entry.file}: {error}", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
