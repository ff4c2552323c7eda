"""What does the same work as BrainDiff's network and simulator, in turns with them: the second half of ``speed``."""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from BrainDiffLogic.images.meta_nrrd import quiet
from BrainDiffLogic.inference import BATCHES, predict_residual
from BrainDiffLogic.models.checkpoints import load_checkpoint
from BrainDiffLogic.models.corrector import Corrector
from BrainDiffLogic.models.layers import folded

SLICES, EDGE = 16, 256
MATRIX = 2048
SIMULATED = (96, 128, 128)
STOCK, WINDOWED, CEILING = "MONAI slice by slice", "MONAI sliding window", "matrix product"

Call = Callable[[], Any]


def in_turns(calls: dict[str, Call], turns: int) -> dict[str, dict[str, float]]:
    """Median wall and processor seconds of each; the first turn warms up and is not counted."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            before = time.perf_counter(), time.process_time()
            call()
            if turn:
                taken[name].append((time.perf_counter() - before[0], time.process_time() - before[1]))
    return {
        name: {"seconds": median(wall for wall, _ in runs), "cpu": median(cpu for _, cpu in runs)}
        for name, runs in taken.items()
    }


def networks(models: list[str], turns: int, show: Callable[..., None]) -> dict[str, Any]:
    """Our networks beside MONAI's, beside the same networks in other runtimes, and beside a matrix product."""
    stack = np.random.default_rng(0).normal(0.5, 0.2, (SLICES, EDGE, EDGE)).astype(np.float32)
    calls, skipped = monais(stack), {}
    for model in models:
        corrector, _ = load_checkpoint(model)
        calls[model] = lambda corrector=corrector: predict_residual(corrector, stack, device="cpu")
        for runtime, make in RUNTIMES.items():
            try:
                calls[f"{model}, {runtime}"] = elsewhere(make, corrector, stack)
            except Exception as error:  # whatever a runtime that is missing or lacks an operator raises
                skipped[f"{model}, {runtime}"] = str(error).strip().splitlines()[-1][:200]
    taken = in_turns(calls, turns)
    ceiling = 2 * MATRIX**3 / taken.pop(CEILING)["cpu"]
    found = {
        "slices": SLICES,
        "ceiling_gflop_per_cpu_second": round(ceiling / 1e9, 1),
        "milliseconds_a_slice": {
            name: {key: round(1000 * value / SLICES, 1) for key, value in row.items()} for name, row in taken.items()
        },
        "ours": {model: _ratios(model, taken, ceiling) for model in models},
        "skipped": skipped,
    }
    show("network", found)
    return found


def _ratios(model: str, taken: dict[str, dict[str, float]], ceiling: float) -> dict[str, float]:
    own, stock = taken[model], taken[STOCK]
    others = {name: row for name, row in taken.items() if name.startswith(f"{model}, ")}
    ratios = {
        "gflop_a_slice": operations(model),
        "share of the matrix product's speed": SLICES * operations(model) * 1e9 / own["cpu"] / ceiling,
        "times faster than MONAI's": stock["seconds"] / own["seconds"],
        "times less processor than MONAI's": stock["cpu"] / own["cpu"],
    }
    for name, row in others.items():
        ratios[f"processor beside {name.split(', ')[1]}'s"] = own["cpu"] / row["cpu"]
        ratios[f"seconds beside {name.split(', ')[1]}'s"] = own["seconds"] / row["seconds"]
    return {name: round(value, 2) for name, value in ratios.items()}


def operations(model: str) -> float:
    """1e9 floating-point operations that a model takes for a slice of 256 x 256, all views."""
    corrector, _ = load_checkpoint(model)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        folded(corrector)(torch.zeros(1, corrector.context, EDGE, EDGE))
    return counter.get_total_flops() / 1e9


def monais(stack: np.ndarray) -> dict[str, Call]:
    """A large product, and MONAI's Attention U-Net with the paper's channels, float32, as published codes call it."""
    from monai.inferers import SlidingWindowInferer
    from monai.networks.nets import AttentionUnet

    torch.manual_seed(0)
    slices, square = torch.from_numpy(stack[:, None]), torch.randn(MATRIX, MATRIX)
    network = AttentionUnet(2, 1, 1, (32, 64, 128, 256, 512), (2, 2, 2, 2)).eval()
    window = SlidingWindowInferer((EDGE, EDGE), sw_batch_size=1)

    def one_by_one(ask: Callable[[torch.Tensor], torch.Tensor]) -> None:
        with torch.no_grad():
            for image in slices:
                ask(image[None])

    return {
        CEILING: lambda: square @ square,
        STOCK: lambda: one_by_one(network),
        WINDOWED: lambda: one_by_one(lambda image: window(image, network)),
    }


