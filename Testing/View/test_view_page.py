"""The page in a real browser, from the upload to the download, on a real head with motion."""

from __future__ import annotations

import http.client
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pytest
from page_driver import correct, upload, value
from PIL import Image

from BrainDiffLogic import read_volume, write_volume
from BrainDiffLogic.commands.demo import find_head, simulated, with_air_above
from BrainDiffLogic.correction_files import correct_file
from BrainDiffLogic.files import file_digest

if TYPE_CHECKING:
    from playwright.sync_api import Page

MEGABYTE_IN_GB = 0.001
CONTROLS = {
    "file", "correct", "download", "offset", "window", "level", "fit", "strength", "reveal", "blink", "worst",
}  # fmt: skip
ENOUGH_TABS = 60


def panes(page: Page) -> list[np.ndarray]:
    """(rows, columns, 3) what the three views show on the screen, without the letters at their edges."""
    page.wait_for_timeout(700)  # the last, sharp picture
    shots = [Image.open(io.BytesIO(pane.screenshot())).convert("RGB") for pane in page.locator(".pane").all()]
    return [np.asarray(shot, dtype=np.int16)[40:-60, 40:-40] for shot in shots]


def saved(page: Page, folder: Path) -> tuple[np.ndarray, np.ndarray, dict]:
    """Corrected volume, difference and report of the archive that the page gives."""
    with page.expect_download() as waiting:
        page.click("#download")
    waiting.value.save_as(folder / "results.zip")
    with zipfile.ZipFile(folder / "results.zip") as archive:
        archive.extractall(folder)
        names = {name.split("_")[-1].split(".")[0]: folder / name for name in archive.namelist()}
    report = json.loads(names["report"].read_text())
    return read_volume(names["corrected"]).array, read_volume(names["difference"]).array, report


def test_a_head_is_shown_in_three_views(start_viewer: Callable, open_page: Callable, a_small_head: Path) -> None:
    page = open_page(start_viewer(a_small_head).url)
    page.wait_for_selector(".pane img, .pane canvas")
    original, corrected, _ = panes(page)
    assert original.std() > 20
    assert (original.max(axis=-1) - original.min(axis=-1)).mean() < 5, "grey"
    assert corrected.std() < original.std() / 2, "veiled"
    assert value(page, "letters") == {"left": "A", "right": "P", "top": "S", "bottom": "I"}
    page.locator(".pane").first.focus()
    before = float(value(page, "offset"))
    page.keyboard.press("ArrowUp")
    page.wait_for_function("before => window.trame.state.state.offset !== before", arg=before)
    assert float(value(page, "offset")) == pytest.approx(before + 2)
    assert np.abs(panes(page)[0] - original).mean() > 1


@pytest.mark.slow
def test_upload_correct_blend_jump_and_take_away(
    start_viewer: Callable, open_page: Callable, a_small_head: Path, tmp_path: Path
) -> None:
    page = open_page(start_viewer().url)
    upload(page, a_small_head)
    correct(page)
    original, corrected, difference = panes(page)
    assert np.abs(original - corrected).mean() > 1
    assert (difference.max(axis=-1) - difference.min(axis=-1)).mean() > 10, "coloured"
    assert len(page.locator(".quality tbody tr").all()) == 11

    page.keyboard.press("b")
    np.testing.assert_allclose(panes(page)[1], original, atol=40)
    assert page.inner_text("figcaption >> nth=1").strip() == "Original"
    page.keyboard.press("b")
    page.fill("#reveal", "50")
    middle = panes(page)[1]
    half = middle.shape[1] // 2
    assert np.abs(middle[:, : half - 5] - original[:, : half - 5]).mean() < 1
    assert np.abs(middle[:, half + 5 :] - corrected[:, half + 5 :]).mean() < 1
    page.fill("#reveal", "0")

    worst = value(page, "offset")
    page.fill("#offset", "-40")
    page.wait_for_function("() => Math.abs(window.trame.state.state.offset + 40) < 2")
    page.click("#worst")
    page.wait_for_function("worst => window.trame.state.state.offset === worst", arg=worst)

    page.fill("#strength", "0.5")
    page.wait_for_timeout(500)
    weaker = panes(page)[1]
    assert 0.3 < np.abs(weaker - original).mean() / np.abs(corrected - original).mean() < 0.7

    here = saved(page, tmp_path)
    there = tmp_path / "there.nii.gz", tmp_path / "there_difference.nii.gz", tmp_path / "there.json"
    correct_file(a_small_head, there[0], difference=there[1], report=there[2], strength=0.5)
    for mine, theirs in zip(here[:2], there[:2], strict=True):
        np.testing.assert_array_equal(mine, read_volume(theirs).array)
    report = json.loads(there[2].read_text())
    for name in ("model", "model_sha256", "strength", "quality", "changed_share", "software"):
        assert here[2][name] == report[name]
    assert (here[2]["input"], here[2]["input_sha256"]) == (a_small_head.name, file_digest(a_small_head))


