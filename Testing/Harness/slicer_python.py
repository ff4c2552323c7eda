"""Puts the Python parts of Slicer in place: stand-ins, or Slicer's own files if BRAINDIFF_SLICER_PYTHON names them."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
from pathlib import Path

import slicer

VARIABLE = "BRAINDIFF_SLICER_PYTHON"
STAND_INS = {
    "i18n": "Harness.scripted",
    "ScriptedLoadableModule": "Harness.scripted",
    "parameterNodeWrapper": "Harness.parameter_node",
    "packaging": "Harness.installers",
    "cli": "Harness.cli_runner",
}
# Order matters: i18n is imported by most of the others. Of packaging, pip_install stays a stand-in.
SLICERS_OWN = ("i18n", "util", "cli", "parameterNodeWrapper", "ScriptedLoadableModule", "packaging")


def slicers_own_folder() -> Path | None:
    """The folder Base/Python of a Slicer source tree or installation, if the variable names one."""
    named = os.environ.get(VARIABLE)
    folder = Path(named) if named else None
    if folder is not None and not (folder / "slicer" / "ScriptedLoadableModule.py").is_file():
        raise FileNotFoundError(f"{VARIABLE}={named}: no slicer/ScriptedLoadableModule.py there")
    return folder


def install_python_parts() -> None:
    """Makes slicer.i18n, slicer.cli and the others importable, and the widgets and modules that they need."""
    from Harness import installers, node_selector, widgets  # noqa: F401

    folder = slicers_own_folder()
    for name, module in STAND_INS.items():
        if folder is None:
            _place(name, importlib.import_module(module))
    for name in SLICERS_OWN if folder is not None else ():
        if any((folder / "slicer" / each).exists() for each in (name, f"{name}.py")):  # 5.10 has no packaging
            _load(name, folder / "slicer")
    _keep_from_installing()
    installers.modules()


def _place(name: str, module: types.ModuleType) -> None:
    sys.modules[f"slicer.{name}"] = module
    setattr(slicer, name, module)


def _load(name: str, folder: Path) -> None:
    path, places = folder / f"{name}.py", None
    if (folder / name).is_dir():
        path, places = folder / name / "__init__.py", [str(folder / name)]
    specification = importlib.util.spec_from_file_location(f"slicer.{name}", path, submodule_search_locations=places)
    module = importlib.util.module_from_spec(specification)
    _place(name, module)
    specification.loader.exec_module(module)


def _keep_from_installing() -> None:
    """Slicer's own checks and questions, but pip itself and what is installed are the test's to say."""
    from Harness import installers

    for module in (slicer.util, getattr(slicer, "packaging", None)):
        if module is not None:
            module.pip_install = installers.pip_install
    installers.hide_what_is_absent()
