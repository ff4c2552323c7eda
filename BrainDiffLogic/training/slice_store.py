"""Slices in files: those of a cohort, and pairs of a moved and a clean slice; made once, read as memory maps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.utils.data import Dataset

from BrainDiffLogic.data.bids import BidsScan
from BrainDiffLogic.data.split import SPLITS, Manifest, assert_disjoint, hold_out
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.files import SHORT, digest, file_digest
from BrainDiffLogic.images import read_volume, staged_output
from BrainDiffLogic.images.outputs import write_texts
from BrainDiffLogic.models.checkpoints import Card, new_card, save_checkpoint
from BrainDiffLogic.models.generative import FAMILIES
from BrainDiffLogic.progress import Progress, silent
from BrainDiffLogic.scan import head_mask, robust_scale
from BrainDiffLogic.volume import Volume, sagittal_affine, to_sagittal

if TYPE_CHECKING:
    from BrainDiffLogic.training.fit import Hardware


FORMAT = 1
DATA, FACTS = "slices.npy", "slices.json"
CANVAS_MULTIPLE = 16
"""The networks halve an image up to four times."""
OCCUPIED_SHARE = 0.05
"""Slices with less than this share of the fullest slice's head are ears and skin, and left out."""
SAME_SPACING = 1e-3
"""Spacings that differ by less than this share are the same: nothing is resampled."""
FWHM = 2.3548
"""Full width at half maximum of a Gaussian, in standard deviations."""
LARGEST = 60000.0
"""Bound on what float16 holds; in network units no scan comes near it."""
NATIVE_SPACING_MM = (0.1, 10.0)
"""Range on the card where the slices kept each scan's own spacing."""


class SliceStore:
    """The slices of a cohort as ``build_store`` wrote them.

    array       (N, rows, columns) float16, memory-mapped, read-only: rows run posterior to anterior, columns inferior
                to superior; network units (``scan.robust_scale`` of the whole volume), zeros outside the scan
    items       N descriptions: subject, session, scan, group ("clean", "motion"), level, slice, score, split
    canvas      (rows, columns); spacing_mm of both, None: each scan's own
    digest      what the store was made from

    Raises InputError where the folder holds no whole store, AssertionError where a subject is in two splits.

        store = SliceStore("run/slices")
        images = store.array[store.select(split="prior", group="motion")]
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        remedy = "delete the folder and build the store again"
        try:
            facts = json.loads((self.folder / FACTS).read_text(encoding="utf-8"))
            self.items: list[dict[str, Any]] = facts["items"]
            self.canvas = (int(facts["canvas"][0]), int(facts["canvas"][1]))
            self.spacing_mm: float | None = facts["spacing_mm"]
            self.digest, version = str(facts["digest"]), facts["format"]
            self.array: np.ndarray = np.load(self.folder / DATA, mmap_mode="r")
        except FileNotFoundError as error:
            raise InputError(f"{self.folder}: there is no whole slice store here (no {error.filename})") from None
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise InputError(f"{self.folder}: the slice store is damaged; {remedy}") from error
        if version != FORMAT or self.array.shape != (len(self.items), *self.canvas):
            raise InputError(f"{self.folder}: {DATA} and {FACTS} do not belong together; {remedy}")
        assert_disjoint({split: self.subjects(split) for split in {item["split"] for item in self.items}})

    def __len__(self) -> int:
        return len(self.items)

    def select(self, split: str | None = None, group: str | None = None) -> np.ndarray:
        """(M,) indices into ``array`` of the items of this split and group (None: of any)."""
        kept = (split in (None, item["split"]) and group in (None, item["group"]) for item in self.items)
        return np.flatnonzero(list(kept))

    def hold_out(self, indices: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
        """(training, validation) of the indices, by subject, see ``data.split.hold_out``."""
        training, validation = hold_out([self.items[n]["subject"] for n in indices], share)
        return indices[training], indices[validation]

    def slices_of(self, scan: BidsScan) -> list[int]:
        """The indices in ``to_sagittal`` of a scan's slices. Raises InputError for none."""
        indices = [item["slice"] for item in self.items if item["scan"] == scan.path.name]
        if not indices:
            raise InputError(f"{scan.path}: has no slices in {self.folder}; delete that folder and make them again")
        return indices

    def subjects(self, split: str) -> list[str]:
        """The subjects of a split that have slices, sorted."""
        return sorted({item["subject"] for item in self.items if item["split"] == split})


