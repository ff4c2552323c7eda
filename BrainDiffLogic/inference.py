"""Run a corrector over a stack of slices: batches, device, precision, memory, progress and cancelling."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch

from BrainDiffLogic.errors import Cancelled, InputError
from BrainDiffLogic.models.corrector import Corrector
from BrainDiffLogic.volume import pad_to_multiple

BATCHES = {"cpu": 8, "mps": 16, "cuda": 64}
DEVICES = ("auto", "cpu", "cuda", "mps")
OUT_OF_MEMORY = ("not enough memory", "out of memory")
"""What PyTorch says, in a plain RuntimeError, when the CPU's or Apple's memory is full."""


@dataclass
class Run:
    """The residual of a stack.

    residual  (slices, rows, columns) float32 in network units
    device    where it was made
    notes     what was noticed on the way
    """

    residual: np.ndarray
    device: str
    notes: list[str] = field(default_factory=list)


def predict_residual(
    corrector: Corrector,
    stack: np.ndarray,
    *,
    device: str = "auto",
    batch: int | None = None,
    progress: Callable[[float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Run:
    """The residual of every slice of a stack (slices, rows, columns) in network units.

    Rows and columns are padded to what the network takes, and cut again. Slices beyond the ends, as neighbours,
    repeat the last one; slices of one single value (air of a stripped image) are left alone. When the device runs
    out of memory the batch is halved, at one slice the CPU takes over, and the notes say so. Raises Cancelled as soon
    as ``cancelled`` says so between two batches.
    """
    target = choose_device(device)
    todo = np.flatnonzero(stack.min(axis=(1, 2)) != stack.max(axis=(1, 2)))
    stack, place = pad_to_multiple(stack, corrector.multiple)
    run = Run(np.zeros(stack.shape, dtype=np.float32), str(target))
    batch = batch or BATCHES[target.type]
    done = 0
    corrector = corrector.eval()
    while done < len(todo):
        if cancelled and cancelled():
            raise Cancelled
        chosen = todo[done : done + batch]
        residual = _residual_if_it_fits(corrector, stack, chosen, target)
        if residual is None:
            batch, target = _with_less_memory(len(chosen), target, run)
            continue
        run.residual[chosen] = residual
        done += len(chosen)
        if progress:
            progress(done / len(todo), "Correcting")
    run.residual = run.residual[place]
    return run


def _with_less_memory(batch: int, target: torch.device, run: Run) -> tuple[int, torch.device]:
    if target.type == "cuda":
        torch.cuda.empty_cache()
    if batch > 1:
        run.notes.append(f"{target} ran out of memory: batches of {batch // 2} slices instead of {batch}")
        return batch // 2, target
    if target.type == "cpu":
        raise InputError("the CPU's memory does not hold one slice; close other programs or crop the volume")
    run.notes.append(f"{target} ran out of memory with one slice: continued on the CPU")
    run.device = "cpu"
    return BATCHES["cpu"], torch.device("cpu")


def _residual_if_it_fits(
    corrector: Corrector, stack: np.ndarray, chosen: np.ndarray, device: torch.device
) -> np.ndarray | None:
    """None when the device runs out of memory; what it had taken is free again once the handler is left."""
    try:
        return _residual_of(corrector, stack, chosen, device)
    except RuntimeError as error:
        full = isinstance(error, torch.cuda.OutOfMemoryError) or any(w in str(error) for w in OUT_OF_MEMORY)
        if not full:
            raise
    return None


@torch.inference_mode()
def _residual_of(
    corrector: Corrector, stack: np.ndarray, chosen: np.ndarray, device: torch.device
) -> np.ndarray:
    corrector = corrector.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    order = np.arange(corrector.context) - corrector.context // 2
    neighbours = np.clip(chosen[:, None] + order, 0, len(stack) - 1)
    slices = torch.from_numpy(stack[neighbours]).to(device, memory_format=torch.channels_last)
    with _precision(device):
        return corrector(slices)[:, 0].float().cpu().numpy()


def choose_device(device: str) -> torch.device:
    """The torch device for "auto" (CUDA, then MPS, then CPU), "cpu", "cuda" or "mps".

    Raises InputError for another name or a device that this computer lacks.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device not in DEVICES:
        raise InputError(f"device {device!r} is unknown: use {', '.join(DEVICES)}")
    if device == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if there[name]))
    if not there[device]:
        raise InputError(f"there is no {device} device here that PyTorch can use; choose auto or cpu")
    return torch.device(device)


def _precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 where the processor computes in it, else float32."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", torch.bfloat16)
    # most processors only emulate it, slower than float32
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    if device.type == "cpu" and (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()
