"""What headers, names and sidecars tell of a contrast agent, without which all models were trained."""

from __future__ import annotations

import re

WITHOUT = re.compile(r"(?:pre|non?|without|w/o|ohne|sans)[ _-]*(?:contrast|gad\w*|gd|km|ce)\b", re.IGNORECASE)
WITH = re.compile(
    r"gad|(?<![a-z])gd|gd(?![a-z])|\+c\b|post(?!er)|contrast|(?<![a-z])ce(?![a-z])|(?<![a-z])km(?![a-z])", re.IGNORECASE
)
NO_AGENT = re.compile(r"|no(ne)?\b.*|n/?a", re.IGNORECASE)


def speaks_of_contrast(description: str) -> bool:
    """Whether the name of a series says that a contrast agent was given."""
    return bool(WITH.search(WITHOUT.sub("", description)))


def is_agent(named: str) -> bool:
    """Whether a header's or sidecar's entry names a contrast agent, and not that there was none."""
    return not NO_AGENT.fullmatch(named.strip())


def contrast_notes(agent: str) -> tuple[str, ...]:
    """What to know of a scan made with this agent; nothing where it is none."""
    return (f"made with a contrast agent ({agent}), which the shipped models have not seen",) if is_agent(agent) else ()
