"""The package of the extension: built and installed by CMake, complete, and able to work on its own."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from BrainDiffLogic import __version__, read_volume, write_volume
from BrainDiffLogic.volume import Volume
from Harness.phantom import Phantom

CHECKOUT = Path(__file__).resolve().parents[2]
STUB = CHECKOUT / "Testing" / "Harness" / "SlicerConfig"
MODULES, CLI_MODULES = "lib/Slicer-5.12/qt-scripted-modules", "lib/Slicer-5.12/cli-modules"
NOT_PACKAGED = {
    "BrainDiffSlicer/CMakeLists.txt",
    "Resources/BrainDiff.json",  # goes to the Extensions Index
}
NOT_PACKAGED_FOLDERS = (
    "Resources/Screenshots/", "Resources/Documentation/",  # read in the repository, with pictures
    "Resources/View/", "BrainDiffSlicer/BrainDiffViewer/",  # for pip: Slicer has views of its own
)  # fmt: skip
PART_OF_SLICER = {"vtk", "slicer", "qt", "ctk", "numpy"}
PANEL_SOURCES = sorted(
    path for pattern in ("*.py", "BrainDiffSlicerLib/*.py") for path in (CHECKOUT / "BrainDiffSlicer").glob(pattern)
)


def source_files() -> set[str]:
    """All files of the folders that are packaged, but for what tools left there and what is not packaged."""
    folders = [CHECKOUT / name for name in ("BrainDiffLogic", "BrainDiffSlicer", "Resources")]
    paths = [path for folder in folders for path in folder.rglob("*")]
    names = {path.relative_to(CHECKOUT).as_posix() for path in paths if path.is_file()}
    names = {name for name in names if not any(part.startswith((".", "__pycache__")) for part in name.split("/"))}
    return {name for name in names if name not in NOT_PACKAGED and not name.startswith(NOT_PACKAGED_FOLDERS)}


def installed_name(name: str) -> str:
    if name.startswith(("BrainDiffSlicer/BrainDiffCorrect.", "BrainDiffSlicer/BrainDiffEstimate.")):
        return name.replace("BrainDiffSlicer", CLI_MODULES, 1)
    return f"{MODULES}/{name.removeprefix('BrainDiffSlicer/')}"


def run_cmake(*arguments: object) -> None:
    done = subprocess.run(["cmake", *map(str, arguments)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def a_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build tree of the extension, against the stub of Slicer."""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is missing: install it to test the package")
    folder = tmp_path_factory.mktemp("extension")
    run_cmake("-S", CHECKOUT, "-B", folder / "build", f"-DSlicer_DIR={STUB}", "-DBUILD_TESTING=ON")
    run_cmake("--build", folder / "build")
    return folder / "build"


@pytest.fixture(scope="module")
def a_tree(a_build: Path) -> Path:
    """The install tree of the extension."""
    tree = a_build.parent / "tree"
    run_cmake("--install", a_build, "--prefix", tree)
    return tree


@pytest.fixture(scope="module")
def metadata() -> dict[str, str]:
    """The EXTENSION_ entries as the Extensions Index reads them: one set() with one quoted text on one line."""
    text = (CHECKOUT / "CMakeLists.txt").read_text(encoding="utf-8")
    return dict(re.findall(r'^set\(EXTENSION_(\w+) "([^"\n]+)"\)$', text, re.MULTILINE))


@pytest.fixture(scope="module")
def index_entry() -> dict[str, Any]:
    return json.loads((CHECKOUT / "Resources" / "BrainDiff.json").read_text(encoding="utf-8"))


# What is in it


def test_the_package_holds_every_file_and_nothing_else(a_tree: Path) -> None:
    expected = {installed_name(name) for name in source_files()} | {"share/Slicer-5.12/BrainDiff.s4ext"}
    assert {path.relative_to(a_tree).as_posix() for path in a_tree.rglob("*") if path.is_file()} == expected


def test_the_package_holds_what_the_extension_cannot_do_without(a_tree: Path) -> None:
    for name in (
        "BrainDiffSlicer.py", "BrainDiffSlicerLib/__init__.py", "BrainDiffLogic/correction_files.py",
        "Resources/UI/BrainDiffSlicer.ui", "Resources/Icons/BrainDiffSlicer.png", "Resources/requirements.txt",
        "Resources/Checkpoints/attention-unet.safetensors", "Resources/Checkpoints/attention-unet.json",
    ):  # fmt: skip
        assert (a_tree / MODULES / name).is_file(), name


def test_files_arrive_unchanged(a_tree: Path) -> None:
    for name in source_files():
        assert (a_tree / installed_name(name)).read_bytes() == (CHECKOUT / name).read_bytes(), name


def test_only_the_cli_modules_begin_as_programs(a_tree: Path) -> None:
    programs = {path.name for path in a_tree.rglob("*.py") if path.read_bytes().startswith(b"#!")}
    assert programs == {
        "BrainDiffCorrect.py",
        "BrainDiffEstimate.py",
    }  # any other would be one, too


