"""Runs CLI modules as Slicer does: a child process, files for nodes, filter tags from stdout, status in a node."""
# ruff: noqa: N801, N802, N815 - the names are Slicer's and Qt's

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import slicer

from Harness.cli_description import FILES_OF_NODES, Description, Parameter
from Harness.pythonqt import QtCore

Base = slicer.vtkMRMLCommandLineModuleNode
DIGITS_TO_LETTERS = str.maketrans("0123456789", "ABCDEFGHIJ")
TAGS = ("progress", "stage-progress", "name", "comment", "time", "start", "end")
POLL_MS = 20


class CommandLineModuleNode(Base):
    """Slicer's own node; the description, which Python cannot give it, and the progress are kept here instead."""

    def describe(self, description: Description) -> None:
        self.cli_description, self.share, self.stage_share = description, 0.0, 0.0
        self.values = {p.name: p.default for p in description.parameters}
        self.SetAttribute("CommandLineModule", description.title)
        self.SetName(description.title)

    def SetParameterAsString(self, name: str, value: str) -> bool:
        if name not in self.values:
            return False
        if self.values[name] != value:
            self.values[name] = value
            self.InvokeEvent(Base.ParameterChangedEvent)
            self.Modified()
        return True

    def SetParameterAsBool(self, name: str, value: bool) -> bool:
        return self.SetParameterAsString(name, "true" if value else "false")

    def SetParameterAsInt(self, name: str, value: int) -> bool:
        return self.SetParameterAsString(name, str(value))

    def SetParameterAsDouble(self, name: str, value: float) -> bool:
        return self.SetParameterAsString(name, f"{value:g}")  # six digits, as a C++ stream writes it

    SetParameterAsFloat = SetParameterAsDouble

    def SetParameterAsNode(self, name: str, node) -> bool:
        return self.SetParameterAsString(name, node.GetID() if node is not None else "")

    def GetParameterAsString(self, name: str) -> str:
        return self.values.get(name, "")

    def GetProgress(self) -> int:
        return round(100 * self.share)


