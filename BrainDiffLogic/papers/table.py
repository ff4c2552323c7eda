"""The table of a reproduction: the quality of single slices, the paper's own numbers beside it; as text and JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from BrainDiffLogic import __version__
from BrainDiffLogic.data.split import Manifest
from BrainDiffLogic.images.outputs import as_csv, as_json, as_markdown, write_texts
from BrainDiffLogic.metrics.quality import finite_or_none, ssim_map
from BrainDiffLogic.metrics.sharpness import tenengrad
from BrainDiffLogic.models.corrector import Corrector
from BrainDiffLogic.papers.run import FORMAT, TABLE, assert_split
from BrainDiffLogic.scan import head_mask
from BrainDiffLogic.training.slice_store import SlicePairs

SLICE_CONVENTION = (
    "single sagittal slices in network units (99th percentile of the head of the input's volume = 1), not clipped, "
    "data range 1; in the head of the clean slice: PSNR; SSIM (2D Gaussian window, sigma 1.5, population covariance, "
    "as scikit-image); MRE = sum|error| / sum|clean|; sharpness = Tenengrad of the image / of the clean slice. Means "
    "over subjects of the means over a subject's slices. Worse: MRE above that of the input"
)
SLICE_METRICS = ("psnr", "ssim", "mre", "sharpness")
SMALLEST_ERROR = 1e-10
"""Mean squared error below which PSNR is not counted higher: 100 dB, and an identical slice has a number too."""


def slice_quality(image: np.ndarray, clean: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """``SLICE_METRICS`` of one slice (rows, columns) float32 against its clean one, inside ``mask``."""
    error = np.abs(image[mask].astype(np.float64) - clean[mask])
    total = float(np.abs(clean[mask], dtype=np.float64).sum())
    sharp = tenengrad(clean, mask)
    return {
        "psnr": float(-10 * np.log10(max(float(np.mean(error**2)), SMALLEST_ERROR))),
        "ssim": float(ssim_map(image, clean)[mask].mean(dtype=np.float64)),
        "mre": float(error.sum()) / total if total > 0 else float("nan"),
        "sharpness": tenengrad(image, mask) / sharp if sharp > 0 else float("nan"),
    }


def slice_mask(clean: np.ndarray) -> np.ndarray:
    """(rows, columns) bool: the head in a clean slice."""
    return head_mask(clean[None])[0]


@dataclass(frozen=True)
class TableRow:
    """One line of the table.

    section  what was measured on; method: what was done to it
    psnr, ssim, mre, sharpness  means over subjects
    subjects, slices            how many
    ssim_slices, ssim_sd        mean and standard deviation of SSIM over all slices, as MC-Net gives it
    worse_slices, worse_subjects  shares with an MRE above the input's, None where there is no input to compare with
    ssim_fell  SSIM is below that of the input
    """

    section: str
    method: str
    psnr: float
    ssim: float
    mre: float
    sharpness: float
    subjects: int
    slices: int
    worse_slices: float | None = None
    worse_subjects: float | None = None
    ssim_fell: bool = False
    ssim_slices: float = math.nan
    ssim_sd: float = math.nan


class Measured:
    """The quality of every slice of one section, by method; the method ``INPUT`` is doing nothing.

    whole  measure the air around the head too, as papers do that name no mask: it flatters PSNR and SSIM
    """

    INPUT = "do nothing"

    def __init__(self, section: str, whole: bool = False) -> None:
        self.section, self.whole = section, whole
        self.subjects: list[str] = []
        self.values: dict[str, dict[str, list[float]]] = {}

    def add(self, subject: str, clean: np.ndarray, versions: Mapping[str, np.ndarray]) -> None:
        """Measure the ``versions`` (rows, columns) of one slice of a subject against the clean slice."""
        mask = np.ones(clean.shape, dtype=bool) if self.whole else slice_mask(clean)
        self.subjects.append(subject)
        for method, image in versions.items():
            lists = self.values.setdefault(method, {name: [] for name in SLICE_METRICS})
            for name, value in slice_quality(image.astype(np.float32), clean, mask).items():
                lists[name].append(value)

    def rows(self) -> list[TableRow]:
        """A row for each method, in the order they came."""
        return [self._row(method) for method in self.values]

    def _row(self, method: str) -> TableRow:
        means = {name: over_subjects(self.subjects, values) for name, values in self.values[method].items()}
        psnr, ssim, mre, sharpness = (float(np.mean(list(means[name].values()))) for name in SLICE_METRICS)
        slices = np.array(self.values[method]["ssim"])
        row = TableRow(
            self.section, method, psnr, ssim, mre, sharpness, len(set(self.subjects)), len(self.subjects),
            ssim_slices=float(slices.mean()), ssim_sd=float(slices.std()),
        )  # fmt: skip
        if method == self.INPUT or self.INPUT not in self.values:
            return row
        before = self.values[self.INPUT]
        worse_slices = np.array(self.values[method]["mre"]) > np.array(before["mre"])
        subject_before = over_subjects(self.subjects, before["mre"])
        worse = [means["mre"][subject] > subject_before[subject] for subject in subject_before]
        ssim_before = float(np.mean(list(over_subjects(self.subjects, before["ssim"]).values())))
        return replace(
            row, worse_slices=float(np.mean(worse_slices)), worse_subjects=float(np.mean(worse)),
            ssim_fell=ssim < ssim_before,
        )  # fmt: skip


def over_subjects(subjects: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """The mean of the values of each subject; NaN, where a slice has no number, is left out."""
    groups: dict[str, list[float]] = {}
    for subject, value in zip(subjects, values, strict=True):
        groups.setdefault(subject, []).append(value)
    return {subject: float(np.nanmean(group)) for subject, group in groups.items()}


BATCH = 32

SliceMethod = Callable[[np.ndarray], np.ndarray]
"""Slices (N, rows, columns) to as many."""


def nothing(images: np.ndarray) -> np.ndarray:
    """The slices as they are."""
    return images


def correction(network: Corrector, device: torch.device) -> SliceMethod:
    """The network as a method: what it predicts is subtracted."""
    network.to(device)

    def method(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            moved = torch.from_numpy(images)[:, None].to(device)
            return (moved - network(moved)).float().cpu().numpy()[:, 0]

    return method


def one_by_one(denoise: SliceMethod) -> SliceMethod:
    """A method for one slice as one for many."""
    return lambda images: np.stack([denoise(image) for image in images])


def measure_slices(section: str, pairs: SlicePairs, methods: Mapping[str, SliceMethod], manifest: Manifest) -> Measured:
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


FELL = "SSIM fell"

CellText = Callable[[Any], str]
"""The text of a row in a column."""


@dataclass(frozen=True)
class PaperTable:
    """What a paper printed: its lines under their headings, the first of which names the line.

    formats  of the numbers by heading; headings in lower case are keys of the JSON file
    """

    title: str
    formats: Mapping[str, str]
    lines: Sequence[Sequence[Any]]
    note: str

    def as_dicts(self) -> list[dict[str, Any]]:
        """The lines for JSON, each with the title."""
        keys = [heading.lower().replace(" ", "_") for heading in self.formats]
        return [{"table": self.title, **dict(zip(keys, line, strict=True))} for line in self.lines]

    def markdown(self) -> list[str]:
        """Its title, table and note."""
        header = ["", *list(self.formats)[1:]]
        cells = [["" if v is None else f"{v:{f}}" for v, f in zip(line, self.formats.values(), strict=True)]
                 for line in self.lines]  # fmt: skip
        return [f"## {self.title}", "", *as_markdown(header, cells), "", self.note, ""]


@dataclass(frozen=True)
class Layout:
    """How a recipe's table looks.

    columns     heading: the text of a row in it; the name of the method stands before them
    papers      what the paper printed
    """

    title: str
    columns: Mapping[str, CellText]
    papers: Sequence[PaperTable]


def percent(share: float | None) -> str:
    """A share of 1 in percent; nothing for None."""
    return "" if share is None else f"{100 * share:.0f} %"


PSNR: dict[str, CellText] = {"PSNR": lambda row: f"{row.psnr:.2f}"}
SSIM: dict[str, CellText] = {"SSIM": lambda row: f"{row.ssim:.4f}"}
REST: dict[str, CellText] = {
    "MRE": lambda row: f"{row.mre:.4f}",
    "sharpness": lambda row: f"{row.sharpness:.2f}",
    "worse: slices": lambda row: percent(row.worse_slices),
    "subjects": lambda row: percent(row.worse_subjects),
    "n slices (subjects)": lambda row: f"{row.slices} ({row.subjects})",
    " ": lambda row: FELL if row.ssim_fell else "",
}
"""Columns that every table has."""


def write_paper_table(
    out: Path, layout: Layout, rows: Sequence[TableRow], cohort: Sequence[str], notes: Sequence[str],
    log: Sequence[dict[str, Any]],
) -> None:  # fmt: skip
    """Write table.md, table.csv and table.json to the folder ``out``.

    rows           of one class: their fields are the columns of the CSV file
    cohort, notes  lines printed with the table; log: of the stages, for their times
    """
    lines = [finite_or_none(asdict(row)) for row in rows]
    times = {note["stage"]: note["seconds"] for note in log if note["stage"] != TABLE}
    content = {
        "format": FORMAT, "version": __version__, "convention": SLICE_CONVENTION, "cohort": list(cohort),
        "notes": list(notes), "rows": lines,
        "paper": [line for paper in layout.papers for line in paper.as_dicts()],
        "paper_note": " ".join(dict.fromkeys(paper.note for paper in layout.papers)), "seconds": times,
    }  # fmt: skip
    texts = {
        "md": _markdown(layout, rows, cohort, notes, times), "json": as_json(content),
        "csv": as_csv([field.name for field in fields(rows[0])], lines),
    }  # fmt: skip
    write_texts({out / f"{TABLE}.{suffix}": text for suffix, text in texts.items()})


def _markdown(
    layout: Layout, rows: Sequence[TableRow], cohort: Iterable[str], notes: Iterable[str], times: dict[str, float]
) -> str:
    lines = [f"# {layout.title}", "", f"Convention: {SLICE_CONVENTION}.", ""]
    for section in dict.fromkeys(row.section for row in rows):
        cells = [[row.method, *(cell(row) for cell in layout.columns.values())] for row in rows
                 if row.section == section]  # fmt: skip
        lines += [f"## {section[0].upper()}{section[1:]}", "", *as_markdown(["", *layout.columns], cells), ""]
    fallen = [f"- **{FELL}** below its input's: {row.section}, {row.method}" for row in rows if row.ssim_fell]
    lines += [*(fallen or ["No method's SSIM fell below its input's."]), ""]
    for paper in layout.papers:
        lines += paper.markdown()
    lines += ["## Notes", "", *(f"- {note}" for note in (*notes, *cohort)), "", "## Times", ""]
    return "\n".join([*lines, *as_markdown(["stage", "seconds"], [[k, f"{v:.0f}"] for k, v in times.items()]), ""])
