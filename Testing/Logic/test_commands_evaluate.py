"""``braindiff evaluate``: from pairs to tables and a page, resumable, and honest about what was refused."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from BrainDiffLogic import read_volume, write_volume
from BrainDiffLogic.data import pairing
from BrainDiffLogic.data.pairing import Alignment
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.evaluation import run as engine
from BrainDiffLogic.evaluation.methods import ModelMethod, build_methods, made_by
from BrainDiffLogic.evaluation.pairs import read_pairs
from BrainDiffLogic.evaluation.report import write_report
from BrainDiffLogic.files import resources
from BrainDiffLogic.metrics.measures import EVALUATION_CONVENTION
from BrainDiffLogic.models import checkpoints
from BrainDiffLogic.pictures import PANELS, write_strip
from BrainDiffLogic.volume import Volume
from Harness.changed_files import change_a_byte
from Harness.command_line import assert_refused, braindiff
from Harness.correctors import save_tiny

ROWS = ["do nothing", "Gaussian", "non-local means"]
MODEL = checkpoints.DEFAULT_NETWORK
pytestmark = pytest.mark.usefixtures("own_models")


def a_table_in(folder: Path, head: Volume) -> Path:
    """Pairs of two subjects: a small error, a larger one, and a scan without motion."""
    rng = np.random.default_rng(5)
    still = head.with_array(np.abs(head.array + rng.normal(0, 4, head.shape)).astype(np.float32))
    lines = ["moved,reference,subject,severity_mm,pe_axis"]
    write_volume(still, folder / "still.nii.gz")
    for name, subject, severity, share in (("one", "s1", 1.5, 0.05), ("two", "s2", 3, 0.2), ("none", "s2", 0, 0)):
        ghost = share * np.roll(still.array, 14, axis=1)
        write_volume(still.with_array(still.array + ghost), folder / f"{name}.nii.gz")
        lines.append(f"{name}.nii.gz,still.nii.gz,{subject},{severity},AP")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder / "pairs.csv"


@pytest.fixture
def a_table(tmp_path: Path, a_head: Volume) -> Path:
    """The table of three pairs."""
    return a_table_in(tmp_path, a_head)


def volumes_of(out: Path) -> dict[tuple[str, str], dict[str, str]]:
    with open(out / "volumes.csv", newline="") as file:
        return {(row["name"], row["method"]): row for row in csv.DictReader(file)}


@pytest.fixture
def a_finished_run(a_head: Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, its pairs, and their evaluation in "out"; made by the first test that asks."""
    folder = tmp_path_factory.getbasetemp() / "evaluated"
    if not (folder / "out" / "report.html").exists():
        folder.mkdir()
        table = a_table_in(folder, a_head)
        assert braindiff("evaluate", "--pairs", table, "--out", folder / "out", "--device", "cpu") == 0
    return folder


@pytest.fixture
def an_evaluation(a_finished_run: Path, tmp_path: Path) -> Path:
    """The folder of a finished evaluation, whose pairs.csv lies beside it; to be changed at will."""
    shutil.copytree(a_finished_run, tmp_path, dirs_exist_ok=True)
    return tmp_path / "out"


def test_every_row_is_there_and_doing_nothing_on_a_still_scan_is_perfect(an_evaluation: Path) -> None:
    rows = volumes_of(an_evaluation)
    assert set(rows) == {(name, m) for name in ("one", "two", "none") for m in (*ROWS, MODEL, "reference")}
    assert float(rows["none", "do nothing"]["mre"]) == 0 and float(rows["none", "Gaussian"]["mre"]) > 0
    assert float(rows["two", "do nothing"]["mre"]) > float(rows["one", "do nothing"]["mre"])
    assert rows["one", "reference"]["psnr"] == "" and float(rows["one", "reference"]["efc"]) > 0
    assert 0 <= int(rows["two", MODEL]["worst_slice"]) < 48
    assert sorted(p.name for p in an_evaluation.iterdir() if p.is_file()) == [
        "evaluation.json", "report.html", "tables.csv", "tables.md", "volumes.csv",
    ]  # fmt: skip