class _Run(QtCore.QObject):
    """One child process, looked after from the main thread."""

    def __init__(self, logic: CLILogic, node: CommandLineModuleNode):
        super().__init__()
        self.logic, self.node, self.process, self.pipes_open = logic, node, None, 2
        self.begun = False
        self.out, self.err, self.plain = "", "", ""
        self.to_read: list[tuple[str, Path]] = []
        self.files: set[Path] = set()
        self.texts: queue.Queue = queue.Queue()
        self.timer = QtCore.QTimer(self)
        self.timer.timeout.connect(self.poll)

    def begin(self) -> None:
        """What ApplyTask does when its turn comes."""
        self.begun = True
        if self not in self.logic.runs:  # the application has ended meanwhile
            return
        if self.node.GetStatus() in (Base.Cancelling, Base.Cancelled):
            self._end(Base.Cancelled)
            return
        self.node.share = self.node.stage_share = 0.0
        try:
            command = [sys.executable, str(self.logic.script), *self._arguments()]
        except ValueError as error:
            self.node.SetErrorText(str(error), False)
            self._end(Base.Idle)
            return
        self.node.SetStatus(Base.Running)
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        for kind in ("stdout", "stderr"):
            threading.Thread(target=self._listen, args=(kind, getattr(self.process, kind)), daemon=True).start()
        self.timer.start(POLL_MS)

    def _listen(self, kind: str, pipe) -> None:
        while text := os.read(pipe.fileno(), 65536):
            self.texts.put((kind, text.decode(errors="replace")))
        pipe.close()
        self.texts.put((kind, None))

    def _arguments(self) -> list[str]:
        node, files = self.node, {}
        for parameter in node.cli_description.parameters:
            data = slicer.mrmlScene.GetNodeByID(node.values[parameter.name]) if parameter.is_node else None
            if data is None:
                continue
            files[parameter.name] = path = self._file_of(data, parameter)
            self.files.add(path)
            if parameter.channel == "output":
                self.to_read.append((data.GetID(), path))
            else:
                self._write(data, path)
        return node.cli_description.arguments(node.values, files)

    @staticmethod
    def _file_of(data, parameter: Parameter) -> Path:
        name = f"{os.getpid()}_{data.GetID()}".translate(DIGITS_TO_LETTERS)
        return Path(slicer.app.temporaryPath) / (name + FILES_OF_NODES[parameter.tag])

    @staticmethod
    def _write(data, path: Path) -> None:
        storage = data.CreateDefaultStorageNode()
        storage.UnRegister(None)
        storage.SetScene(slicer.mrmlScene)
        storage.SetFileName(str(path))
        if not storage.WriteData(data):
            logging.error("could not write %s", path)  # the run goes on, as in Slicer

    def poll(self) -> None:
        """Hears the child and stops it if asked to."""
        if self.node.GetStatus() == Base.Cancelling and self.process.poll() is None:
            self.kill()
        while not self.texts.empty():
            self._hear(*self.texts.get())
        if self.pipes_open == 0 and self.process.poll() is not None and self.timer.isActive():
            self.timer.stop()
            self._finish()

    def kill(self) -> None:
        """Ends the child and its children at once."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def _hear(self, kind: str, text: str | None) -> None:
        if text is None:
            self.pipes_open -= 1
            return
        continuous = self.node.IsContinuousOutputUpdate()
        if kind == "stderr":
            self.err += text
            if continuous:
                self.node.SetErrorText(self.err, False)
        else:
            self.out += text
            self.plain += without_tags(text)
            self.node.share = float(last_tag(self.out, "progress") or self.node.share)
            self.node.stage_share = float(last_tag(self.out, "stage-progress") or self.node.stage_share)
            if continuous:
                self.node.SetOutputText(self.plain, False)
        self.node.Modified()

    def _finish(self) -> None:
        self.node.SetOutputText(without_tags(self.out), False)
        self.node.SetErrorText(self.err, False)
        self.node.share = self.node.stage_share = 0.0
        if self.node.GetStatus() == Base.Cancelling:
            self._end(Base.Cancelled)
        elif self.process.returncode != 0:
            self._end(Base.CompletedWithErrors)
        else:
            self.node.SetStatus(Base.Completing)
            for node_id, path in self.to_read:
                self._read(slicer.mrmlScene.GetNodeByID(node_id), path)
            self._place_outputs()
            self._end(Base.Completed)

    def _read(self, data, path: Path) -> None:
        if data is None:  # the scene was closed meanwhile
            return
        if path.is_file():
            data.AddDefaultStorageNode(str(path))
            storage = data.GetStorageNode()
            storage.SetWriteStateIdle()
            storage.SetFileName(str(path))
            storage.ReadData(data, True)
            storage.SetFileName(None)
        data.CreateDefaultDisplayNodes() if hasattr(data, "CreateDefaultDisplayNodes") else None
        data.Modified()
        if self.node.GetAttribute("UpdateDisplay") == "true" and data.IsA("vtkMRMLScalarVolumeNode"):
            slicer.app.applicationLogic().GetSelectionNode().SetActiveVolumeID(data.GetID())
            slicer.app.applicationLogic().PropagateVolumeSelection()

    def _place_outputs(self) -> None:
        """Outputs go where the volume that they refer to lies in the subject hierarchy."""
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        for parameter in self.node.cli_description.parameters:
            ids = [self.node.values.get(name, "") for name in (parameter.name, parameter.reference)]
            nodes = [slicer.mrmlScene.GetNodeByID(node_id) for node_id in ids if node_id]
            if parameter.channel == "output" and parameter.reference and len(nodes) == 2 and None not in nodes:
                made, reference = (hierarchy.GetItemByDataNode(node) for node in nodes)
                if made and reference:
                    hierarchy.SetItemParent(made, hierarchy.GetItemParent(reference))

    def _end(self, status: int) -> None:
        if self.logic.delete_files:
            for path in self.files:
                path.unlink(missing_ok=True)
        self.logic.runs.remove(self)
        if self in waiting:
            waiting.remove(self)
            QtCore.QTimer.singleShot(0, _begin_next)
        self.node.SetStatus(status)


class CLILogic:
    """The logic of one CLI module, as ``slicer.modules.x.logic()`` gives it."""

    def __init__(self, script: Path):
        self.script, self.delete_files = script, True
        self.runs: list[_Run] = []

    def CreateNodeInScene(self) -> CommandLineModuleNode:
        node = CommandLineModuleNode()
        node.describe(Description(self.script.with_suffix(".xml")))
        slicer.mrmlScene.AddNode(node)
        return node

    def SetDeleteTemporaryFiles(self, delete: int) -> None:
        self.delete_files = bool(delete)

    def SetHideWindow(self, hide: int) -> None:
        """Only Windows has such windows."""

    def Apply(self, node: CommandLineModuleNode, update_display: bool = True) -> None:
        waiting.append(self._schedule(node, update_display))
        QtCore.QTimer.singleShot(0, _begin_next)

    def ApplyAndWait(self, node: CommandLineModuleNode, update_display: bool = True) -> None:
        run = self._schedule(node, update_display)
        run.begin()
        while run in self.runs:
            run.poll()
            time.sleep(POLL_MS / 1000)

    def KillProcesses(self) -> None:
        for run in list(self.runs):
            run.timer.stop()
            run.kill()
            if run.process is not None:
                run.process.wait()
            for path in run.files:
                path.unlink(missing_ok=True)
            self.runs.remove(run)
        waiting.clear()

    def _schedule(self, node: CommandLineModuleNode, update_display: bool) -> _Run:
        node.SetAttribute("UpdateDisplay", "true" if update_display else "false")
        node.SetOutputText("", False)
        node.SetErrorText("", False)
        node.SetStatus(Base.Scheduled)
        self.runs.append(_Run(self, node))
        return self.runs[-1]


waiting: list[_Run] = []
"""What Slicer's one processing thread has to do, of all modules; the first is done now."""


