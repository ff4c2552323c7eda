"""The choice of a model in the panel, with its card."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

import ctk
import qt
from slicer.i18n import tr as _

from BrainDiffSlicerLib.ModelCard import ModelCard

OTHER_FILE = "file"
"""What the parameter node holds for "the file that is named in the settings of this computer"."""
FILE_SETTING = "BrainDiff/ModelFile"


class ModelSelector:
    """Fills a combo box with the models of this computer and shows the card of the chosen one.

    combo     qt.QComboBox; a model's name is its item's data
    fileEdit  ctk.ctkPathLineEdit for a .safetensors file, with its .json card beside it
    line      qt.QLabel for the card in one line
    browser   qt.QTextBrowser for the whole card
    onChanged called without arguments when the user has chosen another model or file
    """

    def __init__(self, combo, fileEdit, line, browser, onChanged: Callable[[], None]) -> None:
        self._combo, self._fileEdit, self._line, self._browser = combo, fileEdit, line, browser
        self._onChanged = onChanged
        self._unknown = ""
        self.problem = ""
        """Why the chosen model cannot be used, in one line; empty if it can."""
        fileEdit.filters = ctk.ctkPathLineEdit.Files
        fileEdit.nameFilters = ["*.safetensors"]
        fileEdit.currentPath = str(qt.QSettings().value(FILE_SETTING, "") or "")
        self.refresh()
        combo.currentIndexChanged.connect(self._onComboChanged)
        fileEdit.currentPathChanged.connect(self._onFileChanged)
        fileEdit.validInputChanged.connect(self._onFileChanged)  # the other signal keeps silent about a cleared line

    @property
    def model(self) -> str:
        """The chosen model's name, or ``OTHER_FILE``."""
        return self._unknown or str(self._combo.itemData(self._combo.currentIndex))

    @property
    def modelToRun(self) -> str:
        """The chosen model as the correction takes it: a name, or the path of a file."""
        return str(self._fileEdit.currentPath).strip() if self.model == OTHER_FILE else self.model

    def setModel(self, model: str) -> None:
        """Choose a model by name; one that this computer does not have becomes the ``problem``."""
        if model == self.model:
            return
        index = self._combo.findData(model)
        self._unknown = "" if index >= 0 else model
        self._setIndex(index)
        self._showCard()

    def refresh(self) -> None:
        """Look for models again; the choice stays."""
        chosen = self.model if self._combo.count else ""
        wasBlocked = self._combo.blockSignals(True)
        self._combo.clear()
        for name in self._available():
            self._combo.addItem(name, name)
        self._combo.addItem(_("Other file (see Advanced)"), OTHER_FILE)
        self._combo.blockSignals(wasBlocked)
        index = self._combo.findData(chosen) if chosen else 0
        self._unknown = chosen if index < 0 else ""
        self._setIndex(index)
        self._showCard()

    def _available(self) -> list[str]:
        from BrainDiffLogic.models import checkpoints

        names = list(checkpoints.available())
        return sorted(names, key=lambda name: (name != checkpoints.DEFAULT_MODEL, name))

    def _setIndex(self, index: int) -> None:
        wasBlocked = self._combo.blockSignals(True)
        self._combo.currentIndex = index
        self._combo.blockSignals(wasBlocked)

    def _onComboChanged(self) -> None:
        self._unknown = ""
        self._showCard()
        self._onChanged()

    def _onFileChanged(self) -> None:
        path = str(self._fileEdit.currentPath).strip()
        qt.QSettings().setValue(FILE_SETTING, path)
        index = self._combo.findData(OTHER_FILE)
        if path and self._combo.currentIndex != index:
            self._combo.currentIndex = index  # who names a file wants to use it
        elif self.model == OTHER_FILE:
            self._showCard()
            self._onChanged()

    def _showCard(self) -> None:
        from BrainDiffLogic.errors import InputError
        from BrainDiffLogic.models import checkpoints

        self.problem = ""
        try:
            card = ModelCard(checkpoints.read_card(self._checkpoint(checkpoints)))
            line, html = card.line(), card.html()
        except InputError as error:
            self.problem = str(error)
            line, html = self.problem, f"<p>{escape(self.problem)}</p>"
        self._line.text = line
        self._browser.setHtml(html)

    def _checkpoint(self, checkpoints) -> Path:
        if not self.modelToRun:
            from BrainDiffLogic.errors import InputError

            raise InputError(_("No model file is chosen: choose a .safetensors file under Advanced."))
        return checkpoints.find_checkpoint(self.modelToRun)
