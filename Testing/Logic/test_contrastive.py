"""The contrastive term: golden numbers, its general form, and where its gradient goes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from BrainDiffLogic.training import losses
from BrainDiffLogic.training.losses import TEMPERATURE, ContrastiveLoss, contrast
from Harness.tiny_prior import slices, tiny_networks

SIMILARITY = 0.923  # of the latents of a clean and a moved slice, METHODS 1.3


def info_nce(anchor: torch.Tensor, positive: torch.Tensor, negatives: torch.Tensor, temperature: float) -> torch.Tensor:
    """InfoNCE (van den Oord et al. 2018, eq. 4) of (N, D), (N, D) and (N, K, D): -log of the softmax share."""
    near = F.cosine_similarity(anchor, positive, dim=-1)[:, None]
    far = F.cosine_similarity(anchor[:, None], negatives, dim=-1)
    logits = torch.cat([near, far], dim=1) / temperature
    return (torch.logsumexp(logits, dim=1) - logits[:, 0]).mean()


def at_similarity(similarity: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two latents (1, 3, 2, 2) of this cosine."""
    one = torch.zeros(1, 3, 2, 2)
    one[0, 0, 0, 0] = 2.0
    other = torch.zeros_like(one)
    other[0, 0, 0, 0], other[0, 2, 1, 1] = similarity, (1 - similarity**2) ** 0.5
    return one, other


@pytest.mark.parametrize(("temperature", "perfect", "nothing"), [(TEMPERATURE, 0.287, 1.387), (0.5, 0.619, 0.773)])
def test_perfection_and_doing_nothing_cost_what_the_methods_notes_say(
    temperature: float, perfect: float, nothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "TEMPERATURE", temperature)
    clean, moved = at_similarity(SIMILARITY)
    assert contrast(clean, clean, moved).item() == pytest.approx(perfect, abs=1e-3)
    assert contrast(moved, clean, moved).item() == pytest.approx(nothing, abs=1e-3)


@given(seed=st.integers(0, 99))
def test_it_is_info_nce_with_one_negative(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    anchor, positive, negative = torch.randn(3, 4, 3, 5, 2, generator=generator)
    general = info_nce(anchor.flatten(1), positive.flatten(1), negative.flatten(1)[:, None], TEMPERATURE)
    torch.testing.assert_close(contrast(anchor, positive, negative), general)


def test_info_nce_is_the_cross_entropy_of_finding_the_positive() -> None:
    anchor, positive, negatives = torch.randn(4, 10), torch.randn(4, 10), torch.randn(4, 6, 10)
    logits = [
        [F.cosine_similarity(a, other, dim=0) / 0.2 for other in (p, *n)]
        for a, p, n in zip(anchor, positive, negatives, strict=True)
    ]
    expected = F.cross_entropy(torch.tensor(logits), torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(info_nce(anchor, positive, negatives, 0.2), expected)


def test_nearer_to_the_clean_slice_costs_less() -> None:
    clean, moved = at_similarity(SIMILARITY)
    costs = [contrast(moved + share * (clean - moved), clean, moved).item() for share in (0, 0.3, 0.6, 1)]
    assert costs == sorted(costs, reverse=True)


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A prediction that asks for gradients, clean and moved, (2, 1, 32, 48)."""
    clean = torch.from_numpy(slices(2))[:, None]
    moved = clean + 0.2 * torch.randn_like(clean)
    return ((clean + moved) / 2).requires_grad_(), clean, moved


def test_the_gradient_goes_through_the_encoder_to_the_prediction_and_moves_no_weight(
    images: tuple[torch.Tensor, ...],
) -> None:
    autoencoder, _ = tiny_networks()
    before = {name: value.clone() for name, value in autoencoder.state_dict().items()}
    prediction = images[0]
    loss = ContrastiveLoss(autoencoder)(*images)
    loss.backward()
    assert prediction.grad is not None
    assert (prediction.grad.abs().amax(dim=(1, 2, 3)) > 0).all()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in autoencoder.parameters())
    optimiser = torch.optim.SGD([prediction, *autoencoder.parameters()], lr=10.0)
    optimiser.step()
    assert all(torch.equal(value, before[name]) for name, value in autoencoder.state_dict().items())
    assert ContrastiveLoss(autoencoder)(*images) < loss


def test_the_posterior_mean_is_compared_and_not_a_sample(images: tuple[torch.Tensor, ...]) -> None:
    autoencoder, _ = tiny_networks()
    loss = ContrastiveLoss(autoencoder)
    assert loss(*images).item() == loss(*images).item()
    latents = [autoencoder.encode(image)[0] for image in images]
    torch.testing.assert_close(loss(*images), contrast(*latents))


def test_a_network_trained_with_it_keeps_only_its_own_weights() -> None:
    network = torch.nn.Conv2d(1, 1, 3)
    network.contrast = ContrastiveLoss(tiny_networks()[0])
    assert list(network.state_dict()) == ["weight", "bias"]
