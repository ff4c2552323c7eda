"""The KL-regularised autoencoder of BrainDiff (phase 1): MONAI's ``AutoencoderKL``, after Rombach 2022."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from monai.networks.nets.autoencoderkl import AutoencoderKL
from monai.networks.nets.patchgan_discriminator import PatchDiscriminator

from BrainDiffLogic.networks.monai_build import build_from

_FIXED = {"spatial_dims": 2, "in_channels": 1, "out_channels": 1}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "paper": {
        "channels": [128, 128, 256],                # paper, IV-B
        "latent_channels": 3,                       # paper, IV-B
        "num_res_blocks": 2,                        # paper, IV-B
        "attention_levels": [False, False, False],  # MONAI tutorial 2d_ldm, where the paper is silent
        "norm_num_groups": 32,                      # MONAI tutorial 2d_ldm
        "use_flash_attention": True,                # the same numbers in less memory
    },
    "compact": {
        "channels": [32, 64], "latent_channels": 3, "num_res_blocks": 1,
        "attention_levels": [False, False], "norm_num_groups": 1,  # else absolute intensity is slow to learn
        "with_encoder_nonlocal_attn": False, "with_decoder_nonlocal_attn": False,
    },
}  # fmt: skip
"""By name: "paper", 13.3 million weights; "compact", 0.23 million, for a quarter of an hour on two cores."""


def build_autoencoder(arguments: Mapping[str, Any]) -> AutoencoderKL:
    """The autoencoder (N, 1, H, W) -> (N, latent_channels, H / f, W / f) -> (N, 1, H, W), f = 2^(levels - 1).

    arguments  those of MONAI's class without the dimensions and image channels; missing ones take its defaults
    ``encode`` gives mean and standard deviation of the posterior, ``decode`` takes latents. Intensities are network
    units (the volume's 99th percentile in the head is 1). Raises InputError for an unknown or impossible argument, and
    where einops, which MONAI's attention needs, is missing.
    """
    return build_from(AutoencoderKL, _FIXED, arguments, "autoencoder")


def start_narrow(autoencoder: AutoencoderKL, sd: float) -> None:
    """Let every posterior start with about this standard deviation, > 0, by the bias of the encoder's last layer."""
    bias = autoencoder.quant_conv_log_sigma.conv.bias
    assert bias is not None
    torch.nn.init.constant_(bias, 2 * math.log(sd))  # the layer gives log variances


def build_discriminator(channels: int = 64, layers: int = 3) -> PatchDiscriminator:
    """Patch discriminator (N, 1, H, W) -> list of features, the last one the scores of overlapping patches.

    channels, layers  64 and 3 in the MONAI tutorial 2d_ldm, whose autoencoder the paper's is
    """
    return PatchDiscriminator(spatial_dims=2, channels=channels, in_channels=1, out_channels=1, num_layers_d=layers)


def downsampling(autoencoder: AutoencoderKL) -> int:
    """How many pixels a side of one latent pixel covers."""
    return 2 ** (len(autoencoder.encoder.channels) - 1)
