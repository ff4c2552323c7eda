"""Checks of a correction on one head: what must stay as it is, lesions, and images that are no T1-weighted head.

An implanted lesion is the difference of two corrected scans, with it and without, so that nothing else counts; its
share is the amplitude of the implanted shape in it. Motion itself weakens a lesion: a correction is held against what
the moved scan still shows.

A new lesion is a blob in what a correction leaves or adds: an extremum of the scale-normalised Laplacian of Gaussian of
the error (corrected minus still), at the scales of 2 to 8 mm, that is round (Lindeberg, IJCV 1998; the test of the
Hessian after Lowe, IJCV 2004). Only new ones count: those that exceed all of their sign that the moved scan's own error
has at their place, and by so much that a lesion could be seen in the excess. Without that margin, a correction that
shifts the ripples of motion by a little has hundreds of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from scipy import ndimage

from BrainDiffLogic.errors import Refused
from BrainDiffLogic.evaluation.methods import Ensemble, Method, ModelMethod
from BrainDiffLogic.evaluation.safety_scene import DIAMETERS_MM, STILL, Case, Lesion, Scene, other_inputs
from BrainDiffLogic.metrics.quality import compare
from BrainDiffLogic.models.domain import judge
from BrainDiffLogic.scan import head_mask, mask_box, robust_scale
from BrainDiffLogic.volume import Volume, affine_from, ras_axes

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
class CheckResult:
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


def at_most(check: str, case: str, number: float, limit: float, unit: str = "", note: str = "") -> CheckResult:
    """Passed where the number does not exceed the limit."""
    return CheckResult(check, case, float(number), limit, bool(number <= limit), unit, note)


def at_least(check: str, case: str, number: float, limit: float, unit: str = "", note: str = "") -> CheckResult:
    """Passed where the number reaches the limit."""
    return CheckResult(check, case, float(number), limit, bool(number >= limit), unit, note, least=True)


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
    truth, measured = (tissue_volumes(scene.scale.forward(each), scene) for each in (scene.still.array, array))
    return {name: measured[name] / truth[name] - 1 for name in TISSUES}


def check_clean_scan(method: Method, scene: Scene) -> list[CheckResult]:
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


def check_tissue_volumes(method: Method, scene: Scene) -> list[CheckResult]:
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


def check_idempotence(method: Method, scene: Scene) -> list[CheckResult]:
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


def check_equivariance(method: Method, scene: Scene) -> list[CheckResult]:
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
    affine = affine_from(volume.affine, [-before for before, _ in pads])
    larger = Volume(np.pad(volume.array, pads, mode="minimum"), affine, source=volume.source)
    cut = tuple(slice(before, before + size) for (before, _), size in zip(pads, volume.shape, strict=True))
    return (method(larger) - larger.array)[cut]


def check_out_of_domain(method: Method, scene: Scene) -> list[CheckResult]:
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
        return [*others, CheckResult(OUT_OF_DOMAIN, ITSELF, 1.0, 0.0, False, "", f"refused: {error}")]
    said = f"flagged: {'; '.join(usual)}" if usual else "neither refused nor flagged"
    return [*others, at_most(OUT_OF_DOMAIN, ITSELF, len(usual), 0.0, "", said)]


def notes_of(method: Method, volume: Volume) -> list[str]:
    """What the models of a method would note about a volume; other methods note nothing."""
    if isinstance(method, CachedMethod):
        return notes_of(method.method, volume)
    if isinstance(method, Ensemble):
        return list(dict.fromkeys(note for member in method.members for note in notes_of(member, volume)))
    return judge(volume, method.model[1]).notes if isinstance(method, ModelMethod) else []


def _other_input(method: Method, name: str, volume: Volume, usual: list[str]) -> CheckResult:
    try:
        result = method(volume)
    except Refused as error:
        return CheckResult(OUT_OF_DOMAIN, name, 0.0, NEARLY_UNCHANGED, True, "", f"refused: {error}")
    head, floor = head_mask(volume.array), robust_scale(volume.array).offset
    signal = float(np.abs(volume.array[head] - floor).mean(dtype=np.float64))
    change = float(np.abs(result - volume.array)[head].mean(dtype=np.float64)) / signal
    if notes := [note for note in notes_of(method, volume) if note not in usual]:
        return CheckResult(OUT_OF_DOMAIN, name, change, NEARLY_UNCHANGED, True, "", f"flagged: {'; '.join(notes)}")
    said = "left as it is" if change <= NEARLY_UNCHANGED else "changed without a word"
    return at_most(OUT_OF_DOMAIN, name, change, NEARLY_UNCHANGED, "", said)


IMPLANTED, ABSENT = "implanted lesions", "absent lesions"
LEAST_KEPT = 0.9
"""Mean share of the moved scan's lesion contrast. A lesion that gains does not make up for one that loses."""
DELETED = 0.5
"""A lesion that keeps less of its contrast than this is gone for a reader."""
VISIBLE = 0.2
"""A lesion of which the moved scan shows less of the truth than this was lost before any correction."""
SMALL_MM = 3.0
NOISE_LIMIT = 5.0
"""Standard deviations of the noise in the same filter: Rose's criterion for what is seen reliably (JOSA 1948)."""
LESION_LIMIT = 0.5
"""The least excess, of the response to a lesion of one tissue step: half a lesion, as in ``implanted_lesions``."""
BALL_RESPONSE = 3 * np.sqrt(6 / np.pi) * np.exp(-1.5)
"""0.925: response of the filter, sigma = radius / sqrt(3), at the middle of a ball of contrast 1."""
ROUNDEST = 10.0
"""Largest over smallest curvature beyond which an extremum is an edge or a line (Lowe's limit)."""
SMALLEST_SIGMA = 0.7
"""Voxels; the sampled filter means nothing below."""
REACH = 3.0
"""Standard deviations around the inner head that the filters need."""


