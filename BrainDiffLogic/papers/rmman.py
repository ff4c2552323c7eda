"""``reproduce rmman``: kernel sizes and residual blocks on the same simulated pairs, motion in all six parameters."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.inference import choose_device
from BrainDiffLogic.models.checkpoints import load_checkpoint, read_torch_state
from BrainDiffLogic.models.corrector import CONFIGURATIONS, Corrector
from BrainDiffLogic.motion.presets import draw_up_to
from BrainDiffLogic.motion.trajectory import Trajectory
from BrainDiffLogic.papers.comparison import (
    TRACE_POINTS,
    ComparisonSettings,
    ComparisonWork,
    PairPlan,
    Traces,
    comparison_stages,
    measure_variants,
    stage_name,
)
from BrainDiffLogic.papers.run import check_size, describe
from BrainDiffLogic.papers.table import (
    BATCH,
    PSNR,
    REST,
    CellText,
    Layout,
    PaperTable,
    SliceMethod,
    TableRow,
    write_paper_table,
)
from BrainDiffLogic.training.configuration import CorrectorConfiguration, Stage
from BrainDiffLogic.training.slice_store import SlicePairs

SIZE = 299
"""Rows and columns of what Inception v3 looks at."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the images that torchvision's weights were trained on."""
CAUTION = (
    "The Inception Score says little here: it asks how surely and variously a classifier of photographs names what"
    " it sees, and knows no clean slice. Grey slices stay near its floor of 1, a clear picture of another brain scores"
    " as well, and its value grows with the number of slices."
)


def inception_score(probabilities: np.ndarray) -> float:
    """exp(E KL(p(y|x) || p(y))) of (N, classes) probabilities p(y|x); from 1, all alike, to the number of classes."""
    p = probabilities.astype(np.float64)
    mean = p.mean(axis=0)
    ratio = np.divide(p, mean, out=np.ones_like(p), where=p > 0)
    return float(np.exp((p * np.log(ratio)).sum(axis=1).mean()))


def class_probabilities(images: np.ndarray, classifier: nn.Module, device: torch.device) -> np.ndarray:
    """(N, classes) of slices (N, rows, columns) in network units, cut to 0 to 1, grey in three colours, resized."""
    grey = torch.from_numpy(images).float().clamp(0, 1)[:, None].to(device)
    large = functional.interpolate(grey, (SIZE, SIZE), mode="bilinear", antialias=True)
    mean, deviation = (torch.tensor(v, device=device)[:, None, None] for v in (MEAN, DEVIATION))
    with torch.inference_mode():
        return classifier((large.expand(-1, 3, -1, -1) - mean) / deviation).softmax(dim=1).cpu().numpy()


def score_of_method(method: SliceMethod, pairs: SlicePairs, classifier: nn.Module, device: torch.device) -> float:
    """The Inception Score of what a method makes of the moved slices."""
    probabilities = []
    for start in range(0, len(pairs), BATCH):
        numbers = range(start, min(start + BATCH, len(pairs)))
        moved = np.stack([pairs[n]["moved"][0].numpy() for n in numbers])
        probabilities.append(class_probabilities(method(moved), classifier, device))
    return inception_score(np.concatenate(probabilities))


def load_classifier(path: Path) -> nn.Module:
    """torchvision's inception_v3 with the weights of a file (inception_v3_google-0cc3c7bd.pth).

    Raises InputError where torchvision is missing or the file holds something else.
    """
    try:
        from torchvision.models import inception_v3
    except ImportError:
        raise InputError("--inception needs torchvision: pip install torchvision, or leave the option out") from None
    remedy = "give --inception torchvision's inception_v3 weights"
    network: nn.Module = inception_v3(weights=None, transform_input=True, aux_logits=True, init_weights=False)
    try:
        network.load_state_dict(read_torch_state(path, remedy))
    except RuntimeError:
        raise InputError(f"{path}: not the weights of inception_v3; {remedy}") from None
    return network.eval()


