"""``reproduce braindiff``: its four phases, and Table I with the rows that the paper forgot."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from BrainDiffLogic.evaluation.methods import DENOISERS
from BrainDiffLogic.inference import choose_device
from BrainDiffLogic.injection.job import InjectedPairs, summary, versions
from BrainDiffLogic.models.checkpoints import load_checkpoint
from BrainDiffLogic.papers import braindiff_stages as stages
from BrainDiffLogic.papers.braindiff_settings import BrainDiffSettings
from BrainDiffLogic.papers.braindiff_stages import CORRECTORS
from BrainDiffLogic.papers.cohort import assert_split, describe
from BrainDiffLogic.papers.report import PSNR, REST, SSIM, Layout, PaperTable, write_report
from BrainDiffLogic.papers.run import MANIFEST, TABLES, RecipeStage, Work, split_stage
from BrainDiffLogic.papers.slices import Measured, SliceMethod, TableRow, correction, measure, nothing, one_by_one
from BrainDiffLogic.training.generative_checkpoints import load_vae
from BrainDiffLogic.training.slice_pairs import StackPairs

CLEAN, INJECTION = "clean test slices", "injection into clean test slices"
WHOLE = "clean test slices, with the air around the head"
"""Perhaps the paper's convention, which names no mask: the row to hold against its own."""
RECONSTRUCTION = "VAE reconstruction"
INJECTED, MOTION = "injected test pairs", "motion test pairs, never seen"
LAYOUT = Layout(
    "Table I on your data: subjects of the test split",
    {**PSNR, **SSIM, **REST},
    [PaperTable(
        "The paper's own Table I, on its own data", {"Stage": "", "PSNR": ".2f", "SSIM": ".4f", "MRE": ".4f"},
        (
            ("VAE (Reconstruction)", 30.60, 0.8707, 0.0443),
            ("LDM (Artifact Injection)", 21.46, 0.6360, 0.1337),
            ("Corrector (Restoration)", 22.12, 0.5724, 0.1072),
        ),
        "MR-ART; the paper states no convention, no do-nothing row and no number of slices, so that its numbers compare"
        " with each other alone. Its corrector's SSIM lies below that of its injected input.",
    )],
)  # fmt: skip
"""BrainDiff, Table I."""


def tabulate(work: Work[BrainDiffSettings]) -> dict[str, Any]:
    """Measure everything on the test split and write the table."""
    work.progress(0.0, "Measuring")
    sections = [*reconstruction(work), *injections(work)]
    methods = all_methods(work)
    injected = InjectedPairs(work.out / "injected-test")
    sections.append(measure(INJECTED, injected, methods, work.manifest))
    work.progress(0.5, "Measuring")
    if any((work.out / "motion-test").glob("*.json")):
        sections.append(measure(MOTION, StackPairs(work.out / "motion-test"), methods, work.manifest))
    rows = [row for section in sections for row in section.rows()]
    cohort = describe(work.cohort, work.manifest, work.settings.uses)
    write_report(work.out, LAYOUT, rows, cohort, notes(work, rows), work.log())
    work.progress(1.0, "Measuring")
    return {"rows": len(rows), "ssim_fell": [f"{row.section}: {row.method}" for row in rows if row.ssim_fell]}


def notes(work: Work[BrainDiffSettings], rows: list[TableRow]) -> list[str]:
    """What a reader of the table must know beside the convention."""
    rejected = {
        name: summary(work.out / folder).rejected_share
        for name, folder in (("motion", "injected-test"), ("clean", "injected-test-clean"))
    }
    found = [
        "Injected slices: accepted versions only; rejected for drifted anatomy:"
        f" {100 * rejected['motion']:.1f} % of the motion prior's, {100 * rejected['clean']:.1f} % of the control's.",
        f"The changes that the two priors make from the same noise correlate with {shared_change(work):.2f} (mean over"
        " all versions): what they share is anatomy and sampling, not motion.",
        "Motion pairs: the still scan is registered with the moved one and resampled; the moved scan never is.",
        "The corrector on simulated pairs has the network, loss and slices of the first; where the cohort's motion is"
        " simulated too, it trained on the test's own simulator.",
    ]
    mre = {(row.section, row.method): row.mre for row in rows}
    if mre.get((MOTION, Measured.INPUT), np.inf) <= mre[CLEAN, RECONSTRUCTION]:
        found.append(
            f"The autoencoder alone loses more (MRE {mre[CLEAN, RECONSTRUCTION]:.3f}) than the motion costs"
            f" ({mre[MOTION, Measured.INPUT]:.3f}): a prior of its latents cannot hold such motion. Train it longer"
            " or on smaller pixels, or give scans with more motion."
        )
    if not any(row.section == MOTION for row in rows):
        found.append("No subject of the test split has a pair of a still and a moved scan: no motion rows.")
    return found


