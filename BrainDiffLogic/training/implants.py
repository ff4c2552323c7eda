"""Lesions put into a training sample, alike into the moved and the still slice: what is focal is no artifact.

That motion also blurs a lesion is left out: the slices were simulated before it is there. So a network learns to leave
lesions as the moved scan shows them, which is what the do-no-harm suite asks for.
"""

from __future__ import annotations

import numpy as np

from BrainDiffLogic.ellipsoids import soft_ellipsoid

MOST = 6
DIAMETER = (2.0, 10.0)
"""Pixels, as likely in each octave; pixels of 1 mm on most training scans."""
ELONGATED = (0.6, 1.7)
EDGE = (1.0, 4.0)
"""Pixels: from a sharp border to one that motion has smeared."""
CONTRAST = (0.05, 0.6)
"""In network units; as often bright as dark."""
DARKEST = 0.8
"""A dark lesion takes at most this share of the signal at its place away."""
TISSUE = 0.25
"""Network units: lesions lie where the still slice has more."""


def implant(moved: np.ndarray, clean: np.ndarray, rng: np.random.Generator) -> None:
    """Add 1 to ``MOST`` lesions to moved (context, rows, columns) and clean (1, rows, columns) where they lie."""
    room = np.argwhere(clean[0] > TISSUE)
    if not len(room):
        return
    middle = len(moved) // 2
    for row, column in room[rng.integers(len(room), size=rng.integers(1, MOST + 1))]:
        axes = np.exp(rng.uniform(*np.log(DIAMETER))) / 2 * rng.uniform(*ELONGATED, size=3)
        place = np.array([middle + rng.uniform(-1, 1) * axes[0], row, column])
        contrast = rng.uniform(*CONTRAST)
        if rng.random() < 0.5:
            contrast = -min(contrast, DARKEST * float(clean[0, row, column]))
        box, filled = soft_ellipsoid(place, axes, rng.uniform(*EDGE), np.ones(3), moved.shape)
        added = np.zeros((len(moved), *filled.shape[1:]), np.float32)
        added[box[0]] = np.float32(contrast) * filled
        moved[:, *box[1:]] += added
        clean[:, *box[1:]] += added[middle : middle + 1]
