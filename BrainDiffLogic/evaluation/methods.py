"""The rows of an evaluation: what a moved volume is turned into, by whom."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage
from skimage.restoration import denoise_nl_means

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.files import file_digest
from BrainDiffLogic.metrics.sharpness import noise_of
from BrainDiffLogic.models import checkpoints
from BrainDiffLogic.models.checkpoints import Card
from BrainDiffLogic.models.severity import shipped_weights
from BrainDiffLogic.volume import Volume

if TYPE_CHECKING:
    from BrainDiffLogic.models.corrector import Corrector

Method = Callable[[Volume], np.ndarray]
"""A moved volume to an (I, J, K) array on its grid, in its units; raises Refused outside its domain."""

NOTHING, GAUSSIAN, NON_LOCAL_MEANS, ENSEMBLE = "do nothing", "Gaussian", "non-local means", "ensemble"
VIEWED, GATED = ", views", ", gated"
"""Follow a model's name in its row with test-time augmentation, and as it corrects by default."""
GAUSSIAN_SIGMA, MEDIAN_SIZE = 0.6, 3
"""Pixels."""
NLM_PATCH, NLM_DISTANCE, NLM_STRENGTH = 3, 2, 0.8
"""Pixels, pixels, and the filter's h in standard deviations of the noise."""


def non_local_means(image: np.ndarray) -> np.ndarray:
    """A slice or volume by non-local means (Buades 2005) at the noise found in it.

    scikit-image's fast mode compares patches of 2 x 2 for 3 x 3, half a pixel off their middle: not mirror-symmetric.
    """
    sigma = noise_of(image, axes=(0, 1))
    if sigma == 0:
        return image
    return denoise_nl_means(
        image, patch_size=NLM_PATCH, patch_distance=NLM_DISTANCE, h=NLM_STRENGTH * sigma, sigma=sigma, fast_mode=True
    ).astype(np.float32)


DENOISERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    GAUSSIAN: lambda image: ndimage.gaussian_filter(image, GAUSSIAN_SIGMA),
    "median": lambda image: ndimage.median_filter(image, MEDIAN_SIZE),
    NON_LOCAL_MEANS: non_local_means,
}
"""What a corrector must beat, and how much a mere blur wins; each takes float32 (rows, columns) or (I, J, K)."""


def nothing(volume: Volume) -> np.ndarray:
    """The input: the row that every method must beat."""
    return volume.array


def denoised(volume: Volume, denoiser: str = GAUSSIAN) -> np.ndarray:
    """The volume by one of ``DENOISERS``, in 3D."""
    return DENOISERS[denoiser](volume.array.astype(np.float32))


class ModelMethod:
    """A correction model as a method: all that it finds, without the decision whether to use it.

    model   name or .safetensors file; loaded at the first call
    device  as in ``correction.correct``
    views   ask it about mirrored and shifted slices too and take the mean: test-time augmentation
    gated   as a user gets it: unchanged where the motion gate or the card's least_change says so
    The last answer is kept, so that the ensemble need not ask again.
    """

    def __init__(self, model: str | Path, device: str = "auto", views: bool = False, gated: bool = False) -> None:
        self.path = checkpoints.find_checkpoint(model)
        self.device, self.views, self.gated = device, views, gated
        self._last: tuple[Volume, np.ndarray] | None = None

    @property
    def name(self) -> str:
        """What the row is called."""
        return self.path.stem + VIEWED * self.views + GATED * self.gated

    @cached_property
    def model(self) -> tuple[Corrector, Card]:
        """The corrector and its card, as ``correction.correct`` takes them."""
        corrector, card = checkpoints.load_checkpoint(self.path)
        if not self.views:
            return corrector, card
        from BrainDiffLogic.disagreement import VIEWS
        from BrainDiffLogic.models.checkpoints import AS_IT_IS
        from BrainDiffLogic.models.corrector import AugmentedCorrector

        return AugmentedCorrector(corrector, [AS_IT_IS, *VIEWS]), card

    def __call__(self, volume: Volume) -> np.ndarray:
        """The corrected voxels. Raises Refused where the volume is far outside the model's domain."""
        from BrainDiffLogic.correction import correct

        if self._last is None or self._last[0] is not volume:
            self._last = volume, correct(volume, self.model, device=self.device, gate=self.gated).corrected.array
        return self._last[1]


class Ensemble:
    """The volume plus the mean of what several models would change; refuses what one of them refuses."""

    def __init__(self, members: Sequence[Method]) -> None:
        self.members = members

    def __call__(self, volume: Volume) -> np.ndarray:
        """The corrected voxels, float32 or float64."""
        return np.mean([member(volume) for member in self.members], axis=0)


def build_methods(
    models: Iterable[str | Path] | None = None, device: str = "auto", views: bool = False, gated: bool = False
) -> dict[str, Method]:
    """Every row by its name: doing nothing, the denoisers, the models, and of two networks or more their ensemble.

    models  names or .safetensors files; None: all networks that are available
    device  "auto", "cpu", "cuda" or "mps", for the models
    views   also a row for each model with test-time augmentation
    gated   also a row for the default model, or the first of ``models`` where it is not among them, as a user gets it
    Raises InputError for an unknown model or device, or two rows of one name.
    """
    rows: dict[str, Method] = {NOTHING: nothing}
    rows |= {name: partial(denoised, denoiser=name) for name in (GAUSSIAN, NON_LOCAL_MEANS)}
    asked = [ModelMethod(model, device) for model in (checkpoints.networks() if models is None else models)]
    if asked:
        from BrainDiffLogic.inference import choose_device

        choose_device(device)
    networks = [model for model in asked if checkpoints.read_card(model.path)["family"] != checkpoints.PHYSICS]
    more = [ModelMethod(model.path, device, views=True) for model in networks if views]
    if gated and asked:
        named = [model.path for model in asked if model.path.stem == checkpoints.DEFAULT_MODEL]
        usual = checkpoints.DEFAULT_MODEL if models is None else (named or [asked[0].path])[0]
        more.append(ModelMethod(usual, device, gated=True))
    for model in asked + more:
        if model.name in (*rows, ENSEMBLE):
            raise InputError(f"{model.path}: there is a row {model.name!r} already; rename the file and its card")
        rows[model.name] = model
    if len(networks) > 1:
        rows[ENSEMBLE] = Ensemble(networks)
    return rows


def made_by(methods: dict[str, Method]) -> dict[str, Any]:
    """What the result of each method depends on beside the volume: device, sha256 of the weights, how they correct."""
    sources: dict[str, Any] = {}
    for name, method in methods.items():
        members = method.members if isinstance(method, Ensemble) else [method]
        sources[name] = [part for member in members if isinstance(member, ModelMethod) for part in _made_by(member)]
    return sources


def _made_by(method: ModelMethod) -> list[Any]:
    from BrainDiffLogic.inference import choose_device

    cards = [checkpoints.read_card(path) for path in checkpoints.weights_of(method.path)]
    parts: list[Any] = [choose_device(method.device).type]
    parts += [card[entry] for card in cards for entry in ("sha256", "views") if entry in card]
    if method.gated:
        gate = shipped_weights()
        parts += [card.get("least_change", 0.0) for card in cards]
        parts.append(file_digest(gate.with_suffix(".json")) if gate else None)
    return parts
