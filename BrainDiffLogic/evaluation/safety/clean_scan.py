"""A still scan given to a corrector should come back as it is."""

from __future__ import annotations

import numpy as np

from BrainDiffLogic.evaluation.methods import Method
from BrainDiffLogic.evaluation.safety.outcome import Outcome, at_least, at_most
from BrainDiffLogic.evaluation.safety.scene import STILL, Scene
from BrainDiffLogic.evaluation.safety.tissue_volumes import TISSUES, tissue_volumes
from BrainDiffLogic.metrics.quality import compare

CHECK = "clean in"
LEAST_SSIM = 0.995
"""Issue 5; half a millimetre of misregistration costs 0.027, a blur of 0.6 voxels 0.017 (METHODS 4.2)."""
LARGEST_CHANGE = 1.0
"""99th percentile of the change in standard deviations of the scan's noise (METHODS 4.6): nothing that noise hides."""
LARGEST_GAIN = 0.005
"""Relative change of the mean: a tenth of the 5 % that alone bring PSNR down to 28 dB (METHODS 4.2)."""
LARGEST_GROWTH = 0.007
"""Relative change of a tissue's volume: what motion of 1 mm/min takes from grey matter (Reuter et al., NeuroImage
2015). A published corrector took 6.2 % of the cortex's thickness from still scans (JDAC, METHODS 1.5)."""


def check_clean_scan(method: Method, scene: Scene) -> list[Outcome]:
    """SSIM, size of the change, mean and tissue volumes of a still scan after correction."""
    still = scene.still
    result = method(still)
    change = np.abs(scene.scaled(result - still.array)[scene.head])
    before, after = scene.scale.forward(still.array), scene.scale.forward(result)
    level = float(before[scene.head].mean(dtype=np.float64))
    gain = float(after[scene.head].mean(dtype=np.float64)) / level - 1
    found = [
        at_least(CHECK, "SSIM", compare(still.with_array(result), still).ssim, LEAST_SSIM),
        at_most(
            CHECK, "99th percentile of the change", np.percentile(change, 99) / scene.noise, LARGEST_CHANGE, "noise SD",
            f"noise {100 * scene.noise:.2f} % of the scale",
        ),
        at_most(CHECK, "change of the mean", abs(gain), LARGEST_GAIN, "", f"{100 * gain:+.3f} %"),
    ]  # fmt: skip
    truth, volumes = tissue_volumes(before, scene), tissue_volumes(after, scene)
    growth = {name: volumes[name] / truth[name] - 1 for name in TISSUES}
    note = ", ".join(f"{name} {100 * share:+.2f} %" for name, share in growth.items())
    worst = max(abs(share) for share in growth.values())
    return [*found, at_most(CHECK, "change of tissue volumes", worst, LARGEST_GROWTH, "", f"{STILL}: {note}")]
