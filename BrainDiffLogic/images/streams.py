"""Files that may be gzipped, whatever they are called, and why one cannot be read."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from nibabel.imageglobals import logger
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from BrainDiffLogic.errors import InputError

GZIP = b"\x1f\x8b"
INCOMPLETE = (EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError)


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """The content of a file, unpacked where its first bytes say gzip; on leaving, the checksum is verified."""
    with path.open("rb") as file:
        zipped = file.read(2) == GZIP
    with gzip.open(path) if zipped else path.open("rb") as stream:
        yield cast(io.BufferedIOBase, stream)
        while zipped and stream.read(1 << 20):
            pass


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