def _begin_next() -> None:
    if waiting and not waiting[0].begun:
        waiting[0].begin()


def last_tag(text: str, name: str) -> str:
    """What stands in the last ``<filter-name>...</filter-name>`` of the text."""
    return (re.findall(f"<filter-{name}>([^<]*)</filter-{name}>", text) or [""])[-1]


def without_tags(text: str) -> str:
    """The output without the tags that Slicer takes out; a tag that holds others loses only the inner ones at first."""
    for name in TAGS:
        text = re.sub(f"<filter-{name}>[^<]*</filter-{name}>[ \\t\\n\\r]*", "", text)
    return text


# Stand-in of slicer.cli


def createNode(module, parameters: dict | None = None) -> CommandLineModuleNode | None:
    node = module.logic().CreateNodeInScene() if module else None
    return setNodeParameters(node, parameters) or node


def setNodeParameters(node, parameters: dict | None) -> None:
    setters = {str: "String", bool: "Bool", int: "Int", float: "Double", list: "String", tuple: "String"}
    for name, value in (parameters or {}).items() if node is not None else ():
        if isinstance(value, slicer.vtkMRMLNode):
            node.SetParameterAsNode(name, value)
        else:
            text = str(value)[1:-1] if isinstance(value, (list, tuple)) else value
            getattr(node, "SetParameterAs" + setters[type(value)])(name, text)


def run(
    module,
    node=None,
    parameters: dict | None = None,
    wait_for_completion: bool = False,
    delete_temporary_files: bool = True,
    update_display: bool = True,
    hide_window: bool = True,
) -> CommandLineModuleNode | None:
    """Runs the CLI module with the parameters and returns its node."""
    if node is None:
        node = createNode(module, parameters)
    else:
        setNodeParameters(node, parameters)
    module.logic().SetDeleteTemporaryFiles(delete_temporary_files)
    start = module.logic().ApplyAndWait if wait_for_completion else module.logic().Apply
    start(node, update_display)
    return node


def runSync(module, node=None, parameters: dict | None = None, **options) -> CommandLineModuleNode | None:
    """The same, waiting for the end."""
    return run(module, node, parameters, wait_for_completion=True, **options)
