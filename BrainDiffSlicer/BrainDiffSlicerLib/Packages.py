"""Python packages of Slicer: ``slicer.packaging`` where Slicer has it (5.12 and later), the same by pip where not."""

from __future__ import annotations

import contextlib
import importlib.metadata
import tempfile
from pathlib import Path

import slicer
import slicer.util

with contextlib.suppress(ImportError):  # 3D Slicer 5.10
    import slicer.packaging


class Packages:
    """What is installed, and installing. Nobody is asked here."""

    @staticmethod
    def required(path: str) -> list[str]:
        """The requirements of a file, one a line; comments have lines of their own."""
        lines = (line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
        return [line for line in lines if line and line[0] not in "#-"]

    @staticmethod
    def installed(requirement: str) -> bool:
        """Whether a package is installed in a version that fits, for example "monai>=1.4"."""
        if hasattr(slicer, "packaging"):
            return bool(slicer.packaging.pip_check(requirement))
        try:
            from packaging.requirements import Requirement
        except ImportError:
            from pip._vendor.packaging.requirements import Requirement
        wanted = Requirement(requirement)
        try:
            return wanted.specifier.contains(importlib.metadata.version(wanted.name), prereleases=True)
        except importlib.metadata.PackageNotFoundError:
            return False

    @staticmethod
    def busy() -> bool:
        """Whether Slicer is installing packages now, for whomever."""
        check = getattr(getattr(slicer, "packaging", None), "isPipInstallInProgress", None)
        return bool(check and check())

    @staticmethod
    def install(requirements: list[str], kept: list[str]) -> None:
        """Install what is missing, and nothing in place of the packages ``kept``. Raises whatever pip raises."""
        if hasattr(slicer, "packaging"):
            slicer.packaging.pip_ensure(
                requirements, skip_packages=kept, requester="BrainDiff", prompt_install=False, prompt_restart=False
            )
            return
        missing = [requirement for requirement in requirements if not Packages.installed(requirement)]
        with tempfile.TemporaryDirectory() as folder:
            pins = Path(folder) / "constraints.txt"
            pins.write_text("\n".join(Packages._pins(kept)), encoding="utf-8")
            slicer.util.pip_install(["--constraint", str(pins), *missing])

    @staticmethod
    def _pins(kept: list[str]) -> list[str]:
        found = []
        for name in kept:
            try:
                found.append(f"{name}=={importlib.metadata.version(name)}")
            except importlib.metadata.PackageNotFoundError:
                continue
        return found