@dataclass(frozen=True)
class LesionFound:
    """A lesion's share of the truth in the moved scan and in the corrected one."""

    lesion: Lesion
    moved: float
    corrected: float

    @property
    def kept(self) -> float:
        """Of what the moved scan shows."""
        return self.corrected / self.moved


def check_implanted_lesions(method: Method, scene: Scene) -> list[CheckResult]:
    """On each scan: the mean share of contrast that is kept, and the number of lesions that are deleted."""
    outcomes = []
    for case in scene.cases:
        lesions = find_lesions(method, scene, case)
        seen = [each for each in lesions if each.moved >= VISIBLE]
        deleted = [each for each in seen if each.kept < DELETED]
        outcomes += [
            at_least(
                IMPLANTED, f"{case.name}: contrast kept", _kept(seen), LEAST_KEPT, note=_lesion_note(lesions, seen)
            ),
            at_most(IMPLANTED, f"{case.name}: deleted", len(deleted), 0, "lesions", _lesion_names(deleted)),
        ]
    return outcomes


def find_lesions(method: Method, scene: Scene, case: Case) -> list[LesionFound]:
    """Every lesion of the scene in one case."""
    moved = scene.scaled(case.lesioned.array - case.plain.array)
    corrected = scene.scaled(method(case.lesioned) - method(case.plain))
    return [LesionFound(lesion, lesion.share_in(moved), lesion.share_in(corrected)) for lesion in scene.lesions]


def _kept(lesions: list[LesionFound]) -> float:
    return float(np.mean([min(1.0, each.kept) for each in lesions])) if lesions else float("nan")


def _lesion_note(lesions: list[LesionFound], seen: list[LesionFound]) -> str:
    groups = {
        "bright": [each for each in seen if each.lesion.contrast > 0],
        "dark": [each for each in seen if each.lesion.contrast < 0],
        f"up to {SMALL_MM:g} mm": [each for each in seen if each.lesion.diameter <= SMALL_MM],
        "larger": [each for each in seen if each.lesion.diameter > SMALL_MM],
    }
    parts = [f"{name} {_kept(group):.2f}" for name, group in groups.items() if group]
    truth = [float(np.mean([getattr(each, name) for each in lesions])) for name in ("moved", "corrected")]
    count = f"{len(seen)} of {len(lesions)} lesions seen in the moved scan"
    return f"{', '.join(parts)}; of the truth {truth[0]:.2f} before, {truth[1]:.2f} after; {count}"


def _lesion_names(deleted: list[LesionFound]) -> str:
    return ", ".join(
        f"{each.lesion.diameter:g} mm {'bright' if each.lesion.contrast > 0 else 'dark'} in {each.lesion.tissue}"
        for each in deleted
    )


@dataclass(frozen=True)
class Blob:
    """A new extremum: diameter in mm, voxel, and its excess as a share of a lesion's response, negative where dark."""

    diameter: float
    place: tuple[int, ...]
    excess: float


