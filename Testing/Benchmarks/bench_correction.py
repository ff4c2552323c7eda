"""Seconds and peak memory for correcting a volume of 192 x 256 x 256 voxels, for each shipped model.

make bench, or: python Testing/Benchmarks/bench_correction.py
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from BrainDiffLogic.models.checkpoints import networks

SHAPE = (192, 256, 256)


def measure(model: str) -> dict[str, float]:
    """Seconds of ``correct`` and peak memory in GiB of a fresh process that corrects one volume."""
    output = subprocess.run([sys.executable, __file__, model], capture_output=True, text=True, check=True).stdout
    return json.loads(output)


def _correct_one(model: str) -> dict[str, float]:
    import resource

    from BrainDiffLogic.correction import correct
    from BrainDiffLogic.volume import Volume

    rng = np.random.default_rng(0)
    grid = np.linalg.norm(np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")), axis=0)
    head = Volume(np.where(grid < 0.9, 500 + 100 * rng.normal(size=SHAPE), 10).astype(np.int16), np.eye(4))
    report = correct(head, model, device="cpu", gate=False, force=True).report  # a ball of noise is no head
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": report["seconds"], "peak_gib": round(peak, 2)}


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted(networks()))
def test_a_volume_is_corrected_in_seconds(model: str) -> None:
    figures = measure(model)
    print(f"\n{model}: {figures['seconds']:.1f} s, {figures['peak_gib']:.2f} GiB")
    assert figures["peak_gib"] < 4


if __name__ == "__main__":
    names = sys.argv[1:] or sorted(networks())
    if len(names) == 1:
        print(json.dumps(_correct_one(names[0])))
    else:
        for name in names:
            print(name, measure(name))
