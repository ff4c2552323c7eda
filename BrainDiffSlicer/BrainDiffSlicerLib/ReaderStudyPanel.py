"""The group "Reader study" of the panel: two images beside each other, and keys only."""

from __future__ import annotations

from pathlib import Path

import ctk
import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from BrainDiffSlicerLib.CompareKeys import CompareKeys
from BrainDiffSlicerLib.HiddenVolume import HiddenVolume
from BrainDiffSlicerLib.PairViews import PairViews
from BrainDiffSlicerLib.ReaderAgreement import ReaderAgreement
from BrainDiffSlicerLib.ReaderStudy import Pair, ReaderStudy
from BrainDiffSlicerLib.ReaderStudyPage import ReaderStudyPage

LIST_SETTING, READER_SETTING, SEED_SETTING = (f"BrainDiff/Study{name}" for name in ("List", "Reader", "Seed"))


class ReaderStudyPanel:
    """Asks one question after the other about one pair after the other.

    ui  the panel's widgets by name
    """

    def __init__(self, ui) -> None:
        self._ui = ui
        self._views = PairViews(onLeft=self.pause)
        self._study: ReaderStudy | None = None
        self._volumes: list[slicer.vtkMRMLScalarVolumeNode] = []
        keys = {str(digit): (lambda value=digit: self._answer(value)) for digit in range(6)}
        moves = {
            "Backspace": self._back, "Up": lambda: self._views.scroll(1), "Down": lambda: self._views.scroll(-1),
            "O": self._views.turn, "Escape": self.pause,
        }  # fmt: skip
        self._keys = CompareKeys({**keys, **moves})
        settings = qt.QSettings()
        ui.studyListEdit.filters = ctk.ctkPathLineEdit.Files
        ui.studyListEdit.nameFilters = ["*.csv"]
        ui.studyListEdit.currentPath = str(settings.value(LIST_SETTING, "") or "")
        ui.studyReaderEdit.text = str(settings.value(READER_SETTING, "") or "")
        ui.studySeedSpinBox.value = int(settings.value(SEED_SETTING, 1) or 1)
        ui.studyStartButton.clicked.connect(self.start)
        ui.studyPageButton.clicked.connect(self.showPage)

    @property
    def running(self) -> bool:
        """Whether pairs are shown now."""
        return self._study is not None

    def start(self) -> None:
        """Begin, or go on where this reader has stopped."""
        self.pause()
        path, reader = str(self._ui.studyListEdit.currentPath).strip(), str(self._ui.studyReaderEdit.text)
        seed = int(self._ui.studySeedSpinBox.value)
        try:
            study = ReaderStudy(Path(path), reader, seed)
        except (ValueError, OSError) as error:
            self._say(str(error))
            return
        for name, value in ((LIST_SETTING, path), (READER_SETTING, reader), (SEED_SETTING, seed)):
            qt.QSettings().setValue(name, value)
        self._study = study
        self._keys.enable(True)
        self._show()

    def pause(self) -> None:
        """Give the views and the keys back; what was rated is kept, an unfinished pair is asked again."""
        if self._study is None:
            return
        self._study = None
        self._keys.enable(False)
        self._views.restore()
        self._forget()
        self._say(_("Paused. Start goes on with the pair that is not complete."))

    def remove(self) -> None:
        """The panel goes, or the scene."""
        self.pause()
        self._keys.remove()
        self._say("")

    def showPage(self) -> None:
        """Write the page of results and open it."""
        folder = Path(str(self._ui.studyListEdit.currentPath).strip()).parent
        try:
            page = ReaderStudyPage(ReaderAgreement(folder)).write(folder)
        except (ValueError, OSError) as error:
            self._say(str(error))
            return
        self._say(_("Written: {path}").format(path=page))
        if not slicer.app.testingEnabled():
            qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(page)))

    def _show(self) -> None:
        pair = self._study.pair
        if pair is None:
            self.pause()
            self._say(_("All pairs are rated. Thank you."))
            return
        try:
            self._load(pair)
        except (RuntimeError, ValueError) as error:
            self.pause()
            self._say(" ".join(str(error).split()))
            return
        captions = (_("Left"), _("Right"))
        self._views.showVolumes(tuple(self._volumes), captions, PairViews.ORIENTATIONS[0])
        self._ask()

    def _load(self, pair: Pair) -> None:
        """Both images as volumes without names, in one window: that of the original, on whichever side it is."""
        from BrainDiffLogic.display import robust_maximum

        loaded = []
        for file in pair.files:
            volume = slicer.util.loadVolume(str(file), {"show": False})
            loaded.append((slicer.util.arrayFromVolume(volume).copy(), volume))
        if slicer.vtkSlicerVolumesLogic().CompareVolumeGeometry(*(volume for _array, volume in loaded)):
            for _array, volume in loaded:
                HiddenVolume.remove(volume)
            raise ValueError(_("The two images of this pair lie on different grids: correct the list."))
        self._views.clear()
        self._forget()
        top = robust_maximum(loaded[1 if pair.swapped else 0][0])
        for name, (array, source) in zip((_("Left"), _("Right")), loaded, strict=True):
            volume = HiddenVolume.add(name)
            slicer.util.updateVolumeFromArray(volume, np.ascontiguousarray(array))
            volume.CopyOrientation(source)
            volume.CreateDefaultDisplayNodes()
            volume.GetDisplayNode().SetAutoWindowLevel(False)
            volume.GetDisplayNode().SetWindowLevelMinMax(0.0, 1.1 * top)
            self._volumes.append(volume)
            HiddenVolume.remove(source)

    def _forget(self) -> None:
        while self._volumes:
            HiddenVolume.remove(self._volumes.pop())

    def _answer(self, value: int) -> None:
        if self._study is None:
            return
        trial = self._study.trial
        try:
            self._study.answer(value)
        except OSError as error:
            self.pause()
            self._say(str(error))
            return
        if self._study.trial != trial:
            self._show()
        else:
            self._ask()

    def _back(self) -> None:
        if self._study is not None:
            self._study.back()
            self._ask()

    def _ask(self) -> None:
        side, _separator, quality = self._study.question.partition("_")
        sides = {"left": _("LEFT image"), "right": _("RIGHT image")}
        texts = {
            "artifact": _("Motion artifact? 1 severe, 2 strong, 3 moderate, 4 slight, 5 none"),
            "sharpness": _("Sharpness? 1 very poor, 2 poor, 3 fair, 4 good, 5 excellent"),
            "lesions": _("Lesion visibility? 0 no lesion, 1 very poor, 2 poor, 3 fair, 4 good, 5 excellent"),
        }
        what = texts.get(quality) or _("Which is better? 1 left clearly, 2 left, 3 the same, 4 right, 5 right clearly")
        head = _("Pair {trial} of {count}").format(trial=self._study.trial + 1, count=len(self._study.pairs))
        where = f"<b>{sides[side]}:</b> " if side in sides else ""
        keys = _("Backspace: back. Up, Down: slices. O: orientation. Escape: pause.")
        self._say(f"<b>{head}</b><br>{where}{what}<br><small>{keys}</small>")

    def _say(self, text: str) -> None:
        self._ui.studyMessageLabel.text = text
        self._ui.studyMessageLabel.visible = bool(text)
