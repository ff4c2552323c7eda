"""What is installed, and what the library may reach for."""

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
LIBRARY = CHECKOUT / "BrainDiffLogic"
CHECKPOINTS = CHECKOUT / "Resources" / "Checkpoints"
TRAINING = CHECKOUT / "Resources" / "Training"
SOURCES = sorted(LIBRARY.rglob("*.py"))
VIEWER = CHECKOUT / "BrainDiffSlicer" / "BrainDiffViewer"
SLICER_ONLY = {"slicer", "qt", "vtk", "ctk"}


def run_python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def names_in(folder: Path, pattern: str, prefix: str) -> set[str]:
    files = (path for path in folder.rglob(pattern) if path.is_file() and "__pycache__" not in path.parts)
    return {f"{prefix}/{path.relative_to(folder).as_posix()}" for path in files}


def imported_packages(source: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            packages.add(str(node.module).split(".")[0])
    return packages


@pytest.fixture(scope="module")
def a_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the archive of sources of a copy, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("BrainDiffLogic", "Resources", VIEWER.relative_to(CHECKOUT)):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, folder)
    packed = run_python("-c", "from setuptools.build_meta import build_sdist; build_sdist('sdist')", cwd=folder)
    assert packed.returncode == 0, packed.stderr
    (archive,) = (folder / "sdist").glob("*.tar.gz")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", "dist"]
    built = run_python("-m", "pip", "wheel", str(archive), *options, cwd=folder)
    assert built.returncode == 0, built.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def an_installed_tree(a_wheel: Path) -> Path:
    """What a wheel leaves in site-packages."""
    folder = a_wheel.parent / "site-packages"
    with zipfile.ZipFile(a_wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_every_source_file_checkpoint_and_training_configuration(an_installed_tree: Path) -> None:
    expected = names_in(LIBRARY, "*.py", "BrainDiffLogic")
    expected |= names_in(TRAINING, "*.yaml", "BrainDiffLogic/Resources/Training")
    expected |= names_in(CHECKPOINTS, "[!.]*", "BrainDiffLogic/Resources/Checkpoints")
    expected |= names_in(CHECKOUT / "Resources" / "View", "*", "BrainDiffLogic/Resources/View")
    expected |= names_in(VIEWER, "*.py", VIEWER.name)
    assert expected - {path.relative_to(an_installed_tree).as_posix() for path in an_installed_tree.rglob("*")} == set()


def test_the_wheel_adds_library_and_viewer_to_site_packages(an_installed_tree: Path) -> None:
    folders = {path.name for path in an_installed_tree.iterdir() if path.suffix != ".dist-info"}
    assert folders == {"BrainDiffLogic", "BrainDiffViewer"}


def test_importing_the_installed_library_imports_no_torch(an_installed_tree: Path) -> None:
    code = "import BrainDiffLogic as b, sys; print(b.__file__, *({'torch', 'monai'} & set(sys.modules)))"
    child = run_python("-c", code, cwd=an_installed_tree)
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == [str(an_installed_tree / "BrainDiffLogic" / "__init__.py")]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.relative_to(CHECKOUT).as_posix())
def test_a_library_file_is_ascii_and_leaves_slicer_alone(source: Path) -> None:
    assert source.read_bytes().isascii()
    assert not imported_packages(source) & SLICER_ONLY


def test_the_viewer_is_ascii() -> None:
    assert all(source.read_bytes().isascii() for source in VIEWER.glob("*.py"))
