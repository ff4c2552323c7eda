"""Whether a volume is what a model was made for: its geometry, and whether it looks like a T1-weighted head.

Geometry is the card's (``outside_domain``). The look is measured, without a network, on voxels of about
2 mm, where noise and artifacts hardly count: strong motion (5 mm) moves none of the numbers across its limit. What is
clearly no head in an MR scanner is refused, what is merely doubtful is noted.

The limits were set on 61 real T1-weighted volumes (15 whole heads, 46 stripped brains), on 28 versions of 11 of them
moved by 2.5 to 5 mm, on 3 real T2 and 3 FLAIR brains, and on T2-like, inverted and CT-like images, phantoms and noise
made from 7 of them. Not seen: contrast agent, proton density, and any other bright compact organ of a head's size;
FLAIR is near the limit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_multiotsu

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.checkpoints import Card
from BrainDiffLogic.scan import BRAIN_VOLUME_ML, PLANES, Scan, block_means, mask_box
from BrainDiffLogic.volume import Volume, voxels

PATIENT_AXES = ("left-right", "anterior-posterior", "superior-inferior")
FAR = 2.0
"""Pixels beyond the card's range are noted; beyond it by this factor they are refused."""
BLOCK_MM = 2.0
SMALLEST_LITRES, LARGEST_LITRES = 0.25, 8.0
"""Foreground: a brain at term has 0.35 l, a whole head with neck 7 l; here 1.1 to 4.9 l."""
ENOUGH_LITRES = 0.1
"""Less of an inner head than this cannot be judged."""
REACH_MM = 4.0
LEAST_SMOOTHNESS = 0.22
"""Correlation of voxels 4 mm apart inside the head: 0.47 and more in T1, 0.28 in FLAIR, 0 in noise, 0.17 in noise
blurred by 2 voxels."""
LARGEST_UNIFORMITY = 0.43
"""Share of the inner head within 10 % of one value: at most 0.3 in heads, 0.56 and more in phantoms and CT."""
FIELD_MM = 25.0
"""What varies more slowly than this Gaussian is taken for the coils', not the object's."""
BRIGHTEST_AIR = 0.5
"""Background over head, medians: at most 0.11 in heads, 1 in noise and negatives."""
LEAST_LEAD = 0.11
"""By how much the brightest tissue is more compact than the others: 0.12 (a patient's brain, moved by 5 mm; else 0.16)
and more in T1, 0.1 and less in FLAIR, -0.27 in T2, and negative in inverted images."""
CT_AIR, CT_TISSUE = -900.0, (-200.0, 200.0)
"""Hounsfield units: air is -1000, most of a head -100 (fat) to 60 (brain)."""
NOISY_AIR, NOISIER = 0.15, 2.0
"""Least median step from voxel to voxel at a volume's faces, in network units, and how many times that in its middle:
magnitude images reach 0.03 at their faces; an MP2RAGE UNI image, whose air is noise of full range, has 0.3."""
UNI = "the air is noise as strong as the head, as in an MP2RAGE UNI image; give the denoised or a masked one"
NOT_T1 = "; the model knows T1-weighted heads alone"


@dataclass(frozen=True)
class Look:
    """What can be told of a volume without knowing what it shows.

    litres      of the foreground (``scan.head_mask``)
    hounsfield  whether its values are those of a CT
    air         median of the background over the foreground's, both above the volume's floor
    inner       litres deep inside (``Scan.inner``), on which the others are measured; NaN where too few
    smoothness  mean correlation of voxels 4 mm apart
    uniformity  largest share of voxels within 10 % of one value, the coils' field taken off or not
    lead        compactness of the brightest of three classes minus that of the next compact one; compactness: the share
                of a class that has all six neighbours in it. White matter is the one compact tissue of a brain, grey
                matter and the fluid around it are sheets, so that only a T1-weighted image has a lead.
    edge, middle  median step from voxel to voxel at the volume's faces and in its middle, in network units
    """

    litres: float
    hounsfield: bool
    air: float
    inner: float
    smoothness: float
    uniformity: float
    lead: float
    edge: float
    middle: float


@dataclass(frozen=True)
class Judgement:
    """Why the model must not be used (None: it may), and all that lies outside its domain, a sentence each."""

    refused: str | None
    notes: list[str]


