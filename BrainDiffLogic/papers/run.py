"""A reproduction: its folder, and its stages in their order, each skipped when done: a stopped run goes on."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from BrainDiffLogic.data.bids import BidsScan, find_scans, pairs, without_bad_stills
from BrainDiffLogic.data.split import DEFAULT_SHARES, SPLITS, Manifest, assert_disjoint, cohort_manifest, read_manifest
from BrainDiffLogic.errors import InputError
from BrainDiffLogic.files import SHORT, digest, file_digest
from BrainDiffLogic.images.outputs import make_folder, write_json
from BrainDiffLogic.inference import choose_device
from BrainDiffLogic.progress import Progress, silent
from BrainDiffLogic.training.configuration import CorrectorConfiguration
from BrainDiffLogic.training.corrector import export_pair_corrector, train_on_pairs
from BrainDiffLogic.training.fit import Hardware
from BrainDiffLogic.training.slice_store import PairRun, SliceStore


@dataclass(frozen=True)
class Uses:
    """What a recipe takes from a cohort.

    groups    of scans, "clean" or "motion"; scans of others are left out
    training  splits whose clean scans correctors learn from
    told      by split, what the recipe does with it, for the person
    """

    groups: tuple[str, ...]
    training: tuple[str, ...]
    told: Mapping[str, str]

    def needs(self, held_out: bool) -> list[tuple[tuple[str, ...], str, int]]:
        """(splits, group, least number of subjects); held_out: correctors hold out a subject to validate on."""
        prior = [(("prior",), group, 1) for group in self.groups if "prior" not in self.training]
        return [*prior, (self.training, "clean", 2 if held_out else 1), (("test",), "clean", 1)]


HINTS = {"clean": "acq-standard or a score of 1", "motion": "acq-headmotionN or a score of 2 or 3"}
"""What makes a scan one of a group."""


@dataclass(frozen=True)
class Cohort:
    """The scans that serve, the (still, motion) pairs among them, and what was left out: reason -> names."""

    scans: list[BidsScan]
    pairs: list[tuple[BidsScan, BidsScan]]
    excluded: Mapping[str, list[str]]

    @property
    def subjects(self) -> list[str]:
        """Sorted, each once."""
        return sorted({scan.subject for scan in self.scans})

    @property
    def digest(self) -> str:
        """A short name for exactly these scans, wherever they lie."""
        return digest([[scan.name, file_digest(scan.path), scan.group] for scan in self.scans])[:SHORT]

    def of(self, subjects: Iterable[str], group: str) -> list[BidsScan]:
        """The scans of these subjects in a group, "clean" or "motion"."""
        chosen = set(subjects)
        return [scan for scan in self.scans if scan.subject in chosen and scan.group == group]


def find_cohort(data: Path, worst_still: int, groups: Sequence[str] = tuple(HINTS)) -> Cohort:
    """The cohort in the BIDS folder ``data``: its scans of the ``groups``.

    worst_still  still scans with a worse expert score are left out
    Raises InputError where there is no scan of a group.
    """
    everything = find_scans(data, allow_missing=True)
    named = [scan for scan in everything if scan.group]
    good = without_bad_stills(named, worst_still)
    excluded = {
        "neither clean nor motion by name or score": [s.name for s in everything if not s.group],
        f"still scans with a score worse than {worst_still}": [s.name for s in named if s not in good],
    }
    for group in groups:
        if not any(scan.group == group for scan in good):
            raise InputError(f"{data}: there is no {group} scan; mark them by {HINTS[group]} in derivatives/scores.tsv")
    matched: list[tuple[BidsScan, BidsScan]] = []
    if "motion" in groups:
        matched = pairs(good)
        partners = {scan.name for pair in matched for scan in pair}
        excluded["without a partner (no pair, used elsewhere)"] = [s.name for s in good if s.name not in partners]
    else:
        excluded["with motion (it is simulated here)"] = [s.name for s in good if s.group not in groups]
    chosen = [scan for scan in good if scan.group in groups]
    return Cohort(chosen, matched, {reason: names for reason, names in excluded.items() if names})


def describe(cohort: Cohort, manifest: Manifest, uses: Uses) -> list[str]:
    """Lines for the person: what was found, and what each stage will use."""
    clean, motion = (sum(scan.group == group for scan in cohort.scans) for group in ("clean", "motion"))
    lines = [
        f"found {len(cohort.scans)} scans of {len(cohort.subjects)} subjects: {clean} clean, {motion} with motion,"
        f" {len(cohort.pairs)} pairs"
    ]
    for reason, names in cohort.excluded.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"left out, {reason}: {', '.join(names[:3])}{more}")
    for split in SPLITS:
        members = manifest.splits[split]
        counts = ", ".join(f"{len(cohort.of(members, group))} {group}" for group in uses.groups)
        lines.append(f"{split}: {len(members)} subjects, {counts} scans ({uses.told[split]})")
    return lines


def check_enough(cohort: Cohort, manifest: Manifest, needs: Iterable[tuple[Sequence[str], str, int]]) -> None:
    """Raise InputError where a split lacks what its stages need, before hours are spent on the others.

    needs  (splits that serve together, group of scans, least number of subjects)
    """
    for splits, group, least in needs:
        members = [subject for split in splits for subject in manifest.splits[split]]
        subjects = {scan.subject for scan in cohort.of(members, group)}
        if len(subjects) < least:
            raise InputError(
                f"the split {' + '.join(splits)} has {len(subjects)} subjects with {group} scans, {least} needed;"
                " give more subjects"
            )


def assert_split(stage: str, used: Iterable[str], manifest: Manifest, *splits: str) -> None:
    """Raise AssertionError, naming the subject, where a stage uses one that is not in its splits, or is in two."""
    assert_disjoint(manifest.splits)
    allowed = {subject for split in splits for subject in manifest.splits[split]}
    for subject in sorted(set(used) - allowed):
        raise AssertionError(f"{stage}: subject {subject} is not in {' or '.join(splits)}")


FORMAT = 1
SIZES = ("compact", "paper")
TABLE = "table"
TABLES = tuple(f"{TABLE}.{suffix}" for suffix in ("md", "csv", "json"))
"""What the last stage of every recipe leaves."""
SETTINGS, LOG, MANIFEST = "reproduction.json", "run.json", "manifest"
STAGED = ".braindiff-"
"""How the folders of ``images.outputs.staged_output`` begin."""


@dataclass(frozen=True, kw_only=True)
class RecipeSettings:
    """What the settings of every recipe say.

    shares       of the subjects, see ``data.split``
    worst_still  still scans with a worse expert score are left out
    uses         of the cohort
    """

    shares: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_SHARES))
    worst_still: int = 1
    uses: ClassVar[Uses]

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON holds it."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content


def check_size(size: str) -> None:
    """Raise InputError where a recipe has no such size."""
    if size not in SIZES:
        raise InputError(f"size {size!r} is unknown: use {' or '.join(SIZES)}")


S = TypeVar("S", bound=RecipeSettings)


@dataclass
class Work(Generic[S]):
    """A reproduction under way: ``data``, the BIDS folder, becomes what lies in ``out``.

    device    "auto", "cpu", "cuda" or "mps"; jobs: processes that simulate and register
    progress  called with (share of a piece of work done, its name)
    """

    data: Path
    out: Path
    settings: S
    device: str = "auto"
    jobs: int = 1
    progress: Progress = silent

    @cached_property
    def cohort(self) -> Cohort:
        """What the BIDS folder holds."""
        return find_cohort(self.data, self.settings.worst_still, self.settings.uses.groups)

    @property
    def manifest(self) -> Manifest:
        """The split, as it was written; read again by each stage that asks."""
        return read_manifest(self.out / "manifest.json")

    @property
    def store(self) -> SliceStore:
        """The slices of the cohort."""
        return SliceStore(self.out / "slices")

    @property
    def hardware(self) -> Hardware:
        """What phases 1 and 2 train on."""
        return Hardware(choose_device(self.device).type)

    def weights(self, name: str) -> Path:
        """The trained weights of a stage."""
        return self.out / f"{name}.safetensors"

    def open(self) -> None:
        """Make the folder and note the settings, or check that it was begun with these.

        Raises InputError where it was begun with others, or cannot be written.
        """
        settings = self.settings.as_dict()
        file = self.out / SETTINGS
        if file.exists():
            before = _read(file)
            changed = [key for key, value in settings.items() if before["settings"].get(key) != value]
            if changed:
                raise InputError(f"{self.out}: was begun with another {changed[0]}; give that again, or another --out")
            if before["scans"] != self.cohort.digest:
                raise InputError(f"{self.out}: was begun with other scans than {self.data} holds; give another --out")
            return
        make_folder(self.out)
        if any(not path.name.startswith(STAGED) for path in self.out.iterdir()):
            raise InputError(f"{self.out}: holds something else; give an empty folder")
        write_json(file, {"format": FORMAT, "data": str(self.data), "scans": self.cohort.digest, "settings": settings})

    def finished(self, stage: str) -> str | None:
        """When a stage ran to its end (ISO 8601, UTC); None when it has not."""
        file = self._file(stage)
        return str(_read(file)["finished"]) if file.is_file() else None

    def note(self, stage: str, seconds: float, facts: dict[str, Any]) -> None:
        """Write a stage into the log: it is done. One file a stage, so that jobs of a cluster do not collide."""
        self._file(stage).parent.mkdir(exist_ok=True)
        finished = datetime.now(UTC).isoformat(timespec="milliseconds")
        write_json(self._file(stage), {"stage": stage, "seconds": round(seconds, 1), "finished": finished, **facts})
        write_json(self.out / LOG, {"format": FORMAT, "device": self.device, "stages": self.log()})

    def log(self) -> list[dict[str, Any]]:
        """What the finished stages noted, in the order they ended."""
        notes = [_read(path) for path in (self.out / "log").glob("*.json")]
        return sorted(notes, key=lambda note: note["finished"])

    def clean(self) -> None:
        """Remove what writing left behind when a process was killed. Not while another process works here."""
        for remains in self.out.glob(f"{STAGED}*"):
            shutil.rmtree(remains, ignore_errors=True)

    def _file(self, stage: str) -> Path:
        return self.out / "log" / f"{stage}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        raise InputError(f"{path}: damaged; delete it, finished work is found again") from None


def train_corrector(
    work: Work[S], name: str, configuration: CorrectorConfiguration, start: PairRun,
    splits: tuple[str, ...] = ("correction",),
) -> dict[str, Any]:  # fmt: skip
    """Train the corrector of the stage ``name`` on pairs of subjects of the ``splits``; returns the facts to note."""
    assert_split(name, start.pairs.subjects, work.manifest, *splits)
    checkpoint = train_on_pairs(configuration, start, work.out / name)
    card = export_pair_corrector(configuration, start, checkpoint, work.weights(name))
    facts = {key: card["training"][key] for key in ("slices", "subjects", "held_out_subjects", "steps")}
    return {**facts, "pairs": len(start.pairs)}


@dataclass(frozen=True)
class RecipeStage(Generic[S]):
    """One stage: what must be done before it, what it leaves in the folder, and the work itself.

    does  what the person is told that it does; without it the first line of the work's docstring
    """

    name: str
    needs: tuple[str, ...]
    leaves: tuple[str, ...]
    work: Callable[[Work[S]], dict[str, Any]]
    does: str = ""


def reproduce(
    stages: Sequence[RecipeStage[S]], work: Work[S], only: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Path:  # fmt: skip
    """Run the stages (``only``: these) that are not done; returns the table, which is there after the last one.

    say  called with lines for the person: what was found, what each stage uses, how long it took
    A run that is stopped, even killed, goes on in the stage where it was. Raises InputError where the data, the
    settings of the folder or an earlier stage are missing, and AssertionError where a subject is in two splits.
    """
    chosen = [stage for stage in stages if not only or stage.name in only]
    cohort = work.cohort  # before anything is written
    _check_needs(work, stages, chosen)
    work.open()
    if not only:
        work.clean()
    manifest = cohort_manifest(work.out / "manifest.json", cohort.subjects, work.settings.shares)
    for line in describe(cohort, manifest, work.settings.uses):
        say(line)
    for stage in chosen:
        if is_done(work, stage):
            say(f"{stage.name}: done before")
            continue
        say(f"{stage.name}: {stage.does or str(stage.work.__doc__).splitlines()[0].rstrip('.')}")
        started = time.monotonic()
        facts = stage.work(work)
        work.note(stage.name, time.monotonic() - started, facts)
        say(f"{stage.name}: {time.monotonic() - started:.0f} s")
    return work.out / f"{TABLE}.md"


def is_done(work: Work[S], stage: RecipeStage[S]) -> bool:
    """Whether a stage is in the log, later than what it needs, and what it left is there."""
    finished = work.finished(stage.name)
    if finished is None or not all((work.out / name).exists() for name in stage.leaves):
        return False
    return all((before := work.finished(need)) is not None and before <= finished for need in stage.needs)


def split_stage(held_out: Callable[[S], bool]) -> RecipeStage[S]:
    """The first stage of every recipe.

    held_out  whether, with these settings, correctors hold out a subject to validate on
    """

    def split(work: Work[S]) -> dict[str, Any]:
        """Three-way split of the subjects."""
        manifest = cohort_manifest(work.out / "manifest.json", work.cohort.subjects, work.settings.shares)
        check_enough(work.cohort, manifest, work.settings.uses.needs(held_out(work.settings)))
        excluded = {reason: len(names) for reason, names in work.cohort.excluded.items()}
        return {"splits": {name: len(members) for name, members in manifest.splits.items()}, "left_out": excluded}

    return RecipeStage(MANIFEST, (), ("manifest.json",), split)


def _check_needs(work: Work[S], stages: Sequence[RecipeStage[S]], chosen: Sequence[RecipeStage[S]]) -> None:
    """Refuse a stage whose inputs neither are there nor will be made."""
    by_name = {stage.name: stage for stage in stages}
    for stage in chosen:
        if is_done(work, stage):
            continue
        for need in stage.needs:
            if by_name[need] not in chosen and not is_done(work, by_name[need]):
                raise InputError(f"stage {stage.name} needs {need}, which is not done in {work.out}; run it first")
