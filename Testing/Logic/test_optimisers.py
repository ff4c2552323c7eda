"""Muon on kernels: what PyTorch's own does to matrices, in any memory format, and the same after a resume."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.models.corrector import CONFIGURATIONS, build
from BrainDiffLogic.training.fit import Hardware
from BrainDiffLogic.training.optimisers import FASTER, KernelMuon, build_optimiser, check_optimiser
from Harness.correctors import tiny_corrector

CHANNELS_LAST = torch.channels_last


def a_network() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))


def an_optimiser(network: nn.Sequential) -> KernelMuon:
    built = build_optimiser("muon", network, [network[-1]], weight_decay=0.1)
    assert isinstance(built, KernelMuon)
    return built


def learn(network: nn.Module, optimiser: torch.optim.Optimizer, steps: int, seed: int = 0) -> float:
    loss = torch.zeros(())
    for step in range(steps):
        x = torch.randn((4, 3, 8, 8), generator=torch.Generator().manual_seed(seed + step))
        for group in optimiser.param_groups:
            group["lr"] = 0.01
        optimiser.zero_grad()
        loss = (network(x) - x[:, :2].roll(1, dims=-1)).square().mean()
        loss.backward()
        optimiser.step()
    return loss.item()


def test_kernels_go_as_matrices_and_the_rest_as_with_adamw() -> None:
    network = a_network()
    optimiser = an_optimiser(network)
    reference = copy.deepcopy(network)
    matrix = nn.Parameter(reference[0].weight.detach().movedim(1, -1).flatten(1).clone())
    rest = [p for p in reference.parameters() if p is not reference[0].weight]
    muon = torch.optim.Muon([matrix], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adam = AdamW(rest, lr=0.01, weight_decay=0.1)
    for step in range(3):
        learn(network, optimiser, 1, seed=step)
        x = torch.randn((4, 3, 8, 8), generator=torch.Generator().manual_seed(step))
        reference.zero_grad()
        (reference(x) - x[:, :2].roll(1, dims=-1)).square().mean().backward()
        matrix.grad = reference[0].weight.grad.movedim(1, -1).flatten(1)
        muon.step()
        adam.step()
        reference[0].weight.data = matrix.detach().view(8, 3, 3, 3).movedim(-1, 1).clone()
    for found, expected in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_memory_format_changes_nothing() -> None:
    plain, other = a_network(), a_network().to(memory_format=CHANNELS_LAST)
    assert not other[0].weight.is_contiguous()
    learn(plain, an_optimiser(plain), 3)
    learn(other, an_optimiser(other), 3)
    for found, expected in zip(other.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert other[0].weight.is_contiguous(memory_format=CHANNELS_LAST)


def test_it_goes_on_as_if_it_had_not_stopped() -> None:
    network = a_network()
    optimiser = an_optimiser(network)
    learn(network, optimiser, 3)
    kept = copy.deepcopy((network.state_dict(), optimiser.state_dict()))
    learn(network, optimiser, 3, seed=50)

    again = a_network()
    resumed = an_optimiser(again)
    again.load_state_dict(kept[0])
    resumed.load_state_dict(kept[1])
    learn(again, resumed, 3, seed=50)
    for found, expected in zip(again.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_both_learn_and_every_weight_moves(name: str) -> None:
    network = a_network()
    before = copy.deepcopy(network)
    optimiser = build_optimiser(name, network, [network[-1]], weight_decay=0.0)
    first, last = learn(network, optimiser, 1), learn(network, optimiser, 200)
    assert last < 0.5 * first
    assert all(not torch.equal(a, b) for a, b in zip(before.parameters(), network.parameters(), strict=True))


def test_a_step_asks_its_closure_once_with_gradients_on() -> None:
    network = a_network()
    optimiser = an_optimiser(network)
    asked: list[bool] = []

    def closure() -> float:
        asked.append(torch.is_grad_enabled())
        network(torch.ones(1, 3, 8, 8)).square().mean().backward()
        return 3.0

    before = network[0].weight.detach().clone()
    assert optimiser.step(closure) == 3.0 and asked == [True]
    assert not torch.equal(network[0].weight, before)


def test_the_schedule_reaches_kernels_and_the_rest() -> None:
    optimiser = an_optimiser(a_network())
    torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1e-3)
    assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([FASTER * 1e-3, 1e-3])


def test_a_kernel_steps_three_times_as_far_as_muon_does_at_the_rate_of_the_rest() -> None:
    """Muon's first step has a root mean square of 0.2 rates (Liu 2025, eq. 4), AdamW's one of 1 rate."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 1))
    optimiser = build_optimiser("muon", network, [network[-1]], weight_decay=0.0)
    torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1e-3)
    before = copy.deepcopy(network)
    network(torch.randn(8, 16, 9, 9)).square().mean().backward()
    optimiser.step()
    moved = {
        name: float((value - before.get_parameter(name)).square().mean().sqrt())
        for name, value in network.named_parameters()
    }
    assert moved["0.weight"] == pytest.approx(3 * 0.2 * 1e-3, rel=0.3)
    assert moved["0.bias"] == pytest.approx(1e-3, rel=0.01)
    assert moved["2.weight"] == pytest.approx(1e-3, rel=0.01)


def test_the_output_layer_of_a_corrector_is_left_to_adamw() -> None:
    corrector = tiny_corrector()
    built = build_optimiser("muon", corrector, corrector.body.heads, weight_decay=0.0)
    kernels, rest = (group["params"] for group in built.param_groups)
    heads = [p for head in corrector.body.heads for p in head.parameters()]
    assert all(any(p is other for other in rest) for p in heads)
    assert kernels and all(p.ndim == 4 for p in kernels)
    assert len(kernels) + len(rest) == len(list(corrector.parameters()))


@pytest.mark.parametrize("family", ["attention-unet", "mc-net", "rmman", "nafnet"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, CHANNELS_LAST])
def test_every_family_takes_a_step_in_any_memory_format(family: str, memory_format: torch.memory_format) -> None:
    corrector = build(family, CONFIGURATIONS[family]["compact"]).to(memory_format=memory_format)  # type: ignore[call-overload]
    optimiser = build_optimiser("muon", corrector, corrector.body.heads, weight_decay=0.0)
    kernels = {id(p) for p in optimiser.param_groups[0]["params"]}
    scales = [p for name, p in corrector.named_parameters() if name.endswith(("beta", "gamma"))]
    assert not any(id(scale) in kernels for scale in scales) and bool(scales) == (family == "nafnet")
    for parameter in corrector.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = [parameter.detach().clone() for parameter in corrector.parameters()]
    for group in optimiser.param_groups:
        group["lr"] = 1e-3
    optimiser.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, corrector.parameters(), strict=True))


def test_an_older_pytorch_is_refused_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    check_optimiser("adamw")
    with pytest.raises(InputError, match=r"optimiser: muon needs PyTorch 2\.9"):
        check_optimiser("muon")


@pytest.mark.parametrize(
    ("accelerator", "devices", "cuda", "several"),
    [("auto", 2, True, True), ("auto", 2, False, False), ("auto", 1, True, False), ("cuda", 2, False, True),
     ("gpu", 2, False, True), ("cpu", 2, True, False)],
)  # fmt: skip
def test_several_gpus_share_what_normalises_a_batch(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, devices: int, cuda: bool, several: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert Hardware(accelerator, devices).several_gpus is several
