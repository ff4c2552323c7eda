"""The network that looks at a sagittal slice and says how far the head moved; where its weights are, and loading them.

It is no corrector, and not listed as one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import fft
from torch import Tensor, nn
from torch.nn import functional

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models import checkpoints
from BrainDiffLogic.models.checkpoints import SUFFIX, Card, verify_of, with_weights
from BrainDiffLogic.models.layers import activation_layer, build_from, init_he_normal, norm_layer

PATCH, STEP = 8, 4
"""Side of the patches whose spectra are taken, and the pixels from one to the next."""
FLOOR = 1e-5
"""Added to each energy of a spectrum (network units): below the noise of any scan; what air set to 0 has."""
SPREAD_LIMITS = (-5.0, 1.0)
"""Of the logarithm of the spread."""
FAMILY = "severity"
CALIBRATION = ("raw", "mm", "error_mm")
"""Entries of the card's calibration: values of the network, the mm they mean, the mean error there; equally long."""


class _Residual(nn.Module):
    """x + two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_convolution(channels, channels), *_convolution(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class SeverityNetwork(nn.Module):
    """Severity of the motion in a slice, with a spread: local spectra, then a small residual network.

    The first layer is fixed: the logarithm of the energies in the cosine transform of each patch of the slice's square
    root, which lifts ghosts in the air to the size of tissue. Ringing and ghosts are energy where, and in directions in
    which, anatomy and noise have none; a network that has to find this in the pixels first needs many times the
    training. The features are pooled by learned attention, so that a slice of any size, with much air around it or
    none, gives numbers of one size.

    Args:
        channels: of the levels, each half as fine as the one before; a residual block at the last.
        heads: maps of attention.
    """

    spectrum: Tensor

    def __init__(self, channels: Sequence[int] = (64, 96, 96), heads: int = 4) -> None:
        super().__init__()
        self.multiple = STEP * 2 ** (len(channels) - 1)
        self.register_buffer("spectrum", cosines(PATCH), persistent=False)
        layers: list[nn.Module] = [norm_layer("batch", PATCH**2), *_convolution(PATCH**2, channels[0], size=1)]
        for fine, coarse in pairwise(channels):
            layers += _convolution(fine, coarse, stride=2)
        self.features = nn.Sequential(*layers, _Residual(channels[-1]))
        self.attention = nn.Conv2d(channels[-1], heads, 1)
        self.head = nn.Linear(heads * channels[-1], 2)
        init_he_normal(self.features)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) in network units -> (N, 2): log(1 + mm), and the logarithm of its mean absolute error.

        H and W are multiples of ``multiple``.
        """
        # rounded to 8 bits, the slice itself hides faint ghosts; PyTorch 2.4 knows no autocast on mps to switch off
        with nullcontext() if x.device.type == "mps" else torch.autocast(x.device.type, enabled=False):
            root = torch.sign(x) * x.abs().sqrt()
            energies = functional.conv2d(root, self.spectrum, stride=STEP, padding=(PATCH - STEP) // 2) ** 2
        features = self.features(torch.log(energies + FLOOR))
        weights = self.attention(features).flatten(2).softmax(dim=2)
        pooled = torch.einsum("nhp,ncp->nhc", weights, features.flatten(2)).flatten(1)
        value, spread = self.head(pooled).float().unbind(dim=1)
        return torch.stack([value, spread.clamp(*SPREAD_LIMITS)], dim=1)


def cosines(size: int) -> Tensor:
    """(size^2, 1, size, size): the orthonormal cosine transform (DCT-II) of a patch as kernels of a convolution."""
    basis = torch.from_numpy(fft.dct(np.eye(size), axis=0, norm="ortho")).float()
    return torch.einsum("ur,vc->uvrc", basis, basis).reshape(size**2, 1, size, size)


def build_severity(arguments: Mapping[str, Any]) -> SeverityNetwork:
    """The network from the arguments of a configuration or a card. Raises InputError where it cannot be built."""
    network: SeverityNetwork = build_from(SeverityNetwork, {}, arguments, "severity network")
    return network


def _convolution(inputs: int, outputs: int, stride: int = 1, size: int = 3) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
    return convolution, norm_layer("batch", outputs), activation_layer("leaky-relu")


@dataclass(frozen=True)
class SeverityModel:
    """A severity network, ready to look at slices, and its card."""

    network: SeverityNetwork
    card: Card

    @property
    def threshold_mm(self) -> float:
        """Below it the gate returns a scan unchanged; chosen at the calibration."""
        return float(self.card["threshold_mm"])


def shipped_weights() -> Path | None:
    """The shipped weights, beside the folder of the shipped correctors; None where they are missing."""
    path = checkpoints.shipped_folder().parent / "Severity" / f"{FAMILY}{SUFFIX}"
    return path if path.is_file() else None


def load_severity(path: str | os.PathLike[str]) -> SeverityModel:
    """The severity network of a .safetensors file and its card.

    Raises InputError for a file that is missing, of another family, or not that of its card.
    """
    card = verify_of(path, FAMILY, "severity network")
    _check(card, path)
    return SeverityModel(with_weights(build_severity(card["arguments"]), path), card)


def _check(card: Card, path: str | os.PathLike[str]) -> None:
    table = card.get("calibration")
    columns = [table.get(name) for name in CALIBRATION] if isinstance(table, dict) else []
    lengths = {len(column) if isinstance(column, list) else 0 for column in columns}
    if len(lengths) != 1 or 0 in lengths or not isinstance(card.get("threshold_mm"), int | float):
        raise InputError(f"{path}: the card has no calibration or no threshold_mm; get the weights again")
