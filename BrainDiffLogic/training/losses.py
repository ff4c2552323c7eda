"""Losses of a corrector and of the autoencoder, on images in network units (1 is about white matter).

No perceptual term downloads anything; the card records which was used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from monai.losses.ssim_loss import SSIMLoss
from torch import Tensor, nn
from torch.nn import functional

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.files import file_digest
from BrainDiffLogic.models.attention_unet import ResidualAttentionUnet
from BrainDiffLogic.models.checkpoints import load_checkpoint, read_torch_state
from BrainDiffLogic.models.corrector import Corrector
from BrainDiffLogic.models.mc_net import McNet
from BrainDiffLogic.models.rmman import image_pyramid
from BrainDiffLogic.training.configuration import PERCEPTUAL

if TYPE_CHECKING:
    from monai.networks.nets import AutoencoderKL


OPTIONS = {"none": (), "gradient": ("scales",), "self": ("model",), "lpips": ("vgg", "heads")}

LPIPS_SHIFT = (-0.030, -0.088, -0.188)
LPIPS_SCALE = (0.458, 0.448, 0.450)
"""Mean and standard deviation of ImageNet for images in [-1, 1] (Zhang 2018, released code)."""
VGG_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
"""What LPIPS compares (Zhang 2018, released code)."""
BLOCKS = ((3, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3))
"""Input channels, output channels and convolutions of each block; blocks are joined by 2 x 2 max pooling."""


class PerceptualTerm(nn.Module):
    """Distance of two images (N, 1, H, W) in network units, a number >= 0 that is 0 for equal images; in float32.

    facts  what the card says about the term
    """

    facts: dict[str, Any]

    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__()
        self.facts = facts

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Mean distance over the batch; the gradient flows into ``image``."""
        with torch.autocast(image.device.type, enabled=False):
            return self.distance(image.float(), reference.float())

    def distance(self, image: Tensor, reference: Tensor) -> Tensor:
        """The distance, without regard to precision."""
        raise NotImplementedError


class GradientTerm(PerceptualTerm):
    """Analytic: L1 of the image gradients at several scales, averaged over them, plus 1 - SSIM.

    SSIM is MONAI's, Gaussian window of 11 pixels and sigma 1.5 on a range of 1 (Wang 2004).
    """

    def __init__(self, scales: int = 3) -> None:
        super().__init__({"term": "gradient", "scales": scales})
        self.scales = scales
        self.similarity = SSIMLoss(spatial_dims=2, data_range=1.0)

    def distance(self, image: Tensor, reference: Tensor) -> Tensor:
        """Of (N, 1, H, W), both sides at least 11 pixels."""
        dissimilarity = self.similarity(image, reference)
        error, terms = image - reference, []
        for scale in range(self.scales):
            error = functional.avg_pool2d(error, 2) if scale else error
            terms += [error.diff(dim=dim).abs().mean() for dim in (-2, -1)]
        return dissimilarity + torch.stack(terms).sum() / self.scales


class FrozenFeatures(PerceptualTerm):
    """Distance of unit-length features of a frozen network, as LPIPS measures them (Zhang 2018, eq. 1).

    Each layer's features are scaled to length 1 at every pixel; squared differences are weighted by ``heads`` (without
    them all channels count alike), summed over channels and averaged over pixels; layers are summed.
    """

    def __init__(self, layers: nn.Module, heads: list[Tensor] | None, facts: dict[str, Any]) -> None:
        super().__init__(facts)
        self.layers = layers.eval().requires_grad_(False)
        self.heads = nn.ParameterList(heads).requires_grad_(False) if heads else None

    def train(self, mode: bool = True) -> FrozenFeatures:
        """Stays in evaluation mode: the statistics of a frozen network are frozen too."""
        return super().train(False)

    def distance(self, image: Tensor, reference: Tensor) -> Tensor:
        """Of (N, 1, H, W), sides as the network asks for."""
        distances = []
        with torch.no_grad():
            targets = self.layers(reference)
        for level, (one, other) in enumerate(zip(self.layers(image), targets, strict=True)):
            squared = (unit_length(one) - unit_length(other)) ** 2
            weighted = squared * self.heads[level].view(1, -1, 1, 1) if self.heads is not None else squared
            distances.append(weighted.sum(dim=1).mean())
        return torch.stack(distances).sum()


