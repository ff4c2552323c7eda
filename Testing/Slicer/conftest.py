"""The fixture that all tests of the Slicer side use: Slicer's parts without its application."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from Harness.slicer_app import Slicer

MISSING = [name for name in ("slicer_core", "PySide6") if find_spec(name) is None]
TESTS = sorted(Path(__file__).parent.glob("test_*.py"))
collect_ignore = [path.name for path in TESTS if MISSING and "import slicer" in path.read_text(encoding="utf-8")]


def pytest_report_header() -> str:
    """Says when most of this folder is not tested."""
    return f"Slicer side: most tests left out, there is no {' and no '.join(MISSING)}" if MISSING else ""


@pytest.fixture
def a_slicer() -> Iterator[Slicer]:
    """The application with an empty scene; what the test leaves running is stopped after it."""
    if MISSING:
        pytest.skip(f"there is no {' and no '.join(MISSING)}: see Testing/Harness/README.md")
    from Harness.slicer_app import Slicer

    running = Slicer.instance()
    running.fresh_scene()
    yield running
    running.end_test()
