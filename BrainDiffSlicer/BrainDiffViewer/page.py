"""What the page shows, and what happens when something is pressed: between trame's state and scene and jobs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trame_rca.module
from trame_server import Server
from trame_server.utils.asynchronous import create_task

from BrainDiffLogic import display
from BrainDiffLogic.correction import Finding
from BrainDiffLogic.errors import Cancelled, InputError
from BrainDiffLogic.files import resources
from BrainDiffLogic.images import read_volume
from BrainDiffLogic.models import checkpoints
from BrainDiffLogic.volume import Volume
from BrainDiffViewer.files import readable, write_results
from BrainDiffViewer.job import Job, Order, Result
from BrainDiffViewer.moments import MotionCurve, part_of_moment
from BrainDiffViewer.scene import VIEWS, Scene

FILES = resources() / "View"
PLOT = 100.0, 30.0
"""Width and height of the curve, in units of its picture."""


class Page:
    """One page, for one person.

    folder  where uploads and results lie
    limit   bytes that an upload may have
    """

    def __init__(self, server: Server, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._server, self._state = server, server.state
        self._path = self._given = Path()
        self._name = ""
        self._finding: Finding | None = None
        self._curve: MotionCurve | None = None
        self._job: Job | None = None
        self._writing = asyncio.Lock()
        server.enable_module(trame_rca.module)
        server.enable_module(
            {
                "serve": {"__braindiff": str(FILES)},
                "scripts": ["__braindiff/page.js"],
                "styles": ["__braindiff/page.css"],
            }
        )
        self._state.trame__title = "BrainDiff"
        self._state.trame__template_main = (FILES / "page.html").read_text(encoding="utf-8")
        self._state.update(_at_first(limit))
        self._scene = Scene(server, self._show_place)
        self._connect()

    def _connect(self) -> None:
        for name in ("plane", "strength", "offset", "window", "level", "model"):
            self._state.change(name)(getattr(self, f"_on_{name}"))
        for name in ("correct", "cancel", "worst", "moment", "step", "zoom", "pan", "fit"):
            self._server.controller.trigger(name)(getattr(self, name))

    # Volumes

    def open(self, path: Path, name: str, volume: Volume, corrected: str | None = None) -> None:
        """Show a volume before the page is there; with the path of a corrected one, compare both."""
        self._take(path, path, name, volume)
        if corrected:
            order = Order(str(path), self._name, None, corrected=corrected)
            self._server.controller.on_server_ready.add(lambda **_: self._start(order))

    async def open_upload(self, path: Path, name: str, unpack: Callable[[], Path]) -> None:
        """The same for a file that has come, without keeping the page waiting."""
        with self._state:
            self._state.busy, self._state.error = "Reading", ""
        try:
            place = await asyncio.to_thread(unpack)
            volume = await asyncio.to_thread(read_volume, place)
            self.cancel()
            self._job = None
            with self._state:
                self._state.running = False
                self._take(place, path, name, volume)
        finally:
            with self._state:
                self._state.busy = ""

    def _take(self, path: Path, given: Path, name: str, volume: Volume) -> None:
        """``given``: the file that came, of which ``path`` was unpacked."""
        self._path, self._given, self._name = path, given, Path(name).name
        self._scene.show(volume)
        low, high = self._scene.grey_range
        shape = " x ".join(str(size) for size in volume.shape)
        spacing = " x ".join(f"{size:.3g}" for size in volume.spacing)
        self._state.update({
            "loaded": True, "name": self._name, "about": f"{shape} voxels of {spacing} mm", "error": "",
            "notes": list(volume.notes), "low": low, "high": high,
            "half_window": f"{self._scene.half_window:.3g}",
        })  # fmt: skip
        self._forget()

    def _forget(self) -> None:
        """No correction any more."""
        self._finding, self._curve = None, None
        self._state.update({"corrected": False, "summary": "", "quality": [], "curve": "", "moments": [], "moment": -1})

    # The correction

    def correct(self) -> None:
        """Start to correct what is shown."""
        model = str(self._state.model)
        if self._state.loaded and self._job is None and model in checkpoints.available():
            self._start(Order(str(self._path), self._name, model, bool(self._state.force)))

    def cancel(self) -> None:
        """End the correction that runs."""
        if self._job is not None:
            self._job.cancel()

    def _start(self, order: Order) -> None:
        self._job = Job(order)
        with self._state:
            self._forget()
            self._scene.set_change(None, 1.0)
            verb = "Correcting" if order.model else "Comparing"
            self._state.update({"running": True, "share": 0.0, "stage": f"{verb}: starting", "error": "", "said": ""})
        create_task(self._finish(self._job))

    async def _finish(self, job: Job) -> None:
        try:
            result = await job.result(self._show_progress)
            if self._job is job:  # else another volume has come meanwhile
                with self._state:
                    self._show(result)
        except Cancelled:
            with self._state:
                self._state.said = "Cancelled; nothing was changed."
        except InputError as error:
            self.say_error(error)
        finally:
            if self._job is job:
                self._job = None
                with self._state:
                    self._state.running = False

    def _show_progress(self, share: float, stage: str) -> None:
        with self._state:
            self._state.share, self._state.stage = round(share, 3), stage

    def _show(self, result: Result) -> None:
        self._finding = result.finding
        report = result.finding.blended(1.0).report
        self._curve = MotionCurve.of(report.get("motion"))
        self._scene.set_change(result.finding.change, float(self._state.strength))
        self._state.update({
            "corrected": True, "summary": _summary(report), "said": "Done.",
            "notes": [*report["outside_domain"], *report["notes"]],
            "quality": _quality_rows(result.quality), **_curve_state(self._curve),
        })  # fmt: skip
        self.worst()

    async def results(self) -> Path | None:
        """A zip archive of what is shown, with its provenance; None where there is nothing."""
        if self._finding is None:
            return None
        correction = self._finding.blended(float(self._state.strength))
        async with self._writing:
            return await asyncio.to_thread(write_results, correction, self._given, self._name, self.folder)

    # What is seen

    def _show_place(self) -> None:
        with self._state:
            low, high, step = self._scene.offsets
            window, level = self._scene.window
            self._state.update({
                "offset": round(self._scene.offset, 3), "offset_low": low, "offset_high": high, "offset_step": step,
                "window": window, "level": level, "letters": self._scene.letters,
            })  # fmt: skip

    def _on_plane(self, plane: str, **_: Any) -> None:
        if self._state.loaded and plane in display.PLANES:
            self._scene.set_plane(plane)
            self._show_place()

    def _on_strength(self, strength: float, **_: Any) -> None:
        if self._finding is not None:
            self._scene.set_strength(min(max(float(strength), 0.0), 1.0))

    def _on_offset(self, offset: float, **_: Any) -> None:
        if self._state.loaded and not math.isclose(float(offset), self._scene.offset, abs_tol=1e-3):
            self._scene.set_offset(float(offset))

    def _on_window(self, window: float, **_: Any) -> None:
        if self._state.loaded and float(window) != self._scene.window[0]:
            self._scene.set_window(float(window), self._scene.window[1])

    def _on_level(self, level: float, **_: Any) -> None:
        if self._state.loaded and float(level) != self._scene.window[1]:
            self._scene.set_window(self._scene.window[0], float(level))

    def _on_model(self, model: str, **_: Any) -> None:
        self._state.card = _card_line(model)

    def step(self, count: int) -> None:
        """Scroll by slices."""
        if self._state.loaded:
            self._scene.step(int(count))

    def zoom(self, steps: int) -> None:
        """Enlarge or shrink."""
        self._scene.zoom(int(steps))

    def pan(self, right: int, up: int) -> None:
        """Move what is seen."""
        self._scene.pan(int(right), int(up))

    def fit(self) -> None:
        """Show whole slices again."""
        self._scene.fit()

    def worst(self) -> None:
        """Go to the slice that was changed most."""
        offset = self._scene.worst_offset()
        if offset is None:
            self._state.said = "Nothing was changed."
        else:
            self._scene.set_offset(offset)

    def moment(self, index: int) -> None:
        """Go to the slice where most was changed of what goes back to a moment of the scan."""
        if self._curve is None or self._finding is None:
            return
        moment = self._curve.moments[int(index)]
        part = part_of_moment(self._finding.change, self._finding.volume, self._curve.pe_axis, moment.line)
        offset = self._scene.worst_offset(part)
        self._state.moment = int(index)
        if offset is not None:
            self._scene.set_offset(offset)
            self._state.said = f"The slice that the lines at {moment.time:.0%} of the scan changed most."

    # Errors

    def say_error(self, error: Exception) -> None:
        """Show what was wrong."""
        with self._state:
            self._state.error = self.in_words(error)

    def in_words(self, error: Exception) -> str:
        """A message that names the person's file and no place of this machine."""
        text = str(error)
        for path in sorted(self.folder.rglob("*"), key=lambda one: -len(str(one))):
            text = text.replace(str(path), path.name)
        return text


