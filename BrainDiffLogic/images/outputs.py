"""Outputs that overwrite nothing by accident and appear complete or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from os import PathLike
from pathlib import Path

from BrainDiffLogic.errors import InputError

WRITABLE = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh")
DATA_FILES = {".nhdr": (".raw.gz", ".raw"), ".mhd": (".zraw", ".raw")}
"""What a header with detached data is accompanied by when this package (or ITK) writes it."""


def file_suffix(path: str | PathLike[str]) -> str:
    """The lower-case extension, of what is gzipped both (.nii.gz)."""
    suffixes = Path(Path(path).name.lower()).suffixes
    return "".join(suffixes[-2:] if suffixes[-2:-1] and suffixes[-1] == ".gz" else suffixes[-1:])


def check_output(
    path: str | PathLike[str],
    inputs: Iterable[str | PathLike[str]] = (),
    overwrite: bool = False,
    suffixes: Collection[str] = WRITABLE,
) -> Path:
    """Refuse an output before any work is done; returns its path.

    inputs     files (or DICOM folders) that the output must not be, by whatever link or path they are named
    overwrite  whether an existing file may be replaced
    suffixes   the extensions that this output may have

    Raises InputError for an unknown extension, a missing or unwritable folder, an output that is a folder,
    that is one of the inputs (or of their data files), or that exists without ``overwrite``.
    """
    path = Path(path)
    if file_suffix(path) not in suffixes:
        raise InputError(f"{path}: this type of output is not known; use one of {', '.join(suffixes)}")
    if path.is_dir():
        raise InputError(f"{path}: the output is a folder; name a file in it")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; create it or choose another")
    files = _files_written(path)
    for given in inputs:
        if any(_same_file(file, other) for file in files for other in _files_read(Path(given))):
            raise InputError(f"{path}: the output would replace the input {given}; choose another name")
    existing = next((file for file in files if os.path.lexists(file)), None)
    if existing is not None and not overwrite:
        raise InputError(f"{existing}: exists already; choose another name or allow it with --overwrite")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{path}: the folder {path.parent} cannot be written; choose another") from error
    return path


def check_outputs(
    outputs: Iterable[tuple[Path, tuple[str, ...]]], inputs: Iterable[str | Path], overwrite: bool
) -> None:
    """Refuse outputs, each a path and the extensions it may have, before any work is done.

    Raises InputError as ``check_output`` does, and where two outputs are one file.
    """
    seen: list[Path] = []
    for path, suffixes in outputs:
        check_output(path, inputs, overwrite, suffixes)
        if path.resolve() in seen:
            raise InputError(f"{path}: named for two outputs; give each a file of its own")
        seen.append(path.resolve())


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
    header never stands without its data. Raises InputError where the folder cannot be written.
    """
    path = Path(path)
    # named before it is made: an interrupt within mkdtemp would leave a folder that nobody knows
    folder = (_staging or path.parent) / f".braindiff-{secrets.token_hex(8)}"
    try:
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise InputError(f"{path}: the folder {folder.parent} cannot be written; choose another") from error
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
    new = [path for path in paths if not os.path.lexists(path)]
    try:
        with ExitStack() as stack:
            yield [stack.enter_context(staged_output(path)) for path in paths]
    except BaseException:
        for path in new:
            path.unlink(missing_ok=True)
        raise


def _move_into_place(folder: Path, path: Path) -> None:
    staged = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
    for file in staged:
        _sync(file)
    created = []
    try:
        for file in staged:
            target = path.parent / file.name
            new = not os.path.lexists(target)
            os.replace(file, target)
            created += [target] if new else []
    except BaseException:
        for target in created:
            target.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        with suppress(OSError):  # some network file systems cannot
            _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() or os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files_written(path: Path) -> list[Path]:
    stem = path.name[: -len(path.suffix)]
    return [path, *(path.with_name(stem + suffix) for suffix in DATA_FILES.get(path.suffix.lower(), ()))]


def _files_read(path: Path) -> list[Path]:
    """The file and the data files which its header names."""
    suffix = path.suffix.lower()
    if suffix in (".hdr", ".img"):
        return [path.with_suffix(".hdr"), path.with_suffix(".img")]
    if suffix not in DATA_FILES or not path.is_file():
        return [path]
    fields = [line.replace("=", ":").split(":", 1) for line in path.read_text("latin-1").splitlines() if line]
    keys = ("data file", "datafile", "elementdatafile")
    return [path, *(path.parent / value[-1].strip() for value in fields if value[0].strip().lower() in keys)]


def _same_file(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()
