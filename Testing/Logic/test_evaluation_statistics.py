"""The statistics of an evaluation: the subject is the unit, few subjects are said to be few, harm is counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from BrainDiffLogic.evaluation.report import sections
from BrainDiffLogic.evaluation.run import MEASURED, REFERENCE, REFUSED
from BrainDiffLogic.evaluation.statistics import (
    SEVERITY_GROUPS,
    Summary,
    bootstrap_interval,
    in_severity_group,
    is_worse,
    strata,
    summarise,
    wilcoxon,
)
from BrainDiffLogic.metrics.measures import MEASURES
from BrainDiffLogic.motion import PRESETS, preset, stratum, with_severity

NUMBERS = st.lists(st.floats(-10, 10).filter(lambda value: abs(value) > 1e-3), min_size=6, max_size=12, unique=True)


def a_row(name: str, method: str, mre: float, subject: str = "", **changes: Any) -> dict[str, Any]:
    numbers = dict.fromkeys(MEASURES, 0.5)
    known = {"name": name, "subject": subject or name, "method": method, "status": MEASURED, "note": ""}
    return {**known, **numbers, "mre": mre, **changes}


def before_and_after(*pairs: tuple[str, float, float], **changes: Any) -> list[dict[str, Any]]:
    """Rows of doing nothing and of a corrector for (subject, MRE before, MRE after), one volume each."""
    rows = []
    for number, (subject, before, after) in enumerate(pairs):
        rows.append(a_row(f"v{number}", "do nothing", before, subject, **changes))
        rows.append(a_row(f"v{number}", "corrector", after, subject, **changes))
    return rows


def summary_of(rows: list[dict[str, Any]], method: str = "corrector", stratum: str = "all") -> Summary:
    (found,) = (s for s in summarise(rows) if s.method == method and s.stratum.value == stratum)
    return found


def test_a_subject_with_many_volumes_counts_once() -> None:
    rows = before_and_after(("a", 0.2, 0.1), ("a", 0.2, 0.1), ("a", 0.2, 0.1), ("b", 0.4, 0.5))
    found = summary_of(rows)
    assert (found.subjects, found.volumes) == (2, 4)
    assert found.values["mre"].mean == pytest.approx(0.3)
    assert found.changes["mre"].mean == pytest.approx(0)
    assert (found.worse_volumes, found.worse_subjects) == (0.25, 0.5)


def test_a_subject_is_worse_when_the_mean_over_its_volumes_is() -> None:
    rows = before_and_after(("a", 0.2, 0.21), ("a", 0.2, 0.15), ("b", 0.2, 0.3), ("b", 0.2, 0.15))
    found = summary_of(rows)
    assert (found.worse_volumes, found.worse_subjects) == (0.5, 0.5)


def test_a_refused_volume_counts_as_refused_and_in_no_mean_before_or_after() -> None:
    rows = before_and_after(("a", 0.2, 0.1), ("b", 0.9, 0.9))
    rows[3] = {"name": "v1", "subject": "b", "method": "corrector", "status": REFUSED, "note": "5 mm slices"}
    found = summary_of(rows)
    assert (found.refused, found.volumes, found.values["mre"].mean) == (1, 1, 0.1)
    assert found.changes["mre"].mean == pytest.approx(-0.1)


def test_volumes_without_motion_are_not_called_worse() -> None:
    rows = before_and_after(("a", 0.0, 0.01), severity_mm="0")
    assert summary_of(rows).worse_volumes is None
    assert summary_of(rows, stratum="still").values["mre"].mean == 0.01


def test_the_psnr_of_a_still_scan_counts_among_still_scans_alone() -> None:
    rows = before_and_after(("a", 0.0, 0.01), ("a", 0.2, 0.1))
    for row, psnr, severity in zip(rows, (100.0, 60.0, 24.0, 25.0), ("0", "0", "2", "2"), strict=True):
        row |= {"psnr": psnr, "severity_mm": severity}
    assert summary_of(rows).values["psnr"].mean == 25.0
    assert summary_of(rows).changes["psnr"].mean == 1.0
    assert summary_of(rows, stratum="still").values["psnr"].mean == 60.0
    assert summary_of(rows).values["mre"].mean == pytest.approx(0.055)


def test_a_gain_in_ssim_that_costs_sharpness_is_flagged_as_smoothing() -> None:
    for ssim, sharpness, flags in ((0.7, 0.6, ("smoothing",)), (0.7, 0.9, ()), (0.4, 0.9, ("SSIM fell",))):
        rows = before_and_after(("a", 0.2, 0.1))
        rows[0] |= {"ssim": 0.5, "tenengrad_ratio": 0.8}
        rows[1] |= {"ssim": ssim, "tenengrad_ratio": sharpness}
        assert summary_of(rows).flags == flags


def test_a_number_that_cannot_be_had_is_left_out_of_its_mean() -> None:
    rows = before_and_after(("a", 0.2, 0.1), ("b", 0.2, 0.1))
    rows[1]["fber"] = None
    found = summary_of(rows)
    assert found.values["fber"].mean == 0.5 and found.subjects == 2
    assert np.isnan(summary_of(rows[:2]).values["fber"].mean)


def test_six_subjects_that_agree_have_the_exact_p_of_2_in_64_and_five_have_none() -> None:
    assert wilcoxon([-0.1, -0.2, -0.3, -0.4, -0.5, -0.6]) == pytest.approx(2 / 64)
    assert np.isnan(wilcoxon([-0.1, -0.2, -0.3, -0.4, -0.5]))
    assert np.isnan(wilcoxon([0.0] * 20))


@settings(max_examples=15)
@given(changes=NUMBERS)
def test_the_test_is_two_sided(changes: list[float]) -> None:
    assert wilcoxon(changes) == pytest.approx(wilcoxon([-change for change in changes]))
    assert 0 < wilcoxon(changes) <= 1


@settings(max_examples=8)
@given(values=NUMBERS, shift=st.floats(-5, 5))
def test_the_interval_holds_the_mean_moves_with_the_values_and_is_repeatable(values: list[float], shift: float) -> None:
    low, high = bootstrap_interval(values)
    assert low <= np.mean(values) <= high
    moved = bootstrap_interval([value + shift for value in values])
    assert moved == pytest.approx((low + shift, high + shift), abs=0.05 * (high - low))  # ranks of ties may turn
    assert bootstrap_interval(values) == (low, high)


def test_the_interval_of_many_subjects_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(5).normal(3, 2, 200)
    half = 1.96 * values.std() / np.sqrt(200)
    assert bootstrap_interval(values) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_of_one_subject_there_is_no_interval_and_of_equal_ones_it_is_the_value() -> None:
    assert np.isnan(bootstrap_interval([0.3])).all()
    assert bootstrap_interval([0.3, 0.3, 0.3]) == (0.3, 0.3)


def test_worse_is_by_any_amount() -> None:
    assert is_worse(0.1001, 0.1) and not is_worse(0.1, 0.1) and not is_worse(0.0999, 0.1)


@settings(max_examples=40)
@given(severity=st.floats(0, 10))
@example(severity=1.0)
@example(severity=4.0)
def test_a_severity_lies_in_one_stratum(severity: float) -> None:
    groups = [group for group in SEVERITY_GROUPS if in_severity_group(severity, group)]
    assert len(set(groups) - {"below 1", "1-4", "above 1"}) == 1
    assert ("1-4" in groups) == (1 <= severity < 4)
    assert ("above 1" in groups) == (severity >= 1)
    assert severity == 0 or ("below 1" in groups) != ("above 1" in groups)


@pytest.mark.parametrize("limit", [0.5, 1.0, 2.0, 4.0])
def test_motion_scaled_to_a_limit_lies_above_it(limit: float) -> None:
    for kind in PRESETS:
        severity = with_severity(preset(kind, 64, 3), limit).severity
        assert stratum(severity) == stratum(limit), f"{kind}: {severity!r}"
        assert in_severity_group(severity, "above 1") == (limit >= 1)


def test_pairs_are_grouped_by_the_facts_in_which_they_differ() -> None:
    rows = before_and_after(("a", 0.2, 0.1), ("b", 0.2, 0.1), scanner="X", pe_axis="AP", severity_mm="2.5")
    rows[2]["pe_axis"] = rows[3]["pe_axis"] = "SI"
    found = {(stratum.by, stratum.value): len(stratum.names) for stratum in strata(rows)}
    everybody = {("all", "all"): 2, ("severity_mm", "2-4"): 2, ("severity_mm", "1-4"): 2, ("severity_mm", "above 1"): 2}
    assert found == {**everybody, ("pe_axis", "AP"): 1, ("pe_axis", "SI"): 1}


def test_a_fact_that_only_some_pairs_have_makes_a_stratum() -> None:
    rows = before_and_after(("a", 0.2, 0.1), ("b", 0.2, 0.1))
    rows[0]["group"] = rows[1]["group"] = "nods"
    assert ("group", "nods") in [(stratum.by, stratum.value) for stratum in strata(rows)]


def test_the_tables_of_few_subjects_say_that_they_are_few() -> None:
    still = {"name": "v0", "subject": "a", "method": REFERENCE, "status": REFERENCE, "note": "", "aes": 0.7}
    (section,) = sections(summarise([*before_and_after(("a", 0.2, 0.1), ("b", 0.2, 0.15)), still]))
    quality, changes, alone = section.tables
    assert "2 subjects: n is small" in quality.notes[0] and "n too small for a test" in changes.notes[0]
    assert [line[0].text for line in quality.lines] == ["do nothing", "corrector"]
    assert [line[0].text for line in alone.lines][-1] == "the still scans themselves"
    (enough,) = sections(summarise(before_and_after(*((str(n), 0.2, 0.1 + n / 100) for n in range(6)))))
    mre = [column.title for column in enough.tables[1].columns].index("MRE")
    assert enough.tables[1].notes == [] and enough.tables[1].lines[0][mre + 1].text == "0.031"
