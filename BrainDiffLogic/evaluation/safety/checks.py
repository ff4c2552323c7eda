"""Checks of a correction on one head: what must stay as it is, and how images fare that are no T1-weighted head."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from BrainDiffLogic.errors import Refused
from BrainDiffLogic.evaluation.methods import Ensemble, Method, ModelMethod
from BrainDiffLogic.evaluation.safety.other_inputs import other_inputs
from BrainDiffLogic.evaluation.safety.scene import STILL, Scene
from BrainDiffLogic.intensity import head_mask, robust_scale
from BrainDiffLogic.metrics.quality import compare
from BrainDiffLogic.models.domain import judge
from BrainDiffLogic.volume import Volume, ras_axes

CLEAN, IDEMPOTENCE, EQUIVARIANCE = "clean in", "idempotence", "equivariance"
TISSUE_VOLUMES, OUT_OF_DOMAIN = "tissue volumes", "out of domain"

LEAST_SSIM = 0.995
"""Of a still scan, corrected; half a millimetre of misregistration costs 0.027, a blur of 0.6 voxels 0.017."""
LARGEST_CHANGE = 1.0
"""99th percentile of the change in standard deviations of the scan's noise: nothing that noise hides."""
LARGEST_GAIN = 0.005
"""Relative change of the mean: a tenth of the 5 % that alone bring PSNR down to 28 dB."""
LARGEST_GROWTH = 0.007
"""Relative change of a tissue's volume: what motion of 1 mm/min takes from grey matter (Reuter et al., NeuroImage
2015). A published corrector took 6.2 % of the cortex's thickness from still scans (JDAC)."""
LARGEST_SHARE = 0.5
"""Second change over the first: applied without end, the sum of changes then stays below twice the first."""
WORSE = 0.01
"""Relative growth of the error by the second application; what counts as worse in the tables of quality below 1 mm."""
LARGEST_DIFFERENCE = 0.25
"""Mean difference of the two changes over the mean change, flipped or shifted by a voxel: three quarters of a
correction must not depend on the pose."""
LARGEST_ON_STRIDE = 0.05
"""Shifted by a multiple of all strides a network does the same again, up to what it sees of the borders and to the
rounding of bfloat16."""
STRIDE = 32
"""Voxels; a multiple of the strides of all families (the deepest: four halvings of pixels unshuffled by two)."""
NEARLY_UNCHANGED = 0.005
"""Mean change in the foreground over the mean signal there: invisible in an 8-bit display (one grey level: 0.004)."""
TISSUES = ("fluid", "grey", "white")
ITSELF = "the head itself"
ALL_SCANS = "all scans"
"""The case of a check that a method did not get through, because it refused one of its scans."""


@dataclass(frozen=True)
class Outcome:
    """One number of one check.

    check, case  what was looked at, and on which scan
    number       what was found, in ``unit``; NaN where it cannot be had, and then the check is not passed
    limit        what it is held against: the most it may be, or, where ``least``, the least
    note         what a reader of the number should know
    """

    check: str
    case: str
    number: float
    limit: float
    passed: bool
    unit: str
    note: str = ""
    least: bool = False


def at_most(check: str, case: str, number: float, limit: float, unit: str = "", note: str = "") -> Outcome:
    """Passed where the number does not exceed the limit."""
    return Outcome(check, case, float(number), limit, bool(number <= limit), unit, note)


def at_least(check: str, case: str, number: float, limit: float, unit: str = "", note: str = "") -> Outcome:
    """Passed where the number reaches the limit."""
    return Outcome(check, case, float(number), limit, bool(number >= limit), unit, note, least=True)


def ratio(part: float, whole: float) -> float:
    """``part / whole``; nothing of nothing is 0."""
    if whole != 0:
        return part / whole
    return 0.0 if part == 0 else math.copysign(math.inf, part)


class CachedMethod:
    """A method that keeps its answers to ``volumes``, which are told by identity; others are computed each time."""

    def __init__(self, method: Method, volumes: Iterable[Volume]) -> None:
        self.method = method
        self._volumes = list(volumes)  # kept alive: an identity must not be given to another volume
        self._answers: dict[int, np.ndarray] = {}

    def __call__(self, volume: Volume) -> np.ndarray:
        """The corrected voxels."""
        if id(volume) in self._answers:
            return self._answers[id(volume)]
        answer = self.method(volume)
        if any(volume is known for known in self._volumes):
            self._answers[id(volume)] = answer
        return answer


