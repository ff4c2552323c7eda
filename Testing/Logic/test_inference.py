"""Batches, neighbours, memory and devices under a corrector."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from BrainDiffLogic import inference
from BrainDiffLogic.disagreement import VIEWS
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.inference import choose_device, predict_residual
from BrainDiffLogic.models.checkpoints import AS_IT_IS, View
from BrainDiffLogic.models.corrector import AugmentedCorrector, Corrector, build
from BrainDiffLogic.models.layers import CellConvolution, DoubledConvolution, folded
from Harness.correctors import tiny_corrector

STACK = np.random.default_rng(2).normal(0.5, 0.2, (11, 16, 20)).astype(np.float32)


@pytest.fixture(autouse=True)
def as_many_threads_after_as_before() -> Iterator[None]:
    """Numbers of threads that a test pretends are no other test's: sums depend on them."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def refuse_batches(monkeypatch: pytest.MonkeyPatch, refused, error: type[Exception], text: str = "") -> list:
    """``_residual_of`` runs out of memory where ``refused(batch, device)``; returns the batches asked for."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    asked: list[tuple[int, str]] = []
    real = inference._residual_of

    def residual_of(corrector, stack, window, chosen, device):
        asked.append((len(chosen), device.type))
        if refused(len(chosen), device.type):
            raise error(text)
        return real(corrector, stack, window, chosen, torch.device("cpu"))

    monkeypatch.setattr(inference, "_residual_of", residual_of)
    return asked


def a_pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of its own name whose tensors are on the CPU: the meta device, asked for nothing."""
    monkeypatch.setattr(inference, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *args, **kwargs: self)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


def test_the_residual_of_a_slice_comes_from_it_and_its_neighbours() -> None:
    corrector = tiny_corrector()
    result = predict_residual(corrector, STACK, device="cpu", batch=4).residual
    with torch.inference_mode():
        for slices, middle in (([4, 5, 6], 5), ([0, 0, 1], 0), ([9, 10, 10], 10)):
            alone = corrector(torch.from_numpy(STACK[slices])[None])[0, 0].numpy()
            np.testing.assert_allclose(result[middle], alone, atol=0.02 * np.abs(alone).max())


def test_weights_are_moved_once_and_not_while_others_compute_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    movers = []
    real = torch.nn.Module.to

    def to(module: torch.nn.Module, *args: object, **options: object) -> torch.nn.Module:
        movers.append(threading.current_thread())
        return real(module, *args, **options)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    predict_residual(tiny_corrector(), STACK, device="cpu", batch=1)
    assert movers == [threading.current_thread()]


def answers(corrector: Corrector, slices: torch.Tensor, *views: View) -> torch.Tensor:
    with torch.inference_mode():
        return AugmentedCorrector(corrector, views)(slices)


def test_the_answer_to_a_view_is_put_back_in_its_place() -> None:
    corrector, slices = tiny_corrector(), torch.from_numpy(STACK[None, 3:6])
    with torch.inference_mode():
        plain, backwards = corrector(slices), corrector(slices.flip(1))
        further_in = corrector(torch.nn.functional.pad(slices, (1, 3, 1, 3), mode="replicate"))[..., 1:-3, 1:-3]
    torch.testing.assert_close(answers(corrector, slices, AS_IT_IS), plain)
    torch.testing.assert_close(answers(corrector, slices, View(mirrored=True)), backwards)
    torch.testing.assert_close(answers(corrector, slices, View(shift=(1, 1))), further_in)
    assert not torch.allclose(plain, backwards) and not torch.allclose(plain, further_in)


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_of_a_corrector_of_single_pixels_is_the_same(view: View) -> None:
    slices = torch.from_numpy(STACK[None, 3:6])
    seen: list[torch.Tensor] = []
    corrector = tiny_corrector()
    corrector._raw = lambda shown, window: seen.append(shown) or 2 * shown[:, 1:2, *window]  # type: ignore[method-assign]
    alone = AugmentedCorrector(corrector, [view])
    alone._raw = corrector._raw  # type: ignore[method-assign]
    torch.testing.assert_close(alone(slices), 2 * slices[:, 1:2], rtol=0, atol=0)
    assert seen[0].shape != slices.shape or not torch.equal(seen[0], slices)


