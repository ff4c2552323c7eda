"""``BrainDiffLogic.motion.simulate_motion`` in PyTorch alone, so that training pairs are made on the GPU that learns.

The same model, axes and order: RAS+ stacks, one pose a phase-encode line, a non-uniform FFT of type 2, alignment by an
offset pose, noise after the motion with one realisation in both images, masks last. Where it departs: the transform is
gridding on a grid twice as fine with the kernel of finufft (Barnett et al., SIAM J. Sci. Comput. 2019, 41(5):C479), as
cufinufft may be absent where it runs, and the receive field moves with the head. Nothing here waits for the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional

WIDTH, STEEPNESS = 5, 2.3
"""Grid points that a sample is interpolated from along each axis (accuracy 1e-4), and the kernel's exponent by it."""
NODES = 48
"""Of the quadrature of the kernel's spectrum."""
CHUNK = 2**20
"""Samples interpolated at a time."""
COARSE_SPACING, ROUNDS = 2.0, 2
"""As in ``simulation.aligned``."""
PATCH, PARTIAL_VOLUME = 4, np.full(3, 0.6)
"""Voxels of a painted texture's grain, and of the Gaussian after it."""
MASK_EDGE_MM = 2.0
"""As ``training.pairs.MASK_SMOOTHING_MM``."""


@dataclass(frozen=True)
class Base:
    """A quiet still head on the device, RAS+. array uint8 (I, J, K): grey values in parts of ``unit``, or numbers of
    labels to be painted; mask bool; centre and ends in voxels."""

    array: Tensor
    mask: Tensor
    unit: float
    spacing: np.ndarray
    centre: np.ndarray
    ends: tuple[int, int]


@dataclass(frozen=True)
class Scan:
    """What is drawn of one pair, on the CPU.

    turns (N, 3, 3), shifts (N, 3) mm  the pose of each line along ``axis``, anchored; row N // 2: the zero frequency
    shape, blur (voxels), gamma, bias  how the head differs from its base; bias, phase and fill are coarse fields
    kept, skipped (N,)                 lines that partial Fourier acquires, parallel imaging fills in (FFT order)
    palette (2, labels)                grey value of each label and how much texture it has, of a head to be painted
    mask_level                         above 0: both images are masked, where the smoothed mask is higher
    """

    base: int
    shape: tuple[int, int, int]
    axis: int
    turns: np.ndarray
    shifts: np.ndarray
    severity: float = 0.0
    palette: np.ndarray | None = None
    mirrored: bool = False
    blur: float = 0.0
    gamma: float = 1.0
    bias: np.ndarray | None = None
    phase: np.ndarray | None = None
    noise: float = 0.0
    kept: np.ndarray | None = None
    skipped: np.ndarray | None = None
    fill: np.ndarray | None = None
    mask_level: float = 0.0
    seed: int = 0


