"""``reproduce mcnet``: does the total variation of the residual help, on motion in the slice plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from BrainDiffLogic.images.outputs import as_csv, staged_output, write_texts
from BrainDiffLogic.models.corrector import CONFIGURATIONS
from BrainDiffLogic.motion.presets import preset
from BrainDiffLogic.motion.trajectory import Trajectory, anchored
from BrainDiffLogic.papers.comparison import (
    TRACE_POINTS,
    ComparisonSettings,
    ComparisonWork,
    PairPlan,
    Traces,
    comparison_stages,
    measure_variants,
)
from BrainDiffLogic.papers.run import check_size, describe
from BrainDiffLogic.papers.table import (
    PSNR,
    REST,
    SSIM,
    CellText,
    Layout,
    Measured,
    PaperTable,
    TableRow,
    write_paper_table,
)
from BrainDiffLogic.pictures import GREY, dark_figure, darken
from BrainDiffLogic.training.configuration import CorrectorConfiguration, Stage
from BrainDiffLogic.training.losses import total_variation
from BrainDiffLogic.training.slice_store import StackPairs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS, PICTURE = "magnitude.csv", "magnitude.png"
CAPTION = (
    "magnitude: standard deviation over the points of a trace, mean over the parameters that move (translation along A"
    " and S in mm, pitch in degrees); a point is the mean over the slices of one test scan and trace"
)
SIZE_INCHES, BINS = (13.0, 4.6), 6
BEFORE, AFTER, OTHER = "#ff6a2f", "#2f9bff", "#7fe07f"
FACTOR = 8.0
"""By which the paper multiplied recorded traces "all < 2 mm / 2 deg"."""
SMALLEST, LARGEST = 0.25, 2.0
"""The largest excursion of a trace before that, mm or degrees. The paper's bound; the lower end is this project's."""
TITLES = {"l1": "L1", "l1-tv": "L1+TV", "l1-tv-ft": "L1+TV-ft"}
"""The paper's models: the stages of training that have the TV term are none, both, the second."""
BETA = {"l1": (0.0, 0.0), "l1-tv": (1.0, 1.0), "l1-tv-ft": (0.0, 1.0)}
"""beta of eq. 1 in the two stages; alpha is 1."""
PAPER = {
    "in-plane rotation": (("Corrupted image", 0.715, 0.093), ("L1", 0.738, 0.084), ("L1+TV", 0.738, 0.085),
                          ("L1+TV-ft", 0.743, 0.083)),
    "in-plane rotation and translation": (("Corrupted image", 0.574, 0.126), ("L1", 0.640, 0.077),
                                          ("L1+TV", 0.642, 0.076), ("L1+TV-ft", 0.645, 0.076)),
}  # fmt: skip
"""Fig. 4: SSIM, mean and standard deviation."""

Point = dict[str, Any]


def magnitude(facts: Mapping[str, Any]) -> float:
    """Of a pair: the mean standard deviation, in mm and degrees alike, of its in-plane parameters that move."""
    deviations = np.array([facts["sd_deg"][0], *facts["sd_mm"][1:]])
    moving = deviations[deviations > 0]
    return float(moving.mean()) if moving.size else 0.0


