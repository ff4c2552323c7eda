"""The heads and the recorded motion that pairs are made from: which train and which are held out, made ready.

Painted heads are anatomy without the noise, resolution and contrast of any scanner, after SynthSeg (Billot et al.,
Medical Image Analysis 2023;86:102789): each label gets its own random grey value and texture. Here most keep the order
of a T1-weighted image, the rest have any contrast.

Quiet heads have lost their noise, so that a pair's noise comes in after the motion, as in a scanner. Noise that a scan
brought along would move with the head. It could only be averaged away, so a network would learn to smooth.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import fft, ndimage
from skimage.restoration import denoise_nl_means

from BrainDiffLogic.data.split import assert_apart, names_subject, subject_of
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.files import SHORT, digest, file_digest
from BrainDiffLogic.images import read_volume, staged_output
from BrainDiffLogic.metrics.sharpness import haar_detail
from BrainDiffLogic.motion.presets import SCAN_SECONDS
from BrainDiffLogic.motion.traces import TraceSet
from BrainDiffLogic.motion.trajectory import Trajectory, resampled, with_severity
from BrainDiffLogic.scan import head_mask, mask_box, robust_scale
from BrainDiffLogic.training.configuration import CorrectorConfiguration, Recipe
from BrainDiffLogic.volume import Volume, affine_from, sagittal_affine, to_sagittal

STRETCH = (0.5, 2.0)
"""How much shorter or longer than a scan the stretch of a trace is that is played during it."""
MOST_GAIN = 6.0
"""A trace is scaled up by no more where another can be had: what it holds then is the noise of its estimate."""
TRIES = 30
STILL_MM = 1e-6
HELD_OUT = 10
"""One person in so many is held out."""
SHAPE_POINTS = 64
SAME_MOTION = 0.98
"""Correlation from which two motions are one, whatever their size. Of 160,000 pairs of presets of different seeds the
highest is 0.952. One seed at 130 and 211 lines gives 0.9999 for drift, 0.985 for steps, less for what lasts seconds."""


@dataclass(frozen=True)
class Source:
    """One still volume to train on. kind: "head", "brain" (skull-stripped) or "labels" (painted)."""

    path: str
    subject: str
    kind: str = "head"
    weight: float = 1.0


def find_sources(configuration: CorrectorConfiguration, data: str | Path) -> tuple[list[Source], list[Source]]:
    """(training, validation) volumes below the folder ``data``, split by subject.

    Raises InputError when a pattern finds nothing, a validation subject is missing, or one subject is, or by the names
    of the files may be, on both sides.
    """
    training: list[Source] = []
    validation: list[Source] = []
    guessed: tuple[set[str], set[str]] = (set(), set())
    held_out_people = {configuration.people.get(name, name) for name in configuration.validation}
    for entry in configuration.sources:
        files = sorted(glob.glob(os.path.join(glob.escape(str(data)), entry["glob"]), recursive=True))
        if not files:
            raise InputError(f"{data}: no file matches {entry['glob']!r}; check --data and the sources' glob")
        for file in files:
            name = subject_of(Path(file).name, entry.get("subject"))
            subject = configuration.people.get(name, name)
            held_out = subject in held_out_people
            if "subject" not in entry and name not in configuration.people and not names_subject(Path(file).name):
                guessed[held_out].add(name)
            weight = float(entry.get("weight", 1.0)) / len(files)
            source = Source(file, subject, entry.get("kind", "head"), 1.0 if held_out else weight)
            (validation if held_out else training).append(source)
    if missing := held_out_people - {source.subject for source in validation}:
        raise InputError(f"{data}: validation subject {sorted(missing)[0]!r} is not among the sources")
    assert_sources_disjoint(training, validation)
    assert_apart(*guessed)
    return training, validation


def find_traces(
    configuration: CorrectorConfiguration, data: str | Path
) -> tuple[RecordedTraces, RecordedTraces] | tuple[None, None]:
    """(training, validation) recorded motion below the folder ``data``, split by person; none where none is named."""
    if not configuration.traces:
        return None, None
    path = Path(data) / configuration.traces
    return RecordedTraces(path), RecordedTraces(path, held_out=True)


def assert_sources_disjoint(training: list[Source], validation: list[Source]) -> None:
    """Raise InputError when a subject or a file is both trained on and validated on."""
    both = {s.subject for s in training} & {s.subject for s in validation}
    both |= {os.path.realpath(s.path) for s in training} & {os.path.realpath(s.path) for s in validation}
    if both:
        raise InputError(f"{sorted(both)[0]} is both in training and in validation; split by subject")


class RecordedTraces:
    """A set of recorded traces (``motion.traces``), of the people to train on or of those ``held_out``.

    RecordedTraces("traces").draw(192, 1.5, np.random.default_rng(1))
    """

    def __init__(self, path: str | Path, held_out: bool = False) -> None:
        people = TraceSet(path).people  # these are split, not their runs
        self.traces = TraceSet(path, [name for name in people if _held_out(name) == held_out])

    @property
    def runs(self) -> list[tuple[Path, str]]:
        """File and key of each run."""
        return [(file, key) for file, key, _ in self.traces.runs.values()]

    @property
    def contents(self) -> dict[str, str]:
        """The name of each run that moves, by the digest of what was recorded."""
        return {digest(rows.tobytes()): name for name, rows in self.traces.recorded() if np.ptp(rows, axis=0).any()}

    def draw(self, lines: int, severity: float, rng: np.random.Generator) -> Trajectory:
        """A stretch of a run at ``lines`` phase-encode lines, scaled to a severity in mm."""
        largest, chosen = STILL_MM, None
        for _ in range(TRIES):
            seconds = SCAN_SECONDS * float(np.exp(rng.uniform(*np.log(STRETCH))))
            trace, _ = self.traces.draw(rng, lines, seconds)
            size = trace.severity
            if size > largest:
                largest, chosen = size, trace
            if severity <= MOST_GAIN * size:
                break
        if chosen is None:
            raise InputError("the recorded traces hold no motion; give others")
        return with_severity(chosen, severity)


def _held_out(person: str) -> bool:
    """Whether a person of a set, ``NAME/person``, is held out."""
    return int(digest(person.split("/")[-1])[:2], 16) % HELD_OUT == 0


def motion_shape(trajectory: Trajectory) -> list[float]:
    """The course of a motion, for ``assert_other_motion``: poses over the scan less their mean, of norm 1; none: empty.

    The same whatever the severity, and nearly so for any number of lines and any pose that is taken as 0.
    """
    rows = resampled(trajectory, SHAPE_POINTS).rows
    rows = rows - rows.mean(axis=0)
    size = float(np.linalg.norm(rows))
    return (rows / size).ravel().round(5).tolist() if size > 1e-6 else []


def assert_other_motion(training: Iterable[list[float]], validation: Iterable[list[float]]) -> None:
    """Raise AssertionError where a motion, as ``motion_shape``, is both in training and in validation."""
    one, other = (np.array([shape for shape in shapes if shape]) for shapes in (training, validation))
    if len(one) and len(other) and (alike := float((one @ other.T).max())) > SAME_MOTION:
        raise AssertionError(f"a trajectory is both in training and in validation (correlation {alike:.4f})")


def assert_other_runs(training: RecordedTraces, validation: RecordedTraces) -> None:
    """Raise InputError where a recorded run is, under whatever name, both in training and in validation."""
    trained, held_out = training.contents, validation.contents
    if both := sorted(trained.keys() & held_out.keys()):
        names = f"{trained[both[0]]} and {held_out[both[0]]}"
        raise InputError(f"traces: {names} are the same recorded motion, in training and in validation; remove one")


MARGIN_MM = 12.0
T1_LEVELS = {
    "white": ((2, 7, 16, 28, 41, 46, 60, 85), (0.75, 1.0)),
    "deep": ((10, 11, 12, 13, 26, 49, 50, 51, 52, 58), (0.55, 0.8)),
    "grey": ((3, 8, 17, 18, 42, 47, 53, 54, 136, 137, 163, 164), (0.4, 0.65)),
    "fluid": ((4, 5, 14, 15, 24, 43, 44, 72), (0.08, 0.3)),
    "lesion": ((25, 57, 30, 62), (0.3, 0.9)),
}
"""FreeSurfer labels by tissue, and the range of their grey values in T1-weighted images; white is near 1."""
OTHER_RANGE = (0.05, 1.1)
"""Skull, skin, fat, muscle, eyes: anything."""
T1_SHARE = 0.75
PATCH, REACH = 3, 2
"""Voxels: width of the patches of non-local means, and how far away they are compared."""
STRENGTH = 0.8
"""Cut-off of non-local means, in standard deviations of the noise (skimage's advice for a known one)."""
QUIET_ENOUGH = 0.015
"""Noise over the mean of the head below which a head stays as it is: averaged or smoothed before."""
NORMAL_MAD = 0.6745
"""Median absolute deviation of a standard normal variable."""


def still_head(source: Source, recipe: Recipe, rng: np.random.Generator, folder: str | Path | None) -> Volume:
    """The source as ``load`` gives it, without its noise where the recipe wants quiet heads."""
    if not recipe.quiet or source.kind == "labels":
        return load(source, rng, grainy=not recipe.quiet)
    if folder is None:
        raise InputError("quiet heads need a folder to be kept in; simulate these pairs with a PairCache")
    return quiet_head(Path(folder) / quiet_name(source), lambda: load(source, rng))


def load(source: Source, rng: np.random.Generator, grainy: bool = True) -> Volume:
    """The source as a RAS+ volume in network units, cropped to the head and a margin of air.

    grainy  painted heads have a texture of single voxels, too
    """
    image = paint_file(source.path, rng, grainy) if source.kind == "labels" else read_volume(source.path)
    stack, affine = to_sagittal(image), sagittal_affine(image)
    stack = robust_scale(np.ascontiguousarray(stack)).forward(stack)
    if source.kind != "head":  # air around a cropped brain, so that what turns out of the box does not wrap around
        stack = np.pad(stack, 16)
    return _cropped(Volume(stack, affine, source=source.path))


def vary(volume: Volume, recipe: Recipe, rng: np.random.Generator) -> Volume:
    """Another head on another scanner: mirrored, resampled, other contrast and sharpness."""
    array = np.ascontiguousarray(volume.array[::-1]) if rng.random() < 0.5 else volume.array
    zoom = rng.uniform(*recipe.zoom) * rng.uniform(0.93, 1.07, size=3)
    zoom *= min(1.0, (recipe.max_voxels / (array.size * zoom.prod())) ** (1 / 3))
    shape = [fft.next_fast_len(int(n * z)) for n, z in zip(array.shape, zoom, strict=True)]
    array = np.maximum(fourier_resampled(array, shape), 0)
    if rng.random() < recipe.blur_share:
        array = ndimage.gaussian_filter(array, rng.uniform(*recipe.blur))
    array = array ** np.float32(rng.uniform(*recipe.gamma))
    affine = np.diag([*(volume.spacing * volume.shape / np.array(shape)), 1.0])
    return Volume(array, affine, source=volume.source)


def fourier_resampled(array: np.ndarray, shape: list[int]) -> np.ndarray:
    """The array on another grid of the same field of view: its spectrum cropped or padded with zeros."""
    for axis, size in enumerate(shape):
        old = array.shape[axis]
        spectrum = fft.rfft(array, axis=axis)
        spectrum = np.take(spectrum, range(min(old, size) // 2), axis=axis)
        array = fft.irfft(spectrum, n=size, axis=axis) * (size / old)
    return array.astype(np.float32)


def smooth_field(shape: tuple[int, ...], rng: np.random.Generator, waves: int) -> np.ndarray:
    """(I, J, K) float32 smooth random field within about -1 to 1, ``waves`` half periods over the volume."""
    coarse = rng.normal(size=(waves + 2,) * 3)
    field_ = coarse / np.abs(coarse).max()
    for axis, size in enumerate(shape):
        matrix = ndimage.zoom(np.eye(waves + 2), (1, size / (waves + 2)), order=3, grid_mode=True, mode="nearest")
        field_ = np.moveaxis(np.tensordot(field_, matrix.astype(np.float32), axes=(axis, 0)), -1, axis)
    return field_.astype(np.float32)


def _cropped(volume: Volume) -> Volume:
    box = mask_box(head_mask(volume.array), MARGIN_MM / volume.spacing)
    return Volume(volume.array[box], np.diag([*volume.spacing, 1.0]), source=volume.source)


def paint_file(path: str, rng: np.random.Generator, grainy: bool = True) -> Volume:
    """A head painted from a label map in a file."""
    labels = read_volume(path)
    box = mask_box(labels.array > 0, 8)
    affine = affine_from(labels.affine, [side.start for side in box])
    return Volume(paint(np.rint(labels.array[box]).astype(np.int32), rng, grainy), affine, source=path)


def paint(labels: np.ndarray, rng: np.random.Generator, grainy: bool = True) -> np.ndarray:
    """An image (I, J, K) float32, white matter near 1, from an integer label map; air is 0.

    grainy  the texture has a scale of single voxels, which looks like noise
    """
    t1_like = rng.random() < T1_SHARE
    values = np.unique(labels)
    level = np.zeros(int(values.max()) + 1, dtype=np.float32)
    grain = np.zeros_like(level)
    for tissue_labels, limits in [*T1_LEVELS.values(), (tuple(values[values > 0]), OTHER_RANGE)]:
        shared = rng.uniform(*limits) if t1_like else rng.uniform(*OTHER_RANGE)
        for label in tissue_labels:
            if label < len(level) and level[label] == 0:
                other = limits is OTHER_RANGE
                level[label] = rng.uniform(*OTHER_RANGE) if other else shared * rng.uniform(0.95, 1.05)
                grain[label] = rng.uniform(0.01, 0.15 if other else 0.06)
    index = labels.astype(np.int32)
    texture = _texture(labels.shape, rng, grainy)
    image = level[index] + grain[index] * texture
    return np.maximum(ndimage.gaussian_filter(image, rng.uniform(0.4, 0.8)), 0)


def _texture(shape: tuple[int, ...], rng: np.random.Generator, grainy: bool) -> np.ndarray:
    """Noise of unit standard deviation on two scales: voxels, unless not ``grainy``, and structures of a few voxels."""
    fine = rng.standard_normal(shape, dtype=np.float32) if grainy else np.float32(0)
    coarse = ndimage.zoom(rng.standard_normal([-(-n // 4) for n in shape], dtype=np.float32), 4, order=1)
    coarse = coarse[tuple(slice(n) for n in shape)]
    share = np.float32(rng.uniform(0.2, 0.8))
    return share * fine + (1 - share) * coarse / coarse.std()


def quiet_name(source: Source) -> str:
    """The file of a source's quiet head in a folder of them."""
    return f"{Path(source.path).name}-{file_digest(source.path)[:SHORT]}-{source.kind}.npz"


def noise_deviation(array: np.ndarray, inside: np.ndarray) -> float:
    """Standard deviation of the noise of a magnitude image (I, J, K) in the flatter half of ``inside``, its head.

    From differences along all three axes at once (Haar's finest diagonal detail), in which a head has little structure.
    Inside a head Rician noise is Gaussian; in air it is not, and masked air has none: skimage's ``estimate_sigma``,
    which takes the whole image, would find too little.
    """
    detail, smooth = haar_detail(array, range(3)), ndimage.gaussian_filter(array.astype(np.float32), 1.5)
    every_second = tuple(slice(0, size // 2 * 2, 2) for size in array.shape)
    slope = np.sqrt(sum(step**2 for step in np.gradient(smooth)))[every_second]
    head = ndimage.binary_erosion(inside, iterations=2)[every_second]
    if not head.any():
        return 0.0
    flat = head & (slope <= np.median(slope[head]))
    return float(np.median(np.abs(detail[flat]))) / NORMAL_MAD


def quieted(array: np.ndarray) -> np.ndarray:
    """A magnitude image (I, J, K) >= 0 without its noise, float32.

    Non-local means (Buades 2005; Coupe et al., IEEE TMI 2008), then the mean of Rician noise off the squares, so that
    air becomes 0. One that is quiet already comes back as it is.
    """
    array = array.astype(np.float32)
    inside = head_mask(array)
    deviation = noise_deviation(array, inside)
    if deviation <= QUIET_ENOUGH * array[inside].mean():
        return array
    means = denoise_nl_means(
        array, patch_size=PATCH, patch_distance=REACH, h=STRENGTH * deviation, sigma=deviation, fast_mode=True
    )
    return np.sqrt(np.maximum(means**2 - 2 * deviation**2, 0)).astype(np.float32)


def quiet_head(path: Path, load: Callable[[], Volume]) -> Volume:
    """The quiet copy of a volume on a diagonal affine, kept in the file ``path`` (.npz), made at first."""
    if not path.exists():
        volume = load()
        path.parent.mkdir(parents=True, exist_ok=True)
        with staged_output(path) as staged:
            np.savez(staged, array=quieted(np.maximum(volume.array, 0)).astype(np.float16), spacing=volume.spacing)
    with np.load(path) as kept:
        return Volume(kept["array"].astype(np.float32), np.diag([*kept["spacing"], 1.0]), source=path.name)
