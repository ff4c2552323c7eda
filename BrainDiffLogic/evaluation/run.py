"""Measuring every method on every pair: a job that goes on where it was stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from BrainDiffLogic import __version__
from BrainDiffLogic.errors import InputError, Refused
from BrainDiffLogic.evaluation.methods import NOTHING, Method, build_methods, made_by
from BrainDiffLogic.evaluation.pairs import Pair
from BrainDiffLogic.files import file_digest
from BrainDiffLogic.images import read_volume
from BrainDiffLogic.images.outputs import make_folder, write_json
from BrainDiffLogic.metrics.measures import EVALUATION_CONVENTION, StillReference
from BrainDiffLogic.metrics.quality import finite_or_none
from BrainDiffLogic.pictures import write_strip
from BrainDiffLogic.progress import Progress, run_all, silent
from BrainDiffLogic.volume import Volume

MARKER, CASES, PICTURES = "evaluation.json", "cases", "pictures"
FORMAT = 1
MEASURED, REFUSED, REFERENCE = "measured", "refused", "reference"
"""What became of a method on a pair; the row of a still scan itself is ``REFERENCE``, by this name as a method too."""

Row = dict[str, Any]
"""name, subject, the pair's facts, method, status, note, seconds, and the numbers of ``measures``; None: unknown."""


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured beside the pairs.

    models    names or .safetensors files; None: all networks that are available
    device    where they run
    register  lay the still scan onto the moved one first (real pairs; simulated ones lie on each other)
    views     measure each model with test-time augmentation as well
    gated     measure the default model as a user gets it as well, see ``methods.build_methods``
    """

    models: tuple[str, ...] | None = None
    device: str = "auto"
    register: bool = False
    views: bool = False
    gated: bool = False


def evaluate(
    pairs: Sequence[Pair], out: Path, settings: EvaluationSettings, jobs: int = 1, progress: Progress = silent
) -> list[Row]:
    """Measure what is not yet measured; returns a row for each pair and method, and one for each still scan.

    out   folder: cases/NAME.json with what is done, pictures/NAME/METHOD.png (see ``strips``)
    jobs  processes that work on pairs
    A pair is measured again where a file's content, the version or the convention has changed, with a model also where
    its weights or the kind of device have. A method that refuses a volume gets a row that says so. Raises InputError
    for pairs that cannot be read or do not fit together.
    """
    _methods.cache_clear()  # the weights may have changed since the last call
    methods = _methods(settings)
    prepare_folder(out)
    todo = [pair for pair in pairs if _missing(_Case.read(pair, out, settings), methods)]
    tasks = [partial(_measure_alone, pair, out, settings) for pair in todo]
    run_all(tasks, jobs, progress, "Measuring")
    return [row for pair in pairs for row in _rows(pair, _Case.read(pair, out, settings), methods)]


def prepare_folder(out: Path) -> None:
    """Make the folder of an evaluation. Raises InputError where it holds something else."""
    marker = out / MARKER
    if not marker.exists() and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is neither an empty folder nor an evaluation; name another folder")
    make_folder(out / CASES)
    if not marker.exists():
        write_json(marker, {"format": FORMAT, "convention": EVALUATION_CONVENTION})


@lru_cache(maxsize=1)
def _methods(settings: EvaluationSettings) -> dict[str, Method]:
    """Of each process: the models are loaded once."""
    return build_methods(settings.models, settings.device, settings.views, settings.gated)


def _measure_alone(pair: Pair, out: Path, settings: EvaluationSettings) -> None:
    measure_pair(pair, out, settings, _methods(settings))


def measure_pair(pair: Pair, out: Path, settings: EvaluationSettings, methods: dict[str, Method]) -> None:
    """Measure the methods that are missing on one pair; each is kept as soon as it is done."""
    case = _Case.read(pair, out, settings)
    missing = _missing(case, methods)
    moved = read_volume(pair.moved)
    still = _reference(pair, moved, settings)
    sources = made_by(methods)
    for name in missing:
        if name == REFERENCE:
            entry = {"status": REFERENCE, "numbers": finite_or_none(still.without_reference(still.reference))}
        else:
            entry = _measured(name, methods[name], moved, still, out / PICTURES / pair.name)
        case.entries[name] = {**entry, "made_by": sources.get(name, [])}
        case.write()


def _reference(pair: Pair, moved: Volume, settings: EvaluationSettings) -> StillReference:
    still = read_volume(pair.reference)
    try:
        if not settings.register:
            return StillReference(still)
        from BrainDiffLogic.data.pairing import align_reference

        alignment = align_reference(still, moved)
        return StillReference(alignment.reference, alignment.inside)
    except InputError as error:
        raise InputError(f"pair {pair.name}: {error}") from None


def _measured(name: str, method: Method, moved: Volume, still: StillReference, pictures: Path) -> dict[str, Any]:
    """The entry of a method; what it refuses is an entry too."""
    started = time.perf_counter()
    try:
        image = moved.with_array(method(moved))
    except Refused as error:
        return {"status": REFUSED, "note": str(error)}
    seconds = round(time.perf_counter() - started, 2)
    numbers = still.numbers(image)
    if name != NOTHING:
        pictures.mkdir(parents=True, exist_ok=True)
        write_strip(pictures / f"{name}.png", moved, image, still.reference, int(numbers["worst_slice"]))
    return {"status": MEASURED, "numbers": finite_or_none(numbers), "seconds": seconds}


def _missing(case: _Case, methods: dict[str, Method]) -> list[str]:
    """The methods, and the still scan's own row, that are not measured yet or were made otherwise."""
    entries = case.entries
    sources = {**made_by(methods), REFERENCE: []}
    return [name for name, source in sources.items() if entries.get(name, {}).get("made_by") != source]


@dataclass
class _Case:
    """What is known of a pair: a JSON file that is whole or absent, and empty again when the pair has changed."""

    path: Path
    pair: dict[str, Any]
    entries: dict[str, Any]

    @classmethod
    def read(cls, pair: Pair, out: Path, settings: EvaluationSettings) -> _Case:
        path, facts = out / CASES / f"{pair.name}.json", _identity(pair, settings)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            entries = content["methods"] if content["pair"] == facts else {}
        except (OSError, ValueError, KeyError, TypeError):
            entries = {}
        return cls(path, facts, entries)

    def write(self) -> None:
        write_json(self.path, {"pair": self.pair, "methods": self.entries})


def _identity(pair: Pair, settings: EvaluationSettings) -> dict[str, Any]:
    """What the numbers of a pair depend on beside the method."""
    files = {part: file_digest(path) for part, path in (("moved", pair.moved), ("reference", pair.reference))}
    return {**files, "registered": settings.register, "convention": EVALUATION_CONVENTION, "version": __version__}


def _rows(pair: Pair, case: _Case, methods: dict[str, Method]) -> list[Row]:
    known = {"name": pair.name, "subject": pair.subject, **pair.facts}
    rows = []
    for name in (*methods, REFERENCE):
        entry = case.entries[name]
        about = {"method": name, "status": entry["status"], "note": entry.get("note", "")}
        rows.append({**known, **about, **entry.get("numbers", {}), "seconds": entry.get("seconds")})
    return rows
