"""Reading a YAML file into a dataclass: pydantic checks the fields, the person gets one line.

    @dataclass(frozen=True)
    class Settings(Section):
        steps: Count
        rate: Amount = 0.001

    settings = read_section(Settings, "settings.yaml")
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import yaml
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.files import resources

T = TypeVar("T")
Count = Annotated[int, Field(ge=1, strict=True)]
Natural = Annotated[int, Field(ge=0, strict=True)]
Amount = Annotated[float, Field(ge=0, strict=True)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
"""Strict: without it text and flags would be read as numbers, too."""


def _rising(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"must be [lowest, highest], got {list(ends)}")
    return ends


def range_within(above: float, most: float = math.inf) -> AfterValidator:
    """For a ``Range`` that may not reach down to ``above``, nor beyond ``most``."""

    def check(ends: tuple[float, float]) -> tuple[float, float]:
        if not above < ends[0] <= ends[1] <= most:
            bound = "" if most == math.inf else f" and up to {most:g}"
            raise ValueError(f"must be [lowest, highest] above {above:g}{bound}, got {list(ends)}")
        return ends

    return AfterValidator(check)


Range = Annotated[tuple[Amount, Amount], AfterValidator(_rising)]
"""[lowest, highest] in YAML."""


def one_of(names: Collection[str]) -> AfterValidator:
    """For text that must be one of these names."""

    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"must be one of {', '.join(names)}, got {name!r}")
        return name

    return AfterValidator(check)


def weights_of(names: Collection[str]) -> AfterValidator:
    """For a mapping of some of these names to weights that are not all 0."""

    def check(weights: dict[str, float]) -> dict[str, float]:
        if unknown := set(weights) - set(names):
            raise ValueError(f"{min(unknown)!r} is unknown; use {', '.join(names)}")
        if not any(weights.values()):
            raise ValueError("has no weight above 0")
        return weights

    return AfterValidator(check)


def _named_or_arguments(network: Any) -> Any:
    if not isinstance(network, str | dict):
        raise ValueError(f"must be a name or a mapping of arguments, got {network!r}")
    return network


Network = Annotated[Any, AfterValidator(_named_or_arguments)]
"""The name of a known network, or its arguments."""


class Section:
    """A dataclass that ``read_section`` can read: without unknown fields and infinite numbers."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)


def configuration_folder() -> Path:
    """Where the shipped configurations are."""
    return resources() / "Training"


def find_configuration(name: str | Path) -> Path:
    """A configuration file by its path, or a shipped one by its name ("mc-net", "mc-net.yaml")."""
    path = Path(name)
    if path.is_file() or len(path.parts) > 1:
        return path
    shipped = configuration_folder() / f"{path.name.removesuffix('.yaml')}.yaml"
    return shipped if shipped.is_file() else path


def read_section(cls: type[T], path: str | Path, **overrides: Any) -> T:
    """The dataclass in a YAML file, with fields replaced by the ``overrides`` that are not None.

    path  of the file, or the name of a shipped configuration
    Raises InputError, one line that names the file, the field and what is wrong with it.
    """
    path = find_configuration(path)
    content = {**_read(path), **{name: value for name, value in overrides.items() if value is not None}}
    try:
        return TypeAdapter(cls).validate_python(content)
    except ValidationError as errors:
        raise InputError(f"{path}: {_line(errors.errors()[0], cls)}") from None


def _read(path: str | Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        shipped = ", ".join(file.stem for file in sorted(configuration_folder().glob("*.yaml"))) or "none"
        raise InputError(f"{path}: there is no such configuration file; shipped are {shipped}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give --config a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise InputError(f"{path}: a configuration is a mapping of fields, see Resources/Training")
    return content


PLAIN = {
    "int_type": "must be a whole number", "float_type": "must be a number", "finite_number": "must be finite",
    "greater_than_equal": "must be {ge:g} or more", "less_than_equal": "must be {le:g} or less",
    "less_than": "must be less than {lt:g}", "string_type": "must be text", "bool_type": "must be true or false",
    "list_type": "must be a list", "too_short": "must list one or more", "tuple_type": "must be [lowest, highest]",
    "too_long": "must be [lowest, highest]",
    "dict_type": "must map names to values", "dataclass_type": "must hold fields with values",
}  # fmt: skip
"""What kinds of pydantic's errors mean, in words of YAML; ``ge`` and so on are in the error's context."""


def _line(error: Mapping[str, Any], cls: type) -> str:
    """What pydantic found, as a sentence: "stages[0].steps must be 1 or more, got 0"."""
    place, kind = list(error["loc"]), error["type"]
    if kind == "missing" and isinstance(place[-1], int):  # an end of a range
        kind, place = "tuple_type", place[:-1]
    section, field = _named(place[:-1]) or "configuration", _named(place)
    if kind == "missing":
        return f"the field {place[-1]!r} of {section} is missing"
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _names(cls, place[:-1])
        return f"unknown field {place[-1]!r} in {section}" + (f"; known are {', '.join(known)}" if known else "")
    if kind == "value_error":
        return f"{field} {error['ctx']['error']}".lstrip()
    text = PLAIN[kind].format(**error.get("ctx", {})) if kind in PLAIN else error["msg"]
    hint = "; YAML reads 1e-3 as text, write 0.001" if kind == "float_type" and isinstance(error["input"], str) else ""
    return f"{field} {text}, got {error['input']!r}{hint}"


def _named(place: Sequence[int | str]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


def _names(cls: Any, place: Sequence[int | str]) -> list[str]:
    """The fields of a dataclass, or of the section at ``place`` in it."""
    for part in place:
        if not isinstance(part, int):
            adapted = {f.name: f for f in dataclasses.fields(cls)}[part].default_factory
            cls = adapted if dataclasses.is_dataclass(adapted) else None
    return sorted(f.name for f in dataclasses.fields(cls)) if cls else []
