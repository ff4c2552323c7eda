"""Correctors that differ in one thing, trained on the same simulated pairs and tested on those of other traces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from BrainDiffLogic.data.bids import BidsScan
from BrainDiffLogic.evaluation.methods import DENOISERS
from BrainDiffLogic.files import digest
from BrainDiffLogic.images import read_volume
from BrainDiffLogic.inference import choose_device
from BrainDiffLogic.models.checkpoints import load_checkpoint
from BrainDiffLogic.motion.presets import PRESETS
from BrainDiffLogic.motion.simulation import simulate_motion
from BrainDiffLogic.motion.trajectory import Trajectory
from BrainDiffLogic.papers.run import (
    MANIFEST,
    TABLE,
    TABLES,
    RecipeSettings,
    RecipeStage,
    Uses,
    Work,
    assert_split,
    split_stage,
    train_corrector,
)
from BrainDiffLogic.papers.table import Measured, SliceMethod, correction, measure_slices, nothing, one_by_one
from BrainDiffLogic.progress import run_all
from BrainDiffLogic.scan import head_mask
from BrainDiffLogic.training.configuration import CorrectorConfiguration
from BrainDiffLogic.training.slice_store import StackPairs, has_stack, on_canvas, pair_slices, stack_run, write_stack
from BrainDiffLogic.volume import Volume, sagittal_affine, to_sagittal

TRACE_POINTS = 128
"""Points of a trace (MC-Net); resampled to the phase-encode lines."""
TRAINING = ("prior", "correction")
"""Splits whose subjects are trained on: no motion prior needs its own, and the cohort is split as for BrainDiff."""
DENOISER = "non-local means"
"""The rival in every table that was not trained."""


@dataclass(frozen=True)
class Traces:
    """The motion of a set of pairs.

    name   of the folders and stages: "rotation"
    title  of the section of the table
    make   (preset, size, seed) to a trace of ``TRACE_POINTS`` points; a function that processes can import
    """

    name: str
    title: str
    make: Callable[[str, float, Sequence[int]], Trajectory]

    @property
    def folder(self) -> str:
        """Of the pairs to train on."""
        return f"pairs-{self.name}"

    @property
    def test_folder(self) -> str:
        """Of the pairs of the test."""
        return f"{self.folder}-test"


@dataclass(frozen=True)
class PairPlan:
    """How pairs are simulated.

    canvas         rows and columns of the slices, spacing_mm of cubic voxels: scans are resampled before they move
    size           smallest and largest motion of the traces, as their ``Traces.make`` takes it; spread evenly
    training_traces, test_traces  how many: no trace is in both
    slices, gap_mm  of each scan, around the middle of its head
    align          remove the shift between the still and the moved image that anchoring at the centre of k-space leaves
                   (``motion.simulation.aligned``); the papers do not
    pe_axis, seed  phase encoding; what the traces are drawn with
    """

    canvas: tuple[int, int]
    spacing_mm: float
    size: tuple[float, float]
    training_traces: int
    test_traces: int
    slices: int = 10
    gap_mm: float = 5.0
    align: bool = True
    pe_axis: str = "AP"
    seed: int = 0

    def draw(self, traces: Traces, number: int) -> tuple[str, Trajectory]:
        """The preset and the trace of a number: those of training come first, then those of the test."""
        tested = number >= self.training_traces
        count = self.test_traces if tested else self.training_traces
        place = number - self.training_traces if tested else number
        preset, seed = list(PRESETS)[place % len(PRESETS)], [self.seed, number]
        low, high = self.size
        size = low + (high - low) * (place + np.random.default_rng(seed).uniform()) / count
        return preset, traces.make(preset, float(size), seed)


def simulate_traces(scan: BidsScan, traces: Traces, numbers: Sequence[int], plan: PairPlan, folder: Path) -> None:
    """Write the missing pairs of one still scan, one file a trace; each depends on the scan and the trace alone."""
    missing = [number for number in numbers if not has_stack(folder, _name(scan, number))]
    if not missing:
        return
    still = on_grid(read_volume(scan.path), plan.canvas, plan.spacing_mm)
    slices = middle_slices(still, plan.slices, plan.gap_mm)
    for number in missing:
        preset, trace = plan.draw(traces, number)
        made = simulate_motion(still, trace, plan.pe_axis, align=plan.align)
        stacks = pair_slices(made.moved, made.reference, slices, plan.canvas, plan.spacing_mm)
        write_stack(folder, _name(scan, number), stacks, {
            "subject": scan.subject, "scan": scan.path.name, "level": preset, "trace": trace_name(preset, trace),
            "severity_mm": made.severity, "sd_mm": trace.translations.std(axis=0).tolist(),
            "sd_deg": trace.rotations.std(axis=0).tolist(), "slices": slices,
        })  # fmt: skip


def on_grid(volume: Volume, canvas: tuple[int, int], spacing_mm: float) -> Volume:
    """The volume on cubic voxels, its own sagittal axes taken as R, A, S: motion in the slice plane stays in it.

    canvas  voxels along A and S: the middle is cut out, zeros are put around; see ``slice_store.on_canvas``
    """
    stack = to_sagittal(volume).astype(np.float32)
    native = np.linalg.norm(sagittal_affine(volume)[:3, :3], axis=0)
    shape = (max(1, round(len(stack) * native[0] / spacing_mm)), *canvas)
    array = on_canvas(stack, shape, spacing_mm / native)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    return Volume(np.clip(array, stack.min(), stack.max()), affine, source=volume.source)


def middle_slices(volume: Volume, count: int, gap_mm: float) -> list[int]:
    """Indices of ``count`` sagittal slices ``gap_mm`` apart around the middle of the head, those inside it."""
    occupied = np.flatnonzero(to_sagittal(volume.with_array(head_mask(volume.array), kind="mask")).any(axis=(1, 2)))
    middle, gap = (occupied[0] + occupied[-1]) / 2, gap_mm / float(sagittal_affine(volume)[0, 0])
    wanted = np.round(middle + gap * (np.arange(count) - (count - 1) / 2)).astype(int)
    return [int(k) for k in np.unique(wanted) if occupied[0] < k < occupied[-1]]


def trace_name(preset: str, trace: Trajectory) -> str:
    """A name for exactly this motion."""
    return f"{preset}-{digest(trace.rows.round(6).tobytes())[:10]}"


def assert_other_traces(training: StackPairs, test: StackPairs) -> None:
    """Raise AssertionError where a trace is both trained on and tested on, which MC-Net's 78 traces were."""
    both = {facts["trace"] for facts in training.facts} & {facts["trace"] for facts in test.facts}
    if both:
        raise AssertionError(f"trace {min(both)} is both in training and in test")