VARIANTS: dict[str, tuple[str, str, int]] = {
    "dw-3": ("DW block, kernel 3", "dw", 3), "dw-5": ("DW block, kernel 5", "dw", 5),
    "dw-7": ("DW block, kernel 7", "dw", 7), "edsr-5": ("EDSR block, kernel 5", "edsr", 5),
    "srresnet-5": ("SRResNet block, kernel 5", "srresnet", 5),
}  # fmt: skip
"""Stage: what the table calls it, block, kernel. The paper's own is dw-5."""
TITLES = {name: title for name, (title, _, _) in VARIANTS.items()}
OWN = "dw-5"
SEVERITY_MM = (0.5, 5.0)
"""Mean displacement of the traces, as for BrainDiff's physics pairs. The paper does not describe its motion."""
PUBLISHED = {
    "DW block, kernel 3": (32.69, 0.9197, 1.2585), "DW block, kernel 5": (34.97, 0.9369, 1.2770),
    "DW block, kernel 7": (32.54, 0.9232, 1.2643), "EDSR block, kernel 5": (34.78, 0.9269, 1.2643),
}  # fmt: skip
"""Tables I and II: PSNR, MSSIM, Inception Score. None is given for SRResNet's block."""
TIMED_SLICES, ROUNDS = 4, 5
"""Slices in a batch whose time is taken, and how often: the shortest counts, others work on the machine too."""


def six_parameters(name: str, size: float, seed: Sequence[int]) -> Trajectory:
    """A preset with a mean displacement of ``size`` mm."""
    return draw_up_to(name, TRACE_POINTS, size, seed)


SETS = (Traces("rigid", "rigid motion, six parameters", six_parameters),)


def rmman_settings(size: str, seed: int = 0, inception: Path | None = None) -> ComparisonSettings:
    """The settings of a size.

    compact    128 x 128 pixels of 2 mm, small networks, few steps: half an hour on two cores
    paper      the published networks, batch and rates on 192 x 256 pixels of 1 mm: for a GPU
    inception  torchvision's inception_v3 weights for the Inception Score
    Raises InputError for another size, and where the Inception Score is asked for and cannot be had.
    """
    check_size(size)
    if inception is not None:
        load_classifier(inception)
    base, network = (_paper(), _PAPER) if size == "paper" else (_compact(), _COMPACT)
    variants = {
        name: replace(base, network={**network, "block": block, "kernel": kernel})
        for name, (_, block, kernel) in VARIANTS.items()
    }
    simulation = PairPlan((128, 128), 2.0, SEVERITY_MM, training_traces=10, test_traces=10, seed=seed)
    if size == "paper":
        # the paper gives neither the number of images nor their motion; full slices, as for BrainDiff
        simulation = replace(
            simulation, canvas=(192, 256), spacing_mm=1.0, training_traces=60, test_traces=18, align=False
        )
    return ComparisonSettings(variants, simulation, inception=str(inception) if inception else None)


_PAPER = CONFIGURATIONS["rmman"]["paper"]
"""SRN-DeblurNet, the paper's framework, has these channels and one set of weights for three scales; n = m = 3."""
_COMPACT = {**CONFIGURATIONS["rmman"]["compact"], "context": 1, "channels": [16, 32, 64], "act_between": False}


def _compact() -> CorrectorConfiguration:
    stage = Stage(2000, {"multi_scale_l2": 10.0}, learning_rate=5e-4, warmup=200, decay=0.6, balance=False)
    return CorrectorConfiguration(
        "rmman", [stage], data="pairs", batch=8, weight_decay=0.0, ema=0.99, epoch_steps=200, validation_share=0.0
    )


def _paper() -> CorrectorConfiguration:
    """The paper's training; its rate falls from 1e-4 to 1e-6 as a polynomial of power 0.3, here linearly to 0."""
    # 2,000 epochs (IV-D) of 200 steps: the paper does not say how many slices an epoch has
    stage = Stage(400_000, {"multi_scale_l2": 1.0}, learning_rate=1e-4, warmup=0, decay=1.0, balance=False)
    return CorrectorConfiguration(
        "rmman", [stage], data="pairs", batch=10, weight_decay=0.0, ema=0.0, clip=0.0, epoch_steps=200,
        validation_share=0.0,
    )  # fmt: skip


@dataclass(frozen=True)
class SizedRow(TableRow):
    """A line of the table.

    parameters       of the network; None, as the two below, where there is no network
    milliseconds     for a slice of the canvas, measured in this run on its device
    relative_time    against the paper's own, kernel 5 with the DW block
    inception_score  where it was asked for
    """

    parameters: int | None = None
    milliseconds: float | None = None
    relative_time: float | None = None
    inception_score: float | None = None