def judge(volume: Volume | Scan, card: Card) -> Judgement:
    """Hold a volume against a model's card.

    Looks are held against cards alone whose ``contrast`` begins with T1; others do not say what they are made for.
    """
    scan = Scan.of(volume)
    refused, notes = far_outside_domain(scan, card), outside_domain(scan, card)
    if not str(card["input"].get("contrast", "")).startswith("T1"):
        return Judgement(refused, notes)
    look = look_at(scan)
    if look.edge > max(NOISY_AIR, NOISIER * look.middle):
        return Judgement(refused or UNI, [*notes, UNI])
    unlike = no_head(look)
    if unlike:
        return Judgement(refused or unlike + NOT_T1, [*notes, unlike])
    return Judgement(refused, [*notes, *doubts(look, str(card["input"].get("anatomy", "brain")))])


def outside_domain(volume: Volume | Scan, card: Card) -> list[str]:
    """What of the volume's geometry lies outside what the model was trained on, one sentence each."""
    scan = Scan.of(volume)
    low, high = card["input"]["spacing_mm"]
    outside = [
        f"{size:.2f} mm along {PATIENT_AXES[axis]}"
        for axis, size in sorted(zip(PLANES[scan.plane], scan.slice_spacing, strict=True))
        if not low <= size <= high
    ]
    reasons = [f"voxels of {', '.join(outside)}: the model was trained on {low} to {high} mm"] if outside else []
    _, rows, columns = scan.cut(scan.volume.array).shape
    extent = float(min(np.array([rows, columns]) * scan.slice_spacing[1:]))
    smallest = card["input"].get("extent_mm", 0.0)
    if extent < smallest:
        reasons.append(f"{scan.plane} slices of {extent:.0f} mm: a head needs {smallest:.0f} mm or more")
    return reasons


def far_outside_domain(volume: Volume | Scan, card: Card) -> str | None:
    """Why the model must not be used: one slice, or pixels of another size than any it has seen; None if it may."""
    scan = Scan.of(volume)
    if 1 in scan.volume.shape:
        return "one slice is no volume; give the whole scan"
    low, high = card["input"]["spacing_mm"]
    for axis, size in zip(PLANES[scan.plane][1:], scan.slice_spacing[1:], strict=True):
        if not low / FAR <= size <= high * FAR:
            name = PATIENT_AXES[axis]
            return f"voxels of {size:.2f} mm along {name} are far from the {low} to {high} mm of the model's training"
    return None


def no_head(look: Look) -> str | None:
    """Why a volume is clearly no head in an MR scanner; None where it may be one."""
    if look.hounsfield:
        return "the values are Hounsfield units: a CT, not an MR image"
    if look.uniformity > LARGEST_UNIFORMITY:
        share = f"{100 * look.uniformity:.0f} % of the inside has one value"
        return f"{share}: a phantom or a CT, not the tissues of an MR image"
    if look.smoothness < LEAST_SMOOTHNESS:
        return f"voxels {REACH_MM:g} mm apart are unrelated (correlation {look.smoothness:.2f}): noise, not a head"
    return None


def doubts(look: Look, anatomy: str = "head or brain") -> list[str]:
    """What about a volume is unlike a T1-weighted image of the card's ``anatomy``, one sentence each."""
    reasons = []
    if not SMALLEST_LITRES <= look.litres <= LARGEST_LITRES:
        reasons.append(f"a foreground of {look.litres:.2f} l is not that of a head or a brain")
    elif look.litres < BRAIN_VOLUME_ML / 1000 and "brain" not in anatomy:
        reasons.append(f"a foreground of {look.litres:.1f} l is a stripped brain: the model was trained on whole heads")
    if look.air > BRIGHTEST_AIR:
        reasons.append("the background is as bright as the head: an inverted image?")
    if np.isnan(look.lead):
        reasons.append("too little of the inside of a head is shown to tell whether it is T1-weighted")
    elif look.lead < LEAST_LEAD:
        reasons.append("the contrast is not T1's: white matter, the compact tissue, is not the brightest")
    return reasons


def look_at(volume: Volume | Scan) -> Look:
    """Measure the look of a volume."""
    scan = Scan.of(volume)
    volume, head = scan.volume, scan.head
    litres = float(np.count_nonzero(head)) * abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1e6
    parts = (voxels(volume.array, part) for part in (head, ~head))
    inside, outside = (scan.scale.forward(np.median(part)).item() if part.size else 0.0 for part in parts)
    air = outside / inside if inside > 0 else float("inf")
    inner = _deep_inside(scan)
    return Look(litres, _is_hounsfield(volume.array, head), air, *inner, *_steps(scan))


