"""Outputs that overwrite nothing by accident and appear complete or not at all."""

from __future__ import annotations

import csv
import glob
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import StringIO
from os import PathLike
from pathlib import Path
from typing import Any

from BrainDiffLogic.errors import InputError

WRITABLE = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh")
META = (".mha", ".mhd")
SERIES = "a folder (a DICOM series)"
"""Among the extensions that an output may have: a folder, for a series that is derived from a DICOM series."""
MAGIC_AT, MAGIC = 128, b"DICM"
FIRST_TAGS = (b"\x08\x00", b"\x02\x00", b"\x00\x08")
"""How a DICOM file without the magic word begins: group 8 or 2 in little endian, or 8 in big endian."""
PAIRED = re.compile(r"(.*)\.(?:hdr|img)(?:\.gz)?", re.IGNORECASE)
ENDS = [end + zipped for end in (".hdr", ".img", ".mat", ".HDR", ".IMG", ".MAT") for zipped in ("", ".gz", ".GZ")]
"""Of what belongs to a pair: NIfTI or Analyze, and SPM's affine."""
DATA = re.compile(r"^(?:data ?file *:(?!=)|ElementDataFile *=)[ \t]*(.*?)[ \t]*$", re.IGNORECASE | re.MULTILINE)
"""What a header says of the file or files with its voxels."""
PLACE = re.compile(r"%[0-9]*[a-z]")
"""Of the number in the names of several files."""
HEADER_BYTES = 1 << 16
DATA_FILES = {".nhdr": (".raw.gz", ".raw"), ".mhd": (".zraw", ".raw")}
"""What a header with detached data is accompanied by when this package (or ITK) writes it."""


def file_suffix(path: str | PathLike[str]) -> str:
    """The lower-case extension, of what is gzipped both (.nii.gz)."""
    suffixes = Path(Path(path).name.lower()).suffixes
    return "".join(suffixes[-2:] if suffixes[-2:-1] and suffixes[-1] == ".gz" else suffixes[-1:])


def is_series(path: str | PathLike[str]) -> bool:
    """Whether an output is a folder for a DICOM series: it is there, or its name has no extension (a UID's number)."""
    suffix = file_suffix(path)
    return Path(path).is_dir() or not suffix or suffix[1:].isdigit()


def starts_as_dicom(path: Path) -> bool:
    """Whether a file has DICOM's magic word, or begins as one without it may: with group 2 or 8."""
    start = _start(path)
    return start[MAGIC_AT:] == MAGIC or start[:2] in FIRST_TAGS


def is_dicom_file(path: Path) -> bool:
    """Whether it is a file, no pipe or folder, that holds DICOM, with the magic word or without."""
    if not path.is_file() or not starts_as_dicom(path):
        return False
    if _start(path)[MAGIC_AT:] == MAGIC:
        return True
    from BrainDiffLogic.images.dicom_files import read_header  # which loads pydicom

    header = read_header(path, ("SOPClassUID",))
    return header is not None and "SOPClassUID" in header


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAGIC_AT + len(MAGIC))


def check_output(
    path: str | PathLike[str], inputs: Iterable[str | PathLike[str]] = (), overwrite: bool = False,
    suffixes: Collection[str] = WRITABLE,
) -> Path:  # fmt: skip
    """Refuse an output before any work is done; returns its path.

    inputs     files (or DICOM folders) that the output must not be, by whatever link or path they are named
    overwrite  whether an existing file may be replaced
    suffixes   the extensions that this output may have; ``SERIES`` among them allows a folder for a DICOM series

    Raises InputError for an unknown extension, a missing or unwritable folder, an output that is a folder,
    that is one of the inputs (or of their data files), or that exists without ``overwrite``; for a folder that has
    files, also with it unless they are a series that BrainDiff wrote.
    """
    path = Path(path)
    if SERIES in suffixes and is_series(path):
        return _check_series(path, inputs, overwrite)
    check_suffix(path, suffixes)
    if path.is_dir():
        raise InputError(f"{path}: the output is a folder; name a file in it")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; create it or choose another")
    files = _files_written(path)
    for given in inputs:
        if any(_same_file(file, other) for file in files for other in files_read(Path(given))):
            raise InputError(f"{path}: the output would replace the input {given}; choose another name")
    existing = next((file for file in files if os.path.lexists(file)), None)
    if existing is not None and not overwrite:
        raise InputError(f"{existing}: exists already; choose another name or allow it with --overwrite")
    _check_writable(path)
    return path


