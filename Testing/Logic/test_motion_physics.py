"""The forward model against closed forms: nothing here is compared with another simulation."""

from __future__ import annotations

from itertools import permutations, product

import finufft
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.kspace import ACCURACY, Acquisition, image_of, phase_encode_axis, sample_points
from BrainDiffLogic.motion.presets import preset
from BrainDiffLogic.motion.simulation import aligned, head_centre, simulate_motion
from BrainDiffLogic.motion.trajectory import Trajectory, anchored, rotation_matrices, with_severity
from BrainDiffLogic.volume import Volume, from_sagittal, to_sagittal
from Harness.phantom import NOSE, Ellipsoid, Phantom, frequencies

PHANTOM = Phantom()
CENTRE = np.array([1.0, -2.0, 3.0])
OBLIQUE = Rotation.from_euler("xyz", [17, -11, 24], degrees=True).as_matrix()


def an_affine(matrix: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The phantom's origin lies near the middle of the grid, not on a voxel."""
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = -matrix @ (np.array(shape) / 2) + [0.3, 0.7, -0.2]
    return affine


CUBES = 1.3 * np.eye(3)
GRIDS = {
    "RAS, even": ((34, 40, 36), np.eye(3) * 1.3),
    "RAS, odd": ((33, 41, 35), np.eye(3) * 1.3),
    "LAS": ((34, 41, 36), np.diag([-1.3, 1.3, 1.3])),
    "sagittal PIR, anisotropic": ((41, 45, 29), np.array([[0, 0, 1.6], [-1.2, 0, 0], [0, -1.0, 0]])),
    "oblique, anisotropic": ((38, 43, 33), OBLIQUE @ np.diag([1.3, 1.1, 1.5])),
}


@pytest.fixture(params=GRIDS)
def a_grid(request) -> tuple[tuple[int, int, int], np.ndarray]:
    shape, matrix = GRIDS[request.param]
    return shape, an_affine(matrix, shape)


def a_phantom_volume(shape=(34, 40, 36), matrix=CUBES, phantom=PHANTOM) -> Volume:
    affine = an_affine(matrix, shape)
    return Volume(phantom.image(shape, affine), affine)


def the_same_pose(lines: int, translation=(0, 0, 0), rotation=(0, 0, 0), centre=CENTRE) -> Trajectory:
    return Trajectory(np.tile(translation, (lines, 1)), np.tile(rotation, (lines, 1)), centre)


def closed_form(shape, affine, axis: int, trajectory: Trajectory, centre=CENTRE) -> dict:
    """The poses in the phantom's terms: a line's row follows from its frequency along the patient axis."""
    patient = int(np.argmax(np.abs(affine[:3, axis] / np.linalg.norm(affine[:3, axis]))))
    number = np.round(np.fft.fftfreq(shape[axis]) * shape[axis] * np.sign(affine[patient, axis])).astype(int)
    rows = (number + shape[axis] // 2) % shape[axis]
    turns = rotation_matrices(trajectory.rotations)
    return {"axis": axis, "rows": rows, "turns": turns, "shifts": trajectory.translations, "centre": centre}


def simulated(volume: Volume, trajectory: Trajectory, pe_axis: str = "AP") -> np.ndarray:
    """Magnitude image of the forward model alone: not anchored, not aligned."""
    axis = phase_encode_axis(volume.affine, pe_axis)
    centre = np.asarray(trajectory.centre)
    model = Acquisition(volume.shape, volume.affine, trajectory, axis, centre)
    return np.abs(image_of(model.kspace(volume.array)))


def worst(image: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(image - truth).max() / np.abs(truth).max())


def relative(samples: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(samples - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize("pe_axis", ["AP", "SI", "LR"])
def test_without_motion_the_image_is_the_input(a_grid, pe_axis):
    shape, affine = a_grid
    image = np.random.default_rng(0).random(shape, dtype=np.float32)  # energy at all frequencies, Nyquist included
    axis = phase_encode_axis(affine, pe_axis)
    kspace = Acquisition(image.shape, affine, the_same_pose(shape[axis]), axis, CENTRE).kspace(image)
    assert worst(kspace, np.fft.fftn(image)) < 1e-4
    assert worst(np.abs(image_of(kspace)), image) < 1e-4


def test_a_turn_too_small_to_see_leaves_the_image_as_it_is(a_grid, a_head):
    """Through the NUFFT, where no motion at all takes the plain FFT."""
    shape, affine = a_grid
    for volume in (Volume(PHANTOM.image(shape, affine), affine), a_head):
        lines = volume.shape[phase_encode_axis(volume.affine, "AP")]
        image = simulated(volume, the_same_pose(lines, rotation=(1e-5, 2e-5, -1e-5)))
        assert relative(image, np.abs(volume.array)) < 1e-4


@given(st.tuples(*[st.floats(-9, 9)] * 3))
def test_one_translation_for_all_lines_is_the_exact_fourier_shift(translation):
    shape = (13, 16, 15)
    affine = an_affine(OBLIQUE @ np.diag([1.0, 1.4, 0.8]), shape)
    image = np.random.default_rng(1).random(shape, dtype=np.float32)
    ramp = np.exp(-2j * np.pi * frequencies(shape, affine) @ np.array(translation))
    kspace = Acquisition(image.shape, affine, the_same_pose(16, translation), 1, CENTRE).kspace(image)
    assert worst(kspace, np.fft.fftn(image) * ramp) < 1e-4


@given(st.tuples(*[st.floats(-40, 40)] * 3), st.tuples(*[st.floats(-4, 4)] * 3))
def test_one_pose_for_all_lines_gives_the_moved_phantom(rotation, translation):
    shape, matrix = GRIDS["oblique, anisotropic"]
    volume, trajectory = a_phantom_volume(shape, matrix), the_same_pose(shape[1], translation, rotation)
    truth = PHANTOM.image(shape, volume.affine, closed_form(shape, volume.affine, 1, trajectory))
    assert worst(simulated(volume, trajectory), truth) < 3e-3  # the phantom's energy beyond the band that turns in


@pytest.mark.parametrize("pe_axis", ["AP", "SI", "LR"])
def test_a_pose_for_each_line_samples_the_closed_form_transform_in_that_pose(a_grid, pe_axis):
    shape, affine = a_grid
    axis = phase_encode_axis(affine, pe_axis)
    trajectory = with_severity(preset("tremor", shape[axis], seed=3), 3.0)
    kspace = Acquisition(shape, affine, trajectory, axis, CENTRE).kspace(PHANTOM.image(shape, affine))
    truth = PHANTOM.kspace(shape, affine, closed_form(shape, affine, axis, trajectory))
    still = PHANTOM.kspace(shape, affine)
    assert worst(kspace, truth) < 1e-4
    assert np.linalg.norm(kspace - truth) < 5e-3 * np.linalg.norm(truth - still)  # of the artifact, not of the image


def test_the_samples_agree_with_the_direct_transform_at_200_random_points():
    rng = np.random.default_rng(5)
    shape, affine = (15, 18, 17), an_affine(OBLIQUE, (15, 18, 17))
    image = rng.random(shape, dtype=np.float32)
    trajectory = with_severity(preset("steps", 18, seed=2), 4.0)
    points = sample_points(shape, affine, trajectory.rotations, 1).reshape(3, -1)
    values = finufft.nufft3d2(*points, image.astype(np.complex64), isign=-1, eps=1e-4)
    chosen = rng.choice(points.shape[1], 200, replace=False)
    grid = np.indices(shape).reshape(3, -1) - (np.array(shape) // 2)[:, None]
    direct = np.exp(-1j * points[:, chosen].astype(float).T @ grid) @ image.ravel()
    assert relative(values[chosen], direct) < 2e-4  # white noise is finufft's worst case


def test_kspace_lines_agree_with_the_direct_sum_over_moved_voxels():
    """Each voxel is a point mass in RAS: move it, transform it, sample the line. No NUFFT, no FFT."""
    rng = np.random.default_rng(6)
    shape, affine = (9, 12, 11), an_affine(OBLIQUE @ np.diag([1.0, -1.2, 1.5]), (9, 12, 11))
    image = rng.random(shape)
    trajectory = with_severity(preset("tremor", 12, seed=1), 2.0)
    kspace = Acquisition(image.shape, affine, trajectory, 1, CENTRE).kspace(image)
    poses, k = closed_form(shape, affine, 1, trajectory), frequencies(shape, affine)
    voxels = np.indices(shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    for i, line, j in zip(*(rng.integers(0, size, 200) for size in shape), strict=True):
        row = poses["rows"][line]
        moved = (voxels - CENTRE) @ poses["turns"][row].T + CENTRE + poses["shifts"][row]
        cycles = (k[i, line, j] @ poses["turns"][row]) @ affine[:3, :3]  # per voxel
        inside = (np.abs(cycles) <= 0.5 * (1 + 1 / np.array(shape))).all()
        expected = inside * np.exp(-2j * np.pi * (moved - affine[:3, 3]) @ k[i, line, j]) @ image.ravel()
        assert abs(kspace[i, line, j] - expected) < 1e-4 * image.sum()


@pytest.mark.parametrize("name", ["nod", "drift", "steps", "swallow", "tremor"])
def test_motion_keeps_the_energy_up_to_the_corners_of_kspace(name, a_head):
    trajectory = with_severity(preset(name, a_head.shape[1], seed=4), 2.0)
    moved = simulate_motion(a_head, trajectory, align=False).moved.array
    still = np.linalg.norm(a_head.array)
    assert np.linalg.norm(moved) == pytest.approx(still, rel=0.02)
    shifted = Trajectory(trajectory.translations, np.zeros_like(trajectory.rotations))
    assert np.linalg.norm(simulate_motion(a_head, shifted, align=False).moved.array) == pytest.approx(still, rel=1e-4)


def middle_of_mass(volume: Volume, image: np.ndarray) -> np.ndarray:
    weights = image**2  # the small residue in the air counts for nothing
    voxel = (np.indices(image.shape) * weights).sum(axis=(1, 2, 3)) / weights.sum()
    return volume.affine[:3, :3] @ voxel + volume.affine[:3, 3]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    "rotation, direction",
    [((12, 0, 0), (0, 0, 1)), ((0, 12, 0), (1, 0, 0)), ((0, 0, 12), (-1, 0, 0))],
    ids=[
        "pitch lifts the nose",
        "roll tips the top of the head to the right",
        "yaw turns the nose to the left",
    ],
)
def test_turns_have_the_signs_of_the_patient_axes(grid, rotation, direction):
    shape, matrix = GRIDS[grid]
    part = Phantom(NOSE)
    if rotation[1]:  # what lies on the axis of the roll shows nothing: look at the top of the head
        part = Phantom((Ellipsoid((0, 0, 13), (3, 3, 3), 500),))
    volume = a_phantom_volume(shape, matrix, part)
    moved = simulated(volume, the_same_pose(shape[phase_encode_axis(volume.affine, "AP")], (0, 0, 0), rotation))
    start = middle_of_mass(volume, volume.array)
    went = middle_of_mass(volume, moved) - start
    assert went @ direction > 1.5
    expected = rotation_matrices(np.array([rotation]))[0] @ (start - CENTRE) + CENTRE - start
    np.testing.assert_allclose(went, expected, atol=0.02)


def reoriented(volume: Volume, order: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
    """The same image stored with other array axes."""
    affine = volume.affine.copy()
    affine[:3, :3] = volume.affine[:3, order] * np.where(flips, -1, 1)
    last = np.where(flips, np.array(volume.shape)[list(order)] - 1, 0)
    affine[:3, 3] += volume.affine[:3, order] @ last
    array = volume.array.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return Volume(np.ascontiguousarray(array), affine)


def test_the_moved_head_does_not_depend_on_how_the_volume_is_stored(pe_axis="AP"):
    volume = a_phantom_volume((17, 21, 19), OBLIQUE @ np.diag([2.3, 2.5, 2.2]), Phantom(blur=3))
    lines = volume.shape[phase_encode_axis(volume.affine, pe_axis)]
    trajectory = Trajectory(*_rows(with_severity(preset("tremor", lines, seed=9), 3.0)), CENTRE)
    expected = simulate_motion(volume, trajectory, pe_axis, align=False).moved
    assert worst(expected.array, volume.array) > 0.05
    for order, flips in product(permutations(range(3)), product([False, True], repeat=3)):
        stored = reoriented(volume, order, flips)
        moved = simulate_motion(stored, trajectory, pe_axis, align=False).moved
        assert worst(to_sagittal(moved), to_sagittal(expected)) < 1e-4, (order, flips)
        assert np.array_equal(from_sagittal(to_sagittal(moved), moved), moved.array)


def _rows(trajectory: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    return trajectory.translations, trajectory.rotations


@pytest.mark.parametrize("pe_axis, moves", [("AP", 1), ("SI", 2), ("LR", 0)])
def test_a_pose_change_ghosts_along_the_patient_axis_of_phase_encoding(pe_axis, moves):
    volume = a_phantom_volume((40, 36, 44), 1.3 * np.eye(3)[:, [2, 0, 1]])
    axis = phase_encode_axis(volume.affine, pe_axis)
    assert np.argmax(np.abs(volume.affine[:3, axis])) == moves
    shifts = np.zeros((volume.shape[axis], 3))
    shifts[::2, moves] = 2.0
    artifact = simulated(volume, Trajectory(shifts, 0 * shifts, CENTRE), pe_axis)
    head = volume.array > 5
    met = np.broadcast_to(head.any(axis=axis, keepdims=True), head.shape)  # by a line along the axis
    assert artifact[met & ~head].mean() > 10
    assert artifact[~met].mean() < 1


def test_an_unknown_phase_encode_axis_is_refused_with_the_known_ones(a_head):
    with pytest.raises(InputError, match="use AP, SI or LR"):
        simulate_motion(a_head, the_same_pose(56), "ROW")


def test_the_head_turns_about_the_given_centre_and_else_about_the_middle_of_the_head(a_head):
    lines = a_head.shape[1]
    middle = head_centre(a_head.array, a_head.affine)
    pose = preset("steps", lines, seed=1)
    default = simulate_motion(a_head, pose, align=False)
    np.testing.assert_allclose(default.trajectory.centre, middle)
    given = simulate_motion(a_head, Trajectory(*_rows(pose), middle), align=False)
    assert np.array_equal(default.moved.array, given.moved.array)
    elsewhere = middle + [0, -20, -60]
    turned = simulate_motion(a_head, Trajectory(*_rows(pose), elsewhere), align=False)
    # R (x - c) + c + t with another c is the same turn with t + (1 - R)(c - c')
    poses = anchored(pose)
    moved = poses.translations + np.einsum(
        "nij,j->ni", np.eye(3) - rotation_matrices(poses.rotations), elsewhere - middle
    )
    same = simulate_motion(a_head, Trajectory(moved, poses.rotations, middle), align=False)
    assert worst(turned.moved.array, same.moved.array) < 1e-4
    assert worst(turned.moved.array, default.moved.array) > 0.05


def test_the_same_seed_gives_the_same_volumes_and_another_seed_other_noise(a_head):
    trajectory = with_severity(preset("nod", 56, seed=3), 1.0)
    first, again, other = (simulate_motion(a_head, trajectory, noise=10, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(first.moved.array, again.moved.array)
    assert np.array_equal(first.reference.array, again.reference.array)
    assert not np.array_equal(first.moved.array, other.moved.array)


def test_one_thread_gives_what_many_give(a_head):
    trajectory = with_severity(preset("tremor", 56, seed=3), 2.0)
    points = sample_points(a_head.shape, a_head.affine, trajectory.rotations, 1).reshape(3, -1)
    image = a_head.array.astype(np.complex64)
    one, many = (finufft.nufft3d2(*points, image, isign=-1, eps=ACCURACY, nthreads=n) for n in (1, 4))
    assert relative(one, many) < ACCURACY


def test_noise_is_rician_and_the_reference_carries_the_same(a_head):
    sigma = 20.0
    result = simulate_motion(a_head, preset("steps", 56, seed=2), noise=sigma, seed=1)
    air = a_head.array == 0
    floor = result.reference.array[air]
    assert floor.mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.02)  # Rayleigh
    assert floor.std() == pytest.approx(sigma * np.sqrt(2 - np.pi / 2), rel=0.02)
    inside = a_head.array > 20 * sigma
    assert (result.reference.array - a_head.array)[inside].std() == pytest.approx(sigma, rel=0.05)
    still = simulate_motion(a_head, the_same_pose(56), noise=sigma, seed=1)
    assert worst(still.moved.array, still.reference.array) < 1e-4


def test_a_scan_in_which_nobody_moves_stays_as_it_is(a_head):
    for array in (a_head.array, a_head.array - 100, a_head.array.astype(np.int16)):
        volume = a_head.with_array(array)
        result = simulate_motion(volume, the_same_pose(20, (3, 2, 1), (4, 5, 6), None))  # a pose, but no motion
        assert result.severity == pytest.approx(0, abs=1e-6)
        assert worst(result.moved.array, array.astype(np.float32)) < 2e-4
        assert np.array_equal(result.reference.array, array.astype(np.float32))


def test_the_phase_of_the_object_moves_with_it(a_head):
    phase = 0.5 * np.sin(np.indices(a_head.shape).sum(axis=0) / 9)
    still = simulate_motion(a_head, the_same_pose(56), phase=phase)
    assert worst(still.moved.array, a_head.array) < 1e-4
    shift = np.zeros((56, 3))
    shift[:10] = 3
    with_phase, without = (
        simulate_motion(a_head, Trajectory(shift, 0 * shift), phase=p, align=False).moved.array for p in (phase, None)
    )
    assert worst(with_phase, without) > 0.01


@pytest.mark.parametrize("shape", [(2, 3, 1), (1, 20, 24), (20, 1, 2), (5, 6, 7)])
def test_volumes_of_few_slices_can_be_moved(shape):
    array = np.random.default_rng(0).random(shape, dtype=np.float32)
    result = simulate_motion(Volume(array, np.eye(4)), preset("tremor", 40, seed=1), "LR" if shape[1] == 1 else "AP")
    assert np.isfinite(result.moved.array).all()


def displacement_over_the_phantom(trajectory: Trajectory, radius: float = 18.0) -> np.ndarray:
    """(N,) RMS displacement in mm within a sphere of the phantom's size, for each line."""
    change = rotation_matrices(trajectory.rotations) - np.eye(3)
    return np.sqrt(radius**2 / 5 * (change**2).sum(axis=(1, 2)) + (trajectory.translations**2).sum(axis=1))


@pytest.mark.parametrize("shift, turn", [((0.4, -0.8, 0.6), (0, 0, 0)), ((0.5, 0.3, -0.4), (0.8, -0.5, 0.6))])
@pytest.mark.parametrize("grid", ["RAS, even", "oblique, anisotropic"])
def test_alignment_removes_a_displacement_of_the_whole_scan(grid, shift, turn):
    volume = a_phantom_volume(*GRIDS[grid])
    axis = phase_encode_axis(volume.affine, "AP")
    displaced = the_same_pose(volume.shape[axis], shift, turn)
    assert displacement_over_the_phantom(displaced).min() > 0.5
    back = aligned(volume.array, volume.affine, displaced, axis, CENTRE)
    assert displacement_over_the_phantom(back).max() < 0.05


def test_alignment_cuts_the_error_of_a_scan_with_motion(a_head):
    inside, gains = a_head.array > 0, []
    for name, seed in product(["drift", "steps", "swallow"], range(2)):
        trajectory = with_severity(preset(name, 56, seed), 1.0)
        plain, back = (simulate_motion(a_head, trajectory, align=align).moved.array for align in (False, True))
        gains.append(np.abs(back - a_head.array)[inside].mean() / np.abs(plain - a_head.array)[inside].mean())
    assert max(gains) < 1.01
    assert np.mean(gains) < 0.95, gains
