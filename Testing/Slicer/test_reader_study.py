"""The reader study: blinded, random but repeatable, by keys alone, resumable; its numbers and its page."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from panel_parts import add_head, nodes

PAIRS = 6


@pytest.fixture
def a_list(a_slicer, tmp_path) -> Path:
    """Six pairs as files: the corrected one is brighter by 1, so that a test can tell it."""
    import slicer

    rows = ["name,original,corrected"]
    for number in range(PAIRS):
        head = add_head("x")
        head_array = slicer.util.arrayFromVolume(head)
        for kind in ("original", "corrected"):
            head_array += 1 if kind == "corrected" else 0
            assert slicer.util.saveNode(head, str(tmp_path / f"{number}_{kind}.nrrd"), {})
        rows.append(f"case {number},{number}_original.nrrd,{number}_corrected.nrrd")
        slicer.mrmlScene.RemoveNode(head)
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(rows), encoding="utf-8-sig")
    return path


@pytest.fixture
def a_study_panel(a_panel, a_list):
    a_panel.ui.studyListEdit.currentPath = str(a_list)
    return a_panel


def press(*keys: str) -> None:
    import slicer

    from Harness.pythonqt import press_key

    window = slicer.util.mainWindow()
    window.show()
    window.activateWindow()
    slicer.app.processEvents()
    for key in keys:
        press_key(window, key)
        slicer.app.processEvents()


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def begin(panel, reader: str) -> None:
    panel.ui.studyReaderEdit.text = reader
    panel.ui.studyStartButton.click()


def shown() -> list:
    import slicer

    manager = slicer.app.layoutManager()
    logics = [manager.sliceWidget(name).sliceLogic() for name in manager.shown()]
    return [slicer.mrmlScene.GetNodeByID(each.GetSliceCompositeNode().GetBackgroundVolumeID()) for each in logics]


def walk(panel, reader: str, liked: str) -> None:
    """Rate all pairs by keys: the corrected image, which a test may know, is the better one where ``liked`` says so."""
    import slicer

    begin(panel, reader)
    for number in range(PAIRS):
        assert f"Pair {number + 1} of {PAIRS}" in panel.ui.studyMessageLabel.text
        left, right = (slicer.util.arrayFromVolume(volume).mean() for volume in shown())
        scores = ("2", "4") if (left < right) == (liked == "corrected") else ("4", "2")
        preference = "5" if scores == ("2", "4") else "1"
        press(*scores, *scores, "0", "0", preference)
    assert "All pairs are rated" in panel.ui.studyMessageLabel.text


def test_six_pairs_are_rated_by_two_readers_with_keys_alone(a_study_panel, a_list, monkeypatch):
    import slicer

    before, layout = nodes(), slicer.app.layoutManager().layout
    monkeypatch.setattr(slicer.app, "testing", True)  # no browser opens
    walk(a_study_panel, "anna", "corrected")
    walk(a_study_panel, "ben", "corrected")
    assert nodes() == before and slicer.app.layoutManager().layout == layout
    ratings, key = rows(a_list.parent / "ratings" / "anna.csv"), rows(a_list.parent / "key" / "anna.csv")
    assert len(ratings) == len(key) == PAIRS
    assert [row["left"] for row in key].count("corrected") == PAIRS // 2
    text = (a_list.parent / "ratings" / "anna.csv").read_text(encoding="utf-8")
    assert "case" not in text and "corrected" not in text  # the key is kept apart
    for row, known in zip(ratings, key, strict=True):
        assert row["preference"] == ("1" if known["left"] == "corrected" else "5")
    a_study_panel.ui.studyPageButton.click()
    page = (a_list.parent / "reader-study.html").read_text(encoding="utf-8")
    assert "2 readers (anna, ben), 6 pairs" in page
    assert "100% (61% to 100%)" in page  # Wilson's interval of six of six
    assert "+2.00 (+2.00 to +2.00)" in page and "1.00 (1.00 to 1.00)" in page


def test_names_and_files_are_not_seen_and_both_have_one_window(a_study_panel):
    begin(a_study_panel, "anna")
    left, right = shown()
    assert [left.GetName(), right.GetName()] == ["Left", "Right"]
    assert left.GetStorageNode() is None and right.GetStorageNode() is None
    looks = [(v.GetDisplayNode().GetWindow(), v.GetDisplayNode().GetLevel()) for v in (left, right)]
    assert looks[0] == looks[1]
    assert left.GetHideFromEditors() and not left.GetSaveWithScene()


def test_order_and_sides_are_random_but_the_readers_own(a_list, the_module):
    from BrainDiffSlicerLib.ReaderStudy import ReaderStudy

    def order(reader: str, seed: int) -> list[tuple[str, bool]]:
        return [(pair.name, pair.swapped) for pair in ReaderStudy(a_list, reader, seed).pairs]

    assert order("anna", 1) == order("anna", 1)
    assert order("anna", 1) != order("ben", 1)
    assert sorted(name for name, _swapped in order("ben", 1)) == [f"case {n}" for n in range(PAIRS)]


def test_a_reader_goes_on_where_he_stopped_and_an_unfinished_pair_is_asked_again(a_study_panel, a_list):
    begin(a_study_panel, "anna")
    press("3", "3", "3", "3", "1", "1", "3", "4", "4")  # the first pair, and two answers of the second
    press("Escape")
    assert "Paused" in a_study_panel.ui.studyMessageLabel.text and not a_study_panel.studyPanel.running
    press("3")  # no key works now
    assert len(rows(a_list.parent / "ratings" / "anna.csv")) == 1
    begin(a_study_panel, "anna")
    assert f"Pair 2 of {PAIRS}" in a_study_panel.ui.studyMessageLabel.text
    assert "LEFT" in a_study_panel.ui.studyMessageLabel.text


def test_an_answer_can_be_taken_back_and_only_the_scale_is_taken(a_study_panel, a_list):
    begin(a_study_panel, "anna")
    press("0")  # an artifact has no 0
    assert "LEFT image" in a_study_panel.ui.studyMessageLabel.text
    press("1", "Backspace", "5", "2", "3", "3", "0", "0", "3")
    (row,) = rows(a_list.parent / "ratings" / "anna.csv")
    assert [row["left_artifact"], row["right_artifact"], row["left_lesions"]] == ["5", "2", "0"]


def test_the_arrows_scroll_both_and_o_turns_both(a_study_panel):
    import slicer

    begin(a_study_panel, "anna")
    views = [slicer.app.layoutManager().sliceWidget(n).sliceLogic() for n in slicer.app.layoutManager().shown()]
    before = views[0].GetSliceOffset()
    press("Up", "Up")
    assert len({view.GetSliceOffset() for view in views}) == 1 and abs(views[0].GetSliceOffset() - before) > 3
    press("O")
    assert [view.GetSliceNode().GetOrientation() for view in views] == ["Axial", "Axial"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "needs the columns"),
        ("name,original\na,b\n", "needs the columns name, original, corrected"),
        ("name,original,corrected\na,none.nrrd,none.nrrd\n", "none.nrrd, which is not there"),
        ("name,original,corrected\na,pairs.csv,pairs.csv\na,pairs.csv,pairs.csv\n", "has a name twice"),
        (None, "cannot be read"),
    ],
)
def test_a_list_that_cannot_be_used_is_named_in_one_line(a_study_panel, a_list, text, reason):
    a_list.unlink() if text is None else a_list.write_text(text)
    begin(a_study_panel, "anna")
    message = a_study_panel.ui.studyMessageLabel.text
    assert reason in message and "pairs.csv" in message and "\n" not in message
    assert not a_study_panel.studyPanel.running and not (a_list.parent / "key").exists()


def test_another_list_or_seed_than_the_one_begun_with_is_refused(a_study_panel):
    begin(a_study_panel, "anna")
    press("Escape")
    a_study_panel.ui.studySeedSpinBox.value = 77
    begin(a_study_panel, "anna")
    assert "another than that with which anna began" in a_study_panel.ui.studyMessageLabel.text


@pytest.mark.parametrize("name", ["", "../x", "a/b"])
def test_a_reader_without_a_usable_name_is_asked_for_one(a_study_panel, name):
    begin(a_study_panel, name)
    assert "name" in a_study_panel.ui.studyMessageLabel.text and not a_study_panel.studyPanel.running


def test_a_closed_scene_ends_it(a_study_panel):
    import slicer

    begin(a_study_panel, "anna")
    slicer.mrmlScene.Clear(0)
    assert not a_study_panel.studyPanel.running and nodes() == set()


def test_a_file_that_is_no_volume_is_a_message(a_study_panel, a_list):
    for file in a_list.parent.glob("*.nrrd"):
        file.write_bytes(b"none")
    begin(a_study_panel, "anna")
    assert a_study_panel.ui.studyMessageLabel.text and not a_study_panel.studyPanel.running


def test_images_of_different_grids_are_no_pair(a_study_panel, a_list):
    import slicer

    for number in range(PAIRS):
        head = add_head("turned", "oblique")
        assert slicer.util.saveNode(head, str(a_list.parent / f"{number}_corrected.nrrd"), {})
        slicer.mrmlScene.RemoveNode(head)
    before = nodes()
    begin(a_study_panel, "anna")
    assert "different grids" in a_study_panel.ui.studyMessageLabel.text and nodes() == before


def test_kappa_is_that_of_the_textbook(the_module):
    from BrainDiffSlicerLib.ReaderAgreement import weighted_kappa, wilson

    first, second = np.array([1, 2, 3, 4, 5, 1, 2, 3, 4, 5]), np.array([1, 2, 3, 4, 5, 2, 3, 4, 5, 4])
    # by hand: 1 - mean squared difference / (both variances + squared difference of the means)
    expected = 1 - 0.5 / (first.var() + second.var() + (first.mean() - second.mean()) ** 2)
    assert weighted_kappa(first, second) == pytest.approx(expected)
    assert weighted_kappa(first, first) == 1 and weighted_kappa(first, 6 - first) < 0
    assert np.isnan(weighted_kappa(np.full(4, 3), np.full(4, 3)))
    assert wilson(8, 10)[1:] == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Newcombe 1998, method 3
    assert wilson(0, 10).low == 0 and np.isnan(wilson(0, 0).value)


def test_one_reader_has_no_agreement_but_a_preference(a_list, the_module):
    from BrainDiffSlicerLib.ReaderAgreement import ReaderAgreement
    from BrainDiffSlicerLib.ReaderStudy import ReaderStudy
    from BrainDiffSlicerLib.ReaderStudyPage import ReaderStudyPage

    study = ReaderStudy(a_list, "<svg onload=x>", 1)
    for _pair in range(2):
        for value in (3, 3, 3, 3, 0, 0, 3):
            assert study.answer(value)
    html = ReaderStudyPage(ReaderAgreement(a_list.parent)).html()
    assert "needs a second reader" in html
    assert html.count("&lt;svg onload=x&gt;") == 4 and "<svg onload" not in html, "a name is no markup"
    assert "cannot be told" in html and "Lesion" not in html
    (a_list.parent / "key" / "<svg onload=x>.csv").unlink()
    with pytest.raises(ValueError, match="key of this reader is missing"):
        ReaderAgreement(a_list.parent)


@pytest.mark.parametrize(
    ("edited", "old", "new"),
    [
        ("key", "trial,name,left", "number,name,left"),
        ("key", "1,case", "one,case"),
        ("key", ",corrected", ",right"),
        ("key", "trial,name,left", "\0"),
        ("ratings", "preference", "preferred"),
        ("ratings", "1,3,3", "1,3,three"),
        ("ratings", "1,3,3", "\udcff"),
    ],
)
def test_a_file_that_was_edited_by_hand_is_named_in_one_line(a_study_panel, a_list, edited, old, new):
    begin(a_study_panel, "anna")
    press(*"3333114")
    press("Escape")
    file = a_list.parent / edited / "anna.csv"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8", errors="surrogateescape")
    a_study_panel.ui.studyPageButton.click()
    said = a_study_panel.ui.studyMessageLabel.text
    assert str(file) in said and "not as the study wrote it" in said and "\n" not in said
    assert not (a_list.parent / "reader-study.html").exists()


def test_a_key_that_is_no_text_is_another_than_the_one_begun_with(a_study_panel, a_list):
    begin(a_study_panel, "anna")
    press("Escape")
    (a_list.parent / "key" / "anna.csv").write_bytes(b"\xff\xfe")
    begin(a_study_panel, "anna")
    assert "is another than that with which anna began" in a_study_panel.ui.studyMessageLabel.text
