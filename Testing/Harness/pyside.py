"""Modules ``qt`` and ``ctk`` with PythonQt's face, over PySide6: properties are attributes, signals connect by text."""
# ruff: noqa: N801, N802, N815 - the names are Slicer's and Qt's

from __future__ import annotations

import ctypes
import os
import sys
import types
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
from PySide6 import QtCore, QtGui, QtTest, QtUiTools, QtWidgets

if sys.version_info < (3, 12):
    # PySide6 6.12 returns None without counting it, so that a test that waits long would end all of Python with
    # "deallocating None". No number of calls uses these references up; from 3.12 on Python does not count them.
    ctypes.c_ssize_t.from_address(id(None)).value += 1 << 40

PART_OF_QT = (QtCore, QtGui, QtWidgets)
# QTimer.singleShot is a static method and a property in Qt; Slicer lets the static method win (slicerqt.py).
# The others are virtual: Qt would ask Python for them while Python asks Qt.
NOT_A_PROPERTY = {"singleShot", "sizeHint", "minimumSizeHint", "duration"}
wrapped: set[type] = set()
_text_of_progress_bar = QtWidgets.QProgressBar.text  # virtual too, but panels read it


def _read(name: str):
    return lambda self: QtCore.QObject.property(self, name)


def _write(name: str):
    def write(self: QtCore.QObject, value: object) -> None:
        if not self.setProperty(name, value):
            raise TypeError(f"{type(self).__name__}.{name} does not take {value!r}")

    return write


def properties_as_attributes(cls: type) -> None:
    """Every Qt property that the class declares becomes a Python attribute, to read and to write."""
    meta = cls.staticMetaObject
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        declared = meta.property(index)
        if declared.name() not in NOT_A_PROPERTY:
            write = _write(declared.name()) if declared.isWritable() else None
            setattr(cls, declared.name(), property(_read(declared.name()), write))
    if cls is QtWidgets.QProgressBar:
        cls.text = property(_text_of_progress_bar)


def _signal(sender: QtCore.QObject, signature: str):
    name = signature.split("(")[0]
    if not hasattr(sender, name):
        raise ValueError(f"{type(sender).__name__} has no signal {signature}")
    return getattr(sender, name)


def _connect(self: QtCore.QObject, signature: str, receiver, member: str | None = None) -> None:
    _signal(self, signature).connect(getattr(receiver, member.split("(")[0]) if member else receiver)


def _disconnect(self: QtCore.QObject, signature: str, receiver) -> None:
    _signal(self, signature).disconnect(receiver)


def _connect_by_text_too(cls: type) -> None:
    # PySide looks for these two in the class itself only.
    cls.connect, cls.disconnect = _connect, _disconnect


def _refusing_unknown_attributes(base: type):
    # PythonQt refuses w.enable = False on a C++ widget; plain Python would keep the misspelt name and do nothing.
    def set_attribute(self: QtCore.QObject, name: str, value: object) -> None:
        if type(self) in wrapped and not name.startswith("_") and not hasattr(type(self), name):
            if QUiLoader.busy:  # PySide would make every widget of a form an attribute of the form
                return
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        base.__setattr__(self, name, value)

    return set_attribute


def _base_of(cls: type) -> type:
    return cls.__mro__[1] if cls in wrapped and cls.__module__ == "qt" else cls


