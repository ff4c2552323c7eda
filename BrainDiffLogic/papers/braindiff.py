"""``reproduce braindiff``: its four phases, and Table I with the rows that the paper forgot."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from BrainDiffLogic.data.bids import BidsScan
from BrainDiffLogic.data.pairing import align_reference
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.evaluation.methods import DENOISERS
from BrainDiffLogic.images import read_volume
from BrainDiffLogic.images.outputs import staged_output
from BrainDiffLogic.inference import choose_device
from BrainDiffLogic.models.checkpoints import load_checkpoint
from BrainDiffLogic.models.generative import load_vae
from BrainDiffLogic.motion.kspace import phase_encode_axis
from BrainDiffLogic.motion.presets import draw_up_to
from BrainDiffLogic.motion.simulation import simulate_motion
from BrainDiffLogic.papers.run import (
    MANIFEST,
    TABLES,
    RecipeSettings,
    RecipeStage,
    Uses,
    Work,
    assert_split,
    check_size,
    describe,
    split_stage,
    train_corrector,
)
from BrainDiffLogic.papers.table import (
    PSNR,
    REST,
    SSIM,
    Layout,
    Measured,
    PaperTable,
    SliceMethod,
    TableRow,
    correction,
    measure_slices,
    nothing,
    one_by_one,
    write_paper_table,
)
from BrainDiffLogic.pictures import injection_picture
from BrainDiffLogic.progress import run_all
from BrainDiffLogic.training.configuration import CorrectorConfiguration, LdmConfiguration, VaeConfiguration
from BrainDiffLogic.training.fields import read_section
from BrainDiffLogic.training.injected_pairs import InjectedPairs, injected_run, item_name, summary, synthesize, versions
from BrainDiffLogic.training.injection import PAPER, InjectionSettings, inject, load_prior
from BrainDiffLogic.training.ldm import export_ldm, prior_slices, train_ldm
from BrainDiffLogic.training.slice_store import (
    SliceStore,
    StackPairs,
    build_store,
    has_stack,
    pair_slices,
    stack_run,
    write_stack,
)
from BrainDiffLogic.training.vae import export_vae, train_vae

PHYSICS_LEVELS = ("nod", "drift", "steps", "swallow", "tremor")
"""Presets of the physics pairs: as many as injection makes variants, so that both correctors see as many pairs."""
PHYSICS_SEVERITY_MM = (0.5, 5.0)
"""Mean displacement, drawn log-uniformly. Chosen without looking at the test's motion."""

USES = Uses(("clean", "motion"), ("correction",), {
    "prior": "vae: both groups; ldm: motion; ldm-clean: clean",
    "correction": "vae: both groups; injected, physics, correctors: clean",
    "test": "table only: clean, and the pairs with motion",
})  # fmt: skip


@dataclass(frozen=True)
class BrainDiffSettings(RecipeSettings):
    """Settings of ``braindiff reproduce braindiff``.

    canvas, spacing_mm, step  of the slices, see ``slice_store.build_store``
    vae, ldm, corrector       of phases 1, 2 (motion; the control differs in its group alone) and 4
    injection                 of phase 3
    pe_axis                   phase encoding of the physics pairs
    """

    canvas: tuple[int, int]
    spacing_mm: float | None
    vae: VaeConfiguration
    ldm: LdmConfiguration
    corrector: CorrectorConfiguration
    injection: InjectionSettings = field(default_factory=InjectionSettings)
    step: int = 1
    physics_levels: tuple[str, ...] = PHYSICS_LEVELS
    physics_severity_mm: tuple[float, float] = PHYSICS_SEVERITY_MM
    pe_axis: str = "AP"
    uses: ClassVar[Uses] = USES


