"""Poses, trajectories, their severity, and the presets: laws that hold for any of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import find_peaks

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.presets import NECK, PRESETS, nod, preset, steps, swallow
from BrainDiffLogic.motion.trajectory import (
    HEAD_RADIUS,
    Trajectory,
    anchored,
    composed_poses,
    inverse_pose,
    resampled,
    rms_displacement,
    rotation_matrices,
    scaled,
    stratum,
    with_severity,
)

DEGREES, MM = st.floats(-170, 170), st.floats(-30, 30)
POSES = st.tuples(st.tuples(MM, MM, MM), st.tuples(DEGREES, st.floats(-85, 85), DEGREES))
SEEDS, NAMES = st.integers(0, 10_000), st.sampled_from(sorted(PRESETS))


def arrays(pose) -> tuple[np.ndarray, np.ndarray]:
    return np.array([pose[0]]), np.array([pose[1]])


def matrices(pose: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """(4, 4) of the first row of (translations, rotations)."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = (
        rotation_matrices(np.atleast_2d(pose[1]))[0],
        np.atleast_2d(pose[0])[0],
    )
    return matrix


@given(POSES, POSES)
def test_composing_poses_multiplies_their_matrices(first, second):
    both = matrices(composed_poses(arrays(second), arrays(first)))
    np.testing.assert_allclose(both, matrices(arrays(second)) @ matrices(arrays(first)), atol=1e-9)


@given(POSES)
def test_a_pose_and_its_inverse_cancel_on_both_sides(pose):
    back = inverse_pose(*arrays(pose))
    for product in (composed_poses(back, arrays(pose)), composed_poses(arrays(pose), back)):
        np.testing.assert_allclose(matrices(product), np.eye(4), atol=1e-9)
    np.testing.assert_allclose(matrices(inverse_pose(*back)), matrices(arrays(pose)), atol=1e-9)


@given(POSES, POSES, POSES)
def test_composition_is_associative(a, b, c):
    a, b, c = arrays(a), arrays(b), arrays(c)
    left = composed_poses(composed_poses(a, b), c)
    np.testing.assert_allclose(matrices(left), matrices(composed_poses(a, composed_poses(b, c))), atol=1e-9)


@given(st.tuples(MM, MM, MM))
def test_a_pure_translation_displaces_the_whole_head_by_its_length(translation):
    rms = rms_displacement(np.array([translation]), np.zeros((1, 3)))
    assert rms[0] == pytest.approx(np.linalg.norm(translation), abs=1e-9)


@given(st.floats(-179, 179), st.sampled_from([0, 1, 2]))
def test_a_pure_rotation_displaces_the_head_as_jenkinson_says(degrees, axis):
    """trace(M^T M) = 8 sin^2(angle / 2): RMS = 2 r sin(angle / 2) sqrt(2 / 5)."""
    rotation = np.zeros((1, 3))
    rotation[0, axis] = degrees
    expected = 2 * HEAD_RADIUS * abs(np.sin(np.deg2rad(degrees) / 2)) * np.sqrt(2 / 5)
    assert rms_displacement(np.zeros((1, 3)), rotation)[0] == pytest.approx(expected, abs=1e-9)


def test_the_displacement_is_the_mean_over_points_of_the_sphere():
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (200_000, 3))
    points = HEAD_RADIUS * points[np.linalg.norm(points, axis=1) < 1]
    translation, rotation = np.array([[1.0, -2.0, 0.5]]), np.array([[3.0, -1.0, 2.0]])
    moved = points @ rotation_matrices(rotation)[0].T + translation
    rms = np.sqrt(((moved - points) ** 2).sum(axis=1).mean())
    assert rms_displacement(translation, rotation)[0] == pytest.approx(rms, rel=0.01)