def _optional(name: str, form: str) -> CellText:
    def text(row: Any) -> str:
        value = getattr(row, name)
        return "" if value is None else f"{value:{form}}"

    return text


def _published(row: Any) -> str:
    numbers = PUBLISHED.get(row.method)
    return "" if numbers is None else f"{numbers[0]:.2f} / {numbers[1]:.4f}"


LAYOUT = Layout(
    "RMMAN's Tables I and II on your data: subjects and motion traces of the test",
    {
        **PSNR, "MSSIM": lambda row: f"{row.ssim:.4f}", "the paper's (hearts)": _published, **REST,
        "parameters": _optional("parameters", ",d"), "ms a slice": _optional("milliseconds", ".1f"),
        "relative": _optional("relative_time", ".2f"), "Inception Score": _optional("inception_score", ".3f"),
    },
    [PaperTable(
        "The paper's own Tables I and II, on its own data",
        {"Model": "", "PSNR": ".2f", "MSSIM": ".4f", "Inception Score": ".4f"},
        (("DeblurGAN", 31.22, 0.9324, 1.2682), *((name, *numbers) for name, numbers in PUBLISHED.items())),
        "The paper's images show hearts, and neither their number nor their motion is described: its numbers compare"
        " with each other alone. It names SRResNet's block and gives no number for it.",
    )],
)  # fmt: skip


def tabulate(work: ComparisonWork) -> dict[str, Any]:
    """Measure everything on the test pairs, count parameters, take times, and write the table."""
    (traces,) = SETS
    work.progress(0.0, "Measuring")
    measured, pairs, methods = measure_variants(work, traces, TITLES)
    device, canvas = choose_device(work.device), work.settings.simulation.canvas
    networks = {
        title: load_checkpoint(work.weights(stage_name(traces, name)))[0].to(device) for name, title in TITLES.items()
    }
    times = {title: milliseconds(network, canvas, device) for title, network in networks.items()}
    scores: dict[str, float] = {}
    if work.settings.inception is not None:
        classifier = load_classifier(Path(work.settings.inception)).to(device)
        scores = {name: score_of_method(method, pairs, classifier, device) for name, method in methods.items()}
    rows = []
    for row in measured.rows():
        facts: dict[str, Any] = {"inception_score": scores.get(row.method)}
        if row.method in networks:
            facts["parameters"] = sum(parameter.numel() for parameter in networks[row.method].parameters())
            facts["milliseconds"] = times[row.method]
            facts["relative_time"] = times[row.method] / times[TITLES[OWN]]
        rows.append(SizedRow(**asdict(row), **facts))
    cohort = describe(work.cohort, work.manifest, work.settings.uses)
    write_paper_table(work.out, LAYOUT, rows, cohort, notes(work.settings, device), work.log())
    work.progress(1.0, "Measuring")
    return {"rows": len(rows), "milliseconds": times}


def notes(settings: ComparisonSettings, device: torch.device) -> list[str]:
    """What a reader of the table must know beside the convention."""
    plan = settings.simulation
    lines = [
        f"All networks have the same pairs, seed, rate, loss (eq. 3, mean over pixels) and number of steps"
        f" ({settings.variants[OWN].steps}); they differ in block and kernel alone, and so in parameters and time.",
        f"Traces: {plan.training_traces} to train and {plan.test_traces} others to test, mean displacement"
        f" {plan.size[0]:g} to {plan.size[1]:g} mm; {plan.canvas[0]} x {plan.canvas[1]} pixels of"
        f" {plan.spacing_mm:g} mm. MSSIM is the mean SSIM, as the paper calls it.",
        f"Time: shortest of {ROUNDS} passes of {TIMED_SLICES} slices on {device.type}; relative to kernel 5 with DW.",
    ]
    return [*lines, CAUTION] if settings.inception else lines


def milliseconds(network: Corrector, canvas: tuple[int, int], device: torch.device) -> float:
    """Time of the network for one slice, in float32."""
    images, times = torch.rand(TIMED_SLICES, 1, *canvas, device=device), []
    with torch.inference_mode():
        for _ in range(ROUNDS + 1):  # the first one warms up
            started = time.perf_counter()
            network(images).cpu()
            times.append(time.perf_counter() - started)
    return 1000 * min(times[1:]) / TIMED_SLICES


STAGES = comparison_stages(SETS, TITLES, tabulate)