def check_suffix(path: Path, suffixes: Collection[str] = WRITABLE) -> None:
    """Refuse an output of another type than those, or one whose name ITK would write in lower case."""
    if file_suffix(path) not in suffixes:
        raise InputError(f"{path}: this type of output is not known; use one of {', '.join(suffixes)}")
    if file_suffix(path) in META and path.suffix not in META:
        raise InputError(f"{path}: MetaImage is written with a small extension alone; end in {path.suffix.lower()}")


def _check_writable(path: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{path}: the folder {path.parent} cannot be written; choose another") from error


def _check_series(path: Path, inputs: Iterable[str | PathLike[str]], overwrite: bool) -> Path:
    """``check_output`` of a folder for a DICOM series: a new or an empty one; with ``overwrite`` one of ours."""
    sources = [Path(given) for given in inputs]
    if path.is_dir() and not any(given.is_dir() or is_dicom_file(given) or not given.exists() for given in sources):
        raise InputError(f"{path}: is a folder, which takes a DICOM series, and the input is none: name a file in it")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: exists already and is no folder; choose another name, or one that ends in .nii.gz")
    if not path.resolve().parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; create it or choose another")
    for given in sources:
        folder = given if given.is_dir() else given.parent
        if path.is_dir() and (path.samefile(folder) or path.resolve() in folder.resolve().parents):
            raise InputError(f"{path}: the output would replace the input {given}; choose another name")
    if path.is_dir() and any(path.iterdir()):
        from BrainDiffLogic.images.dicom_files import is_derived_series  # which loads pydicom

        if not overwrite:
            raise InputError(f"{path}: exists already and is not empty; choose another name, or use --overwrite")
        if not is_derived_series(path):
            raise InputError(f"{path}: holds more than a DICOM series that BrainDiff wrote; choose another name")
    _check_writable(path)
    return path


def check_outputs(
    outputs: Iterable[tuple[Path, tuple[str, ...]]], inputs: Iterable[str | Path], overwrite: bool
) -> None:
    """Refuse outputs, each a path and the extensions it may have, before any work is done.

    Raises InputError as ``check_output`` does, where two outputs are one file, and where one lies in another's folder.
    """
    seen: list[tuple[Path, bool]] = []
    for path, suffixes in outputs:
        check_output(path, inputs, overwrite, suffixes)
        own, folder = path.resolve(), SERIES in suffixes and is_series(path)
        if any(own == other for other, _ in seen):
            raise InputError(f"{path}: named for two outputs; give each a file of its own")
        if any((a_folder and other in own.parents) or (folder and own in other.parents) for other, a_folder in seen):
            raise InputError(f"{path}: one output would lie in the DICOM folder of another; name them side by side")
        seen.append((own, folder))


_staging: Path | None = None


@contextmanager
def staging_in(folder: Path | None) -> Iterator[None]:
    """Within the block, unfinished files lie in ``folder`` rather than beside the outputs, on the same disk.

    Who may kill this process can then remove all that it leaves behind. None changes nothing.
    """
    global _staging
    before, _staging = _staging, folder or _staging
    try:
        yield
    finally:
        _staging = before


@contextmanager
def staged_output(path: str | PathLike[str]) -> Iterator[Path]:
    """A path to write to; when the block ends well, what lies there takes the place of ``path``, else it
    vanishes.

    Whatever the block writes beside it (detached data) moves first, the file itself last, so that a new
    header never stands without its data. A folder takes the place of one that is empty, or of the series in it.
    Raises InputError where the folder cannot be written.
    """
    path = Path(path)
    # named before it is made: an interrupt within mkdtemp would leave a folder that nobody knows
    folder = (_staging or path.parent) / f".braindiff-{secrets.token_hex(8)}"
    try:
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise InputError(f"{path}: the folder {folder.parent} cannot be written; choose another") from error
        if path.is_dir():
            (folder / path.name).mkdir()
        yield folder / path.name
        _move_into_place(folder, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path}: cannot be written ({reason}); free space or choose another folder") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def staged_outputs(paths: Iterable[Path]) -> Iterator[list[Path]]:
    """Paths to write to, one for each of ``paths``; when the block ends well, the files move into place.

    When the block or one of the moves fails, no file remains that was not there before.
    """
    paths = list(paths)
    empty = [path for path in paths if path.is_dir() and not any(path.iterdir())]
    new = [*empty, *(path for path in paths if not os.path.lexists(path))]
    try:
        with ExitStack() as stack:
            yield [stack.enter_context(staged_output(path)) for path in paths]
    except BaseException:
        for path in new:
            remove_output(path)
        for path in empty:
            path.mkdir(exist_ok=True)
        raise


def make_folder(path: Path, remedy: str = "choose another") -> None:
    """Make a folder where there is none. Raises InputError, which ends with the remedy, where that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: the folder cannot be made ({error.strerror}); {remedy}") from None


def remove_output(path: Path) -> None:
    """Take away a file, or the folder of a series."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_json(path: str | PathLike[str], content: Any) -> None:
    """Write JSON, whole or not at all."""
    with staged_output(path) as staged:
        staged.write_text(as_json(content), encoding="utf-8")


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write text files, all of them or none."""
    with staged_outputs(texts) as staged:
        for path, text in zip(staged, texts.values(), strict=True):
            path.write_text(text, encoding="utf-8")


def as_json(content: Any) -> str:
    """The text of a JSON file; what is not finite must have become None before."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def as_markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table; what stands in its first column begins on the left, the rest ends on the right."""
    cells = [header, ["---", *["---:"] * (len(header) - 1)], *lines]
    return [f"| {' | '.join(text.replace('|', '/') for text in line)} |" for line in cells]


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], delimiter: str = ",") -> str:
    """The text of a CSV file with these columns; what else the rows have is left out."""
    text = StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _move_into_place(folder: Path, path: Path) -> None:
    staged = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
    for file in staged:
        for inner in file.iterdir() if file.is_dir() else ():
            _sync(inner)
        _sync(file)
    created = []
    try:
        for file in staged:
            target = path.parent / file.name
            new = not os.path.lexists(target)
            if file.is_dir() and not new:
                _replace_folder(file, target)
            else:
                os.replace(file, target)
            created += [target] if new else []
    except BaseException:
        for target in created:
            remove_output(target)
        raise
    if os.name == "posix":
        with suppress(OSError):  # some network file systems cannot
            _sync(path.parent)


