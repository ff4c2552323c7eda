"""Pairs that injection does not make: simulated ones to train a rival on, and real ones to test all on."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from BrainDiffLogic.data.bids import Scan
from BrainDiffLogic.data.pairing import align_reference
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.images import read_volume
from BrainDiffLogic.motion.kspace import phase_encode_axis
from BrainDiffLogic.motion.levels import draw_up_to
from BrainDiffLogic.motion.simulation import simulate_motion
from BrainDiffLogic.papers.found import assert_split
from BrainDiffLogic.papers.settings import Settings
from BrainDiffLogic.papers.work import Work
from BrainDiffLogic.parallel import run_all
from BrainDiffLogic.training.slice_pairs import StackPairs, has_stack, pair_slices, write_stack
from BrainDiffLogic.training.slice_store import SliceStore

EMPTY = 0.1
"""A reference slice whose brightest pixel is darker, in network units, lies outside the still scan: not compared."""


def physics_pairs(work: Work[Settings]) -> dict[str, Any]:
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


def simulate(scan: Scan, level: str, slices: Sequence[int], settings: Settings, folder: Path) -> None:
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


def motion_test_pairs(work: Work[Settings]) -> dict[str, Any]:
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


def align(still: Scan, moved: Scan, slices: Sequence[int], settings: Settings, folder: Path) -> None:
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
