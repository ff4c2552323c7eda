"""Work side by side: results in order, one thread each, an error stops the others, slabs cover an array once."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from BrainDiffLogic.errors import Cancelled
from BrainDiffLogic.motion.joint import edge_weights, gradients, gradients_adjoint, smoothed
from BrainDiffLogic.motion.lanes import SLAB, in_slabs, side_by_side, stopped, threads


@pytest.fixture(params=["1", "2"])
def cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("OMP_NUM_THREADS", request.param)
    return int(request.param)


def test_tasks_run_side_by_side_in_one_thread_each_and_answer_in_order(cores: int):
    def task(number: int) -> tuple[int, int, int]:
        time.sleep(0.02 * (3 - number))
        return number, threads(), threading.get_ident()

    answers = side_by_side([lambda n=n: task(n) for n in range(3)])

    assert [(number, allowed) for number, allowed, _ in answers] == [(0, 1), (1, 1), (2, 1)]
    assert len({thread for *_, thread in answers}) == cores
    assert threads() == cores, "afterwards all cores are this thread's again"


def test_an_error_in_one_lane_stops_the_others(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    seen: list[str] = []

    def fails() -> None:
        time.sleep(0.05)
        raise ValueError("wrong")

    def works() -> None:
        while not stopped():
            time.sleep(0.01)
        seen.append("stopped")
        raise Cancelled

    with pytest.raises(ValueError, match="wrong"):
        side_by_side([fails, works, lambda: seen.append("begun")])
    assert seen == ["stopped"]
    assert not stopped()


def test_slabs_cover_an_array_once_and_are_the_same_on_any_number_of_cores(cores: int):
    shape = (37, 128, 100)
    slabs = in_slabs(lambda slab: (slab.start, slab.stop), shape)
    assert [start for start, _ in slabs] == [0, *(stop for _, stop in slabs[:-1])] and slabs[-1][1] == 37
    assert len(slabs) > 1 and all((stop - start) * 128 * 100 <= SLAB for start, stop in slabs)


def test_the_prior_in_slabs_is_that_of_the_whole(cores: int):
    rng = np.random.default_rng(0)
    image, other = rng.random((2, 40, 128, 100), dtype=np.float32)
    weights = edge_weights(image)
    for weight, part in zip(weights, gradients(image), strict=True):
        assert np.array_equal(weight, 1 / (part**2 + np.float32(0.02**2)))
    whole = gradients_adjoint([w * part for w, part in zip(weights, gradients(other), strict=True)])
    assert np.array_equal(smoothed(other, weights, np.float32(0.5), image), image + np.float32(0.5) * whole)
