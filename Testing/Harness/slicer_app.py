"""``slicer.app`` and all that hangs on it, on slicer-core and Qt: ``Slicer.instance()`` starts it once."""
# ruff: noqa: N801, N802, N815 - the names are Slicer's and Qt's

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path

import slicer
import slicer.util
import vtk

from Harness.cli_runner import CLILogic
from Harness.installers import Installer, SampleDataLogic
from Harness.layout import LayoutManager
from Harness.pythonqt import QtCore, application, qt, settings_in
from Harness.scene_files import CoreIOManager
from Harness.slicer_python import install_python_parts
from Harness.widgets import ModulePanel

CHECKOUT = Path(__file__).resolve().parents[2]
MODULE_FOLDER = CHECKOUT / "BrainDiffSlicer"
PLACED_IN_HIERARCHY = ("vtkMRMLVolumeNode", "vtkMRMLTableNode", "vtkMRMLTransformNode", "vtkMRMLModelNode")


class Messages:
    """The message boxes that came up: texts, and the answers that a test gives in advance (True: OK or Yes)."""

    def __init__(self):
        self.shown: list[str] = []
        self.answers: list[bool] = []

    def answer(self, box) -> int:
        self.shown.append(box.text)
        accept = self.answers.pop(0) if self.answers else True
        buttons = qt.QMessageBox.StandardButton
        wanted = (buttons.Ok, buttons.Yes, buttons.Retry) if accept else (buttons.Cancel, buttons.No, buttons.Close)
        return next((b for b in wanted if b & box.standardButtons), wanted[0])


class StartUp:
    """The signal startupCompleted: whoever connects is called once, when the modules are loaded."""

    def __init__(self):
        self._waiting: list[Callable[[], None]] = []

    def connect(self, receiver: Callable[[], None]) -> None:
        self._waiting.append(receiver)

    def emit(self) -> None:
        while self._waiting:
            self._waiting.pop(0)()


class ModuleManager(qt.QObject):
    """Tells modules that they are about to go."""

    moduleAboutToBeUnloaded = QtCore.Signal(str)


class ExtensionsManagerModel:
    """Installs extensions that nobody gets: what was asked for is kept."""

    def __init__(self):
        self.interactive, self.installed, self.online = True, [], True

    def installExtensionFromServer(self, name: str, restart: bool = True, update: bool = False) -> bool:
        self.installed.append((name, restart, self.interactive))
        return self.online


