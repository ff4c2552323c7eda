"""Where the extension's own files are: beside the module where it is installed, one level up in a checkout."""

from __future__ import annotations

import importlib.util
import os
import sys

_MODULE_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_CHECKOUT_FOLDER = os.path.dirname(_MODULE_FOLDER)


def resourcePath(filename: str) -> str:
    """The absolute path of a file in Resources, for example ``resourcePath("UI/BrainDiffSlicer.ui")``."""
    beside = os.path.join(_MODULE_FOLDER, "Resources")
    folder = beside if os.path.isdir(beside) else os.path.join(_CHECKOUT_FOLDER, "Resources")
    return os.path.join(folder, filename)


def makeLibraryImportable() -> None:
    """See to it that ``import BrainDiffLogic`` works: an installed extension is on the path, a checkout is not."""
    if importlib.util.find_spec("BrainDiffLogic") is None:
        sys.path.append(_CHECKOUT_FOLDER)