LIMITS = (
    "Makes training data, not diagnoses: what it decodes looks like anatomy and is not the patient's."
    " For research only."
)


def save_generative(
    network: nn.Module, family: str, path: Path, arguments: Mapping[str, Any], scale: float, store: SliceStore,
    training: Mapping[str, Any], **more: Any,
) -> Card:  # fmt: skip
    """Write the weights of a "vae" or "ldm" trained on the slices of ``store``, and its card; returns the card.

    scale  factor that gives latents unit variance: z = scale * posterior mean
    more   further entries of the card
    """
    given = {"spacing_mm": store_spacing(store.spacing_mm), "canvas": list(store.canvas)}
    card = new_card(family, FAMILIES[family], arguments, given, training, LIMITS, scale=scale, **more)
    state = {name: value.detach().float().cpu().contiguous() for name, value in network.state_dict().items()}
    return save_checkpoint(state, card, path)


def store_spacing(spacing_mm: float | None) -> list[float]:
    """A card's range for slices with pixels of this size; None: of each scan's own."""
    return [spacing_mm] * 2 if spacing_mm else list(NATIVE_SPACING_MM)


def check_slices(card: Card, store: SliceStore) -> None:
    """Raise InputError where the pixels of ``store`` have another size than those that a network was trained on."""
    own = store_spacing(store.spacing_mm)
    trained = card.get("input", {}).get("spacing_mm", own)
    if not np.allclose(own, trained, rtol=SAME_SPACING):
        raise InputError(
            f"{store.folder}: slices with pixels of {_pixels(own)}, but {card['name']} was trained on"
            f" {_pixels(trained)}; build the store with that spacing or train the network on this one"
        )


def _pixels(spacing: list[float]) -> str:
    low, high = spacing
    return f"{low:g} mm" if low == high else f"each scan's own size ({low:g} to {high:g} mm)"


def build_store(
    scans: Iterable[BidsScan], manifest: Manifest, folder: str | Path, canvas: Sequence[int], spacing_mm: float | None,
    step: int = 1, progress: Progress = silent,
) -> SliceStore:  # fmt: skip
    """Write every head-occupied sagittal slice of the scans to ``folder``, or open the store that is there.

    scans       clean and motion scans (``BidsScan.group``; those of neither are left out) of subjects in ``manifest``
    canvas      rows and columns, multiples of 16: the middle of each slice is cut out, zeros are put around
    spacing_mm  of the pixels, along rows and columns alike, whatever the scan's; None leaves each scan's own. Not
                the paper's resizing to 192 x 256, which squeezes one axis by a quarter
    step        take slices whose index is a multiple of it, the same ones in all scans of a grid
    progress    called with (share done, stage)
    The same arguments give the same bytes. A build that is stopped leaves nothing that opens as a store; two builds at
    once in one folder disturb each other. Raises InputError for arguments that make no store, and where ``folder``
    holds one that was made from something else.
    """
    folder = Path(folder)
    _check(canvas, spacing_mm, step)
    named = sorted((scan for scan in scans if scan.group), key=lambda scan: (scan.subject, scan.session, scan.name))
    if not named:
        raise InputError("no scan is known as clean or motion; name them acq-standard, acq-headmotionN or add scores")
    splits = {scan.subject: manifest.split_of(scan.subject) for scan in named}
    made_from = _digest(named, splits, canvas, spacing_mm, step)
    if (folder / FACTS).exists():
        store = SliceStore(folder)
        if store.digest != made_from:
            raise InputError(f"{folder}: holds slices of other scans, splits or sizes; delete it or name another")
        return store
    folder.mkdir(parents=True, exist_ok=True)
    for part in folder.glob(".braindiff-*"):  # staged by a build that was killed
        shutil.rmtree(part, ignore_errors=True)
    facts: dict[str, Any] = {"format": FORMAT, "canvas": list(canvas), "spacing_mm": spacing_mm, "step": step}
    facts |= {"digest": made_from, "scans": [], "items": []}
    with staged_output(folder / DATA) as staged:
        _write(named, splits, facts, staged, progress)
    write_texts(
        {folder / FACTS: json.dumps(facts, indent=0, allow_nan=False) + "\n"}
    )  # last: a store without it is none
    return SliceStore(folder)


