"""Does a simulated nod change a scan as much as a real one? Against MRIQC's metrics of MR-ART (ds004173).

MR-ART scanned each subject lying still, with 5 nods (headmotion1) and with 10 (headmotion2). For each subject
the change is metric(headmotionN) / metric(standard). Here the nod preset with 5 and 10 nods is put on still
heads and the same ratio taken, as MRIQC does on images without bias field.

EFC counts what ghosts add to the air, so its change depends on how much noise the still scan's air holds.
Heads with quieter air than MR-ART's get noise until their EFC is the median of MR-ART's still scans ("noise
matched"); a column without it shows what that is worth. MRIQC finds the tissues anew in each scan, with FSL
FAST; a classifier by intensity alone, given the moved scan, moves its limits so that CJV and SNR hide the
motion. So the tissues are the still scan's, and a column shows what finding them again would give.

    PYTHONPATH=. python Testing/Benchmarks/nod_calibration.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import csv
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from scipy.optimize import brentq

from BrainDiffLogic.metrics.quality import (
    AIR_SHARE,
    Tissues,
    entropy_focus_criterion,
    joint_variation,
    signal_to_noise,
    tissue_masks,
)
from BrainDiffLogic.motion.kspace import phase_encode_axis
from BrainDiffLogic.motion.presets import nod
from BrainDiffLogic.motion.simulation import simulate_motion
from BrainDiffLogic.motion.trajectory import scaled
from BrainDiffLogic.scan import Scan, head_mask
from BrainDiffLogic.volume import Volume

METRICS = ("cjv", "efc", "snr_total")
STILL = "standard"
NODS = {"headmotion1": 5, "headmotion2": 10}
HEADS = ("ds000011-02", "ds000011-04", "ds000011-06", "ds000011-08", "fnndsc-adi", "uih-1", "pycortex-S1")
PE_AXIS = "AP"  # sagittal MPRAGE as in MR-ART
N4_STEP = 4  # voxels: the bias field is smooth, so it is fitted on every fourth

Changes = dict[tuple[str, str], list[float]]
"""(acquisition, metric) -> ratios moved / still, one for each subject that has both."""


@dataclass(frozen=True)
class Head:
    """A still head: its bias field (divided out of every image of it), deep region, and noise to add (SD)."""

    name: str
    volume: Volume
    bias: np.ndarray
    inner: np.ndarray
    measured_air: bool
    noise: float = 0.0

    def flat(self, array: np.ndarray) -> np.ndarray:
        """An image (I, J, K) of this head without its bias field."""
        return np.maximum(array, 0) / self.bias

    def tissues(self, array: np.ndarray) -> Tissues:
        """The tissues as an image of this head shows them."""
        return tissue_masks(self.flat(array), self.inner)

    def metrics(self, array: np.ndarray, tissues: Tissues) -> dict[str, float]:
        """MRIQC's three metrics of an image of this head; EFC is NaN where the air was set to zero."""
        flat = self.flat(array)
        csf, gm, wm = (flat[mask] for mask in (tissues.csf, tissues.gm, tissues.wm))
        efc = entropy_focus_criterion(flat) if self.measured_air or self.noise > 0 else float("nan")
        snr = float(np.mean([signal_to_noise(part) for part in (csf, gm, wm)]))
        return dict(zip(METRICS, (joint_variation(gm, wm), efc, snr), strict=True))


@dataclass
class Column:
    """One setting of the simulation: what it changed over the heads, and how far the heads moved (mm)."""

    title: str
    changes: Changes
    severity: dict[str, float]


def read_scans(table: Path) -> dict[str, dict[str, dict[str, float]]]:
    """MRIQC's table as subject -> acquisition -> metric -> value."""
    scans: dict[str, dict[str, dict[str, float]]] = {}
    with open(table, encoding="ascii") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            entities = re.fullmatch(r"sub-(\w+)_acq-(\w+)_T1w", row["bids_name"])
            if entities:
                scans.setdefault(entities[1], {})[entities[2]] = {name: float(row[name]) for name in METRICS}
    return scans


def real_changes(scans: dict[str, dict[str, dict[str, float]]]) -> Changes:
    """Changes in MR-ART, joined by subject; a subject without one of the two scans is left out."""
    changes: Changes = {(name, metric): [] for name in NODS for metric in METRICS}
    for subject in scans.values():
        for name, metric in changes:
            if name in subject and STILL in subject:
                changes[name, metric].append(subject[name][metric] / subject[STILL][metric])
    return changes


def still_median(scans: dict[str, dict[str, dict[str, float]]], metric: str) -> float:
    """The median of a metric over MR-ART's still scans."""
    return float(np.median([subject[STILL][metric] for subject in scans.values() if STILL in subject]))


def load_head(path: Path) -> Head:
    """Read a still head (NIfTI) and measure its bias field by N4 inside the head."""
    image = nib.nifti1.Nifti1Image.from_filename(path)
    volume = Volume(np.asanyarray(image.dataobj).astype(np.float32), image.affine, source=path.name)
    mask = head_mask(volume.array)
    air = volume.array[~mask]
    return Head(
        name=path.name.removesuffix("_T1w.nii.gz"),
        volume=volume,
        bias=bias_field(volume.array, mask),
        inner=Scan(volume).inner,
        measured_air=bool(np.count_nonzero(air) >= AIR_SHARE * air.size),
    )


