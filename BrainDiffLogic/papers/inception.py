"""The Inception Score (Salimans 2016; RMMAN eq. 4), with weights that the user supplies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.papers.methods import BATCH, Method
from BrainDiffLogic.training.slice_pairs import SlicePairs

SIZE = 299
"""Rows and columns of what Inception v3 looks at."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the images that torchvision's weights were trained on."""
CAUTION = (
    "The Inception Score says little here: it asks how surely and variously a classifier of photographs names what"
    " it sees, and knows no clean slice. Grey slices stay near its floor of 1, a clear picture of another brain scores"
    " as well, and its value grows with the number of slices."
)


def inception_score(probabilities: np.ndarray) -> float:
    """exp(E KL(p(y|x) || p(y))) of (N, classes) probabilities p(y|x); from 1, all alike, to the number of classes."""
    p = probabilities.astype(np.float64)
    mean = p.mean(axis=0)
    ratio = np.divide(p, mean, out=np.ones_like(p), where=p > 0)
    return float(np.exp((p * np.log(ratio)).sum(axis=1).mean()))


def class_probabilities(images: np.ndarray, classifier: nn.Module, device: torch.device) -> np.ndarray:
    """(N, classes) of slices (N, rows, columns) in network units, cut to 0 to 1, grey in three colours, resized."""
    grey = torch.from_numpy(images).float().clamp(0, 1)[:, None].to(device)
    large = functional.interpolate(grey, (SIZE, SIZE), mode="bilinear", antialias=True)
    mean, deviation = (torch.tensor(v, device=device)[:, None, None] for v in (MEAN, DEVIATION))
    with torch.inference_mode():
        return classifier((large.expand(-1, 3, -1, -1) - mean) / deviation).softmax(dim=1).cpu().numpy()


def score_of_method(method: Method, pairs: SlicePairs, classifier: nn.Module, device: torch.device) -> float:
    """The Inception Score of what a method makes of the moved slices."""
    found = []
    for start in range(0, len(pairs), BATCH):
        numbers = range(start, min(start + BATCH, len(pairs)))
        moved = np.stack([pairs[n]["moved"][0].numpy() for n in numbers])
        found.append(class_probabilities(method(moved), classifier, device))
    return inception_score(np.concatenate(found))


def load_classifier(path: Path) -> nn.Module:
    """torchvision's inception_v3 with the weights of a file (inception_v3_google-0cc3c7bd.pth).

    Raises InputError where torchvision is missing or the file holds something else.
    """
    try:
        from torchvision.models import inception_v3
    except ImportError:
        raise InputError("--inception needs torchvision: pip install torchvision, or leave the option out") from None
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        network: nn.Module = inception_v3(weights=None, transform_input=True, aux_logits=True, init_weights=False)
        network.load_state_dict(state)
    except FileNotFoundError:
        raise InputError(
            f"{path}: there is no such file; give --inception torchvision's inception_v3 weights"
        ) from None
    except Exception:  # whatever unpickling a foreign or damaged file raises
        raise InputError(f"{path}: not the weights of inception_v3; give --inception torchvision's file") from None
    return network.eval()
