"""The choice of the device that a correction runs on."""

from __future__ import annotations

import platform
import shutil

import qt

SETTING = "BrainDiff/Device"


class DeviceSelector:
    """Fills a combo box with the devices of this computer and remembers the choice in the settings.

    PyTorch is not asked, it would have to be imported: cuda is offered where NVIDIA's driver is installed and mps
    on Apple silicon. Whether PyTorch can use them is seen when the correction starts, and said then; "auto" takes
    what PyTorch can use.
    """

    def __init__(self, combo) -> None:
        self._combo = combo
        for name in self.offered():
            combo.addItem(name, name)
        remembered = str(qt.QSettings().value(SETTING, "auto"))
        combo.currentIndex = max(0, combo.findData(remembered))
        combo.currentIndexChanged.connect(self._remember)

    @property
    def device(self) -> str:
        """One of auto, cpu, cuda and mps."""
        return str(self._combo.itemData(self._combo.currentIndex))

    @staticmethod
    def offered() -> list[str]:
        """The devices that this computer seems to have, "auto" first."""
        devices = ["auto", "cpu"]
        if shutil.which("nvidia-smi"):
            devices.append("cuda")
        if platform.system() == "Darwin" and platform.machine() == "arm64":
            devices.append("mps")
        return devices

    def _remember(self) -> None:
        qt.QSettings().setValue(SETTING, self.device)
