"""What the tests of the Slicer side use: Slicer's parts without its application, and the panel in them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from panel_parts import MODULE, add_head

from Harness.correctors import save_tiny

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


@pytest.fixture
def a_temporary_folder(a_slicer, tmp_path, monkeypatch) -> Path:
    """Where all temporary files of a run go."""
    import slicer

    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr(slicer.app, "temporaryPath", str(folder), raising=False)
    return folder


@pytest.fixture
def a_tiny_model(tmp_path, monkeypatch) -> str:
    """The name of an untrained model that this computer has beside the shipped ones."""
    folder = tmp_path / "models"
    folder.mkdir()
    save_tiny(folder / "tiny.safetensors")
    monkeypatch.setenv("BRAINDIFF_MODELS", str(folder))
    return "tiny"


@pytest.fixture
def the_module(a_slicer):
    """The module as Slicer has it after its start."""
    return a_slicer.load_module(MODULE)


@pytest.fixture
def a_panel(a_slicer, the_module, a_tiny_model, a_temporary_folder):
    """The panel, opened, with an empty scene; it looks at no volume by itself."""
    import qt

    qt.QSettings().setValue("BrainDiff/EstimateMotion", False)
    return a_slicer.open_panel("BrainDiffSlicer")


@pytest.fixture
def a_panel_with_a_head(a_panel):
    """The panel with a head selected and the tiny model, on the CPU."""
    node = add_head()
    parameters = a_panel.logic.getParameterNode()
    parameters.inputVolume = node
    parameters.model = "tiny"
    a_panel.ui.deviceComboBox.currentIndex = a_panel.ui.deviceComboBox.findData("cpu")
    return a_panel
