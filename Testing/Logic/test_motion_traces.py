"""Recorded traces: files as each tool writes them, and every way in which they can be wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.motion.traces import TraceSet, read_trajectory, trace_notes, write_trajectory
from BrainDiffLogic.motion.trajectory import Trajectory, rotation_matrices
from Harness.trace_sets import save_traces

FINITE = st.floats(-1e3, 1e3, allow_subnormal=False)
ROWS = st.integers(2, 12).flatmap(lambda n: arrays(float, (n, 6), elements=FINITE))


def a_file(folder, name: str, text: str):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def rows_of(trajectory: Trajectory) -> np.ndarray:
    return np.hstack([trajectory.translations, trajectory.rotations])


@given(ROWS, st.none() | arrays(float, 3, elements=FINITE), st.none() | st.floats(1, 600))
def test_what_is_written_is_read_back_to_the_last_bit(tmp_path_factory, rows, centre, seconds):
    path = tmp_path_factory.mktemp("trace") / "trace.csv"
    write_trajectory(Trajectory(rows[:, :3], rows[:, 3:], centre), path, seconds)
    again = read_trajectory(path)
    assert np.array_equal(rows_of(again), rows)
    assert (again.centre is None) if centre is None else np.array_equal(again.centre, centre)


def test_a_written_trace_names_its_columns_with_units(tmp_path):
    path = tmp_path / "trace.csv"
    write_trajectory(Trajectory(np.zeros((2, 3)), np.ones((2, 3)), np.array([1, 2, 3])), path, seconds=4)
    header, first, _ = path.read_text().splitlines()
    assert header == "time_s,tx_mm,ty_mm,tz_mm,rx_deg,ry_deg,rz_deg,cx_mm,cy_mm,cz_mm"
    assert first == "1.0,0.0,0.0,0.0,1.0,1.0,1.0,1.0,2.0,3.0"


def test_csv_columns_come_in_any_order_in_radians_and_beside_others(tmp_path):
    lines = [
        "\ufeff# tracker 7",
        "rz_rad,RX_RAD,ry_deg,note,tx_mm,tz_mm, ty_mm",
        "0.1,0.2,3,ok,1,3,2",
        "",
        "0,0,0,?,0,0,0",
    ]
    rows = rows_of(read_trajectory(a_file(tmp_path, "t.CSV", "\r\n".join(lines))))
    np.testing.assert_allclose(rows[0], [1, 2, 3, np.rad2deg(0.2), 3, np.rad2deg(0.1)])
    assert not rows[1].any()


def test_quoted_numbers_and_names_are_read(tmp_path):
    names = '"tx_mm", "ty_mm","tz_mm","rx_deg","ry_deg","rz_deg","note","note"\n'
    text = names + '"1","2", "3",4,"5.5","-6","a, b",""\n' * 2
    np.testing.assert_allclose(rows_of(read_trajectory(a_file(tmp_path, "t.csv", text)))[1], [1, 2, 3, 4, 5.5, -6])


@pytest.mark.parametrize(("name", "text"), [("mc.par", "{} 0 0 0 0 0\n"), ("rp_a.txt", "0 0 0 0 {} 0\n")])
def test_rotations_that_may_be_degrees_get_a_note(tmp_path, name, text):
    for angle, noted in ((0.4, False), (0.6, True), (-0.6, True)):
        path = a_file(tmp_path, name, text.format(angle) + text.format(0))
        assert [("radians were assumed" in note) for note in trace_notes(path, read_trajectory(path))] == [True] * noted
    path = a_file(tmp_path, "a.csv", HEADER + "0,0,0,40,0,0\n" * 2)
    assert trace_notes(path, read_trajectory(path)) == (), "a table that names its units"


def test_uneven_times_are_resampled_to_even_ones(tmp_path):
    head = "time_s,tx_mm,ty_mm,tz_mm,rx_deg,ry_deg,rz_deg\n"
    even = read_trajectory(a_file(tmp_path, "even.csv", head + "0,0,0,0,0,0,0\n1,5,0,0,1,0,0\n2,4,0,0,4,0,0\n"))
    np.testing.assert_allclose(even.translations[:, 0], [0, 5, 4])
    uneven = read_trajectory(a_file(tmp_path, "uneven.csv", head + "0,0,0,0,0,0,0\n3,3,0,0,6,0,0\n4,4,0,0,8,0,0\n"))
    np.testing.assert_allclose(uneven.translations[:, 0], [0, 2, 4])
    np.testing.assert_allclose(uneven.rotations[:, 0], [0, 4, 8])


def left_handed(axis: int, angle: float) -> np.ndarray:
    """FSL's make_rot, and spm_matrix for x and z."""
    a, b = [(1, 2), (2, 0), (0, 1)][axis]
    turn = np.eye(3)
    turn[a, a] = turn[b, b] = np.cos(angle)
    turn[a, b], turn[b, a] = np.sin(angle), -np.sin(angle)
    return turn


