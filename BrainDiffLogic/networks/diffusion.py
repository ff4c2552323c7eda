"""The latent diffusion model of BrainDiff (phase 2): MONAI's ``DiffusionModelUNet`` and its noise schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from monai.networks.schedulers.ddpm import DDPMScheduler

from BrainDiffLogic.networks.monai_build import build_from

_FIXED = {"spatial_dims": 2}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
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


def build_diffusion(arguments: Mapping[str, Any]) -> DiffusionModelUNet:
    """The network that finds the noise in scaled latents: ((N, C, h, w), timesteps (N,)) -> noise (N, C, h, w).

    arguments  those of MONAI's class without the dimensions; missing ones take its defaults
    h and w are multiples of 2^(levels - 1). Raises InputError as ``build_autoencoder`` does.
    """
    return build_from(DiffusionModelUNet, _FIXED, arguments, "diffusion network")


def build_schedule(schedule: Mapping[str, Any] = SCHEDULE) -> DDPMScheduler:
    """The noise schedule of DDPM (Ho 2020): ``add_noise(z, noise, timesteps)`` gives sqrt(a) z + sqrt(1 - a) noise.

    Latents are no images: nothing is clipped to [-1, 1], as MONAI would by default.
    """
    return DDPMScheduler(**schedule, clip_sample=False)
