"""The Python packages that a correction needs: asked for once, installed, or explained."""

from __future__ import annotations

import importlib
import logging
import platform
import shutil
from collections.abc import Callable

import slicer
from slicer.i18n import tr as _

from BrainDiffSlicerLib.Packages import Packages

PYTORCH = ("torch", ">=2.2")
KEPT = ["torch", "torchvision", "numpy", "SimpleITK", "vtk"]
"""Packages that Slicer or the PyTorch extension bring: no other package may replace them."""
PYTORCH_MB, PYTORCH_CUDA_MB, OTHERS_MB = 200, 3000, 60
"""To download: torch 2.13 for a processor, with CUDA, and all other packages together; rounded."""
INSTALLING = "BrainDiffInstalling"
"""Property of the application while packages are installed: it outlives a reload of the module."""


class DependencyError(RuntimeError):
    """A correction cannot run because a package is missing; the message says which and what to do."""


class Dependencies:
    """What must be installed before the CLI module can run. Nothing is imported to find out.

    requirementsFile  path of the requirements.txt that names all packages but PyTorch

    Usage::

      try:
          Dependencies(resourcePath("requirements.txt")).ensure(onStage=print)
      except DependencyError as error:
          messageLabel.text = str(error)
    """

    def __init__(self, requirementsFile: str) -> None:
        self._requirementsFile = requirementsFile

    def missing(self) -> list[str]:
        """The requirements that are not met, for example ["torch>=2.2", "nibabel>=5.2"]."""
        importlib.invalidate_caches()  # an installation may just have ended
        requirements = ["".join(PYTORCH), *self._others()]
        return [requirement for requirement in requirements if not Packages.installed(requirement)]

    def check(self) -> None:
        """Raise DependencyError if a package is missing. Installs nothing and asks nothing."""
        missing = self.missing()
        if missing:
            text = _("Python packages are missing: {packages}. Press Correct motion in the BrainDiff module once.")
            raise DependencyError(text.format(packages=", ".join(missing)))

    def ensure(self, onStage: Callable[[str], None] | None = None) -> None:
        """Ask the user once, and install what is missing; ``onStage`` is told what goes on.

        Events are handled meanwhile, so a second call may come: it is refused. Raises DependencyError then, and if the
        user declines, if there is no PyTorch extension, if an installation fails (offline), or in testing mode, in
        which nothing is ever installed.
        """
        missing = self.missing()
        if not missing:
            return
        if slicer.app.property(INSTALLING) or Packages.busy():
            raise DependencyError(_("Packages are being installed already: wait until that has ended."))
        if not slicer.app.testingEnabled():
            slicer.app.setProperty(INSTALLING, True)
            try:
                self._install(missing, onStage or (lambda _stage: None))
            finally:
                slicer.app.setProperty(INSTALLING, False)
        if self.missing():
            text = _("Nothing was done, because these Python packages are missing: {packages}.")
            raise DependencyError(text.format(packages=", ".join(self.missing())))

    @staticmethod
    def _old() -> bool:
        """Whether PyTorch for this computer ends at 2.2.2, which takes numpy below 2: Macs as Slicer sees them."""
        return platform.system() == "Darwin" and platform.machine() == "x86_64"

    def _others(self) -> list[str]:
        return Packages.required(self._requirementsFile) + (["numpy<2"] if self._old() else [])

    def _install(self, missing: list[str], onStage: Callable[[str], None]) -> None:
        name, version = PYTORCH
        torchIsMissing = name + version in missing
        installer = self._torchInstaller(onStage) if torchIsMissing else None
        if not slicer.util.confirmOkCancelDisplay(self._question(missing, torchIsMissing)):
            text = _("Nothing was installed. A correction needs {packages}.")
            raise DependencyError(text.format(packages=", ".join(missing)))
        try:
            if installer is not None:
                onStage(_("Installing PyTorch (once, about {size} MB)").format(size=self._torchMB()))
                installer.installTorch(askConfirmation=False, torchVersionRequirement=version)
            onStage(_("Installing other packages (once, about {size} MB)").format(size=OTHERS_MB))
            kept = [package for package in KEPT if package != "numpy" or not self._old()]
            Packages.install(self._others(), kept)
        except Exception as error:  # the installer of another extension, pip, the network or the disk
            logging.exception("BrainDiff: an installation failed")
            text = _("{packages} could not be installed ({error}): check the internet connection and the disk.")
            lines = " ".join(str(error).split())[:200]
            raise DependencyError(text.format(packages=", ".join(self.missing()), error=lines)) from error

    @staticmethod
    def _torchMB() -> int:
        return PYTORCH_CUDA_MB if shutil.which("nvidia-smi") else PYTORCH_MB

    def _question(self, missing: list[str], torchIsMissing: bool) -> str:
        size = OTHERS_MB + (self._torchMB() if torchIsMissing else 0)
        lines = [
            _("A correction needs these Python packages, which are downloaded once (about {size} MB):").format(
                size=size
            ),
            ", ".join(missing) + ".",
        ]
        if torchIsMissing and self._old():
            lines.append(_("PyTorch for this Mac ends at 2.2.2 and needs numpy below 2 in place of Slicer's own."))
        lines.append(_("Install them into 3D Slicer now?"))
        return "\n\n".join(lines)

    def _torchInstaller(self, onStage: Callable[[str], None]):
        try:
            import PyTorchUtils
        except ImportError:
            self._offerExtension(onStage)
        return PyTorchUtils.PyTorchUtilsLogic()

    @staticmethod
    def _offerExtension(onStage: Callable[[str], None]) -> None:
        """Install the extension PyTorch if the user wants it. It is loaded at the next start: always raises."""
        byHand = _("PyTorch is missing: install the PyTorch extension in the Extensions Manager and restart Slicer.")
        question = _("The PyTorch extension is missing. Install it from the Extensions Manager now?")
        manager = getattr(slicer.app, "extensionsManagerModel", lambda: None)()
        if manager is None or not slicer.util.confirmYesNoDisplay(question):
            raise DependencyError(byHand)
        onStage(_("Installing the PyTorch extension"))
        wasInteractive, manager.interactive = manager.interactive, False  # it would ask once more
        try:
            done = manager.installExtensionFromServer("PyTorch", False)
        finally:
            manager.interactive = wasInteractive
        if not done:
            raise DependencyError(byHand)
        raise DependencyError(
            _("The PyTorch extension is installed: save your work, restart Slicer, and press Correct motion again.")
        )