def assert_inverse(trajectory: Trajectory, turn: np.ndarray, shift: np.ndarray, axes: np.ndarray) -> None:
    """The first pose undoes x -> turn x + shift, written in the frame whose axes are the rows of ``axes``."""
    point = np.array([10.0, 50.0, -30.0])  # where some tissue is in the reference, RAS mm from the centre
    moved = rotation_matrices(trajectory.rotations)[0] @ point + trajectory.translations[0]
    np.testing.assert_allclose(axes.T @ (turn @ (axes @ moved) + shift), point, atol=1e-9)


def test_fsl_par_is_undone_in_fsl_axes(tmp_path):
    """Frame L, A, S; x -> Rx Ry Rz x + t (miscmaths)."""
    angles, shift = (0.11, -0.07, 0.05), np.array([1.5, -2.5, 0.75])
    line = "  ".join(f"{value:.9g}" for value in (*angles, *shift))
    trajectory = read_trajectory(a_file(tmp_path, "mc.par", f"{line}  \n0 0 0 0 0 0\n"))
    turn = left_handed(0, angles[0]) @ left_handed(1, angles[1]) @ left_handed(2, angles[2])
    assert_inverse(trajectory, turn, shift, np.diag([-1, 1, 1]))


def test_spm_rp_is_undone_in_ras(tmp_path):
    """x -> Rx Ry Rz x + t with spm_matrix's signs, which turn about y the other way."""
    angles, shift = (0.11, -0.07, 0.05), np.array([1.5, -2.5, 0.75])
    line = "  ".join(f"{value: .7e}" for value in (*shift, *angles))
    trajectory = read_trajectory(a_file(tmp_path, "rp_bold.txt", f"{line}\n 0 0 0 0 0 0\n"))
    turn = left_handed(0, angles[0]) @ left_handed(1, -angles[1]) @ left_handed(2, angles[2])
    assert_inverse(trajectory, turn, shift, np.eye(3))


def test_afni_1d_is_undone_in_afni_axes(tmp_path):
    """Frame L, P, S, right-handed turns: -rotate <roll>I <pitch>R <yaw>A -ashift <dS>S <dL>L <dP>P."""
    roll, pitch, yaw = 4.0, -6.0, 3.0
    text = f"# 3dvolreg -1Dfile\n {roll} {pitch} {yaw} 1.5 -2.5 0.75\n0 0 0 0 0 0\n"
    trajectory = read_trajectory(a_file(tmp_path, "motion.1D", text))
    roll, pitch, yaw = np.deg2rad([roll, pitch, yaw])
    turn = left_handed(2, -roll) @ left_handed(0, -pitch) @ left_handed(1, -yaw)
    assert_inverse(trajectory, turn, np.array([-2.5, 0.75, 1.5]), np.diag([-1, -1, 1]))


TABLE = """
  mc.par     0.01 0 0  0 0 0     +pitch
  mc.par     0 0.01 0  0 0 0     -roll
  mc.par     0 0 0.01  0 0 0     -yaw
  mc.par     0 0 0  1 0 0        +R
  mc.par     0 0 0  0 1 0        -A
  rp_a.txt   0 0 0  0.01 0 0     +pitch
  rp_a.txt   0 0 0  0 0.01 0     -roll
  rp_a.txt   0 0 0  0 0 0.01     +yaw
  rp_a.txt   1 0 0  0 0 0        -R
  dfile.1D   1 0 0  0 0 0        -yaw
  dfile.1D   0 1 0  0 0 0        +pitch
  dfile.1D   0 0 1  0 0 0        +roll
  dfile.1D   0 0 0  1 0 0        -S
  dfile.1D   0 0 0  0 1 0        +R
  dfile.1D   0 0 0  0 0 1        +A
"""