def magnitude_points(name: str, pairs: Sequence[Mapping[str, Any]], measured: Measured) -> list[Point]:
    """The points of a set: mean SSIM of every method over the slices of each scan and trace, by magnitude.

    pairs  the facts of the pairs in the order in which they were measured
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for number, facts in enumerate(pairs):
        groups.setdefault((facts["scan"], facts["trace"]), []).append(number)
    points = []
    for (scan, trace), numbers in groups.items():
        facts = pairs[numbers[0]]
        ssim = {f"ssim {m}": float(np.mean([v["ssim"][n] for n in numbers])) for m, v in measured.values.items()}
        points.append({
            "set": name, "subject": facts["subject"], "scan": scan, "trace": trace, "slices": len(numbers),
            "magnitude": magnitude(facts), "severity_mm": facts["severity_mm"], **ssim,
        })  # fmt: skip
    return sorted(points, key=lambda point: point["magnitude"])


def magnitude_picture(points: Sequence[Point], method: str, before: str, titles: Mapping[str, str], path: Path) -> None:
    """Draw a picture (.png): for each set SSIM before and after ``method``, then what all sets are after it.

    titles  name of a set: what is written above it
    Raises InputError when matplotlib is missing.
    """
    figure = dark_figure(SIZE_INCHES)
    panels = list(figure.subplots(1, len(titles) + 1, sharey=True))
    for (name, title), axes in zip(titles.items(), panels, strict=False):
        own = [point for point in points if point["set"] == name]
        _draw(axes, own, before, BEFORE, "before")
        _draw(axes, own, method, AFTER, f"after {method}")
        _dress(axes, title)
    for (name, title), colour in zip(titles.items(), (AFTER, OTHER), strict=False):
        _draw(panels[-1], [point for point in points if point["set"] == name], method, colour, title)
    _dress(panels[-1], f"after {method}")
    panels[0].set_ylabel("SSIM", color=GREY)
    figure.text(0.5, 0.02, CAPTION, color=GREY, fontsize=8, ha="center")
    figure.subplots_adjust(left=0.06, right=0.98, bottom=0.2, top=0.9, wspace=0.08)
    with staged_output(path) as staged:
        figure.savefig(staged, facecolor="black")


def _draw(axes: Axes, points: Sequence[Point], method: str, colour: str, label: str) -> None:
    """The points, and a line through the means of groups of equal number."""
    across = np.array([point["magnitude"] for point in points])
    up = np.array([point[f"ssim {method}"] for point in points])
    axes.plot(across, up, ".", color=colour, alpha=0.5, markersize=5)
    groups = np.array_split(np.arange(len(points)), min(BINS, len(points)))
    axes.plot([across[g].mean() for g in groups], [up[g].mean() for g in groups], color=colour, label=label)


def _dress(axes: Axes, title: str) -> None:
    darken(axes, "motion magnitude (mm or degrees)")
    axes.set_title(title, color="white", fontsize=11)
    axes.legend(facecolor="black", edgecolor=GREY, labelcolor="white", fontsize=8)


def in_plane(name: str, size: float, seed: Sequence[int]) -> Trajectory:
    """A preset's pitch and its translations along A and S, from the pose at the centre of k-space.

    size  the largest excursion in mm or degrees before ``FACTOR``. The paper's traces were recorded and are not public.
    """
    whole = preset(name, TRACE_POINTS, np.random.default_rng(seed))
    trace = anchored(Trajectory(whole.translations * (0, 1, 1), whole.rotations * (1, 0, 0)))
    top = max(np.abs(trace.translations).max(), np.abs(trace.rotations).max())
    factor = FACTOR * size / top
    return Trajectory(factor * trace.translations * (0, 1, 1), factor * trace.rotations * (1, 0, 0))


def rotation(name: str, size: float, seed: Sequence[int]) -> Trajectory:
    """The pitch of ``in_plane`` alone."""
    trace = in_plane(name, size, seed)
    return Trajectory(np.zeros_like(trace.translations), trace.rotations)


SETS = (
    Traces("rotation", "in-plane rotation", rotation),
    Traces("rotation-translation", "in-plane rotation and translation", in_plane),
)


def mcnet_settings(size: str, seed: int = 0) -> ComparisonSettings:
    """The settings of a size.

    compact  10 + 10 traces, the compact network, few steps: half an hour on two cores
    paper    the published network, traces and epochs: for a GPU
    Both have the paper's 128 x 128 pixels of 2 mm.
    Raises InputError for another size.
    """
    check_size(size)
    base = _paper() if size == "paper" else _compact()
    variants = {}
    for name, betas in BETA.items():
        stages = [replace(s, loss={"l1": 1.0, "tv": beta}) for s, beta in zip(base.stages, betas, strict=True)]
        variants[name] = replace(base, stages=stages)
    simulation = PairPlan((128, 128), 2.0, (SMALLEST, LARGEST), training_traces=10, test_traces=10, seed=seed)
    if size == "paper":
        # anchored alone (paper); its 78 traces are in training and test, here 60 and 18, as its subjects are 40 and 12
        simulation = replace(simulation, training_traces=60, test_traces=18, align=False)
    return ComparisonSettings(variants, simulation)


def _compact() -> CorrectorConfiguration:
    """Two halves of equal steps; the same steps, rates and pairs for every variant."""
    network = {**CONFIGURATIONS["mc-net"]["compact"], "context": 1}
    half = Stage(1000, {}, learning_rate=1e-3, warmup=100, decay=0.5, balance=False)
    return CorrectorConfiguration(
        "mc-net", [half, half], data="pairs", network=network, batch=8, weight_decay=0.0, ema=0.99, epoch_steps=200,
        validation_share=0.0,
    )  # fmt: skip


def _paper() -> CorrectorConfiguration:
    """The paper's training, holes filled.

    It gives every model 100 epochs and does not say whether the 100 of stage 2 come on top of those of stage 1. Here
    they do not: 50 and 50, and the other models 100, so that longer training cannot be taken for the merit of TV.
    """
    # 28,800 slices in batches of 8 (released code: "batch_size_8_ft"); Adam's usual rate, none is given
    half = Stage(50 * 3600, {}, learning_rate=1e-3, warmup=0, decay=0.0, balance=False)
    return CorrectorConfiguration(
        "mc-net", [half, half], data="pairs", network="paper", batch=8, weight_decay=0.0, ema=0.0, clip=0.0,
        epoch_steps=3600, validation_share=0.125,  # 5 of 40 subjects (paper)
    )  # fmt: skip


SPREAD: dict[str, CellText] = {
    "SSIM of slices, mean +- SD": lambda row: f"{row.ssim_slices:.3f} +- {row.ssim_sd:.3f}",
    "the paper's (own data)": lambda row: _published(row),
}
LAYOUT = Layout(
    "MC-Net's Fig. 4 on your data: subjects and motion traces of the test",
    {**SPREAD, **SSIM, **PSNR, **REST},
    [PaperTable(
        f"The paper's own Fig. 4, on its own data: {title}", {"Model": "", "SSIM": ".3f", "SD": ".3f"}, lines,
        "Means over slices, the convention of SSIM unstated; 8,630 slices of 12 subjects. It gives no test of"
        " significance: the TV stage is worth 0.005 at a standard deviation of 0.08.",
    ) for title, lines in PAPER.items()],
)  # fmt: skip


def _published(row: TableRow) -> str:
    name = "Corrupted image" if row.method == Measured.INPUT else row.method
    texts = {model: f"{mean:.3f} +- {sd:.3f}" for model, mean, sd in PAPER[row.section]}
    return texts.get(name, "")


def tabulate(work: ComparisonWork) -> dict[str, Any]:
    """Measure everything on the test pairs; the table, and SSIM against the motion's magnitude (Fig. 5)."""
    rows, points, shares = [], [], []
    for number, traces in enumerate(SETS):
        work.progress(number / len(SETS), "Measuring")
        measured, pairs, _ = measure_variants(work, traces, TITLES)
        rows += measured.rows()
        points += magnitude_points(traces.name, pairs.facts, measured)
        shares.append(_share_of_tv(traces, pairs))
    cohort = describe(work.cohort, work.manifest, work.settings.uses)
    write_paper_table(work.out, LAYOUT, rows, cohort, [*notes(work.settings), *shares], work.log())
    write_texts({work.out / POINTS: as_csv(list(points[0]), points)})
    drawn = find_spec("matplotlib") is not None
    if drawn:
        titles = {traces.name: traces.title for traces in SETS}
        magnitude_picture(points, TITLES["l1-tv-ft"], Measured.INPUT, titles, work.out / PICTURE)
    work.progress(1.0, "Measuring")
    return {"rows": len(rows), "picture": PICTURE if drawn else "not drawn: pip install 'braindiff[demo]'"}