def tissue_volumes(scaled: np.ndarray, scene: Scene) -> dict[str, float]:
    """Litres of each tissue inside the head, by the still scan's limits; ``scaled`` (I, J, K) is on its scale."""
    classes = np.digitize(scaled[scene.inside], scene.tissue_limits)
    voxel = abs(float(np.linalg.det(scene.still.affine[:3, :3]))) / 1e6
    return {name: voxel * float(np.count_nonzero(classes == number)) for number, name in enumerate(TISSUES)}


def _growth(array: np.ndarray, scene: Scene) -> dict[str, float]:
    """Of each tissue, by how much its volume in ``array`` (I, J, K) exceeds the still scan's, as a share."""
    truth, found = (tissue_volumes(scene.scale.forward(each), scene) for each in (scene.still.array, array))
    return {name: found[name] / truth[name] - 1 for name in TISSUES}


def check_clean_scan(method: Method, scene: Scene) -> list[Outcome]:
    """A still scan comes back as it is: SSIM, size of the change, mean and tissue volumes."""
    still = scene.still
    result = method(still)
    change = np.abs(scene.scaled(result - still.array)[scene.head])
    before, after = (
        float(scene.scale.forward(array)[scene.head].mean(dtype=np.float64)) for array in (still.array, result)
    )
    growth, gain = _growth(result, scene), after / before - 1
    note = ", ".join(f"{name} {100 * share:+.2f} %" for name, share in growth.items())
    return [
        at_least(CLEAN, "SSIM", compare(still.with_array(result), still).ssim, LEAST_SSIM),
        at_most(
            CLEAN, "99th percentile of the change", np.percentile(change, 99) / scene.noise, LARGEST_CHANGE, "noise SD",
            f"noise {100 * scene.noise:.2f} % of the scale",
        ),
        at_most(CLEAN, "change of the mean", abs(gain), LARGEST_GAIN, "", f"{100 * gain:+.3f} %"),
        at_most(
            CLEAN, "change of tissue volumes", max(map(abs, growth.values())), LARGEST_GROWTH, "", f"{STILL}: {note}"
        ),
    ]  # fmt: skip


def check_tissue_volumes(method: Method, scene: Scene) -> list[Outcome]:
    """How much further from the still scan's volumes a correction takes those of each moved scan.

    By one fixed classifier: what a segmentation downstream would see.
    """
    outcomes = []
    for case in scene.moved:
        moved, corrected = (_growth(array, scene) for array in (case.plain.array, method(case.plain)))
        worse = max(abs(corrected[name]) - abs(moved[name]) for name in TISSUES)
        note = ", ".join(f"{name} {100 * moved[name]:+.1f} -> {100 * corrected[name]:+.1f} %" for name in TISSUES)
        outcomes.append(at_most(TISSUE_VOLUMES, case.name, worse, LARGEST_GROWTH, "", f"moved -> corrected: {note}"))
    return outcomes


def check_idempotence(method: Method, scene: Scene) -> list[Outcome]:
    """The second application on each moved scan: its change over the first one's, and what it does to the error."""

    def size(difference: np.ndarray) -> float:
        return float(np.abs(scene.scaled(difference)[scene.head]).mean(dtype=np.float64))

    outcomes = []
    for case in scene.moved:
        once = method(case.plain)
        twice = method(case.plain.with_array(once))
        first, second = size(once - case.plain.array), size(twice - once)
        before, after = size(once - scene.still.array), size(twice - scene.still.array)
        outcomes += [
            at_most(IDEMPOTENCE, f"{case.name}: second change / first", ratio(second, first), LARGEST_SHARE),
            at_most(IDEMPOTENCE, f"{case.name}: error growth", ratio(after, before) - 1 if before else after, WORSE),
        ]
    return outcomes