@given(views=st.lists(st.builds(View, st.booleans(), st.tuples(st.integers(0, 9), st.integers(0, 9))), min_size=1))
@settings(max_examples=20)
def test_the_augmented_answer_is_the_mean_over_the_views(views: list[View]) -> None:
    corrector, slices = tiny_corrector(), torch.from_numpy(STACK[None, 3:6])
    alone = [answers(corrector, slices, view) for view in views]
    torch.testing.assert_close(answers(corrector, slices, *views), torch.stack(alone).mean(dim=0))


def test_slices_of_one_value_are_left_alone() -> None:
    stack = STACK.copy()
    stack[[0, 1, 10]] = 0
    result = predict_residual(tiny_corrector(), stack, device="cpu").residual
    assert not result[[0, 1, 10]].any() and all(slice_.any() for slice_ in result[2:10])


def test_out_of_memory_halves_the_batch_until_it_fits_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = predict_residual(tiny_corrector(), STACK, device="cpu").residual
    asked = refuse_batches(monkeypatch, lambda batch, device: batch > 2, torch.OutOfMemoryError)
    run = predict_residual(tiny_corrector(), STACK, device="cpu", batch=8)
    assert [batch for batch, _ in asked] == [8, 4, 2, 2, 2, 2, 2, 1]
    np.testing.assert_allclose(run.residual, expected, atol=0.02 * np.abs(expected).max())
    assert run.notes == [
        "cpu ran out of memory: batches of 4 slices instead of 8",
        "cpu ran out of memory: batches of 2 slices instead of 4",
    ]


def test_a_gpu_without_memory_for_one_slice_hands_over_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = predict_residual(tiny_corrector(), STACK, device="cpu").residual
    a_pretended_gpu(monkeypatch)
    asked = refuse_batches(monkeypatch, lambda batch, device: device == "cuda", torch.OutOfMemoryError)
    run = predict_residual(tiny_corrector(), STACK, device="auto", batch=2)
    assert asked[:2] == [(2, "cuda"), (1, "cuda")] and {device for _, device in asked[2:]} == {"cpu"}
    assert run.device == "cpu" and "continued on the CPU" in run.notes[-1]
    np.testing.assert_allclose(run.residual, expected, atol=0.02 * np.abs(expected).max())


def test_a_full_cpu_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you tried ..."
    refuse_batches(monkeypatch, lambda batch, device: True, RuntimeError, message)
    with pytest.raises(InputError, match="memory does not hold one slice"):
        predict_residual(tiny_corrector(), STACK, device="cpu")


def test_a_gpu_without_memory_for_the_network_hands_over_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    corrector = tiny_corrector()
    expected = predict_residual(corrector, STACK, device="cpu").residual
    a_pretended_gpu(monkeypatch)

    def full(self: torch.nn.Module, device: torch.device, **_: object) -> torch.nn.Module:
        if device.type == "cuda":
            raise torch.OutOfMemoryError
        return self

    monkeypatch.setattr(torch.nn.Module, "to", full)
    run = predict_residual(corrector, STACK, device="auto", batch=2)
    assert run.device == "cpu" and "continued on the CPU" in run.notes[-1]
    np.testing.assert_allclose(run.residual, expected, atol=0.02 * np.abs(expected).max())


def test_other_failures_of_the_network_are_not_taken_for_a_full_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = refuse_batches(monkeypatch, lambda batch, device: True, RuntimeError, "shapes differ")
    with pytest.raises(RuntimeError, match="shapes differ"):
        predict_residual(tiny_corrector(), STACK, device="cpu")
    assert len(asked) == 1


def test_an_unknown_or_absent_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="'gpu' is unknown"):
        choose_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    for name in ("cuda", "mps"):
        with pytest.raises(InputError, match=f"no {name} device"):
            choose_device(name)


@pytest.mark.gpu
def test_a_gpu_gives_the_cpus_residual_within_bfloat16() -> None:
    expected = predict_residual(tiny_corrector(), STACK, device="cpu").residual
    run = predict_residual(tiny_corrector(), STACK, device="cuda")
    assert run.device == "cuda"
    np.testing.assert_allclose(run.residual, expected, atol=0.03 * np.abs(expected).max())