def test_the_tables_carry_the_convention_and_the_strata(an_evaluation: Path) -> None:
    text = (an_evaluation / "tables.md").read_text()
    assert text.count(EVALUATION_CONVENTION) == text.count("\n### ") > 0
    for title in ("All pairs", "severity still", "severity 1-2 mm", "severity 2-4 mm", "severity 1-4 mm"):
        assert f"\n## {title}\n" in text
    assert "n too small for a test" in text
    with open(an_evaluation / "tables.csv", newline="") as file:
        lines = {(row["by"], row["stratum"], row["method"]): row for row in csv.DictReader(file)}
    whole = lines["all", "all", "Gaussian"]
    assert (whole["subjects"], whole["volumes"], whole["worse_volumes"]) == ("2", "3", "1.0")
    assert float(whole["mre_low"]) <= float(whole["mre"]) <= float(whole["mre_high"])
    assert lines["severity_mm", "still", "Gaussian"]["worse_volumes"] == ""


class _Links(HTMLParser):
    """What a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tables = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tables += tag == "table"
        self.found += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_needs_nothing_beside_it(an_evaluation: Path) -> None:
    text = (an_evaluation / "report.html").read_text()
    page = _Links()
    page.feed(text)
    assert len(page.found) == 2 * 3  # median and worst of three methods
    assert all(link.startswith("data:image/png;base64,") for link in page.found)
    assert not re.search(r"https?://|@import|url\(", text)
    assert unescape(text).count(EVALUATION_CONVENTION) == page.tables > 0


def test_what_is_measured_is_not_measured_again(an_evaluation: Path, monkeypatch) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (an_evaluation / "cases").iterdir()}
    monkeypatch.setattr(engine, "measure_pair", lambda *_: pytest.fail("measured again"))
    assert (
        braindiff("evaluate", "--pairs", an_evaluation.parent / "pairs.csv", "--out", an_evaluation, "--device", "cpu")
        == 0
    )
    assert {path.name: path.stat().st_mtime_ns for path in (an_evaluation / "cases").iterdir()} == before


def test_another_model_adds_its_row_and_the_ensemble(an_evaluation: Path, tmp_path: Path) -> None:
    before = json.loads((an_evaluation / "cases" / "two.json").read_text())["methods"]
    other = save_tiny(tmp_path / "other.safetensors")
    options = ["--models", MODEL, other, "--device", "cpu"]
    assert braindiff("evaluate", "--pairs", an_evaluation.parent / "pairs.csv", "--out", an_evaluation, *options) == 0
    after = json.loads((an_evaluation / "cases" / "two.json").read_text())["methods"]
    assert set(after) - set(before) == {"other", "ensemble"}
    assert all(after[name] == before[name] for name in before)  # seconds and all


def test_a_pair_whose_file_changed_is_measured_again(an_evaluation: Path) -> None:
    before = volumes_of(an_evaluation)
    moved = read_volume(an_evaluation.parent / "two.nii.gz")
    write_volume(moved.with_array(moved.array * 1.1), an_evaluation.parent / "two.nii.gz")
    assert (
        braindiff("evaluate", "--pairs", an_evaluation.parent / "pairs.csv", "--out", an_evaluation, "--device", "cpu")
        == 0
    )
    after = volumes_of(an_evaluation)
    assert after["two", "do nothing"]["mre"] != before["two", "do nothing"]["mre"]
    assert after["one", MODEL] == before["one", MODEL]


class MeasuredAgainError(Exception):
    pass


@pytest.mark.parametrize("change", ["device", "version", "moved", "reference"])
def test_the_same_file_device_and_version_are_measured_once_others_again(
    an_evaluation: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """A file is another one if a byte of it is, at the same size and time."""

    def again(*_: object) -> None:
        raise MeasuredAgainError

    monkeypatch.setattr(engine, "measure_pair", again)
    pairs, setting = read_pairs(an_evaluation.parent / "pairs.csv"), engine.EvaluationSettings(device="cpu")
    engine.evaluate(pairs, an_evaluation, setting)
    if change == "device":
        monkeypatch.setattr("BrainDiffLogic.inference.choose_device", lambda device: torch.device("cuda", 0))
    elif change == "version":
        monkeypatch.setattr(engine, "__version__", "0.0.0")
    else:
        change_a_byte(getattr(pairs[0], change))
    with pytest.raises(MeasuredAgainError):
        engine.evaluate(pairs, an_evaluation, setting)


def test_a_case_file_that_was_cut_off_is_made_again(an_evaluation: Path) -> None:
    case = an_evaluation / "cases" / "one.json"
    case.write_text(case.read_text()[:100])
    assert (
        braindiff("evaluate", "--pairs", an_evaluation.parent / "pairs.csv", "--out", an_evaluation, "--device", "cpu")
        == 0
    )
    assert set(json.loads(case.read_text())["methods"]) == {*ROWS, MODEL, "reference"}


def test_a_model_that_refuses_is_a_row_and_not_a_crash(a_table: Path, tmp_path: Path) -> None:
    a_table.write_text("\n".join(a_table.read_text().splitlines()[:2]))
    fine = save_tiny(tmp_path / "fine.safetensors", input={"spacing_mm": [0.1, 0.2], "extent_mm": 60.0})
    out = tmp_path / "out"
    assert braindiff("evaluate", "--pairs", a_table, "--out", out, "--models", MODEL, fine, "--device", "cpu") == 0
    rows = volumes_of(out)
    for method in ("fine", "ensemble"):
        assert rows["one", method]["status"] == "refused" and rows["one", method]["mre"] == ""
    assert "far from" in rows["one", "fine"]["note"] and rows["one", MODEL]["status"] == "measured"
    text = (out / "tables.md").read_text()
    assert "- fine refused one: " in text and "| fine | 0 | 0 | 1 | - |" in text


def test_damaged_weights_stop_the_run_and_are_no_refusal(a_table: Path, tmp_path: Path, capfd) -> None:
    broken = save_tiny(tmp_path / "broken.safetensors")
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    options = ["--pairs", a_table, "--out", tmp_path / "out", "--models", broken, "--device", "cpu"]
    assert braindiff("evaluate", *options) == 2
    assert "broken.safetensors" in capfd.readouterr().err
    broken.write_bytes(whole)
    assert braindiff("evaluate", *options) == 0
    assert volumes_of(tmp_path / "out")["one", "broken"]["status"] == "measured"


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(an_evaluation: Path) -> None:
    table, model = an_evaluation.parent / "pairs.csv", save_tiny(an_evaluation.parent / "tiny.safetensors")
    outs = [an_evaluation.parent / f"by {jobs}" for jobs in (1, 2)]
    for jobs, out in enumerate(outs, 1):
        options = ("--models", model, "--device", "cpu", "--jobs", jobs)
        assert braindiff("evaluate", "--pairs", table, "--out", out, *options) == 0
    one, two = (volumes_of(out) for out in outs)
    assert list(one) == list(two)
    for key in one:
        for name in set(one[key]) - {"seconds"}:
            assert same_cell(one[key][name], two[key][name])


def same_cell(one: str, two: str) -> bool:
    """Whether two cells are equal; numbers to rounding, which the threads of a process change."""
    try:
        return float(one) == pytest.approx(float(two), rel=1e-9)
    except ValueError:
        return one == two


@pytest.fixture
def a_bids_folder(tmp_path: Path, a_head: Volume) -> Path:
    """A still scan and a moved one of another position and gain."""
    anat = tmp_path / "bids" / "sub-01" / "anat"
    anat.mkdir(parents=True)
    array = (a_head.array + np.random.default_rng(3).normal(0, 3, a_head.shape)).astype(np.float32)
    shift = np.eye(4)
    shift[:3, 3] = 3, -2, 1
    write_volume(a_head.with_array(array), anat / "sub-01_acq-headmotion1_T1w.nii.gz")
    write_volume(Volume(1.5 * array, shift @ a_head.affine), anat / "sub-01_acq-standard_T1w.nii.gz")
    return tmp_path / "bids"


def the_registered_row(folder: Path, out: Path) -> dict[str, str]:
    assert braindiff("evaluate", "--bids", folder, "--device", "cpu", "--out", out) == 0
    assert "registered with the moved one" in (out / "tables.md").read_text()
    return volumes_of(out)["sub-01_acq-headmotion1_T1w", "do nothing"]


def test_the_still_scan_of_a_cohort_is_laid_onto_the_moved_one(
    a_bids_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    def align(still: Volume, moved: Volume) -> Alignment:
        inside = np.zeros(moved.shape, dtype=bool)
        inside[20:28] = True
        aligned = np.where(inside, still.array / 1.5, 0).astype(np.float32)
        return Alignment(moved.with_array(aligned), inside, np.eye(4), np.zeros(3), 1 / 1.5, (0.0, 1.0))

    monkeypatch.setattr(pairing, "align_reference", align)
    row = the_registered_row(a_bids_folder, tmp_path / "out")
    assert float(row["mre"]) < 1e-5 and row["group"] == "headmotion1"  # outside nothing is compared
    options = ["--bids", a_bids_folder, "--device", "cpu", "--no-register", "--out", tmp_path / "plain"]
    assert braindiff("evaluate", *options) == 2


@pytest.mark.slow
def test_a_cohort_is_registered_and_measured(a_bids_folder: Path, tmp_path: Path) -> None:
    assert float(the_registered_row(a_bids_folder, tmp_path / "out")["mre"]) < 0.05


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--jobs", 0], ["--jobs 0"]),
        (["--models", "nobody"], ["no model 'nobody'"]),
        (["--bids", "nowhere"], ["not allowed with"]),
    ],
)
def test_bad_usage_is_refused_before_anything_is_written(a_table: Path, capfd, options: list, words: list[str]) -> None:
    out = a_table.parent / "out"
    assert_refused(a_table.parent, capfd, ["evaluate", "--pairs", a_table, "--out", out, *options], *words)


def test_a_folder_with_something_else_in_it_is_left_alone(a_table: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["evaluate", "--pairs", a_table, "--out", a_table.parent, "--device", "cpu"]
    assert_refused(a_table.parent, capfd, options, "neither an empty folder nor an evaluation")


def test_methods_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is a row 'ensemble' already"):
        build_methods([save_tiny(tmp_path / "ensemble.safetensors")], "cpu")
    with pytest.raises(InputError, match=f"there is a row '{MODEL}' already"):
        build_methods([MODEL, MODEL], "cpu")


def test_the_ensemble_adds_the_mean_of_the_changes(tmp_path: Path, a_head: Volume) -> None:
    rows = build_methods([MODEL, save_tiny(tmp_path / "other.safetensors")], "cpu")
    changes = [rows[name](a_head) - a_head.array for name in (MODEL, "other")]
    np.testing.assert_allclose(rows["ensemble"](a_head) - a_head.array, np.mean(changes, axis=0), atol=1e-3)
    assert np.abs(changes[0]).max() > 0


def test_the_gated_row_is_the_model_as_a_user_gets_it(a_head: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("BrainDiffLogic.models.severity.shipped_weights", lambda: None)
    rows = build_methods([MODEL], "cpu", gated=True)
    assert list(rows)[3:] == [MODEL, f"{MODEL}, gated"]
    gated = rows[f"{MODEL}, gated"]
    assert isinstance(gated, ModelMethod)
    gated.model = (gated.model[0], {**gated.model[1], "least_change": 1.0})
    assert np.array_equal(gated(a_head), a_head.array)
    assert not np.array_equal(rows[MODEL](a_head), a_head.array)
    made = made_by(rows)
    assert made[f"{MODEL}, gated"][: len(made[MODEL])] == made[MODEL]
    assert len(made[f"{MODEL}, gated"]) > len(made[MODEL])


def test_the_gated_row_is_of_the_file_that_was_named(tmp_path: Path) -> None:
    default = checkpoints.DEFAULT_MODEL
    other = save_tiny(tmp_path / f"{default}.safetensors")
    gated = build_methods([MODEL, other], "cpu", gated=True)[f"{default}, gated"]
    assert isinstance(gated, ModelMethod) and gated.path == other
    usual = build_methods(None, "cpu", gated=True)[f"{default}, gated"]
    assert isinstance(usual, ModelMethod) and usual.path == checkpoints.find_checkpoint(default) != other


@pytest.mark.parametrize(("entry", "value"), [("least_change", 0.05), ("views", []), ("sha256", "0" * 64)])
def test_what_physics_makes_is_measured_again_when_its_network_changes(
    monkeypatch: pytest.MonkeyPatch, entry: str, value: object
) -> None:
    for suffix in (".safetensors", ".json"):
        shutil.copy(resources() / "Checkpoints" / f"motion{suffix}", checkpoints.imported_folder())
    read = checkpoints.read_card

    def changed(path: Path) -> dict[str, object]:
        return {**read(path), **({entry: value} if Path(path).stem == MODEL else {})}

    row = {"row": ModelMethod("motion", "cpu", gated=True)}
    before = made_by(row)
    monkeypatch.setattr(checkpoints, "read_card", changed)
    assert made_by(row) != before


def test_a_row_with_views_for_each_model_and_none_of_them_in_the_ensemble(tmp_path: Path, a_head: Volume) -> None:
    rows = build_methods([MODEL, save_tiny(tmp_path / "other.safetensors")], "cpu", views=True)
    assert list(rows)[3:] == [MODEL, "other", f"{MODEL}, views", "other, views", "ensemble"]
    assert made_by(rows)["other, views"] == made_by(rows)["other"] == made_by(rows)["ensemble"][2:]
    assert not np.array_equal(rows["other"](a_head), rows["other, views"](a_head))


def test_without_pairs_above_their_input_no_picture_is_missing(tmp_path: Path) -> None:
    refused = {"name": "a", "subject": "s", "method": "m", "status": "refused", "note": "no"}
    numbers = {"psnr": 20.0, "ssim": 0.5, "mre": 0.1, "vif": 0.3, "hfen": 0.4, "tenengrad_ratio": 1.0}
    before = {"name": "a", "subject": "s", "method": "do nothing", "status": "measured", "note": "", **numbers}
    assert write_report(tmp_path, [before, refused]).read_text().count("<img") == 0


def test_a_strip_shows_five_slices_in_square_millimetres(tmp_path: Path, a_head: Volume) -> None:
    from PIL import Image

    flat = Volume(a_head.array[:, :, ::2], a_head.affine @ np.diag([1, 1, 2, 1]))
    brighter = flat.with_array(flat.array + 40)
    write_strip(tmp_path / "strip.png", flat, brighter, flat, 24)
    picture = np.asarray(Image.open(tmp_path / "strip.png"))
    rows, columns = 2 * flat.shape[2], flat.shape[1]
    assert picture.shape == (rows, len(PANELS) * (columns + 4) - 4, 3)
    changed = picture[:, 3 * (columns + 4) : 4 * (columns + 4) - 4]
    assert (changed[..., 0] > changed[..., 2]).all()  # red: more
    nose = picture[:, :columns].sum(axis=(0, 2))
    assert np.flatnonzero(nose)[0] < columns - 1 - np.flatnonzero(nose)[-1] + 8  # anterior is on the left


@pytest.fixture
def a_safety_suite(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict]:
    """The suite's door, with a stand-in behind it that notes what comes in."""
    seen: dict = {}

    def run_safety(methods: dict, heads: list[Volume], out: Path, progress: object) -> Path:
        seen.update(methods=list(methods), heads=[Path(head.source).name for head in heads])
        (out / "safety.md").write_text("all checks")
        return out / "safety.md"

    module = ModuleType("BrainDiffLogic.evaluation.safety_suite")
    module.run_safety = run_safety  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "BrainDiffLogic.evaluation.safety_suite", module)
    yield seen


