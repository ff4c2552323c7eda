"""Reads the XML of a CLI module and builds its command line by the rules of vtkSlicerCLIModuleLogic."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from xml.etree import ElementTree

NOT_PARAMETERS = {"label", "description"}
FILES_OF_NODES = {"image": ".nrrd", "table": ".tsv"}
LEFT_OUT_IF_EMPTY = {"file", "directory", "string", "integer-vector", "float-vector", "double-vector", "string-vector"}


@dataclasses.dataclass
class Parameter:
    """One parameter: tag, names of its flags (without dashes) or its place in the argument list, and its default."""

    tag: str
    name: str
    label: str
    flag: str
    long_flag: str
    index: int | None
    channel: str
    default: str
    reference: str

    @property
    def is_node(self) -> bool:
        """Whether its value is the ID of a node that travels as a file."""
        return self.tag in FILES_OF_NODES

    @property
    def written_flag(self) -> str:
        return f"--{self.long_flag}" if self.long_flag else f"-{self.flag}"


class Description:
    """What the XML beside a CLI script says."""

    def __init__(self, path: Path):
        tree = ElementTree.parse(path)
        self.title = tree.findtext("title", "")
        elements = [e for group in tree.findall("parameters") for e in group if e.tag not in NOT_PARAMETERS]
        self.parameters = [self._parameter(element) for element in elements]
        strange = {p.tag for p in self.parameters} & {"geometry", "transform", "measurement", "point", "region"}
        if strange:
            raise NotImplementedError(f"{path.name}: the harness cannot pass {', '.join(sorted(strange))}")

    @staticmethod
    def _parameter(element) -> Parameter:
        index = element.findtext("index")
        return Parameter(
            element.tag,
            element.findtext("name"),
            element.findtext("label", ""),
            element.findtext("flag", "").lstrip("-"),
            element.findtext("longflag", "").lstrip("-"),
            int(index) if index is not None else None,
            element.findtext("channel", "input"),
            element.findtext("default", ""),
            element.get("reference", ""),
        )

    def named(self, name: str) -> Parameter | None:
        return next((p for p in self.parameters if p.name == name), None)

    def arguments(self, values: dict[str, str], files: dict[str, Path]) -> list[str]:
        """The command line after the script; ``files`` holds the file of each node parameter that is set.

        Raises ValueError if an argument without flag has no value.
        """
        with_flag = [p for p in self.parameters if p.flag or p.long_flag]
        placed = sorted((p for p in self.parameters if p not in with_flag), key=lambda p: p.index)
        words = [word for p in with_flag for word in self._flagged(p, values[p.name], files)]
        for parameter in placed:
            value = str(files.get(parameter.name, "")) if parameter.is_node else values[parameter.name]
            if not value:
                raise ValueError(f'No value assigned to "{parameter.label}"')
            words.append(value)
        return words

    @staticmethod
    def _flagged(parameter: Parameter, value: str, files: dict[str, Path]) -> list[str]:
        if parameter.is_node:
            value = str(files.get(parameter.name, ""))
            return [parameter.written_flag, value] if value else []
        if parameter.tag == "boolean":
            return [parameter.written_flag] if value == "true" else []
        if parameter.tag in LEFT_OUT_IF_EMPTY and value == "":
            return []
        return [parameter.written_flag, value]