def braindiff_settings(
    size: str, *, perceptual: str | None = None, vgg: Path | None = None, paper_injection: bool = False, seed: int = 0
) -> BrainDiffSettings:
    """The settings of a size.

    compact  2 mm pixels on 96 x 128, every third slice: little more than an hour on two cores
    paper    1 mm on 192 x 256, the published networks and losses: for a GPU
    perceptual, vgg  of phase 1 instead of the configuration's; the paper's LPIPS needs the file of VGG weights
    paper_injection  phase 3 to the letter (``injection.PAPER``) instead of the default, which keeps the anatomy
    Raises InputError for another size, and where LPIPS has no file of weights.
    """
    check_size(size)
    suffix = "-paper" if size == "paper" else ""
    options = {"vgg": str(vgg)} if vgg else None
    vae = read_section(VaeConfiguration, f"vae{suffix}", perceptual=perceptual, perceptual_options=options)
    if vae.perceptual == "lpips" and not vae.perceptual_options.get("vgg"):
        raise InputError("the paper's perceptual term needs --vgg, torchvision's weights; or --perceptual gradient")
    return BrainDiffSettings(
        canvas=(192, 256) if suffix else (96, 128), spacing_mm=1.0 if suffix else 2.0, step=1 if suffix else 3,
        vae=vae, ldm=read_section(LdmConfiguration, f"ldm{suffix}"),
        corrector=read_section(CorrectorConfiguration, f"braindiff{suffix}"),
        injection=replace(PAPER if paper_injection else InjectionSettings(), seed=seed),
    )  # fmt: skip


def without_contrast(corrector: CorrectorConfiguration) -> CorrectorConfiguration:
    """The ablation: the same configuration, the weight of info_nce 0."""
    stages = [
        replace(stage, loss={term: 0.0 if term == "info_nce" else weight for term, weight in stage.loss.items()})
        for stage in corrector.stages
    ]
    return replace(corrector, stages=stages)


Facts = dict[str, Any]
PICTURE = "injected.png"


def slices(work: Work[BrainDiffSettings]) -> Facts:
    """Sagittal slices of all scans."""
    settings = work.settings
    store = build_store(
        work.cohort.scans, work.manifest, work.out / "slices", settings.canvas, settings.spacing_mm, settings.step,
        work.progress,
    )  # fmt: skip
    return {"slices": {name: len(store.select(split=name)) for name in ("prior", "correction", "test")}}


def autoencoder(work: Work[BrainDiffSettings]) -> Facts:
    """Phase 1."""
    plan, folder = work.settings.vae, work.out / "slices"
    used = {subject for name in plan.splits for subject in SliceStore(folder).subjects(name)}
    assert_split("vae", used, work.manifest, "prior", "correction")
    checkpoint = train_vae(plan, folder, work.out / "vae", work.hardware)
    card = export_vae(plan, checkpoint, work.weights("vae"), folder)
    return {"subjects": sorted(used), "validation": card["training"]["validation"]}


def prior(work: Work[BrainDiffSettings], group: str, name: str) -> Facts:
    """Phase 2 on the scans of a group."""
    plan, folder, store = replace(work.settings.ldm, group=group), work.out / "slices", work.store
    used = {store.items[n]["subject"] for n in prior_slices(store, group)}
    assert_split(name, used, work.manifest, "prior")
    vae = work.weights("vae")
    checkpoint = train_ldm(plan, folder, vae, work.out / name, work.hardware)
    card = export_ldm(plan, checkpoint, work.weights(name), folder, vae)
    return {"subjects": sorted(used), "group": group, "scale": card["scale"]}


def injection(work: Work[BrainDiffSettings]) -> Facts:
    """Phase 3: pairs of the correction split, and a picture of a slice beside what the control does to it."""
    facts = _inject(work, "injected", "ldm", "correction")
    if find_spec("matplotlib") is None:
        return {**facts, "picture": "not drawn: pip install 'braindiff[demo]'"}
    _draw(work, work.out / PICTURE)
    return {**facts, "picture": PICTURE}


def injection_for_test(work: Work[BrainDiffSettings]) -> Facts:
    """Injected slices of the test split, by both priors: for the table alone."""
    return {
        "motion prior": _inject(work, "injected-test", "ldm", "test"),
        "clean prior": _inject(work, "injected-test-clean", "ldm-clean", "test"),
    }


def _inject(work: Work[BrainDiffSettings], folder: str, ldm: str, name: str) -> Facts:
    store = work.store
    assert_split(folder, {store.items[n]["subject"] for n in store.select(name, "clean")}, work.manifest, name)
    prior, cards = load_prior(work.weights("vae"), work.weights(ldm), work.device)
    made = synthesize(
        store, prior, cards, work.out / folder, work.settings.injection, split=name, progress=work.progress
    )
    return {**asdict(made), "rejected_share": made.rejected_share}


