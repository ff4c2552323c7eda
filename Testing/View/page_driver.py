"""What a person does with the page, for tests."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

CORRECTION_MS = 900_000
"""A correction takes minutes on a busy machine."""


def value(page: Page, name: str) -> object:
    """What the page's state holds under a name."""
    return page.evaluate("name => window.trame.state.state[name]", name)


def upload(page: Page, path: Path) -> None:
    """Sends a file and waits until it is shown."""
    page.set_input_files("#file", path)
    page.wait_for_function("name => window.trame.state.state.name === name", arg=path.name)
    page.wait_for_selector(".pane img, .pane canvas")


def correct(page: Page) -> None:
    """Presses the button and waits for the end."""
    page.click("#correct")
    page.wait_for_selector("#download", timeout=CORRECTION_MS)


def serious_faults(page: Page) -> list[tuple[str, list[str]]]:
    """What axe-core finds serious or worse: each fault's name, and the elements that have it.

    The script is read here, as the package reads it in the locale's encoding, which other tests change.
    """
    package = find_spec("axe_playwright_python")
    if package is None:
        pytest.skip("axe-playwright-python is not installed")
    page.evaluate(Path(package.origin).with_name("axe.min.js").read_text(encoding="utf-8"))
    faults = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    serious = [one for one in faults if one["impact"] in ("serious", "critical")]
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in serious]