def _replace_folder(staged: Path, target: Path) -> None:
    """Put a folder in the place of another, which goes when that has worked."""
    old = staged.with_name(f"{secrets.token_hex(4)}.old")
    os.replace(target, old)
    try:
        os.replace(staged, target)
    except BaseException:
        os.replace(old, target)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() or os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files_written(path: Path) -> list[Path]:
    stem = path.name[: -len(path.suffix)]
    return [path, *(path.with_name(stem + suffix) for suffix in DATA_FILES.get(path.suffix.lower(), ()))]


def files_read(path: Path) -> list[Path]:
    """The file and the others that are read with it: the parts of a pair, SPM's .mat, the data that a header names.

    Of data in several files those that a list names, or all whose names fit the pattern.
    """
    if pair := PAIRED.fullmatch(path.name):
        beside = [path.with_name(pair[1] + end) for end in ENDS]
        return [path, *(file for file in beside if file != path and os.path.lexists(file))]
    if path.suffix.lower() not in (*DATA_FILES, ".nrrd", ".mha") or not path.is_file():
        return [path]
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES).decode("latin-1").replace("\r\n", "\n").partition("\n\n")[0]
    named = DATA.search(header)
    if named is None or not named[1] or named[1].split()[0] == "LOCAL":
        return [path]
    names = [named[1]]
    if named[1].split()[0] == "LIST":
        names = [line.strip() for line in header[named.end() :].splitlines() if line.strip()]
    elif "%" in named[1]:
        pattern = path.parent / "*".join(glob.escape(part) for part in PLACE.split(named[1].split()[0]))
        names = sorted(str(file) for file in pattern.parent.glob(pattern.name))
    # of a damaged header: no file can be called so
    return [path, *(path.parent / name for name in names if "\0" not in name)]


def _same_file(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()