def test_the_safety_suite_gets_a_still_scan_of_each_subject(a_table: Path, a_safety_suite: dict, capsys) -> None:
    folder = a_table.parent
    for other in ("again", "another"):
        shutil.copy(folder / "still.nii.gz", folder / f"{other}.nii.gz")
    rows = ("one.nii.gz,still.nii.gz,s1", "none.nii.gz,again.nii.gz,s1", "two.nii.gz,another.nii.gz,s2")
    a_table.write_text("\n".join(["moved,reference,subject", *rows]))
    options = ["--suite", "safety", "--device", "cpu"]
    assert braindiff("evaluate", "--pairs", a_table, "--out", folder / "safety", *options) == 0
    assert a_safety_suite == {"methods": [*ROWS, MODEL], "heads": ["still.nii.gz", "another.nii.gz"]}
    assert "all checks" in capsys.readouterr().out


@pytest.mark.parametrize("option", [["--jobs", "2"], ["--gated"], ["--register"]])
def test_what_the_safety_suite_does_not_do_is_said(a_table: Path, a_safety_suite: dict, capsys, option: list) -> None:
    out = a_table.parent / "safety"
    assert braindiff("evaluate", "--pairs", a_table, "--out", out, "--suite", "safety", *option) == 2
    assert f"{option[0]}: no part of --suite safety" in capsys.readouterr().err
    assert not out.exists()