def test_slicer_is_asked_to_run_the_self_test(a_build: Path) -> None:
    registered = (a_build / "BrainDiffSlicer" / "CTestTestfile.cmake").read_text(encoding="utf-8")
    assert re.search(r"^add_test\(\W*py_BrainDiffSlicer\W", registered, re.MULTILINE)


# Whether it works


def run_installed(tree: Path, folder: Path, *arguments: str, path: Path | None = None) -> tuple[int, str, Path]:
    """Exit status, stderr, and where the library came from; nothing that is installed beside Python's own is seen but
    the packages themselves: no site, hence no editable installs, and PYTHONPATH begins with ``path``.
    """
    script = tree / CLI_MODULES / "BrainDiffCorrect.py"
    code = (
        "import runpy, sys\n"
        f"sys.argv[0] = {str(script)!r}\n"
        "try:\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally:\n"
        "    open('library.txt', 'w').write(sys.modules['BrainDiffLogic'].__file__)\n"
    )
    packages = Path(np.__file__).parents[1]
    search = os.pathsep.join(str(entry) for entry in (path, packages) if entry)
    done = subprocess.run(
        [sys.executable, "-B", "-S", "-c", code, *arguments], cwd=folder, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, env={"PYTHONPATH": search, "HOME": str(folder), "OMP_WAIT_POLICY": "PASSIVE"},
    )  # fmt: skip
    return done.returncode, done.stderr, Path((folder / "library.txt").read_text())


def test_the_installed_cli_module_corrects_with_the_installed_library_and_model(a_tree: Path, tmp_path: Path) -> None:
    affine = np.diag([2.0, 2, 2, 1])
    write_volume(Volume(Phantom().image((32, 40, 36), affine), affine), tmp_path / "scan.nrrd")
    status, errors, library = run_installed(
        a_tree, tmp_path, "--device", "cpu", "--report", "report.json", "scan.nrrd", "out.nrrd", path=a_tree / MODULES
    )
    assert (status, errors) == (0, "")
    assert library == a_tree / MODULES / "BrainDiffLogic" / "__init__.py"
    report = json.loads((tmp_path / "report.json").read_text())
    card = json.loads((CHECKOUT / "Resources" / "Checkpoints" / "motion.json").read_text())
    assert (report["model"], report["model_sha256"]) == ("motion", card["sha256"])
    assert read_volume(tmp_path / "out.nrrd").shape == (32, 40, 36)


def test_the_installed_cli_module_finds_its_library_without_the_path_of_slicer(a_tree: Path, tmp_path: Path) -> None:
    status, errors, library = run_installed(a_tree, tmp_path, "none.nrrd", "out.nrrd")
    assert status == 2 and "none.nrrd" in errors
    assert library == a_tree / MODULES / "BrainDiffLogic" / "__init__.py"


def test_the_installed_module_opens_its_panel_with_the_installed_parts(a_tree: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(CHECKOUT / 'Testing')!r})\n"
        "from Harness.slicer_app import Slicer\n"
        "running = Slicer.instance()\n"
        "running.fresh_scene()\n"
        f"running.load_module({str(a_tree / MODULES / 'BrainDiffSlicer.py')!r})\n"
        "running.close_panel(running.open_panel())\n"
        "import BrainDiffLogic\n"
        "names = [name for name in sys.modules if name.startswith('BrainDiff')]\n"
        "open('files.txt', 'w').write('\\n'.join(sys.modules[name].__file__ for name in names))\n"
    )
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = [Path(line) for line in (tmp_path / "files.txt").read_text().splitlines()]
    assert {"BrainDiffSlicer.py", "CorrectionJob.py"} <= {file.name for file in files}
    assert [file for file in files if not file.is_relative_to(a_tree / MODULES)] == []


# What its files may do


def imported(nodes: list[ast.stmt]) -> set[str]:
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    return names


def outside_of_functions(tree: ast.AST) -> list[Any]:
    found = []
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found += [node, *outside_of_functions(node)]
    return found


@pytest.mark.parametrize("source", PANEL_SOURCES, ids=lambda path: path.name)
def test_a_file_of_the_module_imports_nothing_at_file_scope_that_slicer_lacks(source: Path) -> None:
    tree = ast.parse(source.read_text(encoding="utf-8"))
    allowed = sys.stdlib_module_names | PART_OF_SLICER | {"BrainDiffSlicerLib"}
    if source.name == "BrainDiffEstimate.py":
        allowed |= {"BrainDiffCorrect"}  # it lies beside it
    assert imported(outside_of_functions(tree)) - allowed == set()
    assert "torch" not in imported(list(ast.walk(tree)))  # type: ignore[arg-type]
    assert source.read_bytes().isascii()


# Metadata


def test_the_metadata_are_complete(metadata: dict[str, str]) -> None:
    assert set(metadata) == {
        "HOMEPAGE", "CATEGORY", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"
    }  # fmt: skip
    assert metadata["DEPENDS"] == "PyTorch"


