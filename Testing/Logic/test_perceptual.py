"""Perceptual terms: laws of a distance, gradients, what is frozen, and files that a user must supply."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import save_checkpoint
from BrainDiffLogic.models.corrector import build
from BrainDiffLogic.training.losses import BLOCKS, FrozenFeatures, PerceptualTerm, build_perceptual, vgg16_layers
from Harness.correctors import save_tiny

MC_NET = {"context": 3, "shuffle": 2, "residual": True, "zero_init": True, "filters": [4, 8]}


def vgg_state() -> dict[str, torch.Tensor]:
    """Random weights by torchvision's names of VGG16's 13 convolutions."""
    torch.manual_seed(0)
    state, position = {}, 0
    for block, (channels, width, count) in enumerate(BLOCKS):
        position += 1 if block else 0
        for _ in range(count):
            state[f"features.{position}.weight"] = torch.randn(width, channels, 3, 3) * (2 / (9 * channels)) ** 0.5
            state[f"features.{position}.bias"] = torch.zeros(width)
            channels, position = width, position + 2
    return state


@pytest.fixture(scope="module")
def a_vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save({**vgg_state(), "classifier.0.weight": torch.zeros(2, 2)}, path)
    return path


@pytest.fixture(scope="module")
def the_terms(a_vgg_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, PerceptualTerm]:
    folder = tmp_path_factory.mktemp("models")
    save_mc_net(folder / "mc.safetensors")
    options: dict[str, dict[str, Any]] = {
        "gradient": {}, "self": {"model": folder / "mc.safetensors"}, "lpips": {"vgg": a_vgg_file},
    }  # fmt: skip
    terms = {term: build_perceptual(term, given) for term, given in options.items()}
    return {name: term for name, term in terms.items() if term is not None}


def save_mc_net(path: Path) -> None:
    card = {
        "version": "0", "family": "mc-net", "arguments": MC_NET, "input": {"spacing_mm": [1, 2]}, "training": {},
        "metrics": [],
    }  # fmt: skip
    save_checkpoint(build("mc-net", MC_NET).state_dict(), card, path)


def images(seed: int) -> torch.Tensor:
    return torch.rand(2, 1, 32, 48, generator=torch.Generator().manual_seed(seed))


def test_none_is_no_term() -> None:
    assert build_perceptual("none", {}) is None


@pytest.mark.parametrize("name", ["gradient", "self", "lpips"])
def test_a_term_is_zero_for_equal_images_and_grows_with_the_error(
    name: str, the_terms: dict[str, PerceptualTerm]
) -> None:
    term, image = the_terms[name], images(1)
    mild, strong = (term(image + share * (images(2) - 0.5), image) for share in (0.05, 0.5))
    assert float(term(image, image)) == pytest.approx(0, abs=1e-6)
    assert 0 < float(mild) < float(strong)


@pytest.mark.parametrize("name", ["gradient", "self", "lpips"])
def test_the_gradient_reaches_the_image_and_no_weight(name: str, the_terms: dict[str, PerceptualTerm]) -> None:
    term, image = the_terms[name], images(3).requires_grad_()
    term(image, images(4)).backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in term.parameters())


@given(seed=st.integers(0, 1000))
@settings(max_examples=5, deadline=None)
def test_the_gradient_term_does_not_care_which_image_is_the_reference(seed: int) -> None:
    term = build_perceptual("gradient", {"scales": 2})
    assert term is not None
    one, other = images(seed), images(seed + 1)
    assert float(term(one, other)) == pytest.approx(float(term(other, one)), rel=1e-5)


def test_a_blurred_image_costs_more_than_a_shifted_grey_level_of_the_same_l1_error() -> None:
    term, image = build_perceptual("gradient", {}), images(5)
    assert term is not None
    blurred = torch.nn.functional.avg_pool2d(image, 3, 1, 1)
    shifted = image + (blurred - image).abs().mean()
    assert float(term(blurred, image)) > 2 * float(term(shifted, image))


def test_frozen_features_stay_in_evaluation_mode(the_terms: dict[str, PerceptualTerm]) -> None:
    before = the_terms["self"](images(1), images(2))
    the_terms["self"].train()
    torch.testing.assert_close(the_terms["self"](images(1), images(2)), before)
    assert not any(module.training for module in the_terms["self"].modules())


def test_the_facts_of_a_term_name_the_weights_it_uses(the_terms: dict[str, PerceptualTerm]) -> None:
    assert the_terms["gradient"].facts == {"term": "gradient", "scales": 3}
    assert the_terms["self"].facts["model"] == "mc"
    assert len(the_terms["self"].facts["sha256"]) == len(the_terms["lpips"].facts["vgg_sha256"]) == 64
    assert the_terms["lpips"].facts["heads_sha256"] is None


def test_features_of_the_attention_unet_serve_too(tmp_path: Path) -> None:
    save_tiny(tmp_path / "own.safetensors")
    term = build_perceptual("self", {"model": tmp_path / "own.safetensors"})
    assert isinstance(term, FrozenFeatures)
    assert float(term(images(1), images(2))) > 0


def test_the_layers_of_vgg_end_in_a_relu_and_halve_four_times(a_vgg_file: Path) -> None:
    layers, _ = vgg16_layers(a_vgg_file)
    x, sizes = torch.rand(1, 3, 32, 32), []
    for layer in layers:
        x = layer(x)
        assert x.min() >= 0
        sizes.append(tuple(x.shape[1:]))
    assert sizes == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]


def test_the_heads_of_lpips_weigh_the_channels(a_vgg_file: Path, tmp_path: Path) -> None:
    plain = build_perceptual("lpips", {"vgg": a_vgg_file})
    halves = {f"lin{n}.model.1.weight": torch.full((1, block[1], 1, 1), 0.5) for n, block in enumerate(BLOCKS)}
    torch.save(halves, tmp_path / "heads.pth")
    weighted = build_perceptual("lpips", {"vgg": a_vgg_file, "heads": tmp_path / "heads.pth"})
    assert plain is not None
    assert weighted is not None
    one, other = images(1), images(2)
    assert float(weighted(one, other)) == pytest.approx(0.5 * float(plain(one, other)), rel=1e-5)


@pytest.mark.parametrize(
    ("term", "options", "message"),
    [
        ("vgg", {}, "perceptual 'vgg' is unknown; use one of none, gradient, self, lpips"),
        ("gradient", {"layers": 2}, "unknown option layers|unknown option 'layers'"),
        ("lpips", {}, "give the option vgg, .* nothing is downloaded"),
        ("lpips", {"vgg": "/nowhere/vgg.pth"}, "/nowhere/vgg.pth: there is no such file"),
        ("self", {"model": "/nowhere/model.safetensors"}, "/nowhere/model.safetensors"),
    ],
)
def test_a_term_that_cannot_be_built_says_why(term: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_perceptual(term, options)


def test_other_weights_than_those_of_vgg16_are_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(64, 3, 5, 5)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"not the weights of VGG16 \(features.0.weight"):
        build_perceptual("lpips", {"vgg": tmp_path / "other.pth"})
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InputError, match="not a torch file of weights"):
        build_perceptual("lpips", {"vgg": tmp_path / "text.pth"})
