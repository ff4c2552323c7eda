"""Three quality numbers, their direction, and what they are not."""

from __future__ import annotations

from html import escape

import slicer
from slicer.i18n import tr as _

from BrainDiffSlicerLib.QualityTable import MISSING, QualityTable

SHOWN = ("efc", "tenengrad", "cjv")


class QualitySummary:
    """Rich text of a quality table that ``QualityTable`` has filled."""

    @staticmethod
    def html(table: slicer.vtkMRMLTableNode | None) -> str:
        """Three rows and one sentence; empty where there are no numbers."""
        if table is None or table.GetNumberOfColumns() < 3:
            return ""
        lines = []
        for row, metric in enumerate(QualityTable.metrics()):
            if metric.key in SHOWN and row < table.GetNumberOfRows():
                before, after = (table.GetCellText(row, column) for column in (1, 2))
                name = metric.name.split(" (")[0]
                cells = (name, before, "&rarr;", after, QualitySummary._verdict(before, after, metric.higher))
                lines.append("".join(f"<td>{cell if cell == '&rarr;' else escape(cell)}&nbsp;</td>" for cell in cells))
        if not lines:
            return ""
        sentence = _(
            "Numbers of the image alone: they cannot tell whether the anatomy is right. Look at the difference."
        )
        return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table><i>{escape(sentence)}</i>"

    @staticmethod
    def _verdict(before: str, after: str, higher: bool) -> str:
        if MISSING in (before, after):
            return _("not measured")
        if before == after:
            return _("the same")
        return _("better") if (float(after) > float(before)) == higher else _("worse")