@pytest.mark.parametrize("case", TABLE.strip().splitlines())
def test_each_column_moves_the_head_as_the_table_says(tmp_path, case):
    name, *columns, direction = case.split()
    path = a_file(tmp_path, name, " ".join(columns) + "\n" + "0 " * 6 + "\n")
    row = rows_of(read_trajectory(path))[0]
    place = ["R", "A", "S", "pitch", "roll", "yaw"].index(direction[1:])
    assert np.flatnonzero(np.abs(row) > 1e-9).tolist() == [place]
    assert np.sign(row[place]) == (1 if direction[0] == "+" else -1)


ROW = "0 0 0 0 0 0\n"
HEADER = "tx_mm,ty_mm,tz_mm,rx_deg,ry_deg,rz_deg\n"
CSV_ROW = "0,0,0,0,0,0\n"
BAD = {
    "wrong columns": ("a.par", ROW + "0 0 0 0 0\n", "line 2: 5 columns, expected 6: rx_rad"),
    "words": ("a.par", ROW + "0 0 zero 0 0 0\n", "line 2: rz_rad is 'zero', not a number"),
    "nan": ("rp_a.txt", ROW + ROW + "0 0 nan 0 0 0\n", "line 3: z is nan"),
    "infinite": ("a.1D", "# x\n" + ROW + "0 0 inf 0 0 0\n", "line 3: yaw is inf"),
    "degrees for radians": ("a.par", ROW + "12 0 0 0 0 0\n", "line 2: rx_rad is 12.*degrees"),
    "degrees for radians, SPM": ("rp_a.txt", ROW + "0 0 0 0 9 0\n", "line 2: ry_rad is 9"),
    "empty": ("a.par", "", "0 poses"),
    "only comments": ("a.1D", "# nothing\n\n", "0 poses"),
    "one row": ("a.1D", ROW, "1 poses.*at least 2"),
    "another .txt": ("motion.txt", ROW + ROW, "rp_\\*.txt"),
    "unknown extension": ("a.mat", ROW + ROW, "'.mat' are unknown; use .csv"),
    "no extension": ("trace", ROW + ROW, "'none' are unknown"),
    "csv with semicolons": (
        "a.csv",
        HEADER.replace(",", ";") + CSV_ROW.replace(",", ";") * 2,
        "line 1: .*semicolons; save it with commas",
    ),
    "csv with semicolons and quotes": ("a.csv", '"tx_mm";"ty_mm"\n"0,1";"2"\n"0,1";"2"\n', "line 1: .*semicolons"),
    "csv with tabs": ("a.csv", HEADER.replace(",", "\t") + CSV_ROW.replace(",", "\t") * 2, "line 1: .*tabs"),
    "csv in degrees and radians": (
        "a.csv",
        HEADER.replace("\n", ",rx_rad\n") + CSV_ROW.replace("\n", ",0\n") * 2,
        "line 1: both rx_deg and rx_rad",
    ),
    "csv with a column twice": (
        "a.csv",
        HEADER.replace("\n", ",TX_mm\n") + CSV_ROW.replace("\n", ",5\n") * 2,
        "line 1: 2 columns are called tx_mm",
    ),
    "csv with times twice": (
        "a.csv",
        "time_s,time_s," + HEADER + "0,0," + CSV_ROW + "1,1," + CSV_ROW,
        "line 1: 2 columns are called time_s",
    ),
    "csv empty": ("a.csv", "", "0 poses"),
    "csv without names": ("a.csv", CSV_ROW * 3, "line 1: no column tx_mm; name the columns"),
    "csv without units": ("a.csv", HEADER.replace("_mm", "") + CSV_ROW * 2, "no column tx_mm"),
    "csv without a rotation": ("a.csv", "tx_mm,ty_mm,tz_mm\n0,0,0\n0,0,0\n", "no column rx_deg"),
    "csv with a short line": ("a.csv", HEADER + CSV_ROW + "0,0\n", "line 3: 2 columns but 6 names"),
    "csv with a hole": ("a.csv", HEADER + CSV_ROW + "0,0,,0,0,0\n", "line 3: tz_mm is '', not a number"),
    "csv back in time": (
        "a.csv",
        "time_s," + HEADER + "0," + CSV_ROW + "0," + CSV_ROW,
        "time_s does not grow",
    ),
    "csv with two centres": (
        "a.csv",
        "cx_mm,cy_mm,cz_mm," + HEADER + "0,0,0," + CSV_ROW + "1,0,0," + CSV_ROW,
        "centre changes",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_trace_gets_one_line_that_names_the_file(tmp_path, case):
    name, text, message = BAD[case]
    path = a_file(tmp_path, name, text)
    with pytest.raises(InputError, match=message) as error:
        read_trajectory(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_missing_folders_and_binary_files_get_one_line(tmp_path):
    (tmp_path / "binary.par").write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        read_trajectory(tmp_path / "binary.par")
    with pytest.raises(InputError, match="cannot be read"):
        read_trajectory(tmp_path / "missing.csv")
    trajectory = Trajectory(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(InputError, match="cannot be written"):
        write_trajectory(trajectory, tmp_path / "nowhere" / "trace.csv")
    with pytest.raises(InputError, match="ends in .csv"):
        write_trajectory(trajectory, tmp_path / "trace.par")


# Sets of recorded runs


def test_a_drawn_trace_is_what_mcflirt_recorded(tmp_path):
    """The same numbers as a .par of the same run, at the times of its frames."""
    rows = np.random.default_rng(0).integers(-2000, 2000, (101, 6)).astype(np.int16)
    np.savez(tmp_path / "lab.npz", **{"sub-1_run-1": rows})
    a_file(tmp_path, "lab_index.tsv", "key\tframes\ttr_s\nsub-1_run-1\t101\t2.0\n")
    trajectory, name = TraceSet(tmp_path).draw(np.random.default_rng(1), 101, seconds=200)
    text = "\n".join(" ".join(f"{value:.9g}" for value in (*row[3:] * 1e-5, *row[:3] * 1e-3)) for row in rows * 1.0)
    expected = read_trajectory(a_file(tmp_path, "same.par", text))
    assert name == "lab/sub-1_run-1"
    np.testing.assert_allclose(trajectory.translations, expected.translations, atol=1e-9)
    np.testing.assert_allclose(trajectory.rotations, expected.rotations, atol=1e-6)
    assert trajectory.centre is None


def a_ramp(folder, frames: int, tr: float):
    """A head that slides 10 micrometres a frame to the right."""
    rows = np.zeros((frames, 6), np.int16)
    rows[:, 0] = 10 * np.arange(frames)
    np.savez(folder / "ramp.npz", **{"sub-1_x": rows})
    a_file(folder, "ramp_index.tsv", f"key\tframes\ttr_s\nsub-1_x\t{frames}\t{tr}\n")
    return folder / "ramp.npz"


def test_a_longer_recording_is_cut_to_the_scan_and_a_shorter_one_stretched(tmp_path):
    longer = a_ramp(tmp_path, 601, 1.0)
    starts = set()
    for seed in range(5):
        slide = TraceSet(longer).draw(np.random.default_rng(seed), 50, seconds=300)[0].translations[:, 0]
        assert np.ptp(slide) == pytest.approx(3.0)  # 300 frames of 10 micrometres
        starts.add(round(float(slide[0]), 3))
    assert len(starts) > 1
    shorter = a_ramp(tmp_path, 101, 1.0)
    slide = TraceSet(shorter).draw(np.random.default_rng(0), 50, seconds=300)[0].translations[:, 0]
    assert np.ptp(slide) == pytest.approx(1.0) and len(slide) == 50


def test_traces_are_drawn_from_the_people_who_are_asked_for(tmp_path):
    save_traces(tmp_path / "one.npz", runs=6)
    save_traces(tmp_path / "two.npz", runs=4)
    assert TraceSet(tmp_path).people == ["one/sub-01", "one/sub-02", "one/sub-03", "two/sub-01", "two/sub-02"]
    rng = np.random.default_rng(0)
    names = {TraceSet(tmp_path, ["one/sub-02", "two/sub-02"]).draw(rng, 20)[1] for _ in range(40)}
    assert names == {f"{person}_run-{run}" for person in ("one/sub-02", "two/sub-02") for run in (1, 2)}
    everybody = TraceSet(tmp_path)
    assert {everybody.draw(rng, 20)[1] for _ in range(150)} == set(everybody.runs)
    same = [TraceSet(tmp_path / "one.npz").draw(np.random.default_rng(3), 20) for _ in range(2)]
    assert same[0][1] == same[1][1] and np.array_equal(same[0][0].translations, same[1][0].translations)


INDEX = "key\tframes\ttr_s\n"
BAD_SETS = {
    "no index": ({}, "lab_index.tsv: cannot be read.*lab.npz needs its index"),
    "no column": ({"lab_index.tsv": "key\tframes\nsub-01_run-1\t9\n"}, "needs a key and tr_s, a number"),
    "word for a time": ({"lab_index.tsv": INDEX + "sub-01_run-1\t9\tslow\n"}, "needs a key and tr_s, a number"),
    "no time": ({"lab_index.tsv": INDEX + "sub-01_run-1\t9\t0\n"}, "tr_s above 0"),
    "nothing in it": ({"lab_index.tsv": INDEX}, "there must be one"),
    "another run": ({"lab_index.tsv": INDEX + "sub-99\t9\t2\n"}, "no run sub-99, which its index names"),
    "not an npz": ({"lab_index.tsv": INDEX + "a\t9\t2\n", "lab.npz": "words"}, "cannot be read as .npz"),
}


@pytest.mark.parametrize("case", BAD_SETS)
def test_a_bad_set_of_traces_gets_one_line_that_names_the_file(tmp_path, case):
    texts, message = BAD_SETS[case]
    save_traces(tmp_path / "lab.npz", runs=2)
    (tmp_path / "lab_index.tsv").unlink()
    for name, text in texts.items():
        a_file(tmp_path, name, text)
    with pytest.raises(InputError, match=message) as error:
        TraceSet(tmp_path).draw(np.random.default_rng(0), 20)
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)


def test_folders_without_sets_rows_that_are_none_and_strangers_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    for path in (tmp_path, tmp_path / "none", tmp_path / "none.npz"):
        with pytest.raises(InputError, match="give a .npz, or a folder that holds some"):
            TraceSet(path).draw(rng, 20)
    save_traces(tmp_path / "lab.npz")
    for people, words in ((["lab/sub-77"], "no traces of lab/sub-77"), ([], "no traces of nobody")):
        with pytest.raises(InputError, match=words):
            TraceSet(tmp_path, people).draw(rng, 20)
    np.savez(tmp_path / "lab.npz", **{f"sub-0{n}_run-{m}": np.zeros((9, 5), np.int16) for n in (1, 2) for m in (1, 2)})
    with pytest.raises(InputError, match="expected integers \\(frames >= 2, 6\\)"):
        TraceSet(tmp_path).draw(rng, 20)


@pytest.mark.shared
def test_the_shared_traces_have_the_ranges_that_their_index_says(shared_data):
    traces = TraceSet(shared_data / "traces")
    assert len(traces.runs) == 1642 and len(traces.people) == 381
    for line in (shared_data / "traces" / "haxby2001_pymvpa_index.tsv").read_text().splitlines()[1:]:
        key, frames, tr, *_, range_mm, range_deg, _ = line.split("\t")
        file, name, seconds = traces.runs[f"haxby2001_pymvpa/{key}"]
        rows = np.load(file)[name]
        assert (len(rows), seconds) == (int(frames), float(tr))
        spread = np.ptp(rows.astype(float), axis=0)
        assert spread[:3].max() * 1e-3 == pytest.approx(float(range_mm), abs=0.01)
        assert np.rad2deg(spread[3:].max() * 1e-5) == pytest.approx(float(range_deg), abs=0.02)
