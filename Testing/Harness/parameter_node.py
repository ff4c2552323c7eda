"""Stand-in of slicer.parameterNodeWrapper: typed attributes kept in a parameter node, bound to widgets."""
# ruff: noqa: N801, N802, N815 - the names are Slicer's and Qt's

from __future__ import annotations

import dataclasses
import enum
import types
import typing

import slicer
import vtk

NAME_IN_FORM = "SlicerParameterName"


@dataclasses.dataclass
class Default:
    """The value of a parameter that nobody has set."""

    value: object


@dataclasses.dataclass
class WithinRange:
    """Refuses numbers outside of minimum..maximum; sliders take the range over."""

    minimum: float
    maximum: float

    def validate(self, value) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within the range [{self.minimum}, {self.maximum}], is {value}")


@dataclasses.dataclass(init=False)
class Choice:
    """Refuses what is not listed; combo boxes list the choices."""

    choices: list

    def __init__(self, choices):
        self.choices = list(choices)

    def validate(self, value) -> None:
        if value not in self.choices:
            raise ValueError(f"Value must be one of {self.choices}, is {value!r}")


class _Parameter:
    """How one attribute is written to a node, and read again."""

    def __init__(self, name: str, hint, owner: type):
        self.name, notes = name, ()
        if typing.get_origin(hint) is typing.Annotated:
            hint, *notes = typing.get_args(hint)
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        else:
            kinds = [hint]
        self.kind, self.kinds = kinds[0], kinds
        self.is_node = issubclass(self.kind, slicer.vtkMRMLNode)
        if not self.is_node and not (self.kind in (int, float, bool, str) or issubclass(self.kind, enum.Enum)):
            raise TypeError(f"the stand-in cannot keep {owner.__name__}.{name} of {self.kind}")
        self.checks = [note for note in notes if hasattr(note, "validate")]
        if hasattr(owner, name):
            self.default = getattr(owner, name)
        else:
            self.default = next((n.value for n in notes if isinstance(n, Default)), self._own_default())

    def _own_default(self):
        if self.is_node:
            return None
        return next(iter(self.kind)) if issubclass(self.kind, enum.Enum) else self.kind()

    def first(self, kind: type):
        return next((check for check in self.checks if isinstance(check, kind)), None)

    def is_in(self, node) -> bool:
        return bool(node.HasParameter(self.name))

    def write(self, node, value) -> None:
        if self.is_node:
            if value is not None and not isinstance(value, tuple(self.kinds)):
                raise TypeError(f"{self.name} takes {self.kind.__name__}, not {value!r}")
            node.SetParameter(self.name, "")  # so that it counts as written, also with no node
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
            return
        if self.kind is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, self.kind):
            raise TypeError(f"{self.name} takes {self.kind.__name__}, not {value!r}")
        for check in self.checks:
            check.validate(value)
        node.SetParameter(self.name, value.name if isinstance(value, enum.Enum) else str(value))

    def read(self, node):
        if self.is_node:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if self.kind is bool:
            return text == "True"
        return self.kind[text] if issubclass(self.kind, enum.Enum) else self.kind(text)

    def attribute(self) -> property:
        def write(wrapper, value):
            with slicer.util.NodeModify(wrapper.parameterNode):
                self.write(wrapper.parameterNode, value)

        return property(lambda wrapper: self.read(wrapper.parameterNode), write)


# Widgets: (signal, how to read, how to write)


def _attribute(name: str, signal: str):
    return signal, lambda widget: getattr(widget, name), lambda widget, value: setattr(widget, name, value)


def _prepare(widget, parameter: _Parameter):
    """The signal of the widget, and how it is read and written; the widget takes range, types or choices over."""
    import ctk
    import qt

    if parameter.is_node and isinstance(widget, slicer.qMRMLNodeComboBox):
        widget.nodeTypes = [kind.__name__ for kind in parameter.kinds]
        return "currentNodeChanged", lambda w: w.currentNode(), lambda w, node: w.setCurrentNode(node)
    if parameter.kind is bool and isinstance(widget, (qt.QCheckBox, qt.QPushButton)):
        return _attribute("checked", "toggled")
    if parameter.kind is str and isinstance(widget, qt.QLineEdit):
        return _attribute("text", "textChanged")
    if parameter.kind in (int, float) and isinstance(widget, (ctk.ctkSliderWidget, qt.QSpinBox, qt.QDoubleSpinBox)):
        limits = parameter.first(WithinRange)
        if limits is None and isinstance(widget, ctk.ctkSliderWidget):
            raise RuntimeError("Cannot have a connection to ctkSliderWidget where the float types is unbounded.")
        if limits is not None:
            widget.minimum, widget.maximum = limits.minimum, limits.maximum
        return _attribute("value", "valueChanged")
    if isinstance(widget, qt.QComboBox):
        return _prepare_choices(widget, parameter)
    raise RuntimeError(f"Unable to create GUI connector from {parameter.name} to widget type {type(widget)}.")


