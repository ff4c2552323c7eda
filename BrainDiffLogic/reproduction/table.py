"""Table I for the user's own data: every stage on held-out subjects, with the rows that the paper forgot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from BrainDiffLogic.checkpoints import load_checkpoint
from BrainDiffLogic.inference import choose_device
from BrainDiffLogic.injection.job import InjectedPairs, summary
from BrainDiffLogic.networks import Corrector
from BrainDiffLogic.reproduction.correctors import CORRECTORS
from BrainDiffLogic.reproduction.denoisers import DENOISERS
from BrainDiffLogic.reproduction.found import assert_split, describe
from BrainDiffLogic.reproduction.measures import Measured, Row
from BrainDiffLogic.reproduction.report import write_report
from BrainDiffLogic.reproduction.work import Work
from BrainDiffLogic.training.generative_checkpoints import load_vae
from BrainDiffLogic.training.pair_run import SlicePairs
from BrainDiffLogic.training.stack_pairs import StackPairs

CLEAN, INJECTION = "clean test slices", "injection into clean test slices"
INJECTED, MOTION = "injected test pairs", "motion test pairs, never seen"
BATCH = 32

Method = Callable[[np.ndarray], np.ndarray]
"""Slices (N, rows, columns) to as many."""


def tabulate(work: Work) -> dict[str, Any]:
    """Measure everything on the test split and write the table."""
    work.progress(0.0, "Measuring")
    sections = [reconstruction(work), *injections(work)]
    methods = all_methods(work)
    injected = InjectedPairs(work.out / "injected-test")
    sections.append(measure(work, INJECTED, injected, methods))
    work.progress(0.5, "Measuring")
    if any((work.out / "motion-test").glob("*.json")):
        sections.append(measure(work, MOTION, StackPairs(work.out / "motion-test"), methods))
    rows = [row for section in sections for row in section.rows()]
    write_report(work.out, rows, describe(work.cohort, work.manifest), notes(work, rows), work.log())
    work.progress(1.0, "Measuring")
    return {"rows": len(rows), "ssim_fell": [f"{row.section}: {row.method}" for row in rows if row.ssim_fell]}


def notes(work: Work, rows: list[Row]) -> list[str]:
    """What a reader of the table must know beside the convention."""
    rejected = {
        name: summary(work.out / folder).rejected_share
        for name, folder in (("motion", "injected-test"), ("clean", "injected-test-clean"))
    }
    found = [
        "Injected slices: accepted versions only; rejected for drifted anatomy:"
        f" {100 * rejected['motion']:.1f} % of the motion prior's, {100 * rejected['clean']:.1f} % of the control's.",
        "Motion pairs: the still scan is registered with the moved one and resampled; the moved scan never is.",
        "The corrector on simulated pairs has the network, loss and slices of the first; where the cohort's motion is"
        " simulated too, it trained on the test's own simulator.",
    ]
    if not any(row.section == MOTION for row in rows):
        found.append("No subject of the test split has a pair of a still and a moved scan: no motion rows.")
    return found


def reconstruction(work: Work) -> Measured:
    """The autoencoder on clean slices of the test split."""
    store, device = work.store, choose_device(work.device)
    network, _ = load_vae(work.weights("vae"), frozen=True)
    network.to(device)
    chosen = store.select(split="test", group="clean")
    subjects = [store.items[n]["subject"] for n in chosen]
    assert_split("table", subjects, work.manifest, "test")
    measured = Measured(CLEAN)
    for n, subject in zip(chosen, subjects, strict=True):
        clean = store.array[n].astype(np.float32)
        with torch.inference_mode():
            image = network.reconstruct(torch.from_numpy(clean)[None, None].to(device)).float().cpu().numpy()[0, 0]
        measured.add(subject, clean, {"VAE reconstruction": image})
    return measured


def injections(work: Work) -> list[Measured]:
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


def all_methods(work: Work) -> dict[str, Method]:
    """Doing nothing, the correctors and the denoisers by the names of their rows."""
    device = choose_device(work.device)
    methods: dict[str, Method] = {Measured.INPUT: lambda images: images}
    for stage, title in CORRECTORS.items():
        network, _ = load_checkpoint(work.weights(stage))
        methods[title] = correction(network.to(device), device)
    for title, denoise in DENOISERS.items():
        methods[title] = one_by_one(denoise)
    return methods


def correction(network: Corrector, device: torch.device) -> Method:
    """The network as a method: what it predicts is subtracted."""

    def method(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            moved = torch.from_numpy(images)[:, None].to(device)
            return (moved - network(moved)).float().cpu().numpy()[:, 0]

    return method


def one_by_one(denoise: Method) -> Method:
    """A method for one slice as one for many."""
    return lambda images: np.stack([denoise(image) for image in images])


def measure(work: Work, section: str, pairs: SlicePairs, methods: dict[str, Method]) -> Measured:
    """Every method on every pair of the test split."""
    assert_split("table", pairs.subjects, work.manifest, "test")
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
