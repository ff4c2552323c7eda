"""``braindiff reproduce`` as a user calls it."""

import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_reproduction import tiny_comparison, tiny_settings, write_cohort

from BrainDiffLogic import papers
from BrainDiffLogic.papers import mcnet, rmman
from Harness.command_line import assert_refused, braindiff


@pytest.fixture(scope="module")
def a_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every size is the tiny one."""
    monkeypatch.setattr(papers.braindiff, "braindiff_settings", lambda size, **options: tiny_settings())


def test_stages_run_one_by_one_and_say_what_they_do(
    tiny: None, a_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["reproduce", "braindiff", "--data", a_cohort, "--out", tmp_path / "run", "--device", "cpu"]
    assert braindiff(*call, "--only", "manifest", "slices") == 0
    printed = capsys.readouterr()
    assert "found 10 scans of 5 subjects" in printed.err and "Caching slices: 100 %" in printed.err
    assert printed.out == ""
    assert braindiff(*call, "--only", "slices", "physics", "motion-test") == 0
    printed = capsys.readouterr()
    assert "slices: done before" in printed.err and "Registering: 100 %" in printed.err
    done = {path.stem for path in (tmp_path / "run" / "log").iterdir()}
    assert done == {"manifest", "slices", "physics", "motion-test"}
    assert braindiff(*call, "--only", "table") == 2
    assert "stage table needs injected-test, which is not done" in capsys.readouterr().err


@pytest.mark.parametrize(("paper", "pairs"), [("mcnet", "pairs-rotation"), ("rmman", "pairs-rigid")])
def test_the_other_papers_have_stages_of_their_own(
    paper: str, pairs: str, a_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    module = {"mcnet": mcnet, "rmman": rmman}[paper]
    plan = tiny_comparison(getattr(module, f"{paper}_settings")("compact"))
    monkeypatch.setattr(module, f"{paper}_settings", lambda size, *options: plan)
    call = ["reproduce", paper, "--data", a_cohort, "--out", tmp_path / "run", "--device", "cpu"]
    assert braindiff(*call, "--only", "manifest", pairs) == 0
    printed = capsys.readouterr()
    assert "correction: 2 subjects, 2 clean scans (pairs to train on)" in printed.err
    assert f"{pairs}: Simulated pairs" in printed.err and "Simulating: 100 %" in printed.err
    assert braindiff(*call, "--only", "table") == 2
    assert "stage table needs r" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("paper", "options"),
    [
        ("mcnet", ["--inception", "w.pth"]), ("mcnet", ["--vgg", "w.pth"]), ("rmman", ["--paper-injection"]),
        ("rmman", ["--perceptual", "gradient"]), ("braindiff", ["--inception", "w.pth"]),
    ],
)  # fmt: skip
def test_an_option_of_another_paper_is_refused(
    a_cohort: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], paper: str, options: list[str]
) -> None:
    call = ["reproduce", paper, "--data", a_cohort, "--out", tmp_path / "run", "--device", "cpu", *options]
    assert_refused(tmp_path, capfd, call, f"{options[0]} is no option of reproduce {paper}")


@pytest.mark.slow
def test_processes_make_the_pairs_that_one_makes(tiny: None, a_cohort: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for jobs, out in enumerate(folders, start=1):
        call = ["reproduce", "braindiff", "--data", a_cohort, "--out", out, "--device", "cpu", "--jobs", jobs]
        assert braindiff(*call, "--only", "manifest", "slices", "physics") == 0
    one, two = (sorted((out / "physics").iterdir()) for out in folders)
    assert [path.name for path in one] == [path.name for path in two] and len(one) == 8
    for first, second in zip(one, two, strict=True):
        if first.suffix == ".npy":  # the number of threads moves the last digit
            np.testing.assert_allclose(np.load(first), np.load(second), atol=2e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--only", "training"], ("--only training", "stages are manifest, slices")),
        (["--jobs", "0"], ("--jobs 0",)), (["--size", "large"], ("--size",)), (["--data", "nowhere"], ("nowhere",)),
        (["--size", "paper"], ("--vgg", "--perceptual gradient")), (["--only", "vae"], ("vae needs slices",)),
        (["--perceptual", "beauty"], ("perceptual", "'beauty'")), (["--only", "pairs-rotation"], ("no such stage",)),
    ],
)  # fmt: skip
def test_bad_usage_is_refused_in_one_line(
    a_cohort: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str], words: tuple[str, ...]
) -> None:
    call = ["reproduce", "braindiff", "--data", a_cohort, "--out", tmp_path / "run", "--device", "cpu", *options]
    assert_refused(tmp_path, capfd, call, *words)


def test_a_missing_package_is_named(
    a_cohort: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lightning", None)
    call = ["reproduce", "braindiff", "--data", a_cohort, "--out", tmp_path / "run"]
    assert_refused(tmp_path, capfd, call, "training needs lightning: pip install 'braindiff[train]'")
