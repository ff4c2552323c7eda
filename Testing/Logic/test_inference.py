"""Batches, neighbours, memory and devices under a corrector."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from BrainDiffLogic import inference
from BrainDiffLogic.disagreement import VIEWS
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.inference import choose_device, predict_residual
from BrainDiffLogic.models.corrector import AugmentedCorrector, Corrector
from BrainDiffLogic.models.views import AS_IT_IS, View
from Harness.correctors import tiny_corrector

STACK = np.random.default_rng(2).normal(0.5, 0.2, (11, 16, 20)).astype(np.float32)


def refuse_batches(monkeypatch: pytest.MonkeyPatch, refused, error: type[Exception], text: str = "") -> list:
    """``_residual_of`` runs out of memory where ``refused(batch, device)``; returns the batches asked for."""
    asked: list[tuple[int, str]] = []
    real = inference._residual_of

    def residual_of(corrector, stack, chosen, device):
        asked.append((len(chosen), device.type))
        if refused(len(chosen), device.type):
            raise error(text)
        return real(corrector, stack, chosen, torch.device("cpu"))

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
    corrector._raw = lambda shown: seen.append(shown) or 2 * shown[:, 1:2]  # type: ignore[method-assign]
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
