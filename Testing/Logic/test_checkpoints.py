"""Checkpoints: found, intact, what their card says, and refused where they are not."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.files import file_digest
from BrainDiffLogic.models import checkpoints
from BrainDiffLogic.models.checkpoints import (
    available,
    find_checkpoint,
    import_checkpoint,
    load_checkpoint,
    read_card,
    save_checkpoint,
    verify,
)
from Harness.correctors import CARD, save_tiny, tiny_corrector


@pytest.fixture(autouse=True)
def _only_own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRAINDIFF_MODELS", str(tmp_path / "mine"))
    monkeypatch.setattr(checkpoints, "shipped_folder", lambda: tmp_path / "shipped")


@pytest.fixture
def a_model(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tiny.safetensors")


def change_card(model: Path, **changes: object) -> None:
    path = model.with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_refused(model: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        load_checkpoint(model)
    text = str(caught.value)
    assert "\n" not in text and all(word in text for word in words), text


def test_a_saved_corrector_comes_back_with_the_same_weights(a_model: Path) -> None:
    corrector, card = load_checkpoint(a_model)
    assert card["name"] == "tiny" and not corrector.training
    x = torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(corrector(x), tiny_corrector()(x))


def test_large_tensors_are_stored_as_halves_and_the_others_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {"deep": torch.randn(60, 1000), "thin": torch.randn(59, 1000), "seen": torch.tensor(70_000)}
    save_checkpoint(state, CARD, tmp_path / "packed.safetensors")
    stored = load_file(tmp_path / "packed.safetensors")
    assert stored["deep"].dtype == torch.float16 and torch.allclose(stored["deep"].float(), state["deep"], rtol=1e-3)
    assert torch.equal(stored["thin"], state["thin"]) and torch.equal(stored["seen"], state["seen"])


def test_a_card_with_views_makes_a_corrector_that_answers_with_their_mean(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "tiny.safetensors", views=[{"mirrored": True}])
    corrector, _ = load_checkpoint(model)
    x, plain = torch.rand(2, 3, 16, 16), tiny_corrector()
    with torch.inference_mode():
        torch.testing.assert_close(corrector(x), (plain(x) + plain(x.flip(1))) / 2)
    assert corrector.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(
    "views", [3, ["mirrored"], [{"turned": 1}], [{"mirrored": 1}], [{"shift": [1]}], [{"shift": [-1, 0]}]], ids=str
)
def test_malformed_views_are_refused(a_model: Path, views: object) -> None:
    change_card(a_model, views=views)
    assert_refused(a_model, "tiny.json", "views")


def test_half_precision_weights_are_loaded_as_float32(tmp_path: Path) -> None:
    state = {name: tensor.half() for name, tensor in tiny_corrector().state_dict().items()}
    save_checkpoint(state, CARD, tmp_path / "half.safetensors")
    corrector, _ = load_checkpoint(tmp_path / "half.safetensors")
    assert {parameter.dtype for parameter in corrector.parameters()} == {torch.float32}


@pytest.mark.parametrize("place", [0, 100, -1])
def test_one_changed_byte_of_the_weights_is_noticed(a_model: Path, place: int) -> None:
    data = bytearray(a_model.read_bytes())
    data[place] ^= 1
    a_model.write_bytes(data)
    assert_refused(a_model, str(a_model), "sha256 differs")


def test_truncated_weights_are_noticed(a_model: Path) -> None:
    a_model.write_bytes(a_model.read_bytes()[:-10])
    assert_refused(a_model, "sha256 differs")


def test_weights_without_a_card_are_refused(a_model: Path) -> None:
    a_model.with_suffix(".json").unlink()
    assert_refused(a_model, "tiny.json", "missing")


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '"card"', "\0\xff", "{}"])
def test_something_else_than_a_card_is_refused(a_model: Path, text: str) -> None:
    a_model.with_suffix(".json").write_text(text, encoding="latin-1")
    assert_refused(a_model, "tiny.json", "not a model card")


@pytest.mark.parametrize("name", checkpoints.REQUIRED)
def test_a_card_without_a_required_entry_is_refused(a_model: Path, name: str) -> None:
    path = a_model.with_suffix(".json")
    card = json.loads(path.read_text())
    del card[name]
    path.write_text(json.dumps(card))
    assert_refused(a_model, "tiny.json", repr(name))


@pytest.mark.parametrize(
    "changes",
    [
        {"family": ["attention-unet"]},
        {"arguments": [1]},
        {"input": {}},
        {"input": {"spacing_mm": 1}},
        {"input": {"spacing_mm": ["a", "b"]}},
        {"input": {"spacing_mm": [1.0]}},
        {"metrics": {}},
        {"sha256": None},
    ],
    ids=str,
)
def test_a_malformed_card_is_refused(a_model: Path, changes: dict[str, object]) -> None:
    change_card(a_model, **changes)
    assert_refused(a_model, "tiny.json", "not a model card")


def test_a_card_of_a_later_format_is_refused(a_model: Path) -> None:
    change_card(a_model, format=99)
    assert_refused(a_model, "tiny.json", "format 99", "update")


@pytest.mark.parametrize(
    "changes",
    [{"family": "u-net"}, {"arguments": {"channels": "x"}}, {"arguments": {"colour": 3}}],
    ids=str,
)
def test_a_card_of_an_unknown_network_is_refused(a_model: Path, changes: dict[str, object]) -> None:
    change_card(a_model, **changes)
    assert_refused(a_model, "tiny.json")


def test_weights_of_another_network_are_refused(a_model: Path) -> None:
    change_card(a_model, arguments={**CARD["arguments"], "channels": [4, 12]})
    assert_refused(a_model, "tiny.safetensors", "do not fit")


def test_a_pickle_with_a_valid_checksum_is_refused_and_not_run(tmp_path: Path, a_model: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "executed",))

    a_model.write_bytes(pickle.dumps(Trap()))
    change_card(a_model, sha256=file_digest(a_model))
    assert_refused(a_model, "tiny.safetensors")
    assert not (tmp_path / "executed").exists()


def test_an_unknown_name_lists_the_models_there_are(a_model: Path) -> None:
    with pytest.raises(InputError, match="no model 'x'; available: none"):
        find_checkpoint("x")
    import_checkpoint(a_model)
    with pytest.raises(InputError, match="no model 'x'; available: tiny"):
        find_checkpoint("x")
    with pytest.raises(InputError, match="no such checkpoint"):
        find_checkpoint("nowhere/x.safetensors")


def test_an_imported_model_is_found_by_name_and_is_the_same(a_model: Path) -> None:
    copy = import_checkpoint(a_model)
    assert available() == {"tiny": copy} and find_checkpoint("tiny") == copy
    assert copy.read_bytes() == a_model.read_bytes()
    assert read_card(copy) == read_card(a_model) == verify(copy)


def test_an_import_does_not_replace_a_model_unless_told_to(a_model: Path) -> None:
    copy = import_checkpoint(a_model)
    with pytest.raises(InputError, match="--overwrite"):
        import_checkpoint(a_model)
    assert import_checkpoint(a_model, overwrite=True) == copy


def test_a_damaged_model_is_not_imported(tmp_path: Path, a_model: Path) -> None:
    a_model.write_bytes(a_model.read_bytes() + b"x")
    with pytest.raises(InputError, match="sha256"):
        import_checkpoint(a_model)
    assert not (tmp_path / "mine").exists()


def test_a_shipped_model_comes_before_an_imported_one_of_its_name(tmp_path: Path, a_model: Path) -> None:
    (tmp_path / "shipped").mkdir()
    imported = import_checkpoint(a_model)
    assert find_checkpoint("tiny") == imported
    shipped = save_tiny(tmp_path / "shipped" / "tiny.safetensors")
    assert find_checkpoint("tiny") == shipped


@pytest.mark.parametrize("name", ["mc-net", "motion"])
def test_a_model_with_the_name_of_a_shipped_one_is_not_imported(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name!r} is the name of a shipped model"):
        import_checkpoint(save_tiny(tmp_path / f"{name}.safetensors"))
    assert not (tmp_path / "mine").exists()


def test_weights_under_the_card_of_another_model_are_refused(a_model: Path) -> None:
    other = a_model.with_stem("other")
    a_model.rename(other)
    a_model.with_suffix(".json").rename(other.with_suffix(".json"))
    assert_refused(other, "other.safetensors", "'tiny'")


def test_shipped_weights_are_those_that_the_code_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed file passes with a changed card, not with the sum in the code."""
    folder = checkpoints.resources()
    shipped = [*folder.glob("Checkpoints/*.safetensors"), *folder.glob("Severity/*.safetensors")]
    assert {path.stem for path in shipped} == checkpoints.SHIPPED.keys()
    for path in shipped:
        verify(path)
        with monkeypatch.context() as changed:
            changed.setitem(checkpoints.SHIPPED, path.stem, "0" * 64)
            with pytest.raises(InputError, match="not the weights that BrainDiff ships"):
                verify(path)


def test_a_folder_for_models_that_cannot_be_made_is_an_input_error(
    a_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRAINDIFF_MODELS", str(a_model / "below a file"))
    with pytest.raises(InputError, match="BRAINDIFF_MODELS"):
        import_checkpoint(a_model)


def test_another_extension_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.safetensors"):
        save_checkpoint({}, CARD, tmp_path / "weights.pt")
