"""The results of a reader study as one page that needs nothing else."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path

from BrainDiffSlicerLib.ReaderAgreement import Estimate, ReaderAgreement

PAGE = "reader-study.html"
NAMES = {
    "artifact": "Artifact (5: none)",
    "sharpness": "Sharpness",
    "lesions": "Lesion visibility",
    "preference": "Preference",
}
STYLE = (
    "body{font:15px/1.45 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:.6em 0 1.6em}th,td{padding:.3em .8em;border-bottom:1px solid #ccc;"
    "text-align:left}td.n{text-align:right;font-variant-numeric:tabular-nums}h2{margin-top:1.6em}p.note{color:#555}"
)
WIDTH = 260


class ReaderStudyPage:
    """Writes the page beside the list of pairs.

    Usage::

      path = ReaderStudyPage(ReaderAgreement(folder)).write(folder)
    """

    def __init__(self, agreement: ReaderAgreement) -> None:
        self._agreement = agreement

    def write(self, folder: Path) -> Path:
        """Write or replace the page; returns its path."""
        path = Path(folder) / PAGE
        path.write_text(self.html(), encoding="utf-8")
        return path

    def html(self) -> str:
        """The page."""
        readers = self._agreement.readers
        pairs = {name for reader in readers for name in self._agreement.preference[reader]}
        body = (
            f"<p>{len(readers)} reader{'s' * (len(readers) > 1)} ({escape(', '.join(readers))}), {len(pairs)} pairs,"
            " each shown without names, in an order and on sides of the reader's own. Scores: 1 worst, 5 best.</p>"
            f"{self._preferences()}{self._gains()}{self._kappas()}"
        )
        title = "Reader study: original against corrected"
        return (
            f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
            f"</head><body><h1>{title}</h1>{body}</body></html>"
        )

    def _preferences(self) -> str:
        rows = []
        for reader in self._agreement.readers:
            better, same, worse, share = self._agreement.preferred(reader)
            rows.append([reader, better, same, worse, _interval(share, "{:.0%}"), _bar(share)])
        head = ["Reader", "Corrected better", "The same", "Original better", "Corrected among those with a winner", ""]
        note = "Wilson's 95 % interval; the line in the middle is one half: no preference."
        return f"<h2>Preference</h2>{_table(head, rows)}<p class='note'>{note}</p>"

    def _gains(self) -> str:
        rows = [
            [reader, NAMES[quality], f"{before:.2f}", f"{after:.2f}", _interval(gain, "{:+.2f}")]
            for reader in self._agreement.readers
            for quality, (before, after, gain) in self._agreement.gains(reader).items()
            if not math.isnan(gain.value)
        ]
        note = "Mean over the pairs; 95 % interval of the gain by bootstrap over pairs."
        head = ["Reader", "Score", "Original", "Corrected", "Gain"]
        return f"<h2>Scores</h2>{_table(head, rows)}<p class='note'>{note}</p>"

    def _kappas(self) -> str:
        found = self._agreement.kappas()
        if not found:
            return "<h2>Agreement</h2><p>Agreement needs a second reader.</p>"
        rows = [[f"{a} and {b}", NAMES[what], _interval(kappa, "{:.2f}")] for a, b, what, kappa in found]
        note = "Cohen's kappa with quadratic weights: 1 full agreement, 0 that of chance; 95 % by bootstrap over pairs."
        return f"<h2>Agreement</h2>{_table(['Readers', 'Score', 'Weighted kappa'], rows)}<p class='note'>{note}</p>"


def _interval(estimate: Estimate, form: str) -> str:
    if math.isnan(estimate.value):
        return "cannot be told"
    return f"{form.format(estimate.value)} ({form.format(estimate.low)} to {form.format(estimate.high)})"


class _Picture(str):
    """A cell that is no text, but markup of this page's own."""


def _bar(share: Estimate) -> str:
    if math.isnan(share.value):
        return ""
    place, low, high = (round(WIDTH * value, 1) for value in share)
    half = WIDTH / 2
    return _Picture(
        f'<svg width="{WIDTH}" height="18" role="img" aria-label="{share.value:.0%}">'
        f'<rect width="{WIDTH}" height="18" fill="#eee"/><line x1="{half}" x2="{half}" y2="18" stroke="#888"/>'
        f'<line x1="{low}" x2="{high}" y1="9" y2="9" stroke="#2a6db0" stroke-width="3"/>'
        f'<circle cx="{place}" cy="9" r="5" fill="#2a6db0"/></svg>'
    )


def _table(head: list[str], rows: list[list[object]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _cell(cell: object) -> str:
    if isinstance(cell, _Picture):
        return f"<td>{cell}</td>"
    text = str(cell)
    kind = " class='n'" if text[:1].isdigit() or text[:1] in "+-" else ""
    return f"<td{kind}>{escape(text)}</td>"
