"""Correctors that differ in one thing, trained and tested on the same simulated pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, ClassVar

from BrainDiffLogic.data.split import DEFAULT_SHARES
from BrainDiffLogic.evaluation.methods import DENOISERS
from BrainDiffLogic.inference import choose_device
from BrainDiffLogic.models.checkpoints import load_checkpoint
from BrainDiffLogic.papers.correctors import train
from BrainDiffLogic.papers.found import Uses, assert_split
from BrainDiffLogic.papers.measures import Measured
from BrainDiffLogic.papers.methods import Method, correction, measure, nothing, one_by_one
from BrainDiffLogic.papers.report import TABLE, TABLES
from BrainDiffLogic.papers.simulated import Simulating, Traces, assert_other_traces, simulate
from BrainDiffLogic.papers.stages import MANIFEST, Stage, split_stage
from BrainDiffLogic.papers.work import Work
from BrainDiffLogic.parallel import run_all
from BrainDiffLogic.training.configuration import CorrectorConfiguration
from BrainDiffLogic.training.slice_pairs import StackPairs, stack_run

TRAINING = ("prior", "correction")
"""Splits whose subjects are trained on: no motion prior needs its own, and the cohort is split as for BrainDiff."""
DENOISER = "non-local means"
"""The rival in every table that was not trained."""


@dataclass(frozen=True)
class ComparisonSettings:
    """Settings of a recipe that compares correctors.

    variants     how each is trained, by the name of its stage
    simulation   of the pairs that all of them share
    shares, worst_still  as in BrainDiff's ``Settings``
    inception    torchvision's inception_v3 weights, where the Inception Score is asked for
    """

    variants: Mapping[str, CorrectorConfiguration]
    simulation: Simulating
    shares: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_SHARES))
    worst_still: int = 1
    inception: str | None = None
    uses: ClassVar[Uses] = Uses(("clean",), TRAINING, {
        "prior": "pairs to train on", "correction": "pairs to train on", "test": "table only, other motion traces",
    })  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON holds it."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content


ComparisonWork = Work[ComparisonSettings]


def comparison_stages(
    sets: Sequence[Traces], titles: Mapping[str, str], tabulate: Callable[[ComparisonWork], dict[str, Any]],
    leaves: Sequence[str] = (),
) -> tuple[Stage[ComparisonSettings], ...]:  # fmt: skip
    """The split, then for each set of traces its pairs and every variant on them, then the table.

    titles  name of a variant, as in ``ComparisonSettings.variants``: what the table calls it
    leaves  what ``tabulate`` leaves beside the table
    """
    stages: list[Stage[ComparisonSettings]] = [split_stage(_holds_out)]
    for traces in sets:
        made = (traces.folder, traces.test_folder)
        simulating = partial(simulate_pairs, traces=traces)
        stages.append(Stage(traces.folder, (MANIFEST,), made, simulating, f"Simulated pairs, {traces.title}"))
        for variant, title in titles.items():
            name, training = stage_name(traces, variant), partial(train_variant, traces=traces, variant=variant)
            leaf = (f"{name}.safetensors",)
            stages.append(Stage(name, (traces.folder,), leaf, training, f"{title}, {traces.title}"))
    models = tuple(stage_name(traces, variant) for traces in sets for variant in titles)
    return (*stages, Stage(TABLE, models, (*TABLES, *leaves), tabulate))


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
        tasks += [partial(simulate, scan, traces, numbers, plan, folder) for scan in scans]
    run_all(tasks, work.jobs, work.progress, "Simulating")
    training, test = (StackPairs(folder) for folder in folders)
    assert_other_traces(training, test)
    return {"pairs": len(training), "test_pairs": len(test), "subjects": training.subjects}


def train_variant(work: ComparisonWork, traces: Traces, variant: str) -> dict[str, Any]:
    """Train one of the correctors."""
    folder = work.out / traces.folder
    start = stack_run(folder, work.settings.simulation.spacing_mm, "simulated", hardware=work.hardware)
    assert_other_traces(StackPairs(folder), StackPairs(work.out / traces.test_folder))
    return train(work, stage_name(traces, variant), work.settings.variants[variant], start, TRAINING)


def measure_variants(
    work: ComparisonWork, traces: Traces, titles: Mapping[str, str]
) -> tuple[Measured, StackPairs, dict[str, Method]]:
    """Doing nothing, every variant and the denoiser on the test pairs of a set; the pairs, and the methods by title."""
    device = choose_device(work.device)
    methods: dict[str, Method] = {Measured.INPUT: nothing}
    for variant, title in titles.items():
        methods[title] = correction(load_checkpoint(work.weights(stage_name(traces, variant)))[0], device)
    methods[DENOISER] = one_by_one(DENOISERS[DENOISER])
    pairs = StackPairs(work.out / traces.test_folder)
    assert_other_traces(StackPairs(work.out / traces.folder), pairs)
    return measure(traces.title, pairs, methods, work.manifest), pairs, methods


def _holds_out(settings: ComparisonSettings) -> bool:
    return any(plan.validation_share > 0 for plan in settings.variants.values())