def notes(settings: ComparisonSettings) -> list[str]:
    """What a reader of the table must know beside the convention."""
    plan = settings.simulation
    steps = {variant.steps for variant in settings.variants.values()}
    low, high = (FACTOR * size for size in plan.size)
    return [
        f"All models have the same pairs, seed, rates and number of steps ({', '.join(map(str, sorted(steps)))}); they"
        " differ in the stages that have the TV term (of the residual, mean over pixels, exponent 1.25).",
        f"Traces: {plan.training_traces} to train and {plan.test_traces} others to test, of the library's presets, in"
        f" the slice plane, largest excursion {low:g} to {high:g} mm or degrees (the paper: recorded traces, times 8,"
        " the same in training and test).",
        f"{'Aligned with' if plan.align else 'Anchored alone, not aligned with'} the still scan;"
        f" {plan.canvas[0]} x {plan.canvas[1]} pixels of {plan.spacing_mm:g} mm, {plan.slices} slices"
        f" {plan.gap_mm:g} mm apart.",
        f"{POINTS}, {PICTURE}: SSIM against magnitude, as Fig. 5. {CAPTION}.",
    ]


def _share_of_tv(traces: Traces, pairs: StackPairs) -> str:
    """How much of the loss TV is before training: with a sum instead of the mean it would be nearly all."""
    l1 = tv = 0.0
    for n in range(len(pairs)):
        error = pairs[n]["moved"] - pairs[n]["clean"]
        l1, tv = l1 + float(error.abs().mean()), tv + float(total_variation(error[None]))
    return f"{traces.title}: of the moved slices' L1 + TV, alpha = beta = 1, TV is {100 * tv / (l1 + tv):.1f} %."


STAGES = comparison_stages(SETS, TITLES, tabulate, [POINTS])
