"""The stages of BrainDiff: slices, autoencoder, motion prior and control, injection, rival pairs, correctors."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from BrainDiffLogic.data.bids import Scan
from BrainDiffLogic.data.pairing import align_reference
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import read_volume
from BrainDiffLogic.images.outputs import staged_output
from BrainDiffLogic.injection.inject import inject, load_prior
from BrainDiffLogic.injection.job import InjectedPairs, injected_run, item_name, synthesize
from BrainDiffLogic.injection.picture import injection_picture
from BrainDiffLogic.motion.kspace import phase_encode_axis
from BrainDiffLogic.motion.presets import draw_up_to
from BrainDiffLogic.motion.simulation import simulate_motion
from BrainDiffLogic.papers.braindiff_settings import BrainDiffSettings, without_contrast
from BrainDiffLogic.papers.cohort import assert_split
from BrainDiffLogic.papers.run import Work, train_corrector
from BrainDiffLogic.parallel import run_all
from BrainDiffLogic.training.ldm import export_ldm, prior_slices, train_ldm
from BrainDiffLogic.training.slice_pairs import PairRun, StackPairs, has_stack, pair_slices, stack_run, write_stack
from BrainDiffLogic.training.slice_store import SliceStore, build_store
from BrainDiffLogic.training.vae import export_vae, train_vae

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


def motion_prior(work: Work[BrainDiffSettings]) -> Facts:
    """Phase 2 on scans with motion."""
    return _prior(work, "motion", "ldm")


def clean_prior(work: Work[BrainDiffSettings]) -> Facts:
    """Phase 2 on clean scans: what its injection changes is the autoencoder's and the sampler's, not motion."""
    return _prior(work, "clean", "ldm-clean")


def _prior(work: Work[BrainDiffSettings], group: str, name: str) -> Facts:
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
    """The fullest clean slice of those with most accepted versions, its versions, and those of the clean prior."""
    pairs = InjectedPairs(work.out / "injected")
    versions: dict[int, list[int]] = {}
    for number, facts in enumerate(pairs.facts):
        versions.setdefault(facts["index"], []).append(number)
    store = work.store
    index = max(versions, key=lambda n: (len(versions[n]), float(store.array[n].sum(dtype=np.float64))))
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


def physics_pairs(work: Work[BrainDiffSettings]) -> dict[str, Any]:
    """Motion simulated on the still scans of the correction split: the slices that injection has, as many versions."""
    manifest, store, settings = work.manifest, work.store, work.settings
    scans = work.cohort.of(manifest.splits["correction"], "clean")
    assert_split("physics", {scan.subject for scan in scans}, manifest, "correction")
    folder = work.out / "physics"
    tasks = [
        partial(simulate, scan, level, slices_of(store, scan), settings, folder)
        for scan in scans for level in settings.physics_levels if not has_stack(folder, f"{scan.name}_{level}")
    ]  # fmt: skip
    run_all(tasks, work.jobs, work.progress, "Simulating")
    pairs = StackPairs(folder)
    return {"pairs": len(pairs), "subjects": pairs.subjects, "motion": list(settings.physics_levels)}


def simulate(scan: Scan, level: str, slices: Sequence[int], settings: BrainDiffSettings, folder: Path) -> None:
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


def motion_test_pairs(work: Work[BrainDiffSettings]) -> dict[str, Any]:
    """The pairs of the test split: still scans registered with the moved ones, resampled onto them, at their gain."""
    manifest, store = work.manifest, work.store
    chosen = [pair for pair in work.cohort.pairs if pair[1].subject in manifest.splits["test"]]
    folder = work.out / "motion-test"
    folder.mkdir(exist_ok=True)
    if not chosen:
        return {"pairs": 0}
    assert_split("motion-test", {scan.subject for pair in chosen for scan in pair}, manifest, "test")
    tasks = [
        partial(align, still, moved, slices_of(store, moved), work.settings, folder)
        for still, moved in chosen if not has_stack(folder, moved.name)
    ]  # fmt: skip
    run_all(tasks, work.jobs, work.progress, "Registering")
    pairs = StackPairs(folder)
    return {"pairs": len(pairs), "scans": len(chosen), "subjects": pairs.subjects}


def align(still: Scan, moved: Scan, slices: Sequence[int], settings: BrainDiffSettings, folder: Path) -> None:
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


def slices_of(store: SliceStore, scan: Scan) -> list[int]:
    """The indices of a scan's slices that the store holds. Raises InputError for none."""
    found = [item["slice"] for item in store.items if item["scan"] == scan.path.name]
    if not found:
        raise InputError(f"{scan.path}: has no slices in {store.folder}; delete that folder and make them again")
    return found

CORRECTORS = {
    "corrector": "corrector, L1 + InfoNCE",
    "corrector-l1": "corrector, L1 alone",
    "corrector-physics": "corrector, simulated pairs",
}
"""Stage: what the table calls it."""


def corrector(work: Work[BrainDiffSettings]) -> dict[str, Any]:
    """Phase 4."""
    return train_corrector(work, "corrector", work.settings.corrector, _injected(work))


def corrector_without_contrast(work: Work[BrainDiffSettings]) -> dict[str, Any]:
    """Phase 4 without the contrastive term."""
    return train_corrector(work, "corrector-l1", without_contrast(work.settings.corrector), _injected(work))


def physics_corrector(work: Work[BrainDiffSettings]) -> dict[str, Any]:
    """The network, loss and slices of phase 4, the motion simulated."""
    start = stack_run(
        work.out / "physics", work.settings.spacing_mm, "simulated", work.weights("vae"), work.hardware
    )
    return train_corrector(work, "corrector-physics", work.settings.corrector, start)


def _injected(work: Work[BrainDiffSettings]) -> PairRun:
    return injected_run(work.out / "injected", work.weights("vae"), work.hardware)
