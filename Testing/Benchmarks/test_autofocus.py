"""Autofocus puts lines back where a pose says, and follows the true slope."""

from __future__ import annotations

import autofocus
import numpy as np
import pytest
import torch
from autofocus import Gathered, Scan, blur

IMAGE = np.random.default_rng(2).random((8, 12, 8))


def test_without_motion_the_image_comes_back() -> None:
    found = torch.linalg.vector_norm(Scan(IMAGE, 1).image(torch.zeros(12, 6, dtype=torch.float64)), dim=-1)
    np.testing.assert_allclose(found.numpy(), IMAGE, atol=1e-3)


def test_one_pose_for_all_lines_moves_the_image_back_by_it() -> None:
    poses = torch.zeros(12, 6, dtype=torch.float64)
    poses[:, 1] = 3.0
    found = torch.linalg.vector_norm(Scan(IMAGE, 1).image(poses), dim=-1)
    np.testing.assert_allclose(found.numpy(), np.roll(IMAGE, -3, axis=1), atol=1e-3)


def test_the_slope_of_the_blur_is_that_of_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autofocus, "ACCURACY", 1e-11)
    scan = Scan(IMAGE, 1)
    poses = torch.from_numpy(0.1 * np.random.default_rng(3).normal(size=(12, 6))).requires_grad_()
    blur(scan.image(poses)).backward()
    assert poses.grad is not None
    for place in ((2, 0), (5, 2), (9, 4), (11, 5)):
        step = torch.zeros_like(poses)
        step[place] = 1e-5
        with torch.no_grad():
            change = blur(scan.image(poses + step)) - blur(scan.image(poses - step))
        assert poses.grad[place].item() == pytest.approx(change.item() / 2e-5, rel=1e-4, abs=1e-7)
    places = 3 * torch.rand(3, 20, dtype=torch.float64, generator=torch.manual_seed(1))
    samples = torch.rand(20, 2, dtype=torch.float64, requires_grad=True)
    shape = (4, 5, 6)
    assert torch.autograd.gradcheck(lambda c: Gathered.apply(places, c, shape), (samples,), atol=1e-6)