class App(qt.QObject):
    """What scripts ask of the application."""

    startupCompleted = StartUp()
    applicationName = mainApplicationName = "Slicer"
    applicationVersion, majorVersion, minorVersion = "5.12.0", 5, 12

    def __init__(self, folder: Path):
        super().__init__()
        self._folder, self._manager, self._io = folder, ModuleManager(), None
        self._logic = slicer.vtkSlicerApplicationLogic()
        self._window = qt.QMainWindow()
        self._window.setObjectName("qSlicerMainWindow")
        self.temporaryPath, self.cachePath = str(folder / "temporary"), str(folder / "cache")
        Path(self.cachePath).mkdir()
        self._logic.SetTemporaryPath(self.temporaryPath)

    def start(self, scene) -> None:
        """Everything for a new scene; what tests changed, and files that killed processes left, is forgotten."""
        shutil.rmtree(self.temporaryPath, ignore_errors=True)
        Path(self.temporaryPath).mkdir(exist_ok=True)
        self.testing, self.messages, self.installer = False, Messages(), Installer()
        self._extensions = ExtensionsManagerModel()
        self._io = CoreIOManager()
        SampleDataLogic.registered.clear()
        SampleDataLogic.categories.clear()
        self._logic.SetMRMLScene(scene)
        self._layout_manager = LayoutManager(self._logic)
        self._layout_manager.start(scene)

    def stop(self) -> None:
        """Lets go of the scene."""
        self._layout_manager.stop()
        slicer.mrmlScene.RemoveAllObservers()
        self._logic.GetColorLogic().SetMRMLScene(None)
        self._logic.SetMRMLScene(None)

    def applicationLogic(self):
        return self._logic

    def connect(self, signature: str, receiver: Callable[[], None]) -> None:
        getattr(self, signature.split("(")[0]).connect(receiver)

    def mrmlScene(self):
        return slicer.mrmlScene

    def layoutManager(self):
        return self._layout_manager

    def extensionsManagerModel(self) -> ExtensionsManagerModel:
        return self._extensions

    def moduleManager(self) -> ModuleManager:
        return self._manager

    def coreIOManager(self):
        return self._io

    def ioManager(self):
        return self._io

    def processEvents(self, flags=QtCore.QEventLoop.AllEvents) -> None:
        application.sendPostedEvents(None, QtCore.QEvent.DeferredDelete)
        application.processEvents(flags)

    def testingEnabled(self) -> bool:
        return self.testing

    def commandOptions(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(testingEnabled=self.testing, noMainWindow=False)

    def translate(self, context: str, text: str) -> str:
        return text

    def setOverrideCursor(self, cursor) -> None:
        application.setOverrideCursor(cursor)

    def restoreOverrideCursor(self) -> None:
        application.restoreOverrideCursor()

    def overrideCursor(self):
        return application.overrideCursor()

    def topLevelWidgets(self) -> list:
        return application.topLevelWidgets()

    def userSettings(self):
        return qt.QSettings()

    settings = userSettings

    def pauseRender(self) -> None:
        """Nothing renders by itself here."""

    resumeRender = pauseRender

    def startupEnvironment(self) -> dict[str, str]:
        return dict(os.environ)


class Slicer:
    """The running application, for tests: fixture ``a_slicer``.

    messages.shown, messages.answers   message boxes
    installer                          installations (installers.py)
    """

    _instance: Slicer | None = None

    @classmethod
    def instance(cls) -> Slicer:
        """Starts the application at the first call; there is one in a process."""
        cls._instance = cls._instance or cls()
        return cls._instance

    def __init__(self):
        self._temporary = tempfile.TemporaryDirectory(prefix="braindiff-harness-", ignore_cleanup_errors=True)
        settings_in(Path(self._temporary.name))
        slicer.modules, slicer.moduleNames = types.SimpleNamespace(), types.SimpleNamespace()
        slicer.selfTests, slicer.mrmlScene = {}, slicer.vtkMRMLScene()
        self.app = slicer.app = App(Path(self._temporary.name))
        install_python_parts()
        self.panels, self._cli_logics = [], []
        for script in (p.with_suffix(".py") for p in sorted(MODULE_FOLDER.glob("*.xml"))):
            self.add_cli(script)

    @property
    def messages(self) -> Messages:
        return self.app.messages

    @property
    def installer(self):
        return self.app.installer

    # Scene

    def fresh_scene(self) -> None:
        """A scene as after the start of Slicer: colours, orientations, selection, hierarchy, Four-Up layout."""
        scene = slicer.mrmlScene = slicer.vtkMRMLScene()
        cache = slicer.vtkCacheManager()  # where .mrb files are unpacked
        cache.SetRemoteCacheDirectory(self.app.cachePath)
        data = slicer.vtkDataIOManager()
        data.SetCacheManager(cache)
        scene.SetCacheManager(cache)
        scene.SetDataIOManager(data)
        scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())  # as the Colors module does
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
        self.app.start(scene)
        colors = self.app.applicationLogic().GetColorLogic()
        colors.SetMRMLScene(scene)
        colors.AddDefaultColorNodes()
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        scene.AddObserver(scene.NodeAddedEvent, _give_hierarchy_item)
        scene.AddObserver(scene.NodeAboutToBeRemovedEvent, _take_hierarchy_item)
        assert hierarchy is not None
        qt.QSettings().clear()

    def save_scene(self, path: Path) -> None:
        """To .mrb (with the data) or .mrml."""
        assert slicer.util.saveScene(str(path)), f"{path} was not saved"

    def load_scene(self, path: Path) -> None:
        """Closes the scene and loads the file, as File > Load scene does."""
        slicer.mrmlScene.Clear(False)
        assert self.app.coreIOManager().loadNodes("SceneFile", {"fileName": str(path)}), f"{path} was not loaded"
        self.app.processEvents()

    # Time

    def wait_for(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Lets the event loop run until the condition holds; fails after so many seconds."""
        timer = QtCore.QElapsedTimer()
        timer.start()
        while not condition():
            assert timer.elapsed() < 1000 * seconds, f"nothing within {seconds} s; messages: {self.messages.shown}"
            self.app.processEvents()
            QtCore.QThread.msleep(5)

    # Modules

    def add_cli(self, script: Path):
        """Registers a CLI script with its .xml beside it as slicer.modules.<name in lower case>."""
        logic = CLILogic(Path(script))
        self._cli_logics.append(logic)
        module = types.SimpleNamespace(name=script.stem, path=str(script), logic=lambda: logic)
        setattr(slicer.modules, script.stem.lower(), module)
        return module

    def load_module(self, path: Path) -> types.ModuleType:
        """Imports a scripted module as Slicer does at its start; slicer.modules.<name> exists afterwards."""
        path, name = Path(path), Path(path).stem
        if str(path.parent) not in sys.path:
            sys.path.insert(0, str(path.parent))
        specification = importlib.util.spec_from_file_location(name, path)
        module = sys.modules[name] = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        entry = types.SimpleNamespace(name=name, path=str(path), python=module, icon=qt.QIcon(), hidden=False)
        setattr(slicer.modules, name.lower(), entry)
        entry.instance = getattr(module, name)(entry)
        self.app.startupCompleted.emit()
        return module

    def open_panel(self, name: str = "BrainDiffSlicer"):
        """Makes the panel of a loaded module and enters it, as a click on its name does. Returns the widget object."""
        parent = ModulePanel()
        parent.setLayout(qt.QVBoxLayout())
        parent.setMRMLScene(slicer.mrmlScene)
        panel = getattr(getattr(slicer.modules, name.lower()).python, name + "Widget")(parent)
        panel.setup()
        setattr(slicer.modules, name + "Widget", panel)
        parent.isEntered = True
        panel.enter() if hasattr(panel, "enter") else None
        parent.resize(440, 760)
        parent.show()
        self.app.processEvents()
        self.panels.append(panel)
        return panel

    def leave_panel(self, panel) -> None:
        """The user opens another module."""
        panel.parent.isEntered = False
        panel.exit()

    def close_panel(self, panel) -> None:
        """Slicer ends: the panel is left and cleaned up."""
        if panel not in self.panels:
            return
        self.panels.remove(panel)
        if panel.parent.isEntered:
            self.leave_panel(panel)
        self.app.moduleManager().moduleAboutToBeUnloaded.emit(panel.moduleName)
        for widget in panel.parent.findChildren(qt.QWidget):
            if hasattr(widget, "setMRMLScene"):
                widget.blockSignals(True)
                widget.setMRMLScene(None)
        panel.parent.close()
        panel.parent.deleteLater()
        self.app.processEvents()

    def end_test(self) -> None:
        """Ends what a test has left running, so that the next starts clean."""
        for panel in list(self.panels):
            self.close_panel(panel)
        for logic in self._cli_logics:
            logic.KillProcesses()
        while application.overrideCursor() is not None:
            application.restoreOverrideCursor()
        self.app.processEvents()
        self.app.stop()


# In Slicer the plugins of the subject hierarchy do these two.


@vtk.calldata_type(vtk.VTK_OBJECT)
def _give_hierarchy_item(scene, event, node) -> None:
    shown = any(node.IsA(name) for name in PLACED_IN_HIERARCHY) and not node.GetHideFromEditors()
    if shown and not scene.IsBatchProcessing():
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        if not hierarchy.GetItemByDataNode(node):
            hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)


@vtk.calldata_type(vtk.VTK_OBJECT)
def _take_hierarchy_item(scene, event, node) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None and not scene.IsClosing() else 0
    if item and any(node.IsA(name) for name in PLACED_IN_HIERARCHY):
        hierarchy.RemoveItem(item, False)
