"""The quality numbers of a report as a table that can be read without a handbook."""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _


class QualityTable:
    """Fills a table node: Metric | Before | After (strength 1) | What it means."""

    @staticmethod
    def fill(table: slicer.vtkMRMLTableNode, quality: dict[str, Any]) -> None:
        """Replace what ``table`` holds by the numbers of a report.

        ``quality`` is the report's entry: {"before": {...}, "after": {...}}, each the numbers of an assessment by
        name and their ``reasons`` where one is None. A number that is missing reads ``-``, and the last column
        says why.
        """
        from BrainDiffLogic.display import QUALITY_TITLES, quality_rows

        rows = [
            (_(row.metric.name), row.before, row.after, " ".join(QualityTable._meaning(row)))
            for row in quality_rows(quality)
        ]
        titles = [_(title) for title in QUALITY_TITLES]
        with slicer.util.NodeModify(table):
            table.SetLocked(False)
            table.RemoveAllColumns()
            for title, cells in zip(titles, zip(*rows, strict=True), strict=True):
                table.AddColumn(QualityTable._column(title, cells))
            table.SetUseColumnTitleAsColumnHeader(True)
            table.SetLocked(True)

    @staticmethod
    def _meaning(row: Any) -> list[str]:
        direction = _("Higher is better.") if row.metric.higher else _("Lower is better.")
        reasons = [_("Not measured: {reason}.").format(reason=reason) for reason in row.reasons]
        return [_(row.metric.meaning), direction, *reasons]

    @staticmethod
    def _column(title: str, cells: tuple[str, ...]) -> vtk.vtkStringArray:
        column = vtk.vtkStringArray()
        column.SetName(title)
        for cell in cells:
            column.InsertNextValue(cell)
        return column
