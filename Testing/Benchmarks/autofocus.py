"""Blind correction by physics alone: the poses that make the image sharpest, on pairs with known motion.

    python Testing/Benchmarks/autofocus.py --pairs F.csv [--iterations 40]

F.csv as for ``braindiff evaluate``, with pe_axis. Each line of the scan's k-space is put back where a pose says that it
was taken (the adjoint of the model, not its solution), which can invent nothing; the poses are those that minimise the
entropy of the image's gradients (Atkinson et al., IEEE TMI 1997; with gradients as in GradMC, Loktyushin, MRM 2013).
They had the phase of the image; here it is taken from a magnitude, so half of what they knew is missing. Voxels of
2.5 mm, poses at knots along the phase-encode axis. Prints the MRE before and after, after with the image shifted onto
the still scan, as the poses may displace the head as a whole, and at the most favourable iteration; of the last two
nobody knows without the still scan.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import finufft
import numpy as np
import torch
from numpy import fft
from scipy import ndimage
from skimage.registration import phase_cross_correlation
from torch import Tensor

from BrainDiffLogic.evaluation.pairs import read_pairs
from BrainDiffLogic.images import read_volume
from BrainDiffLogic.metrics.quality import compare
from BrainDiffLogic.motion.kspace import PE_AXES
from BrainDiffLogic.scan import head_mask, robust_scale
from BrainDiffLogic.training.heads import fourier_resampled
from BrainDiffLogic.volume import Volume, sagittal_affine, to_sagittal

SPACING_MM = 2.5
ACCURACY = 1e-4
RATE, LAST_RATE, SMOOTHNESS = 0.08, 0.005, 1e-4
UNITS = (1.0, 1.0, 1.0, 0.02, 0.02, 0.02)
"""Voxels and radians of one step of a pose's parameters: about equally far for the head."""
CENTRE = 4
"""Lines around the middle of k-space whose mean pose stays where it is: the head would wander off together."""


