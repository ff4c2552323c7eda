"""Stand-ins of slicer.packaging, PyTorchUtils and SampleData: nothing is installed or downloaded, all is recorded."""
# ruff: noqa: N801, N802, N815 - the names are Slicer's and Qt's

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import slicer
from packaging.requirements import Requirement


class Installer:
    """What a test wants installations to do, and what was asked for.

    absent   packages that seem not to be installed
    outcome  "succeeds" or "offline" (pip fails); a user who declines is a test's answer to a message box
    asked    what pip_install and installTorch were called with
    kept     the packages that the last pip_install had to leave as they are
    during   called while something is installed, when Slicer handles events
    """

    def __init__(self):
        self.absent: set[str] = set()
        self.outcome = "succeeds"
        self.asked: list[tuple[str, object]] = []
        self.kept: set[str] = set()
        self.during: Callable[[], None] = lambda: None

    def install(self, how: str, what: object, names: list[str]) -> None:
        self.asked.append((how, what))
        slicer.app.processEvents()
        self.during()
        if self.outcome == "offline":
            raise subprocess.CalledProcessError(1, ["pip", "install", *names])
        if self.outcome == "succeeds":
            self.absent -= {name.lower() for name in names}


def load_requirements(path: str | Path) -> list[Requirement]:
    """One requirement a line; a comment has a line of its own, and options of pip are skipped."""
    lines = (line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and line[0] not in "#-"]


def _all(requirements) -> list[Requirement]:
    requirements = [requirements] if isinstance(requirements, (str, Requirement)) else requirements
    return [Requirement(str(requirement)) for requirement in requirements]


def pip_check(requirements) -> bool:
    """Whether all of them are installed in a version that fits."""
    return all(_is_installed(requirement) for requirement in _all(requirements))


def _is_installed(requirement: Requirement) -> bool:
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    try:
        return requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def pip_ensure(
    requirements,
    constraints=None,
    skip_packages=None,
    prompt_install=True,
    prompt_restart=True,
    requester=None,
    skip_in_testing=True,
    show_progress=True,
) -> None:
    """Asks and installs what is missing; RuntimeError if the user declines, CalledProcessError if pip fails."""
    missing = [str(requirement) for requirement in _all(requirements) if not pip_check(requirement)]
    if not missing or (skip_in_testing and slicer.app.testingEnabled()):
        return
    if prompt_install and not slicer.util.confirmOkCancelDisplay("Install Python packages?"):
        raise RuntimeError("User declined package installation")
    pip_install(missing, skip_packages=skip_packages)


def pip_install(requirements, skip_packages=None, **options) -> None:
    """Takes what slicer.packaging gives, and what pip itself takes: a list with ``--constraint FILE`` before it."""
    kept = list(skip_packages or [])
    if isinstance(requirements, list) and requirements[0] == "--constraint":
        pins, requirements = Path(requirements[1]).read_text(encoding="utf-8"), requirements[2:]
        kept += [Requirement(pin).name for pin in pins.splitlines()]
    slicer.app.installer.kept = set(kept)
    slicer.app.installer.install("pip_install", requirements, [r.name for r in _all(requirements)])


def hide_what_is_absent() -> None:
    """From here on the packages that a test calls absent have no version; whoever checks asks for that."""
    version = importlib.metadata.version

    def of_what_is_there(name: str) -> str:
        if name.lower() in getattr(getattr(slicer, "app", None), "installer", Installer()).absent:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    importlib.metadata.version = of_what_is_there


class PyTorchUtilsLogic:
    """The part of the PyTorch extension that installs; ``torch`` is never imported here."""

    def installTorch(
        self,
        askConfirmation=False,
        forceComputationBackend=None,
        torchVersionRequirement=None,
        torchvisionVersionRequirement=None,
    ):
        asked = {"askConfirmation": askConfirmation, "torchVersionRequirement": torchVersionRequirement}
        slicer.app.installer.install("installTorch", asked, ["torch"])
        return types.ModuleType("torch")

    @staticmethod
    def torchInstalled() -> bool:
        return pip_check("torch")


class SampleDataLogic:
    """Where modules register their data sets; downloads do not exist here."""

    registered: list[dict] = []
    categories: list[str] = []

    @staticmethod
    def registerCustomSampleDataSource(category="Custom", sampleName=None, uris=None, fileNames=None, **more) -> None:
        named = {"category": category, "sampleName": sampleName, "uris": uris, "fileNames": fileNames}
        SampleDataLogic.registered.append(named | more)

    @staticmethod
    def registerCustomSampleDataCategory(category, position=None, **more) -> None:
        SampleDataLogic.categories.append(category)

    @staticmethod
    def sampleDataCategoryDisplayName(category: str) -> str:
        return category


def modules() -> dict[str, types.ModuleType]:
    """PyTorchUtils and SampleData as modules to import."""
    made = {name: types.ModuleType(name, __doc__) for name in ("PyTorchUtils", "SampleData")}
    made["PyTorchUtils"].PyTorchUtilsLogic = PyTorchUtilsLogic
    made["SampleData"].SampleDataLogic = SampleDataLogic
    sys.modules.update(made)
    return made