def _prepare_choices(widget, parameter: _Parameter):
    choice = parameter.first(Choice)
    if choice is None and not issubclass(parameter.kind, enum.Enum):
        raise RuntimeError("ComboBoxToStringableConnector requires the Choice annotation to be used.")
    choices = choice.choices if choice else list(parameter.kind)
    widget.clear()
    for each in choices:
        widget.addItem(str(each.value) if isinstance(each, enum.Enum) else str(each))

    def write(w, value):
        w.currentIndex = choices.index(value)

    return "currentIndexChanged", lambda w: choices[w.currentIndex], write


class _Binding:
    """Widgets and parameters that follow each other until it is closed."""

    def __init__(self, wrapper, widgets: dict):
        self.wrapper, self.rows, self.updating = wrapper, [], False
        for name, widget in widgets.items():
            if name not in wrapper.allParameters:
                raise ValueError(f"Cannot find a param with the given name: {name}")
            signal, read, write = _prepare(widget, wrapper.allParameters[name])
            slot = self._slot(name, widget, read)
            write(widget, getattr(wrapper, name))
            getattr(widget, signal).connect(slot)
            self.rows.append((name, widget, write, getattr(widget, signal), slot))
        self.tag = wrapper.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self.update())

    def _slot(self, name: str, widget, read):
        def changed(*_):
            if not self.updating:
                setattr(self.wrapper, name, read(widget))

        return changed

    def update(self) -> None:
        if self.updating:
            return
        self.updating = True
        try:
            for name, widget, write, _signal, _slot in self.rows:
                write(widget, getattr(self.wrapper, name))
        finally:
            self.updating = False

    def close(self) -> None:
        self.wrapper.RemoveObserver(self.tag)
        for *_, signal, slot in self.rows:
            signal.disconnect(slot)


class _Wrapper:
    """What every wrapped class can do."""

    def __init__(self, parameterNode):
        self.parameterNode, self._bindings = parameterNode, {}
        for parameter in self.allParameters.values():
            if not parameter.is_in(parameterNode):
                parameter.write(parameterNode, parameter.default)

    def connectParametersToGui(self, mapping: dict) -> int:
        tag = max(self._bindings, default=-1) + 1
        self._bindings[tag] = _Binding(self, mapping)
        return tag

    def connectGui(self, gui) -> int:
        import qt

        widgets = gui.findChildren(qt.QWidget) if isinstance(gui, qt.QWidget) else vars(gui).values()
        named = {widget.property(NAME_IN_FORM): widget for widget in widgets}
        return self.connectParametersToGui({name: widget for name, widget in named.items() if name})

    def disconnectGui(self, tag) -> None:
        if tag in self._bindings:
            self._bindings.pop(tag).close()

    def getValue(self, name: str):
        return getattr(self, name)

    def setValue(self, name: str, value) -> None:
        setattr(self, name, value)

    def StartModify(self):
        return self.parameterNode.StartModify()

    def EndModify(self, was):
        return self.parameterNode.EndModify(was)

    def Modified(self) -> None:
        self.parameterNode.Modified()

    def AddObserver(self, event, callback, priority: float = 0.0) -> int:
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag) -> None:
        self.parameterNode.RemoveObserver(tag)


def parameterNodeWrapper(cls=None):
    """Class decorator: the annotated attributes live in the parameter node given to the constructor."""
    if cls is None:
        return parameterNodeWrapper
    hints = typing.get_type_hints(cls, include_extras=True)
    parameters = {name: _Parameter(name, hint, cls) for name, hint in hints.items()}
    body = {name: parameter.attribute() for name, parameter in parameters.items()}
    body |= {"allParameters": parameters, "__doc__": cls.__doc__, "__module__": cls.__module__}
    return type(cls.__name__, (_Wrapper,), {k: v for k, v in vars(cls).items() if callable(v)} | body)
