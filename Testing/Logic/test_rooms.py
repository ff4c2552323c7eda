"""The rooms of the library lie on one another: an import goes downwards, also one inside a function."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
LIBRARY, VIEWER = CHECKOUT / "BrainDiffLogic", CHECKOUT / "BrainDiffSlicer" / "BrainDiffViewer"
FLOORS = (
    "errors", "files", "progress", "fill", "display", "volume", "images", "scan", "metrics", "motion", "pictures",
    "models", "inference", "severity", "data", "training", "disagreement", "correction", "pages", "correction_files",
    "cohort", "evaluation", "papers", "BrainDiffViewer", "commands",
)  # fmt: skip
"""Folders and modules of the library, the lowest first; what an import names must come earlier. The viewer lies apart,
with what touches Slicer, and only the command line may open it."""
PACKAGE = "BrainDiffLogic"
ABOVE = ("disagreement", "correction", "pages", "correction_files", "cohort", "evaluation")
"""Rooms above training that are installed without its packages."""


def rooms() -> dict[str, list[Path]]:
    """The sources of each room."""
    found = {VIEWER.name: sorted(VIEWER.glob("*.py"))}
    for path in sorted(LIBRARY.rglob("*.py")):
        if path != LIBRARY / "__init__.py":  # what `import BrainDiffLogic` offers, from whatever room
            found.setdefault(path.relative_to(LIBRARY).with_suffix("").parts[0], []).append(path)
    return found


def imported_rooms(source: str, names: set[str]) -> Iterator[tuple[int, str]]:
    """(line, room) of every import of the library in a source, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for package, _, rest in (module.partition(".") for module in modules):
            if (room := rest.partition(".")[0] if package == PACKAGE else package) in names:
                yield node.lineno, room


def upward(source: str, room: str) -> list[tuple[int, str]]:
    """The imports of a source of ``room`` that name a room above it."""
    return [(line, to) for line, to in imported_rooms(source, set(FLOORS)) if FLOORS.index(to) > FLOORS.index(room)]


def test_every_room_has_its_floor() -> None:
    assert not set(rooms()) - set(FLOORS), "a room without a floor; give it one"


def test_every_room_is_described_in_the_order_of_the_floors() -> None:
    text = (CHECKOUT / "Resources" / "Documentation" / "developers.md").read_text("utf-8")
    lines = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    described = [name for line in lines for name in re.findall(r"`(\w+)`", line) if name in FLOORS]
    assert described == list(FLOORS), "developers.md describes other rooms, or in another order"


def test_no_import_runs_upward() -> None:
    found = [
        f"{path.relative_to(CHECKOUT)}:{line} imports {to}"
        for room, paths in rooms().items() for path in paths for line, to in upward(path.read_text("utf-8"), room)
    ]  # fmt: skip
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "from BrainDiffLogic.commands.simulate_cohort import draw_up_to",
        "import BrainDiffLogic.commands.main",
        "from BrainDiffLogic import commands",
        "def late():\n    from BrainDiffLogic.commands.main import main",
    ],
)
def test_an_import_upward_is_seen_however_it_is_written(source: str) -> None:
    assert [to for _, to in upward(source, "papers")] == ["commands"]
    assert not upward(source, "commands")


def test_the_library_below_the_commands_does_not_see_the_viewer() -> None:
    for source in ("from BrainDiffViewer.gate import Gate", "import BrainDiffViewer"):
        assert upward(source, "papers") and not upward(source, "commands")


def test_only_training_and_what_lies_above_it_need_its_packages() -> None:
    """What `pip install braindiff` brings is enough to correct; the rest is in the extra `train`."""
    below = {room: paths for room, paths in rooms().items() if FLOORS.index(room) < FLOORS.index("training")}
    for path in (path for paths in (*below.values(), *[rooms()[room] for room in ABOVE]) for path in paths):
        names = re.findall(r"^\s*(?:from|import) (\w+)", path.read_text("utf-8"), re.MULTILINE)
        assert not {"lightning", "pydantic", "tensorboard", "yaml"} & set(names), path


def test_motion_is_injected_without_the_packages_of_training() -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(('lightning', 'pydantic', 'tensorboard', 'yaml')));"
    code = f"{blocked} import BrainDiffLogic.training.injected_pairs, BrainDiffLogic.models.generative"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT)
    assert child.returncode == 0, child.stderr
