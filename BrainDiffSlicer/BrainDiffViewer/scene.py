"""Three volumes in an MRML scene, seen in three linked slice views: Slicer's, drawn where nobody sees them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import vtk
from trame_slicer.core import SlicerApp
from trame_slicer.rca_view import register_rca_factories
from trame_slicer.views import SliceView, ViewLayoutDefinition, ViewProps, ViewType
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from BrainDiffLogic import display
from BrainDiffLogic.volume import Volume, blend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trame_server import Server

VIEWS = tuple(f"BrainDiff{caption}" for caption in display.CAPTIONS)
"""Names of the views, and of the areas of the page that show them."""
GROUP = 1
ZOOM_STEP, PAN_STEP = 0.2, 0.1
"""Shares of the field of view."""
FRAMES_PER_SECOND = 30
QUALITY = 90
"""Of the JPEG of what is seen, moving or still."""
LETTERS = (("R", "L"), ("A", "P"), ("S", "I"))


class Scene:
    """What the three views show. Arrays are in KJI order, as MRML has them.

    onMoved  called without arguments when the user has scrolled, zoomed, or changed window or level
    """

    def __init__(self, server: Server, on_moved: Callable[[], None]) -> None:
        vtk.vtkObject.GlobalWarningDisplayOff()  # there is no display, it says, and more of the kind
        self._app = SlicerApp()
        self._on_moved = on_moved
        self._plane = display.PLANES[0]
        self._nodes: tuple[Any, ...] = ()
        self._linked: tuple[Any, ...] = ()
        self._original: np.ndarray | None = None
        self._change: np.ndarray | None = None
        self._table = self._difference_table()
        self._linking = self._copying = False
        register_rca_factories(
            self._app.view_manager, server, slice_view_ui_f=_no_widgets, target_fps=FRAMES_PER_SECOND,
            blur_fps=FRAMES_PER_SECOND, interactive_quality=QUALITY,
        )  # fmt: skip
        self.views = [self._make_view(*pair) for pair in zip(VIEWS, display.VIEW_COLORS, strict=True)]
        self._app.view_manager.set_current_view_ids(list(VIEWS))
        self.views[0].get_view_node().AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._moved())
        self._adjust_window_on_drag()

    # Views

    def _make_view(self, name: str, color: str) -> SliceView:
        properties = ViewProps(orientation=self._plane, color=color, group=GROUP, background_color="#000000")
        view = self._app.view_manager.create_view(ViewLayoutDefinition(name, ViewType.SLICE_VIEW, properties))
        view.render_window().SetMultiSamples(0)  # takes longer than all the rest where there is no graphics card
        composite = view._logic.GetSliceCompositeNode()
        composite.SetLinkedControl(True)
        composite.SetHotLinkedControl(True)
        if name != VIEWS[2]:  # on its white ground a ruler is not seen
            view.set_ruler(slicer.vtkMRMLAbstractViewNode.RulerTypeThin)
        view.interactor().AddObserver(vtk.vtkCommand.WindowResizeEvent, lambda *_: self.fit(view))
        return view

    def _adjust_window_on_drag(self) -> None:
        interaction = self._app.app_logic.GetInteractionNode()
        interaction.SetCurrentInteractionMode(slicer.vtkMRMLInteractionNode.AdjustWindowLevel)

    def _moved(self) -> None:
        if self._nodes and not self._linking:
            self._on_moved()

    def fit(self, *views: SliceView) -> None:
        """Show the whole slice in these views; without views, in all."""
        if not self._nodes:
            return
        with self._quiet():
            for view in views or self.views:
                offset = view.get_slice_value()
                view.fit_view_to_content()  # goes to the middle slice, too
                view.set_slice_value(offset)
                view.schedule_render()

    def draw(self) -> None:
        """Draw all views anew."""
        for view in self.views:
            view.schedule_render()

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        before, self._linking = self._linking, True
        try:
            yield
        finally:
            self._linking = before

    # Volumes

    def show(self, volume: Volume) -> None:
        """Show a volume alone, in place of what was there; the difference of nothing is white."""
        with self._quiet():
            self._clear()
            self._original = np.ascontiguousarray(volume.array.T, dtype=np.float32)
            self._change = None
            arrays = (self._original, self._original, np.zeros_like(self._original))
            self._nodes = tuple(
                self._add_node(name, array, volume.affine) for name, array in zip(display.CAPTIONS, arrays, strict=True)
            )
            self._show_difference_colors()
            self._link_window()
            for view, node in zip(self.views, self._nodes, strict=True):
                view.set_background_volume_id(node.GetID())
            self.set_plane(self._plane)
        self._on_moved()

    def set_change(self, change: np.ndarray | None, strength: float) -> None:
        """Blend with ``change`` (I, J, K), what to add at strength 1, from now on; None: with nothing."""
        self._change = None if change is None else np.ascontiguousarray(change.T, dtype=np.float32)
        self.set_strength(strength)

    def set_strength(self, strength: float) -> None:
        """Show the correction at a strength from 0 to 1."""
        if self._original is None:
            return
        if self._change is None:
            corrected, difference = self._original, np.zeros_like(self._original)
        else:
            corrected, difference = blend(self._original, self._change, strength)
        for node, array in zip(self._nodes[1:], (corrected, difference), strict=True):
            scalars = node.GetImageData().GetPointData().GetScalars()
            vtk_to_numpy(scalars)[:] = array.ravel()
            scalars.Modified()
            node.GetImageData().Modified()
        self.draw()

    def _clear(self) -> None:
        for node in self._nodes:
            self._app.scene.RemoveNode(node)
        self._nodes = ()

    def _add_node(self, name: str, array: np.ndarray, affine: np.ndarray) -> Any:
        """Built by hand: ``slicer.util.addVolumeFromArray`` expects the application's own scene."""
        image = vtk.vtkImageData()
        image.SetDimensions(array.shape[::-1])
        image.GetPointData().SetScalars(numpy_to_vtk(array.ravel(), deep=True))
        to_ras = vtk.vtkMatrix4x4()
        to_ras.DeepCopy(affine.ravel())
        node = self._app.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        node.SetIJKToRASMatrix(to_ras)
        node.SetAndObserveImageData(image)
        node.CreateDefaultDisplayNodes()
        return node

    # Colours, window and level

    def _difference_table(self) -> Any:
        table = self._app.scene.AddNewNodeByClass("vtkMRMLColorTableNode", "BrainDiff signed difference")
        table.SetTypeToUser()
        table.SetNumberOfColors(display.COLORS)
        for index, color in enumerate(display.difference_colors()):
            table.SetColor(index, str(index), *color, 1.0)
        return table

    def _show_difference_colors(self) -> None:
        node = self._nodes[2].GetDisplayNode()
        node.SetAutoWindowLevel(False)
        node.SetWindowLevel(2 * self.half_window, 0.0)
        node.SetAndObserveColorNodeID(self._table.GetID())

    @property
    def half_window(self) -> float:
        """Where the colours of the difference end, in units of the original."""
        return display.half_window(self._original) if self._original is not None else 1.0

    def _link_window(self) -> None:
        """Original and corrected volume keep the same window and level.

        The nodes stay referenced here: Python takes an observer for garbage that only its own node refers to.
        """
        self._linked = tuple(node.GetDisplayNode() for node in self._nodes[:2])
        self.set_window(*self.window)
        for node in self._linked:
            node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._copy_window)

    def _copy_window(self, source: Any, _event: str) -> None:
        if self._copying:  # the other's own answer, which may come between its window and its level
            return
        self._copying = True
        target = self._linked[0 if source is self._linked[1] else 1]
        target.SetAutoWindowLevel(False)
        target.SetWindowLevel(source.GetWindow(), source.GetLevel())
        self._copying = False
        self._moved()

    @property
    def window(self) -> tuple[float, float]:
        """Width and centre of the grey values that are told apart."""
        node = self._nodes[0].GetDisplayNode()
        return node.GetWindow(), node.GetLevel()

    def set_window(self, window: float, level: float) -> None:
        """Show original and corrected volume so."""
        for node in self._nodes[:2]:
            node.GetDisplayNode().SetAutoWindowLevel(False)
            node.GetDisplayNode().SetWindowLevel(max(window, 1e-6), level)

    @property
    def grey_range(self) -> tuple[float, float]:
        """Lowest and highest value of the original."""
        if self._original is None:
            return 0.0, 1.0
        return float(self._original.min()), float(self._original.max())

    # Where the views are

    def set_plane(self, plane: str) -> None:
        """Turn all views to one of ``display.PLANES``, fitted and at the middle slice."""
        self._plane = plane
        with self._quiet():
            for view in self.views:
                view.set_orientation(plane)
                view.fit_view_to_content()
        self.set_offset(self.offset)

    @property
    def offset(self) -> float:
        """Of the slice that is seen: mm along the normal of the views."""
        return self.views[0].get_slice_value()

    def set_offset(self, offset: float) -> None:
        """Scroll all views."""
        with self._quiet():
            for view in self.views:
                view.set_slice_value(offset)
        self._on_moved()

    @property
    def offsets(self) -> tuple[float, float, float]:
        """Lowest and highest offset, and the step between slices."""
        return *self.views[0].get_slice_range(), self.views[0].get_slice_step()

    def step(self, count: int) -> None:
        """Scroll by slices."""
        low, high, step = self.offsets
        self.set_offset(min(max(self.offset + count * step, low), high))

    def zoom(self, steps: int) -> None:
        """Enlarge (positive) or shrink."""
        with self._quiet():
            for view in self.views:
                view.zoom(ZOOM_STEP if steps > 0 else -ZOOM_STEP)

    def pan(self, right: int, up: int) -> None:
        """Move what is seen by tenths of the field of view."""
        for view in self.views:
            node = view.get_view_node()
            width, height, _ = node.GetFieldOfView()
            x, y, z = node.GetXYZOrigin()
            node.SetXYZOrigin(x - right * PAN_STEP * width, y - up * PAN_STEP * height, z)

    @property
    def letters(self) -> dict[str, str]:
        """The patient's directions at the sides of the views."""
        matrix = self.views[0].get_view_node().GetSliceToRAS()
        sides = {}
        for column, (far, near) in enumerate((("right", "left"), ("top", "bottom"))):
            direction = [matrix.GetElement(row, column) for row in range(3)]
            axis = int(np.argmax(np.abs(direction)))
            sides[far], sides[near] = LETTERS[axis] if direction[axis] > 0 else LETTERS[axis][::-1]
        return sides

    def worst_offset(self, part: np.ndarray | None = None) -> float | None:
        """Where along the normal of the views most was changed, in mm; None where nothing was.

        part  (I, J, K) of the change; None: all of it
        """
        values = self._change if part is None else part.T
        if values is None:
            return None
        to_ras = vtk.vtkMatrix4x4()
        self._nodes[0].GetIJKToRASMatrix(to_ras)
        affine = np.array([[to_ras.GetElement(row, column) for column in range(4)] for row in range(4)])
        normal = np.array([self.views[0].get_view_node().GetSliceToRAS().GetElement(row, 2) for row in range(3)])
        offsets, sums = display.changed_slices(values, float(normal @ affine[:3, 3]), normal @ affine[:3, :3])
        worst = offsets[sums == sums.max()]
        return float(worst[np.abs(worst - self.offset).argmin()]) if sums.max() > 0 else None


def _no_widgets(*_: object) -> None:
    """The page has its own controls."""