def bias_field(array: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(I, J, K) multiplicative bias field by N4 (Tustison et al. 2010)."""
    every = (slice(None, None, N4_STEP),) * 3
    fit = sitk.N4BiasFieldCorrectionImageFilter()
    fit.SetMaximumNumberOfIterations([20, 20, 20])
    fit.Execute(sitk.GetImageFromArray(array[every]), sitk.GetImageFromArray(mask[every].astype(np.uint8)))
    grid = sitk.GetImageFromArray(array)
    grid.SetSpacing([1 / N4_STEP] * 3)
    return np.exp(sitk.GetArrayFromImage(fit.GetLogBiasFieldAsImage(grid)))


def with_noise_of(head: Head, efc: float) -> Head:
    """The head with as much complex noise as makes its EFC ``efc``; as it is if its air is noisier already."""
    array = head.volume.array
    grain = np.random.default_rng(0).standard_normal((2, *array.shape), dtype=np.float32)

    def excess(sigma: float) -> float:
        noisy = np.hypot(array + np.float32(sigma) * grain[0], np.float32(sigma) * grain[1])
        return entropy_focus_criterion(head.flat(noisy)) - efc

    if excess(0.0) >= 0:
        return head
    top = 0.1 * float(np.percentile(array, 99))
    return replace(head, noise=float(brentq(excess, 0.0, top, xtol=0.01 * top)))


def move(head: Head, amplitude: float) -> tuple[Changes, Changes, dict[str, float]]:
    """Changes with the still head's tissues, changes with tissues found again, and the severities in mm."""
    fixed: Changes = {}
    again: Changes = {}
    severity = {}
    seed = zlib.crc32(head.name.encode())  # a head nods in its own way, the same at every amplitude
    lines = head.volume.shape[phase_encode_axis(head.volume.affine, PE_AXIS)]
    for name, nods in NODS.items():
        motion = scaled(nod(lines, np.random.default_rng([seed, nods]), nods=nods), amplitude)
        scan = simulate_motion(head.volume, motion, PE_AXIS, noise=head.noise, seed=seed)
        severity[name] = scan.severity
        tissues = head.tissues(scan.reference.array)
        still = head.metrics(scan.reference.array, tissues)
        for changes, found in ((fixed, tissues), (again, head.tissues(scan.moved.array))):
            moved = head.metrics(scan.moved.array, found)
            changes.update({(name, metric): [moved[metric] / still[metric]] for metric in METRICS})
    return fixed, again, severity


def measure(heads: Sequence[Head], amplitude: float, title: str) -> tuple[Column, Column]:
    """The columns with the still scan's tissues and with those found again, at a factor on the preset."""
    fixed: Changes = {}
    again: Changes = {}
    severities: dict[str, list[float]] = {}
    for head in heads:
        one, other, severity = move(head, amplitude)
        for total, part in ((fixed, one), (again, other)):
            for key, ratios in part.items():
                total.setdefault(key, []).extend(ratios)
        for name, millimetres in severity.items():
            severities.setdefault(name, []).append(millimetres)
    moved = {name: float(np.median(values)) for name, values in severities.items()}
    return (
        Column(f"{title}, tissues of the still scan", fixed, moved),
        Column(f"{title}, tissues found again", again, moved),
    )


def is_inside(simulated: Changes, real: Changes, key: tuple[str, str]) -> bool:
    """Whether the median simulated change lies in the interquartile range of the real ones."""
    low, high = np.percentile(real[key], [25, 75])
    return bool(low <= np.nanmedian(simulated[key]) <= high)


def markdown(real: Changes, columns: Sequence[Column]) -> str:
    """Real median and quartiles beside the simulated medians and ranges; bold: inside the quartiles."""
    head = ["moved / still", "MR-ART: median (quartiles)", *(column.title for column in columns)]
    rows = [head, ["---"] * len(head)]
    for name, nods in NODS.items():
        moved = [f"{column.severity[name]:.2f} mm" for column in columns]
        rows.append([f"{name}, {nods} nods", f"{len(real[name, 'cjv'])} subjects", *moved])
        for metric in METRICS:
            low, middle, high = np.percentile(real[name, metric], [25, 50, 75])
            cells = [f"{middle:.3f} ({low:.3f} to {high:.3f})"]
            for column in columns:
                ratios = column.changes[name, metric]
                median = f"{np.nanmedian(ratios):.3f}"
                bold = f"**{median}**" if is_inside(column.changes, real, (name, metric)) else median
                cells.append(f"{bold} ({np.nanmin(ratios):.2f} to {np.nanmax(ratios):.2f})")
            rows.append([metric, *cells])
    inside = [sum(is_inside(column.changes, real, key) for key in real) for column in columns]
    rows.append(["inside", "", *(f"{count} of {len(real)}" for count in inside)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    parser = argparse.ArgumentParser(description="Nods simulated and real (MR-ART): a table of their effect")
    parser.add_argument("--data", type=Path, default=beside)
    parser.add_argument("--heads", nargs="+", default=HEADS)
    parser.add_argument("--amplitudes", nargs="+", type=float, default=[1.0], help="factors on the preset")
    options = parser.parse_args(arguments)
    scans = read_scans(options.data / "mr_art" / "mriqc_group_T1w.tsv")
    quiet = still_median(scans, "efc")
    heads = [load_head(options.data / "t1_head" / f"{name}_T1w.nii.gz") for name in options.heads]
    matched = [with_noise_of(head, quiet) for head in heads]
    columns = [measure(heads, 1.0, "preset, noise as it is")[0]]
    for amplitude in options.amplitudes:
        columns += measure(matched, amplitude, f"preset x {amplitude:g}, noise matched")
    print(markdown(real_changes(scans), columns))
    print(f"\nMedian (range) over {len(heads)} heads: {', '.join(head.name for head in heads)}.")
    print("Noise added:", ", ".join(f"{head.noise:.2f}" for head in matched), "(image units, SD).")


if __name__ == "__main__":
    main()
