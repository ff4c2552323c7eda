"""Pairs for ``braindiff evaluate`` by a simulator that is not ours: TorchIO's RandomMotion (Shaw et al., MIDL 2019).

In an environment of its own, outside the checkout; only torchio, nibabel and numpy are needed:

    python -m venv ~/torchio-env && ~/torchio-env/bin/pip install "torchio==1.2.1"
    ~/torchio-env/bin/python Testing/Benchmarks/independent_pairs.py ../shared/data/t1_head/ds000011-11_T1w.nii.gz \
        --out runs/torchio --ranges 1 3 6 --moves 4 --pe-axis AP SI
    braindiff evaluate --pairs runs/torchio/pairs.csv --out runs/torchio/evaluation

Each case: the head changes its pose ``--moves`` times, each pose drawn from plus and minus a range (degrees about and
mm along each axis); the k-space lines before, between and after come from as many resampled images. What TorchIO does
otherwise than a scanner, and what is done about it here:

- it turns the head about the world's origin, far from the head in a scanner's coordinates (the centre that it sets is
  lost): the head's middle is the origin while it works, and the affine is put back afterwards;
- the last array axis is the phase-encode axis: the axes are reordered for that, and put back;
- it takes the real part of the image: here the magnitude is taken, as scanners do (its inverse transform is wrapped);
- moved images are interpolated linearly, which blurs the lines of all poses but one; this is left as it is;
- the lines around the middle of k-space come from the head at rest, so that moved and reference nearly lie on each
  other; the other lines still pull the image by up to about half a millimetre, so evaluate with --register too.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torchio
from torchio.transforms.augmentation.intensity.random_motion import Motion, RandomMotion

LAST_AXIS = {"AP": "RSP", "SI": "RAS", "LR": "ASR"}
"""Right-handed orders of the array's axes that have the phase-encode axis last."""
HEAD_RADIUS = 80.0
"""mm, of the sphere over which a displacement is averaged (Jenkinson 1999), as in BrainDiffLogic.motion.trajectory."""
HEAD_SHARE = 0.15
"""Voxels above this share of the 99th percentile count as head when its middle is looked for."""


class MagnitudeMotion(Motion):
    """TorchIO's motion, the magnitude of the image instead of its real part."""

    @staticmethod
    def inv_fourier_transform(tensor: torch.Tensor) -> torch.Tensor:
        return Motion.inv_fourier_transform(tensor).abs()


def middle_of(image: nib.Nifti1Image, array: np.ndarray) -> np.ndarray:
    """(3,) RAS mm: the centre of mass of the head."""
    head = np.argwhere(array > HEAD_SHARE * np.percentile(array, 99))
    return nib.affines.apply_affine(image.affine, head.mean(axis=0))


def moved(image: nib.Nifti1Image, pe_axis: str, largest: float, moves: int, seed: int) -> tuple[np.ndarray, float]:
    """The moved voxels (I, J, K), float32 and not below 0, and the mean RMS displacement in mm over the lines."""
    array = np.asarray(image.dataobj, dtype=np.float32)
    centred = image.affine.copy()
    centred[:3, 3] -= middle_of(image, array)
    given = nib.orientations.io_orientation(centred)
    wanted = nib.orientations.axcodes2ornt(LAST_AXIS[pe_axis])
    there = nib.orientations.ornt_transform(given, wanted)
    turned = np.ascontiguousarray(nib.orientations.apply_orientation(array, there))
    affine = centred @ nib.orientations.inv_ornt_aff(there, array.shape)

    torch.manual_seed(seed)
    drawn = RandomMotion(degrees=largest, translation=largest, num_transforms=moves)
    times, degrees, shifts = drawn.get_params(drawn.degrees_range, drawn.translation_range, moves)
    motion = MagnitudeMotion(degrees=degrees, translation=shifts, times=times, image_interpolation="linear")
    result = motion(torchio.ScalarImage(tensor=turned[None], affine=affine)).data[0].numpy()
    back = nib.orientations.ornt_transform(wanted, given)
    return nib.orientations.apply_orientation(result, back), severity(times, degrees, shifts)


def severity(times: np.ndarray, degrees: np.ndarray, shifts: np.ndarray) -> float:
    """Mean over the k-space lines of the RMS displacement in mm from the head at rest (Jenkinson 1999).

    The pose of the lines that hold the middle of k-space is exchanged with the head at rest, as TorchIO does.
    """
    poses = [0.0, *(pose_displacement(*pose) for pose in zip(degrees, shifts, strict=True))]
    later = np.flatnonzero(times > 0.5)
    middle = int(later.min()) if len(later) else len(poses) - 1
    poses[0], poses[middle] = poses[middle], poses[0]
    return float(np.diff([0.0, *times, 1.0]) @ poses)


def pose_displacement(degrees: np.ndarray, shift: np.ndarray) -> float:
    """RMS displacement in mm over the head's sphere of one pose: degrees about, mm along the three axes."""
    cosines, sines = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    (cx, cy, cz), (sx, sy, sz) = cosines, sines
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    change = about_z @ about_x @ about_y - np.eye(3)  # the order of ITK's Euler3DTransform
    return float(np.sqrt(HEAD_RADIUS**2 / 5 * np.sum(change**2) + np.sum(shift**2)))


def main() -> None:
    """Make the pairs and their table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("scans", nargs="+", type=Path, help="still scans, NIfTI; named SUBJECT_T1w or SUBJECT")
    add("--out", type=Path, required=True)
    add("--ranges", nargs="+", type=float, default=[1, 3, 6], help="largest degrees and mm of a pose")
    add("--moves", nargs="+", type=int, default=[4], help="how often the pose changes")
    add("--pe-axis", nargs="+", default=["AP", "SI"], choices=sorted(LAST_AXIS))
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for scan in args.scans:
        subject = scan.name.removesuffix(".gz").removesuffix(".nii").removesuffix("_T1w")
        image = nib.load(scan)
        reference = args.out / f"{subject}_still.nii.gz"
        save(np.asarray(image.dataobj, dtype=np.float32), image, reference)
        for number, (largest, moves, axis) in enumerate(itertools.product(args.ranges, args.moves, args.pe_axis)):
            array, size = moved(image, axis, largest, moves, seed=args.seed + number)
            file = args.out / f"{subject}_torchio-{largest:g}x{moves}-{axis}_moved.nii.gz"
            save(array, image, file)
            plane = "through-plane" if axis == "LR" else "in-plane"
            rows.append([file.name, reference.name, subject, f"{size:.3f}", axis, plane, "torchio"])
            print(file.name, f"{size:.2f} mm", flush=True)
    with open(args.out / "pairs.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["moved", "reference", "subject", "severity_mm", "pe_axis", "plane", "simulator"])
        writer.writerows(rows)


def save(array: np.ndarray, like: nib.Nifti1Image, path: Path) -> None:
    """Write float32 voxels on the grid of ``like``."""
    image = nib.Nifti1Image(np.ascontiguousarray(array, dtype=np.float32), like.affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


if __name__ == "__main__":
    main()
