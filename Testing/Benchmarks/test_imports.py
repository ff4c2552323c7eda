"""The programs here, which no test runs, name modules and functions of the library that exist."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = sorted(Path(__file__).parent.glob("*.py"))


def imported(source: str) -> Iterator[tuple[str, str]]:
    """(module, name) of all that a source imports from the library."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "BrainDiffLogic":
            yield from ((node.module, alias.name) for alias in node.names)


def exists(module: str, name: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), name) or bool(importlib.import_module(f"{module}.{name}"))
    except ModuleNotFoundError as error:
        assert error.name and error.name.startswith("BrainDiffLogic"), error
        return False


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_what_a_program_imports_from_the_library_is_there(program: Path) -> None:
    lost = [f"{module}.{name}" for module, name in imported(program.read_text("utf-8")) if not exists(module, name)]
    assert not lost


def test_a_lost_name_is_noticed() -> None:
    found = list(imported("from BrainDiffLogic.motion import preset, nothing\nfrom BrainDiffLogic.lost import one"))
    assert [exists(*one) for one in found] == [True, False, False]
