"""Receive coils: the fast path against moving the head for each pose, the maps, and what must be the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import fft, ndimage

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion import Trajectory, preset, simulate_motion, smooth_coils, smooth_phase, with_severity
from BrainDiffLogic.motion.coils import CoilMaps, moved_kspaces
from BrainDiffLogic.motion.kspace import Acquisition, image_of, phase_encode_axis
from BrainDiffLogic.motion.sampling import Sampling
from BrainDiffLogic.motion.trajectory import rotation_matrices
from BrainDiffLogic.volume import Volume, from_sagittal, to_sagittal
from Harness.phantom import frequencies

CENTRE = np.array([1.0, -4.0, 2.0])


@pytest.fixture
def a_small_head(a_head: Volume) -> Volume:
    """30 x 34 x 32 voxels of 3.5 mm within 40 x 48 x 44: room to move, edges a voxel wide."""
    small = ndimage.gaussian_filter(ndimage.zoom(a_head.array, 0.6, order=1), 0.7)
    room = [((n - m) // 2, n - m - (n - m) // 2) for n, m in zip((40, 48, 44), small.shape, strict=True)]
    affine = np.diag([3.5, -3.5, 3.5, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array([40, 48, 44]) - 1) / 2
    return Volume(np.pad(small, room), affine)


def no_motion(lines: int) -> Trajectory:
    return Trajectory(np.zeros((lines, 3)), np.zeros((lines, 3)))


def relative(values: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(values - truth) / np.linalg.norm(truth))


def root_sum_of_squares(kspaces: np.ndarray) -> np.ndarray:
    return np.sqrt(sum(np.abs(image_of(kspace)) ** 2 for kspace in kspaces))


def line_by_line(head: Volume, poses: Trajectory, axis: int, maps: np.ndarray) -> np.ndarray:
    """(C, I, J, K): the head moved for each line, times the map, transformed; of that, the line."""
    lines, image = head.shape[axis], head.array
    patient = int(np.argmax(np.abs(head.affine[:3, axis])))
    numbers = np.round(fft.fftfreq(lines) * lines * np.sign(head.affine[patient, axis])).astype(int)
    kspaces = np.zeros((len(maps), *head.shape), np.complex64)
    for line, row in enumerate((numbers + lines // 2) % lines):
        pose = [np.repeat(rows[row : row + 1], lines, axis=0) for rows in (poses.translations, poses.rotations)]
        moved = image_of(Acquisition(head.shape, head.affine, Trajectory(*pose), axis, CENTRE, 1e-6).kspace(image))
        place = tuple(line if d == axis else slice(None) for d in range(3))
        for kspace, sensitivity in zip(kspaces, maps, strict=True):
            kspace[place] = fft.fftn(sensitivity * moved)[place]
    return kspaces


@pytest.mark.parametrize(
    ("kind", "severity", "pe_axis"), [("tremor", 2.0, "AP"), ("nod", 2.0, "SI"), ("steps", 1.0, "AP")]
)
def test_coils_receive_what_they_do_when_the_head_is_moved_for_each_line(
    a_small_head: Volume, kind: str, severity: float, pe_axis: str
) -> None:
    axis = phase_encode_axis(a_small_head.affine, pe_axis)
    maps = smooth_coils(a_small_head.shape, a_small_head.affine, 8, seed=1)
    poses = with_severity(preset(kind, a_small_head.shape[axis], 3), severity)
    model = Acquisition(a_small_head.shape, a_small_head.affine, poses, axis, CENTRE)
    fast = moved_kspaces(a_small_head.array, model, CoilMaps.fitted(maps, a_small_head.affine))
    truth = line_by_line(a_small_head, poses, axis, maps)
    still = np.stack([fft.fftn(coil * a_small_head.array) for coil in maps])
    assert relative(fast, truth) < 4e-3  # measured: 1.4e-3 to 2.3e-3, the most at the edge of the band
    error, artifact = (relative(root_sum_of_squares(k), root_sum_of_squares(truth)) for k in (fast, still))
    assert error < 1e-3 and error < 0.04 * artifact  # measured: 4e-4 to 6e-4 of 2e-2 to 7e-2


def test_a_band_limited_head_is_received_to_a_part_in_a_thousand(a_small_head: Volume) -> None:
    head = a_small_head.with_array(ndimage.gaussian_filter(a_small_head.array, 1.2))
    maps = smooth_coils(head.shape, head.affine, 8, seed=1)
    poses = with_severity(preset("nod", head.shape[1], 3), 2.0)
    model = Acquisition(head.shape, head.affine, poses, 1, CENTRE)
    fast = moved_kspaces(head.array, model, CoilMaps.fitted(maps, head.affine))
    truth = line_by_line(head, poses, 1, maps)
    assert relative(fast, truth) < 1.2e-3  # measured: 8e-4
    assert relative(root_sum_of_squares(fast), root_sum_of_squares(truth)) < 4e-4  # measured: 2e-4


def test_a_point_is_heard_with_the_sensitivity_of_where_it_is() -> None:
    """The closed form: one voxel at x, moved to r, gives s(r) exp(-2 pi i k.r); no coil map is moved or resampled."""
    shape, affine = (20, 24, 22), np.diag([4.0, -4.0, 4.0, 1.0])
    affine[:3, 3] = [-40, 44, -42]
    image = np.zeros(shape, np.float32)
    image[13, 9, 8] = 1
    place = affine[:3, :3] @ [13, 9, 8] + affine[:3, 3]

    def sensitivity(point: np.ndarray) -> np.ndarray:
        x, y, z = np.moveaxis(point, -1, 0) / 50
        return 1 + 0.5 * x - 0.3j * y + 0.4 * y * z + 0.2j * x**3 - 0.25 * z**2 * y

    grid = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    maps = CoilMaps.fitted(sensitivity(grid)[None].astype(np.complex64), affine)
    rng = np.random.default_rng(0)
    poses = Trajectory(rng.normal(0, 3, (24, 3)), rng.normal(0, 4, (24, 3)))
    got = moved_kspaces(image, Acquisition(shape, affine, poses, 1, CENTRE), maps)[0]
    rows = (-np.round(24 * fft.fftfreq(24)).astype(int) + 12) % 24  # the array runs towards P
    moved = rotation_matrices(poses.rotations) @ (place - CENTRE) + CENTRE + poses.translations
    k = frequencies(shape, affine)
    inner = [np.abs(fft.fftfreq(size) * size) < size / 2 - 4 for size in shape]  # no sample turns out of the band
    for line in np.flatnonzero(inner[1]):
        r = moved[rows[line]]
        expected = sensitivity(r) * np.exp(-2j * np.pi * k[:, line] @ (r - affine[:3, 3]))
        low = np.ix_(inner[0], inner[2])
        np.testing.assert_allclose(got[:, line][low], expected[low], atol=2e-3)


@pytest.mark.parametrize("count", [1, 4, 8, 16, 24])
def test_the_squares_of_the_sensitivities_sum_to_one_in_the_head(a_head: Volume, count: int) -> None:
    maps = smooth_coils(a_head.shape, a_head.affine, count, seed=2)
    assert maps.shape == (count, *a_head.shape) and maps.dtype == np.complex64
    root = np.sqrt((np.abs(maps) ** 2).sum(axis=0))
    assert np.abs(root[a_head.array > 0] - 1).max() < 0.03
    assert root.max() < 1.3
    fitted = np.stack(list(CoilMaps.fitted(maps, a_head.affine).values()))
    np.testing.assert_allclose(fitted, maps, atol=1e-5)


def test_coils_differ_and_the_seed_chooses_them(a_head: Volume) -> None:
    maps, again, other = (smooth_coils(a_head.shape, a_head.affine, 8, seed) for seed in (1, 1, 2))
    assert np.array_equal(maps, again) and not np.allclose(maps, other)
    head = np.abs(maps[:, a_head.array > 0])
    assert (head.max(axis=1) > 0.5).all() and (head.min(axis=1) < 0.15).all()
    gram = np.linalg.svd(maps[:, a_head.array > 0], compute_uv=False)
    assert gram[-1] > 0.02 * gram[0]  # no coil is the sum of others


def test_maps_do_not_depend_on_how_the_volume_is_stored(a_head: Volume) -> None:
    flipped = Volume(np.ascontiguousarray(a_head.array[:, ::-1].transpose(2, 1, 0)), a_head.affine.copy())
    flipped.affine[:3, :3] = a_head.affine[:3, :3][:, [2, 1, 0]] * [1, -1, 1]
    flipped.affine[1, 3] = a_head.affine[1, 3] + a_head.affine[1, 1] * (a_head.shape[1] - 1)
    one, two = (smooth_coils(v.shape, v.affine, 4, seed=3) for v in (a_head, flipped))
    for coil, stored in zip(one, two, strict=True):
        np.testing.assert_allclose(
            to_sagittal(flipped.with_array(np.abs(stored))), to_sagittal(a_head.with_array(np.abs(coil))), atol=1e-3
        )
    assert from_sagittal(to_sagittal(flipped), flipped).shape == flipped.shape


@pytest.mark.parametrize("combine", ["rss", "adaptive"])
def test_one_coil_that_receives_all_alike_is_no_coil(a_head: Volume, combine: str) -> None:
    poses = with_severity(preset("tremor", 56, 2), 2.0)
    uniform = np.full((1, *a_head.shape), np.exp(0.7j), np.complex64)
    options = {"phase": smooth_phase(a_head.shape, 1), "sampling": Sampling(0.7), "order": "centric"}
    plain = simulate_motion(a_head, poses, "AP", **options)
    coil = simulate_motion(a_head, poses, "AP", coils=uniform, combine=combine, **options)
    for got, expected in ((coil.moved, plain.moved), (coil.reference, plain.reference)):
        np.testing.assert_allclose(got.array, expected.array, atol=1e-3 * a_head.array.max())
    assert coil.severity == plain.severity
    np.testing.assert_array_equal(coil.trajectory.translations, plain.trajectory.translations)


def test_one_uniform_coil_has_the_noise_of_no_coil(a_head: Volume) -> None:
    poses, uniform = no_motion(56), np.ones((1, *a_head.shape), np.complex64)
    plain = simulate_motion(a_head, poses, "AP", noise=20, seed=5)
    coil = simulate_motion(a_head, poses, "AP", noise=20, seed=5, coils=uniform)
    np.testing.assert_allclose(coil.reference.array, plain.reference.array, atol=1e-3 * a_head.array.max())


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7), Sampling(reduction=2)], ids=["all", "partial", "R 2"])
@pytest.mark.parametrize("combine", ["rss", "adaptive"])
def test_a_still_head_in_coils_is_its_reference(a_head: Volume, sampling: Sampling, combine: str) -> None:
    coils = smooth_coils(a_head.shape, a_head.affine, 6, seed=1)
    options = {"coils": coils, "combine": combine, "sampling": sampling, "noise": 10}
    options["phase"] = smooth_phase(a_head.shape)
    got = simulate_motion(a_head, no_motion(56), "AP", **options)
    assert np.array_equal(got.moved.array, got.reference.array)
    nearly = Trajectory(np.zeros((56, 3)), np.zeros((56, 3)))
    nearly.rotations[::2] = 1e-4  # degrees: through the NUFFT and the components
    moved = simulate_motion(a_head, nearly, "AP", align=False, **options).moved.array
    assert not np.array_equal(moved, got.reference.array)
    np.testing.assert_allclose(moved, got.reference.array, atol=3e-3 * a_head.array.max())


def test_noise_enters_after_the_motion_and_is_the_same_in_the_reference(a_head: Volume) -> None:
    """Where there is next to no head, moved and reference are the noise, and it does not move."""
    coils = smooth_coils(a_head.shape, a_head.affine, 4, seed=1)
    options = {"coils": coils, "noise": 15.0, "seed": 4}
    empty = a_head.with_array(1e-6 * a_head.array)
    poses = with_severity(preset("steps", 56, 3), 3.0)
    got = simulate_motion(empty, poses, "AP", align=False, **options)
    np.testing.assert_allclose(got.moved.array, got.reference.array, atol=1e-2)
    # the root of the sum of squares of 2 x 4 normal variables: chi with 8 degrees of freedom
    assert (got.reference.array**2).mean() == pytest.approx(8 * 15**2, rel=0.02)
    other = simulate_motion(empty, poses, "AP", align=False, **{**options, "seed": 5})
    assert relative(other.moved.array, got.moved.array) > 0.1


def test_the_matched_filter_has_less_noise_than_the_sum_of_squares(a_head: Volume) -> None:
    coils = smooth_coils(a_head.shape, a_head.affine, 8, seed=1)
    air = a_head.array == 0
    levels = {}
    for combine in ("rss", "adaptive"):
        got = simulate_motion(a_head, no_motion(56), coils=coils, combine=combine, noise=10)
        levels[combine] = got.reference.array[air].mean()
    assert levels["adaptive"] == pytest.approx(10 * np.sqrt(np.pi / 2), rel=0.05)  # Rayleigh, as of one coil
    assert levels["rss"] > 2.5 * levels["adaptive"]


def test_a_receive_field_stays_where_it_is_while_the_head_moves(a_small_head: Volume) -> None:
    """Against the exact way, one coil with that field; a field that moves with the head is far from it."""
    ramps = np.meshgrid(*(np.linspace(-1, 1, n) for n in a_small_head.shape), indexing="ij")
    field = np.exp(0.5 * ramps[0] - 0.4 * ramps[1] + 0.3 * ramps[2] ** 2).astype(np.float32)
    poses = with_severity(preset("steps", a_small_head.shape[1], 3), 4.0)
    exact = simulate_motion(a_small_head, poses, "AP", coils=field[None].astype(np.complex64))
    fixed = simulate_motion(a_small_head, poses, "AP", receive=field)
    carried = simulate_motion(a_small_head.with_array(a_small_head.array * field), poses, "AP")
    assert relative(fixed.reference.array, exact.reference.array) < 1e-5
    assert relative(fixed.moved.array, exact.moved.array) < 1e-5
    assert relative(carried.moved.array, exact.moved.array) > 5e-3


def test_the_noise_knows_no_receive_field(a_small_head: Volume) -> None:
    field = np.full(a_small_head.shape, 0.25, dtype=np.float32)
    still, bright = no_motion(a_small_head.shape[1]), a_small_head.array > 0.5 * a_small_head.array.max()
    noisy, quiet = (
        simulate_motion(a_small_head, still, "AP", receive=field, noise=noise).moved.array[bright] for noise in (5.0, 0)
    )
    assert (noisy - quiet).std() == pytest.approx(5, rel=0.05)


def test_without_noise_both_combinations_are_one(a_head: Volume) -> None:
    coils, lines = smooth_coils(a_head.shape, a_head.affine, 8, seed=1), no_motion(56)
    phase = smooth_phase(a_head.shape)
    rss, adaptive = (
        simulate_motion(a_head, lines, coils=coils, combine=combine, phase=phase).reference.array
        for combine in ("rss", "adaptive")
    )
    np.testing.assert_allclose(adaptive, rss, atol=1e-4 * a_head.array.max())
    assert relative(rss, a_head.array) < 0.01  # the squares of the sensitivities sum to 1


def test_motion_changes_what_coils_see_beyond_what_one_coil_sees(a_small_head: Volume) -> None:
    """A head displaced as a whole by 10 mm lies elsewhere in the coils: the shading stays with the coils."""
    coil = smooth_coils(a_small_head.shape, a_small_head.affine, 4, seed=1)[:1]
    lines = a_small_head.shape[1]
    away = Trajectory(np.tile([0.0, 10.5, 0.0], (lines, 1)), np.zeros((lines, 3)))  # 3 voxels towards A
    maps = CoilMaps.fitted(coil, a_small_head.affine)
    model = Acquisition(a_small_head.shape, a_small_head.affine, away, 1, CENTRE)
    kspace = moved_kspaces(a_small_head.array, model, maps)
    expected = np.abs(coil[0]) * np.roll(a_small_head.array, -3, axis=1)
    np.testing.assert_allclose(np.abs(image_of(kspace[0])), expected, atol=2e-3 * expected.max())


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        (np.ones((2, 3, 3, 3)), "do not fit the volume"),
        (np.ones((48, 56, 52)), "do not fit the volume"),
        (np.zeros((2, 48, 56, 52)), "zero everywhere"),
        (np.full((1, 48, 56, 52), np.nan), "finite"),
        (np.random.default_rng(0).normal(size=(2, 48, 56, 52)), "not smooth"),
    ],
    ids=["small", "3D", "zero", "nan", "rough"],
)
def test_maps_that_are_none_are_refused(a_head: Volume, maps: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        simulate_motion(a_head, no_motion(56), coils=maps)


def test_other_mistakes_with_coils_are_refused(a_head: Volume) -> None:
    coils = np.ones((1, *a_head.shape), np.complex64)
    with pytest.raises(InputError, match="use one of rss, adaptive"):
        simulate_motion(a_head, no_motion(56), coils=coils, combine="sum")
    with pytest.raises(InputError, match="not both"):
        error = np.ones(a_head.shape, np.complex64)
        simulate_motion(a_head, no_motion(56), coils=coils, sampling=Sampling(reduction=2, fill_error=error))
    with pytest.raises(InputError, match="give 1 or more"):
        smooth_coils(a_head.shape, a_head.affine, 0)


def test_a_slab_of_one_slice_can_be_received() -> None:
    volume = Volume(np.random.default_rng(0).random((24, 28, 1), dtype=np.float32), np.eye(4))
    coils = smooth_coils(volume.shape, volume.affine, 4, seed=1)
    got = simulate_motion(volume, with_severity(preset("tremor", 28, 1), 1.0), "AP", coils=coils)
    assert np.isfinite(got.moved.array).all() and relative(got.moved.array, got.reference.array) < 1


def test_the_phase_of_the_object_is_smooth_bounded_and_seeded() -> None:
    phase, again, other = (smooth_phase((20, 24, 1), seed) for seed in (1, 1, 2))
    assert np.array_equal(phase, again) and not np.allclose(phase, other)
    assert phase.dtype == np.float32 and np.abs(phase).max() == pytest.approx(1.5, rel=1e-5)
    assert max(np.abs(np.diff(phase, axis=axis)).max() for axis in (0, 1)) < 1.0


@pytest.mark.shared
def test_maps_of_a_real_head_coil_are_smooth_enough(shared_data: Path) -> None:
    """An 8-channel coil's calibration block: the polynomials hold it, so it can be simulated."""
    kspace = np.load(shared_data / "coils" / "sigpy-tutorial_brain_2d_8coil_ksp.npz")["ksp"]
    rows, columns = (size // 2 for size in kspace.shape[1:])
    block = kspace[:, rows - 12 : rows + 12, columns - 12 : columns + 12] * np.outer(*[np.hanning(26)[1:-1]] * 2)
    centred = fft.ifftshift(np.pad(block, ((0, 0), (12, 12), (12, 12))), axes=(1, 2))
    images = fft.fftshift(fft.ifft2(centred), axes=(1, 2))
    root = np.sqrt((np.abs(images) ** 2).sum(axis=0))
    inside = root > 0.1 * root.max()
    body = np.tensordot(np.linalg.svd(images[:, inside], full_matrices=False)[0][:, 0].conj(), images, 1)
    maps = np.where(inside, images / root * np.exp(-1j * np.angle(body)), 0)
    maps = np.repeat(maps[..., None], 12, axis=3).astype(np.complex64)
    fitted = np.stack(list(CoilMaps.fitted(maps, np.diag([5.0, 5, 5, 1])).values()))
    assert relative(fitted[:, inside], maps[:, inside]) < 0.08  # measured: 0.06