def check_equivariance(method: Method, scene: Scene) -> list[Outcome]:
    """The change of the most moved scan against that of its mirror image, and of the scan moved on its grid.

    Where the head lies in the image, and which side is left, should not decide what is corrected.
    """
    volume = scene.cases[-1].plain

    def difference(one: np.ndarray, other: np.ndarray) -> float:
        one, other = one[scene.head], other[scene.head]
        size = (np.abs(one).sum(dtype=np.float64) + np.abs(other).sum(dtype=np.float64)) / 2
        return ratio(float(np.abs(one - other).sum(dtype=np.float64)), float(size))

    side = int(ras_axes(volume.affine)[0][0])
    mirrored = volume.with_array(np.flip(volume.array, side).copy())
    back = np.flip(method(mirrored) - mirrored.array, side)
    number = difference(back, method(volume) - volume.array)
    outcomes = [at_most(EQUIVARIANCE, "mirrored left to right", number, LARGEST_DIFFERENCE)]
    plain = _shifted(method, volume, 0)
    for voxels, limit in ((1, LARGEST_DIFFERENCE), (STRIDE, LARGEST_ON_STRIDE)):
        number, plural = difference(_shifted(method, volume, voxels), plain), "voxel" if voxels == 1 else "voxels"
        outcomes.append(at_most(EQUIVARIANCE, f"shifted by {voxels} {plural} in-plane", number, limit))
    return outcomes


def _shifted(method: Method, volume: Volume, voxels: int) -> np.ndarray:
    """The change of the volume inside a larger one, ``voxels`` from its corner in the sagittal plane.

    The larger one is always larger by ``STRIDE``, so that a network pads it alike wherever the volume lies.
    """
    axes = ras_axes(volume.affine)[0][1:]
    pads = [(voxels, STRIDE - voxels) if axis in axes else (0, 0) for axis in range(3)]
    affine = volume.affine.copy()
    affine[:3, 3] -= volume.affine[:3, :3] @ [before for before, _ in pads]
    larger = Volume(np.pad(volume.array, pads, mode="minimum"), affine, source=volume.source)
    cut = tuple(slice(before, before + size) for (before, _), size in zip(pads, volume.shape, strict=True))
    return (method(larger) - larger.array)[cut]


def check_out_of_domain(method: Method, scene: Scene) -> list[Outcome]:
    """Each of ``other_inputs``: the relative change, passed also where the method refuses or flags the image.

    What a model says is what ``correction.correct`` would report: it raises Refused, and ``domain.judge`` gives its
    notes. A stripped brain is within the domain of a model whose card names brains. Last the head itself, which is
    within: a sentence that is said of it, too, is no flag for the others.
    """
    usual = notes_of(method, scene.still)
    others = [_other_input(method, name, volume, usual) for name, volume in other_inputs(scene).items()]
    try:
        method(scene.still)
    except Refused as error:
        return [*others, Outcome(OUT_OF_DOMAIN, ITSELF, 1.0, 0.0, False, "", f"refused: {error}")]
    said = f"flagged: {'; '.join(usual)}" if usual else "neither refused nor flagged"
    return [*others, at_most(OUT_OF_DOMAIN, ITSELF, len(usual), 0.0, "", said)]


def notes_of(method: Method, volume: Volume) -> list[str]:
    """What the models of a method would note about a volume; other methods note nothing."""
    if isinstance(method, CachedMethod):
        return notes_of(method.method, volume)
    if isinstance(method, Ensemble):
        return list(dict.fromkeys(note for member in method.members for note in notes_of(member, volume)))
    return judge(volume, method.model[1]).notes if isinstance(method, ModelMethod) else []


def _other_input(method: Method, name: str, volume: Volume, usual: list[str]) -> Outcome:
    try:
        result = method(volume)
    except Refused as error:
        return Outcome(OUT_OF_DOMAIN, name, 0.0, NEARLY_UNCHANGED, True, "", f"refused: {error}")
    head, floor = head_mask(volume.array), robust_scale(volume.array).offset
    signal = float(np.abs(volume.array[head] - floor).mean(dtype=np.float64))
    change = float(np.abs(result - volume.array)[head].mean(dtype=np.float64)) / signal
    if notes := [note for note in notes_of(method, volume) if note not in usual]:
        return Outcome(OUT_OF_DOMAIN, name, change, NEARLY_UNCHANGED, True, "", f"flagged: {'; '.join(notes)}")
    said = "left as it is" if change <= NEARLY_UNCHANGED else "changed without a word"
    return at_most(OUT_OF_DOMAIN, name, change, NEARLY_UNCHANGED, "", said)
