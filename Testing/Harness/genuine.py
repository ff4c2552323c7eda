"""Modules ``qt`` and ``ctk`` on PythonQt itself, from the folder where ``PythonQt/build.py`` has built ``pqhost``."""
# ruff: noqa: N801, N802 - the names are Qt's

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from xml.etree import ElementTree

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
sys.path.insert(0, os.environ["BRAINDIFF_PYTHONQT"])
import pqhost
from PythonQt import QtCore, QtGui, QtUiTools

KEYS = {
    "Left": "Key_Left", "Right": "Key_Right", "Up": "Key_Up", "Down": "Key_Down", "Backspace": "Key_Backspace",
    "Escape": "Key_Escape",
}  # fmt: skip

qt, ctk = types.ModuleType("qt", __doc__), types.ModuleType("ctk", __doc__)
for part in (QtCore, QtGui, QtUiTools):
    vars(qt).update({name: getattr(part, name) for name in dir(part) if not name.startswith("_")})
sys.modules["qt"], sys.modules["ctk"] = qt, ctk
application = QtGui.QApplication.instance()
application.setOrganizationName("BrainDiff tests")
application.setStyle("Fusion")


def offer(module: types.ModuleType, *classes: type) -> None:
    """Puts own widget classes into ``qt``, ``ctk`` or ``slicer`` as if they were C++ classes."""
    for cls in classes:
        setattr(module, cls.__name__, cls)


def settings_in(folder: Path) -> None:
    """From here on every ``qt.QSettings()`` is a file of this folder."""
    QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
    QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, str(folder))


def press_key(window: QtGui.QWidget, key: str) -> None:
    """A key by its name in ``QKeySequence``, as a user presses and releases it."""
    pqhost.keys.click(window, int(getattr(QtCore.Qt, KEYS.get(key, f"Key_{key}"))))


class QUiLoader(QtUiTools.QUiLoader):
    """Reads .ui files with the widgets of ``ctk`` and ``slicer``, and makes the connections written there.

    Qt's own loader knows no signals that Python has defined. ``name`` is the objectName, as Slicer's PythonQt has it.
    """

    made: list[QtGui.QWidget] = []
    """Widgets of Python, which would go with their last reference."""

    def createWidget(self, className: str, parent: QtGui.QWidget | None = None, name: str = "") -> QtGui.QWidget:
        import slicer

        module = next((each for each in (ctk, slicer) if hasattr(each, className)), None)
        if module is None:
            widget = QtUiTools.QUiLoader.createWidget(self, className, parent, name)
        else:
            widget = getattr(module, className)(parent)
            widget.setObjectName(name)
            self.made.append(widget)
        widget.setProperty("name", name)
        return widget

    def load(self, file: QtCore.QFile) -> QtGui.QWidget:
        tree = ElementTree.fromstring(bytes(file.readAll().data()))
        connections = tree.find("connections")
        if connections is not None:
            tree.remove(connections)
        buffer = QtCore.QBuffer()
        buffer.setData(QtCore.QByteArray(ElementTree.tostring(tree)))
        buffer.open(QtCore.QIODevice.ReadOnly)
        top = QtUiTools.QUiLoader.load(self, buffer)
        named = {each.objectName: each for each in (top, *top.findChildren(QtGui.QWidget))}
        for one in connections if connections is not None else ():
            signal, slot = (one.findtext(part).split("(")[0] for part in ("signal", "slot"))
            getattr(named[one.findtext("sender")], signal).connect(getattr(named[one.findtext("receiver")], slot))
        return top


offer(qt, QUiLoader)
