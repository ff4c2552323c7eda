"""Pictures of widgets and of slice views, made without a display."""

from __future__ import annotations

from pathlib import Path

import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from Harness.pythonqt import application, qt

CAPTION = 22
GAP = 2


def grab(widget, path: Path) -> None:
    """Saves the widget as it looks now, as PNG."""
    application.processEvents()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    assert widget.grab().save(str(path)), f"{path} was not written"


def slice_view_pixels(name: str):
    """What the slice view shows, as uint8 array (rows from the top, columns, RGB), from Slicer's slice logic."""
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
    window.Render()
    reader = vtk.vtkWindowToImageFilter()
    reader.SetInput(window)
    reader.ReadFrontBufferOff()
    reader.Update()
    image = reader.GetOutput()
    columns, rows, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)[::-1, :, :3].copy()


def render_slice_views(names: list[str] | tuple[str, ...], path: Path) -> None:
    """Saves the named slice views side by side, each under a bar of its colour with its label, as PNG."""
    panes = [slice_view_pixels(name) for name in names]
    width = sum(pane.shape[1] for pane in panes) + GAP * (len(panes) - 1)
    picture = qt.QImage(width, max(pane.shape[0] for pane in panes) + CAPTION, qt.QImage.Format_RGB888)
    picture.fill(qt.QColor("black"))
    painter, left = qt.QPainter(picture), 0
    for name, pane in zip(names, panes, strict=True):
        _draw_caption(painter, slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode(), left, pane.shape[1])
        rows, columns, _ = pane.shape
        image = qt.QImage(pane.tobytes(), columns, rows, 3 * columns, qt.QImage.Format_RGB888)
        painter.drawImage(left, CAPTION, image)
        left += columns + GAP
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
