"""Stand-ins of the qMRML and CTK widgets that Slicer panels use, on the same Qt base classes."""
# ruff: noqa: N801, N802, N815 - the names are Slicer's and Qt's

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import slicer

from Harness.pythonqt import QtCore, QtGui, ctk, offer, qt

Property, Signal = QtCore.Property, QtCore.Signal
INFINITE = {float("inf"): 1e15, float("-inf"): -1e15}


class qMRMLWidget(qt.QWidget):
    """Knows the scene and tells it to the widgets that the form connects to ``mrmlSceneChanged``."""

    mrmlSceneChanged = Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None

    def setMRMLScene(self, scene) -> None:
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self):
        return self._scene


class qSlicerWidget(qMRMLWidget):
    """The same without modules."""


class ModulePanel(qMRMLWidget):
    """The widget that Slicer gives to a module's panel as its parent."""

    isEntered = False


class ctkCollapsibleButton(qt.QWidget):
    """A titled bar over a group of widgets; a click on the bar folds the group."""

    contentsCollapsed = Signal(bool)
    toggled = Signal(bool)
    BAR = 24

    def __init__(self, parent=None):
        super().__init__(parent)
        self._text, self._collapsed = "", False
        self.setMinimumHeight(self.BAR + 4)

    def _take(self, text: str) -> None:
        self._text = text
        self.update()

    def setCollapsed(self, collapsed: bool) -> None:
        changed, self._collapsed = collapsed != self._collapsed, bool(collapsed)
        self._show_or_hide()
        if changed:
            self.contentsCollapsed.emit(self._collapsed)
            self.toggled.emit(not self._collapsed)

    def _show_or_hide(self) -> None:
        for child in self.children():
            if child.isWidgetType():  # PythonQt's classes know no base classes
                child.setVisible(not self._collapsed)
        self.setMaximumHeight(self.BAR + 4 if self._collapsed else 16777215)
        self.update()

    def childEvent(self, event: QtCore.QChildEvent) -> None:
        if event.added() and self._collapsed:
            QtCore.QTimer.singleShot(0, self._show_or_hide)

    def showEvent(self, event: QtGui.QShowEvent) -> None:
        if self.layout() is not None:
            self.layout().setContentsMargins(12, self.BAR + 6, 6, 6)

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        option = qt.QStyleOptionButton()
        option.rect = QtCore.QRect(0, 0, self.width, self.BAR)
        option.state = qt.QStyle.State_Enabled | qt.QStyle.State_Raised
        painter = qt.QStylePainter(self)
        painter.drawControl(qt.QStyle.CE_PushButtonBevel, option)
        painter.drawText(option.rect.adjusted(24, 0, 0, 0), QtCore.Qt.AlignVCenter, self._text)
        arrow = qt.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(8, 7, 10, 10)
        painter.drawPrimitive(
            qt.QStyle.PE_IndicatorArrowRight if self._collapsed else qt.QStyle.PE_IndicatorArrowDown, arrow
        )

    def mousePressEvent(self, event: QtGui.QMouseEvent) -> None:
        if event.position().y() <= self.BAR:
            self.setCollapsed(not self._collapsed)

    text = Property(str, lambda self: self._text, _take)
    collapsed = Property(bool, lambda self: self._collapsed, setCollapsed)
    checked = Property(bool, lambda self: not self._collapsed, lambda self, on: self.setCollapsed(not on))


def _of_box(name: str, kind: type):
    return Property(kind, lambda self: getattr(self._box, name), lambda self, value: self._change(name, value))


class ctkSliderWidget(qt.QWidget):
    """A slider and a spin box that show one number."""

    valueChanged = Signal(float)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._slider, self._box = qt.QSlider(QtCore.Qt.Horizontal, self), qt.QDoubleSpinBox(self)
        row = qt.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._slider, 1)
        row.addWidget(self._box)
        self.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
        self._box.maximum, self._box.singleStep = 100.0, 1.0
        self._box.valueChanged.connect(self._moved)
        self._slider.valueChanged.connect(lambda at: self._box.setValue(self._box.minimum + at * self._box.singleStep))
        self._follow()

    def _change(self, name: str, value) -> None:
        setattr(self._box, name, INFINITE.get(value, value))
        self._follow()

    def _moved(self, value: float) -> None:
        self._follow()
        self.valueChanged.emit(value)

    def _follow(self) -> None:
        step = self._box.singleStep or 1.0
        self._slider.blockSignals(True)
        self._slider.setRange(0, min(round((self._box.maximum - self._box.minimum) / step), 10**6))
        self._slider.setValue(round((self._box.value - self._box.minimum) / step))
        self._slider.blockSignals(False)

    def setValue(self, value: float) -> None:
        self._change("value", value)

    def slider(self):
        return self._slider

    def spinBox(self):
        return self._box

    value, minimum, maximum = _of_box("value", float), _of_box("minimum", float), _of_box("maximum", float)
    singleStep, decimals = _of_box("singleStep", float), _of_box("decimals", int)
    suffix, prefix, tracking = _of_box("suffix", str), _of_box("prefix", str), Property(bool, lambda self: True)
    pageStep = Property(float, lambda self: self._slider.pageStep * self._box.singleStep)


