"""The campaign of a quarter of an hour of a GPU, on the CPU with heads of some thousand voxels."""

import json
from dataclasses import replace
from pathlib import Path

import gpu_campaign
import numpy as np
import pytest
import torch
from gpu_campaign import Settings, export, load_run, train
from gpu_heads import UNIT, on_device, pack_heads, read_pack
from gpu_pairs import PackedTraces, Recipe, Scans
from gpu_simulation import Base, Scan, moved_kspace, simulate

from BrainDiffLogic.images import write_volume
from BrainDiffLogic.models.checkpoints import load_checkpoint
from BrainDiffLogic.motion import Trajectory, preset, simulate_motion, with_severity
from BrainDiffLogic.motion.kspace import Acquisition
from BrainDiffLogic.motion.trajectory import rotation_matrices
from BrainDiffLogic.volume import Volume

SHAPE, SPACING = (30, 36, 33), np.array([5.0, 4.5, 5.0])
CENTRE = np.array([14.5, 17.0, 16.0])
AXES = ("LR", "AP", "SI")
TOY = Settings(
    minutes=2, filters=(4, 8), batch=4, crop=32, pool=16, slices=16, every=0.0, workers=0, steps=8, rate=1e-3
)  # fmt: skip


def a_head() -> np.ndarray:
    R, A, S = np.meshgrid(*[(np.arange(n) - n // 2) * s for n, s in zip(SHAPE, SPACING, strict=True)], indexing="ij")
    outline = 1 / (1 + np.exp(14 * (np.sqrt((R / 60) ** 2 + (A / 68) ** 2 + (S / 64) ** 2) - 1)))
    return (outline * (0.6 + 0.25 * np.sin(R / 11) * np.cos(S / 13) + 0.15 * np.sin(A / 9))).astype(np.float32)


@pytest.fixture(scope="module")
def a_base() -> Base:
    array = torch.as_tensor(np.rint(a_head() * UNIT).astype(np.uint8))
    occupied = torch.nonzero((array > 10).any(dim=2).any(dim=1)).flatten()
    return Base(array, array > 10, UNIT, SPACING, CENTRE, (int(occupied[0]), int(occupied[-1])))


@pytest.fixture(scope="module")
def a_data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "t1_head").mkdir()
    rng = np.random.default_rng(0)
    head = a_head()[::2, ::2, ::2]
    for name in ("ds000011-01", "uih-1", "ds000011-10", "ds000011-11"):
        noisy = 1000 * np.abs(head + 0.02 * rng.normal(size=head.shape))
        volume = Volume(noisy.astype(np.float32), np.diag([*(2 * SPACING), 1]))
        write_volume(volume, folder / "t1_head" / f"{name}_T1w.nii.gz")
    (folder / "labels").mkdir()
    labels = np.digitize(head, [0.2, 0.5, 0.7]) * np.where(head > 0.5, 1, 24)  # 24, 2, 3
    write_volume(Volume(labels.astype(np.int16), np.diag([*(2 * SPACING), 1])), folder / "labels" / "seg_01.nii.gz")
    runs = {f"{n}_a": np.rint(200 * rng.normal(size=(40, 6)).cumsum(axis=0)).astype(np.int16) for n in range(30)}
    np.savez(folder / "toy.npz", **runs)
    index = "".join(f"{key}\t40\t2.0\n" for key in runs)
    (folder / "toy_index.tsv").write_text("key\tframes\ttr_s\n" + index)
    (folder / "toy.yaml").write_text(
        "family: mc-net\nnetwork: compact\n"
        "sources: [{glob: 't1_head/*.nii.gz', kind: head}, {glob: 'labels/*', kind: labels}]\n"
        "validation: [ds000011-11]\ntraces: toy.npz\nstages: [{steps: 1, loss: {l1: 1.0}}]\n"
        "recipe: {quiet: true, presets: {tremor: 1.0, recorded: 1.0}, masked_share: 0.5, aliasing_share: 0.5,"
        " partial_fourier_share: 0.5}\n"
    )
    return folder


@pytest.fixture(scope="module")
def a_pack(a_data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pack") / "heads.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpu_heads.TRACES", (6, 3))
        pack_heads(a_data_folder / "toy.yaml", a_data_folder, path.parent / "quiet", path, 24.0)
    return path


def a_motion(axis: int, severity: float, kind: str = "tremor") -> Trajectory:
    return with_severity(preset(kind, SHAPE[axis], np.random.default_rng(axis)), severity)


def a_scan(axis: int, trajectory: Trajectory, **changes: object) -> Scan:
    turns = rotation_matrices(trajectory.rotations)
    return Scan(0, SHAPE, axis, turns, trajectory.translations, trajectory.severity, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("axis", "turning"), [(0, True), (1, True), (2, True), (1, False)])
def test_the_spectrum_of_a_moved_head_is_the_library_s(
    axis: int, turning: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_simulation.CHUNK", 10_000)
    motion = a_motion(axis, 3.0)
    motion = Trajectory(motion.translations, motion.rotations * turning)
    affine, centre = np.diag([*SPACING, 1.0]), CENTRE * SPACING
    expected = Acquisition(SHAPE, affine, motion, axis, centre, accuracy=1e-6).kspace(a_head())
    poses = [
        torch.as_tensor(p, dtype=torch.float32) for p in (rotation_matrices(motion.rotations), motion.translations)
    ]
    lever = (np.array(SHAPE) // 2 - CENTRE) * SPACING
    found = moved_kspace(torch.as_tensor(a_head()), SPACING, *poses, axis, lever).numpy()
    assert np.linalg.norm(found - expected) < 2e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("kind", ["nod", "steps", "tremor"])
def test_a_simulated_pair_is_the_library_s_within_2_percent_of_the_artifact(a_base: Base, kind: str) -> None:
    motion, axis = a_motion(1, 2.0, kind), 1
    volume = Volume(a_base.array.numpy() / np.float32(UNIT), np.diag([*SPACING, 1.0]))
    motion = Trajectory(motion.translations, motion.rotations, CENTRE * SPACING)
    expected = simulate_motion(volume, motion, AXES[axis])
    moved, still = (image.numpy() for image in simulate(a_base, a_scan(axis, motion))[:2])
    gain, offset = np.polyfit(still.ravel(), expected.reference.array.ravel(), 1)
    np.testing.assert_allclose(gain * still + offset, expected.reference.array, atol=1e-5)
    artifact = np.linalg.norm(expected.moved.array - expected.reference.array)
    assert np.linalg.norm(gain * moved + offset - expected.moved.array) < 0.02 * artifact


def test_a_still_pair_with_noise_phase_and_partial_fourier_has_two_equal_images(a_base: Base) -> None:
    rng = np.random.default_rng(0)
    still = Trajectory(np.zeros((36, 3)), np.zeros((36, 3)))
    kept = np.fft.ifftshift(np.arange(36) < 28)
    changes = {
        "noise": 0.05,
        "phase": rng.normal(size=(4, 4, 4)),
        "kept": kept,
        "bias": 0.2 * rng.normal(size=(4, 4, 4)),
    }
    moved, clean, _ = simulate(a_base, a_scan(1, still, **changes))
    torch.testing.assert_close(moved, clean, atol=1e-6, rtol=0)
    assert clean[:2].std() > 0.01, "noise in the air"


def test_noise_is_the_same_in_both_images_and_does_not_move(a_base: Base) -> None:
    scan = a_scan(1, a_motion(1, 2.0))
    quiet, noisy = (simulate(a_base, replace(scan, noise=noise, phase=None)) for noise in (0.0, 1e-3))
    inside = a_base.mask & (a_base.array > 40)
    grain = [(loud - silent)[inside] for loud, silent in zip(noisy[:2], quiet[:2], strict=True)]
    assert np.corrcoef(grain[0], grain[1])[0, 1] > 0.9


def test_a_painted_head_has_the_grey_values_of_its_palette(a_base: Base) -> None:
    labels = torch.as_tensor(np.digitize(a_head(), [0.2, 0.6]).astype(np.uint8))
    palette = np.array([[0.0, 0.3, 0.9], [0.0, 0.0, 0.0]])
    scan = replace(a_scan(1, a_motion(1, 2.0)), palette=palette, severity=0.0)
    _, still, _ = simulate(replace(a_base, array=labels), scan)
    assert still[labels == 2].median() / still[labels == 1].median() == pytest.approx(3, rel=0.15)


def test_a_mask_comes_after_the_motion_and_is_the_same_in_both(a_base: Base) -> None:
    moved, still, _ = simulate(a_base, a_scan(1, a_motion(1, 3.0), noise=0.02, mask_level=0.5))
    air = still == still.min()
    assert 0.2 < air.float().mean() < 0.95
    assert torch.equal(air, moved == moved.min())
    assert (moved - still).abs().max() > 0.03


def test_zoomed_and_mirrored_heads_keep_their_place(a_base: Base) -> None:
    shape = (36, 40, 36)
    still = Trajectory(np.zeros((40, 3)), np.zeros((40, 3)))
    _, clean, (first, last) = simulate(a_base, replace(a_scan(1, still), shape=shape, mirrored=True))
    occupied = torch.nonzero((clean > 0.1).any(dim=2).any(dim=1)).flatten()
    assert abs(int(occupied[0]) - first) <= 1
    assert abs(int(occupied[-1]) - last) <= 1


def test_the_pack_holds_people_to_train_on_alone_and_their_quiet_heads(a_pack: Path) -> None:
    pack = read_pack(a_pack)
    held_out = {facts["subject"]: facts["held_out"] for facts in pack["facts"]}
    assert held_out == {"ds000011-10": True, "ds000011-01": False, "uih-1": False, "seg_01": False}
    assert pack["traces"].shape == (6, 256, 6)
    head = pack["arrays"][0] / UNIT
    assert np.percentile(head[pack["masks"][0]], 99) == pytest.approx(1, abs=0.05)
    assert np.median(head[:2]) == 0


def test_nobody_held_out_is_drawn_to_train_on(a_pack: Path) -> None:
    pack = read_pack(a_pack)
    scans = iter(Scans(pack["facts"], Recipe(**pack["recipe"]), PackedTraces(pack["traces"]), 1, 0))
    drawn = [next(scans) for _ in range(20)]
    assert not any(pack["facts"][scan.base]["held_out"] for scan in drawn)
    assert len({scan.seed for scan in drawn}) == 20
    moved, still, ends = simulate(on_device(pack, torch.device("cpu"))[drawn[0].base], drawn[0])
    assert moved.shape == still.shape == drawn[0].shape
    assert torch.isfinite(moved).all() and 0 <= ends[0] < ends[1] < len(still)


def test_a_killed_run_goes_on_and_becomes_a_model(
    a_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, device = tmp_path / "run", torch.device("cpu")
    monkeypatch.setattr(gpu_campaign, "TIMED", 1)
    monkeypatch.setattr(gpu_campaign, "WARM", 2)
    with monkeypatch.context() as patch:
        learn = gpu_campaign.Learner.learn

        def killed(self: gpu_campaign.Learner, *batch: object) -> tuple[torch.Tensor, torch.Tensor]:
            if self.step == 5:
                raise KeyboardInterrupt
            return learn(self, *batch)

        patch.setattr(gpu_campaign.Learner, "learn", killed)
        with pytest.raises(KeyboardInterrupt):
            train(a_pack, run, TOY, device)
    tensors, state = load_run(run)
    assert state["step"] == 5
    (run / "shard-0.part").write_bytes(b"half a file")
    copied = tmp_path / "copied"
    copied.mkdir()
    last = train(a_pack, run, replace(TOY, steps=4), device, copied)
    assert last["step"] == 9
    assert last["volumes"] > state["volumes"]
    assert last["seconds"] > state["seconds"]
    ended = train(a_pack, run, replace(TOY, minutes=0.1), device)
    assert ended["step"] == 9, "its time was over"
    lines = [json.loads(line) for line in (copied / "curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines][:3] == [1, 2, 3]
    assert set(lines[-1]["validation"]) == {"0", "0.7", "1.5", "3"}
    assert lines[0]["validation"]["3"][1] > lines[0]["validation"]["0.7"][1] > 0
    tensors, _ = load_run(copied)
    assert {name.split(".")[0] for name in tensors} == {"averaged", "network", "momentum", "spread"}
    card = export(copied, a_pack, tmp_path / "toy.safetensors")
    assert card["training"]["steps"] == 9
    corrector, _ = load_checkpoint(tmp_path / "toy.safetensors")
    for name, value in corrector.state_dict().items():
        torch.testing.assert_close(value, tensors[f"averaged.{name}"].to(value.dtype))


def test_momenta_come_back_as_they_were_but_for_rounding() -> None:
    first, second = (gpu_campaign.Learner(TOY, torch.device("cpu")) for _ in range(2))
    x = torch.rand((4, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        first.learn(x, 0.9 * x[:, 1:2], 0.5)
    second.restore(first.tensors(), 5)
    for ours, theirs in zip(first.network.parameters(), second.network.parameters(), strict=True):
        before, after = first.optimiser.state[ours], second.optimiser.state[theirs]
        torch.testing.assert_close(after["exp_avg"], before["exp_avg"], rtol=0.01, atol=1e-12)
        torch.testing.assert_close(after["exp_avg_sq"], before["exp_avg_sq"], rtol=0.3, atol=1e-20)
    errors = [[float(e) for e in learner.learn(x, 0.9 * x[:, 1:2], 0.5)] for learner in (first, second)]
    assert errors[0] == pytest.approx(errors[1], rel=0.02)
