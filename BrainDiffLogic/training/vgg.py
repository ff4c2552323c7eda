"""VGG16 (Simonyan 2015) from a file of weights that the user supplies, without torchvision."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from BrainDiffLogic.digests import file_digest
from BrainDiffLogic.errors import InputError

VGG_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
"""What LPIPS compares (Zhang 2018, released code)."""
BLOCKS = ((3, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3))
"""Input channels, output channels and convolutions of each block; blocks are joined by 2 x 2 max pooling."""


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