def unit_length(features: Tensor) -> Tensor:
    """(N, C, h, w) scaled to length 1 over C at every pixel."""
    return features / (features.square().sum(dim=1, keepdim=True) + 1e-10).sqrt()


class CorrectorFeatures(nn.Module):
    """Features on the way down of a corrector of this project: (N, 1, H, W) -> one tensor a level, finest first."""

    def __init__(self, corrector: Corrector) -> None:
        super().__init__()
        body = corrector.body
        if isinstance(body, ResidualAttentionUnet):
            first = nn.Sequential(body.stem, body.levels[0])
            rest = [nn.Sequential(down, level) for down, level in zip(body.down, body.levels[1:], strict=True)]
            self.levels = nn.ModuleList([first, *rest])
        elif isinstance(body, McNet):
            rest = [nn.Sequential(body.pool, level) for level in body.down[1:]]
            self.levels = nn.ModuleList([body.down[0], *rest])
        else:
            raise InputError("perceptual: only features of a compact attention-unet or an mc-net can be used")
        self.context, self.shuffle = corrector.context, corrector.shuffle

    def forward(self, x: Tensor) -> list[Tensor]:
        """The slice stands for its neighbours too."""
        x = functional.pixel_unshuffle(x.expand(-1, self.context, -1, -1), self.shuffle)
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features


