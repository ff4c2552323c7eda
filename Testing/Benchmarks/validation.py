"""The results table: every corrector, the denoisers and doing nothing, on held-out subjects by severity.

    python Testing/Benchmarks/validation.py --data ../shared/data --out runs/validation [--write-cards]

Subjects ds000011-11, ds000011-12 and pycortex-S1 (a scanner that no training run saw). Each case is simulated once and
kept; a result that is there is not computed again, so the run may be stopped at any time. The cases are listed in
OUT/pairs.csv for ``braindiff evaluate``, which measures more of each volume and takes the subject as the unit.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.restoration import denoise_nl_means, estimate_sigma

from BrainDiffLogic.checkpoints import available, read_card, shipped_folder
from BrainDiffLogic.evaluation.methods import GAUSSIAN, NON_LOCAL_MEANS, NOTHING, ModelMethod, gaussian, nothing
from BrainDiffLogic.evaluation.statistics import is_worse
from BrainDiffLogic.images import read_volume, write_volume
from BrainDiffLogic.intensity import head_mask
from BrainDiffLogic.motion import STRATUM_NAMES, preset, simulate_motion, stratum, with_severity
from BrainDiffLogic.motion.kspace import phase_encode_axis
from BrainDiffLogic.quality import CONVENTION, compare
from BrainDiffLogic.volume import Volume

SUBJECTS = ("ds000011-11", "ds000011-12", "pycortex-S1")
CASES = (
    ("still", 0.0, "AP"), ("tremor", 0.3, "AP"), ("drift", 0.45, "SI"), ("steps", 0.7, "AP"), ("swallow", 0.9, "SI"),
    ("nod", 1.2, "AP"), ("tremor", 1.6, "SI"), ("steps", 2.5, "AP"), ("drift", 3.0, "AP"), ("tremor", 3.5, "AP"),
    ("steps", 5.0, "SI"),
)  # fmt: skip
SEED = 77
STRATA = ("still", *STRATUM_NAMES, "all above 1 mm", "all below 1 mm")
METRICS = ("psnr", "ssim", "mre", "tenengrad_ratio")
WORSE_TOLERANCE = 0.01
"""A volume counts as worse when its MRE exceeds the input's by this share (below 1 mm) or at all (above)."""


@dataclass(frozen=True)
class Case:
    """One simulated scan of one subject."""

    subject: str
    preset: str
    severity: float
    pe_axis: str

    @property
    def name(self) -> str:
        """A file name."""
        return f"{self.subject}_{self.preset}-{self.severity:g}mm-{self.pe_axis}"


def median(volume: Volume) -> np.ndarray:
    """Median of 3 x 3 x 3 voxels."""
    return ndimage.median_filter(volume.array, 3)


def non_local_means(volume: Volume) -> np.ndarray:
    """Non-local means in 3D (Buades 2005), h 0.8 times the estimated noise."""
    sigma = float(estimate_sigma(volume.array))
    return denoise_nl_means(volume.array, patch_size=3, patch_distance=2, h=0.8 * sigma, sigma=sigma, fast_mode=True)


def methods(models: list[str]) -> dict[str, Callable[[Volume], np.ndarray]]:
    """Every row of the table, by name."""
    rows = {NOTHING: nothing, GAUSSIAN: gaussian, "median": median, NON_LOCAL_MEANS: non_local_means}
    return {**rows, **{Path(name).stem: ModelMethod(name, "cpu") for name in models}}


def cases() -> Iterator[Case]:
    """All cases, those of one subject after those of another."""
    for subject in SUBJECTS:
        for kind, severity, pe_axis in CASES:
            yield Case(subject, kind, severity, pe_axis)


def simulated(case: Case, data: Path, out: Path) -> tuple[Volume, Volume]:
    """(moved, still) of a case, cropped to the head; simulated at the first call."""
    files = [out / "cases" / f"{case.name}_{part}.nii.gz" for part in ("moved", "still")]
    if not all(file.exists() for file in files):
        files[0].parent.mkdir(parents=True, exist_ok=True)
        still = cropped_to_head(read_volume(data / "t1_head" / f"{case.subject}_T1w.nii.gz"))
        lines = still.shape[phase_encode_axis(still.affine, case.pe_axis)]
        kind = "drift" if case.preset == "still" else case.preset
        seed = SEED + SUBJECTS.index(case.subject)
        simulation = simulate_motion(still, with_severity(preset(kind, lines, seed), case.severity), case.pe_axis)
        for file, volume in zip(files, (simulation.moved, simulation.reference), strict=True):
            write_volume(volume, file, dtype="float32")
    moved, still = (read_volume(file) for file in files)
    return moved, still


