"""The configurations that ship, what is refused in one, and the split by subject."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.corrector import build
from BrainDiffLogic.training.configuration import CorrectorConfiguration
from BrainDiffLogic.training.corrector import network_arguments
from BrainDiffLogic.training.fields import configuration_folder, find_configuration, read_section
from Harness.tiny_training import COMPACT, SHIPPED, TINY, make_data_folder, write_yaml


@pytest.fixture(scope="module")
def a_data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data_folder(tmp_path_factory.mktemp("data"))


# Configurations


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_configuration_loads_and_its_network_is_built(path: Path) -> None:
    configuration = read_section(CorrectorConfiguration, path)
    corrector = build(configuration.family, network_arguments(configuration))
    assert configuration.crop % corrector.multiple == 0
    assert configuration.steps > 0


def test_every_family_ships_a_compact_and_a_paper_configuration() -> None:
    names = {path.stem for path in SHIPPED}
    assert {f"{family}{size}" for family in TINY for size in ("", "-paper")} <= names
    assert {"mc-net-l1", "mc-net-l1-tv"} <= names


def test_the_compact_configurations_share_their_pairs() -> None:
    first = read_section(CorrectorConfiguration, COMPACT[0])
    for path in COMPACT[1:]:
        other = read_section(CorrectorConfiguration, path)
        for name in ("sources", "validation", "recipe", "seed", "pairs", "validation_pairs"):
            assert getattr(other, name) == getattr(first, name), (path.name, name)


def test_the_three_ablations_of_mc_net_differ_in_their_losses_alone() -> None:
    plans = [read_section(CorrectorConfiguration, name) for name in ("mc-net-l1", "mc-net-l1-tv", "mc-net")]
    l1, both = {"l1": 1.0}, {"l1": 1.0, "tv": 1.0}
    losses = [[stage.loss for stage in plan.stages][-3:] for plan in plans]
    assert losses == [[l1, l1, l1], [both, both, both], [l1, both, both]]
    assert len({json.dumps([stage.loss for stage in plan.stages[:-3]]) for plan in plans}) == 1
    assert len({json.dumps([replace(stage, loss={}).__dict__ for stage in plan.stages]) for plan in plans}) == 1


def test_a_shipped_configuration_is_found_by_name_and_a_file_by_path(tmp_path: Path) -> None:
    assert find_configuration("rmman") == find_configuration("rmman.yaml") == configuration_folder() / "rmman.yaml"
    path = write_yaml(tmp_path / "own.yaml")
    assert find_configuration(path) == path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": ...}, "'family'"),
        ({"sources": ...}, "'sources'"),
        ({"stages": ...}, "stages"),
        ({"stages": []}, "stages"),
        ({"stages": 5}, "stages"),
        ({"stages": ["l1"]}, "stages"),
        ({"stages": [{"loss": {"l1": 1}}]}, "'steps'"),
        ({"stages": [{"steps": 0, "loss": {"l1": 1}}]}, "steps"),
        ({"stages": [{"steps": 5, "loss": {"l3": 1}}]}, "'l3'"),
        ({"stages": [{"steps": 5, "loss": {"l1": 0}}]}, "loss"),
        ({"stages": [{"steps": 5, "loss": {"l1": 1}, "learning_rate": "1e-3"}]}, "learning_rate.*write 0.001"),
        ({"stages": [{"steps": 5, "loss": {"l1": 1}, "decay": 2}]}, "decay"),
        ({"recipe": {"zooom": [1, 2]}}, "'zooom' in recipe"),
        ({"recipe": {"zoom": 1}}, "zoom"),
        ({"recipe": {"zoom": [2, 1]}}, "zoom"),
        ({"recipe": {"severity_mm": [0, 1]}}, "severity_mm"),
        ({"recipe": {"presets": {"nodd": 1}}}, "'nodd'"),
        ({"recipe": {"pe_axes": {"HF": 1}}}, "'HF'"),
        ({"recipe": {"still_share": 2}}, "still_share"),
        ({"recipe": {"aliasing_share": -1}}, "aliasing_share"),
        ({"recipe": {"aliasing": [0.5, 0.1]}}, "aliasing"),
        ({"recipe": {"partial_fourier": [0.5, 0.8]}}, "partial_fourier"),
        ({"recipe": {"partial_fourier": [0.6, 1.1]}}, "partial_fourier"),
        ({"recipe": 3}, "recipe"),
        ({"sources": [{"kind": "head"}]}, "glob"),
        ({"sources": [{"glob": "*", "kind": "foot"}]}, "kind"),
        ({"sources": [{"glob": "*", "weigth": 1}]}, "'weigth'"),
        ({"validation": []}, "validation"),
        ({"batch": 0}, "batch"),
        ({"batch": 2.5}, "batch"),
        ({"pairs": -1}, "pairs"),
        ({"ema": 1.5}, "ema"),
        ({"precision": "8"}, "precision"),
        ({"lesions": 2.0}, "lesions"),
        ({"least_change": -1.0}, "least_change"),
        ({"views": [{"shift": 3}]}, "views .*no view"),
        ({"optimiser": "sgd"}, "optimiser must be one of adamw, muon"),
        ({"colour": 1}, "'colour' in configuration; known are accumulate, batch"),
        ({"clip": float("inf")}, "clip must be finite"),
        ({"network": 5}, "network must be a name or a mapping"),
        ({"recipe": {"noise": [0.1]}}, r"recipe.noise must be \[lowest, highest\]"),
        ({"recipe": {"quiet": "yes"}}, "recipe.quiet must be true or false"),
        ({"sources": [{"glob": "*", "subject": "("}]}, r"sources\[0\].subject '\(' is no regular expression"),
        ({"recipe": {"noise": [0.2, 0.1]}}, r"recipe.noise must be \[lowest, highest\], got \[0.2, 0.1\]"),
        ({"recipe": {"noise": [0.1, 0.2, 0.3]}}, r"recipe.noise must be \[lowest, highest\]"),
        ({"clip": [1]}, r"clip must be a number, got \[1\]$"),
        ({"people": {"a": 1}}, "people.a must be text"),
    ],
)
def test_a_wrong_field_is_one_line_with_file_and_field(changes: dict, message: str, tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "wrong.yaml", **changes)
    with pytest.raises(InputError, match=message) as raised:
        read_section(CorrectorConfiguration, path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["a: [1", "- 1", "5", "\x00"])
def test_a_file_that_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match="wrong.yaml") as raised:
        read_section(CorrectorConfiguration, path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_configuration_that_cannot_be_read_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="configuration file|cannot be read"):
        read_section(CorrectorConfiguration, tmp_path / name)
