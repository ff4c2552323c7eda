"""The group "Several volumes" of the panel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from BrainDiffSlicerLib.BatchItem import CANCELED, DONE, FAILED, RUNNING, UNCHANGED, WAITING, BatchItem
from BrainDiffSlicerLib.BatchQueue import BatchQueue

COLUMNS = 4


class BatchPanel:
    """Connects the widgets of the group with a queue.

    ui       the panel's widgets by name
    prepare  as ``BatchQueue`` takes it
    ask      installs what is missing, and raises RuntimeError if it cannot
    say      shows a message of one line to the user
    """

    def __init__(
        self, ui, prepare: Callable[[], Callable[..., Any]], ask: Callable[[], None], say: Callable[[str], None]
    ) -> None:
        self._ui, self._ask, self._say = ui, ask, say
        self.queue = BatchQueue(prepare, self._show)
        table = ui.batchTable
        table.setColumnCount(COLUMNS)
        table.setHorizontalHeaderLabels([_("Volume"), _("State"), _("Motion (mm)"), _("Result")])
        table.horizontalHeader().setStretchLastSection(True)
        table.verticalHeader().hide()
        ui.batchLoadedButton.clicked.connect(lambda: self._added(self.queue.addLoaded()))
        ui.batchFolderButton.clicked.connect(self._onFolder)
        ui.batchStartButton.clicked.connect(self._onStart)
        ui.batchCancelButton.clicked.connect(self._onCancel)
        ui.batchClearButton.clicked.connect(self.queue.clear)
        self._show()

    def addFolder(self, folder: str) -> None:
        """Queue the files of a folder; no folder where the user has chosen none."""
        if not folder:
            return
        try:
            self._added(self.queue.addFolder(folder))
        except OSError as error:
            self._say(_("{folder} cannot be read: {error}").format(folder=folder, error=error.strerror))

    def _added(self, count: int) -> None:
        self._say("" if count else _("There is no further volume to correct."))

    def _onFolder(self) -> None:
        self.addFolder(str(qt.QFileDialog.getExistingDirectory(None, _("Folder with T1-weighted volumes"))))

    def _onStart(self) -> None:
        self._say("")
        try:
            self._ask()
        except RuntimeError as error:
            self._say(str(error))
            return
        self.queue.start()

    def _onCancel(self) -> None:
        rows = {index.row() for index in self._ui.batchTable.selectedIndexes()}
        for row in sorted(rows, reverse=True):  # those that wait first: the next of them would start
            self.queue.cancel(self.queue.items[row])

    def _show(self) -> None:
        table, items = self._ui.batchTable, self.queue.items
        table.setRowCount(len(items))
        for row, item in enumerate(items):
            for column, text in enumerate(self._cells(item)):
                cell = table.item(row, column)
                if cell is None:
                    cell = qt.QTableWidgetItem()
                    table.setItem(row, column, cell)
                cell.setText(text)
                cell.setToolTip(text)
        self._ui.batchStartButton.enabled = not self.queue.running and any(item.state == WAITING for item in items)
        self._ui.batchCancelButton.enabled = any(not item.over for item in items)
        self._ui.batchClearButton.enabled = bool(items)

    @staticmethod
    def _cells(item: BatchItem) -> tuple[str, ...]:
        words = {
            WAITING: _("waiting"), RUNNING: _("running"), DONE: _("done"), UNCHANGED: _("unchanged"),
            FAILED: _("failed"), CANCELED: _("canceled"),
        }  # fmt: skip
        motion = (item.report or {}).get("severity_mm")
        return item.name, words[item.state], "" if motion is None else f"{motion:.1f}", item.told
