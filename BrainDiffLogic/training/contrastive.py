"""The contrastive term of BrainDiff's corrector (phase 4): nearer to the clean slice than to the moved one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from monai.networks.nets import AutoencoderKL

TEMPERATURE = 0.07
"""Not given in the paper. Latents of a clean and a moved slice have a cosine of .92: at 0.5 doing nothing costs .77
and perfection .62, at 0.07 1.39 and .29, so that the term has something to say. CLIP and MoCo use it too."""
WEIGHT = 0.1
"""BrainDiff: L1 + 0.1 InfoNCE."""


def info_nce(anchor: Tensor, positive: Tensor, negatives: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """InfoNCE (van den Oord et al. 2018, eq. 4): -log of the softmax share of the positive; mean over the batch.

    anchor, positive  (N, D); negatives (N, K, D); similarities are cosines divided by ``temperature``
    """
    near = F.cosine_similarity(anchor, positive, dim=-1)[:, None]
    far = F.cosine_similarity(anchor[:, None], negatives, dim=-1)
    logits = torch.cat([near, far], dim=1) / temperature
    return (torch.logsumexp(logits, dim=1) - logits[:, 0]).mean()


def contrast(prediction: Tensor, clean: Tensor, moved: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """softplus((s_neg - s_pos) / temperature), mean over the batch: ``info_nce`` with the moved slice as one negative.

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

        loss = l1(prediction, clean) + WEIGHT * ContrastiveLoss(vae)(prediction, clean, moved)
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