def reconstruction(work: Work[BrainDiffSettings]) -> list[Measured]:
    """The autoencoder on clean slices of the test split, in the head and on all of the slice."""
    store, device = work.store, choose_device(work.device)
    network, _ = load_vae(work.weights("vae"), frozen=True)
    network.to(device)
    chosen = store.select(split="test", group="clean")
    subjects = [store.items[n]["subject"] for n in chosen]
    assert_split("table", subjects, work.manifest, "test")
    sections = [Measured(CLEAN), Measured(WHOLE, whole=True)]
    for n, subject in zip(chosen, subjects, strict=True):
        clean = store.array[n].astype(np.float32)
        with torch.inference_mode():
            image = network.reconstruct(torch.from_numpy(clean)[None, None].to(device)).float().cpu().numpy()[0, 0]
        for measured in sections:
            measured.add(subject, clean, {RECONSTRUCTION: image})
    return sections


def injections(work: Work[BrainDiffSettings]) -> list[Measured]:
    """What the motion prior and the control do to clean slices."""
    sections = []
    for method, folder in (("motion prior", "injected-test"), ("clean prior (control)", "injected-test-clean")):
        pairs = InjectedPairs(work.out / folder)
        assert_split("table", pairs.subjects, work.manifest, "test")
        measured = Measured(INJECTION)
        for number, facts in enumerate(pairs.facts):
            sample = pairs[number]
            measured.add(facts["subject"], sample["clean"][0].numpy(), {method: sample["moved"][0].numpy()})
        sections.append(measured)
    return sections


def shared_change(work: Work[BrainDiffSettings]) -> float:
    """Correlation between the changes that the two priors make from the same noise, mean over all versions."""
    shared = []
    jobs = (versions(work.out / name) for name in ("injected-test", "injected-test-clean"))
    for motion, clean in zip(*jobs, strict=True):
        for one, other in zip(motion[1:] - motion[0], clean[1:] - clean[0], strict=True):
            if one.any() and other.any():
                shared.append(np.corrcoef(one.ravel(), other.ravel())[0, 1])
    return float(np.mean(shared)) if shared else float("nan")


def all_methods(work: Work[BrainDiffSettings]) -> dict[str, SliceMethod]:
    """Doing nothing, the correctors and the denoisers by the names of their rows."""
    device = choose_device(work.device)
    methods: dict[str, SliceMethod] = {Measured.INPUT: nothing}
    for stage, title in CORRECTORS.items():
        network, _ = load_checkpoint(work.weights(stage))
        methods[title] = correction(network, device)
    for title, denoise in DENOISERS.items():
        methods[title] = one_by_one(denoise)
    return methods

STAGES: tuple[RecipeStage[BrainDiffSettings], ...] = (
    split_stage(lambda settings: settings.corrector.validation_share > 0),
    RecipeStage("slices", (MANIFEST,), ("slices/slices.json",), stages.slices),
    RecipeStage("vae", ("slices",), ("vae.safetensors",), stages.autoencoder),
    RecipeStage("ldm", ("vae",), ("ldm.safetensors",), stages.motion_prior),
    RecipeStage("ldm-clean", ("vae",), ("ldm-clean.safetensors",), stages.clean_prior),
    RecipeStage("injected", ("ldm", "ldm-clean"), ("injected/job.json",), stages.injection),
    RecipeStage(
        "injected-test", ("ldm", "ldm-clean"), ("injected-test/job.json", "injected-test-clean/job.json"),
        stages.injection_for_test,
    ),
    RecipeStage("motion-test", ("slices",), ("motion-test",), stages.motion_test_pairs),
    RecipeStage("corrector", ("injected",), ("corrector.safetensors",), stages.corrector),
    RecipeStage("corrector-l1", ("injected",), ("corrector-l1.safetensors",), stages.corrector_without_contrast),
    RecipeStage("physics", ("slices",), ("physics",), stages.physics_pairs),
    RecipeStage("corrector-physics", ("physics", "vae"), ("corrector-physics.safetensors",), stages.physics_corrector),
    RecipeStage("table", ("injected-test", "motion-test", *CORRECTORS), TABLES, tabulate),
)  # fmt: skip
