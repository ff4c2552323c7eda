"""Files that may be gzipped, whatever they are called, and why one cannot be read."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from isal import igzip
from nibabel.filebasedimages import SerializableImage
from nibabel.imageglobals import logger
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from BrainDiffLogic.errors import InputError

GZIP = b"\x1f\x8b"
GZIP_LEVEL = 2
"""Of ISA-L's gzip: as small as zlib's level 1, in a quarter of its time."""
MOST_VOXELS = 2**29
"""Four times 512 x 512 x 512."""
MOST_DEFLATED = 1032
"""Bytes that one byte of gzip can stand for at most (the zlib manual)."""
MOST_BEHIND = 1 << 26
"""Bytes that may follow the voxels in a gzipped file before it is no scan."""
INCOMPLETE = (EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError)


@contextmanager
def opened(path: Path, verified: bool = True) -> Iterator[io.BufferedIOBase]:
    """The content of a file, unpacked where its first bytes say gzip.

    verified  read a gzipped file to its end on leaving, so that its checksum is compared; InputError where it goes on
              much longer than what was read
    """
    zipped = is_gzipped(path)
    with gzip.open(path) if zipped else path.open("rb") as stream:
        yield cast(io.BufferedIOBase, stream)
        behind = 0
        while zipped and verified and (block := _next_block(stream)):
            behind += len(block)
            if behind > MOST_BEHIND:
                raise InputError(f"{path}: the file goes on long after its voxels end: no scan, or a damaged header")


def write_image(image: SerializableImage, path: Path) -> None:
    """Write an image, gzipped where ``path`` ends in z; the same image makes the same bytes, whatever name and hour."""
    with path.open("wb") as file:
        if path.suffix.lower() not in (".gz", ".mgz"):
            image.to_stream(file)
            return
        with igzip.IGzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as packed:
            image.to_stream(packed)


def _next_block(stream: gzip.GzipFile | io.BufferedReader) -> bytes:
    """What follows in a gzipped file; what follows after its end, which gunzip passes over too, is none."""
    try:
        return stream.read(1 << 20)
    except gzip.BadGzipFile as error:
        if str(error).startswith("Not a gzipped file"):
            return b""
        raise


def is_gzipped(path: Path) -> bool:
    """Whether the first bytes of a file say gzip."""
    with path.open("rb") as file:
        return file.read(2) == GZIP


def check_voxels(path: Path, shape: Sequence[int]) -> None:
    """Refuse an absurd number of voxels before memory is taken for them."""
    voxels = math.prod(int(size) for size in shape)
    if voxels > MOST_VOXELS:
        sizes = " x ".join(str(size) for size in shape)
        raise InputError(f"{path}: {sizes} voxels are more than a scan has ({MOST_VOXELS:.1e}); check the header")


def check_length(path: Path, kind: str, needed: int) -> None:
    """Refuse a file that cannot hold as many bytes as it needs, before memory is taken for them."""
    most = path.stat().st_size * (MOST_DEFLATED if is_gzipped(path) else 1)
    if most < needed:
        raise _damaged(path, kind)


@contextmanager
def understood(path: Path, kind: str) -> Iterator[None]:
    """Turns what goes wrong while ``path`` is read as ``kind`` (NIfTI, say) into an InputError with the reason.

    nibabel's own lines about headers are kept from stderr.
    """
    before, logger.disabled = logger.disabled, True
    try:
        yield
    except InputError:
        raise
    except (HeaderDataError, WrapStructError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as {kind}: {reason}; convert the scan again") from error
    except MemoryError as error:
        raise InputError(f"{path}: the memory does not hold it; close other programs or crop the volume") from error
    except INCOMPLETE as error:
        raise _damaged(path, kind) from error
    except OSError as error:
        if error.errno is None:
            raise _damaged(path, kind) from error
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from error
    finally:
        logger.disabled = before


def _damaged(path: Path, kind: str) -> InputError:
    return InputError(f"{path}: cannot be read as {kind}, it is damaged or incomplete; copy it again")