def _write(scans: list[BidsScan], splits: dict[str, str], facts: dict[str, Any], path: Path, report: Progress) -> None:
    """Append the slices of one scan after the other; the number of slices goes into the header at the end."""
    rows, columns = facts["canvas"]
    with open(path, "wb") as file:
        _write_header(file, (0, rows, columns))
        for n, scan in enumerate(scans):
            report(n / len(scans), "Caching slices")
            kept, slices, outside = sagittal_slices(
                read_volume(scan.path), (rows, columns), facts["spacing_mm"], facts["step"]
            )
            file.write(np.ascontiguousarray(slices).tobytes())
            facts["items"] += [_item(scan, splits[scan.subject], int(k)) for k in kept]
            facts["scans"].append({"scan": scan.path.name, "slices": len(kept), "head_outside_canvas": outside})
        file.seek(0)
        _write_header(file, (len(facts["items"]), rows, columns))
    report(1.0, "Caching slices")


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """numpy's header, which keeps room for the first axis to grow: its length is the same for any number."""
    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _item(scan: BidsScan, split: str, index: int) -> dict[str, Any]:
    return {
        "subject": scan.subject, "session": scan.session, "scan": scan.path.name, "group": scan.group,
        "level": scan.level, "slice": index, "score": scan.score, "split": split,
    }  # fmt: skip


def sagittal_slices(
    volume: Volume, canvas: tuple[int, int], spacing_mm: float | None, step: int = 1
) -> tuple[np.ndarray, np.ndarray, float]:
    """The head-occupied sagittal slices of a volume on a canvas.

    Returns their indices in ``to_sagittal``, the slices (M, rows, columns) float16 in network units, and the share
    of the head's voxels that the canvas cuts off.
    """
    head = head_mask(volume.array)
    scale = robust_scale(volume.array, head)
    stack, mask = to_sagittal(volume), to_sagittal(volume.with_array(head, kind="mask"))
    area = np.count_nonzero(mask, axis=(1, 2))
    kept = np.flatnonzero((area > OCCUPIED_SHARE * area.max()) & (np.arange(len(area)) % step == 0))
    zoom = _zoom(volume, spacing_mm)
    slices = np.stack([on_canvas(scale.forward(stack[k]), canvas, zoom) for k in kept])
    return kept, np.clip(slices, -LARGEST, LARGEST).astype("<f2"), _cut_off(mask, np.array(canvas) * zoom)


def _zoom(volume: Volume, spacing_mm: float | None) -> np.ndarray:
    """(2,) pixels of a sagittal slice in one of ``spacing_mm``, along rows and columns; 1 for None."""
    native = np.linalg.norm(sagittal_affine(volume)[:3, 1:3], axis=0)
    return np.ones(2) if spacing_mm is None else spacing_mm / native