def cropped_to_head(volume: Volume, margin: int = 12) -> Volume:
    """The volume's box around the head, ``margin`` voxels wider where the field of view allows."""
    box = ndimage.find_objects(head_mask(volume.array).astype(np.uint8))[0]
    start = np.array([max(0, side.start - margin) for side in box])
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ start
    array = volume.array[tuple(slice(a, side.stop + margin) for a, side in zip(start, box, strict=True))]
    return Volume(array.astype(np.float32), affine, source=volume.source)


def measure(data: Path, out: Path, models: list[str]) -> list[dict[str, str]]:
    """A row for each case and method; results.csv grows by what is missing."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.csv"
    done = {(row["case"], row["method"]): row for row in csv.DictReader(file.open())} if file.exists() else {}
    rows = list(done.values())
    for case in cases():
        missing = {name: method for name, method in methods(models).items() if (case.name, name) not in done}
        if not missing:
            continue
        moved, still = simulated(case, data, out)
        for name, method in missing.items():
            result = asdict(compare(moved.with_array(method(moved)), still))
            row = {"case": case.name, "method": name, **asdict(case), **{m: result[m] for m in METRICS}}
            rows.append({key: str(value) for key, value in row.items()})
            with file.open("a", newline="") as stream:
                writer = csv.DictWriter(stream, list(row))
                if stream.tell() == 0:
                    writer.writeheader()
                writer.writerow(row)
            print(case.name, name, *(f"{m} {result[m]:.4f}" for m in METRICS), flush=True)
    return rows


def write_pairs(out: Path) -> None:
    """List the cases that are simulated, for ``braindiff evaluate --pairs``."""
    with open(out / "pairs.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["moved", "reference", "subject", "severity_mm", "scanner", "pe_axis", "plane", "simulator"])
        for case in cases():
            files = [f"cases/{case.name}_{part}.nii.gz" for part in ("moved", "still")]
            if all((out / file).exists() for file in files):
                scanner = case.subject.split("-")[0]  # in-plane: in the sagittal plane, which is corrected
                writer.writerow([*files, case.subject, case.severity, scanner, case.pe_axis, "in-plane", "BrainDiff"])


def in_stratum(severity: float, name: str) -> bool:
    """Whether a severity in mm belongs to a stratum or one of the two summaries."""
    if name == "still":
        return severity == 0
    if name.startswith("all"):
        return severity > 1 if name.endswith("above 1 mm") else 0 < severity <= 1
    return severity > 0 and stratum(severity) == name


def table(rows: list[dict[str, str]]) -> list[dict[str, object]]:
    """Means by stratum and method, and the share of volumes that the method made worse."""
    before = {row["case"]: float(row["mre"]) for row in rows if row["method"] == "do nothing"}
    result = []
    for name in STRATA:
        for method in dict.fromkeys(row["method"] for row in rows):
            chosen = [r for r in rows if r["method"] == method and in_stratum(float(r["severity"]), name)]
            if not chosen:
                continue
            limits = [WORSE_TOLERANCE if float(r["severity"]) <= 1 else 0.0 for r in chosen]
            worse = [is_worse(float(r["mre"]), before[r["case"]], a) for r, a in zip(chosen, limits, strict=True)]
            means = {metric: round(float(np.mean([float(r[metric]) for r in chosen])), 4) for metric in METRICS}
            share = None if name == "still" else round(float(np.mean(worse)), 3)
            row = {"severity": name, "method": method, "volumes": len(chosen), **means, "worse_than_input": share}
            result.append(row)
    return result


def markdown(result: list[dict[str, object]]) -> str:
    """The table as Markdown, the convention under it."""
    head = [
        "severity (mm)",
        "method",
        "volumes",
        "PSNR (dB)",
        "SSIM",
        "MRE",
        "Tenengrad ratio",
        "worse than input",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in result:
        cells = [str(row["severity"]), str(row["method"]), str(row["volumes"]), f"{row['psnr']:.2f}"]
        cells += [f"{row[m]:.3f}" for m in ("ssim", "mre", "tenengrad_ratio")]
        worse = row["worse_than_input"]
        cells.append("-" if worse is None else f"{100 * float(str(worse)):.0f} %")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", CONVENTION])


def write_cards(result: list[dict[str, object]]) -> None:
    """Put each shipped model's rows, beside those of doing nothing, on its card."""
    for path in sorted(shipped_folder().glob("*.safetensors")):
        card = read_card(path)
        card["metrics"] = [row for row in result if row["method"] in (path.stem, "do nothing")]
        card["metrics_convention"] = CONVENTION
        path.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")


def main() -> None:
    """Measure what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=None, help="names or files (default: all that are available)")
    parser.add_argument("--write-cards", action="store_true", help="write the rows into the shipped models' cards")
    args = parser.parse_args()
    result = table(measure(args.data, args.out, list(available()) if args.models is None else args.models))
    write_pairs(args.out)
    (args.out / "table.md").write_text(markdown(result) + "\n")
    if args.write_cards:
        write_cards(result)
    print(markdown(result))


if __name__ == "__main__":
    main()
