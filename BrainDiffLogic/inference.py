"""Run a corrector over a stack of slices: batches, device, precision, memory, progress and cancelling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy as np
import torch

from BrainDiffLogic.errors import Cancelled, InputError
from BrainDiffLogic.models.corrector import Corrector
from BrainDiffLogic.models.layers import Window, folded, moved
from BrainDiffLogic.scan import mask_box
from BrainDiffLogic.volume import pad_to_multiple

BATCHES = {"cpu": 4, "mps": 16, "cuda": 64}
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
    head: np.ndarray | None = None,
    device: str = "auto",
    batch: int | None = None,
    progress: Callable[[float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Run:
    """The residual of every slice of a stack (slices, rows, columns) in network units.

    head  bool, as the stack: where alone the residual is of use; what is far from it is not computed and 0. The
          network sees whole slices all the same, so that in the head the residual is the same. None: everywhere

    Rows and columns are padded to what the network takes. Slices beyond the ends, as neighbours, repeat the last one;
    slices of one single value (air of a stripped image) are left alone. Each core of a CPU works at a batch of its
    own. When the device runs out of memory the batch is halved, at one slice the CPU takes over, and the notes say so.
    Raises Cancelled as soon as ``cancelled`` says so between two batches.
    """
    target = choose_device(device)
    run = Run(np.zeros(stack.shape, dtype=np.float32), str(target))
    todo = np.flatnonzero(stack.min(axis=(1, 2)) != stack.max(axis=(1, 2)))
    if head is not None:
        todo = todo[head[todo].any(axis=(1, 2))]
    batch = batch or BATCHES[target.type]
    network = folded(corrector)
    done = np.zeros(len(stack), dtype=bool)
    while not done[todo].all():
        too_large: list[int] = []
        ask = partial(_residual_if_it_fits, _on_device(network, target), stack, head, device=target)
        for chosen, residual in _answers(ask, todo[~done[todo]], batch, target, cancelled):
            if residual is None:
                too_large.append(len(chosen))
                continue
            run.residual[chosen, *_window(stack, head, chosen)] = residual
            done[chosen] = True
            if progress:
                progress(float(done[todo].mean()), "Correcting")
        if too_large:
            batch, target = _with_less_memory(max(too_large), target, run)
    return run


def _window(stack: np.ndarray, head: np.ndarray | None, chosen: np.ndarray) -> Window:
    """The rows and columns of the chosen slices that are wanted: the box of the head, or all."""
    if head is None:
        return slice(0, stack.shape[1]), slice(0, stack.shape[2])
    rows, columns = mask_box(head[chosen].any(axis=0))
    return rows, columns


def _on_device(corrector: Corrector, device: torch.device) -> Corrector | None:
    """The corrector, moved; None where its weights do not fit.

    Once, before the threads begin: while weights are moved, whoever computes with them reads freed memory.
    """
    try:
        return corrector.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    except RuntimeError as error:
        if not _is_full(error):
            raise
    return None


def _answers(
    ask: Callable[[np.ndarray], np.ndarray | None], todo: np.ndarray, batch: int, device: torch.device,
    cancelled: Callable[[], bool] | None,
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:  # fmt: skip
    """Batches of slices and their residuals, as they are ready; after a None no other batch is begun."""
    batches = iter([todo[start : start + batch] for start in range(0, len(todo), batch)])
    with _workers(device) as (pool, number):
        running: dict[Future[np.ndarray | None], np.ndarray] = {}

        def begin(count: int) -> None:
            for chosen in islice(batches, count):
                if cancelled and cancelled():
                    raise Cancelled
                running[pool.submit(ask, chosen)] = chosen

        begin(number)
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                chosen, residual = running.pop(future), future.result()
                if residual is None:
                    batches = iter(())
                else:
                    begin(1)
                yield chosen, residual


@contextmanager
def _workers(device: torch.device) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Threads that ask the network, and their number: one for each core of a CPU, which then has no other to wait for.

    Cores that work at one batch together wait for one another after each layer, long if one of them is busy elsewhere.
    """
    threads = torch.get_num_threads()
    number = threads if device.type == "cpu" else 1
    pool = ThreadPoolExecutor(number)
    try:
        if number > 1:
            torch.set_num_threads(1)  # of the threads that begin from now on, too
        yield pool, number
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


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
    corrector: Corrector | None, stack: np.ndarray, head: np.ndarray | None, chosen: np.ndarray, device: torch.device
) -> np.ndarray | None:
    """None when the device runs out of memory; what it had taken is free again once the handler is left."""
    if corrector is None:
        return None
    try:
        return _residual_of(corrector, stack, head, chosen, device)
    except RuntimeError as error:
        if not _is_full(error):
            raise
    return None


def _is_full(error: RuntimeError) -> bool:
    """Whether a device has run out of memory."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


@torch.inference_mode()
def _residual_of(
    corrector: Corrector, stack: np.ndarray, head: np.ndarray | None, chosen: np.ndarray, device: torch.device
) -> np.ndarray:
    """(n, rows, columns) of the window of the chosen slices."""
    order = np.arange(corrector.context) - corrector.context // 2
    neighbours = np.clip(chosen[:, None] + order, 0, len(stack) - 1)
    padded, (*_, rows, columns) = pad_to_multiple(stack[neighbours], corrector.multiple)
    slices = torch.from_numpy(padded).to(device)
    with _precision(device):
        if head is None:
            residual = corrector(slices)[..., rows, columns]
        else:
            residual = corrector(slices, moved(_window(stack, head, chosen), rows.start, columns.start))
        return residual[:, 0].float().cpu().numpy()


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