def elsewhere(make: Callable[[Corrector, torch.Tensor], Callable], corrector: Corrector, stack: np.ndarray) -> Call:
    """One of our networks in another runtime: batches as ours, one a core, asked once for each of our views.

    Mirroring, shifting and the mean are left out, which favours the other. Raises AssertionError where it answers
    otherwise than PyTorch.
    """
    context, gain = corrector.context, corrector.gain
    plain = Corrector(corrector.body, context, corrector.shuffle, corrector.residual, gain=gain).eval()
    views, size = len(getattr(corrector, "views", (0,))), BATCHES["cpu"]
    order = np.clip(np.arange(len(stack))[:, None] + np.arange(context) - context // 2, 0, len(stack) - 1)
    batches = [stack[order[start : start + size]] for start in range(0, len(stack), size)]
    example = torch.from_numpy(batches[0])
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        ask = make(plain, example)
        apart = np.abs(ask(batches[0]) - plain(example).numpy()).max()
    assert apart < 1e-2, f"answers {apart:.2g} apart"
    threads = torch.get_num_threads()

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(ask, batches * views))

    return run


def onnx_runtime(corrector: Corrector, example: torch.Tensor) -> Callable[[np.ndarray], np.ndarray]:
    """ONNX Runtime, one thread a call."""
    import onnxruntime

    packed = io.BytesIO()
    with quiet():  # where an operator is missing, the exporter prints the network
        torch.onnx.export(corrector, (example,), packed, dynamo=False, opset_version=17, input_names=["x"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(packed.getvalue(), options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"x": batch})[0]


def openvino_runtime(corrector: Corrector, example: torch.Tensor) -> Callable[[np.ndarray], np.ndarray]:
    """OpenVINO tuned for throughput, in whatever precision it chooses."""
    import openvino

    model = openvino.convert_model(corrector, example_input=example)
    model.reshape(list(example.shape))
    threads = torch.get_num_threads()
    wanted = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(model, "CPU", wanted)
    return lambda batch: compiled.create_infer_request().infer({0: batch})[0]


RUNTIMES = {"ONNX Runtime": onnx_runtime, "OpenVINO": openvino_runtime}


def simulator(turns: int) -> dict[str, Any]:
    """One pose a line: the forward model beside finufft alone, the whole simulator beside TorchIO's RandomMotion."""
    import finufft

    from BrainDiffLogic.motion.kspace import ACCURACY, FINER_GRID, Acquisition, phase_encode_axis, sample_points
    from BrainDiffLogic.motion.presets import preset
    from BrainDiffLogic.motion.simulation import simulate_motion
    from BrainDiffLogic.motion.trajectory import anchored, with_severity
    from BrainDiffLogic.volume import Volume

    axes = np.meshgrid(*(np.linspace(-1.2, 1.2, size) for size in SIMULATED), indexing="ij", sparse=True)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -np.array(SIMULATED)
    radius, texture = sum(axis**2 for axis in axes), 500 + 100 * np.sin(20 * axes[0]) * np.cos(25 * axes[1])
    head = Volume(np.where(radius < 1, texture, 0).astype(np.float32), affine)
    axis = phase_encode_axis(affine, "AP")
    trajectory = with_severity(preset("tremor", SIMULATED[axis], seed=1), 2.0)
    poses, centre, image = anchored(trajectory), np.zeros(3), head.array.astype(np.complex64)
    points = sample_points(SIMULATED, affine, poses.rotations, axis).reshape(3, -1)
    planned = Acquisition(SIMULATED, affine, poses, axis, centre)
    plan = planned._plan
    calls: dict[str, Call] = {
        "finufft, with sorting": lambda: finufft.nufft3d2(*points, image, isign=-1, eps=ACCURACY, upsampfac=FINER_GRID),
        "first transform": lambda: Acquisition(SIMULATED, affine, poses, axis, centre).kspace(image),
        "finufft, sorted": lambda: plan.execute(image),
        "next transform": lambda: planned.kspace(image),
        "simulate_motion, as TorchIO": lambda: simulate_motion(head, trajectory, "AP", align=False),
        "simulate_motion, aligned": lambda: simulate_motion(head, trajectory, "AP"),
    }
    taken = in_turns(calls, turns)
    ratios = {
        "bare finufft's share of the first transform": taken["finufft, with sorting"]["cpu"]
        / taken["first transform"]["cpu"],
        "bare finufft's share of the next transform": taken["finufft, sorted"]["cpu"] / taken["next transform"]["cpu"],
    }
    try:
        import torchio
    except ImportError:
        return {"shape": SIMULATED, "seconds": taken, "ratios": ratios, "skipped": "torchio is not installed"}
    many = torchio.RandomMotion(num_transforms=SIMULATED[axis] - 1)
    scan = torchio.ScalarImage(tensor=torch.from_numpy(head.array[None]), affine=affine)
    begun = time.perf_counter(), time.process_time()
    many(scan)  # once: it takes as long as all the others
    taken["TorchIO"] = {"seconds": time.perf_counter() - begun[0], "cpu": time.process_time() - begun[1]}
    ratios["times faster than TorchIO"] = taken["TorchIO"]["cpu"] / taken["simulate_motion, as TorchIO"]["cpu"]
    return {"shape": SIMULATED, "seconds": taken, "ratios": {name: round(value, 2) for name, value in ratios.items()}}
