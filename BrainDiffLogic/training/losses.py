"""Losses of a corrector, on images in network units (1 is about white matter)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from BrainDiffLogic.models.rmman import image_pyramid

if TYPE_CHECKING:
    from monai.networks.nets import AutoencoderKL

TV_EXPONENT = 1.25
"""MC-Net eq. 2: with squared differences inside a TV of power 2.5; 0.5 would be isotropic total variation."""
BALANCE_FLOOR = 0.01
"""Error in network units below which a pair counts as still: keeps the weights of mild pairs finite."""
BALANCE_UNIT = 0.02
"""Makes the mean weight about 1: 0.97 over 292 crops of 73 simulated pairs of the shipped recipe."""
TEMPERATURE = 0.07
"""Not given in the paper. Latents of a clean and a moved slice have a cosine of .92: at 0.5 doing nothing costs .77
and perfection .62, at 0.07 1.39 and .29, so that the term has something to say. CLIP and MoCo use it too."""


def pair_weights(moved: Tensor, clean: Tensor) -> Tensor:
    """(N, 1, 1, 1) weights, at most 2, that make a mild pair count as much as a severe one.

    moved, clean (N, 1, H, W). Each pair's error is divided by the error of doing nothing (plus a floor): the
    network is asked for a share of the artifact, and pays for touching a still scan. A weight depends on its own pair
    alone, so that a batch computed in parts or by several processes has the gradient of the whole.
    """
    return BALANCE_UNIT / ((moved - clean).abs().mean(dim=(1, 2, 3), keepdim=True) + BALANCE_FLOOR)


def gradient_shares(terms: dict[str, Tensor], prediction: Tensor) -> dict[str, Tensor]:
    """By term, its part of the sum of the norms of all terms' gradients with respect to ``prediction``.

    terms  weighted scalars, still with their graph, which is kept. The values of two terms do not tell which of them
           steers: the total variation of a small residual is tiny and may still pull as hard as L1 (MC-Net, eq. 1)
    """
    norms = {}
    for name, value in terms.items():
        (gradient,) = torch.autograd.grad(value, prediction, retain_graph=True, allow_unused=True)
        norms[name] = torch.zeros(()) if gradient is None else gradient.float().norm().cpu()
    total = torch.stack(list(norms.values())).sum() + 1e-20
    return {name: norm / total for name, norm in norms.items()}


def l1(prediction: Tensor, clean: Tensor, weights: Tensor) -> Tensor:
    """Mean absolute error of (N, 1, H, W), each pair weighted."""
    return (weights * (prediction - clean).abs()).mean()


def total_variation(error: Tensor, exponent: float = TV_EXPONENT, eps: float = 1e-8) -> Tensor:
    """mean((dx^2 + dy^2)^exponent), MC-Net eq. 2, of the residual error = prediction - clean (N, 1, H, W).

    The residual reading of the abstract is the only one with its minimum at the truth: the TV of the
    prediction itself punishes the clean image. The mean, not the sum, so that alpha = beta = 1 does not
    depend on the image size. eps keeps the gradient finite for exponents below 1.
    """
    rows = error[..., 1:, :-1] - error[..., :-1, :-1]
    columns = error[..., :-1, 1:] - error[..., :-1, :-1]
    return ((rows**2 + columns**2 + eps) ** exponent).mean()


def multi_scale_l2(predictions: list[Tensor], clean: Tensor, weights: Tensor) -> Tensor:
    """RMMAN eq. 3: the squared error at each scale against the target of that size, summed over the scales.

    predictions coarse to fine, each (N, 1, h, w). Mean over pixels at each scale (SRN); the paper's division
    by the batch size alone would weigh the finest scale 16 times the coarsest.
    """
    targets = image_pyramid(clean, len(predictions))
    return torch.stack([(weights * (p - t) ** 2).mean() for p, t in zip(predictions, targets, strict=True)]).sum()


def multi_scale_l1(predictions: list[Tensor], clean: Tensor, weights: Tensor) -> Tensor:
    """As ``multi_scale_l2`` with absolute errors, where L2 leaves mild motion untouched."""
    targets = image_pyramid(clean, len(predictions))
    return torch.stack([l1(p, t, weights) for p, t in zip(predictions, targets, strict=True)]).sum()


def frequency_l1(prediction: Tensor, clean: Tensor) -> Tensor:
    """Mean modulus of the error of (N, 1, H, W) in k-space, by the orthonormal 2D Fourier transform.

    Motion moves energy between few lines of k-space: there an error that is spread thin over the image stands out.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        error = torch.fft.rfft2((prediction - clean).float(), norm="ortho")
        return (error.real**2 + error.imag**2 + 1e-12).sqrt().mean()


def contrast(prediction: Tensor, clean: Tensor, moved: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """softplus((s_neg - s_pos) / temperature), mean over the batch: InfoNCE, one negative, the moved slice.

    (van den Oord et al. 2018, eq. 4: -log of the softmax share of the positive.)

    prediction, clean, moved  (N, ...) latents, flattened: averaged over the image, the three channels of a latent
    have a cosine of .9999 with those of any other and say nothing. The clean latents of batch-mates are no
    negatives: they differ in anatomy, not in artifact.
    """
    anchor, positive, negative = (latent.flatten(1).float() for latent in (prediction, clean, moved))
    near, far = (F.cosine_similarity(anchor, other, dim=1) for other in (positive, negative))
    return F.softplus((far - near) / temperature).mean()


class ContrastiveLoss:
    """``contrast`` in the latent space of a frozen autoencoder: a loss on images (N, 1, H, W) in network units.

    autoencoder  MONAI's AutoencoderKL. Its weights stop asking for gradients, but the gradient goes through it to the
                 prediction. The posterior's mean is taken, not a sample. Rows and columns are multiples of what it
                 downsamples by.

    Not a module, so that a corrector trained with it does not store the autoencoder among its own weights.

        loss = l1(prediction, clean) + 0.1 * ContrastiveLoss(vae)(prediction, clean, moved)
    """

    def __init__(self, autoencoder: AutoencoderKL, temperature: float = TEMPERATURE) -> None:
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.temperature = temperature

    def __call__(self, prediction: Tensor, clean: Tensor, moved: Tensor) -> Tensor:
        """The mean loss of a batch; the clean and the moved slices get no gradient."""
        self.autoencoder.to(prediction.device)
        anchor = self._latents(prediction)
        with torch.no_grad():
            positive, negative = self._latents(clean), self._latents(moved)
        return contrast(anchor, positive, negative, self.temperature)

    def _latents(self, images: Tensor) -> Tensor:
        mean, _ = self.autoencoder.encode(images)
        return mean
