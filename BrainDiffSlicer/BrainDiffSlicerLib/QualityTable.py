"""The quality numbers of a report as a table that can be read without a handbook."""

from __future__ import annotations

from typing import Any, NamedTuple

import slicer
import vtk
from slicer.i18n import tr as _

MISSING = "-"


class Metric(NamedTuple):
    """A number of ``BrainDiffLogic.metrics.quality.assess``: its key there, its short name, what it means."""

    key: str
    name: str
    meaning: str
    higher: bool
    """Whether more is better."""


class QualityTable:
    """Fills a table node: Metric | Before | After (strength 1) | What it means."""

    @staticmethod
    def metrics() -> list[Metric]:
        """All that is shown, the most telling first. Numbers compare one head with itself, not two scanners."""
        return [
            Metric("tenengrad", _("Sharpness (Tenengrad)"), _("Energy of the edges; noise raises it too."), True),
            Metric("aes", _("Edge strength (AES)"), _("Average steepness of the edges."), True),
            Metric("gradient_entropy", _("Gradient entropy"), _("Scatter of edges: ghosts raise it."), False),
            Metric("efc", _("Ghosting (EFC)"), _("Entropy of the whole image: ghosts raise it."), False),
            Metric("fber", _("Head to air energy (FBER)"), _("Signal in the head over that in the air."), True),
            Metric("cjv", _("Gray-white variation (CJV)"), _("Spread within both tissues over their gap."), False),
            Metric("cnr", _("Gray-white contrast (CNR)"), _("Gap between both tissues over the noise."), True),
            Metric("snr_total", _("SNR, mean"), _("Signal to noise, mean of the three tissues."), True),
            Metric("snr_wm", _("SNR, white matter"), _("Signal to noise in white matter."), True),
            Metric("snr_gm", _("SNR, gray matter"), _("Signal to noise in gray matter."), True),
            Metric("snr_csf", _("SNR, fluid"), _("Signal to noise in cerebrospinal fluid."), True),
        ]

    @staticmethod
    def fill(table: slicer.vtkMRMLTableNode, quality: dict[str, Any]) -> None:
        """Replace what ``table`` holds by the numbers of a report.

        ``quality`` is the report's entry: {"before": {...}, "after": {...}}, each the numbers of an assessment by
        name and their ``reasons`` where one is None. A number that is missing reads ``-``, and the last column
        says why.
        """
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
        titles = (_("Metric"), _("Before"), _("After (strength 1)"), _("What it means"))
        with slicer.util.NodeModify(table):
            table.SetLocked(False)
            table.RemoveAllColumns()
            for title, cells in zip(titles, zip(*rows, strict=True), strict=True):
                table.AddColumn(QualityTable._column(title, cells))
            table.SetUseColumnTitleAsColumnHeader(True)
            table.SetLocked(True)

    @staticmethod
    def _direction(metric: Metric) -> str:
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
