"""Who is trained on and who is validated on: people by the names of their files, and motion."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from BrainDiffLogic.data.split import subject_of
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion import preset, with_severity
from BrainDiffLogic.training import severity
from BrainDiffLogic.training.configuration import CorrectorConfiguration, Recipe, SeverityConfiguration
from BrainDiffLogic.training.corrector import train
from BrainDiffLogic.training.fields import read_section
from BrainDiffLogic.training.fit import Hardware
from BrainDiffLogic.training.heads import (
    Source,
    assert_other_motion,
    assert_sources_disjoint,
    find_sources,
    find_traces,
    motion_shape,
)
from BrainDiffLogic.training.pairs import caches
from Harness.tiny_training import SHIPPED, make_data_folder, tiny
from Harness.trace_sets import save_traces


@pytest.fixture(scope="module")
def a_data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data_folder(tmp_path_factory.mktemp("data"))


def put_heads(data: Path, folder: Path, *names: str) -> None:
    (folder / "heads").mkdir()
    for name in names:
        shutil.copy(data / "heads" / "one_T1w.nii.gz", folder / "heads" / f"{name}_T1w.nii.gz")


def test_the_sources_are_split_by_subject(a_data_folder: Path) -> None:
    training, validation = find_sources(tiny(), a_data_folder)
    assert [source.subject for source in training] == ["one", "two"]
    assert [source.subject for source in validation] == ["three"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"sources": [{"glob": "none/*"}]}, "none"), ({"validation": ["four"]}, "'four'")],
)
def test_sources_that_are_not_there_are_refused(a_data_folder: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_sources(tiny(**changes), a_data_folder)


def test_a_subject_on_both_sides_is_refused() -> None:
    with pytest.raises(InputError, match="one is both"):
        assert_sources_disjoint([Source("a.nii", "one"), Source("b.nii", "two")], [Source("c.nii", "one")])


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("sub-01_ses-2_run-1_T1w.nii.gz", "sub-01"), ("sub-01_T1w.nii.gz", "sub-01"), ("sub-A1.nii", "sub-A1"),
        ("ds000011-11_T1w.nii.gz", "ds000011-11"), ("one.mha", "one"), ("subject-7_T1w.nrrd", "subject-7"),
    ],
)  # fmt: skip
def test_a_session_is_no_subject(name: str, subject: str) -> None:
    assert subject_of(name) == subject


def test_a_pattern_goes_into_the_folders_of_a_bids_dataset_whatever_it_is_called(
    a_data_folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "heads [2026]"
    for subject in ("sub-01", "sub-02"):
        (root / subject / "ses-1" / "anat").mkdir(parents=True)
        place = root / subject / "ses-1" / "anat" / f"{subject}_T1w.nii.gz"
        shutil.copy(a_data_folder / "heads" / "one_T1w.nii.gz", place)
    sources = [{"glob": "**/*_T1w.nii.gz"}]
    training, validation = find_sources(tiny(sources=sources, validation=["sub-01"]), root)
    assert [[source.subject for source in side] for side in (training, validation)] == [["sub-02"], ["sub-01"]]


def test_all_sessions_of_a_subject_are_on_one_side(a_data_folder: Path, tmp_path: Path) -> None:
    put_heads(a_data_folder, tmp_path, "sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1")
    training, validation = find_sources(tiny(validation=["sub-01"]), tmp_path)
    assert [len(sources) for sources in (training, validation)] == [1, 2]
    with pytest.raises(InputError, match="sub-01_ses-1"):
        find_sources(tiny(validation=["sub-01_ses-1"]), tmp_path)


def test_a_file_on_both_sides_is_refused_also_through_a_link(a_data_folder: Path, tmp_path: Path) -> None:
    file = a_data_folder / "heads" / "one_T1w.nii.gz"
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / "one_T1w.nii.gz").symlink_to(file)
    (tmp_path / "heads" / "alias_T1w.nii.gz").symlink_to(file)
    with pytest.raises(InputError, match="both in training and in validation"):
        find_sources(tiny(validation=["alias"]), tmp_path)


def test_no_trajectory_is_both_trained_on_and_validated_on(a_data_folder: Path) -> None:
    training, validation = caches(tiny(), a_data_folder, a_data_folder / "pairs")
    assert_other_motion(*([cache.facts(n)["motion"] for n in cache.ready(9)] for cache in (training, validation)))
    assert [len(cache.ready(9)) for cache in (training, validation)] == [3, 2]
    assert not {training.facts(i)["subject"] for i in range(3)} & {validation.facts(i)["subject"] for i in range(2)}


@pytest.mark.parametrize("kind", ["drift", "steps"])
def test_one_motion_is_known_again_at_another_size_and_number_of_lines(kind: str) -> None:
    shapes = [
        motion_shape(with_severity(preset(kind, lines, 7), severity)) for lines, severity in ((130, 1.0), (211, 3.0))
    ]
    with pytest.raises(AssertionError, match="a trajectory is both in training and in validation"):
        assert_other_motion(shapes[:1], shapes[1:])
    others = [motion_shape(preset(kind, 130, seed)) for seed in range(8, 30)]
    assert_other_motion([[], *others], [*shapes, []])


def test_a_motion_that_leaks_into_validation_stops_the_run(a_data_folder: Path, tmp_path: Path) -> None:
    """A pair of the training whose motion is found in validation, as when both were simulated with one seed."""
    pairs = tmp_path / "pairs"
    shutil.copytree(a_data_folder / "pairs", pairs)
    training, validation = caches(tiny(), a_data_folder, pairs)
    facts = [validation.facts(n) for n in validation.ready(2)]
    leaked = next(fact["motion"] for fact in facts if fact["motion"])
    file = training.folder / "00000.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "motion": leaked}))
    with pytest.raises(AssertionError, match="a trajectory is both in training and in validation"):
        train(tiny(), a_data_folder, tmp_path / "run", cache=pairs, hardware=Hardware("cpu"), workers=0)
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_a_recorded_run_under_two_names_is_not_both_trained_on_and_validated_on(
    a_data_folder: Path, tmp_path: Path
) -> None:
    """Held out is a person's name; a copy of one's traces under another name would undo it."""
    shutil.copytree(a_data_folder / "heads", tmp_path / "heads")
    save_traces(tmp_path / "traces" / "set.npz", runs=80)
    recipe = Recipe(presets={"recorded": 1.0}, max_voxels=3e4)
    configuration = tiny(traces="traces", recipe=recipe)
    caches(configuration, tmp_path, tmp_path / "pairs")
    one, other = (traces.runs[0][1] for traces in find_traces(configuration, tmp_path))
    with np.load(tmp_path / "traces" / "set.npz") as stored:
        rows = dict(stored)
    np.savez(tmp_path / "traces" / "set.npz", **{**rows, other: rows[one]})
    with pytest.raises(InputError, match=f"set/{one} and set/{other} are the same recorded motion"):
        caches(configuration, tmp_path, tmp_path / "pairs")


# Names


@pytest.mark.parametrize(
    ("names", "held_out", "person"),
    [
        (("OAS1_0001_MR1", "OAS1_0001_MR2", "x"), "OAS1_0001_MR1", "OAS1_0001"),
        (("0001-ses1", "0001-ses2", "x"), "0001-ses1", "0001"),
        (("P7_baseline", "P7_followup", "x"), "P7_baseline", "P7"),
        (("OAS1_0001_1", "OAS1_0001_2", "x"), "OAS1_0001_1", "OAS1_0001"), (("A_1", "A_1_scan2", "x"), "A_1", "A_1"),
    ],
)  # fmt: skip
def test_names_that_may_be_one_person_are_refused_on_two_sides(
    a_data_folder: Path, tmp_path: Path, names: tuple[str, ...], held_out: str, person: str
) -> None:
    put_heads(a_data_folder, tmp_path, *names)
    with pytest.raises(InputError, match=f"may be one person, {person}; give .* subject pattern"):
        find_sources(tiny(validation=[held_out]), tmp_path)
    find_sources(tiny(validation=["x"]), tmp_path)  # the split does not depend on it
    told = [{"glob": "heads/*.nii.gz", "subject": f"^({person}|[^_.]+)"}]
    training, validation = find_sources(tiny(sources=told, validation=[person]), tmp_path)
    assert [source.subject for source in validation] == [person] * 2 and len(training) == 1


def test_a_pattern_says_that_names_are_different_people(a_data_folder: Path, tmp_path: Path) -> None:
    put_heads(a_data_folder, tmp_path, "site_A_1", "site_A_2", "site_A_3")
    told = [{"glob": "heads/*.nii.gz", "subject": "(.+)_T1w"}]
    training, validation = find_sources(tiny(sources=told, validation=["site_A_1"]), tmp_path)
    assert (len(training), len(validation)) == (2, 1)
    told[0]["subject"] = "_([0-9]{4})_"
    with pytest.raises(InputError, match=r"site_A_1_T1w.nii.gz: the subject pattern .* finds nothing"):
        find_sources(tiny(sources=told), tmp_path)


def test_names_of_one_person_in_the_table_of_people_are_on_one_side(a_data_folder: Path, tmp_path: Path) -> None:
    put_heads(a_data_folder, tmp_path, "niivue-otsu", "niimath-1", "one")
    for held_out in ("niivue-otsu", "niimath-1"):
        configuration = tiny(validation=[held_out], people={"niimath-1": "niivue-otsu"})
        training, validation = find_sources(configuration, tmp_path)
        assert [source.subject for source in validation] == ["niivue-otsu"] * 2
        assert [source.subject for source in training] == ["one"]


@pytest.mark.parametrize(
    "path", [path for path in SHIPPED if "t1_brain" in path.read_text()], ids=lambda path: path.stem
)
def test_shipped_configurations_know_that_two_of_their_files_are_one_person(path: Path) -> None:
    assert read_section(CorrectorConfiguration, path).people == {"niimath-1": "niivue-otsu"}


def test_a_calibration_subject_may_not_be_a_training_subject_of_another_name(
    a_data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_heads(a_data_folder, tmp_path, "P7_MR1", "P7_MR2", "three")
    monkeypatch.setattr(severity, "pairs_configuration", lambda plan: tiny())
    plan = SeverityConfiguration(pairs_of="tiny", calibration=["P7_MR1"])
    with pytest.raises(InputError, match="may be one person, P7"):
        severity.pair_cache(plan, tmp_path, tmp_path / "pairs")
