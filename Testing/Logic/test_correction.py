"""The main job: what a correction gives, on which grid, and how much of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import inv_ornt_aff

from BrainDiffLogic import correct, read_volume, write_volume
from BrainDiffLogic.correction import Correction
from BrainDiffLogic.correction_files import write_correction
from BrainDiffLogic.errors import Cancelled, InputError
from BrainDiffLogic.images.outputs import check_outputs, staged_outputs
from BrainDiffLogic.volume import Storage, Volume, to_sagittal
from Harness.correctors import CARD, save_tiny, tiny_corrector

ORIENTATIONS = [
    np.column_stack([axes, flips])
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]
MODEL = (tiny_corrector(), CARD)
IDENTITY = (tiny_corrector(zero=True), CARD)


@pytest.fixture(scope="module")
def a_correction() -> Correction:
    return correct(small_head(), MODEL, force=True, device="cpu")


def small_head(orientation: np.ndarray = ORIENTATIONS[0], dtype: str = "float32") -> Volume:
    """A lopsided ball with noise, 21 x 26 x 23 voxels of 1.5 to 2 mm, stored in an orientation."""
    rng = np.random.default_rng(5)
    shape = (21, 26, 23)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    array = np.where(np.linalg.norm(grid, axis=0) < 0.8, 150 + 40 * grid[0] + 30 * grid[1], 30)
    array = (array + rng.normal(0, 4, shape)).clip(15, 250).astype(dtype)
    affine = nib.affines.from_matvec(
        nib.eulerangles.euler2mat(0.1, -0.2, 0.05) @ np.diag([1.5, 1.8, 2.0]), [-20.5, 11, 3]
    )
    return Volume(
        np.ascontiguousarray(nib.orientations.apply_orientation(array, orientation)),
        affine @ inv_ornt_aff(orientation, shape),
    )


def run(volume: Volume, model=MODEL, **options) -> Correction:
    return correct(volume, model, force=True, device="cpu", **options)


# Geometry


def test_a_zero_residual_returns_the_input_bit_for_bit_in_any_orientation() -> None:
    for orientation in ORIENTATIONS[::5]:
        volume = small_head(orientation)
        volume.array[1, 2, 3] = -0.0
        result = run(volume, IDENTITY)
        assert result.corrected.array.tobytes() == volume.array.tobytes()
        assert not result.difference.array.any()
        np.testing.assert_array_equal(result.corrected.affine, volume.affine)


@pytest.mark.parametrize("number", [7, 18, 29, 41, 47])
def test_the_orientation_of_the_storage_does_not_change_the_correction(number: int) -> None:
    expected = to_sagittal(run(small_head()).corrected)
    volume = small_head(ORIENTATIONS[number])
    result = run(volume)
    assert result.corrected.shape == volume.shape
    np.testing.assert_array_equal(result.corrected.affine, volume.affine)
    np.testing.assert_array_equal(to_sagittal(result.corrected), expected)


def test_left_and_right_stay_where_they_are_when_the_storage_is_flipped(a_head: Volume) -> None:
    flip = np.array([[0, -1], [1, 1], [2, 1]])
    flipped = Volume(a_head.array[::-1].copy(), a_head.affine @ inv_ornt_aff(flip, a_head.shape))
    plain, mirrored = run(a_head).corrected.array, run(flipped).corrected.array
    np.testing.assert_array_equal(mirrored, plain[::-1])
    assert not np.array_equal(mirrored, plain)


@pytest.mark.parametrize("shape", [(1, 24, 25), (3, 7, 90), (40, 5, 5)])
def test_thin_and_odd_volumes_are_corrected_on_their_own_grid(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    volume = Volume(rng.normal(100, 20, shape).astype(np.float32), np.diag([1.0, 1.0, 1.0, 1.0]))
    assert run(volume).corrected.shape == shape
    np.testing.assert_array_equal(run(volume, IDENTITY).corrected.array, volume.array)


@settings(max_examples=5)
@given(gain=st.floats(1e-3, 1e4), offset=st.floats(-500, 500))
def test_other_units_give_the_same_correction_in_those_units(gain: float, offset: float) -> None:
    volume = small_head()
    other = volume.with_array((gain * volume.array.astype(np.float64) + offset).astype(np.float32))
    expected, result = run(volume).difference.array, run(other).difference.array
    size = np.abs(expected).max()
    # float32 leaves eps * offset of the input, and bfloat16, where the processor has it, 8 bits of the residual
    slack = 0.03 * size + 1e-5 * (abs(offset) + 300 * gain) / gain
    assert np.abs(result / gain - expected).max() < slack


# Strength


def test_the_difference_is_corrected_minus_input_exactly(a_correction: Correction) -> None:
    original = small_head().array
    np.testing.assert_array_equal(a_correction.difference.array, a_correction.corrected.array - original, strict=True)
    assert a_correction.difference.kind == "difference"
    assert np.abs(a_correction.difference.array).max() > 1


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64"])
def test_strength_zero_returns_the_inputs_own_voxels(dtype: str) -> None:
    volume = small_head(dtype=dtype)
    result = run(volume, strength=0)
    np.testing.assert_array_equal(result.corrected.array, volume.array, strict=True)
    assert not result.difference.array.any()
    assert result.report["changed_share"] == 0


@pytest.mark.parametrize("strength", [0.25, 0.5, 0.9])
def test_strength_is_linear(a_correction: Correction, strength: float) -> None:
    part = a_correction.with_strength(strength)
    full = a_correction.difference.array
    np.testing.assert_allclose(part.difference.array, strength * full, rtol=0, atol=2e-5 * 250)
    assert part.report["changed_share"] == pytest.approx(strength * a_correction.report["changed_share"], 1e-3)


@pytest.mark.parametrize("first", [1.0, 0.0, 0.3])
def test_another_strength_equals_a_fresh_run(first: float) -> None:
    volume = small_head()
    again, fresh = run(volume, strength=first).with_strength(0.7), run(volume, strength=0.7)
    np.testing.assert_array_equal(again.corrected.array, fresh.corrected.array, strict=True)
    np.testing.assert_array_equal(again.difference.array, fresh.difference.array, strict=True)
    assert {**again.report, "seconds": 0} == {**fresh.report, "seconds": 0}


@pytest.mark.parametrize("strength", [-0.1, 1.01, float("nan")])
def test_a_strength_outside_0_to_1_is_refused(a_correction: Correction, strength: float) -> None:
    with pytest.raises(InputError, match="strength"):
        run(small_head(), strength=strength)
    with pytest.raises(InputError, match="strength"):
        a_correction.with_strength(strength)


@pytest.mark.parametrize("dtype", ["int32", "float64"])
def test_values_that_float32_cannot_hold_are_kept(dtype: str) -> None:
    volume = small_head(dtype="float64")
    large = volume.with_array((volume.array + 2**26).astype(dtype))
    result = run(large, IDENTITY)
    assert result.corrected.array.dtype == np.float64
    np.testing.assert_array_equal(result.corrected.array, large.array)


# Progress, cancelling, report


def test_a_model_that_finds_less_than_its_card_asks_for_returns_the_input_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("BrainDiffLogic.models.severity.shipped_weights", lambda: None)  # no gate before it
    volume = small_head()
    plain = correct(volume, MODEL, device="cpu", gate=False)
    change = np.abs(plain.difference.array[plain.finding.head]).mean() / plain.report["intensity_scale"]
    shares: list[float] = []
    cards = [{**CARD, "least_change": float(change) * factor} for factor in (1.01, 0.99)]
    below = correct(
        volume, (MODEL[0], cards[0]), device="cpu", disagreement=True,
        progress=lambda share, _: shares.append(share),
    )  # fmt: skip
    above = correct(volume, (MODEL[0], cards[1]), device="cpu")
    np.testing.assert_array_equal(below.corrected.array, volume.array)
    np.testing.assert_array_equal(above.corrected.array, plain.corrected.array)
    assert (below.report["gate"], above.report["gate"]) == ("returned unchanged", "off")
    (note,) = (note for note in below.report["notes"] if note.startswith("returned unchanged"))
    assert "finds too little" in note and "--force" in note and "mask" not in note
    assert below.disagreement is not None and not below.disagreement.array.any()
    assert shares == sorted(shares) and shares[-1] == 1.0


def test_a_scan_that_was_masked_after_it_moved_is_told_that_the_model_cannot_see_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("BrainDiffLogic.models.severity.shipped_weights", lambda: None)
    volume = small_head()
    masked = volume.with_array(np.where(correct(volume, MODEL, device="cpu").finding.head, volume.array, 0))
    result = correct(masked, (MODEL[0], {**CARD, "least_change": 9.0}), device="cpu")
    (note,) = (note for note in result.report["notes"] if note.startswith("returned unchanged"))
    assert "cannot see the motion" in note and "before stripping" in note and "--force" in note


def test_force_applies_what_is_less_than_the_card_asks_for() -> None:
    card = {**CARD, "least_change": 1.0}
    assert correct(small_head(), (MODEL[0], card), device="cpu", force=True).difference.array.any()


def test_a_model_is_measured_with_all_that_it_finds() -> None:
    card = {**CARD, "least_change": 1.0}
    assert correct(small_head(), (MODEL[0], card), device="cpu", gate=False).difference.array.any()


def test_progress_grows_to_one() -> None:
    seen: list[float] = []
    run(small_head(), progress=lambda share, stage: seen.append(share))
    assert len(seen) > 1 and seen == sorted(seen) and seen[-1] == 1 and seen[0] > 0


def test_cancelling_stops_before_the_next_batch() -> None:
    seen: list[float] = []
    with pytest.raises(Cancelled):
        run(small_head(), progress=lambda share, stage: seen.append(share), cancelled=lambda: bool(seen))
    assert len(seen) == 1


def test_the_report_says_what_was_done_and_is_json(a_correction: Correction) -> None:
    report = json.loads(json.dumps(a_correction.report))
    assert report["model"] == "tiny" and report["model_version"] == "9.8.7"
    assert report["device"] == "cpu" and report["strength"] == 1
    assert 0 < report["changed_share"] < 1
    changed = np.abs(to_sagittal(a_correction.difference))[report["worst_sagittal_slice"]]
    assert changed.mean() > np.abs(a_correction.difference.array).mean()


def test_a_model_is_found_by_file_and_a_volume_by_path(tmp_path: Path, a_head: Volume) -> None:
    write_volume(a_head, tmp_path / "in.nii.gz")
    model = save_tiny(tmp_path / "tiny.safetensors")
    result = correct(tmp_path / "in.nii.gz", model, device="cpu", gate=False)
    assert result.report["input"] == str(tmp_path / "in.nii.gz")
    np.testing.assert_array_equal(result.corrected.array, run(a_head).corrected.array)


# Domain


@pytest.mark.parametrize(("spacing", "words"), [([5, 1, 5], "superior-inferior"), ([1, 0.2, 1], "anterior-posterior")])
def test_a_volume_far_outside_the_models_domain_is_refused_unless_forced(spacing: list[float], words: str) -> None:
    volume = Volume(small_head().array, np.diag([*spacing, 1.0]), source="scan.nii.gz")
    with pytest.raises(InputError, match=f"scan.nii.gz.*{words}.*--force"):
        correct(volume, MODEL, device="cpu")
    assert correct(volume, MODEL, device="cpu", force=True).report["forced"]


@pytest.mark.parametrize(("spacing", "words"), [([5, 1, 1], "left-right"), ([1, 1, 1], "sagittal slices of")])
def test_a_volume_outside_the_models_domain_is_corrected_and_noted(spacing: list[float], words: str) -> None:
    volume = Volume(small_head().array, np.diag([*spacing, 1.0]), source="scan.nii.gz")
    report = correct(volume, MODEL, device="cpu").report
    assert words in " ".join(report["outside_domain"]) and not report["forced"]


def test_a_volume_inside_the_domain_is_not_marked_as_forced(a_head: Volume) -> None:
    report = correct(a_head, MODEL, device="cpu", force=True).report
    assert not report["forced"] and report["outside_domain"] == []


# Files


def scaled_int16(path: Path, volume: Volume) -> Path:
    image = nib.Nifti1Image(volume.array.astype(np.float32), volume.affine)
    image.header.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.125, -3)
    nib.save(image, path)
    return path


def plain(dtype: str) -> Callable[[Path, Volume], Path]:
    def write(path: Path, volume: Volume) -> Path:
        write_volume(volume.with_array(volume.array.astype(dtype)), path)
        return path

    return write


@pytest.mark.parametrize(
    ("write", "stored"),
    [(plain(name), name) for name in ("uint8", "int16", "uint16", "int32", "float32", "float64")]
    + [(scaled_int16, "int16")],
    ids=["uint8", "int16", "uint16", "int32", "float32", "float64", "scaled int16"],
)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_files_keep_grid_and_type_and_their_difference_is_exact(
    tmp_path: Path, write: Callable[[Path, Volume], Path], stored: str, suffix: str
) -> None:
    source = write(tmp_path / "in.nii.gz", small_head(ORIENTATIONS[19]))
    given, result = read_volume(source), run(read_volume(source), strength=0.2)
    out, difference = tmp_path / f"out{suffix}", tmp_path / f"difference{suffix}"
    write_correction(result, out, difference)
    corrected, change = read_volume(out), read_volume(difference)
    if suffix == ".nii.gz":
        assert nib.load(out).get_data_dtype() == stored
    np.testing.assert_allclose(corrected.affine, given.affine, rtol=0, atol=1e-6)
    assert corrected.shape == given.shape
    exact = np.subtract(corrected.array, given.array, dtype=np.result_type(change.array.dtype, np.float32))
    if np.dtype(stored).kind in "iu":
        np.testing.assert_array_equal(change.array, exact)
    else:
        np.testing.assert_array_equal(change.array, exact.astype(change.array.dtype))
    assert (change.array < 0).any() and (change.array > 0).any()


def test_values_beyond_the_inputs_type_are_not_clipped(tmp_path: Path) -> None:
    volume = small_head(dtype="uint8")
    result = run(volume)
    lifted = result.corrected.with_array(result.corrected.array + 100, storage=Storage(np.dtype(np.uint8)))
    facts = write_correction(replace(result, corrected=lifted), tmp_path / "out.nii.gz")
    assert facts["stored_as"] == "int16"
    np.testing.assert_array_equal(read_volume(tmp_path / "out.nii.gz").array, np.rint(lifted.array))


def test_float32_is_written_on_request(tmp_path: Path) -> None:
    result = run(small_head(dtype="int16"))
    write_correction(result, tmp_path / "out.nii", tmp_path / "d.nii", dtype="float32")
    np.testing.assert_array_equal(read_volume(tmp_path / "out.nii").array, result.corrected.array, strict=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "d.nii").array, result.difference.array, strict=True)


def test_the_report_file_holds_quality_before_and_after(tmp_path: Path, a_head: Volume) -> None:
    facts = write_correction(run(a_head), tmp_path / "out.nii", report=tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report == facts
    assert report["outputs"] == {"corrected": str(tmp_path / "out.nii"), "report": str(tmp_path / "r.json")}
    before, after = report["quality"]["before"], report["quality"]["after"]
    assert before["tenengrad"] != after["tenengrad"]


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "folder.json"
    blocked.mkdir()
    (blocked / "in the way").touch()
    with pytest.raises(InputError, match="folder.json"):
        write_correction(run(small_head()), tmp_path / "a.nii", tmp_path / "b.nii", blocked)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.json"]


def test_a_failed_job_does_not_touch_what_it_would_have_replaced(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    with pytest.raises(KeyboardInterrupt), staged_outputs([tmp_path / "old", tmp_path / "new"]) as staged:
        staged[0].write_text("x")
        staged[1].write_text("y")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "old"


def test_one_file_for_two_outputs_is_refused(tmp_path: Path) -> None:
    twice = [(tmp_path / "a.nii", (".nii",)), (tmp_path / "." / "a.nii", (".nii",))]
    with pytest.raises(InputError, match="two outputs"):
        check_outputs(twice, [], overwrite=False)
