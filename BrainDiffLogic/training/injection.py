"""Motion injected into clean slices: noise their latents, denoise with a prior of moved scans, decode (phase 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.files import digest

if TYPE_CHECKING:
    from monai.networks.nets import AutoencoderKL, DiffusionModelUNet


CLEAN = -1
"""The level below 0, where alpha_bar is 1."""
LEVELS, BETA_START, BETA_END = 1000, 0.0015, 0.0195
"""BrainDiff: T = 1000, linear beta from 0.0015 to 0.0195."""
PAPER_LEVELS = (0.35, 0.65)
"""BrainDiff, phase 3: t uniform in these shares of T. It calls them 35 to 65 % of signal destruction; on its own
schedule 81 to 99 % of the variance is noise there, and the "pair" is two different brains."""
SIGNAL = (0.9, 0.5)
"""Our departure from the paper: levels by the fraction of the signal that is left, sqrt(alpha_bar), so that the
anatomy survives (t of 90 to 317 on the paper's schedule)."""
Steps = list[tuple[int, int]]
"""(t, t_prev) of each update, from the noisiest level to ``CLEAN``; empty: nothing to denoise."""
Predictor = Callable[[Tensor, Tensor], Tensor]
"""The noise in latents (N, C, h, w) at levels t (N,)."""
SPACING = 2.0
"""Levels lie closer together towards the clean latent, as (steps left)^2: Song et al. 2020, D.2, "quadratic". On a
Gaussian of spread 0.3 with its exact score, 25 even steps from t = 317 end with .87 of the spread, these with .96."""


@dataclass(frozen=True)
class NoiseSchedule:
    """A linear beta schedule of ``levels`` steps (MONAI's "linear_beta")."""

    levels: int = LEVELS
    beta_start: float = BETA_START
    beta_end: float = BETA_END

    @classmethod
    def of(cls, fields: Mapping[str, Any], name: str = "the schedule") -> NoiseSchedule:
        """The schedule of a prior's card: the arguments of MONAI's DDPMScheduler that describe it.

        ``name`` is what messages call it. Raises InputError for another kind of schedule or prediction, or numbers
        that are missing.
        """
        if fields.get("schedule", "linear_beta") != "linear_beta":
            raise InputError(f"{name}: schedule {fields['schedule']!r} is not known; use a prior with linear_beta")
        if fields.get("prediction", "noise") != "noise":
            raise InputError(f"{name}: prediction {fields['prediction']!r} is not known; it must be the noise")
        try:
            levels = int(fields["num_train_timesteps"])
            betas = float(fields["beta_start"]), float(fields["beta_end"])
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{name}: the schedule lacks its numbers; train or get the prior again") from None
        return cls(levels, *betas)

    @cached_property
    def _signal_variance(self) -> np.ndarray:
        """alpha_bar at CLEAN, 0, ..., levels - 1."""
        betas = np.linspace(self.beta_start, self.beta_end, self.levels)
        return np.concatenate([[1.0], np.cumprod(1 - betas)])

    def alpha_bar(self, t: np.ndarray) -> np.ndarray:
        """The share of the variance that is signal at levels ``t``, each ``CLEAN`` or 0 to levels - 1."""
        return self._signal_variance[np.asarray(t) + 1]

    def level(self, signal: float) -> int:
        """The level whose signal fraction is nearest to ``signal``; ``CLEAN`` for 1."""
        return int(np.argmin(np.abs(np.sqrt(self._signal_variance) - signal))) - 1


def draw_level(
    generator: np.random.Generator, schedule: NoiseSchedule, signal: tuple[float, float] | None = SIGNAL
) -> int:
    """A level to inject at: signal fraction uniform between two values; ``None``: t uniform in ``PAPER_LEVELS``."""
    if signal is None:
        low, high = (round(share * schedule.levels) for share in PAPER_LEVELS)
        return int(generator.integers(low, high, endpoint=True))
    return schedule.level(generator.uniform(min(signal), max(signal)))


def sampling_steps(start: int, count: int | None = None) -> Steps:
    """At most ``count`` updates from level ``start`` to ``CLEAN``; None: through every level, as DDPM does.

    Fewer where levels would coincide. Raises InputError for a count below 1.
    """
    if count is not None and count < 1:
        raise InputError(f"sampling steps {count}: must be 1 or more, or full")
    above = start - CLEAN
    if count is None or count >= above:
        levels = list(range(start, CLEAN - 1, -1))
    else:
        left = (1 - np.arange(count + 1) / count) ** SPACING
        levels = sorted({round(above * share) + CLEAN for share in left.tolist()}, reverse=True)
    return list(zip(levels[:-1], levels[1:], strict=True))


def ddim_update(
    latent: Tensor, predicted_noise: Tensor, alpha_bar: Tensor, alpha_bar_prev: Tensor, noise: Tensor, eta: float
) -> Tensor:
    """From level t to t_prev: Song et al., "Denoising Diffusion Implicit Models" (2020), eq. 12 and 16.

    latent, predicted_noise, noise  (N, C, h, w)
    alpha_bar, alpha_bar_prev       broadcastable to them, at t and t_prev
    eta                             0: deterministic; 1: as much fresh noise as DDPM, and exactly DDPM (small
                                    variance) where t_prev = t - 1
    """
    clean = (latent - (1 - alpha_bar).sqrt() * predicted_noise) / alpha_bar.sqrt()
    variance = eta**2 * (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
    direction = (1 - alpha_bar_prev - variance).clamp(min=0).sqrt() * predicted_noise
    return alpha_bar_prev.sqrt() * clean + direction + variance.sqrt() * noise


def denoise(
    predict: Predictor, latents: Tensor, steps: Sequence[Steps], schedule: NoiseSchedule, *, eta: float = 0.0,
    generators: Sequence[np.random.Generator] = (),
) -> Tensor:  # fmt: skip
    """Latents (N, C, h, w), each taken through its own steps; one that is done or has none is left untouched.

    generators  one for each latent, needed for ``eta`` above 0. They draw on the CPU, each for its own latent only:
                the same noise on any device, in any batch.
    """
    latents = latents.clone()
    for number in range(max((len(own) for own in steps), default=0)):
        rows = [row for row, own in enumerate(steps) if len(own) > number]
        before, after = (np.array([steps[row][number][end] for row in rows]) for end in (0, 1))
        current = latents[rows]
        predicted = predict(current, torch.from_numpy(before).to(latents.device)).float()
        noise = torch.zeros_like(current)
        if eta > 0:
            noise = normal_noise([generators[row] for row in rows], latents)
        latents[rows] = ddim_update(
            current, predicted, _levels(schedule, before, latents), _levels(schedule, after, latents), noise, eta
        )
    return latents


def normal_noise(generators: Sequence[np.random.Generator], like: Tensor) -> Tensor:
    """(len(generators), C, h, w) standard normal noise, each from its own generator; shape and device of ``like``."""
    drawn = [generator.standard_normal(tuple(like.shape[1:]), dtype=np.float32) for generator in generators]
    return torch.from_numpy(np.stack(drawn)).to(like.device)


def add_noise(clean: Tensor, noise: Tensor, levels: np.ndarray, schedule: NoiseSchedule) -> Tensor:
    """Latents (N, C, h, w), each noised to its own of the levels (N,); at ``CLEAN`` they are unchanged."""
    alpha_bar = _levels(schedule, levels, clean)
    return alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise


def _levels(schedule: NoiseSchedule, levels: np.ndarray, like: Tensor) -> Tensor:
    """alpha_bar as (N, 1, 1, 1)."""
    values = torch.from_numpy(schedule.alpha_bar(levels).astype(np.float32)).to(like.device)
    return values.reshape(-1, *[1] * (like.ndim - 1))


MODES = ("transplant", "decode")
VARIANTS = 5
"""BrainDiff: five moved versions of each clean slice."""
STEPS = 25
"""DDIM updates from the level of injection. The paper's sampler is not stated; every level costs 4 to 13 times more
at the default levels (METHODS 5.3: 25 updates take 4.3 s a slice on two cores)."""
BATCHES = {"cpu": 8, "mps": 16, "cuda": 64}
"""Latents denoised at once."""


@dataclass(frozen=True)
class InjectionSettings:
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


PAPER = InjectionSettings(mode="decode", signal=None, steps=None)
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
    from BrainDiffLogic.models.generative import check_partners, load_ldm, load_vae

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
    prior: MotionPrior, images: np.ndarray, items: Sequence[str], plan: InjectionSettings, batch: int | None = None
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
    prior: MotionPrior, plan: InjectionSettings, latents: Tensor, still: Tensor, levels: np.ndarray,
    generators: list[np.random.Generator],
) -> Tensor:  # fmt: skip
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
