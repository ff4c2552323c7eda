"""Pages that are looked at in a browser: each one file with its style, script and pictures, which needs no network."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from BrainDiffLogic import __version__
from BrainDiffLogic.resources import resources


def render(template: str, **values: Any) -> str:
    """A page from Resources/Pages/TEMPLATE.html.jinja; whatever text the values hold is escaped."""
    environment = Environment(
        loader=FileSystemLoader(resources() / "Pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(f"{template}.html.jinja").render(version=__version__, **values)
