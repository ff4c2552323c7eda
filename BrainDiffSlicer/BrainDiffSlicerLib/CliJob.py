"""A CLI module that works on one volume in a process of its own, from the scene and back."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import qt
import slicer
import vtk
from slicer.i18n import tr as _

from BrainDiffSlicerLib.CorrectionInput import CorrectionInput
from BrainDiffSlicerLib.HiddenVolume import HiddenVolume

TAGS_WITHOUT_STAGE = re.compile(r"<filter-(name|progress|stage-progress|time)>[^<]*</filter-\1>|</?filter-[a-z-]+>")
OWN_PREFIX = re.compile(r"^braindiff ?[a-z]*(\.py)?: (error: )?", re.IGNORECASE)
INPUT_FILE = re.compile(r"^([A-Za-z]:)?[^:]*\.(nrrd|nhdr|nii|nii\.gz|mha): ")
"""The temporary file that Slicer wrote the input to: a name that says nothing to the user."""
NO_FILE = "there is no such file"
"""What the CLI module says where Slicer has not written it."""


class CliJob(ABC):
    """Runs a CLI module on a volume in the background and hands the result to a callback.

    ``onProgress(share, stage)`` is called as it goes on, share from 0 to 1. Then exactly one of these is:

    onFinished(result)    what ``_result`` made of the files and nodes of the run
    onFailed(message)     one line for the user; also where something fails that nobody has foreseen
    onCancelled()         after ``cancel``

    All are called from the main thread, when nothing of the run is left in the scene or on the disk (but a run that
    is cancelled before its turn came tidies up when it comes). Nothing is called after ``abandon``, which the job does
    by itself when the scene is closed. A subclass names its module and its outputs, and reads the result.
    """

    MODULE = ""
    """Name of the CLI module."""
    REPORT = "report"
    """Its parameter for the JSON file that it writes."""

    def __init__(
        self, inputVolume: slicer.vtkMRMLScalarVolumeNode, onProgress: Callable[[float, str], None] | None = None,
        onFinished: Callable[[Any], None] | None = None, onFailed: Callable[[str], None] | None = None,
        onCancelled: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self.inputVolume = inputVolume
        self._onProgress = onProgress
        self._onFinished = onFinished
        self._onFailed = onFailed
        self._onCancelled = onCancelled
        self._running = False
        self._stopping = False
        self._given = ""
        self._folder: Path | None = None
        self._cli: slicer.vtkMRMLCommandLineModuleNode | None = None
        self._outputs: dict[str, slicer.vtkMRMLScalarVolumeNode] = {}
        self._observers: list[tuple[vtk.vtkObject, int]] = []

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """The parameters of the module but for the input, the outputs and the report."""

    def _wanted(self) -> tuple[str, ...]:
        """The parameters of the module that are output volumes."""
        return ()

    @abstractmethod
    def _result(self) -> Any:
        """What ``onFinished`` gets. Raises OSError or ValueError if something is missing or does not fit the input."""

    @property
    def running(self) -> bool:
        """Whether one of the three end callbacks is still to come."""
        return self._running

    def start(self) -> None:
        """Start the process and return at once.

        Raises ValueError if the volume cannot be used (``CorrectionInput.problem``), RuntimeError if the CLI module is
        not there or the job was started before, and OSError where there is no room for its files.
        """
        CorrectionInput(self.inputVolume).check()
        module = getattr(slicer.modules, self.MODULE.lower(), None)
        if module is None:
            text = _("The module {name} is not loaded: reinstall the BrainDiff extension.")
            raise RuntimeError(text.format(name=self.MODULE))
        if self._folder is not None:
            raise RuntimeError(_("This correction was started before: make a new one."))
        logging.info("BrainDiff: %s on %s", self.MODULE, self.inputVolume.GetName())
        # on the disk of Slicer's temporary files, where the process moves its finished ones to
        self._folder = Path(tempfile.mkdtemp(prefix="BrainDiff-", dir=slicer.app.temporaryPath))
        self._running = True
        try:
            self._given = self._voxelSum()
            self._launch(module)
        except BaseException:
            self._running = False
            self._cleanUp()
            raise
        self._onCliModified()

    def cancel(self) -> None:
        """Ask the process to stop; ``onCancelled`` follows within a second."""
        if not self._running:
            return
        waiting = self._cli.GetStatus() == self._cli.Scheduled
        self._stop()
        if waiting:  # the process may stand in the queue behind another module's: the user need not wait for that
            qt.QTimer.singleShot(0, self._answerCancelled)

    def waitForFinished(self) -> None:
        """Return when the job is over; until then the application goes on handling events."""
        while self._running:
            slicer.app.processEvents()
            time.sleep(0.01)

    def abandon(self) -> None:
        """Stop the process and call nothing back any more: the scene closes, or the application ends."""
        if not self._running:
            return
        self._running = False
        self._stop()
        self._removeFolder()

    def _launch(self, module: Any) -> None:
        self._outputs = {name: HiddenVolume.add("BrainDiff run") for name in self._wanted()}
        parameters = {
            "inputVolume": self.inputVolume,
            **self._outputs,
            **self._settings(),
            self.REPORT: str(self._reportFile),
        }
        self._cli = slicer.cli.run(module, None, parameters, wait_for_completion=False, update_display=False)
        if self._cli is None:
            text = _("The module {name} does not start: reinstall the BrainDiff extension.")
            raise RuntimeError(text.format(name=self.MODULE))
        self._cli.SetHideFromEditors(True)
        self._cli.SetSaveWithScene(False)
        self._cli.StartContinuousOutputUpdate()
        self._observe(self._cli, vtk.vtkCommand.ModifiedEvent, self._onCliModified)
        self._observe(slicer.mrmlScene, slicer.vtkMRMLScene.StartCloseEvent, self._onSceneStartClose)

    @property
    def _reportFile(self) -> Path:
        return self._folder / "report.json"

    def _observe(self, node: vtk.vtkObject, event: int, method: Callable[..., None]) -> None:
        self._observers.append((node, node.AddObserver(event, method)))

    def _onSceneStartClose(self, *_event: Any) -> None:
        self.abandon()

    def _onCliModified(self, *_event: Any) -> None:
        status = self._cli.GetStatus()
        if not status & self._cli.BusyMask:
            self._removeObservers()
            # not from inside the node's own event: the node is removed
            qt.QTimer.singleShot(0, self._finish)
        elif status == self._cli.Completing or status == self._cli.Cancelling:
            return  # Slicer still needs the nodes
        elif self._stopping:
            self._cli.Cancel()  # asked for while Slicer wrote the input, which then forgets it
        elif not self._inputIsThere():
            self._stop()
        elif status == self._cli.Running:
            self._tell(self._cli.GetProgress() / 100, self._stage())
        elif self._anotherRuns():
            self._tell(0.0, _("Waiting for another module"))

    def _tell(self, share: float, stage: str) -> None:
        if self._onProgress is not None:
            self._onProgress(share, stage)

    def _anotherRuns(self) -> bool:
        """Slicer runs one CLI module at a time; this one waits until those before it have ended."""
        others = slicer.util.getNodesByClass("vtkMRMLCommandLineModuleNode")
        return any(node is not self._cli and node.GetStatus() & node.BusyMask for node in others)

    def _stop(self) -> None:
        self._stopping = True
        self._cli.Cancel()

    def _voxelSum(self) -> str:
        """A sum that another edit of the input's voxels changes."""
        if self.inputVolume.GetImageData() is None:
            return ""
        array = np.ascontiguousarray(slicer.util.arrayFromVolume(self.inputVolume))
        return f"{array.shape} {array.dtype} {hashlib.blake2b(array.data).hexdigest()}"

    def _inputIsThere(self) -> bool:
        return bool(slicer.mrmlScene.IsNodePresent(self.inputVolume))

    def _stage(self) -> str:
        """The stage that the process named last, by its tags or, where Slicer has removed those, in a plain line."""
        return _lastLine(TAGS_WITHOUT_STAGE.sub("\n", self._cli.GetOutputText()))

    def _finish(self) -> None:
        """The process has ended and Slicer has read its files: take the result, tidy up, then tell."""
        answer = None
        try:
            answer = self._outcome() if self._running else None
        except Exception as error:  # whatever it is: who waits is told
            logging.exception("BrainDiff: the end of a run could not be handled")
            text = _("The correction of {name} failed unexpectedly ({error}): see the error log.")
            answer = self._failure(text.format(name=self.inputVolume.GetName(), error=_oneLine(error)))
        finally:
            self._running = False
            self._cleanUp()
        if answer is not None:
            answer()

    def _outcome(self) -> Callable[[], None]:
        name = self.inputVolume.GetName()
        if not self._inputIsThere():
            return self._failure(_("{name} was removed from the scene: its correction was stopped.").format(name=name))
        if self._stopping or self._cli.GetStatus() == self._cli.Cancelled:
            return self._cancellation
        if self._cli.GetStatus() != self._cli.Completed:
            return self._failure(self._errorMessage())
        if self._voxelSum() != self._given:
            return self._failure(_("{name} changed while it was corrected: correct it again.").format(name=name))
        try:
            result = self._result()
        except (OSError, ValueError) as error:
            logging.error("BrainDiff: the result could not be read: %s", error)
            text = _("The result for {name} could not be read: check the space for temporary files.")
            return self._failure(text.format(name=name))
        return lambda: self._call(self._onFinished, result)

    def _errorMessage(self) -> str:
        name = self.inputVolume.GetName()
        line = OWN_PREFIX.sub("", _lastLine(self._cli.GetErrorText()))
        if not line:
            return _("The correction of {name} ended without a message: see the error log.").format(name=name)
        if INPUT_FILE.match(line) and NO_FILE in line:
            kind = self.inputVolume.GetImageData().GetScalarTypeAsString()
            text = _(
                "3D Slicer could not write {name} to a file: cast its voxels ({kind}) to another type, for example with"
                " Cast Scalar Volume, or free space for temporary files."
            )
            return text.format(name=name, kind=kind)
        return INPUT_FILE.sub(lambda _match: name + ": ", line)

    def _failure(self, message: str) -> Callable[[], None]:
        return lambda: self._call(self._onFailed, message)

    def _cancellation(self) -> None:
        logging.info("BrainDiff: the run on %s was canceled", self.inputVolume.GetName())
        self._call(self._onCancelled)

    def _answerCancelled(self) -> None:
        if self._running:
            self._running = False
            self._cancellation()

    @staticmethod
    def _call(callback: Callable[..., None] | None, *arguments: Any) -> None:
        if callback is not None:
            callback(*arguments)

    def _cleanUp(self) -> None:
        self._removeObservers()
        self._removeFolder()
        for volume in self._outputs.values():
            HiddenVolume.remove(volume)
        if self._cli is not None and slicer.mrmlScene.IsNodePresent(self._cli):
            slicer.mrmlScene.RemoveNode(self._cli)

    def _removeObservers(self) -> None:
        while self._observers:
            node, tag = self._observers.pop()
            node.RemoveObserver(tag)

    def _removeFolder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _lastLine(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _oneLine(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
