"""Volumes that are corrected one after the other."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from BrainDiffSlicerLib.BatchItem import CANCELED, DONE, FAILED, RUNNING, UNCHANGED, WAITING, BatchItem
from BrainDiffSlicerLib.CorrectionInput import CorrectionInput

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mgz")
RESULTS = "BrainDiff"
"""Subfolder of a folder of files that gets the results."""


class BatchQueue:
    """Runs one correction at a time and keeps what came of each.

    prepare    called when the queue starts; returns what starts a correction with the settings of that moment: it
               takes the volume and the callbacks of ``BrainDiffSlicerLogic.process``, returns the job, and raises if it
               cannot
    onChanged  called without arguments when an item, or the list, has changed

    Outputs of a volume of the scene are new nodes; those of a file are files in the subfolder BrainDiff beside it, with
    names that are not taken, with a report, and leave no node. Nothing is overwritten.
    """

    def __init__(self, prepare: Callable[[], Callable[..., Any]], onChanged: Callable[[], None]) -> None:
        self._prepare, self._onChanged = prepare, onChanged
        self._start: Callable[..., Any] | None = None
        self.items: list[BatchItem] = []
        self._job: Any = None
        self._current: BatchItem | None = None
        self._going = self._advancing = False

    @property
    def running(self) -> bool:
        """Whether an item is corrected now."""
        return self._going

    def addLoaded(self) -> int:
        """Queue the volumes of the scene that can be corrected, but for BrainDiff's own; returns how many came in."""
        known = {item.volume.GetID() for item in self.items if item.volume is not None and not item.over}
        found = [
            BatchItem(node.GetName(), volume=node)
            for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
            if node.GetID() not in known and not node.GetHideFromEditors()
            and not CorrectionInput(node).problem() and not CorrectionInput(node).notice()
        ]  # fmt: skip
        return self._add(found)

    def addFolder(self, folder: str) -> int:
        """Queue the volume files of a folder, by name, not those of its subfolders; returns how many came in.

        Raises OSError where the folder cannot be read.
        """
        files = sorted(file for file in Path(folder).iterdir() if file.is_file() and _suffix(file))
        known = {item.file for item in self.items if not item.over}
        return self._add([BatchItem(file.name, file=file) for file in files if file not in known])

    def start(self) -> None:
        """Correct what waits."""
        if not self._going:
            self._going, self._start = True, self._prepare()
            self._next()

    def cancel(self, item: BatchItem) -> None:
        """Take an item out of the queue, or stop it."""
        if item.state == WAITING:
            item.state = CANCELED
            self._onChanged()
        elif item is self._current and self._job is not None:
            self._job.cancel()

    def clear(self) -> None:
        """Forget the items; one that runs is stopped."""
        self.abandon()
        self.items.clear()
        self._onChanged()

    def abandon(self) -> None:
        """Stop what runs and hear no more of it: the scene or the application is closed."""
        self._going = False
        if self._job is not None:
            self._job.abandon()
        if self._current is not None:
            self._end(CANCELED, "")

    def _add(self, items: list[BatchItem]) -> int:
        self.items += items
        self._onChanged()
        return len(items)

    def _next(self) -> None:
        if self._advancing:
            return  # a start that fails at once comes back to the loop below
        self._advancing = True
        try:
            while self._going and self._current is None:
                waiting = [item for item in self.items if item.state == WAITING]
                if waiting:
                    self._begin(waiting[0])
                else:
                    self._going = False
        finally:
            self._advancing = False
        self._onChanged()

    def _begin(self, item: BatchItem) -> None:
        self._current = item
        item.state, item.told = RUNNING, ""
        self._onChanged()
        try:
            self._load(item)
            job = self._start(
                item.volume, onProgress=self._onProgress, onFinished=self._onFinished, onFailed=self._onFailed,
                onCancelled=lambda: self._finish(CANCELED, ""),
            )  # fmt: skip
            if self._current is item:  # else it has ended already
                self._job = job
        except Exception as error:  # one volume must not end the others
            logging.exception("BrainDiff: a volume of the queue could not be corrected")
            self._finish(FAILED, " ".join(str(error).split()))

    @staticmethod
    def _load(item: BatchItem) -> None:
        if item.file is not None:
            item.volume = slicer.util.loadVolume(str(item.file), {"show": False})
        elif item.volume is None or item.volume.GetScene() is None:
            raise ValueError(_("it was removed from the scene"))

    def _onProgress(self, share: float, stage: str) -> None:
        if self._current is not None:
            self._current.told = f"{share:.0%} {stage}"
            self._onChanged()

    def _onFailed(self, message: str) -> None:
        self._finish(FAILED, message)

    def _onFinished(self, outputs: Any, report: dict[str, Any]) -> None:
        item = self._current
        item.report = report
        changed = report.get("changed_share") or 0.0
        told = _("{share} changed").format(share=f"{changed:.1%}")
        try:
            if item.file is not None:
                told += ", " + self._save(item.file, outputs, report)
        except Exception as error:  # no room, or no right to write
            logging.exception("BrainDiff: a result of the queue could not be saved")
            self._finish(FAILED, " ".join(str(error).split()))
            return
        self._finish(UNCHANGED if report.get("gate") == "returned unchanged" else DONE, told)

    @staticmethod
    def _save(file: Path, outputs: Any, report: dict[str, Any]) -> str:
        """Write corrected volume, difference and report with names that are not taken; returns the first name."""
        folder = file.parent / RESULTS
        folder.mkdir(exist_ok=True)
        stem, suffix, number = file.name.removesuffix(_suffix(file)), _suffix(file), 1
        suffix = ".nii.gz" if suffix == ".mgz" else suffix
        while True:
            marker = f"_{number}" if number > 1 else ""
            names = [folder / f"{stem}_{part}{marker}{suffix}" for part in ("corrected", "difference")]
            said = folder / f"{stem}_report{marker}.json"
            if not any(name.exists() for name in (*names, said)):
                break
            number += 1
        said.write_text(json.dumps({**report, "strength": outputs.strength}, indent=1), encoding="utf-8")
        for node, name in zip((outputs.corrected, outputs.difference), names, strict=True):
            if not slicer.util.saveNode(node, str(name), {}):
                raise OSError(_("{name} could not be written").format(name=name))
        return f"{RESULTS}/{names[0].name}"

    def _finish(self, state: str, told: str) -> None:
        self._end(state, told)
        self._next()

    def _end(self, state: str, told: str) -> None:
        item, self._current, self._job = self._current, None, None
        if item is None:
            return
        item.state, item.told = state, told
        if item.file is not None:
            self._forget(item)

    @staticmethod
    def _forget(item: BatchItem) -> None:
        """Take the nodes that a file has brought out of the scene again."""
        volume, item.volume = item.volume, None
        if volume is None or volume.GetScene() is None:
            return
        made = [
            node
            for kind in ("vtkMRMLScalarVolumeNode", "vtkMRMLTableNode")
            for node in slicer.util.getNodesByClass(kind)
            if node.GetNodeReferenceID("BrainDiff.input") == volume.GetID()
        ]
        for node in (*made, volume):
            slicer.mrmlScene.RemoveNode(node)


def _suffix(file: Path) -> str:
    return next((suffix for suffix in SUFFIXES if file.name.lower().endswith(suffix)), "")
