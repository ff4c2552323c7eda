"""The disagreement map: what is asked, what is compared, and what it is calibrated by."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_correction import small_head

from BrainDiffLogic import correct, disagreement, read_volume
from BrainDiffLogic.commands.main import main
from BrainDiffLogic.disagreement import VIEWS, Calibration, Panel, disagreement_map, spread
from BrainDiffLogic.models.corrector import Corrector
from BrainDiffLogic.volume import to_sagittal
from Harness.correctors import CARD, save_tiny, tiny_corrector

MODEL = (tiny_corrector(), CARD)
OTHER = (tiny_corrector(), {**CARD, "sha256": "1" * 64})
IDENTITY = (tiny_corrector(zero=True), {**CARD, "sha256": "2" * 64})


def a_stack(shape: tuple[int, int, int] = (5, 11, 14)) -> np.ndarray:
    return np.random.default_rng(2).normal(size=shape).astype(np.float32)


@pytest.fixture
def the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A panel of two networks that cost nothing, in the place of the shipped ones."""
    monkeypatch.setattr(Panel, "around", classmethod(lambda cls, model: cls(model, [IDENTITY])))


@given(count=st.integers(2, 6))
def test_the_spread_is_the_standard_deviation(count: int) -> None:
    answers = np.random.default_rng(count).normal(size=(count, 3, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(spread(iter(answers)), answers.std(axis=0, ddof=1), rtol=1e-5, atol=1e-6)


def test_one_answer_alone_has_no_spread() -> None:
    assert not spread([a_stack()]).any()


def test_the_answers_are_the_model_s_own_its_views_and_the_others() -> None:
    asked: list[tuple[Corrector, int]] = []

    def ask(corrector: Corrector, shown: np.ndarray, turn: int) -> np.ndarray:
        asked.append((corrector, turn))
        return np.zeros_like(shown)

    panel = Panel(MODEL, [OTHER, IDENTITY])
    found = list(panel.answers(a_stack(), a_stack(), ask))
    assert len(found) == len(panel) == 1 + len(VIEWS) + 2
    assert [corrector.views for corrector, _ in asked[: len(VIEWS)]] == [(view,) for view in VIEWS]
    assert all(corrector.body is MODEL[0].body for corrector, _ in asked[: len(VIEWS)])
    assert [corrector for corrector, _ in asked[len(VIEWS) :]] == [OTHER[0], IDENTITY[0]]
    assert [turn for _, turn in asked] == list(range(1, len(panel)))


def test_the_panel_of_a_shipped_model_is_the_three_families() -> None:
    from BrainDiffLogic.models.checkpoints import load_checkpoint

    panel = Panel.around(load_checkpoint("mc-net"))
    assert {card["family"] for _, card in panel.others} == {"attention-unet", "rmman"}


def test_a_calibration_covers_the_share_that_it_promises_and_rises() -> None:
    rng = np.random.default_rng(7)
    apart = rng.gamma(2, 0.01, 50_000)
    error = np.abs(rng.normal(0, 0.01 + 3 * apart))
    curve = Calibration.fit(apart[::2], error[::2], 0.8, ["a"])
    assert (error[1::2] <= curve(apart[1::2])).mean() == pytest.approx(0.8, abs=0.02)
    assert (np.diff(curve(np.linspace(0, 1, 200))) >= 0).all() and curve(np.zeros(1)) == 0


def test_a_calibration_with_one_spread_everywhere_is_still_a_curve() -> None:
    curve = Calibration.fit(np.full(100, 0.1), np.linspace(0, 1, 100), 0.5, ["a"])
    assert curve(np.array([0.1])) == pytest.approx(0.5, abs=0.02)


def test_the_map_is_the_plain_spread_where_nothing_is_calibrated(the_others: None) -> None:
    found, how = disagreement_map(Panel(MODEL, []), a_stack(), a_stack(), lambda corrector, shown, turn: shown)
    assert how.facts == {"answers": 1 + len(VIEWS), "calibrated": False, "share": None}
    assert "not calibrated" in how.notes[0]
    assert found.dtype == np.float32 and not found.any()  # a network of single pixels answers every view alike


def test_a_calibration_holds_for_its_own_panel_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "calibration.json"
    content = {"spread": [0.0, 1.0], "error": [0.0, 4.0], "share": 0.8, "sums": ["a", "b"]}
    file.write_text(json.dumps({"calibrations": [content]}))
    monkeypatch.setattr(disagreement, "calibration_file", lambda: file)
    curve = Calibration.of(["a", "b"])
    assert curve is not None and curve(np.array([0.5])) == pytest.approx(2.0)
    assert Calibration.of(["b", "a"]) is None and Calibration.of(["a"]) is None


def test_a_calibration_does_not_hold_for_the_same_weights_asked_otherwise() -> None:
    card = {"sha256": "a"}
    plain = Panel((MODEL[0], card), []).sums
    seen = Panel((MODEL[0], card | {"views": [{"mirrored": True}]}), []).sums
    moved = Panel((MODEL[0], card | {"views": [{"mirrored": True, "shift": [1, 0]}]}), []).sums
    assert plain == ["a"] and len({*plain, *seen, *moved}) == 3


def test_the_shipped_calibration_is_that_of_the_shipped_default() -> None:
    from BrainDiffLogic.models.checkpoints import DEFAULT_NETWORK, load_checkpoint

    curve = Calibration.of(Panel.around(load_checkpoint(DEFAULT_NETWORK)).sums)
    assert curve is not None, "the weights changed: run Testing/Benchmarks/disagreement.py --out"
    assert curve.share == 0.8 and curve.spread[0] == curve.error[0] == 0


def test_a_correction_has_a_map_on_its_grid_in_its_units(the_others: None) -> None:
    small = correct(small_head(), MODEL, force=True, device="cpu", disagreement=True)
    large_units = small.finding.volume.with_array(1000 * small.finding.volume.array)
    large = correct(large_units, MODEL, force=True, device="cpu", disagreement=True)
    assert small.disagreement is not None and large.disagreement is not None
    assert small.disagreement.shape == small.corrected.shape and small.disagreement.array.dtype == np.float32
    assert small.disagreement.array.min() >= 0 and small.disagreement.array.max() > 0
    assert not small.disagreement.array[~small.finding.head].any()
    ratio = large.disagreement.array.mean() / small.disagreement.array.mean()
    assert ratio == pytest.approx(1000, rel=0.01)
    assert small.report["disagreement"]["answers"] == 2 + len(VIEWS)


def test_the_correction_itself_is_the_same_with_and_without_a_map(the_others: None) -> None:
    plain = correct(small_head(), MODEL, force=True, device="cpu")
    mapped = correct(small_head(), MODEL, force=True, device="cpu", disagreement=True)
    np.testing.assert_array_equal(plain.corrected.array, mapped.corrected.array)
    assert plain.disagreement is None and "disagreement" not in plain.report
    assert mapped.with_strength(0.5).disagreement.array is mapped.disagreement.array


def test_networks_that_agree_have_an_empty_map(the_others: None) -> None:
    found = correct(small_head(), IDENTITY, force=True, device="cpu", disagreement=True)
    assert found.disagreement is not None and not found.disagreement.array.any()


def test_a_scan_that_comes_back_unchanged_has_an_empty_map_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from BrainDiffLogic import severity

    unchanged = severity.Decision(severity.UNCHANGED, {"gate": severity.UNCHANGED}, [])
    monkeypatch.setattr("BrainDiffLogic.correction.decide", lambda *_, **__: unchanged)
    found = correct(small_head(), MODEL, force=True, device="cpu", disagreement=True)
    assert found.disagreement is not None and not found.disagreement.array.any()
    assert found.report["disagreement"]["answers"] == 0
    assert found.report["notes"] == ["the disagreement map is zero: nothing was corrected"]


def test_progress_goes_once_from_0_to_1(the_others: None) -> None:
    shares: list[float] = []
    correct(
        small_head(), MODEL, force=True, device="cpu", disagreement=True, progress=lambda share, _: shares.append(share)
    )
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0)


def test_the_command_writes_the_map_in_decimals(
    the_others: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from BrainDiffLogic import write_volume

    model = save_tiny(tmp_path / "tiny.safetensors")
    write_volume(small_head(dtype="int16"), tmp_path / "in.nii.gz")
    options = ["--model", str(model), "--force", "--device", "cpu", "--disagreement", str(tmp_path / "apart.nii.gz")]
    assert main(["correct", str(tmp_path / "in.nii.gz"), str(tmp_path / "out.nii.gz"), *options]) == 0
    apart, corrected = read_volume(tmp_path / "apart.nii.gz"), read_volume(tmp_path / "out.nii.gz")
    assert apart.array.dtype == np.float32 and corrected.array.dtype == np.int16
    np.testing.assert_allclose(apart.affine, corrected.affine, atol=1e-5)
    assert to_sagittal(apart).max() > 0
    assert "apart.nii.gz" in capsys.readouterr().out
