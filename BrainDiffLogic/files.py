"""Files: where those lie that come with the library, and the digests (sha256) that content is known by."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def resources() -> Path:
    """Their folder: beside the library in a checkout and in Slicer, inside it in a wheel."""
    library = Path(__file__).resolve().parent
    inside = library / "Resources"
    return inside if inside.is_dir() else library.parent / "Resources"


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