@given(NAMES, SEEDS, st.integers(2, 300))
def test_anchoring_makes_the_central_pose_the_identity_and_is_idempotent(name, seed, lines):
    once = anchored(preset(name, lines, seed))
    np.testing.assert_allclose(once.translations[lines // 2], 0, atol=1e-9)
    np.testing.assert_allclose(once.rotations[lines // 2], 0, atol=1e-9)
    twice = anchored(once)
    np.testing.assert_allclose(twice.translations, once.translations, atol=1e-9)
    np.testing.assert_allclose(twice.rotations, once.rotations, atol=1e-9)


@given(NAMES, SEEDS, POSES)
def test_severity_does_not_depend_on_where_the_head_started(name, seed, pose):
    trajectory = preset(name, 60, seed)
    start = arrays(pose)
    elsewhere = Trajectory(*composed_poses((trajectory.translations, trajectory.rotations), start))
    assert elsewhere.severity == pytest.approx(trajectory.severity, abs=1e-6)


@given(NAMES, SEEDS, st.floats(0.05, 8), st.sampled_from([48, 137, 240]))
def test_with_severity_reaches_it_for_every_preset(name, seed, severity, lines):
    trajectory = preset(name, lines, seed)
    try:
        reached = with_severity(trajectory, severity)
    except InputError as error:  # short motion in a long scan would have to turn the head right round
        assert name in ("nod", "swallow") and "no scaling" in str(error)
        return
    assert reached.severity == pytest.approx(severity, abs=1e-4)
    assert stratum(reached.severity + 1e-3) == stratum(severity + 1e-3)


def test_severity_0_is_no_motion_and_no_motion_has_no_severity_to_scale():
    assert with_severity(preset("nod", 100, 1), 0.0).severity == 0
    still = Trajectory(np.zeros((10, 3)), np.zeros((10, 3)))
    with pytest.raises(InputError, match="holds no motion"):
        with_severity(still, 1.0)
    with pytest.raises(InputError, match="negative"):
        with_severity(still, -1.0)


def test_a_severity_that_no_turn_can_reach_is_refused():
    turns = np.zeros((20, 3))
    turns[:3, 0] = 1.0
    with pytest.raises(InputError, match="choose a smaller severity"):
        with_severity(Trajectory(np.zeros((20, 3)), turns), 60.0)


@given(SEEDS, st.floats(0.1, 3))
def test_scaling_multiplies_the_angle_of_each_turn_about_its_own_axis(seed, factor):
    rng = np.random.default_rng(seed)
    trajectory = Trajectory(rng.normal(size=(9, 3)), 15 * rng.normal(size=(9, 3)))
    np.testing.assert_allclose(scaled(trajectory, factor).translations, factor * trajectory.translations)
    angles = [np.arccos((np.trace(m) - 1) / 2) for m in rotation_matrices(trajectory.rotations)]
    larger = [np.arccos((np.trace(m) - 1) / 2) for m in rotation_matrices(scaled(trajectory, factor).rotations)]
    expected = np.abs((factor * np.array(angles) + np.pi) % (2 * np.pi) - np.pi)
    np.testing.assert_allclose(larger, expected, atol=1e-6)


@given(NAMES, SEEDS, st.integers(2, 400))
def test_resampling_keeps_the_end_points_and_the_same_length_keeps_everything(name, seed, lines):
    trajectory = preset(name, 97, seed)
    other = resampled(trajectory, lines)
    assert len(other) == lines
    for end in (0, -1):
        np.testing.assert_allclose(other.translations[end], trajectory.translations[end], atol=1e-9)
        np.testing.assert_allclose(other.rotations[end], trajectory.rotations[end], atol=1e-9)
    assert resampled(trajectory, 97) is trajectory


def test_resampling_follows_a_steady_turn():
    pitch = np.zeros((5, 3))
    pitch[:, 0] = [0, 10, 20, 30, 40]
    finer = resampled(Trajectory(np.zeros((5, 3)), pitch), 9)
    np.testing.assert_allclose(finer.rotations[:, 0], np.arange(0, 41, 5), atol=1e-9)


@pytest.mark.parametrize(
    "severity, name", [(0, "<0.5"), (0.5, "0.5-1"), (1.99, "1-2"), (2, "2-4"), (4, ">4"), (9, ">4")]
)
def test_the_strata_include_their_lower_limit(severity, name):
    assert stratum(severity) == name


@given(NAMES, SEEDS, st.integers(2, 300))
def test_a_preset_is_finite_and_the_same_for_the_same_seed(name, seed, lines):
    first, again, other = preset(name, lines, seed), preset(name, lines, seed), preset(name, lines, seed + 1)
    assert len(first) == lines
    assert np.array_equal(first.translations, again.translations)
    assert np.array_equal(first.rotations, again.rotations)
    assert lines < 40 or not np.array_equal(first.rotations, other.rotations)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_moves_the_head_by_fractions_of_a_millimetre_to_centimetres(name):
    severities = [preset(name, 192, seed).severity for seed in range(60)]
    assert np.median(severities) > 0.1
    assert max(severities) < 30


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="nod, drift, steps, swallow, tremor"):
        preset("sneeze", 100, 1)


@pytest.mark.parametrize("nods", [1, 5, 10])
@pytest.mark.parametrize("seed", range(4))
def test_as_many_nods_as_asked_for_are_seen(nods, seed):
    pitch = nod(2000, np.random.default_rng(seed), nods=nods).rotations[:, 0]
    peaks, _ = find_peaks(pitch, prominence=6)
    assert len(peaks) == nods
    assert pitch.max() < 25


@pytest.mark.parametrize("seed", range(5))
def test_a_nod_is_a_pitch_about_the_neck(seed):
    trajectory = nod(1000, np.random.default_rng(seed), nods=5)
    swing = np.ptp(trajectory.rotations, axis=0)
    assert swing[0] > 3 * swing[1:].max()
    turns = rotation_matrices(trajectory.rotations)
    neck = turns @ NECK + trajectory.translations - NECK  # where the joint goes
    centre = np.linalg.norm(trajectory.translations, axis=1)
    top = int(np.argmax(trajectory.rotations[:, 0]))
    assert np.linalg.norm(neck[top]) < 0.25 * centre[top]
    assert trajectory.translations[top, 1] < -5  # +pitch lifts the nose: the centre, above the neck, goes back


def test_steps_are_constant_between_their_changes():
    for seed in range(5):
        rows = steps(400, np.random.default_rng(seed), count=4).translations
        assert 1 <= np.count_nonzero(np.abs(np.diff(rows, axis=0)).max(axis=1) > 1e-9) <= 8


def test_a_swallow_dies_away_within_seconds():
    rows = swallow(3160, np.random.default_rng(2), count=1).translations[:, 2]
    peak = int(np.argmax(rows))
    assert rows[:peak].max(initial=0) == 0
    assert rows[peak] > 1.4
    assert rows[min(peak + 300, 3159)] < 0.01 * rows[peak]


@pytest.mark.parametrize(
    "translations, rotations, message",
    [
        (np.zeros((1, 3)), np.zeros((1, 3)), "N >= 2"),
        (np.zeros((4, 2)), np.zeros((4, 3)), "translations"),
        (np.zeros((4, 3)), np.zeros((5, 3)), "4 translations but 5 rotations"),
        (np.full((4, 3), np.nan), np.zeros((4, 3)), "NaN"),
    ],
)
def test_rows_that_are_no_trajectory_are_refused(translations, rotations, message):
    with pytest.raises(InputError, match=message):
        Trajectory(translations, rotations)
