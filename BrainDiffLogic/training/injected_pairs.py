"""Moved versions of all clean slices of a store, in groups: a job that may be stopped at any time and run again.

A folder of results holds job.json (what was asked for) and, for each group of slices, group-N.npy with the images
and group-N.json with what is known of them; a group whose .json is there is whole. Not for two processes at once.

A version that has drifted from the anatomy of its clean slice is rejected. An artifact lives in fine detail and in
ghosts; another brain differs in its coarse shape. Both images are therefore looked at through a low-pass: structural
similarity inside the head, and the Dice overlap of the head's outline. Measured on sagittal slices of heads of ds000011
(pixels of 1.33 mm), the lowest similarity and overlap of 45 slices with steps, tremor and drift in 3D, by mean
displacement; then the highest of 216 pairs of slices of two heads:

    identical 1, 1    1 mm .995, .982    3 mm .975, .937    6 mm .919, .898    another head .752, .948
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images.outputs import make_folder, staged_output, write_json
from BrainDiffLogic.metrics.quality import SSIM_K1, SSIM_K2
from BrainDiffLogic.progress import Progress, silent
from BrainDiffLogic.training.injection import Injection, InjectionSettings, MotionPrior, inject
from BrainDiffLogic.training.slice_store import LARGEST, PairRun, SlicePairs, SliceStore, check_slices

if TYPE_CHECKING:
    from BrainDiffLogic.training.fit import Hardware

FORMAT = 1
JOB = "job.json"
GROUP = 16
"""Clean slices in a file: what a kill can lose. With five versions of 192 x 256 pixels, 9 MB."""
SPLIT = "correction"
"""Of the store: neither seen by the prior nor tested on."""

LOW_PASS_MM = 5.0
"""Standard deviation of the Gaussian low-pass, and of the window that SSIM is taken in afterwards. At half of it 6 mm
of tremor come down to .75, towards another head."""
OUTLINE_SHARE = 0.5
"""The head is what lies above this share of Otsu's threshold of the clean slice, low-passed."""
MIN_SIMILARITY, MIN_OVERLAP = 0.85, 0.85
"""An injected slice below one of these is rejected. Similarity tells heads apart: the limit lies between 6 mm of motion
and another head. The outline does not (ghosts move it as much), so that its limit only catches what has lost it."""


@dataclass(frozen=True)
class InjectionSummary:
    """What a folder holds: clean slices, moved versions of them, and how many of these keep the anatomy."""

    slices: int
    versions: int
    accepted: int

    @property
    def rejected_share(self) -> float:
        """The share of the versions whose anatomy has drifted too far (``drift``)."""
        return 1 - self.accepted / self.versions


def synthesize(
    store: SliceStore, prior: MotionPrior, cards: Mapping[str, Any], folder: str | Path, plan: InjectionSettings, *,
    split: str = SPLIT, group: int = GROUP, batch: int | None = None, progress: Progress = silent,
) -> InjectionSummary:  # fmt: skip
    """Inject motion into every clean slice of a split; groups that are there already are kept.

    cards      {"vae", "ldm"} of the prior, kept in job.json; each group names the LDM and the scans it was trained
               on. A prior of clean scans makes the control
    group      slices in a file
    batch      as in ``inject``
    progress   called with (share done, stage) after each group

    Raises InputError where the split has no clean slice, where the LDM comes from a store that is split otherwise,
    where ``folder`` holds another job, and where the prior gives no finite images.
    """
    folder = Path(folder)
    chosen = store.select(split=split, group="clean")
    if not len(chosen):
        raise InputError(f"{store.folder}: no clean slice in the split {split}; add scans or change the shares")
    check_slices(cards["vae"], store)
    _assert_unseen({store.items[n]["subject"] for n in chosen}, cards, split)
    _open_folder(folder, _job(store, cards, plan, split, group, len(chosen)))
    parts = [chosen[start : start + group] for start in range(0, len(chosen), group)]
    for number, indices in enumerate(parts):
        path = _group_file(folder, number)
        if not path.exists():
            injected = _inject(store, indices, prior, plan, batch)
            _write_group(path, injected, store, indices, cards["ldm"])
        progress((number + 1) / len(parts), "Injecting motion")
    return summary(folder)


def _job(
    store: SliceStore, cards: Mapping[str, Any], plan: InjectionSettings, split: str, group: int, slices: int
) -> dict[str, Any]:
    return {
        "format": FORMAT, "store": store.digest, "split": split, "slices": slices, "group": group,
        "canvas": list(store.canvas), "spacing_mm": store.spacing_mm, "plan": asdict(plan),
        "drift": {"min_similarity": MIN_SIMILARITY, "min_overlap": MIN_OVERLAP}, "cards": dict(cards),
    }  # fmt: skip


