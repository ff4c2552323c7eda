"""A tiny autoencoder and diffusion prior, untrained, and a slice store written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from BrainDiffLogic.models.generative import SCHEDULE, build_autoencoder, build_diffusion
from BrainDiffLogic.training.injection import MotionPrior, NoiseSchedule
from BrainDiffLogic.training.slice_store import SliceStore, save_generative

CANVAS = (32, 48)
AUTOENCODER: dict[str, Any] = {
    "channels": [8, 16, 16], "latent_channels": 3, "num_res_blocks": 1, "attention_levels": [False, False, False],
    "norm_num_groups": 8, "with_encoder_nonlocal_attn": False, "with_decoder_nonlocal_attn": False,
}  # fmt: skip
DIFFUSION: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "channels": [16, 16], "attention_levels": [False, False],
    "num_head_channels": [0, 8], "num_res_blocks": 1, "norm_num_groups": 8,
}  # fmt: skip
SCALE = 2.5


def tiny_networks(seed: int = 5) -> tuple[Any, Any]:
    """(autoencoder, diffusion); no layer is zero, so that both have something to say."""
    torch.manual_seed(seed)
    networks = build_autoencoder(AUTOENCODER), build_diffusion(DIFFUSION)
    for network in networks:
        for parameter in network.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
    return networks


def tiny_prior() -> MotionPrior:
    return MotionPrior(*tiny_networks(), SCALE, NoiseSchedule(), torch.device("cpu"))


def tiny_cards() -> dict[str, Any]:
    training = {"group": "motion", "held_out_subjects": ["sub-9"]}
    ldm = {"name": "ldm", "sha256": "b" * 64, "training": training}
    return {"vae": {"name": "vae", "sha256": "a" * 64, "training": {}}, "ldm": ldm}


def slices(count: int = 3, seed: int = 0) -> np.ndarray:
    """(count, 32, 48) float32: smooth blobs in a head-like ellipse, air 0."""
    rng = np.random.default_rng(seed)
    rows, columns = np.ogrid[-1 : 1 : CANVAS[0] * 1j, -1 : 1 : CANVAS[1] * 1j]
    head = rows**2 + columns**2 < 0.7
    grain = ndimage.gaussian_filter(rng.normal(size=(count, *CANVAS)), (0, 2, 2))
    return (head * (0.7 + 1.5 * grain)).clip(0).astype(np.float32)


def write_store(folder: Path, subjects: int = 2, each: int = 3) -> SliceStore:
    """Clean and moved slices of ``subjects`` in the split correction, and of one in prior and one in test."""
    folder.mkdir()
    names = [(f"sub-{n}", "correction") for n in range(subjects)] + [("sub-p", "prior"), ("sub-t", "test")]
    items = [
        {
            "subject": subject, "session": None, "scan": f"{subject}_acq-{level}_T1w.nii.gz", "group": group,
            "level": level, "slice": k, "score": None, "split": split,
        }
        for subject, split in names
        for group, level in (("clean", "standard"), ("motion", "headmotion1"))
        for k in range(each)
    ]  # fmt: skip
    np.save(folder / "slices.npy", slices(len(items), seed=3).astype(np.float16))
    facts = {"format": 1, "canvas": CANVAS, "spacing_mm": 4.0, "step": 1, "digest": "feed", "scans": [], "items": items}
    (folder / "slices.json").write_text(json.dumps(facts))
    return SliceStore(folder)


def save_prior(folder: Path, store: SliceStore, **training: Any) -> tuple[Path, Path]:
    """vae.safetensors and ldm.safetensors with their cards."""
    autoencoder, diffusion = tiny_networks()
    paths = folder / "vae.safetensors", folder / "ldm.safetensors"
    vae = save_generative(autoencoder, "vae", paths[0], AUTOENCODER, SCALE, store, {})
    facts = {"group": "motion", "held_out_subjects": ["sub-p"], **training}
    more = {"schedule": SCHEDULE, "vae": {"name": "vae", "sha256": vae["sha256"]}}
    save_generative(diffusion, "ldm", paths[1], DIFFUSION, SCALE, store, facts, **more)
    return paths