def _draw(work: Work[BrainDiffSettings], path: Path) -> None:
    """The fullest slice, its versions, and those of the clean prior."""
    pairs = InjectedPairs(work.out / "injected")
    store, index = work.store, pairs.facts[pairs.fullest()[0]]["index"]
    item, clean = store.items[index], store.array[index].astype(np.float32)
    moved, captions = {}, {}
    for title, ldm in (("motion prior", "ldm"), ("clean prior", "ldm-clean")):
        prior, _ = load_prior(work.weights("vae"), work.weights(ldm), work.device)
        made = inject(prior, clean[None], [item_name(item)], work.settings.injection)
        moved[title] = list(made.images[0])
        captions[title] = [f"signal {s:.2f} (t {t})" for s, t in zip(made.signal[0], made.t[0], strict=True)]
    with staged_output(path) as staged:
        injection_picture(clean, moved, captions, staged, f"{item['scan']}, sagittal slice {item['slice']}")


EMPTY = 0.1
"""A reference slice whose brightest pixel is darker, in network units, lies outside the still scan: not compared."""


def physics_pairs(work: Work[BrainDiffSettings]) -> Facts:
    """Motion simulated on the still scans of the correction split: the slices that injection has, as many versions."""
    manifest, store, settings = work.manifest, work.store, work.settings
    scans = work.cohort.of(manifest.splits["correction"], "clean")
    assert_split("physics", {scan.subject for scan in scans}, manifest, "correction")
    folder = work.out / "physics"
    tasks = [
        partial(simulate_scan, scan, level, store.slices_of(scan), settings, folder)
        for scan in scans for level in settings.physics_levels if not has_stack(folder, f"{scan.name}_{level}")
    ]  # fmt: skip
    run_all(tasks, work.jobs, work.progress, "Simulating")
    pairs = StackPairs(folder)
    return {"pairs": len(pairs), "subjects": pairs.subjects, "motion": list(settings.physics_levels)}


def simulate_scan(scan: BidsScan, level: str, slices: Sequence[int], settings: BrainDiffSettings, folder: Path) -> None:
    """Write the pair of one still scan and one kind of motion; it depends on the scan's name and the kind alone."""
    seed = [settings.injection.seed, zlib.crc32(scan.name.encode()), zlib.crc32(level.encode())]
    low, high = np.log(settings.physics_severity_mm)
    severity = float(np.exp(np.random.default_rng(seed).uniform(low, high)))
    still = read_volume(scan.path)
    lines = still.shape[phase_encode_axis(still.affine, settings.pe_axis)]
    made = simulate_motion(still, draw_up_to(level, lines, severity, seed), settings.pe_axis)
    stacks = pair_slices(made.moved, made.reference, slices, settings.canvas, settings.spacing_mm)
    facts = {"subject": scan.subject, "scan": scan.path.name, "level": level, "severity_mm": made.severity}
    write_stack(folder, f"{scan.name}_{level}", stacks, {**facts, "slices": list(slices)})


def motion_test_pairs(work: Work[BrainDiffSettings]) -> Facts:
    """The pairs of the test split: still scans registered with the moved ones, resampled onto them, at their gain."""
    manifest, store = work.manifest, work.store
    chosen = [pair for pair in work.cohort.pairs if pair[1].subject in manifest.splits["test"]]
    folder = work.out / "motion-test"
    folder.mkdir(exist_ok=True)
    if not chosen:
        return {"pairs": 0}
    assert_split("motion-test", {scan.subject for pair in chosen for scan in pair}, manifest, "test")
    tasks = [
        partial(align, still, moved, store.slices_of(moved), work.settings, folder)
        for still, moved in chosen if not has_stack(folder, moved.name)
    ]  # fmt: skip
    run_all(tasks, work.jobs, work.progress, "Registering")
    pairs = StackPairs(folder)
    return {"pairs": len(pairs), "scans": len(chosen), "subjects": pairs.subjects}


def align(still: BidsScan, moved: BidsScan, slices: Sequence[int], settings: BrainDiffSettings, folder: Path) -> None:
    """Write the slices of a moved scan, never resampled in 3D, and of its aligned reference."""
    if still.subject != moved.subject:
        raise AssertionError(f"{still.name} and {moved.name} are no pair")
    scan = read_volume(moved.path)
    alignment = align_reference(read_volume(still.path), scan)
    stacks = pair_slices(scan, alignment.reference, slices, settings.canvas, settings.spacing_mm)
    kept = stacks[1].max(axis=(1, 2)) > EMPTY
    facts = {
        "subject": moved.subject, "scan": moved.path.name, "level": moved.level, "still": still.path.name,
        "slices": [k for k, full in zip(slices, kept, strict=True) if full], "alignment": alignment.as_dict(),
    }  # fmt: skip
    write_stack(folder, moved.name, stacks[:, kept], facts)