def _open_folder(folder: Path, job: dict[str, Any]) -> None:
    """Make the folder and its job.json, or check that this very job is what it holds."""
    job = json.loads(json.dumps(job, allow_nan=False))  # tuples become lists, as in the file
    if (folder / JOB).exists():
        there = _read_json(folder / JOB)
        changed = [name for name in job if there.get(name) != job[name]]
        if changed:
            raise InputError(f"{folder}: holds a job with another {changed[0]}; name another folder or delete it")
        for remains in folder.glob(".braindiff-*"):  # of a killed process
            shutil.rmtree(remains, ignore_errors=True)
        return
    make_folder(folder, "choose another folder")
    if any(folder.glob("group-*.json")):
        raise InputError(f"{folder}: has groups but no {JOB}; name another folder or delete it")
    write_json(folder / JOB, job)


def _inject(
    store: SliceStore, indices: np.ndarray, prior: MotionPrior, plan: InjectionSettings, batch: int | None
) -> Injection:
    clean = np.asarray(store.array[indices], dtype=np.float32)
    injection = inject(prior, clean, [item_name(store.items[n]) for n in indices], plan, batch)
    if not np.isfinite(injection.images).all():
        raise InputError("the LDM's images are not finite; train it longer, or leave --bf16 out")
    return injection


def _write_group(
    path: Path, injection: Injection, store: SliceStore, indices: np.ndarray, ldm: Mapping[str, Any]
) -> None:
    """The .npy (slices, 1 + versions, rows, columns) float16, the clean slice first, then the .json."""
    clean = np.asarray(store.array[indices], dtype=np.float32)
    images = np.concatenate([clean[:, None], np.clip(injection.images, -LARGEST, LARGEST)], axis=1)
    items = [
        {"index": int(n), **store.items[n], "versions": _versions(injection, row, clean[row], store.spacing_mm)}
        for row, n in enumerate(indices)
    ]
    prior = {"ldm": ldm["name"], "sha256": ldm["sha256"], "group": ldm["training"].get("group")}
    with staged_output(path) as staged:
        np.save(staged.with_suffix(".npy"), images.astype(np.float16))
        facts = {"format": FORMAT, "prior": prior, "items": items}
        staged.write_text(json.dumps(facts, allow_nan=False) + "\n", encoding="utf-8")


def item_name(item: Mapping[str, Any]) -> str:
    """What a slice's seeds are derived from: the same in any store that holds it."""
    return f"{item['scan']}/{item['slice']}"


def _versions(injection: Injection, row: int, clean: np.ndarray, spacing_mm: float | None) -> list[dict[str, Any]]:
    facts = []
    for variant, image in enumerate(injection.images[row]):
        drift = anatomy_drift(image, clean, spacing_mm)
        facts.append({
            "variant": variant, "t": int(injection.t[row, variant]), "signal": float(injection.signal[row, variant]),
            "seed": injection.seeds[row][variant], **asdict(drift), "accepted": drift.accepted,
        })  # fmt: skip
    return facts


def _assert_unseen(subjects: set[str], cards: Mapping[str, Any], split: str) -> None:
    """A prior that has seen the subjects gives back what it knows of them.

    The card names the subjects that it was trained and validated on: one of them here tells that the two stores are
    split differently.
    """
    training = cards["ldm"]["training"]
    seen = subjects & {name for part in ("training_subjects", "held_out_subjects") for name in training.get(part, ())}
    if seen:
        raise InputError(f"the LDM was trained where {min(seen)}, now in {split}, was in prior; train it on this store")


def _group_file(folder: Path, number: int) -> Path:
    return folder / f"group-{number:06d}.json"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; run braindiff synthesize to its end") from None
    except (OSError, ValueError):
        raise InputError(f"{path}: damaged; delete it and run braindiff synthesize again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: not of format {FORMAT}; delete the folder and run braindiff synthesize again")
    return content


