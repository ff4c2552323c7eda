"""The nod preset changes a scan as much as the nods of MR-ART did."""

from __future__ import annotations

import pytest
from nod_calibration import (
    HEADS,
    NODS,
    STILL,
    is_inside,
    load_head,
    markdown,
    measure,
    read_scans,
    real_changes,
    still_median,
    with_noise_of,
)


def test_subjects_are_joined_by_name_and_incomplete_ones_left_out():
    metrics = {"cjv": 1.0, "efc": 1.0, "snr_total": 2.0}
    twice = {name: 2 * value for name, value in metrics.items()}
    scans = {
        "1": {STILL: metrics, "headmotion2": twice},
        "2": {STILL: twice, "headmotion1": metrics, "headmotion2": twice},
        "3": {"headmotion1": metrics},
    }
    changes = real_changes(scans)
    assert changes["headmotion1", "cjv"] == [0.5]
    assert changes["headmotion2", "snr_total"] == [2.0, 1.0]


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_nod_presets_changes_lie_inside_the_quartiles_of_real_nods(shared_data):
    scans = read_scans(shared_data / "mr_art" / "mriqc_group_T1w.tsv")
    real, quiet = real_changes(scans), still_median(scans, "efc")
    assert {name: len(real[name, "cjv"]) for name in NODS} == {"headmotion1": 141, "headmotion2": 147}
    paths = [shared_data / "t1_head" / f"{name}_T1w.nii.gz" for name in HEADS]
    column = measure([with_noise_of(load_head(path), quiet) for path in paths], 1.0, "preset")[0]
    outside = [key for key in real if not is_inside(column.changes, real, key)]
    assert not outside, markdown(real, [column])
