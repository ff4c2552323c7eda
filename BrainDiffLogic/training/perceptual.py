"""Perceptual terms of the autoencoder's loss. None of them downloads anything; the card records which was used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.losses.ssim_loss import SSIMLoss
from torch import Tensor, nn
from torch.nn import functional

from BrainDiffLogic.digests import file_digest
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.attention_unet import ResidualAttentionUnet
from BrainDiffLogic.models.checkpoints import load_checkpoint
from BrainDiffLogic.models.corrector import Corrector
from BrainDiffLogic.models.mc_net import McNet
from BrainDiffLogic.training.configuration import PERCEPTUAL

OPTIONS = {"none": (), "gradient": ("scales",), "self": ("model",), "lpips": ("vgg", "heads")}

LPIPS_SHIFT = (-0.030, -0.088, -0.188)
LPIPS_SCALE = (0.458, 0.448, 0.450)
"""Mean and standard deviation of ImageNet for images in [-1, 1] (Zhang 2018, released code)."""
VGG_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
"""What LPIPS compares (Zhang 2018, released code)."""
BLOCKS = ((3, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3))
"""Input channels, output channels and convolutions of each block; blocks are joined by 2 x 2 max pooling."""


class PerceptualTerm(nn.Module):
    """Distance of two images (N, 1, H, W) in network units, a number >= 0 that is 0 for equal images; in float32.

    facts  what the card says about the term
    """

    facts: dict[str, Any]

    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__()
        self.facts = facts

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Mean distance over the batch; the gradient flows into ``image``."""
        with torch.autocast(image.device.type, enabled=False):
            return self.distance(image.float(), reference.float())

    def distance(self, image: Tensor, reference: Tensor) -> Tensor:
        """The distance, without regard to precision."""
        raise NotImplementedError


class GradientTerm(PerceptualTerm):
    """Analytic: L1 of the image gradients at several scales, averaged over them, plus 1 - SSIM.

    SSIM is MONAI's, Gaussian window of 11 pixels and sigma 1.5 on a range of 1 (Wang 2004).
    """

    def __init__(self, scales: int = 3) -> None:
        super().__init__({"term": "gradient", "scales": scales})
        self.scales = scales
        self.similarity = SSIMLoss(spatial_dims=2, data_range=1.0)

    def distance(self, image: Tensor, reference: Tensor) -> Tensor:
        """Of (N, 1, H, W), both sides at least 11 pixels."""
        dissimilarity = self.similarity(image, reference)
        error, terms = image - reference, []
        for scale in range(self.scales):
            error = functional.avg_pool2d(error, 2) if scale else error
            terms += [error.diff(dim=dim).abs().mean() for dim in (-2, -1)]
        return dissimilarity + torch.stack(terms).sum() / self.scales


class FrozenFeatures(PerceptualTerm):
    """Distance of unit-length features of a frozen network, as LPIPS measures them (Zhang 2018, eq. 1).

    Each layer's features are scaled to length 1 at every pixel; squared differences are weighted by ``heads`` (without
    them all channels count alike), summed over channels and averaged over pixels; layers are summed.
    """

    def __init__(self, layers: nn.Module, heads: list[Tensor] | None, facts: dict[str, Any]) -> None:
        super().__init__(facts)
        self.layers = layers.eval().requires_grad_(False)
        self.heads = nn.ParameterList(heads).requires_grad_(False) if heads else None

    def train(self, mode: bool = True) -> FrozenFeatures:
        """Stays in evaluation mode: the statistics of a frozen network are frozen too."""
        return super().train(False)

    def distance(self, image: Tensor, reference: Tensor) -> Tensor:
        """Of (N, 1, H, W), sides as the network asks for."""
        distances = []
        with torch.no_grad():
            targets = self.layers(reference)
        for level, (one, other) in enumerate(zip(self.layers(image), targets, strict=True)):
            squared = (unit_length(one) - unit_length(other)) ** 2
            weighted = squared * self.heads[level].view(1, -1, 1, 1) if self.heads is not None else squared
            distances.append(weighted.sum(dim=1).mean())
        return torch.stack(distances).sum()


def unit_length(features: Tensor) -> Tensor:
    """(N, C, h, w) scaled to length 1 over C at every pixel."""
    return features / (features.square().sum(dim=1, keepdim=True) + 1e-10).sqrt()


class CorrectorFeatures(nn.Module):
    """Features on the way down of a corrector of this project: (N, 1, H, W) -> one tensor a level, finest first."""

    def __init__(self, corrector: Corrector) -> None:
        super().__init__()
        body = corrector.body
        if isinstance(body, ResidualAttentionUnet):
            first = nn.Sequential(body.stem, body.levels[0])
            rest = [nn.Sequential(down, level) for down, level in zip(body.down, body.levels[1:], strict=True)]
            self.levels = nn.ModuleList([first, *rest])
        elif isinstance(body, McNet):
            rest = [nn.Sequential(body.pool, level) for level in body.down[1:]]
            self.levels = nn.ModuleList([body.down[0], *rest])
        else:
            raise InputError("perceptual: only features of a compact attention-unet or an mc-net can be used")
        self.context, self.shuffle = corrector.context, corrector.shuffle

    def forward(self, x: Tensor) -> list[Tensor]:
        """The slice stands for its neighbours too."""
        x = functional.pixel_unshuffle(x.expand(-1, self.context, -1, -1), self.shuffle)
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features


