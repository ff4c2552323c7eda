"""The page in a real browser, from the upload to the download, on a real head with motion."""

from __future__ import annotations

import http.client
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pytest
from page_driver import CORRECTION_MS, correct, serious_faults, upload, value
from PIL import Image

from BrainDiffLogic import read_volume, write_volume
from BrainDiffLogic.commands.demo import find_head, simulated, with_air_above
from BrainDiffLogic.correction_files import correct_file
from BrainDiffLogic.files import file_digest
from Harness.dicom import save_mr_series

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

GIGABYTE, MEGABYTE_IN_GB = 10**9, 0.001
CONTROLS = {
    "file", "correct", "download", "offset", "window", "level", "fit", "strength", "reveal", "blink", "worst",
    "all", "pane", "moment",
}  # fmt: skip
ENOUGH_TABS = 60
SHOWN = {
    "error": "An error, for its colours", "curve": "0,0 100,30", "curve_top": "1.0 mm", "curve_axis": "SI",
    "moments": [{"x": 0, "y": 0, "text": "1.0 mm, 0%"}],
}  # fmt: skip
"""What a page may show besides, for its colours and names."""


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
    short, long = page.locator("#short tbody tr"), page.locator(".quality details th")
    assert (short.count(), long.count(), long.first.is_visible()) == (3, 11, False)
    assert short.first.inner_text().split("\t")[0] == "Sharpness"
    page.focus("#all")
    page.keyboard.press("Enter")
    assert long.first.is_visible()

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
@pytest.mark.parametrize("kind", [".nrrd", ".mgz", ".zip"])
def test_other_files_give_what_braindiff_correct_gives(
    start_viewer: Callable, open_page: Callable, a_small_head: Path, tmp_path: Path, kind: str
) -> None:
    head, source = read_volume(a_small_head), tmp_path / "series"
    if kind == ".zip":
        files = save_mr_series(source, np.maximum(head.array, 0).round().astype(np.uint16), head.affine)
        with zipfile.ZipFile(tmp_path / "head.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, f"export/{file.name}")
    else:
        source = tmp_path / f"head{kind}"
        write_volume(head, source)
    page = open_page(start_viewer().url)
    upload(page, tmp_path / f"head{kind}")
    correct(page)
    here = saved(page, tmp_path)
    there = tmp_path / f"there{'.nii.gz' if kind == '.zip' else kind}"
    correct_file(source, there)
    np.testing.assert_array_equal(here[0], read_volume(there).array)
    assert here[2]["input_sha256"] == file_digest(tmp_path / f"head{kind}"), "of what was sent"


@pytest.mark.slow
def test_wheel_and_drags_move_all_views(start_viewer: Callable, open_page: Callable, a_small_head: Path) -> None:
    page = open_page(start_viewer(a_small_head, a_small_head).url)
    page.wait_for_selector("#download", timeout=CORRECTION_MS)
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
    page.wait_for_selector("#download", timeout=CORRECTION_MS)
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
    assert second.request.get(second.url + "results.zip").status == 404
    second.click("#correct")
    for page, source, plane in ((first, a_small_head, "Sagittal"), (second, other, "Axial")):
        page.wait_for_selector("#download", timeout=CORRECTION_MS)
        assert (value(page, "name"), value(page, "plane")) == (source.name, plane)
        corrected, difference, report = saved(page, tmp_path)
        own = read_volume(source).array
        np.testing.assert_allclose(corrected - difference, own, atol=1e-4 * own.max())
        assert report["input"] == source.name


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
    assert sent_past_the_page(page.url, [bytes(2**16)] * 100) == 413
    noise = read_volume(a_small_head)
    odd = tmp_path / "noise.nii.gz"
    write_volume(noise.with_array(np.random.default_rng(0).random(noise.shape).astype(np.float32)), odd)
    upload(page, odd)
    page.click("#correct")
    page.wait_for_selector("[role=alert]")
    assert page.inner_text("[role=alert]").startswith("noise.nii.gz: ")


def sent_past_the_page(url: str, pieces: Iterable[bytes], **headers: str) -> int:
    """The status of an upload as the page would not send it: without its length, or with that of ``headers``."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    all_headers = {"Origin": f"http://{parts.netloc}", "X-File-Name": "large.nii", **headers}
    connection.request("POST", parts.path + "upload", body=pieces, headers=all_headers, encode_chunked=not headers)
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_file_of_more_than_a_gigabyte_is_refused(
    start_viewer: Callable, open_page: Callable, tmp_path: Path
) -> None:
    page = open_page(start_viewer().url)
    large = tmp_path / "large.nii"
    with large.open("wb") as file:
        file.truncate(GIGABYTE + 1)  # a hole: it takes no room on the disk
    page.set_input_files("#file", large)
    page.wait_for_selector("[role=alert] >> text=larger than the 1 GB that this page takes")
    assert sent_past_the_page(page.url, [bytes(2**16)], **{"Content-Length": str(GIGABYTE + 1)}) == 413
    assert value(page, "loaded") is False


def test_who_has_no_token_is_told_so(start_viewer: Callable, a_browser: Browser) -> None:
    context = a_browser.new_context()
    page = context.new_page()
    for address in ("/", "/?token=wrong"):
        answer = page.goto(start_viewer().origin + address)
        assert answer is not None and answer.status == 403
        assert "open the address that the command printed" in page.inner_text("body")
    context.close()


@pytest.mark.slow
def test_a_correction_is_cancelled(start_viewer: Callable, open_page: Callable, a_small_head: Path) -> None:
    page = open_page(start_viewer(a_small_head).url)
    page.select_option("select", "motion")  # takes minutes
    page.focus("#correct")
    page.keyboard.press("Enter")
    page.wait_for_function("() => window.trame.state.state.share > 0.02")
    assert page.evaluate("document.activeElement.id") == "cancel", "the keyboard stays where it was"
    page.keyboard.press("Enter")
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
    page.wait_for_selector("#download", timeout=CORRECTION_MS)
    assert value(page, "plane") == "Coronal"
    assert panes(page)[0].std() > 20


@pytest.mark.slow
@pytest.mark.skipif("BRAINDIFF_SCREENSHOTS" not in os.environ, reason="draws the documentation's pictures")
def test_the_pictures_of_the_documentation(start_viewer: Callable, open_page: Callable, tmp_path: Path) -> None:
    moved = tmp_path / "motion.nii.gz"
    write_volume(simulated(with_air_above(read_volume(find_head()))).moved, moved)
    page = open_page(start_viewer(moved).url)
    correct(page)
    page.fill("#reveal", "50")
    for name, width, height in (("view", 1280, 800), ("view-narrow", 800, 960)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(2000)
        assert panes(page)[0].std() > 20
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        fewer = shot.point([value & 0xFC | value >> 6 for value in range(256)] * 3)  # half the size
        fewer.save(Path(os.environ["BRAINDIFF_SCREENSHOTS"]) / f"{name}.png", optimize=True)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 800])
def test_the_page_is_accessible(start_viewer: Callable, open_page: Callable, a_small_head: Path, width: int) -> None:
    viewer = start_viewer(a_small_head, a_small_head)
    page = open_page(viewer.url, width, 900)
    page.wait_for_selector("#download", timeout=CORRECTION_MS)
    page.evaluate("state => Object.entries(state).forEach((pair) => window.trame.state.set(...pair))", SHOWN)
    page.wait_for_selector("[role=alert]")
    page.click("#all")
    assert not serious_faults(page)
    assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing sticks out to the side"

    reached: set[str] = set()
    for _ in range(ENOUGH_TABS):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert reached >= CONTROLS
    page.focus("#strength")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("() => window.trame.state.state.strength === 0.99")


def test_the_empty_page_is_accessible(start_viewer: Callable, open_page: Callable) -> None:
    assert not serious_faults(open_page(start_viewer().url))
