"""The latents of a slice store under an autoencoder: encoded once, cached, and their scale."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets.autoencoderkl import AutoencoderKL

from BrainDiffLogic.digests import digest
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.outputs import staged_output
from BrainDiffLogic.models.generative import downsampling
from BrainDiffLogic.training.slice_store import SliceStore

LATENTS, FACTS = "latents.npy", "latents.json"
ENCODING_BATCH = 8


@dataclass(frozen=True)
class Latents:
    """Posterior means (N, C, h, w) float16, memory-mapped, of the slices that were asked for, in their order.

    sd            standard deviation of all values of the training latents
    posterior_sd  mean standard deviation of their posteriors

    Only the means are kept. Injection starts from them, and with the paper's weight of the KL term (1e-6) a posterior
    is so narrow (``posterior_sd`` / ``sd``) that sampling it would add less than the first steps of the diffusion.
    """

    array: np.ndarray
    sd: float
    posterior_sd: float

    @property
    def scale(self) -> float:
        """1 / sd: scaled latents have the variance that the noise schedule assumes (Rombach 2022, section 4)."""
        return 1 / self.sd


def latent_shape(vae: AutoencoderKL, canvas: tuple[int, int]) -> tuple[int, int, int]:
    """(C, h, w) of the latent of a slice of ``canvas`` (rows, columns)."""
    factor = downsampling(vae)
    return vae.latent_channels, canvas[0] // factor, canvas[1] // factor


def latents_key(vae_sha256: str, store: SliceStore, indices: np.ndarray, training: int) -> str:
    """What cached latents were made from: the autoencoder, the slices, and how many of them are trained on."""
    return digest([vae_sha256, store.digest, training, indices.tolist()])


def make_latents(
    folder: Path, key: str, vae: AutoencoderKL, store: SliceStore, indices: np.ndarray, training: int,
    device: torch.device,
) -> None:
    """Encode the slices ``indices`` into ``folder``, unless they lie there; the first ``training`` set the scale."""
    if _facts(folder).get("key") == key:
        return
    shape = (len(indices), *latent_shape(vae, store.canvas))
    with staged_output(folder / FACTS) as staged:
        array = np.lib.format.open_memmap(staged.with_name(LATENTS), mode="w+", dtype=np.float16, shape=shape)
        spread = _encode(array, vae.to(device), store, indices, training)
        array.flush()
        del array
        staged.write_text(json.dumps({"key": key, **spread}) + "\n", encoding="utf-8")
    vae.to("cpu")


def load_latents(folder: Path, key: str) -> Latents:
    """The cached latents of ``key``. Raises InputError where others, or none, lie in the folder."""
    facts = _facts(folder)
    if facts.get("key") != key:
        raise InputError(f"{folder / LATENTS}: no latents of these slices; start the phase again")
    array = np.load(folder / LATENTS, mmap_mode="r")
    return Latents(array, float(facts["sd"]), float(facts["posterior_sd"]))


def _facts(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / FACTS).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


@torch.no_grad()
def _encode(
    array: np.ndarray, vae: AutoencoderKL, store: SliceStore, indices: np.ndarray, training: int
) -> dict[str, float]:
    """Fill ``array``; returns "sd" and "posterior_sd" of the first ``training`` latents."""
    device = next(vae.parameters()).device
    total = squares = widths = count = 0.0
    for start in range(0, len(indices), ENCODING_BATCH):
        chosen = indices[start : start + ENCODING_BATCH]
        images = torch.from_numpy(store.array[chosen].astype(np.float32))[:, None].to(device)
        mean, sd = (tensor.float().cpu() for tensor in vae.encode(images))
        array[start : start + len(chosen)] = mean.numpy()
        mean, sd = (tensor[: max(0, training - start)].double() for tensor in (mean, sd))
        total, squares = total + float(mean.sum()), squares + float((mean**2).sum())
        widths, count = widths + float(sd.sum()), count + mean.numel()
    return {"sd": math.sqrt(squares / count - (total / count) ** 2), "posterior_sd": widths / count}


def measured_scale(vae: AutoencoderKL, store: SliceStore, indices: np.ndarray) -> float:
    """1 / standard deviation of the latents of these slices; nothing is stored."""
    array = np.empty((len(indices), *latent_shape(vae, store.canvas)), dtype=np.float16)
    return 1 / _encode(array, vae, store, indices, len(indices))["sd"]