def on_canvas(image: np.ndarray, canvas: tuple[int, ...], zoom: np.ndarray) -> np.ndarray:
    """A slice (rows, columns), or a stack of them, sampled every ``zoom`` pixels around its middle, zeros outside.

    Cubic splines; where pixels grow, after a Gaussian against aliasing that makes the old pixel's width the new one's
    (Cardoso et al., MICCAI 2015). Pixels that stay as they are are copied.
    """
    if np.allclose(zoom, 1, rtol=SAME_SPACING):
        return _centred(image, canvas)
    smooth = ndimage.gaussian_filter(image, np.sqrt(np.maximum(0, zoom**2 - 1)) / FWHM, mode="nearest")
    start = (np.array(image.shape) - 1) / 2 - zoom * (np.array(canvas) - 1) / 2
    return ndimage.affine_transform(smooth, zoom, start, canvas, order=3, mode="constant")


def _centred(image: np.ndarray, canvas: tuple[int, ...]) -> np.ndarray:
    """The middle of a slice, cut and padded with zeros."""
    for axis, size in enumerate(canvas):
        start = max(0, (image.shape[axis] - size) // 2)
        image = np.take(image, range(start, start + min(size, image.shape[axis])), axis=axis)
    before = [(size - have) // 2 for size, have in zip(canvas, image.shape, strict=True)]
    pads = [(b, size - have - b) for b, size, have in zip(before, canvas, image.shape, strict=True)]
    return np.pad(image, pads)


def _cut_off(mask: np.ndarray, extent: np.ndarray) -> float:
    """The share of the head further from the middle of its slice than half of ``extent`` (pixels)."""
    inside = [np.abs(np.arange(n) - (n - 1) / 2) <= e / 2 for n, e in zip(mask.shape[1:], extent, strict=True)]
    return 1 - float(np.count_nonzero(mask[:, inside[0]][:, :, inside[1]]) / np.count_nonzero(mask))


def _check(canvas: Sequence[int], spacing_mm: float | None, step: int) -> None:
    if len(canvas) != 2 or any(int(n) != n or n < CANVAS_MULTIPLE or n % CANVAS_MULTIPLE for n in canvas):
        raise InputError(f"canvas {list(canvas)}: give rows and columns, multiples of {CANVAS_MULTIPLE}")
    if spacing_mm is not None and not 0 < spacing_mm < float("inf"):
        raise InputError(f"spacing_mm {spacing_mm}: give the size of a pixel in mm, or none for the scan's own")
    if step < 1:
        raise InputError(f"step {step}: give 1 for every slice, 2 for every second one")


def _digest(
    scans: list[BidsScan], splits: dict[str, str], canvas: Sequence[int], spacing_mm: float | None, step: int
) -> str:
    """A short name for what a store is made from; files are known by name and content, wherever they lie."""
    files = [
        [scan.path.name, file_digest(scan.path), scan.group, scan.level, scan.score, splits[scan.subject]]
        for scan in scans
    ]
    return digest([FORMAT, OCCUPIED_SHARE, SPLITS, list(canvas), spacing_mm, step, files])[:SHORT]


class SlicePairs(Dataset[dict[str, Tensor]]):
    """Pairs {"moved", "clean"}, each (1, rows, columns) float32 in network units, read from memory maps.

    facts   of each pair, what is known of it: at least "subject"
    places  of each pair: the .npy file, and the indices of the moved and of the clean slice in it
    """

    def __init__(self) -> None:
        self.facts: list[dict[str, Any]] = []
        self.places: list[tuple[Path, tuple[int, int], tuple[int, int]]] = []

    @property
    def subjects(self) -> list[str]:
        """Sorted, each once."""
        return sorted({facts["subject"] for facts in self.facts})

    def hold_out(self, share: float) -> tuple[np.ndarray, np.ndarray]:
        """(training, validation): indices of the pairs, by subject, see ``data.split.hold_out``."""
        return hold_out([facts["subject"] for facts in self.facts], share)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        path, moved, clean = self.places[index]
        images = np.load(path, mmap_mode="r")
        pair = {"moved": images[moved], "clean": images[clean]}
        return {name: torch.from_numpy(image[None].astype(np.float32)) for name, image in pair.items()}


STACK_FORMAT = 1
SAME_PLACE_MM = 1e-2
"""Affines of a scan and of its reference that differ by less are one grid: headers store float32."""


def pair_slices(
    moved: Volume, reference: Volume, slices: Sequence[int], canvas: tuple[int, int], spacing_mm: float | None
) -> np.ndarray:
    """(2, M, rows, columns) float16: sagittal slices of a moved scan and of its reference on a canvas.

    slices  indices in ``to_sagittal`` of the moved scan
    canvas, spacing_mm  as in ``slice_store.build_store``
    Both are in the network units of the moved scan, which is all that a corrector ever sees. Raises InputError where
    the two do not share a grid.
    """
    if moved.shape != reference.shape or not np.allclose(moved.affine, reference.affine, atol=SAME_PLACE_MM):
        raise InputError(f"{reference.name}: not on the grid of {moved.name}; align the two first")
    scale = robust_scale(moved.array)
    zoom = _zoom(moved, spacing_mm)
    pair = [
        np.stack([on_canvas(scale.forward(stack[k]), canvas, zoom) for k in slices])
        for stack in (to_sagittal(moved), to_sagittal(reference))
    ]
    return np.clip(np.stack(pair), -LARGEST, LARGEST).astype(np.float16)


def write_stack(folder: Path, name: str, stacks: np.ndarray, facts: Mapping[str, Any]) -> None:
    """Add the slices (2, M, rows, columns) of one pair of scans; the .json comes last: a pair is whole or absent.

    facts  "subject", "scan" and "slices" (M indices), and whatever else is known
    """
    folder.mkdir(parents=True, exist_ok=True)
    with staged_output(folder / f"{name}.json") as staged:
        np.save(staged.with_suffix(".npy"), stacks)
        content = {"format": STACK_FORMAT, **facts}
        staged.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")


def has_stack(folder: Path, name: str) -> bool:
    """Whether this pair of scans is there."""
    return (folder / f"{name}.json").is_file()


class StackPairs(SlicePairs):
    """The pairs of slices in a folder of ``write_stack``; the facts of each are those of its scan and "slice".

    Raises InputError where the folder holds no pair, or a damaged one.

        pairs = StackPairs("run/physics")
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        for path in sorted(Path(folder).glob("*.json")):
            try:
                scan = json.loads(path.read_text(encoding="utf-8"))
                slices, _, _ = scan.pop("slices"), scan["subject"], scan["scan"]
            except (OSError, ValueError, KeyError, AttributeError):
                raise InputError(f"{path}: damaged; delete it and make the pairs again") from None
            self.facts += [{**scan, "slice": k} for k in slices]
            self.places += [(path.with_suffix(".npy"), (0, row), (1, row)) for row in range(len(slices))]
        if not self.places:
            raise InputError(f"{folder}: there are no pairs of slices here; make them first")


@dataclass(frozen=True)
class PairRun:
    """What a run on pairs starts from.

    pairs        slices of the correction split
    canvas       rows and columns of them, spacing_mm of their pixels (None: each scan's own)
    source       a word for where they come from, for the card: "injected", "simulated"
    vae          the autoencoder (.safetensors) of the loss term info_nce
    hardware     what it trains on; None: the best device that is here
    """

    pairs: SlicePairs
    canvas: tuple[int, int]
    spacing_mm: float | None
    source: str
    vae: Path | None = None
    hardware: Hardware | None = None


def stack_run(
    folder: str | Path, spacing_mm: float | None, source: str, vae: Path | None = None, hardware: Hardware | None = None
) -> PairRun:
    """A run on the pairs of a folder of ``write_stack``."""
    pairs = StackPairs(folder)
    rows, columns = pairs[0]["clean"].shape[1:]
    return PairRun(pairs, (rows, columns), spacing_mm, source, vae, hardware)