def _at_first(limit: int) -> dict[str, Any]:
    """The state before anything is loaded."""
    names = sorted(checkpoints.available(), key=lambda name: (name != checkpoints.DEFAULT_MODEL, name))
    colors = display.difference_colors()[:: display.COLORS // 16]
    stops = ", ".join(f"rgb({', '.join(str(round(255 * part)) for part in color)})" for color in colors)
    return {
        "loaded": False, "name": "", "about": "", "error": "", "notes": [], "busy": "", "said": "",
        "sending": -1, "limit": limit, "limit_text": readable(limit),
        "views": [
            {"name": name, "caption": caption, "color": color}
            for name, caption, color in zip(VIEWS, display.CAPTIONS, display.VIEW_COLORS, strict=True)
        ],
        "planes": list(display.PLANES), "plane": display.PLANES[0],
        "offset": 0.0, "offset_low": 0.0, "offset_high": 1.0, "offset_step": 1.0, "letters": {},
        "window": 1.0, "level": 0.5, "low": 0.0, "high": 1.0, "half_window": "", "gradient": stops,
        "models": names, "model": checkpoints.DEFAULT_MODEL, "card": _card_line(checkpoints.DEFAULT_MODEL),
        "force": False,
        "running": False, "share": 0.0, "stage": "", "corrected": False, "summary": "",
        "strength": 1.0, "reveal": 0, "blinked": False,
        "quality_titles": list(display.QUALITY_TITLES), "quality_limit": display.QUALITY_LIMIT, "quality": [],
        "curve": "", "curve_top": "", "curve_axis": "", "moments": [], "moment": -1,
    }  # fmt: skip


def _card_line(model: str) -> str:
    """What the page says of a model, which it knows by name alone: a path would read files of the computer."""
    if model not in checkpoints.available():
        return f"There is no model {model!r}."
    try:
        card = checkpoints.read_card(checkpoints.find_checkpoint(model))
    except InputError as error:
        return str(error)
    limits = str(card.get("limits") or "").split(". ")[0].rstrip(".")
    return f"{card.get('title') or card['name']} {card['version']}; {checkpoints.headline(card)}. {limits}."


def _summary(report: dict[str, Any]) -> str:
    share = f"{100 * report['changed_share']:.1f} % of the head's intensity changed at strength 1"
    if "model" not in report:
        return share
    moved = report.get("severity_mm")
    shown = f"; the scan shows {moved:.1f} mm of motion" if moved is not None else ""
    return f"{share}{shown} ({report['model']} {report['model_version']}, {report['seconds']:.0f} s)"


def _quality_rows(quality: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": row.metric.name, "short": row.metric.key in display.SHORT and row.metric.name.split(" (")[0],
            "before": row.before, "after": row.after, "meaning": " ".join((row.metric.meaning, *row.reasons)),
            "verdict": display.verdict(row.before, row.after, row.metric.higher),
        }
        for row in display.quality_rows(quality)
    ]  # fmt: skip


def _curve_state(curve: MotionCurve | None) -> dict[str, Any]:
    """The curve as points of a picture of ``PLOT`` units, and its moments in words."""
    if curve is None:
        return {"curve": "", "moments": [], "moment": -1}
    width, height = PLOT
    top = max(float(curve.displacement.max()), 0.1)
    count = max(len(curve.displacement) - 1, 1)
    points = (f"{width * line / count:.2f},{height * (1 - mm / top):.2f}" for line, mm in enumerate(curve.displacement))
    moments = [
        {"x": width * one.time, "y": height * (1 - one.mm / top), "text": f"{one.mm:.1f} mm, {one.time:.0%}"}
        for one in curve.moments
    ]
    return {"curve": " ".join(points), "curve_top": f"{top:.1f} mm", "curve_axis": curve.pe_axis, "moments": moments}
