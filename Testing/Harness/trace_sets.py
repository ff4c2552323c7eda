"""Tiny sets of recorded motion, stored as the shared ones are."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def save_traces(path: Path, runs: int = 4, frames: int = 120, tr: float = 3.0) -> Path:
    """``runs`` random walks of half as many people, two each, with their index beside."""
    path.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(runs)
    rows = {
        f"sub-{n // 2 + 1:02}_run-{n % 2 + 1}": (rng.normal(0, 60, (frames, 6)).cumsum(axis=0)).astype(np.int16)
        for n in range(runs)
    }
    np.savez_compressed(path, **rows)
    lines = ["key\tframes\ttr_s\tmean_fd_mm", *(f"{key}\t{frames}\t{tr}\t0.1" for key in rows)]
    path.with_name(f"{path.stem}_index.tsv").write_text("\n".join(lines) + "\n")
    return path
