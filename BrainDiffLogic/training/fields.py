"""Reading a YAML configuration into a dataclass, with one-line reasons where it cannot be."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from BrainDiffLogic.errors import InputError

Limits = dict[str, tuple[type, float, float]]
"""Each number of a section: int or float, lowest and highest value."""


def read_yaml(path: str | Path, shipped: str) -> dict[str, Any]:
    """The mapping in a YAML file; ``shipped`` names the configurations there are, for the message."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such configuration file; shipped are {shipped}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give --config a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: a configuration is a mapping of fields, see Resources/Training")
    return content


def make_section(cls: type, content: Any, path: str | Path, section: str = "configuration") -> Any:
    """The dataclass ``cls`` from a mapping; unknown or missing fields are an InputError that names them."""
    if not isinstance(content, dict):
        raise InputError(f"{path}: {section} must hold fields with values, got {content!r}")
    names = {f.name for f in dataclasses.fields(cls)}
    required = {
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if unknown := set(content) - names:
        name = sorted(map(str, unknown))[0]
        raise InputError(f"{path}: unknown field {name!r} in {section}; known are {', '.join(sorted(names))}")
    if missing := required - set(content):
        raise InputError(f"{path}: the field {sorted(missing)[0]!r} of {section} is missing")
    return cls(**content)


def check_numbers(section: object, path: str | Path, numbers: Limits) -> None:
    """Raise InputError for a field outside its limits."""
    for name, limits in numbers.items():
        check_number(name, getattr(section, name), limits, path)


def check_number(name: str, value: Any, limits: tuple[type, float, float], path: str | Path) -> None:
    """Raise InputError for a value that is no number of that type within (type, lowest, highest)."""
    kind, low, high = limits
    allowed = int if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed):
        hint = "; YAML reads 1e-3 as text, write 0.001" if isinstance(value, str) else ""
        raise InputError(f"{path}: {name} must be {'a whole' if kind is int else 'a'} number, got {value!r}{hint}")
    if not low <= value <= high:
        bound = f"{low} or more" if high == math.inf else f"between {low} and {high}"
        raise InputError(f"{path}: {name} must be {bound}, got {value}")


def check_parts(batch: int, accumulate: int, path: str | Path) -> None:
    """Raise InputError where a batch cannot be computed in so many equal parts."""
    if batch % accumulate:
        raise InputError(f"{path}: batch {batch} cannot be computed in {accumulate} equal parts")
