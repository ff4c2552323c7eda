"""Pictures of widgets and of slice views, made without a display."""

from __future__ import annotations

from pathlib import Path

import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from Harness.pythonqt import application, qt

SCREEN, PANEL_WIDTH = (1366, 768), 430
AROUND = (96, 26)
"""Pixels that Slicer's title, menus, tool bars and the module's help take above its panel, and the status bar below."""
CAPTION = 22
GAP = 2


def grab(widget, path: Path) -> None:
    """Saves the widget as it looks now, as PNG."""
    application.processEvents()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    assert widget.grab().save(str(path)), f"{path} was not written"


def slice_view_pixels(name: str):
    """What the slice view shows, as uint8 array (rows from the top, columns, RGB), from Slicer's slice logic.

    With the color legends that Slicer's own displayable manager draws.
    """
    logic = slicer.app.layoutManager().sliceWidget(name).sliceLogic()
    mapper = vtk.vtkImageMapper()
    mapper.SetColorWindow(255)
    mapper.SetColorLevel(127.5)
    mapper.SetInputConnection(logic.GetImageDataConnection())
    actor = vtk.vtkActor2D()
    actor.SetMapper(mapper)
    renderer = vtk.vtkRenderer()
    renderer.AddViewProp(actor)
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetSize(*logic.GetSliceNode().GetDimensions()[:2])
    window.AddRenderer(renderer)
    interactor = vtk.vtkGenericRenderWindowInteractor()
    interactor.SetRenderWindow(window)
    managers, _manager = _legends(renderer, logic.GetSliceNode())
    window.Render()
    reader = vtk.vtkWindowToImageFilter()
    reader.SetInput(window)
    reader.ReadFrontBufferOff()
    reader.Update()
    image = reader.GetOutput()
    managers.SetMRMLDisplayableNode(None)
    columns, rows, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)[::-1, :, :3].copy()


def _legends(renderer, slice_node):
    """Slicer's manager of color legends, in the renderer of one view; it lives as long as what is returned."""
    manager = slicer.vtkMRMLColorLegendDisplayableManager()
    manager.SetMRMLApplicationLogic(slicer.app.applicationLogic())
    managers = slicer.vtkMRMLDisplayableManagerGroup()
    managers.SetRenderer(renderer)
    managers.AddDisplayableManager(manager)
    managers.SetMRMLDisplayableNode(slice_node)
    for legend in slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode"):
        slicer.mrmlScene.InvokeEvent(slicer.mrmlScene.NodeAddedEvent, legend)  # the manager came later than they
    return managers, manager


def render_window(panel, names: list[str], path: Path) -> None:
    """Saves the panel beside the named slice views as in a Slicer of 1366 x 768 pixels.

    What of the panel a user would have to scroll to is not on the picture.
    """
    width, height = SCREEN[0] - PANEL_WIDTH, SCREEN[1] - AROUND[0] - AROUND[1]
    logics = [slicer.app.layoutManager().sliceWidget(name).sliceLogic() for name in names]
    for logic in logics:
        fit(logic, width // len(names) - GAP, height - CAPTION)
    picture = qt.QImage(*SCREEN, qt.QImage.Format_RGB888)
    picture.fill(qt.QColor("#e8e8e8"))
    area = qt.QScrollArea()
    area.setWidgetResizable(True)
    owner = panel.parentWidget()
    area.setWidget(panel)
    area.resize(PANEL_WIDTH, height)
    area.show()
    application.processEvents()
    painter = qt.QPainter(picture)
    painter.drawPixmap(0, AROUND[0], area.grab())
    painter.drawText(10, 26, "3D Slicer (menus and tool bars)")
    for place, name in enumerate(names):
        _draw_view(painter, name, PANEL_WIDTH + place * (width // len(names)), AROUND[0])
    painter.end()
    panel = area.takeWidget()
    panel.setParent(owner)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    assert picture.save(str(path)), f"{path} was not written"


def fit(logic, columns: int, rows: int) -> None:
    """Gives a view a size and the whole image, at the slice that it shows."""
    offset = logic.GetSliceOffset()
    logic.ResizeSliceNode(columns, rows)
    logic.FitSliceToBackground()
    logic.SetSliceOffset(offset)


def _draw_view(painter, name: str, left: int, top: int) -> None:
    pane = slice_view_pixels(name)
    rows, columns, _ = pane.shape
    painter.save()
    painter.translate(0, top)
    _draw_caption(painter, slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode(), left, columns)
    painter.drawImage(left, CAPTION, qt.QImage(pane.tobytes(), columns, rows, 3 * columns, qt.QImage.Format_RGB888))
    painter.restore()


def render_slice_views(names: list[str] | tuple[str, ...], path: Path) -> None:
    """Saves the named slice views side by side, each under a bar of its colour with its label, as PNG."""
    panes = [slice_view_pixels(name) for name in names]
    width = sum(pane.shape[1] for pane in panes) + GAP * (len(panes) - 1)
    picture = qt.QImage(width, max(pane.shape[0] for pane in panes) + CAPTION, qt.QImage.Format_RGB888)
    picture.fill(qt.QColor("black"))
    painter, left = qt.QPainter(picture), 0
    for name, pane in zip(names, panes, strict=True):
        _draw_view(painter, name, left, 0)
        left += pane.shape[1] + GAP
    painter.end()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    assert picture.save(str(path)), f"{path} was not written"


def _draw_caption(painter, slice_node, left: int, width: int) -> None:
    color = qt.QColor.fromRgbF(*slice_node.GetLayoutColor())
    area = qt.QRect(left, 0, width, CAPTION)
    painter.fillRect(area, color)
    painter.setPen(qt.QColor("black" if color.lightness() > 100 else "white"))
    offset = slicer.app.layoutManager().sliceWidget(slice_node.GetLayoutName()).sliceLogic().GetSliceOffset()
    text = f"{slice_node.GetLayoutLabel()}   {slice_node.GetOrientation()} {offset:.1f} mm"
    painter.drawText(area.adjusted(8, 0, 0, 0), int(qt.Qt.AlignVCenter), text)
