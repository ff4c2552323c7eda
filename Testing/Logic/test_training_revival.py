"""Feature maps that sleep get a gradient, others none below zero; what a network computes stays."""

import torch
from torch import nn

from BrainDiffLogic.models.corrector import CONFIGURATIONS, build
from BrainDiffLogic.training.optimisers import RevivingReLU, revive


def test_a_map_below_zero_has_a_gradient_and_one_that_is_partly_above_has_none_there() -> None:
    x = torch.full((1, 2, 8, 8), -1.0)
    x[0, 1, :4] = 1.0
    x.requires_grad_()
    output = RevivingReLU(0.2)(x)
    torch.testing.assert_close(output, x.relu())
    output.sum().backward()
    assert x.grad is not None
    assert (x.grad[0, 0] == 0.2).all()
    assert (x.grad[0, 1, :4] == 1).all() and (x.grad[0, 1, 4:] == 0).all()


def test_a_revived_network_is_the_same_function_with_the_same_weights() -> None:
    torch.manual_seed(1)
    corrector = build("mc-net", {**CONFIGURATIONS["mc-net"]["compact"], "filters": [4, 8], "zero_init": False}).eval()
    x = torch.rand(2, corrector.context, 16, 16)
    before, names = corrector(x), list(corrector.state_dict())
    revive(corrector, 0.1)
    assert not any(isinstance(module, nn.ReLU) for module in corrector.modules())
    assert list(corrector.state_dict()) == names
    torch.testing.assert_close(corrector(x), before)


def test_a_network_that_sleeps_wakes_up() -> None:
    def left_after_training(slope: float) -> float:
        torch.manual_seed(2)
        network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))
        nn.init.constant_(network[0].bias, -3.0)
        if slope:
            revive(network, slope)
        x = torch.rand(4, 1, 8, 8)
        optimiser = torch.optim.Adam(network.parameters(), 0.02)
        for _ in range(300):
            loss = (network(x) - x).abs().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return loss.item()

    asleep, awake = left_after_training(0.0), left_after_training(0.2)
    assert asleep > 0.2
    assert awake < 0.5 * asleep
