"""Slice stores, plans and autoencoders that are small enough for tests of phases 1 and 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from BrainDiffLogic.training.configuration import LdmConfiguration, VaeConfiguration

CANVAS = (32, 48)
VAE_NETWORK: dict[str, Any] = {
    "channels": [8, 8, 16], "latent_channels": 3, "num_res_blocks": 1, "norm_num_groups": 4,
    "attention_levels": [False, False, False], "with_encoder_nonlocal_attn": False,
    "with_decoder_nonlocal_attn": False,
}  # fmt: skip
LDM_NETWORK: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "channels": [8, 16], "num_res_blocks": 1, "norm_num_groups": 4,
    "attention_levels": [False, True], "num_head_channels": [0, 16],
}  # fmt: skip


def write_store(folder: Path, slices: int = 2, splits: tuple[str, ...] = ("prior", "correction", "test")) -> Path:
    """Three subjects a split, each with a clean and a moved scan of ``slices`` slices: discs with a wave."""
    rows, columns = np.indices(CANVAS) / np.array(CANVAS)[:, None, None] - 0.5
    rng, images, items = np.random.default_rng(3), [], []
    for number, split in enumerate(split for split in splits for _ in range(3)):
        for group in ("clean", "motion"):
            for index in range(slices):
                wave = np.sin(20 * rows + number) * np.cos(9 * columns + index)
                image = np.where(rows**2 + columns**2 < 0.16, 0.6 + 0.3 * wave, 0.0)
                if group == "motion":
                    image = 0.6 * image + 0.4 * np.roll(image, 5, axis=0)
                images.append(image + 0.01 * rng.random(CANVAS))
                items.append({
                    "subject": f"sub-{number}", "session": None, "scan": f"sub-{number}_{group}_T1w.nii.gz",
                    "group": group, "level": "standard" if group == "clean" else "headmotion1", "slice": index,
                    "score": None, "split": split,
                })  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "slices.npy", np.stack(images).astype(np.float16))
    facts = {"format": 1, "canvas": list(CANVAS), "spacing_mm": 2.0, "digest": "of a test", "items": items}
    (folder / "slices.json").write_text(json.dumps(facts))
    return folder


def vae_plan(**changes: Any) -> VaeConfiguration:
    """Four steps in two epochs, without a discriminator."""
    content: dict[str, Any] = {
        "network": VAE_NETWORK, "epochs": 2, "epoch_steps": 2, "batch": 4, "learning_rate": 1e-3, "ema": 0.5,
        "perceptual": "gradient", "adversarial_weight": 0.0, "precision": "32-true", "discriminator_channels": 4,
        "discriminator_layers": 2,
    }  # fmt: skip
    return VaeConfiguration(**{**content, **changes})


def ldm_plan(**changes: Any) -> LdmConfiguration:
    """Four steps in two epochs."""
    content: dict[str, Any] = {
        "network": LDM_NETWORK, "epochs": 2, "epoch_steps": 2, "batch": 4, "learning_rate": 1e-3, "ema": 0.5,
        "precision": "32-true",
    }  # fmt: skip
    return LdmConfiguration(**{**content, **changes})