class VggFeatures(nn.Module):
    """The five layers of VGG16 that LPIPS compares: (N, 1, H, W) in network units -> five tensors."""

    shift: Tensor
    scale: Tensor

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers
        self.register_buffer("shift", torch.tensor(LPIPS_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(LPIPS_SCALE).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Network units are [0, 1] but for bright vessels; LPIPS wants [-1, 1] and three channels."""
        x = (2 * x.expand(-1, 3, -1, -1) - 1 - self.shift) / self.scale
        features = []
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return features


def build_perceptual(term: str, options: Mapping[str, Any]) -> PerceptualTerm | None:
    """The term of a configuration; None for "none".

    gradient  analytic, option ``scales`` (3)
    self      features of a corrector of this project, option ``model``: name or .safetensors file
    lpips     VGG16 features; option ``vgg``: a torch file of torchvision's vgg16 weights that the user supplies;
              ``heads``: the linear heads of LPIPS (its weights/v0.1/vgg.pth), without which all channels count alike
    Raises InputError for an unknown term or option, and where a file is missing or another.
    """
    if term not in PERCEPTUAL:
        raise InputError(f"perceptual {term!r} is unknown; use one of {', '.join(PERCEPTUAL)}")
    if unknown := set(options) - set(OPTIONS[term]):
        known = ", ".join(OPTIONS[term]) or "no options"
        raise InputError(f"perceptual {term}: unknown option {min(unknown)!r}; it has {known}")
    if term == "gradient":
        return GradientTerm(**options)
    if term == "self":
        return _own_features(options.get("model", "mc-net"))
    if term == "lpips":
        return _lpips(options.get("vgg"), options.get("heads"))
    return None


def _own_features(model: str | Path) -> FrozenFeatures:
    corrector, card = load_checkpoint(model)
    facts = {"term": "self", "model": card["name"], "sha256": card["sha256"]}
    return FrozenFeatures(CorrectorFeatures(corrector), None, facts)


def _lpips(vgg: str | Path | None, heads: str | Path | None) -> FrozenFeatures:
    if vgg is None:
        raise InputError(
            "perceptual lpips: give the option vgg, a file of torchvision's vgg16 weights (vgg16-397923af.pth);"
            " nothing is downloaded"
        )
    layers, vgg_sha256 = vgg16_layers(vgg)
    facts = {"term": "lpips", "network": "vgg16", "layers": list(VGG_LAYERS), "vgg_sha256": vgg_sha256}
    if heads is None:
        return FrozenFeatures(VggFeatures(layers), None, {**facts, "heads_sha256": None})
    weights, heads_sha256 = lpips_heads(heads)
    return FrozenFeatures(VggFeatures(layers), weights, {**facts, "heads_sha256": heads_sha256})


def vgg16_layers(path: str | Path) -> tuple[nn.ModuleList, str]:
    """Five modules, each from the end of one compared layer to the next, and the sha256 of the file.

    path  state dict of torchvision's vgg16 (names features.0.weight ...), written by torch.save
    """
    state = read_torch_state(path, "give as option vgg torchvision's vgg16 weights (vgg16-397923af.pth)")
    layers, position = nn.ModuleList(), 0
    for block, (channels, width, count) in enumerate(BLOCKS):
        parts: list[nn.Module] = [nn.MaxPool2d(2)] if block else []
        position += 1 if block else 0  # torchvision counts the pooling, and each ReLU below
        for _ in range(count):
            convolution = nn.Conv2d(channels, width, 3, padding=1)
            _fill(convolution, state, f"features.{position}", path)
            parts += [convolution, nn.ReLU()]
            channels, position = width, position + 2
        layers.append(nn.Sequential(*parts))
    return layers, file_digest(path)


def lpips_heads(path: str | Path) -> tuple[list[Tensor], str]:
    """The weights (C,) of each layer's channels in LPIPS, and the sha256 of the file (weights/v0.1/vgg.pth)."""
    state = read_torch_state(path, "give as option heads those of LPIPS (lpips/weights/v0.1/vgg.pth)")
    heads = []
    for level, (_, width, _) in enumerate(BLOCKS):
        name = f"lin{level}.model.1.weight"
        if name not in state or state[name].numel() != width:
            raise InputError(f"{path}: no heads of LPIPS for VGG16 ({name} is missing or of another size)")
        heads.append(state[name].float().flatten())
    return heads, file_digest(path)


def _fill(convolution: nn.Conv2d, state: dict[str, Tensor], name: str, path: str | Path) -> None:
    for part, parameter in convolution.named_parameters():
        value = state.get(f"{name}.{part}")
        if value is None or value.shape != parameter.shape:
            raise InputError(f"{path}: not the weights of VGG16 ({name}.{part} is missing or of another shape)")
        parameter.data.copy_(value)


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


def total_variation(error: Tensor) -> Tensor:
    """mean((dx^2 + dy^2)^1.25), MC-Net eq. 2, of the residual error = prediction - clean (N, 1, H, W).

    The residual reading of the abstract is the only one with its minimum at the truth: the TV of the
    prediction itself punishes the clean image. The mean, not the sum, so that alpha = beta = 1 does not
    depend on the image size.
    """
    rows = error[..., 1:, :-1] - error[..., :-1, :-1]
    columns = error[..., :-1, 1:] - error[..., :-1, :-1]
    return ((rows**2 + columns**2 + 1e-8) ** TV_EXPONENT).mean()


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


def contrast(prediction: Tensor, clean: Tensor, moved: Tensor) -> Tensor:
    """softplus((s_neg - s_pos) / TEMPERATURE), mean over the batch: InfoNCE, one negative, the moved slice.

    (van den Oord et al. 2018, eq. 4: -log of the softmax share of the positive.)

    prediction, clean, moved  (N, ...) latents, flattened: averaged over the image, the three channels of a latent
    have a cosine of .9999 with those of any other and say nothing. The clean latents of batch-mates are no
    negatives: they differ in anatomy, not in artifact.
    """
    anchor, positive, negative = (latent.flatten(1).float() for latent in (prediction, clean, moved))
    near, far = (F.cosine_similarity(anchor, other, dim=1) for other in (positive, negative))
    return F.softplus((far - near) / TEMPERATURE).mean()


class ContrastiveLoss:
    """``contrast`` in the latent space of a frozen autoencoder: a loss on images (N, 1, H, W) in network units.

    autoencoder  MONAI's AutoencoderKL. Its weights stop asking for gradients, but the gradient goes through it to the
                 prediction. The posterior's mean is taken, not a sample. Rows and columns are multiples of what it
                 downsamples by.

    Not a module, so that a corrector trained with it does not store the autoencoder among its own weights.

        loss = l1(prediction, clean) + 0.1 * ContrastiveLoss(vae)(prediction, clean, moved)
    """

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        self.autoencoder = autoencoder.eval().requires_grad_(False)

    def __call__(self, prediction: Tensor, clean: Tensor, moved: Tensor) -> Tensor:
        """The mean loss of a batch; the clean and the moved slices get no gradient."""
        self.autoencoder.to(prediction.device)
        anchor = self._latents(prediction)
        with torch.no_grad():
            positive, negative = self._latents(clean), self._latents(moved)
        return contrast(anchor, positive, negative)

    def _latents(self, images: Tensor) -> Tensor:
        mean, _ = self.autoencoder.encode(images)
        return mean
