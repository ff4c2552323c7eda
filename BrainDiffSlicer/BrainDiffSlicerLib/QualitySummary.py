"""Three quality numbers, their direction, and what they are not."""

from __future__ import annotations

from html import escape

import slicer
from slicer.i18n import tr as _


class QualitySummary:
    """Rich text of a quality table that ``QualityTable`` has filled."""

    @staticmethod
    def html(table: slicer.vtkMRMLTableNode | None) -> str:
        """Three rows and one sentence; empty where there are no numbers."""
        from BrainDiffLogic.display import METRICS, QUALITY_LIMIT, SHORT, verdict

        if table is None or table.GetNumberOfColumns() < 3:
            return ""
        lines = []
        for row, metric in enumerate(METRICS[: table.GetNumberOfRows()]):
            if metric.key in SHORT:
                before, after = (table.GetCellText(row, column) for column in (1, 2))
                name, said = _(metric.name).split(" (")[0], _(verdict(before, after, metric.higher))
                cells = (name, before, "&rarr;", after, said)
                lines.append("".join(f"<td>{cell if cell == '&rarr;' else escape(cell)}&nbsp;</td>" for cell in cells))
        if not lines:
            return ""
        return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table><i>{escape(_(QUALITY_LIMIT))}</i>"