class Gathered(torch.autograd.Function):
    """The image of k-space samples at other places than where they were counted: a non-uniform FFT of type 1.

    places (3, n) radians per voxel, samples (n, 2) real and imaginary; the image (I, J, K, 2).
    """

    @staticmethod
    def forward(ctx: Any, places: Tensor, samples: Tensor, shape: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(places, samples)
        ctx.shape = shape
        values = _complex(samples)
        image = finufft.nufft3d1(*places.numpy(), values, shape, eps=ACCURACY, isign=1) / values.size
        return torch.view_as_real(torch.from_numpy(image))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        places, samples = ctx.saved_tensors
        values, slope = _complex(samples), _complex(gradients[0]) / len(samples)
        grid = np.meshgrid(*(np.arange(size) - size // 2 for size in ctx.shape), indexing="ij")

        def at(image: np.ndarray) -> np.ndarray:
            return finufft.nufft3d2(*places.numpy(), np.ascontiguousarray(image), eps=ACCURACY, isign=-1)

        moved = np.stack([(1j * values * np.conj(at(along * slope))).real for along in grid])
        return torch.from_numpy(moved), torch.view_as_real(torch.from_numpy(at(slope))), None


def _complex(pairs: Tensor) -> np.ndarray:
    return torch.view_as_complex(pairs.contiguous()).numpy()


class Scan:
    """A magnitude image (I, J, K) as k-space lines along an axis, to be put together again with poses of the lines."""

    def __init__(self, image: np.ndarray, axis: int) -> None:
        self.shape, size = image.shape, image.shape[axis]
        spectrum = fft.fftshift(fft.fftn(fft.ifftshift(image.astype(np.float64))))
        self.samples = torch.view_as_real(torch.from_numpy(spectrum.ravel()))
        frequencies = [fft.fftshift(fft.fftfreq(n)) * 2 * np.pi for n in image.shape]
        self.places = torch.from_numpy(np.stack(np.meshgrid(*frequencies, indexing="ij")).reshape(3, -1))
        self.line = torch.from_numpy(np.broadcast_to(
            np.arange(size).reshape([-1 if d == axis else 1 for d in range(3)]), image.shape
        ).ravel().copy())  # fmt: skip
        energy = np.bincount(self.line.numpy(), np.abs(spectrum.ravel()) ** 2)
        energy[np.abs(np.arange(size) - size // 2) >= CENTRE] = 0
        self.central = torch.from_numpy(energy / energy.sum())[:, None]

    def image(self, poses: Tensor) -> Tensor:
        """(I, J, K, 2) for poses (lines, 6): voxels along and radians about each axis."""
        turns = torch.matrix_exp(torch.stack([_skew(row) for row in poses[:, 3:]]))[self.line]
        places = torch.einsum("nji,jn->in", turns, self.places).contiguous()
        phase = (self.places * poses[:, :3][self.line].T).sum(0)
        shifted = torch.view_as_complex(self.samples) * torch.polar(torch.ones_like(phase), phase)
        image: Tensor = Gathered.apply(places, torch.view_as_real(shifted), self.shape)
        return image


def _skew(w: Tensor) -> Tensor:
    zero = torch.zeros_like(w[0])
    rows = [zero, -w[2], w[1], w[2], zero, -w[0], -w[1], w[0], zero]
    return torch.stack(rows).reshape(3, 3)


def blur(image: Tensor) -> Tensor:
    """Entropy of the magnitude's gradients: lower is sharper."""
    size = (image**2).sum(-1).add(1e-6).sqrt()
    steps = [torch.diff(size, dim=d, append=torch.zeros_like(size.narrow(d, 0, 1))) for d in range(3)]
    edges = sum(step**2 for step in steps).add(1e-6).sqrt()  # type: ignore[union-attr]
    share = edges / edges.sum()
    return -(share * share.log()).sum()


def sharpened(scan: Scan, lines: int, knots: int, iterations: int) -> Iterator[np.ndarray]:
    """The magnitude image (I, J, K) after each step of Adam on the poses at the knots."""
    spread = [np.interp(np.arange(lines), np.linspace(0, lines - 1, knots), row) for row in np.eye(knots)]
    between, units = torch.from_numpy(np.array(spread).T), torch.tensor(UNITS, dtype=torch.float64)
    found = torch.zeros(knots, 6, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([found], lr=RATE)
    for step in range(iterations):
        poses = between @ (found * units)
        image = scan.image(poses - (scan.central * poses).sum(0))
        yield torch.linalg.vector_norm(image.detach(), dim=-1).numpy()
        optimiser.zero_grad()
        (blur(image) + SMOOTHNESS * (torch.diff(found, dim=0) ** 2).sum()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / iterations) + LAST_RATE


def coarse(volume: Volume, scale: float) -> np.ndarray:
    """The sagittal stack on voxels of about ``SPACING_MM``."""
    stack = to_sagittal(volume).astype(np.float32) / scale
    spacing = np.linalg.norm(sagittal_affine(volume)[:3, :3], axis=0)
    shape = [round(size * mm / SPACING_MM / 4) * 4 for size, mm in zip(stack.shape, spacing, strict=True)]
    return fourier_resampled(stack, shape)


def main() -> None:
    """A line for each pair, and the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--knots", type=int, default=64)
    args = parser.parse_args()
    results = []
    print("| scan | MRE: do nothing | autofocus | shifted back | best iteration |\n|---|---:|---:|---:|---:|")
    for pair in read_pairs(args.pairs):
        moved, still = read_volume(pair.moved), read_volume(pair.reference)
        scale = robust_scale(still.array).scale
        image, truth = coarse(moved, scale), coarse(still, scale)
        head = head_mask(truth)
        axis = PE_AXES[pair.facts["pe_axis"]]
        found = list(sharpened(Scan(image, axis), image.shape[axis], args.knots, args.iterations + 1))
        errors = [compare(each, truth, head).mre for each in found]
        shift = phase_cross_correlation(truth, found[-1], upsample_factor=20)[0]
        moved_back = compare(ndimage.shift(found[-1], shift, order=3), truth, head).mre
        results.append((errors[0], errors[-1], moved_back, min(errors)))
        print(f"| {pair.name} | {' | '.join(f'{error:.3f}' for error in results[-1])} |", flush=True)
    print(f"| mean of {len(results)} | {' | '.join(f'{error:.3f}' for error in np.mean(results, axis=0))} |")


if __name__ == "__main__":
    main()
