"""What is done to moved slices, as rows of a table: nothing, a trained corrector, a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from BrainDiffLogic.data.split import Manifest
from BrainDiffLogic.models.corrector import Corrector
from BrainDiffLogic.papers.found import assert_split
from BrainDiffLogic.papers.measures import Measured
from BrainDiffLogic.training.slice_pairs import SlicePairs

BATCH = 32

Method = Callable[[np.ndarray], np.ndarray]
"""Slices (N, rows, columns) to as many."""


def nothing(images: np.ndarray) -> np.ndarray:
    """The slices as they are."""
    return images


def correction(network: Corrector, device: torch.device) -> Method:
    """The network as a method: what it predicts is subtracted."""
    network.to(device)

    def method(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            moved = torch.from_numpy(images)[:, None].to(device)
            return (moved - network(moved)).float().cpu().numpy()[:, 0]

    return method


def one_by_one(denoise: Method) -> Method:
    """A method for one slice as one for many."""
    return lambda images: np.stack([denoise(image) for image in images])


def measure(section: str, pairs: SlicePairs, methods: Mapping[str, Method], manifest: Manifest) -> Measured:
    """Every method on every pair, in their order. Raises AssertionError for a pair outside the test split."""
    assert_split("table", pairs.subjects, manifest, "test")
    measured = Measured(section)
    for start in range(0, len(pairs), BATCH):
        numbers = range(start, min(start + BATCH, len(pairs)))
        samples = [pairs[n] for n in numbers]
        moved = np.stack([sample["moved"][0].numpy() for sample in samples])
        made = {name: method(moved) for name, method in methods.items()}
        for row, n in enumerate(numbers):
            versions = {name: images[row] for name, images in made.items()}
            measured.add(pairs.facts[n]["subject"], samples[row]["clean"][0].numpy(), versions)
    return measured
