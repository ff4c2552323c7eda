"""A model's card as text that a user reads before trusting the model."""

from __future__ import annotations

from html import escape
from typing import Any

from slicer.i18n import tr as _

NUMBERS = (
    ("volumes", "d", "Volumes"),
    ("psnr", ".1f", "PSNR"),
    ("ssim", ".3f", "SSIM"),
    ("mre", ".3f", "MRE"),
    ("worse_than_input", ".0%", "Worse than input"),
)
"""The columns of the table: key in the card, format, title."""
STYLE = "<style>h4, p {margin-top: 2px; margin-bottom: 3px}</style>"
"""Close lines, because the box of the card is small."""


class ModelCard:
    """What a model was trained on, its domain, its numbers beside those of doing nothing, and its limits.

    Usage::

      browser.html = ModelCard(checkpoints.read_card(path)).html()
    """

    def __init__(self, card: dict[str, Any]) -> None:
        """Keep a card as ``BrainDiffLogic.models.checkpoints.read_card`` returns it."""
        self._card = card

    def line(self) -> str:
        """What a user must know in one line: version, training, and the error beside doing nothing."""
        training = self._card.get("training")
        subjects = training.get("subjects") if isinstance(training, dict) else None
        rows = [row for row in self._card["metrics"] if isinstance(row, dict)]
        errors = [self._error(rows, nothing) for nothing in (True, False)]
        parts = []
        if None not in errors:
            parts.append(_("Error {before} to {after} above 1 mm").format(before=errors[0], after=errors[1]))
        if subjects is not None:
            parts.append(_("{count} subjects").format(count=subjects))
        return ", ".join([*parts, _("v{version}").format(version=self._card["version"])])

    @staticmethod
    def _error(rows: list[dict[str, Any]], nothing: bool) -> str | None:
        above = [row for row in rows if row.get("severity") == "all above 1 mm"]
        found = [row.get("mre") for row in above if (row.get("method") == "do nothing") == nothing]
        return f"{found[0]:.3f}" if found and isinstance(found[0], int | float) else None

    def html(self) -> str:
        """The card as rich text; what the card does not hold is left out."""
        title = escape(str(self._card.get("title") or self._card["name"]))
        lines = [self._trainedOn(), self._domain(), self._limits(), self._safety(), self._evidence()]
        text = "".join(f"<p><b>{escape(head)}</b> {escape(body)}</p>" for head, body in lines if body)
        return f"{STYLE}<h4>{title} {escape(str(self._card['version']))}</h4>{text}{self._table()}"

    def _trainedOn(self) -> tuple[str, str]:
        training = self._card.get("training")
        training = training if isinstance(training, dict) else {}
        averaged = self._card.get("averaged") if isinstance(self._card.get("averaged"), list) else []
        facts = [
            _("{count} subjects").format(count=training["subjects"]) if "subjects" in training else "",
            self._pairs(training),
            _("{count} steps").format(count=self._steps(training)) if "steps" in training else "",
            _("mean of the weights of {count} models").format(count=len(averaged)) if averaged else "",
        ]
        motion = training.get("motion")
        severity = motion.get("severity_mm") if isinstance(motion, dict) else None
        if isinstance(severity, list) and len(severity) == 2:
            facts.append(_("simulated motion of {low} to {high} mm").format(low=severity[0], high=severity[1]))
        return _("Trained on:"), ", ".join(fact for fact in facts if fact)

    @staticmethod
    def _pairs(training: dict[str, Any]) -> str:
        """Of the last run alone: how many of them the runs before it had seen, the card does not say."""
        if "pairs" not in training:
            return ""
        pairs = _("{count} image pairs").format(count=training["pairs"])
        return _("{pairs} in the last of several runs").format(pairs=pairs) if "initial" in training else pairs

    @staticmethod
    def _steps(training: dict[str, Any]) -> int:
        """The steps of a run and of the runs before it, whose weights it started from."""
        initial = training.get("initial")
        before = initial.get("training") if isinstance(initial, dict) else None
        return int(training.get("steps", 0)) + (ModelCard._steps(before) if isinstance(before, dict) else 0)

    def _domain(self) -> tuple[str, str]:
        domain = self._card["input"]
        low, high = domain["spacing_mm"]
        facts = [str(domain[key]) for key in ("anatomy", "contrast") if domain.get(key)]
        facts.append(_("voxels of {low} to {high} mm").format(low=low, high=high))
        return _("Made for:"), ", ".join(facts)

    def _limits(self) -> tuple[str, str]:
        return _("Limits:"), str(self._card.get("limits") or "")

    def _safety(self) -> tuple[str, str]:
        safety = self._card.get("safety")
        if not isinstance(safety, dict) or not {"heads", "passed", "of", "failed"} <= safety.keys():
            return "", ""
        heads = len(safety["heads"])
        counts = _("{passed} of {of} on {heads} heads.").format(passed=safety["passed"], of=safety["of"], heads=heads)
        failed = "; ".join(str(case) for case in safety["failed"])
        return _("Do-no-harm checks passed:"), f"{counts} {_('Not passed')}: {failed}" if failed else counts

    def _evidence(self) -> tuple[str, str]:
        statements = self._card.get("evidence")
        known = [str(statement) for statement in statements] if isinstance(statements, list) else []
        return _("Published on such methods, not on this model:"), " ".join(known)

    def _table(self) -> str:
        rows = [row for row in self._card["metrics"] if isinstance(row, dict)]
        if not rows:
            return ""
        others = [row for row in self._card.get("independent_metrics", []) if isinstance(row, dict)]
        rows += [{**row, "severity": _("{which}, other simulator").format(which=row["severity"])} for row in others]
        titles = [_("Motion (mm)"), _("Method"), *(_(title) for _key, _format, title in NUMBERS)]
        head = "".join(f"<th align='left'>{escape(title)}</th>" for title in titles)
        body = "".join(f"<tr>{self._cells(row)}</tr>" for row in rows)
        convention = escape(str(self._card.get("metrics_convention") or ""))
        caption = _("Measured on heads that no network was trained on")
        return f"<p><b>{escape(caption)}</b></p><table cellpadding='2'><tr>{head}</tr>{body}</table><p>{convention}</p>"

    def _cells(self, row: dict[str, Any]) -> str:
        words = [str(row.get(key, "")) for key in ("severity", "method")]
        numbers = [self._number(row.get(key), form) for key, form, _title in NUMBERS]
        return "".join(f"<td>{escape(cell)}</td>" for cell in words + numbers)

    @staticmethod
    def _number(value: Any, form: str) -> str:
        if not isinstance(value, int | float):
            return "-"
        return format(int(value) if form == "d" else value, form)