def _name(scan: BidsScan, number: int) -> str:
    return f"{scan.name}_trace{number:03d}"


@dataclass(frozen=True)
class ComparisonSettings(RecipeSettings):
    """Settings of a recipe that compares correctors.

    variants     how each is trained, by the name of its stage
    simulation   of the pairs that all of them share
    inception    torchvision's inception_v3 weights, where the Inception Score is asked for
    """

    variants: Mapping[str, CorrectorConfiguration]
    simulation: PairPlan
    inception: str | None = None
    uses: ClassVar[Uses] = Uses(("clean",), TRAINING, {
        "prior": "pairs to train on", "correction": "pairs to train on", "test": "table only, other motion traces",
    })  # fmt: skip


ComparisonWork = Work[ComparisonSettings]


def comparison_stages(
    sets: Sequence[Traces], titles: Mapping[str, str], tabulate: Callable[[ComparisonWork], dict[str, Any]],
    leaves: Sequence[str] = (),
) -> tuple[RecipeStage[ComparisonSettings], ...]:  # fmt: skip
    """The split, then for each set of traces its pairs and every variant on them, then the table.

    titles  name of a variant, as in ``ComparisonSettings.variants``: what the table calls it
    leaves  what ``tabulate`` leaves beside the table
    """
    stages: list[RecipeStage[ComparisonSettings]] = [split_stage(
        lambda settings: any(plan.validation_share > 0 for plan in settings.variants.values())
    )]  # fmt: skip
    for traces in sets:
        made = (traces.folder, traces.test_folder)
        simulating = partial(simulate_pairs, traces=traces)
        stages.append(RecipeStage(traces.folder, (MANIFEST,), made, simulating, f"Simulated pairs, {traces.title}"))
        for variant, title in titles.items():
            name, training = stage_name(traces, variant), partial(train_variant, traces=traces, variant=variant)
            leaf = (f"{name}.safetensors",)
            stages.append(RecipeStage(name, (traces.folder,), leaf, training, f"{title}, {traces.title}"))
    models = tuple(stage_name(traces, variant) for traces in sets for variant in titles)
    return (*stages, RecipeStage(TABLE, models, (*TABLES, *leaves), tabulate))


def stage_name(traces: Traces, variant: str) -> str:
    """Of the stage that trains a variant on a set of pairs, and of its weights."""
    return f"{traces.name}-{variant}"


def simulate_pairs(work: ComparisonWork, traces: Traces) -> dict[str, Any]:
    """Every trace of training on every still scan to train on, every trace of the test on those of the test."""
    plan, manifest, tasks = work.settings.simulation, work.manifest, []
    both = range(plan.training_traces), range(plan.training_traces, plan.training_traces + plan.test_traces)
    folders = work.out / traces.folder, work.out / traces.test_folder
    for splits, folder, numbers in zip((TRAINING, ("test",)), folders, both, strict=True):
        scans = work.cohort.of([subject for split in splits for subject in manifest.splits[split]], "clean")
        assert_split(folder.name, {scan.subject for scan in scans}, manifest, *splits)
        tasks += [partial(simulate_traces, scan, traces, numbers, plan, folder) for scan in scans]
    run_all(tasks, work.jobs, work.progress, "Simulating")
    training, test = (StackPairs(folder) for folder in folders)
    assert_other_traces(training, test)
    return {"pairs": len(training), "test_pairs": len(test), "subjects": training.subjects}


def train_variant(work: ComparisonWork, traces: Traces, variant: str) -> dict[str, Any]:
    """Train one of the correctors."""
    folder = work.out / traces.folder
    start = stack_run(folder, work.settings.simulation.spacing_mm, "simulated", hardware=work.hardware)
    assert_other_traces(StackPairs(folder), StackPairs(work.out / traces.test_folder))
    return train_corrector(work, stage_name(traces, variant), work.settings.variants[variant], start, TRAINING)


def measure_variants(
    work: ComparisonWork, traces: Traces, titles: Mapping[str, str]
) -> tuple[Measured, StackPairs, dict[str, SliceMethod]]:
    """Doing nothing, every variant and the denoiser on the test pairs of a set; the pairs, and the methods by title."""
    device = choose_device(work.device)
    methods: dict[str, SliceMethod] = {Measured.INPUT: nothing}
    for variant, title in titles.items():
        methods[title] = correction(load_checkpoint(work.weights(stage_name(traces, variant)))[0], device)
    methods[DENOISER] = one_by_one(DENOISERS[DENOISER])
    pairs = StackPairs(work.out / traces.test_folder)
    assert_other_traces(StackPairs(work.out / traces.folder), pairs)
    return measure_slices(traces.title, pairs, methods, work.manifest), pairs, methods
