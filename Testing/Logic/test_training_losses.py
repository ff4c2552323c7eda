"""The losses and the schedule of supervised training."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from BrainDiffLogic.models.corrector import build
from BrainDiffLogic.motion.trajectory import stratum
from BrainDiffLogic.training import losses
from BrainDiffLogic.training.configuration import Stage
from BrainDiffLogic.training.corrector import CorrectorTraining, learning_rate, stage_at
from Harness.tiny_training import TINY, tiny

EVEN = torch.ones(1, 1, 1, 1)
stages = st.lists(
    st.builds(
        Stage,
        steps=st.integers(1, 300),
        loss=st.just({"l1": 1.0}),
        learning_rate=st.floats(1e-5, 1e-2),
        warmup=st.integers(0, 50),
        decay=st.floats(0, 1),
    ),
    min_size=1,
    max_size=3,
)


def images(count: int = 1, *shape: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.random((count, 1, *(shape or (16, 12)))).astype(np.float32))


def reference_tv(error: np.ndarray, exponent: float) -> float:
    terms = []
    for image in error[:, 0].astype(np.float64):
        for row in range(image.shape[0] - 1):
            for column in range(image.shape[1] - 1):
                down = image[row + 1, column] - image[row, column]
                right = image[row, column + 1] - image[row, column]
                terms.append((down**2 + right**2) ** exponent)
    return float(np.mean(terms))


def test_total_variation_equals_a_loop_over_the_pixels() -> None:
    error = images(2)
    expected = reference_tv(error.numpy(), losses.TV_EXPONENT)
    assert losses.total_variation(error).item() == pytest.approx(expected, rel=1e-4)


@given(scale=st.floats(0.01, 2), seed=st.integers(0, 99))
@settings(max_examples=15)
def test_total_variation_is_least_where_the_prediction_is_the_truth(scale: float, seed: int) -> None:
    clean = images()
    wrong = clean + scale * images(seed=seed)
    assert losses.total_variation(clean - clean) < losses.total_variation(wrong - clean)


def test_total_variation_does_not_punish_the_edges_of_the_truth() -> None:
    clean = images()
    assert losses.total_variation(clean - clean).item() < 1e-9 < losses.total_variation(clean).item()


def test_total_variation_has_a_finite_gradient_at_zero() -> None:
    error = torch.zeros(1, 1, 8, 8, requires_grad=True)
    losses.total_variation(error).backward()
    assert error.grad is not None
    assert error.grad.isfinite().all()


def test_losses_are_means_which_a_larger_image_or_batch_leaves_alone() -> None:
    small = torch.zeros(1, 1, 8, 8)
    small[..., ::2, :] = 1  # period 2: a larger image repeats it
    large = small.repeat(3, 1, 4, 4)
    weights = torch.ones(3, 1, 1, 1)
    assert losses.l1(large, 0 * large, weights).item() == pytest.approx(losses.l1(small, 0 * small, EVEN).item())
    assert losses.total_variation(large).item() == pytest.approx(losses.total_variation(small).item(), rel=1e-5)
    squared = losses.multi_scale_l2([large], 0 * large, weights)
    assert squared.item() == pytest.approx(losses.multi_scale_l2([small], 0 * small, EVEN).item())


def test_each_scale_of_the_multi_scale_loss_weighs_the_same() -> None:
    clean = images(2, 32, 32)
    pyramid = losses.image_pyramid(clean, 3)
    costs = []
    for wrong in range(3):
        predictions = [image + 0.5 * (scale == wrong) for scale, image in enumerate(pyramid)]
        costs.append(losses.multi_scale_l2(predictions, clean, EVEN).item())
    assert costs == pytest.approx([0.25] * 3, rel=1e-4)
    everywhere = losses.multi_scale_l2([image + 0.5 for image in pyramid], clean, EVEN)
    assert everywhere.item() == pytest.approx(0.75, rel=1e-4)


def test_multi_scale_l1_is_zero_at_the_truth_and_sums_the_scales() -> None:
    clean = images(2, 32, 32)
    pyramid = losses.image_pyramid(clean, 3)
    assert losses.multi_scale_l1(pyramid, clean, EVEN).item() == 0
    cost = losses.multi_scale_l1([image - 0.5 for image in pyramid], clean, EVEN)
    assert cost.item() == pytest.approx(1.5, rel=1e-4)


def test_a_mild_pair_weighs_as_much_as_a_severe_one() -> None:
    clean = torch.zeros(2, 1, 16, 16)
    moved = torch.stack([torch.full((1, 16, 16), error) for error in (0.02, 0.4)])
    weights = losses.pair_weights(moved, clean)
    shares = (weights * (moved - clean).abs()).mean(dim=(1, 2, 3)) + weights[:, 0, 0, 0] * losses.BALANCE_FLOOR
    assert shares[0].item() == pytest.approx(shares[1].item(), rel=1e-5)


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_gradient_shares_are_those_of_the_norms(a: float, b: float) -> None:
    image = torch.rand(2, 1, 4, 4, requires_grad=True)
    prediction = 2 * image
    terms = {"one": a * prediction.sum(), "two": -b * prediction.sum(), "none": torch.ones((), requires_grad=True)}
    shares = losses.gradient_shares(terms, prediction)
    assert shares["one"].item() == pytest.approx(a / (a + b), rel=1e-5)
    assert shares["two"].item() == pytest.approx(b / (a + b), rel=1e-5)
    assert shares["none"] == 0
    torch.stack(list(terms.values())).sum().backward()  # the graph is still there


@pytest.mark.parametrize(("balance", "share"), [(True, 0.5), (False, 1 / 11)])
def test_a_stage_weighs_its_pairs_as_its_balance_says(balance: bool, share: float) -> None:
    """Of a network that changes nothing yet the loss is the error of the pairs, each by itself or by its weight."""
    stage = Stage(1, {"l1": 1.0}, balance=balance)
    module = CorrectorTraining(build("attention-unet", TINY["attention-unet"]), tiny(stages=[stage]))
    clean = images(2, 32, 32)
    moved = clean.expand(2, 3, 32, 32) + torch.tensor([0.1, 1.0]).reshape(2, 1, 1, 1)
    both, severe = (float(module.training_step({"moved": moved[n:], "clean": clean[n:]}, 0)) * (2 - n) for n in (0, 1))
    assert 1 - severe / both == pytest.approx(share, rel=0.05)


def test_a_pair_weighs_the_same_in_a_batch_and_alone() -> None:
    """Else a batch computed in parts, or by several processes, would have another gradient."""
    clean = images(4)
    moved = clean + torch.tensor([0.0, 0.01, 0.05, 0.4])[:, None, None, None]
    parts = [losses.pair_weights(moved[n : n + 1], clean[n : n + 1]) for n in range(4)]
    assert torch.equal(losses.pair_weights(moved, clean), torch.cat(parts))
    assert parts[0].item() == losses.BALANCE_UNIT / losses.BALANCE_FLOOR


def test_a_still_pair_has_a_finite_weight() -> None:
    clean = images(2)
    moved = torch.stack([clean[0], clean[1] + 0.1])
    weights = losses.pair_weights(moved, clean)
    assert weights.isfinite().all()
    assert weights[0] > weights[1]


@given(stages, st.integers(0, 1000))
def test_every_step_belongs_to_the_stage_whose_steps_it_is_among(plan: list[Stage], step: int) -> None:
    stage, within = stage_at(plan, step)
    index = next(i for i, candidate in enumerate(plan) if candidate is stage)
    assert sum(other.steps for other in plan[:index]) + within == step
    assert within < stage.steps or index == len(plan) - 1


@given(stages, st.data())
def test_the_learning_rate_is_positive_in_the_run_and_at_most_that_of_the_stage(
    plan: list[Stage], data: st.DataObject
) -> None:
    total = sum(stage.steps for stage in plan)
    step = data.draw(st.integers(0, total - 1))
    stage, _ = stage_at(plan, step)
    assert 0 < learning_rate(plan, step) <= stage.learning_rate * (1 + 1e-9)
    assert learning_rate(plan, total) <= stage_at(plan, total)[0].learning_rate


def test_the_learning_rate_rises_stays_and_falls_in_each_stage() -> None:
    plan = [
        Stage(100, {"l1": 1.0}, learning_rate=1.0, warmup=10, decay=0.5),
        Stage(100, {"l1": 1.0}, learning_rate=0.1, warmup=0, decay=0.0),
    ]
    rates = [learning_rate(plan, step) for step in range(200)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:50] == [1.0] * 40
    assert rates[75] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.02)
    assert rates[100:] == pytest.approx([0.1] * 100)
    assert all(later > earlier for earlier, later in zip(rates[:9], rates[1:10], strict=True))
    assert all(later < earlier for earlier, later in zip(rates[50:99], rates[51:100], strict=True))


def test_the_frequency_term_is_0_for_the_truth_and_grows_with_a_single_wrong_line() -> None:
    clean = torch.rand(2, 1, 16, 20)
    assert float(losses.frequency_l1(clean, clean)) < 2e-6
    lines = torch.fft.fft2(clean)
    lines[..., 3, :] *= -1
    lines[..., -3, :] *= -1
    one, two = torch.fft.ifft2(lines).real, clean + 2 * (torch.fft.ifft2(lines).real - clean)
    assert float(losses.frequency_l1(two, clean)) == pytest.approx(2 * float(losses.frequency_l1(one, clean)), rel=1e-3)


class HalfOf(torch.nn.Module):
    """Finds half of a known artifact."""

    def __init__(self, artifact: torch.Tensor) -> None:
        super().__init__()
        self.artifact = artifact

    def forward(self, moved: torch.Tensor) -> torch.Tensor:
        return self.artifact / 2


def test_validation_measures_what_a_correction_leaves_of_the_error() -> None:
    clean, artifact = images(2, 8, 8), torch.tensor([0.2, 0.4]).reshape(2, 1, 1, 1)
    moved = torch.cat([clean, clean + artifact, clean], dim=1)  # the neighbours do not count
    module = CorrectorTraining(HalfOf(artifact), tiny())
    module.validation_step({"moved": moved, "clean": clean, "severity": torch.tensor([0.0, 1.5])}, 0)
    assert module.sums["all"] == pytest.approx([0.3, 0.6, 2.0])
    assert module.sums["still"] == pytest.approx([0.1, 0.2, 1.0])
    assert set(module.sums) == {"all", "still", stratum(1.5)}