class VggFeatures(nn.Module):
    """The five layers of VGG16 that LPIPS compares: (N, 1, H, W) in network units -> five tensors."""

    shift: Tensor
    scale: Tensor

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers
        self.register_buffer("shift", torch.tensor(LPIPS_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(LPIPS_SCALE).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Network units are [0, 1] but for bright vessels; LPIPS wants [-1, 1] and three channels."""
        x = (2 * x.expand(-1, 3, -1, -1) - 1 - self.shift) / self.scale
        features = []
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return features


def build_perceptual(term: str, options: Mapping[str, Any]) -> PerceptualTerm | None:
    """The term of a configuration; None for "none".

    gradient  analytic, option ``scales`` (3)
    self      features of a corrector of this project, option ``model``: name or .safetensors file
    lpips     VGG16 features; option ``vgg``: a torch file of torchvision's vgg16 weights that the user supplies;
              ``heads``: the linear heads of LPIPS (its weights/v0.1/vgg.pth), without which all channels count alike
    Raises InputError for an unknown term or option, and where a file is missing or another.
    """
    if term not in PERCEPTUAL:
        raise InputError(f"perceptual {term!r} is unknown; use one of {', '.join(PERCEPTUAL)}")
    if unknown := set(options) - set(OPTIONS[term]):
        known = ", ".join(OPTIONS[term]) or "no options"
        raise InputError(f"perceptual {term}: unknown option {min(unknown)!r}; it has {known}")
    if term == "gradient":
        return GradientTerm(**options)
    if term == "self":
        return _own_features(options.get("model", "mc-net"))
    if term == "lpips":
        return _lpips(options.get("vgg"), options.get("heads"))
    return None


def _own_features(model: str | Path) -> FrozenFeatures:
    corrector, card = load_checkpoint(model)
    facts = {"term": "self", "model": card["name"], "sha256": card["sha256"]}
    return FrozenFeatures(CorrectorFeatures(corrector), None, facts)


def _lpips(vgg: str | Path | None, heads: str | Path | None) -> FrozenFeatures:
    if vgg is None:
        raise InputError(
            "perceptual lpips: give the option vgg, a file of torchvision's vgg16 weights (vgg16-397923af.pth);"
            " nothing is downloaded"
        )
    layers, vgg_sha256 = vgg16_layers(vgg)
    facts = {"term": "lpips", "network": "vgg16", "layers": list(VGG_LAYERS), "vgg_sha256": vgg_sha256}
    if heads is None:
        return FrozenFeatures(VggFeatures(layers), None, {**facts, "heads_sha256": None})
    weights, heads_sha256 = lpips_heads(heads)
    return FrozenFeatures(VggFeatures(layers), weights, {**facts, "heads_sha256": heads_sha256})


def vgg16_layers(path: str | Path) -> tuple[nn.ModuleList, str]:
    """Five modules, each from the end of one compared layer to the next, and the sha256 of the file.

    path  state dict of torchvision's vgg16 (names features.0.weight ...), written by torch.save
    """
    state = _read(path, "vgg", "torchvision's vgg16 weights (vgg16-397923af.pth)")
    layers, position = nn.ModuleList(), 0
    for block, (channels, width, count) in enumerate(BLOCKS):
        parts: list[nn.Module] = [nn.MaxPool2d(2)] if block else []
        position += 1 if block else 0  # torchvision counts the pooling, and each ReLU below
        for _ in range(count):
            convolution = nn.Conv2d(channels, width, 3, padding=1)
            _fill(convolution, state, f"features.{position}", path)
            parts += [convolution, nn.ReLU()]
            channels, position = width, position + 2
        layers.append(nn.Sequential(*parts))
    return layers, file_digest(path)


def lpips_heads(path: str | Path) -> tuple[list[Tensor], str]:
    """The weights (C,) of each layer's channels in LPIPS, and the sha256 of the file (weights/v0.1/vgg.pth)."""
    state = _read(path, "heads", "the linear heads of LPIPS (lpips/weights/v0.1/vgg.pth)")
    heads = []
    for level, (_, width, _) in enumerate(BLOCKS):
        name = f"lin{level}.model.1.weight"
        if name not in state or state[name].numel() != width:
            raise InputError(f"{path}: no heads of LPIPS for VGG16 ({name} is missing or of another size)")
        heads.append(state[name].float().flatten())
    return heads, file_digest(path)


def _read(path: str | Path, option: str, what: str) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(
            f"{path}: there is no such file; perceptual lpips: give as option {option} a file of {what}"
        ) from None
    except Exception:  # whatever unpickling a foreign or damaged file raises
        raise InputError(f"{path}: not a torch file of weights; give as option {option} {what}") from None
    if not isinstance(state, dict):
        raise InputError(f"{path}: not a state dict; give as option {option} {what}")
    return state


def _fill(convolution: nn.Conv2d, state: dict[str, Tensor], name: str, path: str | Path) -> None:
    for part, parameter in convolution.named_parameters():
        value = state.get(f"{name}.{part}")
        if value is None or value.shape != parameter.shape:
            raise InputError(f"{path}: not the weights of VGG16 ({name}.{part} is missing or of another shape)")
        parameter.data.copy_(value)
