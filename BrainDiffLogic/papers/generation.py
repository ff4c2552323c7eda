"""The stages up to injected pairs: slices, autoencoder, motion prior and control, injection."""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from BrainDiffLogic.images.outputs import staged_output
from BrainDiffLogic.injection.inject import inject, load_prior
from BrainDiffLogic.injection.job import InjectedPairs, item_name, synthesize
from BrainDiffLogic.injection.picture import injection_picture
from BrainDiffLogic.papers.found import assert_split
from BrainDiffLogic.papers.settings import Settings
from BrainDiffLogic.papers.work import Work
from BrainDiffLogic.training.ldm import export_ldm, prior_slices, train_ldm
from BrainDiffLogic.training.slice_store import SliceStore, build_store
from BrainDiffLogic.training.vae import export_vae, train_vae

Facts = dict[str, Any]
PICTURE = "injected.png"


def slices(work: Work[Settings]) -> Facts:
    """Sagittal slices of all scans."""
    settings = work.settings
    store = build_store(
        work.cohort.scans, work.manifest, work.out / "slices", settings.canvas, settings.spacing_mm, settings.step,
        work.progress,
    )  # fmt: skip
    return {"slices": {name: len(store.select(split=name)) for name in ("prior", "correction", "test")}}


def autoencoder(work: Work[Settings]) -> Facts:
    """Phase 1."""
    plan, folder = work.settings.vae, work.out / "slices"
    used = {subject for name in plan.splits for subject in SliceStore(folder).subjects(name)}
    assert_split("vae", used, work.manifest, "prior", "correction")
    checkpoint = train_vae(plan, folder, work.out / "vae", work.hardware)
    card = export_vae(plan, checkpoint, work.weights("vae"), folder)
    return {"subjects": sorted(used), "validation": card["training"]["validation"]}


def motion_prior(work: Work[Settings]) -> Facts:
    """Phase 2 on scans with motion."""
    return _prior(work, "motion", "ldm")


def clean_prior(work: Work[Settings]) -> Facts:
    """Phase 2 on clean scans: what its injection changes is the autoencoder's and the sampler's, not motion."""
    return _prior(work, "clean", "ldm-clean")


def _prior(work: Work[Settings], group: str, name: str) -> Facts:
    plan, folder, store = replace(work.settings.ldm, group=group), work.out / "slices", work.store
    used = {store.items[n]["subject"] for n in prior_slices(store, group)}
    assert_split(name, used, work.manifest, "prior")
    vae = work.weights("vae")
    checkpoint = train_ldm(plan, folder, vae, work.out / name, work.hardware)
    card = export_ldm(plan, checkpoint, work.weights(name), folder, vae)
    return {"subjects": sorted(used), "group": group, "scale": card["scale"]}


def injection(work: Work[Settings]) -> Facts:
    """Phase 3: pairs of the correction split, and a picture of a slice beside what the control does to it."""
    facts = _inject(work, "injected", "ldm", "correction")
    if find_spec("matplotlib") is None:
        return {**facts, "picture": "not drawn: pip install 'braindiff[demo]'"}
    _draw(work, work.out / PICTURE)
    return {**facts, "picture": PICTURE}


def injection_for_test(work: Work[Settings]) -> Facts:
    """Injected slices of the test split, by both priors: for the table alone."""
    return {
        "motion prior": _inject(work, "injected-test", "ldm", "test"),
        "clean prior": _inject(work, "injected-test-clean", "ldm-clean", "test"),
    }


def _inject(work: Work[Settings], folder: str, ldm: str, name: str) -> Facts:
    store = work.store
    assert_split(folder, {store.items[n]["subject"] for n in store.select(name, "clean")}, work.manifest, name)
    prior, cards = load_prior(work.weights("vae"), work.weights(ldm), work.device)
    made = synthesize(
        store, prior, cards, work.out / folder, work.settings.injection, split=name, progress=work.progress
    )
    return {**asdict(made), "rejected_share": made.rejected_share}


def _draw(work: Work[Settings], path: Path) -> None:
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