def check_absent_lesions(method: Method, scene: Scene) -> list[CheckResult]:
    """The number of new blobs in the error of each corrected scan."""
    outcomes = []
    for case in scene.cases:
        before, after = (scene.scaled(array - scene.still.array) for array in (case.plain.array, method(case.plain)))
        blobs = new_blobs(before, after, scene)
        note = ""
        if blobs:
            worst = max(blobs, key=lambda blob: abs(blob.excess))
            kind = "bright" if worst.excess > 0 else "dark"
            size, share = f"{worst.diameter:g} mm", f"{100 * abs(worst.excess):.0f} %"
            note = f"strongest: {kind}, {size}, {share} of a lesion, at voxel {', '.join(map(str, worst.place))}"
        outcomes.append(at_most(ABSENT, case.name, len(blobs), 0, "blobs", note))
    return outcomes


def new_blobs(before: np.ndarray, after: np.ndarray, scene: Scene) -> list[Blob]:
    """Blobs of the error ``after`` that ``before`` has not, both (I, J, K) on the scene's scale."""
    if not np.any(after != before):
        return []
    sigmas = [diameter / 2 / np.sqrt(3) / scene.still.spacing for diameter in DIAMETERS_MM]
    cut = mask_box(scene.inside, np.ceil(REACH * sigmas[-1]))
    inside, before, after = scene.inside[cut], before[cut], after[cut]
    unit = float(BALL_RESPONSE) * scene.tissue_step
    responses = [_response(before, sigma) for sigma in sigmas]
    bright, dark = np.max(responses, axis=0), -np.min(responses, axis=0)
    blobs: list[Blob] = []
    for diameter, sigma in zip(DIAMETERS_MM, sigmas, strict=True):
        reach = np.maximum(1, np.round(diameter / 2 / scene.still.spacing)).astype(int)
        response = _response(after, sigma)
        size = np.abs(response)
        known = [ndimage.maximum_filter(np.maximum(each, 0), 2 * reach + 1) for each in (bright, dark)]
        excess = np.sign(response) * (size - np.where(response > 0, *known))
        least = max(LESION_LIMIT * unit, NOISE_LIMIT * scene.noise * _noise_gain(sigma))
        peaks = inside & (excess * np.sign(response) > least) & (size == ndimage.maximum_filter(size, 3))
        places = np.argwhere(peaks)
        for place in places[_round(after, sigma, places)] if len(places) else ():
            where = tuple(int(p + side.start) for p, side in zip(place, cut, strict=True))
            blobs.append(Blob(diameter, where, float(excess[tuple(place)]) / unit))
    return _distinct(blobs, scene.still.spacing)


def _response(array: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Minus the scale-normalised Laplacian of Gaussian, positive at bright blobs; ``sigma`` (3,) in voxels."""
    width = np.maximum(sigma, SMALLEST_SIGMA)
    orders = np.eye(3, dtype=int) * 2
    return -sum(
        np.float32(width[axis] ** 2) * ndimage.gaussian_filter(array, width, order=tuple(orders[axis]))
        for axis in range(3)
    )


def _noise_gain(sigma: np.ndarray) -> float:
    """Standard deviation of the response to white noise of 1: the root of the filter's summed squares."""
    half = np.ceil(4 * np.maximum(sigma, SMALLEST_SIGMA)).astype(int) + 1
    impulse = np.zeros(2 * half + 1, dtype=np.float32)
    impulse[tuple(half)] = 1
    return float(np.sqrt((_response(impulse, sigma) ** 2).sum(dtype=np.float64)))


def _round(array: np.ndarray, sigma: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(n,) bool: whether the array, smoothed by ``sigma`` (3,) voxels, curves alike along all directions at (n, 3)."""
    width = np.maximum(sigma, SMALLEST_SIGMA)
    hessian = np.empty((len(places), 3, 3))
    for first, second in combinations_with_replacement(range(3), 2):
        order = tuple((axis == first) + (axis == second) for axis in range(3))
        smooth = width[first] * width[second] * ndimage.gaussian_filter(array, width, order=order)
        hessian[:, first, second] = hessian[:, second, first] = smooth[tuple(places.T)]
    curvatures = np.linalg.eigvalsh(hessian)
    sizes = np.abs(curvatures)
    one_sign = np.all(curvatures < 0, axis=1) | np.all(curvatures > 0, axis=1)
    return one_sign & (sizes.max(axis=1) <= ROUNDEST * sizes.min(axis=1))


def _distinct(blobs: list[Blob], spacing: np.ndarray) -> list[Blob]:
    """The strongest of those that lie within each other: one lesion answers at several scales."""
    kept: list[Blob] = []
    for blob in sorted(blobs, key=lambda blob: -abs(blob.excess)):
        distances = [float(np.linalg.norm((np.array(blob.place) - other.place) * spacing)) for other in kept]
        if all(
            distance > max(blob.diameter, other.diameter) / 2 for distance, other in zip(distances, kept, strict=True)
        ):
            kept.append(blob)
    return kept
