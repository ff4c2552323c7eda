"""Training pairs: a still scan made different in resolution, contrast and noise, then moved by simulation.

Each pair depends only on (recipe, seed, index): the same numbers give the same pair on any machine, and a
cache that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.files import SHORT, digest, file_digest
from BrainDiffLogic.images import staged_output
from BrainDiffLogic.motion import Trajectory, preset, simulate_motion, with_severity
from BrainDiffLogic.motion.kspace import phase_encode_axis
from BrainDiffLogic.motion.presets import LARGEST_TURN
from BrainDiffLogic.motion.sampling import EVERY_LINE, Sampling
from BrainDiffLogic.motion.simulation import smooth_phase
from BrainDiffLogic.progress import Progress, run_all, silent
from BrainDiffLogic.scan import head_mask, robust_scale
from BrainDiffLogic.training.configuration import RECORDED, CorrectorConfiguration, Recipe
from BrainDiffLogic.training.heads import (
    RecordedTraces,
    Source,
    assert_other_runs,
    find_sources,
    find_traces,
    motion_shape,
    smooth_field,
    still_head,
    vary,
)
from BrainDiffLogic.volume import Volume

FFT_ACCURACY = 1e-3
FORMAT = 2
"""Of the pairs: another number where the same sources and recipe give others."""
QUIET = "quiet"
"""Folder of the quiet heads, which all pairs of a cache share."""
FULL_ALIASING_MM = 2.0
"""Mean displacement from which the lines that parallel imaging fills in are as wrong as the recipe says."""
MASK_SMOOTHING_MM = 2.0
BRAIN_FLOOR = 0.02
"""Network units: a stripped brain is where its base is brighter."""
MASK_LEVEL = (0.03, 0.7)
"""Of the smoothed mask, log-uniform: from 4 mm outside of the still outline to 1 mm inside."""
VALIDATION_SEEDS = 10_000
"""Added to the seed for the trajectories of validation, so that none of them is trained on."""
VALIDATION_STILL = 0.15
"""Share of still scans in validation: enough of them to see harm."""


def simulate_pair(
    source: Source, recipe: Recipe, seed: int, index: int, *,
    quiet: str | Path | None = None, traces: RecordedTraces | None = None,
) -> tuple[np.ndarray, dict]:  # fmt: skip
    """((2, slices, rows, columns) float16, facts): moved and still sagittal stacks in network units.

    quiet   folder in which quiet heads are kept, needed for a recipe of them
    traces  needed for a recipe with the motion "recorded"
    """
    rng = np.random.default_rng([seed, index])
    still = vary(still_head(source, recipe, rng, quiet), recipe, rng)
    receive = np.exp(smooth_phase(still.shape, rng, rng.uniform(0, recipe.bias_field)))  # polynomials, as coils are
    pe_axis = _choose(recipe.pe_axes, rng)
    kind = "still" if rng.random() < recipe.still_share else _choose(recipe.presets, rng)
    severity = 0.0 if kind == "still" else _severity(recipe, rng)
    lines = still.shape[phase_encode_axis(still.affine, pe_axis)]
    trajectory = _trajectory(kind, lines, severity, rng, traces)
    phase = smooth_field(still.shape, rng, 2) * rng.uniform(0.2, np.pi) if rng.random() < recipe.phase_share else None
    noise = recipe.noise[0] + (recipe.noise[1] - recipe.noise[0]) * rng.random() ** 2
    noise_seed = int(rng.integers(2**31))
    simulation = simulate_motion(
        still, trajectory, pe_axis, noise=noise, seed=noise_seed, phase=phase, accuracy=FFT_ACCURACY,
        sampling=_sampling(recipe, still.shape, trajectory, rng), receive=receive,
    )  # fmt: skip
    moved, reference = simulation.moved.array, simulation.reference.array
    masked = bool(recipe.masked_share) and bool(rng.random() < recipe.masked_share)
    if masked:
        mask = drawn_mask(still, source.kind == "brain", rng)
        moved, reference = moved * mask, reference * mask
    scale = robust_scale(moved)
    stacks = np.stack([scale.forward(moved), scale.forward(reference)])
    occupied = np.flatnonzero(head_mask(reference).any(axis=(1, 2)))
    stacks = stacks[:, max(0, occupied[0] - 2) : occupied[-1] + 3]
    facts = {
        "subject": source.subject, "kind": source.kind, "preset": kind, "pe_axis": pe_axis,
        "severity": simulation.severity, "motion": motion_shape(trajectory),
        "error": float(np.abs(stacks[0] - stacks[1]).mean()), "noise": noise, "masked": masked,
    }  # fmt: skip
    return np.clip(stacks, -60000, 60000).astype(np.float16), facts


def _severity(recipe: Recipe, rng: np.random.Generator) -> float:
    """Log-uniform, in the middle half of the octaves as often as the recipe says."""
    low, high = np.log(recipe.severity_mm)
    if recipe.middle_share and rng.random() < recipe.middle_share:
        low, high = low + (high - low) / 4, high - (high - low) / 4
    return float(np.exp(rng.uniform(low, high)))


def _trajectory(
    kind: str, lines: int, severity: float, rng: np.random.Generator, traces: RecordedTraces | None
) -> Trajectory:
    """A motion of this kind and of this severity in mm: drawn again, ever milder, while the head turns too far.

    A few short nods need 30 degrees and more to reach a mean displacement of 2 mm; no head does so in a coil.
    """
    while severity > 0:
        with suppress(InputError):
            if kind == RECORDED and traces:
                trajectory = traces.draw(lines, severity, rng)
            else:
                trajectory = with_severity(preset(kind, lines, rng), severity)
            if np.abs(trajectory.rotations).max() <= LARGEST_TURN:
                return trajectory
        severity *= 0.9
    return with_severity(preset("drift", lines, rng), 0.0)


def _sampling(recipe: Recipe, shape: tuple[int, ...], trajectory: Trajectory, rng: np.random.Generator) -> Sampling:
    """How a scan is sampled whose head moves along an anchored trajectory, which has a pose for each of its lines."""
    sampling = EVERY_LINE
    if rng.random() < recipe.partial_fourier_share:
        sampling = Sampling(rng.uniform(*recipe.partial_fourier), late=bool(rng.random() < 0.5))
    if rng.random() >= recipe.aliasing_share:
        return sampling
    severity = trajectory.displacement[sampling.keeps(len(trajectory))].mean()
    strength = rng.uniform(*recipe.aliasing) * min(1.0, severity / FULL_ALIASING_MM)
    error = strength * (smooth_field(shape, rng, 2) + 1j * smooth_field(shape, rng, 2)).astype(np.complex64)
    calibration = 2 * int(rng.integers(8, 21))
    return replace(sampling, reduction=int(rng.integers(2, 4)), calibration_lines=calibration, fill_error=error)


def _choose(weights: dict[str, float], rng: np.random.Generator) -> str:
    names = list(weights)
    chances = np.array([weights[name] for name in names], dtype=float)
    return names[rng.choice(len(names), p=chances / chances.sum())]


def drawn_mask(still: Volume, stripped: bool, rng: np.random.Generator) -> np.ndarray:
    """(I, J, K) bool: the still head, or the brain of a ``stripped`` base, with a smooth edge a little out or in.

    still  quiet, in network units
    """
    if stripped:
        mask = ndimage.binary_fill_holes(ndimage.binary_opening(still.array > BRAIN_FLOOR))
    else:
        mask = head_mask(still.array)
    smooth = ndimage.gaussian_filter(mask.astype(np.float32), MASK_SMOOTHING_MM / still.spacing)
    return smooth > np.exp(rng.uniform(*np.log(MASK_LEVEL)))


class PairCache:
    """Pairs on disk, one .npy file each with a .json of facts, made once and read as memory maps.

    The folder is named after the ``digest`` of what the pairs depend on, contents of files included, so that a changed
    recipe or scan never reads old pairs.
    """

    def __init__(
        self, folder: str | Path, sources: list[Source], recipe: Recipe, seed: int, traces: RecordedTraces | None = None
    ) -> None:
        if not sources:
            raise InputError("there are no volumes to train on; check the sources of the configuration")
        if RECORDED in recipe.presets and traces is None:
            raise InputError(f"the recipe has the motion {RECORDED!r}; give the configuration traces")
        named = [asdict(source) | {"path": file_digest(source.path)} for source in sources]
        runs = traces.runs if traces else []
        recorded = {file: file_digest(file) for file, _ in runs}
        content = [FORMAT, named, asdict(recipe), seed, [[recorded[file], key] for file, key in runs]]
        self.digest = digest(content)[:SHORT]
        self.folder = Path(folder) / self.digest
        self.folder.mkdir(parents=True, exist_ok=True)
        self.sources, self.recipe, self.seed, self.traces = sources, recipe, seed, traces
        self.quiet = Path(folder) / QUIET

    @property
    def subjects(self) -> list[str]:
        """Sorted, each once."""
        return sorted({source.subject for source in self.sources})

    def source_of(self, index: int) -> Source:
        """The volume that pair ``index`` is made from."""
        weights = np.array([source.weight for source in self.sources])
        rng = np.random.default_rng([self.seed, index, 1])
        return self.sources[rng.choice(len(weights), p=weights / weights.sum())]

    def simulate(self, index: int) -> tuple[np.ndarray, dict]:
        """Pair ``index`` and its facts, see ``simulate_pair``."""
        source = self.source_of(index)
        return simulate_pair(source, self.recipe, self.seed, index, quiet=self.quiet, traces=self.traces)

    def make(self, index: int) -> None:
        """Simulate pair ``index`` unless it is there; facts are written last: a pair is whole or absent."""
        data, facts_file = self._files(index)
        if facts_file.exists():
            return
        stacks, facts = self.simulate(index)
        with staged_output(facts_file) as staged:
            np.save(staged.with_name(data.name), stacks)
            staged.write_text(json.dumps(facts), encoding="utf-8")

    def ready(self, count: int) -> list[int]:
        """Which of the pairs 0 to count - 1 are there."""
        return [index for index in range(count) if self._files(index)[1].exists()]

    def stacks(self, index: int) -> np.ndarray:
        """(2, slices, rows, columns) float16, memory-mapped: moved, still."""
        return np.load(self._files(index)[0], mmap_mode="r")

    def facts(self, index: int) -> dict:
        """What pair ``index`` is: subject, kind, preset, pe_axis, severity in mm, motion, error of doing nothing."""
        return json.loads(self._files(index)[1].read_text(encoding="utf-8"))

    def _files(self, index: int) -> tuple[Path, Path]:
        return self.folder / f"{index:05d}.npy", self.folder / f"{index:05d}.json"


def caches(configuration: CorrectorConfiguration, data: str | Path, folder: str | Path) -> tuple[PairCache, PairCache]:
    """The training and the validation pairs of a configuration: other subjects, other trajectories."""
    training, validation = find_sources(configuration, data)
    seeds = configuration.seed, configuration.seed + VALIDATION_SEEDS
    traces = find_traces(configuration, data)
    if traces[0] is not None and traces[1] is not None:
        assert_other_runs(*traces)
    trained = PairCache(folder, training, configuration.recipe, seeds[0], traces[0])
    recipe = replace(configuration.recipe, still_share=VALIDATION_STILL)
    held_out = PairCache(folder, validation, recipe, seeds[1], traces[1])
    return trained, held_out


def make_pairs(cache: PairCache, pairs: int, jobs: int, progress: Progress = silent) -> None:
    """Simulate those of the first ``pairs`` pairs that are missing, in ``jobs`` processes."""
    missing = sorted(set(range(pairs)) - set(cache.ready(pairs)))
    if missing:
        run_all([partial(cache.make, index) for index in missing], jobs, progress, "Simulating pairs")