@pytest.mark.slow
def test_wheel_and_drags_move_all_views(start_viewer: Callable, open_page: Callable, a_small_head: Path) -> None:
    page = open_page(start_viewer(a_small_head, a_small_head).url)
    page.wait_for_selector("#download")
    box = page.locator(".pane").nth(1).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    start, (offset, window) = panes(page), (value(page, "offset"), value(page, "window"))
    page.mouse.wheel(0, -120)
    page.wait_for_function("before => window.trame.state.state.offset !== before", arg=offset)
    scrolled = panes(page)
    for button in ("left", "right", "middle"):
        before = panes(page)
        page.mouse.move(x, y)
        page.mouse.down(button=button)
        page.mouse.move(x + 40, y + 40, steps=8)
        page.mouse.up(button=button)
        after = panes(page)
        assert np.abs(after[0] - before[0]).mean() > 1, button
        assert np.abs(after[0] - after[1]).mean() < 1, f"{button}: linked, and both show the same volume"
    assert value(page, "window") != window
    assert np.abs(scrolled[0] - start[0]).mean() > 1
    page.get_by_label("Axial").check()
    page.wait_for_function("() => window.trame.state.state.letters.top === 'A'")
    assert value(page, "letters") == {"left": "R", "right": "L", "top": "A", "bottom": "P"}


@pytest.mark.slow
def test_the_motion_is_drawn_and_its_moments_lead_to_slices(
    start_viewer: Callable, open_page: Callable, a_small_head: Path, tmp_path: Path
) -> None:
    page = open_page(start_viewer(a_small_head).url)
    page.select_option("select", "motion")
    page.wait_for_function("() => window.trame.state.state.card.startsWith('BrainDiff motion')")
    page.click("#correct")
    page.wait_for_selector("#download", timeout=900_000)
    moments = page.locator("button.moment").all()
    assert moments
    assert len(page.locator("svg polyline").get_attribute("points").split()) == read_volume(a_small_head).shape[2]
    moments[0].click()
    page.wait_for_selector("text=of the scan changed most")
    assert moments[0].get_attribute("aria-pressed") == "true"
    report = saved(page, tmp_path)[2]
    largest = report["motion"]["largest_displacement_mm"]
    assert value(page, "curve_top") == f"{largest:.1f} mm"