def test_the_pictures_of_the_metadata_are_in_the_repository(metadata: dict[str, str]) -> None:
    owner = metadata["HOMEPAGE"].removeprefix("https://github.com/")
    for url in [metadata["ICONURL"], *metadata["SCREENSHOTURLS"].split()]:
        prefix = f"https://raw.githubusercontent.com/{owner}/main/"
        assert url.startswith(prefix)
        Image.open(CHECKOUT / url.removeprefix(prefix)).verify()


@pytest.mark.parametrize("name", ["BrainDiff", "BrainDiffSlicer"])
def test_an_icon_is_a_square_of_128_pixels(name: str) -> None:
    icon = Image.open(CHECKOUT / "Resources" / "Icons" / f"{name}.png")
    assert (icon.format, icon.size) == ("PNG", (128, 128))


SCHEMA = {
    "$schema": str, "category": str, "scm_url": str, "scm_revision": str, "scm_type": str, "build_dependencies": list,
    "dicom_support_rule": str, "build_subdirectory": str, "enabled": bool, "tier": int,
}  # fmt: skip
"""Entries of Slicer's schema 1.0.2 for the Extensions Index; the first three are required, others are not allowed."""
CATEGORIES = {"Filtering", "Image Synthesis", "Neuroimaging"}
"""Those that the Extensions Index accepts and that would fit."""


def test_the_entry_for_the_index_follows_its_schema(index_entry: dict[str, Any]) -> None:
    assert set(list(SCHEMA)[:3]) <= set(index_entry) <= set(SCHEMA)
    assert all(type(value) is SCHEMA[name] for name, value in index_entry.items())
    assert index_entry["$schema"].endswith("/slicer-extension-catalog-entry-schema-v1.0.2.json#")
    assert index_entry["scm_type"] == "git" and 1 <= index_entry["tier"] <= 5


def test_the_entry_for_the_index_says_what_the_project_says(
    index_entry: dict[str, Any], metadata: dict[str, str]
) -> None:
    assert "\nproject(BrainDiff)\n" in (CHECKOUT / "CMakeLists.txt").read_text()  # the name of the entry's file
    assert index_entry["category"] == metadata["CATEGORY"] and index_entry["category"] in CATEGORIES
    assert index_entry["scm_url"] == metadata["HOMEPAGE"] + ".git"
    assert index_entry["scm_url"].rsplit("/", 1)[1].startswith("Slicer")
    assert index_entry["build_dependencies"] == metadata["DEPENDS"].split()


# Dependencies


@pytest.fixture
def requirements() -> dict[str, str]:
    """Lower bounds by package, as slicer.packaging.load_requirements reads the file."""
    lines = (CHECKOUT / "Resources" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split(">=") for line in lines if line and not line.startswith("#"))


@pytest.fixture
def project() -> dict[str, Any]:
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_requirements_have_the_lower_bounds_of_the_library(
    requirements: dict[str, str], project: dict[str, Any]
) -> None:
    bounds = dict(line.split(">=") for line in project["dependencies"])
    assert requirements.items() <= bounds.items()
    assert not {"torch", "numpy", "SimpleITK"} & set(requirements)  # the PyTorch extension and Slicer bring them
    assert project["version"] == __version__


def test_a_correction_imports_all_that_is_required_and_does_without_the_rest(
    requirements: dict[str, str], project: dict[str, Any], tmp_path: Path
) -> None:
    lines = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    named = {re.split("[>=;]", line)[0].lower() for line in lines}
    needed = {name.lower() for name in requirements}
    modules = {module: {name.lower() for name in names} for module, names in packages_distributions().items()}
    absent = [module for module, names in modules.items() if names & named - needed - {"torch", "numpy", "simpleitk"}]
    present = [module for module, names in modules.items() if names & needed and not module.startswith("_")]
    affine = np.diag([2.0, 2, 2, 1])
    write_volume(Volume(Phantom().image((32, 40, 36), affine), affine), tmp_path / "scan.nii.gz")
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({absent!r}))\n"
        "from pathlib import Path\n"
        "from BrainDiffLogic.correction_files import correct_file\n"
        "files = {'report': Path('report.json'), 'html': Path('page.html')}\n"
        "correct_file('scan.nii.gz', Path('out.nii.gz'), device='cpu', **files)\n"
        "from BrainDiffLogic.motion.kspace import Acquisition, Trajectory, np\n"  # what the model "motion" needs, too
        "turning = Trajectory(np.zeros((8, 3)), np.ones((8, 3)))\n"
        "Acquisition((8, 8, 8), np.eye(4), turning, 1, np.zeros(3)).kspace(np.ones((8, 8, 8)))\n"
        f"print(*(set({present!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    used = set().union(*(modules[module] for module in done.stdout.split()))
    assert used >= needed
    assert {"tqdm", "lightning"} <= set(absent)