class qMRMLSliderWidget(ctkSliderWidget):
    """The slider without its units."""


class ctkDoubleSlider(ctkSliderWidget):
    """The slider; its spin box is hidden."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._box.setVisible(False)


class ctkDoubleSpinBox(qt.QDoubleSpinBox):
    """A spin box."""


class qMRMLSpinBox(qt.QDoubleSpinBox):
    """A spin box without its units."""


class ctkComboBox(qt.QComboBox):
    """A combo box."""


class ctkCheckBox(qt.QCheckBox):
    """A check box."""


class ctkCheckablePushButton(qt.QPushButton):
    """A button."""


class ctkPathLineEdit(qt.QWidget):
    """A line with a path and a button to browse; tests set ``currentPath``."""

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    Files, Dirs = 0x002, 0x001  # of QDir::Filter

    def __init__(self, parent=None):
        super().__init__(parent)
        self._line, self._filters, self._names, self._key = qt.QComboBox(self), 0, [], ""
        self._valid = False
        self._line.editable = True
        self._browse = qt.QToolButton(self)
        self._browse.text = "..."
        row = qt.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._line, 1)
        row.addWidget(self._browse)
        self._line.editTextChanged.connect(self._edited)

    def _edited(self, path: str) -> None:
        """As in CTK: a text that is empty or that no name filter lets through is not announced as a path."""
        before, self._valid = self._valid, any(fnmatch(path, name) for name in self._names or ["?*"])
        if self._valid:
            self.currentPathChanged.emit(path)
        if self._valid != before:
            self.validInputChanged.emit(self._valid)

    def setCurrentPath(self, path: str) -> None:
        self._line.setEditText(str(path))

    def isValid(self) -> bool:
        return Path(self._line.currentText).exists()

    currentPath = Property(str, lambda self: self._line.currentText, setCurrentPath)
    filters = Property(int, lambda self: self._filters, lambda self, value: setattr(self, "_filters", value))
    nameFilters = Property("QStringList", lambda self: self._names, lambda self, v: setattr(self, "_names", list(v)))
    settingKey = Property(str, lambda self: self._key, lambda self, value: setattr(self, "_key", value))


class ctkMessageBox(qt.QMessageBox):
    """A message box that nobody has to click: it is written down, and the next of the test's answers is given."""

    def exec_(self) -> int:
        return slicer.app.messages.answer(self)

    exec = exec_


class qMRMLTableView(qt.QTableWidget):
    """Shows the cells of a table node and follows it."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._node, self._tag, self._scene = None, None, None
        self.editTriggers = qt.QAbstractItemView.NoEditTriggers

    def setMRMLScene(self, scene) -> None:
        self._scene = scene

    def mrmlTableNode(self):
        return self._node

    def setMRMLTableNode(self, node) -> None:
        if self._node is not None:
            self._node.RemoveObserver(self._tag)
        self._node = node
        if node is not None:
            self._tag = node.AddObserver("ModifiedEvent", self._fill)
        self._fill()

    def _fill(self, *_) -> None:
        if self._node is None:
            self.setRowCount(0)
            self.setColumnCount(0)
            return
        node = self._node
        self.setRowCount(node.GetNumberOfRows())
        self.setColumnCount(node.GetNumberOfColumns())
        if node.GetUseColumnTitleAsColumnHeader():
            names = [node.GetColumnName(i) for i in range(node.GetNumberOfColumns())]
            self.setHorizontalHeaderLabels([node.GetColumnTitle(name) or name for name in names])
        for row in range(node.GetNumberOfRows()):
            for column in range(node.GetNumberOfColumns()):
                self.setItem(row, column, qt.QTableWidgetItem(node.GetCellText(row, column)))
        self.resizeColumnsToContents()


def _without_use(name: str, *signals: str) -> type:
    body = {"__doc__": "Only so that Slicer's parameterNodeWrapper can name it."}
    return type(qt.QWidget)(name, (qt.QWidget,), body | {signal: Signal(object) for signal in signals})


offer(slicer, ModulePanel, qMRMLWidget, qSlicerWidget, qMRMLSliderWidget, qMRMLSpinBox, qMRMLTableView)
offer(
    ctk, ctkCollapsibleButton, ctkSliderWidget, ctkDoubleSlider, ctkDoubleSpinBox, ctkComboBox, ctkCheckBox,
    ctkCheckablePushButton, ctkPathLineEdit, ctkMessageBox,
)  # fmt: skip
offer(ctk, *(_without_use(n) for n in ("ctkRangeWidget", "ctkDoubleRangeSlider", "ctkDirectoryButton")))
offer(ctk, _without_use("ctkColorPickerButton", "colorChanged"))
offer(slicer, _without_use("qMRMLRangeWidget"))
offer(qt, ctkMessageBox)
qt.QMessageBox = ctkMessageBox