def simulate(base: Base, scan: Scan, align: bool = True) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """(moved, still (I, J, K) float32 in network units, (first, last) slice of the head)."""
    device, old = base.array.device, np.array(base.array.shape)
    zoom = np.array(scan.shape) / old
    generator = torch.Generator(device).manual_seed(scan.seed)
    still = base.array.float() / base.unit if scan.palette is None else painted(base.array, scan.palette, generator)
    mask = base.mask.float()
    centre, ends = base.centre.astype(float), base.ends
    if scan.mirrored:
        still, mask = still.flip(0), mask.flip(0)
        centre, ends = np.array([old[0] - 1 - centre[0], *centre[1:]]), (old[0] - 1 - ends[1], old[0] - 1 - ends[0])
    if scan.blur or tuple(scan.shape) != tuple(old):
        still = resampled(still, scan.shape, scan.blur).clamp(min=0)
        mask = functional.interpolate(mask[None, None], size=scan.shape, mode="trilinear")[0, 0]
    if scan.gamma != 1:
        still = still**scan.gamma
    if scan.bias is not None:
        still = still * smooth_field(scan.bias, scan.shape, device).exp()
    spacing = base.spacing / zoom
    lever = (np.array(scan.shape) // 2 - centre * zoom) * spacing
    turns, shifts = sent(scan.turns, device), sent(scan.shifts, device)
    kept = None if scan.kept is None else line_weights(scan.kept, scan.axis, device)
    if align and scan.severity:
        turns, shifts = aligned(still, spacing, turns, shifts, scan.axis, lever, scan.kept)
    acquired = still.to(torch.complex64)
    if scan.phase is not None:
        acquired = torch.polar(still, smooth_field(scan.phase, scan.shape, device))
    moved = torch.fft.fftn(acquired)
    if scan.severity:
        moved = moved_kspace(acquired, spacing, turns, shifts, scan.axis, lever)
    grain = torch.complex(*torch.randn((2, *scan.shape), generator=generator, device=device)) * scan.noise
    images = reconstructed(moved + torch.fft.fftn(grain), acquired + grain, kept, scan)
    moved, still = (image.abs() for image in images)
    if scan.mask_level:
        inside = smoothed(mask, MASK_EDGE_MM / spacing) > scan.mask_level
        moved, still = moved * inside, still * inside
    floor, top = _scale(moved, mask)
    first, last = (int(round(end * zoom[0])) for end in ends)
    return (moved - floor) / (top - floor), (still - floor) / (top - floor), (first, min(last, scan.shape[0] - 1))


def painted(labels: Tensor, palette: np.ndarray, generator: torch.Generator) -> Tensor:
    """A head from its labels (I, J, K), as ``training.heads.paint`` without the texture of single voxels."""
    level, grain = sent(palette, labels.device)
    coarse = [-(-n // PATCH) for n in labels.shape]
    texture = torch.randn(coarse, generator=generator, device=labels.device)[None, None]
    texture = functional.interpolate(texture, size=labels.shape, mode="trilinear")[0, 0]
    index = labels.long()
    return smoothed(level[index] + grain[index] * texture, PARTIAL_VOLUME).clamp(min=0)


def reconstructed(
    kspace: Tensor, acquired: Tensor, kept: Tensor | None, scan: Scan
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(moved, still), complex: what a scanner makes of the moved k-space and of the still object, as ``Sampling``."""
    if kept is not None:
        kspace, acquired = kspace * kept, torch.fft.ifftn(torch.fft.fftn(acquired) * kept)
    moved = torch.fft.ifftn(kspace)
    if scan.fill is not None and scan.skipped is not None:
        device = kspace.device
        wrong = torch.complex(*(smooth_field(part, scan.shape, device) for part in scan.fill))
        moved = moved + wrong * torch.fft.ifftn(kspace * line_weights(scan.skipped, scan.axis, device))
    return moved, acquired


def moved_kspace(
    image: Tensor, spacing: np.ndarray, turns: Tensor, shifts: Tensor, axis: int, lever: np.ndarray
) -> Tensor:
    """(I, J, K) complex64, as ``motion.kspace.Acquisition.kspace``.

    lever  (3,) mm from the rotation centre to the voxel N // 2, RAS+ axes
    """
    shape, device = image.shape, image.device
    first, second = (d for d in range(3) if d != axis)
    lines = shape[axis]
    turns, shifts = (poses.roll(-(lines // 2), 0) for poses in (turns, shifts))  # into FFT order
    size, arm = sent(spacing, device), sent(lever, device)
    voxels = (shifts + (turns @ arm - arm)) / size + sent(np.array(shape) // 2, device)
    back = size[:, None] * turns.transpose(1, 2) / size
    k = [2 * math.pi * torch.fft.fftfreq(n, device=device) for n in shape]
    grid = torch.zeros((3, lines, shape[first], shape[second]), device=device)
    grid[axis] = k[axis][:, None, None]
    grid[first] = k[first][:, None]
    grid[second] = k[second]
    points = torch.einsum("lde,elab->dlab", back, grid)
    values = spectrum(image, points.flatten(1)).view(points.shape[1:])
    turned = torch.einsum("ld,dlab->lab", voxels, grid)
    values = values * torch.polar(torch.ones_like(turned), -turned)
    limits = sent(np.pi * (1 + 1 / np.array(shape)), device).view(3, 1, 1, 1)
    return (values * (points.abs() <= limits).all(dim=0)).movedim(0, axis)


def spectrum(image: Tensor, points: Tensor) -> Tensor:
    """(P,) complex64: sum over voxels of image exp(-i point . (voxel - N // 2)), points (3, P) radians per voxel."""
    device, grids = image.device, [next_fast_len(2 * n) for n in image.shape]
    image = image.to(torch.complex64)
    for d, (n, m) in enumerate(zip(image.shape, grids, strict=True)):
        image = image / _kernel_spectrum(n, m, device).view([-1 if d == e else 1 for e in range(3)])
    padded = torch.zeros(grids, dtype=torch.complex64, device=device)
    padded[tuple(slice(n) for n in image.shape)] = image
    fine = torch.fft.fftn(padded.roll([-(n // 2) for n in image.shape], (0, 1, 2))).flatten()
    result = torch.empty(points.shape[1], dtype=torch.complex64, device=device)
    for start in range(0, points.shape[1], CHUNK):
        result[start : start + CHUNK] = _interpolated(fine, grids, points[:, start : start + CHUNK])
    return result


def _interpolated(fine: Tensor, grids: list[int], points: Tensor) -> Tensor:
    steps = torch.arange(WIDTH, device=points.device)
    near, weights = [], []
    for along, m in zip(points, grids, strict=True):
        place = along * (m / (2 * math.pi))
        beside = torch.ceil(place - WIDTH / 2)[:, None] + steps
        near.append(torch.remainder(beside.long(), m))
        weights.append(_kernel(place[:, None] - beside))
    total = torch.zeros(points.shape[1], dtype=torch.complex64, device=points.device)
    for a in range(WIDTH):
        for b in range(WIDTH):
            row = (near[0][:, a] * grids[1] + near[1][:, b]) * grids[2]
            values = (fine[row[:, None] + near[2]] * weights[2]).sum(dim=1)
            total += values * (weights[0][:, a] * weights[1][:, b])
    return total


def _kernel(distance: Tensor) -> Tensor:
    """exp(beta (sqrt(1 - (2 x / W)^2) - 1)), the "exponential of semicircle"."""
    inside = 1 - (2 * distance / WIDTH) ** 2
    return torch.where(inside >= 0, torch.exp(STEEPNESS * WIDTH * (inside.clamp(min=0).sqrt() - 1)), 0.0)


@cache
def _kernel_spectrum(size: int, grid: int, device: torch.device) -> Tensor:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    x = nodes * WIDTH / 2
    values = weights * WIDTH / 2 * np.exp(STEEPNESS * WIDTH * (np.sqrt(1 - nodes**2) - 1))
    voxel = np.arange(size) - size // 2
    return sent(np.cos(2 * np.pi * np.outer(voxel, x) / grid) @ values, device)


def aligned(
    image: Tensor, spacing: np.ndarray, turns: Tensor, shifts: Tensor, axis: int, lever: np.ndarray,
    kept: np.ndarray | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The poses followed by the offset that lays the moved image onto the still one, as ``simulation.aligned``."""
    shape, device = np.array(image.shape), image.device
    small = np.minimum(shape, np.maximum(8, np.round(shape * spacing / COARSE_SPACING).astype(int)))
    start = shape // 2 - small // 2
    middle = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(image.to(torch.complex64))))
    middle = middle[tuple(slice(a, a + n) for a, n in zip(start, small, strict=True))]
    still = torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(middle))).real * float(small.prod() / shape.prod())
    size, lines = spacing * shape / small, slice(int(start[axis]), int(start[axis] + small[axis]))
    weights = None
    if kept is not None:
        weights = line_weights(np.fft.ifftshift(np.fft.fftshift(kept)[lines]), axis, device)
        object_, still = still, torch.fft.ifftn(torch.fft.fftn(still) * weights).abs()
    else:
        object_ = still
    basis = _rigid_basis(still, size, lever)
    norms = basis.norm(dim=1).clamp(min=1e-12)
    normal = (basis @ basis.T / (norms * norms[:, None])).double() + 1e-6 * torch.eye(8, device=device)
    for _ in range(ROUNDS):
        kspace = moved_kspace(object_, size, turns[lines], shifts[lines], axis, lever)
        moved = torch.fft.ifftn(kspace if weights is None else kspace * weights).abs()
        change = smoothed(moved - still, np.ones(3)).flatten()
        offset = torch.linalg.solve_ex(normal, (basis @ change / norms).double())[0].float() / norms
        turn = _small_turn(torch.deg2rad(offset[3:6]))
        turns, shifts = turn.T @ turns, (shifts - offset[:3]) @ turn  # R^T (t - offset), as rows
    return turns, shifts


def _rigid_basis(image: Tensor, spacing: np.ndarray, lever: np.ndarray) -> Tensor:
    """(8, voxels), as ``motion.simulation.rigid_basis``."""
    smooth = smoothed(image, np.ones(3))
    slopes = [slope / float(step) for slope, step in zip(torch.gradient(smooth), spacing, strict=True)]
    along = [
        sent((np.arange(n) - n // 2) * step + arm, image.device)
        for n, step, arm in zip(image.shape, spacing, lever, strict=True)
    ]
    position = torch.stack(torch.meshgrid(*along, indexing="ij"))
    gradient = torch.stack(slopes)
    turning = torch.linalg.cross(position, gradient, dim=0) * math.radians(1)
    return torch.cat([-gradient, -turning, smooth[None], torch.ones_like(smooth)[None]]).flatten(1)


def _small_turn(vector: Tensor) -> Tensor:
    """(3, 3) of a small rotation vector in radians, to its fourth power."""
    x, y, z = vector
    zero = torch.zeros_like(x)
    k = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3)
    return torch.eye(3, device=vector.device) + k + k @ k / 2 + k @ k @ k / 6 + k @ k @ k @ k / 24


def resampled(image: Tensor, shape: tuple[int, ...], blur: float = 0.0) -> Tensor:
    """The image on another grid of the same field of view, its first voxel in place, blurred by ``blur`` new voxels."""
    values = torch.fft.fftshift(torch.fft.fftn(image))
    for d, new in enumerate(shape):
        old = values.shape[d]
        common = min(old, new)
        values = values.narrow(d, old // 2 - common // 2, common)
        before = new // 2 - common // 2
        pads = [0, 0] * (2 - d) + [before, new - common - before] + [0, 0] * d
        values = functional.pad(values, pads)
    result = torch.fft.ifftn(torch.fft.ifftshift(values)).real * (math.prod(shape) / image.numel())
    return smoothed(result, np.full(3, blur)) if blur else result


def smoothed(image: Tensor, deviation: np.ndarray) -> Tensor:
    """Gaussian of these standard deviations in voxels, periodic."""
    values = torch.fft.rfftn(image)
    for d, (n, sigma) in enumerate(zip(image.shape, deviation, strict=True)):
        k = 2 * math.pi * (torch.fft.rfftfreq if d == 2 else torch.fft.fftfreq)(n, device=image.device)
        values = values * torch.exp(-0.5 * (float(sigma) * k) ** 2).view([-1 if d == e else 1 for e in range(3)])
    return torch.fft.irfftn(values, s=image.shape)


def smooth_field(coarse: np.ndarray, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """A coarse cube (n, n, n) as a smooth field of this shape."""
    field = sent(coarse, device)
    for size in shape:
        n = field.shape[0]
        identity = torch.eye(n, device=device)[None, None]
        matrix = functional.interpolate(identity, size=(size, n), mode="bicubic", align_corners=False)[0, 0]
        field = torch.tensordot(field, matrix, dims=([0], [1]))
    return field


def line_weights(lines: np.ndarray, axis: int, device: torch.device) -> Tensor:
    """A value for each line in FFT order, shaped to multiply (I, J, K)."""
    return sent(lines, device).view([-1 if d == axis else 1 for d in range(3)])


def sent(array: np.ndarray, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """The array on the device; the host does not wait, as it does in ``torch.as_tensor(array, device=device)``."""
    return torch.as_tensor(array, dtype=dtype).to(device, non_blocking=True)


def _scale(moved: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(floor, top) as ``scan.robust_scale``; the head's percentile is found among all, as air lies below it."""
    some = moved.flatten()[:: max(1, moved.numel() // 2**20)].sort().values
    share = (mask > 0.5).float().mean()
    places = torch.stack([torch.full_like(share, 0.005), 1 - 0.01 * share]) * (len(some) - 1)
    floor, top = some[places.round().long()]
    return floor, torch.maximum(top, floor + 1e-3)
