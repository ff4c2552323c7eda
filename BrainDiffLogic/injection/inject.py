"""Motion injected into clean slices: noise their latents, denoise with a prior of moved scans, decode (phase 3)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from BrainDiffLogic.digests import digest
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.injection.sampling import (
    SIGNAL,
    NoiseSchedule,
    add_noise,
    denoise,
    draw_level,
    normal_noise,
    sampling_steps,
)

if TYPE_CHECKING:
    from monai.networks.nets import AutoencoderKL, DiffusionModelUNet

MODES = ("transplant", "decode")
VARIANTS = 5
"""BrainDiff: five moved versions of each clean slice."""
STEPS = 25
"""DDIM updates from the level of injection. The paper's sampler is not stated; every level costs 4 to 13 times more
at the default levels (METHODS 5.3: 25 updates take 4.3 s a slice on two cores)."""
BATCHES = {"cpu": 8, "mps": 16, "cuda": 64}
"""Latents denoised at once."""


@dataclass(frozen=True)
class Plan:
    """How motion is injected.

    mode      "transplant": x + D(z_m) - D(E(x)), which leaves the autoencoder's own blur out of the pair, so that no
              corrector learns to undo it; "decode": D(z_m), as in the paper
    signal    the level is drawn by signal fraction, uniform between these two; None: the paper's range of t
    steps     updates from that level to the clean latent by DDIM (eta 0); None: DDPM through every level
    variants  moved versions of each slice
    seed      of the run, see ``variant_seed``

    Raises InputError for values that make no plan.
    """

    mode: str = "transplant"
    signal: tuple[float, float] | None = SIGNAL
    steps: int | None = STEPS
    variants: int = VARIANTS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"mode {self.mode!r} is unknown: use {' or '.join(MODES)}")
        if self.signal is not None and not all(0 < share <= 1 for share in self.signal):
            raise InputError(f"signal {self.signal}: give two fractions above 0 and up to 1, as 0.9 0.5")
        for name, value, lowest in (("steps", self.steps, 1), ("variants", self.variants, 1), ("seed", self.seed, 0)):
            if value is not None and value < lowest:
                raise InputError(f"{name} {value}: must be {lowest} or more")


PAPER = Plan(mode="decode", signal=None, steps=None)
"""BrainDiff as we read it: t uniform in [0.35 T, 0.65 T], DDPM through every level, plain decode."""


@dataclass
class MotionPrior:
    """The networks of an injection, both in eval mode, and what lies between them.

    autoencoder  MONAI's AutoencoderKL: images (N, 1, H, W) in network units to latents (N, C, h, w) and back
    diffusion    MONAI's DiffusionModelUNet, trained to predict the noise in scaled latents of moved scans
                 (of clean scans: the control that tells artifact from the autoencoder's blur)
    scale        1 / standard deviation of the training latents
    device       where all of it runs; the networks are moved there
    bf16         run the networks in bfloat16 by autocast; latents and images stay float32
    """

    autoencoder: AutoencoderKL
    diffusion: DiffusionModelUNet
    scale: float
    schedule: NoiseSchedule
    device: torch.device
    bf16: bool = False

    def __post_init__(self) -> None:
        for network in (self.autoencoder, self.diffusion):
            network.eval().to(self.device)

    def encode(self, images: Tensor) -> Tensor:
        """z = scale * posterior mean of (N, 1, H, W)."""
        with self._precision():
            mean, _ = self.autoencoder.encode(images.to(self.device))
        return self.scale * mean.float()

    def decode(self, latents: Tensor) -> Tensor:
        """Images (N, 1, H, W) of scaled latents."""
        with self._precision():
            return self.autoencoder.decode(latents / self.scale).float()

    def predict_noise(self, latents: Tensor, t: Tensor) -> Tensor:
        """The noise in scaled latents at levels t (N,)."""
        with self._precision():
            return self.diffusion(latents, t).float()

    def _precision(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()


@dataclass(frozen=True)
class Injection:
    """Moved versions of slices.

    images  (N, V, H, W) float32 in network units
    t       (N, V) level of injection, and signal, the fraction of the latent that was left there
    seeds   (N, V) what each version was drawn from
    """

    images: np.ndarray
    t: np.ndarray
    signal: np.ndarray
    seeds: list[list[int]]


def load_prior(vae: Path, ldm: Path, device: str = "auto", bf16: bool = False) -> tuple[MotionPrior, dict[str, Any]]:
    """The networks of two .safetensors files and their cards {"vae", "ldm"}.

    Raises InputError as the loaders do, and where the LDM was trained on the latents of another VAE.
    """
    from BrainDiffLogic.inference import choose_device
    from BrainDiffLogic.training.generative_checkpoints import check_partners, load_ldm, load_vae

    target = choose_device(device)
    autoencoder, vae_card = load_vae(vae, frozen=True)
    diffusion, ldm_card = load_ldm(ldm, frozen=True)
    check_partners(vae_card, ldm_card)
    schedule = NoiseSchedule.of(ldm_card.get("schedule", {}), str(ldm))
    prior = MotionPrior(autoencoder, diffusion, float(ldm_card["scale"]), schedule, target, bf16)
    return prior, {"vae": vae_card, "ldm": ldm_card}


def variant_seed(seed: int, item: str, variant: int) -> int:
    """The seed of one moved version: it depends on the run's seed, the slice's name and the version alone."""
    return int(digest(f"{seed}/{item}/{variant}")[:16], 16)


@torch.inference_mode()
def inject(
    prior: MotionPrior, images: np.ndarray, items: Sequence[str], plan: Plan, batch: int | None = None
) -> Injection:
    """``plan.variants`` moved versions of each slice of images (N, H, W) float32 in network units.

    items  the name of each slice. A version is the same, to the rounding of the networks, in whatever batch, order
           or company its slice comes, and on any device.
    batch  latents denoised at once (default: ``BATCHES``)

    A version whose level comes out as ``CLEAN`` has nothing injected: transplanting gives the slice itself, exactly.
    """
    batch = batch or BATCHES[prior.device.type]
    slices, variants = len(images), plan.variants
    seeds = [[variant_seed(plan.seed, item, variant) for variant in range(variants)] for item in items]
    generators = [np.random.default_rng(seed) for row in seeds for seed in row]
    levels = np.array([draw_level(generator, prior.schedule, plan.signal) for generator in generators])
    clean = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))[:, None]
    latents = torch.cat([prior.encode(part) for part in clean.split(batch)])
    still = torch.cat([prior.decode(part).cpu() for part in latents.split(batch)])
    moved = torch.empty(slices * variants, *images.shape[1:])
    for start in range(0, len(moved), batch):
        rows = np.arange(start, min(start + batch, len(moved)))
        parents = rows // variants
        moved[rows] = _moved(
            prior, plan, latents[parents], still[parents], levels[rows], [generators[row] for row in rows]
        )[:, 0]  # fmt: skip
    result = moved.reshape(slices, variants, *images.shape[1:])
    if plan.mode == "transplant":
        result += clean  # moved holds D(z_m) - D(E(x))
    grid = levels.reshape(slices, variants)
    return Injection(result.numpy(), grid, np.sqrt(prior.schedule.alpha_bar(grid)), seeds)


def _moved(
    prior: MotionPrior,
    plan: Plan,
    latents: Tensor,
    still: Tensor,
    levels: np.ndarray,
    generators: list[np.random.Generator],
) -> Tensor:
    """D(z_m) on the CPU, or its difference from D(E(x)): ``still``, which it is where no step is taken."""
    noised = add_noise(latents, normal_noise(generators, latents), levels, prior.schedule)
    steps = [sampling_steps(int(level), plan.steps) for level in levels]
    eta = 0.0 if plan.steps else 1.0
    sampled = denoise(prior.predict_noise, noised, steps, prior.schedule, eta=eta, generators=generators)
    decoded = still.clone()
    rows = [row for row, own in enumerate(steps) if own]
    if rows:
        decoded[rows] = prior.decode(sampled[rows]).cpu()
    return decoded - still if plan.mode == "transplant" else decoded