def _steps(scan: Scan) -> tuple[float, float]:
    """The median step from voxel to voxel, along the longest axis, at the volume's faces and in its middle."""
    array = scan.volume.array
    along = int(np.argmax(array.shape))
    ends = [slice(None, None, max(1, size - 1)) for size in array.shape]
    faces = [array[(slice(None),) * axis + (ends[axis],)] for axis in range(3) if axis != along]
    sizes = [size - (axis == along) for axis, size in enumerate(array.shape)]
    halves = [(size // 4, max(size // 4 + 1, 3 * size // 4) + (axis == along)) for axis, size in enumerate(sizes)]
    middle = array[tuple(slice(*half) for half in halves)]
    steps = [np.abs(np.diff(scan.scale.forward(part), axis=along)).ravel() for part in (*faces, middle)]
    return float(np.median(np.concatenate(steps[:2]))), float(np.median(steps[2]))


def _deep_inside(scan: Scan) -> tuple[float, float, float, float]:
    """Litres, smoothness, uniformity and lead of the inner head; NaN where too little of it is there."""
    try:
        inner = scan.inner
    except InputError:
        return (float("nan"),) * 4
    spacing = scan.volume.spacing
    steps = np.maximum(1, np.round(BLOCK_MM / spacing)).astype(int)
    cut = mask_box(inner)
    blocks = block_means(scan.scale.forward(scan.volume.array[cut]), steps)
    shares = block_means(inner[cut].astype(np.float32), steps)
    deep, size = shares > 0.5, spacing * steps
    litres = np.count_nonzero(deep) * float(size.prod()) / 1e6
    if litres < ENOUGH_LITRES:
        return (float("nan"),) * 4
    flat = _without_field(blocks, deep, size)
    uniformity = max(_uniformity(values[deep]) for values in (blocks, flat))
    return litres, _smoothness(blocks, deep, size), uniformity, _lead(flat, deep)


def _is_hounsfield(array: np.ndarray, head: np.ndarray) -> bool:
    low, high = CT_TISSUE
    has_air = array.min() <= CT_AIR and np.percentile(voxels(array), 1) <= CT_AIR
    return bool(has_air and head.any() and low <= np.median(voxels(array, head)) <= high)


def _without_field(blocks: np.ndarray, deep: np.ndarray, size: np.ndarray) -> np.ndarray:
    sigma = FIELD_MM / size
    weight = ndimage.gaussian_filter(deep.astype(np.float32), sigma)
    field = ndimage.gaussian_filter(blocks * deep, sigma) / np.maximum(weight, 1e-6)
    return blocks / np.maximum(field, 0.1 * float(np.median(field[deep])))


def _smoothness(blocks: np.ndarray, deep: np.ndarray, size: np.ndarray) -> float:
    """The voxels' correlation with those REACH_MM away, mean over the axes that reach so far."""
    correlations = []
    for axis in range(3):
        lag = max(1, round(REACH_MM / float(size[axis])))
        along, inside = np.moveaxis(blocks, axis, 0), np.moveaxis(deep, axis, 0)
        both = inside[:-lag] & inside[lag:]
        if np.count_nonzero(both) > 1:
            pair = np.corrcoef(along[:-lag][both], along[lag:][both])[0, 1]
            correlations.append(float(pair) if np.isfinite(pair) else 1.0)
    return float(np.mean(correlations)) if correlations else float("nan")


def _uniformity(values: np.ndarray) -> float:
    ordered = np.sort(values)
    width = 0.1 * abs(float(np.median(ordered)))
    counts = np.searchsorted(ordered, ordered + width, side="right") - np.arange(ordered.size)
    return float(counts.max()) / float(ordered.size)


def _lead(blocks: np.ndarray, deep: np.ndarray) -> float:
    values = blocks[deep]
    low, high = np.percentile(values, [1, 99])
    try:
        limits = threshold_multiotsu(np.clip(values, low, high), classes=3)
    except ValueError:  # fewer than three values
        return -1.0
    classes = np.where(deep, np.digitize(blocks, limits), -1)
    masks = [classes == number for number in range(3)]
    cores = [float(np.count_nonzero(ndimage.binary_erosion(mask))) for mask in masks]
    compact = [core / max(1, int(np.count_nonzero(mask))) for core, mask in zip(cores, masks, strict=True)]
    return compact[2] - max(compact[:2])