@pytest.mark.slow
def test_two_people_do_not_see_each_other(
    start_viewer: Callable, open_page: Callable, a_small_head: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.nrrd"
    volume = read_volume(a_small_head)
    write_volume(volume.with_array(volume.array[::-1].copy()), other)
    viewer = start_viewer()
    first, second = open_page(viewer.url), open_page(viewer.url)
    assert first.url != second.url
    upload(first, a_small_head)
    assert value(second, "loaded") is False
    upload(second, other)
    first.click("#correct")
    second.get_by_label("Axial").check()
    first.wait_for_selector("#download")
    assert [value(page, "name") for page in (first, second)] == [a_small_head.name, other.name]
    assert [value(page, "plane") for page in (first, second)] == ["Sagittal", "Axial"]
    assert value(second, "corrected") is False
    assert second.request.get(second.url + "results.zip").status == 404
    assert first.request.get(first.url + "results.zip").status == 200


@pytest.mark.slow
def test_what_is_wrong_is_said_in_the_page(
    start_viewer: Callable, open_page: Callable, a_small_head: Path, tmp_path: Path
) -> None:
    page = open_page(start_viewer("--upload-limit", 5 * MEGABYTE_IN_GB).url)
    upload(page, a_small_head)
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no volume")
    page.set_input_files("#file", bad)
    assert "bad.nii.gz: this is no NIfTI file" in page.inner_text("[role=alert]")
    assert str(tmp_path.anchor) + "tmp" not in page.inner_text("[role=alert]")
    assert value(page, "name") == a_small_head.name, "what was shown before is still shown"
    page.click("[role=alert] button")
    large = tmp_path / "large.nii"
    large.write_bytes(bytes(6 * 10**6))
    page.set_input_files("#file", large)
    assert "larger than the 5 MB" in page.inner_text("[role=alert]")
    assert sent_past_the_page(page.url, large.read_bytes()) == 413
    noise = read_volume(a_small_head)
    odd = tmp_path / "noise.nii.gz"
    write_volume(noise.with_array(np.random.default_rng(0).random(noise.shape).astype(np.float32)), odd)
    upload(page, odd)
    page.click("#correct")
    page.wait_for_selector("[role=alert]")
    assert page.inner_text("[role=alert]").startswith("noise.nii.gz: ")


def sent_past_the_page(url: str, content: bytes) -> int:
    """The status of an upload that says nothing of its length, as the page would not send it."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    headers = {"Origin": f"http://{parts.netloc}", "X-File-Name": "large.nii"}
    pieces = (content[start : start + 2**16] for start in range(0, len(content), 2**16))
    connection.request("POST", parts.path + "upload", body=pieces, headers=headers, encode_chunked=True)
    try:
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.slow
def test_a_correction_is_cancelled(start_viewer: Callable, open_page: Callable, a_small_head: Path) -> None:
    page = open_page(start_viewer(a_small_head).url)
    page.select_option("select", "motion")  # takes minutes
    page.click("#correct")
    page.wait_for_function("() => window.trame.state.state.share > 0.02")
    page.click("#cancel")
    page.wait_for_selector("text=Cancelled; nothing was changed.", timeout=5000)
    assert page.locator("#download").count() == 0
    page.select_option("select", "mc-net")
    correct(page)


@pytest.mark.slow
def test_the_page_may_be_loaded_again_in_the_middle(
    start_viewer: Callable, open_page: Callable, a_small_head: Path
) -> None:
    page = open_page(start_viewer(a_small_head).url)
    page.get_by_label("Coronal").check()
    page.click("#correct")
    page.wait_for_function("() => window.trame.state.state.share > 0")
    page.reload()
    page.wait_for_selector("#cancel, #download")
    page.wait_for_selector("#download")
    assert value(page, "plane") == "Coronal"
    assert panes(page)[0].std() > 20


@pytest.mark.slow
@pytest.mark.skipif("BRAINDIFF_SCREENSHOTS" not in os.environ, reason="draws the documentation's picture")
def test_the_picture_of_the_documentation(start_viewer: Callable, open_page: Callable, tmp_path: Path) -> None:
    clean = with_air_above(read_volume(find_head()))
    moved = tmp_path / "motion.nii.gz"
    write_volume(simulated(clean).moved, moved)
    page = open_page(start_viewer(moved).url)
    correct(page)
    page.fill("#offset", "0")
    page.fill("#reveal", "50")
    assert panes(page)[0].std() > 20
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    shot.save(Path(os.environ["BRAINDIFF_SCREENSHOTS"]) / "view.jpg", quality=88, subsampling=0)
    page.set_viewport_size({"width": 800, "height": 1000})
    page.wait_for_timeout(2000)
    page.screenshot(path=tmp_path / "narrow.png")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 800])
def test_the_page_is_accessible(start_viewer: Callable, open_page: Callable, a_small_head: Path, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(start_viewer(a_small_head, a_small_head).url, width, 900)
    page.wait_for_selector("#download")
    page.evaluate("window.trame.state.set('error', 'An error, for its colours')")
    page.wait_for_selector("[role=alert]")
    found = axe.run(page).response["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert not serious, json.dumps([(one["id"], [node["html"] for node in one["nodes"]]) for one in serious], indent=1)

    reached: set[str] = set()
    for _ in range(ENOUGH_TABS):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert reached >= CONTROLS
    assert "pane" in reached
    page.focus("#strength")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("() => window.trame.state.state.strength === 0.99")
