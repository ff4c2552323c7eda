"""Put what was measured of the shipped models onto their cards, and the tables beside them.

    python Testing/Benchmarks/cards.py --validation runs/validation/evaluation --independent runs/torchio/evaluation \\
        --safety runs/safety

VALIDATION and INDEPENDENT are folders of ``braindiff evaluate``, the first as validation.py makes it, the second of
motion by another simulator (independent_pairs.py); SAFETY is one of ``braindiff evaluate --suite safety``. Writes the
cards' metrics, independent_metrics and safety, and in Resources/Checkpoints validation.md (a row for each severity and
method), evaluation.md, independent.md and safety.md, which are the commands' own reports.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from BrainDiffLogic.errors import InputError
from BrainDiffLogic.evaluation.methods import NOTHING, ModelMethod, made_by
from BrainDiffLogic.evaluation.report import MARKDOWN, TABLES
from BrainDiffLogic.evaluation.run import CASES
from BrainDiffLogic.evaluation.safety_suite import FOLDER as SUITE
from BrainDiffLogic.evaluation.safety_suite import REPORT
from BrainDiffLogic.evaluation.statistics import SEVERITY, SEVERITY_GROUPS
from BrainDiffLogic.metrics.measures import EVALUATION_CONVENTION
from BrainDiffLogic.models.checkpoints import PHYSICS, SUFFIX, read_card, shipped_folder

NAMES = {"below 1": "all below 1 mm", "1-4": "all of 1 to 4 mm", "above 1": "all above 1 mm"}
"""As cards and README call the groups of several strata."""
NUMBERS = {"psnr": 2, "ssim": 4, "mre": 4, "tenengrad_ratio": 3, "vif": 3, "hfen": 3}
"""Digits."""
TITLES = ("PSNR (dB)", "SSIM", "MRE", "Tenengrad ratio", "VIF", "HFEN")
INDEPENDENT = "independent.md"


def rows_of(evaluation: Path, by: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each stratum (of all pairs, or by severity) and method of a folder of ``braindiff evaluate``."""
    with (evaluation / TABLES).open(newline="", encoding="utf-8") as stream:
        found = [row for row in csv.DictReader(stream) if row["by"] in by and row["psnr"]]
    order = ["all", *SEVERITY_GROUPS]
    return [
        {
            "severity": NAMES.get(row["stratum"], row["stratum"]), "method": row["method"],
            "volumes": int(row["volumes"]), **{name: round(float(row[name]), NUMBERS[name]) for name in NUMBERS},
            "worse_than_input": round(float(row["worse_volumes"]), 3) if row["worse_volumes"] else None,
        }
        for row in sorted(found, key=lambda row: order.index(row["stratum"]))
    ]  # fmt: skip


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table, the convention under it."""
    head = ["severity (mm)", "method", "volumes", *TITLES, "worse than input"]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for row in rows:
        worse = row["worse_than_input"]
        numbers = [f"{row[name]:.{digits}f}" for name, digits in NUMBERS.items()]
        share = "-" if worse is None else f"{100 * worse:.0f} %"
        lines.append([row["severity"], row["method"], str(row["volumes"]), *numbers, share])
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", f"Convention: {EVALUATION_CONVENTION}."])


def safety_of(found: dict[str, Any], method: str) -> dict[str, Any]:
    """For a card, from safety.json: the heads, how many cases the method passed on all, and those that it did not."""
    mine = [entry for entry in found["rows"] if entry["method"] == method]
    failed: dict[str, list[str]] = {}
    for entry in mine:
        if not entry["passed"]:
            asked = f"{entry['check']}, {entry['case']} ({entry['relation']} {entry['limit']:g})"
            number = "none" if entry["number"] is None else f"{entry['number']:.3g}"
            failed.setdefault(asked, []).append(f"{number} on {entry['head'].partition('_')[0]}")
    said = [f"{asked}: {', '.join(numbers)}" for asked, numbers in failed.items()]
    heads = list(dict.fromkeys(entry["head"] for entry in mine))
    return {"heads": heads, **found["methods"][method], "failed": said}


def measured_with(folder: Path) -> dict[str, list[Any]]:
    """By method what each number of an evaluation or a suite was made with, see ``methods.made_by``."""
    found: dict[str, list[Any]] = {}
    for file in (folder / CASES).glob("*.json"):
        for method, entry in json.loads(file.read_text(encoding="utf-8"))["methods"].items():
            found.setdefault(method, []).append(entry["made_by"])
    for file in (folder / SUITE).glob("*.json"):
        key = json.loads(file.read_text(encoding="utf-8"))["key"]
        found.setdefault(key["method"], []).append(key["made_by"])
    return found


def check_weights(folders: Sequence[Path], models: Sequence[ModelMethod]) -> None:
    """Raises InputError unless every number of the models was measured with the weights that are there now."""
    for folder in folders:
        found = measured_with(folder)
        for model in models:
            now = made_by({model.name: model})[model.name]
            if model.name not in found or any(parts != now for parts in found[model.name]):
                raise InputError(f"{folder}: {model.name} was not measured with the weights that are here: measure it")


def write_cards(validation: Path, independent: Path, safety: Path | None) -> None:
    """Put each shipped model's rows, beside those of doing nothing, on its card. Raises as ``check_weights``.

    What finds the motion takes minutes a scan: of evaluations its rows are those of what a user gets.
    safety  None: only the cards of what finds the motion, without that suite's numbers
    """
    paths = sorted(shipped_folder().glob("*" + SUFFIX))
    models = [ModelMethod(path, gated=read_card(path)["family"] == PHYSICS) for path in paths]
    if safety is None:
        models = [model for model in models if model.gated]
    check_weights([validation, independent], models)
    severities, others = rows_of(validation, [SEVERITY]), rows_of(independent, ["all", SEVERITY])
    for model in models:
        card = read_card(model.path)
        wanted = (model.name, NOTHING)
        card["metrics"] = [row for row in severities if row["method"] in wanted]
        card["metrics_convention"] = EVALUATION_CONVENTION
        card["independent_metrics"] = [row for row in others if row["method"] in wanted]
        if safety is not None:
            whole = ModelMethod(model.path)  # the suite looks at all that a model finds
            check_weights([safety], [whole])
            checks = json.loads((safety / "safety.json").read_text(encoding="utf-8"))
            card["safety"] = safety_of(checks, whole.name)
        model.path.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Write cards and tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("validation", "independent", "safety"):
        wanted = {"required": name != "safety", "help": "without it only the card of motion" * (name == "safety")}
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", **wanted)
    args = parser.parse_args()
    write_cards(args.validation, args.independent, args.safety)
    folder = shipped_folder()
    (folder / "validation.md").write_text(
        "# Validation\n\nSimulated motion on ds000011-11, ds000011-12 and pycortex-S1; made by validation.py and"
        f" cards.py in Testing/Benchmarks.\n\n{markdown(rows_of(args.validation, [SEVERITY]))}\n",
        encoding="utf-8",
    )
    for source, target in (
        (args.validation / MARKDOWN, "evaluation.md"), (args.independent / MARKDOWN, INDEPENDENT),
        *([(args.safety / REPORT, REPORT)] if args.safety else []),
    ):  # fmt: skip
        shutil.copyfile(source, folder / target)


if __name__ == "__main__":
    main()