def _read_groups(folder: Path) -> list[list[dict[str, Any]]]:
    """The items of every group, with their versions. Raises InputError where the job is not finished."""
    job = _read_json(folder / JOB)
    return [_read_json(_group_file(folder, n))["items"] for n in range(-(-job["slices"] // job["group"]))]


def summary(folder: str | Path) -> InjectionSummary:
    """Count what a finished job has made. Raises InputError where a group is missing or damaged."""
    items = [item for group in _read_groups(Path(folder)) for item in group]
    versions = [version for item in items for version in item["versions"]]
    return InjectionSummary(len(items), len(versions), sum(version["accepted"] for version in versions))


def versions(folder: str | Path) -> Iterator[np.ndarray]:
    """Each clean slice of a finished job with all of its versions after it, (1 + versions, rows, columns) float32."""
    folder = Path(folder)
    for number in range(len(_read_groups(folder))):
        for images in np.load(_group_file(folder, number).with_suffix(".npy"), mmap_mode="r"):
            yield np.asarray(images, dtype=np.float32)


class InjectedPairs(SlicePairs):
    """The accepted pairs of a finished job.

    facts     of each pair: the slice's description, and variant, t, signal, seed, similarity, overlap

    Raises InputError where the job is not finished or all of its versions were rejected.

        loader = DataLoader(InjectedPairs("run/injected"), batch_size=16, shuffle=True)
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        folder = Path(folder)
        for number, items in enumerate(_read_groups(folder)):
            path = _group_file(folder, number).with_suffix(".npy")
            for row, item in enumerate(items):
                for version in item["versions"]:
                    if version["accepted"]:
                        self.facts.append({**{k: v for k, v in item.items() if k != "versions"}, **version})
                        self.places.append((path, (row, 1 + version["variant"]), (row, 0)))
        if not self.places:
            raise InputError(f"{folder}: no pair was accepted; inject at a higher --signal")

    def fullest(self) -> list[int]:
        """The pairs of the slice with most accepted versions, of several such slices the brightest."""
        versions: dict[int, list[int]] = {}
        for number, facts in enumerate(self.facts):
            versions.setdefault(facts["index"], []).append(number)
        return max(versions.values(), key=lambda pairs: (len(pairs), float(self[pairs[0]]["clean"].sum())))


def injected_run(folder: str | Path, vae: Path | None = None, hardware: Hardware | None = None) -> PairRun:
    """A corrector's run on the pairs of a finished job. Raises InputError as ``InjectedPairs`` does."""
    job = _read_json(Path(folder) / JOB)
    return PairRun(InjectedPairs(folder), tuple(job["canvas"]), job["spacing_mm"], "injected", vae, hardware)


@dataclass(frozen=True)
class Drift:
    """Low-pass SSIM in the head, -1 to 1, and Dice of the head's outline, 0 to 1; both 1 for the same slice."""

    similarity: float
    overlap: float

    @property
    def accepted(self) -> bool:
        """Whether this is still the same head, by ``MIN_SIMILARITY`` and ``MIN_OVERLAP``."""
        return self.similarity >= MIN_SIMILARITY and self.overlap >= MIN_OVERLAP


def anatomy_drift(injected: np.ndarray, clean: np.ndarray, spacing_mm: float | None = None) -> Drift:
    """The drift of one slice (rows, columns) from its clean one, both in network units.

    ``spacing_mm`` is the size of the square pixels (None: taken as 1 mm).
    """
    sigma = LOW_PASS_MM / (spacing_mm or 1.0)
    coarse_injected, coarse_clean = (
        ndimage.gaussian_filter(image.astype(np.float32), sigma) for image in (injected, clean)
    )
    level = OUTLINE_SHARE * threshold_otsu(coarse_clean) if np.ptp(coarse_clean) > 0 else 0.0
    outlines = [ndimage.binary_fill_holes(image > level) for image in (coarse_injected, coarse_clean)]
    inside = outlines[1] if outlines[1].any() else np.ones(clean.shape, dtype=bool)
    similarity = _similarity(coarse_injected, coarse_clean, sigma)
    return Drift(float(similarity[inside].mean(dtype=np.float64)), _dice(*outlines))


def _similarity(x: np.ndarray, y: np.ndarray, sigma: float) -> np.ndarray:
    """SSIM at each pixel (Wang et al. 2004) for data range 1 in a Gaussian window of ``sigma`` pixels."""
    mean_x, mean_y, xx, yy, xy = (ndimage.gaussian_filter(part, sigma) for part in (x, y, x * x, y * y, x * y))
    c1, c2 = np.float32(SSIM_K1**2), np.float32(SSIM_K2**2)
    product = mean_x * mean_y
    squares = mean_x * mean_x + mean_y * mean_y
    return (2 * product + c1) * (2 * (xy - product) + c2) / ((squares + c1) * (xx + yy - squares + c2))


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0
