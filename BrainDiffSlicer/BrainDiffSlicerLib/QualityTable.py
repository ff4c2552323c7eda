"""The quality numbers of a report as a table that can be read without a handbook."""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

MISSING = "-"


class QualityTable:
    """Fills a table node: Metric | Before | After (strength 1) | What it means."""

    @staticmethod
    def metrics() -> list[Any]:
        """All that is shown, the most telling first. Numbers compare one head with itself, not two scanners."""
        from BrainDiffLogic.display import METRICS

        return [metric._replace(name=_(metric.name), meaning=_(metric.meaning)) for metric in METRICS]

    @staticmethod
    def fill(table: slicer.vtkMRMLTableNode, quality: dict[str, Any]) -> None:
        """Replace what ``table`` holds by the numbers of a report.

        ``quality`` is the report's entry: {"before": {...}, "after": {...}}, each the numbers of an assessment by
        name and their ``reasons`` where one is None. A number that is missing reads ``-``, and the last column
        says why.
        """
        from BrainDiffLogic.display import QUALITY_TITLES

        before, after = (quality.get(when) or {} for when in ("before", "after"))
        rows = [
            (
                metric.name,
                QualityTable._number(before.get(metric.key)),
                QualityTable._number(after.get(metric.key)),
                " ".join(
                    (metric.meaning, QualityTable._direction(metric), *QualityTable._reasons(metric.key, before, after))
                ),
            )
            for metric in QualityTable.metrics()
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
    def _direction(metric: Any) -> str:
        return _("Higher is better.") if metric.higher else _("Lower is better.")

    @staticmethod
    def _column(title: str, cells: tuple[str, ...]) -> vtk.vtkStringArray:
        column = vtk.vtkStringArray()
        column.SetName(title)
        for cell in cells:
            column.InsertNextValue(cell)
        return column

    @staticmethod
    def _number(value: float | None) -> str:
        return MISSING if value is None else f"{value:.4g}"

    @staticmethod
    def _reasons(key: str, *assessments: dict[str, Any]) -> list[str]:
        found = [(assessment.get("reasons") or {}).get(key) for assessment in assessments]
        return [_("Not measured: {reason}.").format(reason=reason) for reason in dict.fromkeys(found) if reason]
