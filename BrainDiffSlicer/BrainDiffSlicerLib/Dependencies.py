"""The Python packages that a correction needs: asked for, installed, or explained."""

from __future__ import annotations

import importlib
import logging

import slicer
import slicer.packaging
from slicer.i18n import tr as _

PYTORCH = ("torch", ">=2.4")
KEPT = ["torch", "torchvision", "numpy", "SimpleITK", "vtk"]
"""Packages that Slicer or the PyTorch extension bring: no other package may replace them."""


class DependencyError(RuntimeError):
    """A correction cannot run because a package is missing; the message says which and what to do."""


class Dependencies:
    """What must be installed before the CLI module can run. Nothing is imported to find out.

    requirementsFile  path of the requirements.txt that names all packages but PyTorch

    Usage::

      try:
          Dependencies(resourcePath("requirements.txt")).ensure()
      except DependencyError as error:
          messageLabel.text = str(error)
    """

    def __init__(self, requirementsFile: str) -> None:
        self._requirementsFile = requirementsFile

    def missing(self) -> list[str]:
        """The requirements that are not met, for example ["torch>=2.4", "monai>=1.4"]."""
        importlib.invalidate_caches()  # an installation may just have ended
        requirements = ["".join(PYTORCH), *slicer.packaging.load_requirements(self._requirementsFile)]
        return [str(requirement) for requirement in requirements if not slicer.packaging.pip_check(requirement)]

    def check(self) -> None:
        """Raise DependencyError if a package is missing. Installs nothing and asks nothing."""
        missing = self.missing()
        if missing:
            text = _("Python packages are missing: {packages}. Press Correct motion in the BrainDiff module once.")
            raise DependencyError(text.format(packages=", ".join(missing)))

    def ensure(self) -> None:
        """Ask the user, and install what is missing.

        Raises DependencyError if the user declines, if there is no PyTorch extension, if an installation fails
        (offline), or in testing mode, in which nothing is ever installed.
        """
        if not self.missing():
            return
        if not slicer.app.testingEnabled():
            if not slicer.packaging.pip_check("".join(PYTORCH)):
                self._installPyTorch()
            self._installOthers()
        if self.missing():
            text = _("Nothing was done, because these Python packages are missing: {packages}.")
            raise DependencyError(text.format(packages=", ".join(self.missing())))

    def _installPyTorch(self) -> None:
        try:
            import PyTorchUtils
        except ImportError:
            raise DependencyError(
                _("PyTorch is missing: install the PyTorch extension in the Extensions Manager and restart Slicer."),
            ) from None
        name, version = PYTORCH
        try:
            installed = PyTorchUtils.PyTorchUtilsLogic().installTorch(
                askConfirmation=True, torchVersionRequirement=version
            )
        except Exception as error:  # whatever stops the installer of another extension
            raise self._failure(name, error) from error
        if installed is None:
            raise DependencyError(self._declined(name + version))

    def _installOthers(self) -> None:
        requirements = slicer.packaging.load_requirements(self._requirementsFile)
        try:
            slicer.packaging.pip_ensure(requirements, skip_packages=KEPT, requester="BrainDiff")
        except RuntimeError:  # pip_ensure says so when the user declines
            raise DependencyError(self._declined(", ".join(self.missing()))) from None
        except Exception as error:  # pip, the network or the disk
            raise self._failure(", ".join(self.missing()), error) from error

    @staticmethod
    def _declined(packages: str) -> str:
        return _("Nothing was installed. A correction needs {packages}.").format(packages=packages)

    @staticmethod
    def _failure(packages: str, error: Exception) -> DependencyError:
        logging.info(f"BrainDiff: the installation of {packages} failed: {error}")
        text = _("{packages} could not be installed: check the internet connection and see the application log.")
        return DependencyError(text.format(packages=packages))
