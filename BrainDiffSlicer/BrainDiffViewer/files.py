"""Files that a browser sends: limited in size, under a safe name, and archives without their dangers.

And the archive that a person takes away: corrected volume, difference and a report with the provenance of both.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import stat
import zipfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath

from BrainDiffLogic.correction import Correction
from BrainDiffLogic.correction_files import write_correction
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.files import file_digest
from BrainDiffLogic.images.outputs import WRITABLE, file_suffix

MOST_FILES = 20_000
UNPACKED = 4
"""An archive may unpack to this many times the size that an upload may have."""
MOST_DEFLATED = 200
"""Times by which an archive may shrink what it holds; slices of a head shrink two- to tenfold."""
BLOCK = 1 << 20
SMALL = 10 * BLOCK
"""What unpacks to less than this is no bomb, however well it was packed."""
DICOM_MARK, DICOM_PREAMBLE = b"DICM", 128
SINGLE = tuple(suffix for suffix in WRITABLE if suffix not in (".nhdr", ".mhd"))
"""Types of volume that are one file."""


class TooLarge(InputError):  # noqa: N818 - a decision, not a failure
    """More bytes than an upload may have."""


def check_size(name: str, size: int, limit: int) -> None:
    """Raises TooLarge where a file has more bytes than ``limit``."""
    if size > limit:
        raise TooLarge(
            f"{name}: larger than the {readable(limit)} that this page takes; correct it on the command line"
        )


def readable(size: int) -> str:
    """A number of bytes, for a person."""
    return f"{size / 1e9:g} GB" if size >= 1e9 else f"{size / 1e6:g} MB" if size >= 1e6 else f"{size} bytes"


async def receive(parts: AsyncIterator[bytes], name: str, folder: Path, limit: int) -> Path:
    """Write what comes to a new folder in ``folder``, under the end of ``name``; returns the path.

    Raises TooLarge as soon as more than ``limit`` bytes have come; nothing is left then.
    """
    place = folder / secrets.token_hex(8)
    place.mkdir(mode=0o700)
    path, size = place / safe_name(name), 0
    try:
        with path.open("wb") as file:
            async for part in parts:
                size += len(part)
                check_size(name, size, limit)
                file.write(part)
    except BaseException:
        path.unlink(missing_ok=True)
        place.rmdir()
        raise
    return path


def safe_name(name: str) -> str:
    """The last part of a path, with nothing in it that a file system could take for more."""
    last = re.split(r"[/\\]", name)[-1]
    return re.sub(r"[^A-Za-z0-9._-]", "_", last)[-100:].lstrip(".") or "scan"


def unpacked(path: Path, limit: int) -> Path:
    """What to read of an upload: the file itself, or a folder with the DICOM files of a zip archive.

    The files get numbers for names, so that no name leads anywhere. Raises InputError for an archive that holds too
    much, names places outside itself, links or encrypted files, is damaged, or has no DICOM file.
    """
    if path.suffix.lower() != ".zip":
        return path
    folder = path.parent / "dicom"
    folder.mkdir(mode=0o700)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _check_members(path.name, members, limit)
            _unpack(archive, members, folder, UNPACKED * limit)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path.name}: the archive is damaged or of an unknown kind; pack the folder again") from error
    if not any(folder.iterdir()):
        raise InputError(f"{path.name}: the archive holds no DICOM file; pack the folder of one series")
    return folder


def _check_members(name: str, members: list[zipfile.ZipInfo], limit: int) -> None:
    if len(members) > MOST_FILES:
        raise InputError(f"{name}: {len(members)} files are more than a series has; pack one series alone")
    for member in members:
        parts = PurePosixPath(member.filename.replace("\\", "/")).parts
        if ".." in parts or parts[:1] == ("/",) or ":" in member.filename.partition("/")[0]:
            raise InputError(f"{name}: names a place outside of the archive ({member.filename}); it is refused")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise InputError(f"{name}: holds a link ({member.filename}); it is refused, pack the files themselves")
        if member.flag_bits & 1:
            raise InputError(f"{name}: is encrypted; pack the folder again without a password")
    total, packed = (sum(getattr(one, size) for one in members) for size in ("file_size", "compress_size"))
    if total > UNPACKED * limit or (total > SMALL and total > MOST_DEFLATED * max(packed, 1)):
        raise TooLarge(f"{name}: unpacks to {readable(total)}, which no series of that size does; it is refused")


def _unpack(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: Path, limit: int) -> None:
    """The DICOM files among ``members``; a header may lie about sizes, hence the count."""
    size = 0
    for number, member in enumerate(members):
        with archive.open(member) as source:
            block = source.read(BLOCK)
            if block[DICOM_PREAMBLE : DICOM_PREAMBLE + len(DICOM_MARK)] != DICOM_MARK:
                continue
            with (folder / f"{number:05d}.dcm").open("wb") as target:
                while block:
                    size += len(block)
                    if size > limit:
                        raise TooLarge(f"{archive.filename}: unpacks to more than {readable(limit)}; it is refused")
                    target.write(block)
                    block = source.read(BLOCK)


def write_results(correction: Correction, source: Path, name: str, folder: Path) -> Path:
    """Write the archive to ``folder``; returns its path.

    source  the file, archive, or folder of DICOM files that the person gave; name: what the person calls it
    The volumes are those of ``braindiff correct``; the report also holds the digest of ``source``.
    """
    suffix = file_suffix(name) if file_suffix(name) in SINGLE else ".nii.gz"
    stem = safe_name(name).removesuffix(suffix).removesuffix(Path(name).suffix) or "scan"
    place = folder / "results"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    corrected, difference = (place / f"{stem}_{part}{suffix}" for part in ("corrected", "difference"))
    report = place / f"{stem}_report.json"
    facts = write_correction(correction, corrected, difference, report)
    facts["outputs"] = {key: Path(path).name for key, path in facts["outputs"].items()}
    facts["input_sha256"] = file_digest(source)
    report.write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    archive = place / f"{stem}_braindiff.zip"
    with zipfile.ZipFile(archive, "w") as target:  # the volumes are packed already
        for file in (corrected, difference, report):
            target.write(file, file.name)
    return archive
