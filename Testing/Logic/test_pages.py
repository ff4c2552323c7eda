"""The pages, in a real browser without a network."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from BrainDiffLogic import correct
from BrainDiffLogic.cohort.table import PER_SCAN, QUALITY, outliers, write_page
from BrainDiffLogic.correction_files import write_correction
from Harness.command_line import braindiff

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
PICTURES = os.environ.get("BRAINDIFF_SCREENSHOTS")
POSES = [[0.1 * row, -0.2, 0.0, 0.3, 0.0, 0.05 * row] for row in range(20)]
in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """A function that opens a page; afterwards nothing was asked of a network and nothing went wrong."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: None if re.match("file:|data:", request.url) else wrong.append(request.url))

    def open_page(path: Path) -> Any:
        page.goto(path.as_uri())
        if PICTURES:
            page.screenshot(path=Path(PICTURES) / f"{path.stem}.png", full_page=True)
        return page

    yield open_page
    context.close()
    assert wrong == []


@pytest.fixture
def a_page(tmp_path: Path, a_scan: Path, own_models: None) -> Path:
    correction = correct(a_scan, force=True, disagreement=True)
    correction.report["motion"] = {"trajectory": POSES}
    page = tmp_path / "scan-page.html"
    write_correction(correction, tmp_path / "c.nii.gz", html=page, disagreement=tmp_path / "d.nii.gz")
    return page


def source_of(page: Any, image: str) -> str:
    return str(page.locator(f"#{image}").get_attribute("src"))


@in_a_browser
def test_the_page_of_a_scan_reveals_blinks_and_shows_differences_by_keyboard(opened: Any, a_page: Path) -> None:
    page = opened(a_page)
    assert page.locator("h1").inner_text() == "scan.nii.gz"
    original, corrected = source_of(page, "over"), source_of(page, "under")
    assert original != corrected and page.locator("#over").evaluate("image => image.naturalWidth") > 40
    page.keyboard.press("ArrowRight")
    assert page.locator("#over").evaluate("image => image.style.clipPath") == "inset(0px 45% 0px 0px)"
    page.keyboard.press("2")
    for word in ("corrected", "original", "corrected"):
        page.locator("#said", has_text=re.compile(f"^{word}$")).wait_for(timeout=5000)
    page.keyboard.press("3")
    assert page.locator("#said").inner_text() == "difference" and source_of(page, "under") not in (original, corrected)
    page.keyboard.press("4")
    assert page.locator("#said").inner_text() == "disagreement"
    page.keyboard.press("1")
    page.keyboard.press("ArrowUp")
    assert source_of(page, "over") != original
    page.keyboard.press("a")
    assert [page.locator(".mark").nth(side).inner_text() for side in range(4)] == ["R", "L", "A", "P"]
    assert page.locator("polyline").count() == 6 and page.locator("text=sha256").count() == 1
    dashes = page.locator("polyline").evaluate_all(
        "lines => lines.slice(0, 3).map(l => l.getAttribute('stroke-dasharray'))"
    )
    assert len(set(dashes)) == 3, "lines are told apart without colours"


@in_a_browser
def test_the_slider_alone_uncovers_what_lies_below(opened: Any, a_page: Path) -> None:
    page = opened(a_page)
    stage = page.locator("#stage")
    page.locator("#reveal").fill("0")
    whole_original = stage.screenshot()
    page.locator("#reveal").fill("100")
    assert stage.screenshot() != whole_original


def rows(count: int = 12) -> list[dict[str, Any]]:
    found = []
    for number in range(count):
        row = {**dict.fromkeys(PER_SCAN), "participant_id": f"sub-{number:02d}", "scan": f"sub-{number:02d}_T1w"}
        row |= {"status": "done", "severity_mm": number / 4, "changed_share": 0.01, "seconds": 9.0 + number}
        row |= {metric + when: 0.3 + 0.01 * number for metric in QUALITY for when in ("_before", "_after")}
        found.append(row)
    found[3] |= {"efc_after": 9.0}
    found[5] |= {"status": "failed", "reason": "<script>alert(1)</script>", "severity_mm": None}
    return found


def test_an_outlier_is_named_by_its_measure() -> None:
    assert outliers(rows()) == {"sub-03_T1w": ["efc_after"]}
    assert outliers(rows()[:6]) == {}, "too few scans to lie outside of"


def test_an_age_that_is_missing_is_no_point(tmp_path: Path) -> None:
    people = ["sub-00\tnan\tn/a", "sub-01\tNA\t", "sub-02\t31\ta", "sub-03\t33\tinf"]
    (tmp_path / "participants.tsv").write_text("\n".join(["participant_id\tage\tgroup", *people]) + "\n")
    text = write_page(tmp_path, rows(), tmp_path).read_text()
    places = [float(place) for place in re.findall(r'c[xy]="([^"]*)"', text)]
    assert len(places) == 8 and all(0 <= place <= 100 for place in places), "two ages, two groups"


def test_the_cohort_page_tells_scans_that_came_back_unchanged_from_corrected_ones(tmp_path: Path) -> None:
    found = rows()
    for row in found[:4]:
        row |= {"changed_share": 0.0, "gate": "returned unchanged"}
    found[4] |= {"outside_domain": "voxels of 3.02 mm along left-right: the model was trained on 0.6 to 2.0 mm"}
    found[5] |= {"reason": "sub-05/anat/a.nii: damaged", "input": "sub-05/anat/a.nii"}
    text = write_page(tmp_path, found, tmp_path).read_text()
    assert "12 scans: 11 done (7 changed, 4 returned unchanged), 1 not corrected" in text
    assert text.count("<td>returned unchanged</td>") == 4
    assert re.search(r'title="voxels of 3.02 mm along left-right[^"]*">outside of the model&#39;s domain</td>', text)
    assert ">damaged<" in text and "a.nii: damaged" not in text, "the row names the scan already"


@in_a_browser
def test_the_cohort_page_sorts_finds_and_names_what_stands_out(opened: Any, tmp_path: Path) -> None:
    people = [f"sub-{number:02d}\t{20 + number}\t{'patient' if number % 2 else 'control'}" for number in range(12)]
    (tmp_path / "participants.tsv").write_text("\n".join(["participant_id\tage\tgroup", *people]) + "\n")
    page = opened(write_page(tmp_path, rows(), tmp_path))
    first = page.locator("#scans tbody tr td:first-child").first
    assert first.inner_text() == "sub-00_T1w"
    heading = page.locator("#scans th", has_text="motion")
    heading.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    done = page.locator("#scans tbody tr:not(.missed) td:first-child").first
    assert done.inner_text() == "sub-11_T1w"
    page.locator("#find").fill("alert")
    assert page.locator("#scans tbody tr:visible").count() == 1
    assert page.locator("tr.missed").inner_text().count("<script>") == 1, "text of a scan is text"
    assert "efc_after" in page.locator("tr.odd").text_content()
    assert page.locator("figcaption", has_text="against").all_inner_texts() == [
        "Motion in mm against age", "Motion in mm against group"
    ]  # fmt: skip
    assert page.locator("svg circle").count() == 22


def test_pages_ask_for_nothing_and_a_page_replaces_no_file(tmp_path: Path, a_page: Path, a_scan: Path) -> None:
    text = a_page.read_text()
    assert not re.findall(r"""(?:src|href)=["']?(?!data:|#)[^"' >]+""", text) and "://" not in text
    assert str(tmp_path) not in text
    assert braindiff("correct", a_scan, tmp_path / "new.nii.gz", "--html", a_page) == 2
    assert a_page.read_text() == text and not (tmp_path / "new.nii.gz").exists()