CORRECTORS = {
    "corrector": "corrector, L1 + InfoNCE",
    "corrector-l1": "corrector, L1 alone",
    "corrector-physics": "corrector, simulated pairs",
}
"""Stage: what the table calls it."""


def corrector(work: Work[BrainDiffSettings], name: str) -> Facts:
    """Phase 4; without its contrastive term; or its network, loss and slices, the motion simulated."""
    configuration, vae = work.settings.corrector, work.weights("vae")
    if name == "corrector-l1":
        configuration = without_contrast(configuration)
    if name == "corrector-physics":
        start = stack_run(work.out / "physics", work.settings.spacing_mm, "simulated", vae, work.hardware)
    else:
        start = injected_run(work.out / "injected", vae, work.hardware)
    return train_corrector(work, name, configuration, start)


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


def tabulate(work: Work[BrainDiffSettings]) -> Facts:
    """Measure everything on the test split and write the table."""
    work.progress(0.0, "Measuring")
    sections = [*reconstruction(work), *injections(work)]
    methods = all_methods(work)
    injected = InjectedPairs(work.out / "injected-test")
    sections.append(measure_slices(INJECTED, injected, methods, work.manifest))
    work.progress(0.5, "Measuring")
    if any((work.out / "motion-test").glob("*.json")):
        sections.append(measure_slices(MOTION, StackPairs(work.out / "motion-test"), methods, work.manifest))
    rows = [row for section in sections for row in section.rows()]
    cohort = describe(work.cohort, work.manifest, work.settings.uses)
    write_paper_table(work.out, LAYOUT, rows, cohort, notes(work, rows), work.log())
    work.progress(1.0, "Measuring")
    return {"rows": len(rows), "ssim_fell": [f"{row.section}: {row.method}" for row in rows if row.ssim_fell]}


def notes(work: Work[BrainDiffSettings], rows: list[TableRow]) -> list[str]:
    """What a reader of the table must know beside the convention."""
    rejected = {
        name: summary(work.out / folder).rejected_share
        for name, folder in (("motion", "injected-test"), ("clean", "injected-test-clean"))
    }
    lines = [
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
        lines.append(
            f"The autoencoder alone loses more (MRE {mre[CLEAN, RECONSTRUCTION]:.3f}) than the motion costs"
            f" ({mre[MOTION, Measured.INPUT]:.3f}): a prior of its latents cannot hold such motion. Train it longer"
            " or on smaller pixels, or give scans with more motion."
        )
    if not any(row.section == MOTION for row in rows):
        lines.append("No subject of the test split has a pair of a still and a moved scan: no motion rows.")
    return lines


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
    RecipeStage("slices", (MANIFEST,), ("slices/slices.json",), slices),
    RecipeStage("vae", ("slices",), ("vae.safetensors",), autoencoder),
    RecipeStage("ldm", ("vae",), ("ldm.safetensors",), partial(prior, group="motion", name="ldm"),
                "Phase 2 on scans with motion"),
    RecipeStage("ldm-clean", ("vae",), ("ldm-clean.safetensors",), partial(prior, group="clean", name="ldm-clean"),
                "Phase 2 on clean scans: what its injection changes is the autoencoder's and the sampler's"),
    RecipeStage("injected", ("ldm", "ldm-clean"), ("injected/job.json",), injection),
    RecipeStage(
        "injected-test", ("ldm", "ldm-clean"), ("injected-test/job.json", "injected-test-clean/job.json"),
        injection_for_test,
    ),
    RecipeStage("motion-test", ("slices",), ("motion-test",), motion_test_pairs),
    RecipeStage("corrector", ("injected",), ("corrector.safetensors",), partial(corrector, name="corrector"),
                "Phase 4"),
    RecipeStage("corrector-l1", ("injected",), ("corrector-l1.safetensors",), partial(corrector, name="corrector-l1"),
                "Phase 4 without the contrastive term"),
    RecipeStage("physics", ("slices",), ("physics",), physics_pairs),
    RecipeStage("corrector-physics", ("physics", "vae"), ("corrector-physics.safetensors",),
                partial(corrector, name="corrector-physics"),
                "The network, loss and slices of phase 4, the motion simulated"),
    RecipeStage("table", ("injected-test", "motion-test", *CORRECTORS), TABLES, tabulate),
)  # fmt: skip