FAMILIES_AND_ARGUMENTS = [
    ("mc-net", {"filters": [4, 6, 8]}),
    ("mc-net", {"filters": [4, 6], "norm": "instance"}),
    ("attention-unet", {"design": "residual", "channels": [4, 6, 8], "blocks": 2, "norm": "batch"}),
    ("attention-unet", {"design": "residual", "channels": [4, 6], "upsampling": "bilinear"}),
    ("rmman", {"channels": [3, 4, 5], "kernel": 5, "blocks": 1, "scales": 2}),
    ("rmman", {"channels": [3, 4, 5], "kernel": 3, "blocks": 2, "scales": 1, "block": "edsr"}),
    ("nafnet", {"width": 4, "encoder": [1, 1], "middle": 1, "decoder": [1, 1]}),
]


@pytest.mark.parametrize("view", [AS_IT_IS, View(True, (3, 1))], ids=["plain", "shifted"])
@pytest.mark.parametrize(("family", "arguments"), FAMILIES_AND_ARGUMENTS)
@settings(max_examples=8)
@given(data=st.data())
def test_in_a_window_the_answer_is_that_of_the_whole_slice(family, arguments, view, data) -> None:
    corrector = build(family, {**arguments, "context": 3, "shuffle": 2, "residual": True}).double().eval()
    corrector = AugmentedCorrector(corrector, [view])
    slices = torch.randn(1, 3, 96, 80, dtype=torch.float64)
    starts = [data.draw(st.integers(0, size - 1)) for size in slices.shape[2:]]
    window = tuple(
        slice(start, data.draw(st.integers(start + 1, size)))
        for start, size in zip(starts, slices.shape[2:], strict=True)
    )
    with torch.inference_mode():
        whole, alone = corrector(slices), corrector(slices, window)
    torch.testing.assert_close(alone, whole[..., window[0], window[1]], rtol=0, atol=1e-12 * float(whole.abs().max()))


@pytest.mark.parametrize("threads", [1, 3])
def test_in_the_head_the_residual_is_the_same_when_only_it_is_wanted(threads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    head = np.zeros(STACK.shape, dtype=bool)
    head[3, 2:9, 4:15], head[4:7, 5:8, 6:8], head[9, 0, 0] = True, True, True
    corrector = tiny_corrector()
    run = predict_residual(corrector, STACK, device="cpu", batch=2)
    alone = predict_residual(corrector, STACK, head=head, device="cpu", batch=2)
    np.testing.assert_allclose(alone.residual[head], run.residual[head], atol=1e-6 * np.abs(run.residual).max())
    assert not alone.residual[[0, 1, 2, 7, 8, 10]].any() and run.residual.any(axis=(1, 2)).all()


def test_the_networks_own_normalisation_is_left_as_it_is() -> None:
    corrector = build("mc-net", {"filters": [4, 6], "context": 3, "norm": "batch", "residual": True}).eval()
    slices = torch.randn(2, 3, 16, 16)
    for layer in corrector.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.running_mean), torch.nn.init.uniform_(layer.running_var, 0.5, 2)
    state = {name: tensor.clone() for name, tensor in corrector.state_dict().items()}
    network = folded(corrector)
    with torch.inference_mode():
        torch.testing.assert_close(network(slices), corrector(slices), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d | DoubledConvolution) for layer in network.modules())
    assert state.keys() == corrector.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in corrector.state_dict().items())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (5, 4)])
def test_a_convolution_of_doubled_pixels_is_one_of_the_pixels_themselves(size: tuple[int, int], bias: bool) -> None:
    doubled = DoubledConvolution(3, 5, bias).double()
    slices = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(CellConvolution(doubled)(slices), doubled(slices), rtol=0, atol=1e-13)


def test_a_run_leaves_the_number_of_threads_as_it_was() -> None:
    before = torch.get_num_threads()
    predict_residual(tiny_corrector(), STACK, device="cpu")
    assert torch.get_num_threads() == before
