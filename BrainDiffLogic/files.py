"""Files: where those lie that come with the library, and the digests (sha256) that content is known by."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def resources() -> Path:
    """Their folder: beside the library in a checkout and in Slicer, inside it in a wheel."""
    library = Path(__file__).resolve().parent
    inside = library / "Resources"
    return inside if inside.is_dir() else library.parent / "Resources"


GIT = ".git"
"""Where git and datalad keep all contents a second time."""
SHORT = 16
"""Characters of a digest that names a folder or a set of files: 64 bits."""


def digest(content: Any) -> str:
    """The 64 hexadecimal characters of bytes, of text (UTF-8), or of any other value as JSON holds it, sorted."""
    if not isinstance(content, bytes):
        text = content if isinstance(content, str) else json.dumps(content, sort_keys=True)
        content = text.encode()
    return hashlib.sha256(content).hexdigest()


def file_digest(path: str | os.PathLike[str]) -> str:
    """The digest of what a file holds; of a folder (a DICOM series) that of the names and contents of its files."""
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return digest([[file.relative_to(path).as_posix(), file_digest(file)] for file in files])
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folders_below(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """``root`` and every folder below it, each with its files, in the order of their names.

    A link to a folder elsewhere is followed, as one to a file is. None is followed twice, nor one to a folder within
    ``root``, which comes under its own name, nor one to a folder around it, which would bring what lies beside it.
    """
    top = root.resolve()
    seen = {top}

    def is_new(folder: Path) -> bool:
        real = folder.resolve()
        if real in seen or folder.is_symlink() and (real.is_relative_to(top) or top.is_relative_to(real)):
            return False
        seen.add(real)
        return True

    for place, below, names in os.walk(root, followlinks=True):
        folder = Path(place)
        below[:] = sorted(name for name in below if name != GIT and is_new(folder / name))
        yield folder, [folder / name for name in sorted(names)]
