"""BrainDiff's generative networks, MONAI's own: the KL autoencoder (phase 1) and the latent diffusion model (phase 2).

Weights of the package monai-generative (0.2.3), where the two came from, are imported with the same output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import torch
from monai.networks.nets.autoencoderkl import AutoencoderKL
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from monai.networks.nets.patchgan_discriminator import PatchDiscriminator
from monai.networks.schedulers.ddpm import DDPMScheduler
from torch import Tensor, nn

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import Card, verify_of, with_weights
from BrainDiffLogic.models.layers import build_from

FAMILIES = {"vae": "autoencoder", "ldm": "diffusion model"}
"""And what their cards are titled."""

AUTOENCODERS: dict[str, dict[str, Any]] = {
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

DIFFUSION_MODELS: dict[str, dict[str, Any]] = {
    "paper": {
        "in_channels": 3, "out_channels": 3,       # the latent of the paper's autoencoder
        "channels": [128, 256, 512],               # MONAI tutorial 2d_ldm; the paper: multipliers (1, 2, 4)
        "attention_levels": [False, True, True],   # tutorial; "resolutions 16 and 8" of the paper do not exist here
        "num_head_channels": [0, 256, 512],        # tutorial
        "num_res_blocks": 2,                       # paper, IV-B
        "norm_num_groups": 32,                     # tutorial
        "use_flash_attention": True,               # the same numbers in less memory
    },
    "compact": {
        "in_channels": 3, "out_channels": 3, "channels": [32, 64, 128, 256],
        "attention_levels": [False, False, False, True], "num_head_channels": [0, 0, 0, 64], "num_res_blocks": 1,
        "norm_num_groups": 32, "use_flash_attention": True,
    },
}  # fmt: skip
"""By name: "paper", 64.1 million weights; "compact", 10.7 million, for two cores."""

SCHEDULE: dict[str, Any] = {
    "schedule": "linear_beta",    # paper, IV-B
    "num_train_timesteps": 1000,  # paper, IV-B
    "beta_start": 0.0015,         # paper, IV-B
    "beta_end": 0.0195,           # paper, IV-B
}  # fmt: skip

RENAMED = {"num_channels": "channels"}
"""Arguments that have another name in MONAI 1.4 and later."""
CONDITIONED = "transformer_blocks"


def build_autoencoder(arguments: Mapping[str, Any]) -> AutoencoderKL:
    """The autoencoder (N, 1, H, W) -> (N, latent_channels, H / f, W / f) -> (N, 1, H, W), f = 2^(levels - 1).

    arguments  those of MONAI's class without the dimensions and image channels; missing ones take its defaults
    ``encode`` gives mean and standard deviation of the posterior, ``decode`` takes latents. Intensities are network
    units (the volume's 99th percentile in the head is 1). Raises InputError for an unknown or impossible argument, and
    where einops, which MONAI's attention needs, is missing.
    """
    fixed = {"spatial_dims": 2, "in_channels": 1, "out_channels": 1}
    return build_from(AutoencoderKL, fixed, arguments, "autoencoder")


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


def build_diffusion(arguments: Mapping[str, Any]) -> DiffusionModelUNet:
    """The network that finds the noise in scaled latents: ((N, C, h, w), timesteps (N,)) -> noise (N, C, h, w).

    arguments  those of MONAI's class without the dimensions; missing ones take its defaults
    h and w are multiples of 2^(levels - 1). Raises InputError as ``build_autoencoder`` does.
    """
    return build_from(DiffusionModelUNet, {"spatial_dims": 2}, arguments, "diffusion network")


def build_schedule() -> DDPMScheduler:
    """The noise schedule of DDPM (Ho 2020): ``add_noise(z, noise, timesteps)`` gives sqrt(a) z + sqrt(1 - a) noise.

    Latents are no images: nothing is clipped to [-1, 1], as MONAI would by default.
    """
    return DDPMScheduler(**SCHEDULE, clip_sample=False)


def translate_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a monai-generative network by today's names, for ``build_autoencoder`` or ``build_diffusion``.

    Attention gets no output projection (``include_fc``), which 0.2.3 never applied, and separate q, k and v.
    """
    renamed = {RENAMED.get(name, name): value for name, value in arguments.items() if name != "spatial_dims"}
    return {**renamed, "include_fc": False, "use_combined_linear": False}


def load_old_state(network: nn.Module, old: Mapping[str, Tensor]) -> None:
    """Put the weights ``old`` of monai-generative's AutoencoderKL or DiffusionModelUNet into MONAI's ``network``.

    MONAI's ``load_old_state_dict`` (1.6.1) is not used: it puts ``proj_attn`` where MONAI applies it, but 0.2.3 held
    that layer without ever applying it. Here a network with an output projection gets the identity.
    Raises InputError when the weights are of another network; ``network`` is then unchanged.
    """
    if any(CONDITIONED in name for name in old):
        raise InputError("the weights are of a conditioned network; only unconditioned ones can be imported")
    rest, new = dict(old), {}
    for name, value in network.state_dict().items():
        if ".attn.out_proj." in name:
            new[name] = torch.eye(len(value)) if name.endswith("weight") else torch.zeros(len(value))
            continue
        source = name.replace(".attn.to_", ".to_").replace(".postconv.", ".conv.")
        if source not in rest or rest[source].shape != value.shape:
            raise InputError(f"the weights do not fit the network: {source} is missing or of another shape")
        new[name] = rest.pop(source)
    if unused := {name for name in rest if ".proj_attn." not in name}:
        raise InputError(f"the weights do not fit the network: it has no place for {min(unused)}")
    network.load_state_dict(new)


def load_vae(path: str | PathLike[str], frozen: bool = False) -> tuple[AutoencoderKL, Card]:
    """The autoencoder of a .safetensors file, in evaluation mode, and its card.

    frozen  its weights take no gradient; one flows through it all the same
    Raises InputError where a file is missing, no autoencoder, damaged, or not that of the card.
    """
    return _load(path, "vae", build_autoencoder, frozen)


def load_ldm(path: str | PathLike[str], frozen: bool = False) -> tuple[DiffusionModelUNet, Card]:
    """The diffusion model of a .safetensors file, in evaluation mode, and its card; as ``load_vae``."""
    return _load(path, "ldm", build_diffusion, frozen)


def _load(
    path: str | PathLike[str], family: str, build: Callable[[Mapping[str, Any]], Any], frozen: bool
) -> tuple[Any, Card]:
    card = verify_of(path, family, FAMILIES[family])
    return with_weights(build(card["arguments"]), path).requires_grad_(not frozen), card


def check_partners(vae_card: Card, ldm_card: Card) -> None:
    """Raise InputError where the diffusion model was trained on latents of another autoencoder."""
    if ldm_card["vae"]["sha256"] != vae_card["sha256"]:
        raise InputError(
            f"{ldm_card['name']}: was trained on the latents of another autoencoder ({ldm_card['vae']['name']},"
            f" sha256 {ldm_card['vae']['sha256'][:12]}...) than {vae_card['name']}; give that one"
        )