class _FaceType(type(QtCore.QObject)):
    """Lets ``isinstance(w, qt.QLabel)`` answer for labels that Qt made itself."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _base_of(cls)) if _base_of(cls) is not cls else super().__instancecheck__(instance)


def _find_children(self: QtCore.QObject, cls: type = QtCore.QObject, name: str = "") -> list[QtCore.QObject]:
    return [
        c
        for c in QtCore.QObject.findChildren(self, QtCore.QObject)
        if isinstance(c, cls) and name in ("", c.objectName)
    ]


def with_face(base: type) -> type:
    """The class as PythonQt shows it, named as Qt names it."""
    body = {
        "connect": _connect,
        "disconnect": _disconnect,
        "__init_subclass__": classmethod(_connect_by_text_too),
        "findChildren": _find_children,
        "className": lambda self: type(self).__name__,
        "__setattr__": _refusing_unknown_attributes(base),
        "__module__": "qt",
    }
    if hasattr(base, "exec"):
        body["exec_"] = base.exec
    face = _FaceType(base.__name__, (base,), body)
    wrapped.add(face)
    return face


def offer(module: types.ModuleType, *classes: type) -> None:
    """Puts own widget classes into ``qt``, ``ctk`` or ``slicer`` as if they were C++ classes."""
    for cls in classes:
        wrapped.add(cls)
        setattr(module, cls.__name__, cls)


def _make_qt() -> types.ModuleType:
    module = types.ModuleType("qt", "PySide6 with PythonQt's face (Testing/Harness/pyside.py)")
    for part in PART_OF_QT:
        for name in (n for n in dir(part) if not n.startswith("_")):
            thing = getattr(part, name)
            if isinstance(thing, type) and issubclass(thing, QtCore.QObject):
                properties_as_attributes(thing)
                if not issubclass(thing, QtCore.QCoreApplication):
                    thing = with_face(thing)
            setattr(module, name, thing)
    QtCore.QObject.name = property(lambda self: self.objectName, lambda self, value: self.setObjectName(value))
    return module


def _make_application() -> QtWidgets.QApplication:
    application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["BrainDiff tests"])
    application.setOrganizationName("BrainDiff tests")
    application.setStyle("Fusion")
    font = QtGui.QFont("DejaVu Sans")
    font.setPixelSize(13)
    application.setFont(font)
    return application


def press_key(window: QtWidgets.QWidget, key: str) -> None:
    """A key by its name in ``QKeySequence``, as a user presses and releases it."""
    QtTest.QTest.keyClick(window, QtGui.QKeySequence(key)[0].key())


def settings_in(folder: Path) -> None:
    """From here on every ``qt.QSettings()`` is a file of this folder."""
    QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
    QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, str(folder))


qt = sys.modules["qt"] if "qt" in sys.modules else _make_qt()
ctk = sys.modules.setdefault("ctk", types.ModuleType("ctk", "Stand-ins of CTK widgets (Testing/Harness/widgets.py)"))
sys.modules["qt"] = qt
application = _make_application()


class QUiLoader(QtUiTools.QUiLoader):
    """Reads .ui files with the widgets of ``qt``, ``ctk`` and ``slicer``, and makes the connections written there."""

    busy = False

    def createWidget(self, className: str, parent: QtWidgets.QWidget | None = None, name: str = ""):
        import slicer

        for module in (ctk, slicer, qt):
            if hasattr(module, className):
                widget = getattr(module, className)(parent)
                widget.setObjectName(name)
                return widget
        raise ValueError(f"the harness has no widget {className} (widgets.py)")

    def load(self, file: QtCore.QFile) -> QtWidgets.QWidget:
        from xml.etree import ElementTree

        tree = ElementTree.fromstring(bytes(file.readAll()))
        connections = tree.find("connections")
        if connections is not None:
            tree.remove(connections)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(tree))
        buffer.open(QtCore.QIODevice.ReadOnly)
        QUiLoader.busy = True
        try:
            top = super().load(buffer)
        finally:
            QUiLoader.busy = False
        if top is None:
            raise ValueError(f"cannot read the form: {self.errorString()}")
        for connection in connections if connections is not None else ():
            self._connect_as_written(top, connection)
        return top

    def _connect_as_written(self, top: QtWidgets.QWidget, connection) -> None:
        def named(name: str) -> QtCore.QObject:
            found = top if top.objectName == name else QtCore.QObject.findChild(top, QtCore.QObject, name)
            if found is None:
                raise ValueError(f"the form connects {name}, which it does not have")
            return found

        receiver, slot = named(connection.findtext("receiver")), connection.findtext("slot").split("(")[0]
        signal = _signal(named(connection.findtext("sender")), connection.findtext("signal"))
        if isinstance(getattr(type(receiver), slot, None), property):  # a setter hidden by nothing: setX of property x
            raise ValueError(f"{slot} is a property of {receiver.objectName}, not a slot")
        signal.connect(getattr(receiver, slot))


offer(qt, QUiLoader)
