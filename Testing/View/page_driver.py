"""What a person does with the page, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page


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
    page.wait_for_selector("#download")
